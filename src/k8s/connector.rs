//! The HTTP stack of one configuration.
//!
//! kube's stock stack is not used, for four reasons. A request whose caller gave up must not live on in the kernel:
//! a closed socket goes on sending what is not yet acknowledged, for minutes, and a POST that lands after its time may
//! double an effect; so sockets are closed with a reset, which throws it away. Connections are kept for less than the
//! server's 90 s, because a request that meets the server's close has an unknown end. The TLS handshake has a limit
//! too. And the stock stack logs every 5xx as ERROR.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use kube::{
    Config,
    client::{Body, ClientBuilder, ConfigExt},
};
use tokio::net::TcpStream;
use tower_service::Service;

use super::error::Source;

/// A connection that is idle this long is closed by us. kube-apiserver closes it at 90 s.
const IDLE: Duration = Duration::from_secs(60);
/// Keep-alive: a peer that vanished is noticed after 10 + 3 x 3 s although nothing is sent.
const KEEPALIVE_TIME: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_RETRIES: u32 = 3;

/// Makes clients of one configuration. Each has connections of its own; credentials are read once and shared.
pub(super) type OpenClient = Box<dyn Fn() -> kube::Client + Send + Sync>;

/// Reads certificates and credentials. May run a program for them, so it belongs on a blocking thread.
pub(super) fn prepare(config: &Config, connect_timeout: Duration) -> kube::Result<OpenClient> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    tcp.set_keepalive(Some(KEEPALIVE_TIME));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let connector =
        Limited { inner: config.rustls_https_connector_with_connector(Abrupt(tcp))?, limit: connect_timeout };
    let base = config.base_uri_layer();
    let auth = config.auth_layer()?;
    let extra = config.extra_headers_layer()?;
    let namespace = config.default_namespace.clone();
    Ok(Box::new(move || {
        // Idle connections per host are unlimited: as many as there were creates at once.
        let client: Client<_, Body> = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector.clone());
        let builder = ClientBuilder::new(Boxed(client), namespace.clone()).with_layer(&extra);
        match &auth {
            Some(auth) => builder.with_layer(auth).with_layer(&base).build(),
            None => builder.with_layer(&base).build(),
        }
    }))
}

/// A service whose error kube's layers accept.
#[derive(Clone)]
struct Boxed<S>(S);

impl<S, R> Service<R> for Boxed<S>
where
    S: Service<R>,
    S::Error: Into<Source>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Source;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, Source>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Source>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let answering = self.0.call(request);
        Box::pin(async move { answering.await.map_err(Into::into) })
    }
}

/// TCP that closes with a reset: what is unsent when a call is given up is never sent.
#[derive(Clone)]
struct Abrupt(HttpConnector);

impl Service<Uri> for Abrupt {
    type Response = TokioIo<TcpStream>;
    type Error = Source;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Source>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Source>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            let stream = connecting.await?;
            stream.inner().set_zero_linger()?;
            Ok(stream)
        })
    }
}

/// A limit on TCP and TLS together: a stopped server still completes TCP handshakes.
#[derive(Clone)]
struct Limited<C> {
    inner: C,
    limit: Duration,
}

impl<C> Service<Uri> for Limited<C>
where
    C: Service<Uri, Error = Source>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = Source;
    type Future = Pin<Box<dyn Future<Output = Result<C::Response, Source>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Source>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let limit = self.limit;
        Box::pin(async move {
            tokio::time::timeout(limit, connecting)
                .await
                .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))?
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, Interest},
        net::TcpListener,
    };

    use super::*;

    async fn read_some(listener: &TcpListener) -> TcpStream {
        let (mut server, _) = listener.accept().await.unwrap();
        assert!(server.read(&mut [0; 16]).await.unwrap() > 0);
        server
    }

    #[tokio::test]
    async fn what_is_given_up_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let open = prepare(&Config::new(url.parse().unwrap()), Duration::from_secs(5)).unwrap();
        let client = open();
        let sent = client.send(http::Request::post("/x").body(Body::from(b"{}".to_vec())).unwrap());
        let mut sent = Box::pin(sent);
        let server = tokio::select! {
            server = read_some(&listener) => server,
            outcome = &mut sent => panic!("answered: {outcome:?}"),
        };
        drop(sent);
        // hyper ends its side in order first; the reset comes with the close behind it.
        let reset = server.ready(Interest::ERROR);
        tokio::time::timeout(Duration::from_secs(5), reset).await.expect("a reset").unwrap();
    }
}

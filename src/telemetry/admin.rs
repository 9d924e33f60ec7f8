//! The HTTP server of `METRICS_PORT`: metrics, health and debug state.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener as _;
use tokio_util::sync::CancellationToken;

use super::listener::{BoundedListener, Bounds};
use super::{Health, Metrics};

const PATHS: &str = "\
not found; there is

/metrics        Prometheus metrics
/livez          200 while the process works (?verbose)
/readyz         200 once it has started, also while blocked (?verbose)
/healthz        the same as /livez
/debug/state    what it knows, as JSON (?pretty)
";

/// Why the admin server does not run.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The port cannot be had.
    #[error("METRICS_PORT={port}: cannot listen on this port; choose a free one, or 0 for any")]
    Bind {
        /// What was set.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// It stopped serving.
    #[error("the admin server failed")]
    Serve(#[source] io::Error),
}

/// What the server shows. Cloning shares it.
#[derive(Clone)]
pub struct Shown {
    /// `/metrics`.
    pub metrics: Arc<Metrics>,
    /// `/livez` and `/readyz`.
    pub health: Arc<Health>,
    /// `/debug/state`: called for each request; must not block, and must show no secret.
    pub state: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

/// The server, listening and not yet serving.
#[derive(Debug)]
pub struct Admin {
    listener: BoundedListener,
    address: SocketAddr,
}

impl Admin {
    /// Listens on every address of the machine. Port 0 is any free one.
    ///
    /// # Errors
    /// Where the port cannot be had; the text names port and variable.
    pub async fn bind(port: u16) -> Result<Self, AdminError> {
        Self::bind_within(port, Bounds::default()).await
    }

    async fn bind_within(port: u16, bounds: Bounds) -> Result<Self, AdminError> {
        let say = |source| AdminError::Bind { port, source };
        let listener = BoundedListener::bind(port, bounds).await.map_err(say)?;
        let address = listener.local_addr().map_err(say)?;
        Ok(Self { listener, address })
    }

    /// Where it listens; the port is the real one.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then finishes what is under way. Give it a token that outlives the draining of the role, so
    /// that probes and scrapes are answered to the end.
    ///
    /// # Errors
    /// Where the server ends by itself.
    pub async fn serve(self, shown: Shown, stop: CancellationToken) -> Result<(), AdminError> {
        axum::serve(self.listener, router(shown))
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .map_err(AdminError::Serve)
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .route("/debug/state", get(state))
        .fallback(|| async { (StatusCode::NOT_FOUND, PATHS) })
        .layer(middleware::from_fn(one_request))
        .with_state(shown)
}

/// One request per connection: a connection that is kept would run into the end of its time in the midst of an answer.
async fn one_request(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn metrics(State(shown): State<Shown>) -> Response {
    match shown.metrics.render(crate::clock::now()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "metrics not rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics not rendered, see the log\n").into_response()
        }
    }
}

async fn livez(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    let now = crate::clock::now();
    verdict(shown.health.is_live(now), query, || shown.health.liveness(now))
}

async fn readyz(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    verdict(shown.health.is_ready(), query, || shown.health.readiness())
}

/// A refusal always says why; a success does when asked.
fn verdict(good: bool, query: Option<String>, details: impl FnOnce() -> String) -> Response {
    match (good, wants(query.as_deref(), "verbose")) {
        (true, false) => "ok\n".into_response(),
        (true, true) => format!("{}ok\n", details()).into_response(),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}failed\n", details())).into_response(),
    }
}

async fn state(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Response {
    let state = (shown.state)();
    let text = if wants(query.as_deref(), "pretty") { format!("{state:#}\n") } else { format!("{state}\n") };
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// `?word`, also as `?word=...` and among others.
fn wants(query: Option<&str>, word: &str) -> bool {
    query.is_some_and(|query| query.split('&').any(|part| part.split('=').next().is_some_and(|name| name == word)))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // the tests' tasks end with the test
mod tests {
    use super::super::SensorIdentity;
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::{Duration, Instant};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;

    struct Server {
        port: u16,
        health: Arc<Health>,
        stop: CancellationToken,
        task: JoinHandle<Result<(), AdminError>>,
    }

    async fn start(bounds: Bounds) -> Server {
        let metrics = Arc::new(Metrics::new("").unwrap());
        let identity = SensorIdentity { namespace: "jobs".into(), sensor: "orders".into(), trigger: "create".into() };
        metrics.sensor(identity, []);
        let health = Health::new(["nats", "quota"], Instant::now());
        let admin = Admin::bind_within(0, bounds).await.unwrap();
        let port = admin.address().port();
        assert_ne!(port, 0);
        let stop = CancellationToken::new();
        let shown =
            Shown { metrics, health: Arc::clone(&health), state: Arc::new(|| serde_json::json!({"gate": "blocked"})) };
        let task = tokio::spawn(admin.serve(shown, stop.clone()));
        Server { port, health, stop, task }
    }

    async fn soon<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
    }

    async fn ask(address: (impl Into<std::net::IpAddr>, u16), path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = soon(async {
            let mut stream = TcpStream::connect((address.0.into(), address.1)).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        })
        .await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("connection: close"), "{head}");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    impl Server {
        async fn get(&self, path: &str) -> (u16, String) {
            ask((Ipv4Addr::LOCALHOST, self.port), path).await
        }

        async fn end(self) {
            self.stop.cancel();
            soon(self.task).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn shows_metrics_health_and_state() {
        let server = start(Bounds::default()).await;
        let (status, text) = server.get("/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("sensor_quota_blocked{"));
        assert_eq!(server.get("/livez").await, (200, "ok\n".into()));
        assert_eq!(server.get("/healthz").await.0, 200);
        let (status, text) = server.get("/readyz").await;
        assert_eq!(status, 503);
        assert!(text.contains("[-] nats\n[-] quota\n"), "{text}");
        for condition in ["nats", "quota"] {
            server.health.condition(condition).unwrap().met();
        }
        assert_eq!(server.get("/readyz").await, (200, "ok\n".into()));
        let (status, text) = server.get("/readyz?verbose").await;
        assert_eq!((status, text.contains("[+] quota\n")), (200, true));
        assert_eq!(server.get("/debug/state").await, (200, "{\"gate\":\"blocked\"}\n".into()));
        assert!(server.get("/debug/state?pretty").await.1.contains("\n  \"gate\""));
        let (status, text) = server.get("/").await;
        assert_eq!(status, 404);
        for path in ["/metrics", "/livez", "/readyz", "/healthz", "/debug/state"] {
            assert!(text.contains(path), "{text}");
        }
        server.end().await;
    }

    #[tokio::test]
    async fn answers_on_both_families() {
        let server = start(Bounds::default()).await;
        assert_eq!(server.get("/livez").await.0, 200);
        let v6 = std::net::Ipv6Addr::LOCALHOST;
        if tokio::net::TcpListener::bind((v6, 0)).await.is_ok() {
            assert_eq!(ask((v6, server.port), "/livez").await.0, 200);
        }
        server.end().await;
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_its_variable() {
        let server = start(Bounds::default()).await;
        let error = Admin::bind(server.port).await.unwrap_err();
        assert!(error.to_string().contains(&format!("METRICS_PORT={}", server.port)));
        assert!(std::error::Error::source(&error).is_some());
        server.end().await;
    }

    #[tokio::test]
    async fn clients_that_say_nothing_keep_nobody_out() {
        let server = start(Bounds { connections: 2, lifetime: Duration::from_millis(200) }).await;
        let mut silent = Vec::new();
        for _ in 0..4 {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).await.unwrap();
            stream.write_all(b"GET /livez HT").await.unwrap();
            silent.push(stream);
        }
        assert_eq!(server.get("/livez").await.0, 200);
        for mut stream in silent {
            let mut rest = Vec::new();
            // Closed or reset, with or without a 408: over in any case.
            soon(stream.read_to_end(&mut rest)).await.ok();
            assert!(!rest.starts_with(b"HTTP/1.1 200"));
        }
        server.end().await;
    }

    #[tokio::test]
    async fn stopping_waits_for_no_silent_client() {
        let server = start(Bounds { connections: 8, lifetime: Duration::from_millis(200) }).await;
        let _silent = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).await.unwrap();
        assert_eq!(server.get("/livez").await.0, 200);
        server.end().await;
    }

    #[test]
    fn a_word_in_the_query_is_found() {
        assert!(wants(Some("verbose"), "verbose"));
        assert!(wants(Some("a=b&verbose=1"), "verbose"));
        assert!(!wants(Some("verbosely"), "verbose"));
        assert!(!wants(None, "verbose"));
    }
}

//! The connections of the proxy: one to each API server for each of a client, as if it were not there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};

use super::{Action, Inner, Reply, Set};
use crate::error::{Error, Result};
use crate::tasks;

/// The client's connection ends here and now.
type Broken = std::io::Error;

type Body = UnsyncBoxBody<Bytes, Broken>;

/// Binds before the proxy says where it is.
pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(Error::doing(format!("listen on {address}")))
}

pub(super) async fn accept(inner: Arc<Inner>, listener: TcpListener) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        client.set_nodelay(true).ok();
        // Whatever ends a connection here is a fault, so it ends with a reset.
        client.set_zero_linger().ok();
        let cut = inner.token().clone();
        let inner = Arc::clone(&inner);
        tasks::spawn(async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = serve(&inner, client) => {}
            }
        });
    }
}

async fn serve(inner: &Arc<Inner>, client: TcpStream) {
    let Ok(stream) = inner.acceptor.accept(client).await else {
        return;
    };
    let upstream = Arc::new(Upstream { inner: Arc::clone(inner), senders: Mutex::default() });
    let service = service_fn(move |request| {
        let upstream = Arc::clone(&upstream);
        async move { upstream.answer(request).await }
    });
    // An error is a connection that was broken, mostly by us.
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

struct Upstream {
    inner: Arc<Inner>,
    senders: Mutex<HashMap<SocketAddr, SendRequest<Full<Bytes>>>>,
}

impl Upstream {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
        self.inner.requests.fetch_add(1, Ordering::Relaxed);
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
        let acting = self.inner.rules.acting(&parts.method, &target, &body);
        let _under_way: Vec<UnderWay> = acting.iter().map(UnderWay::begins).collect();
        let mut via = None;
        for set in &acting {
            match &set.action {
                Action::DelayBefore(delay) => tokio::time::sleep(*delay).await,
                Action::HoldBefore => set.until_released().await,
                Action::Cut => return Err(broken("cut")),
                Action::Answer(reply) => return replied(reply),
                Action::Via(address) => {
                    via.get_or_insert(*address);
                }
                Action::Count
                | Action::Keep
                | Action::DelayAfter(_)
                | Action::HoldAfter
                | Action::HoldBody
                | Action::DropReply
                | Action::AnswerAfter(_) => {}
            }
        }
        let upstream = via.unwrap_or(self.inner.upstream);
        let response = self.pass_on(upstream, Request::from_parts(parts, Full::new(body))).await?;
        let mut held: Option<watch::Receiver<bool>> = None;
        for set in &acting {
            match &set.action {
                Action::DelayAfter(delay) => tokio::time::sleep(*delay).await,
                Action::HoldAfter => set.until_released().await,
                Action::HoldBody => held = Some(set.released.subscribe()),
                Action::DropReply => {
                    // All of it: the API server has done its part.
                    response.into_body().collect().await.map_err(broken)?;
                    return Err(broken("reply dropped"));
                }
                Action::AnswerAfter(reply) => {
                    response.into_body().collect().await.map_err(broken)?;
                    return replied(reply);
                }
                Action::Count
                | Action::Keep
                | Action::DelayBefore(_)
                | Action::HoldBefore
                | Action::Via(_)
                | Action::Cut
                | Action::Answer(_) => {}
            }
        }
        Ok(response.map(|body| match held {
            Some(released) => holding(body, released),
            None => body.map_err(broken).boxed_unsync(),
        }))
    }

    /// Sends it over this client's own connection to that API server.
    async fn pass_on(&self, to: SocketAddr, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Broken> {
        let mut senders = self.senders.lock().await;
        senders.retain(|_, sender| !sender.is_closed());
        let sender = match senders.entry(to) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(self.connect(to).await?),
        };
        sender.ready().await.map_err(broken)?;
        sender.send_request(request).await.map_err(broken)
    }

    async fn connect(&self, to: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Broken> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let stream = self.inner.connector.connect(stream).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends when the sender is dropped, with the client's connection.
        tasks::spawn(async move {
            connection.await.ok();
        });
        Ok(sender)
    }
}

/// A request that a rule acts on.
struct UnderWay(Arc<Set>);

impl UnderWay {
    fn begins(set: &Arc<Set>) -> Self {
        let now = set.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        set.most.fetch_max(now, Ordering::Relaxed);
        set.hits.send_modify(|hits| *hits += 1);
        Self(Arc::clone(set))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Set {
    async fn until_released(&self) {
        let mut released = self.released.subscribe();
        released.wait_for(|released| *released).await.ok();
    }
}

fn broken(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Broken {
    Broken::other(why)
}

fn replied(reply: &Reply) -> Result<Response<Body>, Broken> {
    let (kind, body) = if let Value::String(page) = &reply.body {
        ("text/html", page.clone())
    } else {
        ("application/json", reply.body.to_string())
    };
    let mut response = Response::builder().status(reply.status).header(header::CONTENT_TYPE, kind);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    response.body(whole(Bytes::from(body))).map_err(broken)
}

fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// A body whose frames wait until they are released.
fn holding(body: Incoming, released: watch::Receiver<bool>) -> Body {
    let frames = futures::stream::unfold((body, released), |(mut body, mut released)| async move {
        let frame = body.frame().await?;
        released.wait_for(|released| *released).await.ok();
        Some((frame.map_err(broken), (body, released)))
    });
    StreamBody::new(frames).boxed_unsync()
}

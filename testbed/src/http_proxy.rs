//! A proxy that looks inside: it ends TLS with a certificate of the control plane's authority, and can so lose the answer
//! of one POST, hold one watch, or answer in the API server's place.
//!
//! Clients log in with bearer tokens, which are passed on; a client certificate ends here.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::control_plane::ControlPlane;
use crate::error::Result;
use crate::ports::Port;
use crate::tasks::Task;
use crate::wait;

mod serve;
mod tls;

/// What happens to a request that matches.
#[derive(Clone, Debug)]
pub enum Action {
    /// Nothing; it is only counted.
    Count,
    /// Nothing; it is counted and kept for [`Rule::kept`].
    Keep,
    /// It is passed on later.
    DelayBefore(Duration),
    /// The answer is given later.
    DelayAfter(Duration),
    /// It is passed on after [`Rule::release`].
    HoldBefore,
    /// It is passed on, and the answer is given after [`Rule::release`].
    HoldAfter,
    /// It is passed on and answered, and what follows in the body is given after [`Rule::release`]: a stalled watch.
    HoldBody,
    /// It is passed on, and when the API server has answered, the connection is reset instead.
    DropReply,
    /// It is passed on to another API server instead.
    Via(SocketAddr),
    /// It is not passed on: the connection is reset.
    Cut,
    /// It is not passed on: this is the answer.
    Answer(Reply),
    /// It is passed on, and when the API server has answered, this is the answer instead.
    AnswerAfter(Reply),
}

impl Action {
    /// An answer as the API server gives it.
    pub fn status(status: StatusCode, reason: &str, message: &str) -> Self {
        Self::Answer(Reply::status(status, reason, message))
    }
}

/// An answer in the API server's place.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: StatusCode,
    /// Headers such as `Retry-After`, beside the content type.
    pub headers: Vec<(String, String)>,
    /// The body: JSON, or where it is a text, that text as a page of HTML.
    pub body: Value,
}

impl Reply {
    /// As the API server gives it.
    pub fn status(status: StatusCode, reason: &str, message: &str) -> Self {
        let body = serde_json::json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "reason": reason,
            "message": message,
            "code": status.as_u16(),
        });
        Self { status, headers: Vec::new(), body }
    }

    /// As something on the way gives it that knows nothing of Kubernetes.
    pub fn page(status: StatusCode, text: &str) -> Self {
        Self { status, headers: Vec::new(), body: Value::String(text.to_owned()) }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the details of a `Status`: the object that is meant.
    #[must_use]
    pub fn details(mut self, group: &str, plural: &str, name: &str) -> Self {
        if let Some(status) = self.body.as_object_mut() {
            let details = serde_json::json!({"group": group, "kind": plural, "name": name});
            status.insert("details".to_owned(), details);
        }
        self
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// The body.
    pub body: Bytes,
    /// When it was here.
    pub at: Instant,
}

/// Which requests are meant.
#[derive(Clone, Debug, Default)]
pub struct Matching {
    method: Option<Method>,
    target: String,
    body: String,
    skip: u64,
    times: Option<u64>,
}

impl Matching {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests with this method.
    pub fn method(method: Method) -> Self {
        Self { method: Some(method), ..Self::default() }
    }

    /// POSTs whose path and query contain this.
    pub fn post(target: &str) -> Self {
        Self::method(Method::POST).target(target)
    }

    /// GETs whose path and query contain this; watches contain `watch=`.
    pub fn get(target: &str) -> Self {
        Self::method(Method::GET).target(target)
    }

    /// Whose path and query contain this.
    #[must_use]
    pub fn target(mut self, part: &str) -> Self {
        part.clone_into(&mut self.target);
        self
    }

    /// Whose body contains this, such as an object's name.
    #[must_use]
    pub fn body(mut self, part: &str) -> Self {
        part.clone_into(&mut self.body);
        self
    }

    /// Not the first so many of those.
    #[must_use]
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Only so many of those.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = Some(count);
        self
    }

    /// Only the first of those.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    fn fits(&self, method: &Method, target: &str, body: &[u8]) -> bool {
        self.method.as_ref().is_none_or(|wanted| wanted == method)
            && target.contains(&self.target)
            && (self.body.is_empty() || String::from_utf8_lossy(body).contains(&self.body))
    }
}

/// A rule in force; it ends when this is dropped or by [`end`](Self::end).
#[derive(Debug)]
pub struct Rule {
    set: Arc<Set>,
    rules: Arc<Rules>,
}

impl Rule {
    /// How many requests it has acted on.
    pub fn hits(&self) -> u64 {
        *self.set.hits.borrow()
    }

    /// The requests that [`Action::Keep`] kept, in the order in which they came.
    pub fn kept(&self) -> Vec<Kept> {
        self.set.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has acted on so many.
    pub async fn until_hits(&self, count: u64, limit: Duration) -> Result<()> {
        let mut hits = self.set.hits.subscribe();
        wait::until_true(&format!("{count} requests at the proxy"), limit, || {
            let reached = *hits.borrow_and_update() >= count;
            async move { reached }
        })
        .await
    }

    /// How many of those were under way at once at most: between a request and its answer, or its client's end.
    pub fn most_at_once(&self) -> u64 {
        self.set.most.load(Ordering::Relaxed)
    }

    /// Lets go what is held, and holds nothing from now on.
    pub fn release(&self) {
        self.set.released.send_replace(true);
    }

    /// Ends it, and lets go what it holds.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        self.release();
        self.rules.lock().retain(|set| !Arc::ptr_eq(set, &self.set));
    }
}

#[derive(Debug)]
struct Set {
    matching: Matching,
    action: Action,
    seen: AtomicU64,
    hits: watch::Sender<u64>,
    under_way: AtomicU64,
    most: AtomicU64,
    released: watch::Sender<bool>,
    kept: Mutex<Vec<Kept>>,
}

impl Set {
    fn keep(&self, method: &Method, target: &str, body: &Bytes) {
        if matches!(self.action, Action::Keep) {
            let kept =
                Kept { method: method.clone(), target: target.to_owned(), body: body.clone(), at: Instant::now() };
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        }
    }
}

#[derive(Debug, Default)]
struct Rules(Mutex<Vec<Arc<Set>>>);

impl Rules {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Set>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules that act on this request, in the order in which they were made; each is counted.
    fn acting(&self, method: &Method, target: &str, body: &Bytes) -> Vec<Arc<Set>> {
        let mut acting = Vec::new();
        for set in self.lock().iter() {
            if !set.matching.fits(method, target, body) {
                continue;
            }
            let number = set.seen.fetch_add(1, Ordering::Relaxed);
            let Some(number) = number.checked_sub(set.matching.skip) else {
                continue;
            };
            if set.matching.times.is_none_or(|times| number < times) {
                set.keep(method, target, body);
                acting.push(Arc::clone(set));
            }
        }
        acting
    }
}

#[derive(Debug)]
struct Inner {
    upstream: SocketAddr,
    rules: Arc<Rules>,
    connector: tls::Connector,
    acceptor: tls::Acceptor,
    open_token: Mutex<CancellationToken>,
    requests: AtomicU64,
}

/// The proxy; ends with all its connections when dropped.
#[derive(Debug)]
pub struct HttpFaultProxy {
    inner: Arc<Inner>,
    port: Port,
    _accepting: Task,
}

impl HttpFaultProxy {
    /// Starts one in front of the control plane's first API server.
    pub async fn start(plane: &ControlPlane) -> Result<Self> {
        Self::start_before(plane, plane.apiserver().address()).await
    }

    /// Starts one in front of another API server, or of another proxy.
    pub async fn start_before(plane: &ControlPlane, upstream: SocketAddr) -> Result<Self> {
        let port = Port::reserve()?;
        let listener = serve::listen(port.address()).await?;
        let inner = Arc::new(Inner {
            upstream,
            rules: Arc::default(),
            connector: tls::Connector::new(plane.authority())?,
            acceptor: tls::Acceptor::new(plane.authority())?,
            open_token: Mutex::default(),
            requests: AtomicU64::new(0),
        });
        let accepting = Task::start(serve::accept(Arc::clone(&inner), listener));
        Ok(Self { inner, port, _accepting: accepting })
    }

    /// `https://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("https://{}", self.port.address())
    }

    /// Sets a rule. All rules that match act: delays and holds add up, the first answer, cut, way or dropped reply counts.
    pub fn rule(&self, matching: Matching, action: Action) -> Rule {
        let set = Arc::new(Set {
            matching,
            action,
            seen: AtomicU64::new(0),
            hits: watch::Sender::new(0),
            under_way: AtomicU64::new(0),
            most: AtomicU64::new(0),
            released: watch::Sender::new(false),
            kept: Mutex::default(),
        });
        self.inner.rules.lock().push(Arc::clone(&set));
        Rule { set, rules: Arc::clone(&self.inner.rules) }
    }

    /// Resets (RST) every open connection, watches too.
    pub fn cut(&self) {
        std::mem::take(&mut *self.inner.token()).cancel();
    }

    /// How many requests came so far.
    pub fn requests(&self) -> u64 {
        self.inner.requests.load(Ordering::Relaxed)
    }
}

impl Drop for HttpFaultProxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Inner {
    fn token(&self) -> MutexGuard<'_, CancellationToken> {
        self.open_token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

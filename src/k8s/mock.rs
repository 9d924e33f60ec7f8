//! An API server in memory: answers by a function of the request, and remembers what it was asked.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use kube::client::Body;
use tower_service::Service;

use super::{Cluster, ClusterOptions, Kind};

/// What one request is answered with.
pub(super) enum Reply {
    Answer(Response<Body>),
    Silence,
}

type Asked = Arc<Mutex<Vec<String>>>;
type Answering = Arc<dyn Fn(&str) -> Reply + Send + Sync>;

pub(super) struct Mock {
    pub(super) cluster: Cluster,
    asked: Asked,
}

impl Mock {
    /// `answer` gets method, path and query in one text.
    pub(super) fn new(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let asked = Asked::default();
        let server = Server { asked: Arc::clone(&asked), answer: Arc::new(answer) };
        let options = ClusterOptions { read_timeout: Duration::from_millis(200), ..ClusterOptions::default() };
        Self { cluster: Cluster::with_client(kube::Client::new(server, "here"), options), asked }
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[derive(Clone)]
struct Server {
    asked: Asked,
    answer: Answering,
}

impl Service<Request<Body>> for Server {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let text = format!("{} {}", request.method(), request.uri());
        self.asked.lock().unwrap().push(text.clone());
        let reply = (self.answer)(&text);
        Box::pin(async move {
            match reply {
                Reply::Answer(response) => Ok(response),
                Reply::Silence => std::future::pending().await,
            }
        })
    }
}

pub(super) fn text(code: u16, body: impl Into<String>) -> Reply {
    Reply::Answer(Response::builder().status(code).body(Body::from(body.into().into_bytes())).unwrap())
}

pub(super) fn json(code: u16, body: serde_json::Value) -> Reply {
    text(code, body.to_string())
}

pub(super) fn widgets() -> Kind {
    Kind {
        group: "example.com".to_owned(),
        version: "v1".to_owned(),
        kind: "Widget".to_owned(),
        plural: "widgets".to_owned(),
        namespaced: true,
    }
}

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
mod tests;

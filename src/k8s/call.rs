//! One HTTP call: its address, its limit, its answer.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use kube::client::Body;
use serde::de::DeserializeOwned;

use super::{
    client::{Borrowed, Cluster, Lane},
    discover::Kind,
    error::{CallError, DecodeError},
};

/// What we are in the server's audit log.
const USER_AGENT: &str = concat!("jetgate/", env!("CARGO_PKG_VERSION"));
/// The field manager of our writes.
pub(super) const FIELD_MANAGER: &str = "jetgate";

const JSON: &str = "application/json";
/// Metadata alone, also of an API server that cannot leave the rest out.
pub(super) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
pub(super) const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// A path and query under construction.
#[derive(Debug, Clone)]
pub(super) struct Address {
    text: String,
    queried: bool,
}

impl Address {
    /// `path` is written as it is.
    pub(super) fn new(path: &str) -> Self {
        Self { text: path.to_owned(), queried: false }
    }

    /// The collection of a kind; `namespace` does not matter for a cluster-scoped one.
    pub(super) fn collection(kind: &Kind, namespace: &str) -> Self {
        let address = if kind.group.is_empty() {
            Self::new("/api").segment(&kind.version)
        } else {
            Self::new("/apis").segment(&kind.group).segment(&kind.version)
        };
        let address = if kind.namespaced { address.segment("namespaces").segment(namespace) } else { address };
        address.segment(&kind.plural)
    }

    /// One more part of the path; what could end or split it is escaped.
    pub(super) fn segment(mut self, part: &str) -> Self {
        self.text.push('/');
        self.escape(part);
        self
    }

    pub(super) fn query(mut self, key: &str, value: &str) -> Self {
        self.text.push(if self.queried { '&' } else { '?' });
        self.queried = true;
        self.text.push_str(key);
        self.text.push('=');
        self.escape(value);
        self
    }

    fn escape(&mut self, part: &str) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        for byte in part.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
                self.text.push(char::from(byte));
            } else {
                self.text.push('%');
                for digit in [byte >> 4, byte & 15] {
                    self.text.push(HEX.get(usize::from(digit)).copied().map_or('0', char::from));
                }
            }
        }
    }

    pub(super) fn request(self, method: Method, accept: &str, body: Vec<u8>) -> Request<Vec<u8>> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        // Only ASCII that is legal in a path was written, so this does not fail; if it did, the server refuses "/".
        *request.uri_mut() = self.text.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, header::HeaderValue::from_static(USER_AGENT));
        if let Ok(accept) = accept.parse() {
            headers.insert(header::ACCEPT, accept);
        }
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(JSON));
        request
    }

    pub(super) fn get(self, accept: &str) -> Request<Vec<u8>> {
        self.request(Method::GET, accept, Vec::new())
    }

    pub(super) fn get_json(self) -> Request<Vec<u8>> {
        self.get(JSON)
    }
}

/// Whole seconds for the server, at least one.
pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().max(1)
}

impl Cluster {
    /// A call whose answer is a document.
    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        request: Request<Vec<u8>>,
        timeout: Duration,
    ) -> Result<T, CallError> {
        let body = self.exchange(Lane::Read, request, timeout).await?;
        Ok(serde_json::from_slice(&body).map_err(DecodeError::from)?)
    }

    /// A call whose whole answer is wanted; what is no success is an error.
    async fn exchange(&self, lane: Lane, request: Request<Vec<u8>>, timeout: Duration) -> Result<Bytes, CallError> {
        self.limited(lane, timeout, async |used: Borrowed| {
            let response = answer(&used.client, request).await?;
            response.into_body().collect_bytes().await.map_err(CallError::from_kube)
        })
        .await
    }

    /// Runs `call` with a client of `lane`, ends it at `timeout`, and remembers what its end says about the client.
    pub(super) async fn limited<T>(
        &self,
        lane: Lane,
        timeout: Duration,
        call: impl AsyncFnOnce(Borrowed) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let mut used = None;
        let outcome = tokio::time::timeout(timeout, async {
            let borrowed = self.borrow(lane).await;
            used = Some(borrowed.clone());
            call(borrowed).await
        })
        .await;
        match (&outcome, used) {
            (Err(_), Some(used)) => self.connections_doubted(&used),
            (Ok(Err(CallError::Refused(status))), Some(used)) if status.code == StatusCode::UNAUTHORIZED => {
                self.credentials_rejected(&used);
            }
            _ => {}
        }
        outcome.unwrap_or(Err(CallError::Timeout(timeout)))
    }
}

/// The head of a successful answer; any other one is read and becomes the error.
pub(super) async fn answer(client: &kube::Client, request: Request<Vec<u8>>) -> Result<Response<Body>, CallError> {
    let response = client.send(request.map(Body::from)).await.map_err(CallError::from_kube)?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let retry_after = retry_after(response.headers());
    let body = response.into_body().collect_bytes().await.map_err(CallError::from_kube)?;
    Err(CallError::refused(status.as_u16(), &body, retry_after))
}

/// The header in its form in seconds, the only one that API servers send.
fn retry_after(headers: &HeaderMap) -> Option<u32> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

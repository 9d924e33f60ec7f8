//! How a call to the API server fails.

use std::time::Duration;

use kube::core::response::{StatusCause, StatusDetails};
use thiserror::Error;

use crate::message::{ApiStatus, Cause};

/// An error of the client below us: kube's, an I/O error, a timer's.
pub(super) type Source = Box<dyn std::error::Error + Send + Sync>;

/// The longest text that is kept of an answer which is no `Status` (a proxy's error page).
const LONGEST_PAGE: usize = 512;

/// How a call failed. Only `Refused` and `Expired` are answers; after any other one a write may still have happened.
#[derive(Debug, Error)]
pub enum CallError {
    /// The server said no; its `Status`, whole.
    #[error("refused with {code} {reason}: {message}", code = .0.code, reason = .0.reason, message = .0.message)]
    Refused(Box<ApiStatus>),
    /// 410: the version or the page to go on from is gone.
    #[error("the resource version is too old")]
    Expired,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// No connection, or it broke before the answer was complete.
    #[error("no connection to the API server")]
    Connection(#[source] Source),
    /// An answer that we do not understand.
    #[error("the API server's answer is not understood")]
    Decode(#[source] DecodeError),
    /// Our credentials could not be read or renewed. (The server's own 401 is `Refused`.)
    #[error("no credentials for the API server")]
    Auth(#[source] Source),
}

/// What is wrong with an answer.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// No JSON, or not of the expected form.
    #[error("no JSON of the expected form")]
    Json(#[from] serde_json::Error),
    /// A field that the server always sets is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A resource version that is no number: the order of versions is needed here.
    #[error("resourceVersion {0:?} is no number")]
    Version(String),
    /// A line of a watch that is longer than any object can be.
    #[error("a watch line is longer than {0} bytes")]
    LongLine(usize),
    /// A watch event of an unknown type.
    #[error("watch event of the unknown type {0:?}")]
    EventType(String),
    /// A success that carries no object: something between us and the server answered.
    #[error("answer {0} to a create carries no object")]
    NotCreated(u16),
}

impl CallError {
    /// A word for logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Expired => "expired",
            Self::Timeout(_) => "timeout",
            Self::Connection(_) => "connection",
            Self::Decode(_) => "decode",
            Self::Auth(_) => "auth",
        }
    }

    /// Whether the API server is not there, cannot work, or does not know us: what concerns every call, whatever is
    /// asked.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Refused(status) => status.code >= 500 || status.code == 401,
            Self::Timeout(_) | Self::Connection(_) | Self::Auth(_) => true,
            Self::Expired | Self::Decode(_) => false,
        }
    }

    /// The server's `Status`, where it gave one.
    #[must_use]
    pub fn status(&self) -> Option<&ApiStatus> {
        match self {
            Self::Refused(status) => Some(status),
            Self::Expired | Self::Timeout(_) | Self::Connection(_) | Self::Decode(_) | Self::Auth(_) => None,
        }
    }

    /// The answer of a status code and body; `retry_after` is the header, for answers of other servers on the way.
    pub(super) fn refused(code: u16, body: &[u8], retry_after: Option<u32>) -> Self {
        let wire = serde_json::from_slice::<kube::core::Status>(body).ok().filter(|status| status.code != 0);
        Self::from_status(wire.unwrap_or_else(|| page(code, body)), retry_after)
    }

    /// The server's `Status` as an error.
    pub(super) fn from_status(status: kube::core::Status, retry_after: Option<u32>) -> Self {
        if status.code == 410 {
            return Self::Expired;
        }
        let details = status.details.unwrap_or_else(no_details);
        let retry_after = Some(details.retry_after_seconds).filter(|seconds| *seconds > 0).or(retry_after);
        Self::Refused(Box::new(ApiStatus {
            code: status.code,
            reason: status.reason,
            message: status.message,
            kind: details.kind,
            group: details.group,
            name: details.name,
            causes: details.causes.into_iter().map(cause).collect(),
            retry_after: retry_after.map(|seconds| Duration::from_secs(u64::from(seconds))),
        }))
    }

    /// A failure of the stack below: its own words for a refusal, for credentials, else the connection.
    pub(super) fn from_kube(error: kube::Error) -> Self {
        #[allow(clippy::wildcard_enum_match_arm)] // kube's variants depend on its features.
        match error {
            kube::Error::Api(status) => {
                let mut status = *status;
                if status.details.is_none() && status.reason == "Failed to parse error data" {
                    status.reason = String::new();
                    shorten(&mut status.message);
                }
                Self::from_status(status, None)
            }
            kube::Error::Auth(_) => Self::Auth(Box::new(error)),
            kube::Error::Service(source) if is_auth(source.as_ref()) => Self::Auth(source),
            other => Self::Connection(Box::new(other)),
        }
    }
}

impl From<DecodeError> for CallError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

/// The refresh of a token happens inside the request, and its error comes wrapped by the layers above it.
fn is_auth(mut error: &(dyn std::error::Error + 'static)) -> bool {
    loop {
        if error.is::<kube::client::AuthError>() {
            return true;
        }
        match error.source() {
            Some(source) => error = source,
            None => return false,
        }
    }
}

fn cause(cause: StatusCause) -> Cause {
    Cause { reason: cause.reason, message: cause.message, field: cause.field }
}

fn no_details() -> StatusDetails {
    StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    }
}

/// A `Status` for an answer that has none.
fn page(code: u16, body: &[u8]) -> kube::core::Status {
    let mut text = String::from_utf8_lossy(body).trim().to_owned();
    shorten(&mut text);
    kube::core::Status::failure(&text, "").with_code(code)
}

fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(LONGEST_PAGE) {
        text.truncate(end);
    }
}

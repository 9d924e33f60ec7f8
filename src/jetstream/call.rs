//! One request: with a deadline, and ended at once when the connection is lost or the server denies it.

use std::pin::pin;
use std::time::Duration;

use async_nats::{HeaderMap, Message, Request, RequestError, RequestErrorKind, Subject};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::connection::Connection;

/// How often a request that has no answer yet looks whether one can still come. Longer than nearly every answer
/// takes, so that a request costs one timer and no more.
const LOOK: Duration = Duration::from_millis(50);

/// What kind of failure a request met; decides what to do and is the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallErrorKind {
    /// There is no connection, or it was lost before the answer came.
    Disconnected,
    /// No answer in time.
    TimedOut,
    /// Nobody listens on that subject: no such stream, consumer or service, or no leader yet.
    NoResponders,
    /// The permissions of our NATS user forbid it.
    Denied,
    /// The message is larger than the server takes.
    TooLarge,
    /// Anything else.
    Failed,
}

impl CallErrorKind {
    /// The label of a metric.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::TimedOut => "timed_out",
            Self::NoResponders => "no_responders",
            Self::Denied => "denied",
            Self::TooLarge => "too_large",
            Self::Failed => "failed",
        }
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection, or it was lost before the answer came.
    #[error("not connected to NATS")]
    Disconnected,
    /// No answer in time.
    #[error("no answer from NATS on {subject} within {after:?}")]
    TimedOut {
        /// What was asked.
        subject: Subject,
        /// How long was waited.
        after: Duration,
    },
    /// Nobody listens there.
    #[error("nobody listens on {subject}: no such stream, consumer or bucket, or it has no leader")]
    NoResponders {
        /// What was asked.
        subject: Subject,
    },
    /// The permissions of our NATS user forbid it.
    #[error("the NATS user may not do this; the server says: {said}")]
    Denied {
        /// The server's words, which name the subject.
        said: String,
    },
    /// The message is larger than the server takes.
    #[error("the message is larger than the NATS server takes")]
    TooLarge(#[source] RequestError),
    /// Anything else.
    #[error("the request to NATS failed")]
    Failed(#[source] RequestError),
}

impl CallError {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> CallErrorKind {
        match self {
            Self::Disconnected => CallErrorKind::Disconnected,
            Self::TimedOut { .. } => CallErrorKind::TimedOut,
            Self::NoResponders { .. } => CallErrorKind::NoResponders,
            Self::Denied { .. } => CallErrorKind::Denied,
            Self::TooLarge(_) => CallErrorKind::TooLarge,
            Self::Failed(_) => CallErrorKind::Failed,
        }
    }
}

/// An error that JetStream answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{description} (code {code}, error code {err_code})")]
pub struct ApiError {
    /// The class, in HTTP's numbers.
    pub code: u16,
    /// JetStream's own number.
    #[serde(default)]
    pub err_code: u32,
    /// The server's words.
    #[serde(default)]
    pub description: String,
}

impl ApiError {
    pub(crate) const STREAM_NOT_FOUND: u32 = 10059;
    pub(crate) const CONSUMER_NOT_FOUND: u32 = 10014;
    pub(crate) const STREAM_NAME_IN_USE: u32 = 10058;
    pub(crate) const CONSUMER_NAME_IN_USE: u32 = 10013;
    pub(crate) const CONSUMER_EXISTS: u32 = 10148;
    pub(crate) const WRONG_LAST_SEQUENCE: u32 = 10071;
    pub(crate) const WRONG_LAST_SEQUENCE_CONSTANT: u32 = 10164;
    pub(crate) const NO_MESSAGE_FOUND: u32 = 10037;
    pub(crate) const STORE_FAILED: u32 = 10077;
    pub(crate) const STORAGE_EXCEEDED: u32 = 10047;
    pub(crate) const INSUFFICIENT: u32 = 10023;
    pub(crate) const ACCOUNT_EXCEEDED: u32 = 10002;
    pub(crate) const TOO_LARGE: u32 = 10054;
}

/// Why an answer of JetStream's API could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplyFault {
    #[error(transparent)]
    Api(ApiError),
    #[error("the answer of NATS cannot be read")]
    Decode(#[source] serde_json::Error),
}

/// Reads an answer of JetStream's API: an `error`, or the value.
pub(crate) fn read_reply<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ReplyFault> {
    #[derive(Deserialize)]
    struct Envelope {
        error: Option<ApiError>,
    }
    let envelope: Envelope = serde_json::from_slice(payload).map_err(ReplyFault::Decode)?;
    match envelope.error {
        Some(error) => Err(ReplyFault::Api(error)),
        None => serde_json::from_slice(payload).map_err(ReplyFault::Decode),
    }
}

impl Connection {
    /// Sends a request and waits for its answer, `timeout` long at most.
    pub(crate) async fn call(
        &self,
        subject: Subject,
        headers: Option<HeaderMap>,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Message, CallError> {
        let epoch = self.live_epoch().ok_or(CallError::Disconnected)?;
        let denials = self.denials();
        // A command that is sent while the connection is down would be queued and sent later, when nobody waits for
        // it any more; hence the look at the epoch above and below.
        // The deadline is ours: the client's own does not cover its full command queue.
        let mut request = Request::new().payload(payload).timeout(None);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let mut answer = pin!(self.client().send_request(subject.clone(), request));
        let mut rest = timeout;
        loop {
            let slice = rest.min(LOOK);
            if let Ok(result) = tokio::time::timeout(slice, &mut answer).await {
                return result.map_err(|error| classify(error, subject));
            }
            rest -= slice;
            if self.live_epoch() != Some(epoch) {
                return Err(CallError::Disconnected);
            }
            if let Some(said) = self.denied(&subject, denials) {
                return Err(CallError::Denied { said });
            }
            if rest.is_zero() {
                return Err(CallError::TimedOut { subject, after: timeout });
            }
        }
    }
}

fn classify(error: RequestError, subject: Subject) -> CallError {
    match error.kind() {
        RequestErrorKind::NoResponders => CallError::NoResponders { subject },
        RequestErrorKind::MaxPayloadExceeded => CallError::TooLarge(error),
        RequestErrorKind::TimedOut | RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
            CallError::Failed(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_error_is_told_from_a_value() {
        #[derive(Debug, Deserialize)]
        struct Value {
            n: u64,
        }
        let value: Value = read_reply(br#"{"type":"x","n":7}"#).unwrap();
        assert_eq!(value.n, 7);
        let fault = read_reply::<Value>(
            br#"{"type":"x","error":{"code":404,"err_code":10059,"description":"stream not found"}}"#,
        );
        let Err(ReplyFault::Api(error)) = fault else { panic!("{fault:?}") };
        assert_eq!(error.err_code, ApiError::STREAM_NOT_FOUND);
        assert_eq!(error.to_string(), "stream not found (code 404, error code 10059)");
        assert!(matches!(read_reply::<Value>(b"nonsense"), Err(ReplyFault::Decode(_))));
    }
}

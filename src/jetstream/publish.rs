//! Publishing into a stream, durable when it returns.

use std::time::Duration;

use async_nats::header::{IntoHeaderName, IntoHeaderValue};
use async_nats::{HeaderMap, HeaderName, HeaderValue, Subject};
use bytes::Bytes;
use serde::Deserialize;

use super::call::{ApiError, CallError, ReplyFault, read_reply};
use super::connection::Connection;

/// A message that the stream has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Published {
    /// The stream.
    pub stream: String,
    /// Its sequence there.
    #[serde(rename = "seq")]
    pub sequence: u64,
    /// The stream had it already, by its message id.
    #[serde(default)]
    pub duplicate: bool,
}

/// What kind of failure a publish met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PublishErrorKind {
    /// No stream takes the subject, or it has no leader.
    NoStream,
    /// The stream, the account or the disk is full.
    Full,
    /// No answer in time; it may be stored. Repeat with the same id.
    TimedOut,
    /// The message itself: too large, or a header that cannot be sent.
    BadMessage,
    /// The stream refused it, for example because of an expected sequence.
    Refused,
    /// The permissions of our NATS user forbid it.
    Denied,
    /// There is no connection, or it was lost before the answer came; it may be stored. Repeat with the same id.
    Disconnected,
    /// Anything else.
    Failed,
}

/// Why a message is not known to be stored.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No answer.
    #[error("the message is not known to be stored")]
    Call(#[source] CallError),
    /// The stream said no.
    #[error("the stream does not take the message")]
    Refused(#[source] ApiError),
    /// A header name or value that NATS cannot carry.
    #[error("the header {name:?} cannot be sent: control characters or a colon")]
    Header {
        /// The header.
        name: String,
    },
    /// The answer cannot be read.
    #[error("the answer of NATS cannot be read")]
    Decode(#[source] serde_json::Error),
}

impl PublishError {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> PublishErrorKind {
        match self {
            Self::Call(error) => match error {
                CallError::Disconnected => PublishErrorKind::Disconnected,
                CallError::TimedOut { .. } => PublishErrorKind::TimedOut,
                CallError::NoResponders { .. } => PublishErrorKind::NoStream,
                CallError::Denied { .. } => PublishErrorKind::Denied,
                CallError::TooLarge(_) => PublishErrorKind::BadMessage,
                CallError::Failed(_) => PublishErrorKind::Failed,
            },
            Self::Refused(error) => match error.err_code {
                ApiError::STORE_FAILED
                | ApiError::STORAGE_EXCEEDED
                | ApiError::INSUFFICIENT
                | ApiError::ACCOUNT_EXCEEDED => PublishErrorKind::Full,
                ApiError::TOO_LARGE => PublishErrorKind::BadMessage,
                _ => PublishErrorKind::Refused,
            },
            Self::Header { .. } => PublishErrorKind::BadMessage,
            Self::Decode(_) => PublishErrorKind::Failed,
        }
    }

    /// What JetStream said, if it said something.
    #[must_use]
    pub fn api_error(&self) -> Option<&ApiError> {
        match self {
            Self::Refused(error) => Some(error),
            Self::Call(_) | Self::Header { .. } | Self::Decode(_) => None,
        }
    }
}

/// Publishes and waits for the stream's acknowledgement. `message_id` replaces any `Nats-Msg-Id` among the headers; a
/// repeat within the stream's window is a success that says `duplicate`.
pub async fn publish(
    connection: &Connection,
    subject: &str,
    headers: &[(String, String)],
    payload: Bytes,
    message_id: Option<&str>,
    timeout: Duration,
) -> Result<Published, PublishError> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        append(&mut map, name, value)?;
    }
    if let Some(id) = message_id {
        let id: HeaderValue = id.parse().map_err(|_| PublishError::Header { name: String::from("Nats-Msg-Id") })?;
        map.insert("Nats-Msg-Id", id);
    }
    send(connection, subject.into(), map, payload, timeout).await
}

/// The client's own conversions panic on what NATS cannot carry.
fn append(map: &mut HeaderMap, name: &str, value: &str) -> Result<(), PublishError> {
    let refused = || PublishError::Header { name: name.to_owned() };
    let name: HeaderName = name.parse().map_err(|_| refused())?;
    let value: HeaderValue = value.parse().map_err(|_| refused())?;
    map.append(name.into_header_name(), value.into_header_value());
    Ok(())
}

pub(crate) async fn send(
    connection: &Connection,
    subject: Subject,
    headers: HeaderMap,
    payload: Bytes,
    timeout: Duration,
) -> Result<Published, PublishError> {
    let headers = (!headers.is_empty()).then_some(headers);
    let answer = connection.call(subject, headers, payload, timeout).await.map_err(PublishError::Call)?;
    read_reply(&answer.payload).map_err(|fault| match fault {
        ReplyFault::Api(error) => PublishError::Refused(error),
        ReplyFault::Decode(error) => PublishError::Decode(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_cannot_be_sent_are_errors_not_panics() {
        let mut map = HeaderMap::new();
        append(&mut map, "a", "1").unwrap();
        append(&mut map, "a", "2").unwrap();
        assert_eq!(map.get_all("a").count(), 2);
        for (name, value) in [("a", "x\r\ny"), ("a:b", "x"), ("a\n", "x")] {
            assert!(append(&mut map, name, value).is_err(), "{name:?} {value:?}");
        }
    }

    #[test]
    fn a_full_stream_is_told_from_a_refusal() {
        let kind =
            |err_code| PublishError::Refused(ApiError { code: 503, err_code, description: String::new() }).kind();
        assert_eq!(kind(10077), PublishErrorKind::Full);
        assert_eq!(kind(10071), PublishErrorKind::Refused);
    }
}

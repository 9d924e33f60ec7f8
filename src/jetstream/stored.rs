//! Messages as they are stored, read through JetStream's API: what the client cannot read when it is delivered can be
//! looked at there.
//!
//! NATS stores whatever bytes a publisher calls headers. The client reads them strictly, and takes what it cannot read
//! for a broken connection: it connects again, the message comes again, and so on.

use async_nats::{HeaderName, StatusCode, Subject};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::call::{ApiError, ReplyFault, read_reply};
use super::connection::Connection;
use super::stream::{ManageError, check_name};

/// A message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its subject, with U+FFFD for what is not UTF-8.
    pub subject: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When it was stored, in nanoseconds since 1970.
    pub store_time_ns: i64,
    /// Its headers as they were published; empty where it has none.
    pub headers: Bytes,
    /// Its payload.
    pub payload: Bytes,
    /// Why the client cannot read it when it is delivered, if it cannot.
    pub unreadable: Option<Unreadable>,
}

/// Why the client cannot read a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Of the headers.
    #[error("the headers are not UTF-8")]
    NotUtf8,
    /// Of the headers.
    #[error("the headers do not begin with NATS/1.0")]
    Version,
    /// Of the headers.
    #[error("the first line of the headers holds something other than a version and a status")]
    Status,
    /// Of the headers.
    #[error("a line of the headers has no colon")]
    Colon,
    /// Of the headers.
    #[error("a name among the headers has characters that no name may have")]
    Name,
    /// Of the headers.
    #[error("a value among the headers has a carriage return in it")]
    Value,
    /// Of the subject.
    #[error("the subject is not UTF-8, or has spaces")]
    Subject,
}

/// Why the client cannot read a message with these headers: what `async_nats` does with what it reads, in its order.
fn fault(headers: &[u8]) -> Option<Unreadable> {
    if headers.is_empty() {
        return None;
    }
    let Ok(text) = std::str::from_utf8(headers) else { return Some(Unreadable::NotUtf8) };
    let mut lines = text.lines().peekable();
    let Some(rest) = lines.next().and_then(|line| line.strip_prefix("NATS/1.0")) else {
        return Some(Unreadable::Version);
    };
    let rest = rest.trim();
    let status = rest.split_once(' ').map_or(rest, |(status, _)| status.trim());
    if !status.is_empty() && status.parse::<StatusCode>().is_err() {
        return Some(Unreadable::Status);
    }
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else { return Some(Unreadable::Colon) };
        if name.parse::<HeaderName>().is_err() {
            return Some(Unreadable::Name);
        }
        let mut value = value.trim_start().to_owned();
        while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
            value.push_str(more);
        }
        // The client panics at it.
        if value.trim_end().contains(['\r', '\n']) {
            return Some(Unreadable::Value);
        }
    }
    None
}

/// The first message from `sequence` on, of these subjects; none where there is no such message.
pub async fn stored_from(
    connection: &Connection,
    stream: &str,
    subject: &str,
    sequence: u64,
) -> Result<Option<Stored>, ManageError> {
    check_name("stream", stream)?;
    let what = || format!("read the message {sequence} of stream {stream:?}");
    let decode = |source| ManageError::Decode { what: what(), source };
    let body = serde_json::to_vec(&json!({"seq": sequence, "next_by_subj": subject})).map_err(decode)?;
    let answer = connection
        .call(format!("$JS.API.STREAM.MSG.GET.{stream}").into(), None, Bytes::from(body), connection.request_timeout())
        .await
        .map_err(|source| ManageError::Call { what: what(), source })?;
    match read_reply::<Answer>(&answer.payload) {
        // The server's encoder writes U+FFFD as itself, and what is not UTF-8 by its number.
        Ok(Answer { message }) => message.read(!has_replacement(&answer.payload)).map(Some).map_err(decode),
        Err(ReplyFault::Api(error)) if error.err_code == ApiError::NO_MESSAGE_FOUND => Ok(None),
        Err(ReplyFault::Api(source)) => Err(ManageError::Refused { what: what(), source }),
        Err(ReplyFault::Decode(source)) => Err(decode(source)),
    }
}

/// Whether the number of U+FFFD is written in this JSON: after a backslash that no other one takes for itself.
fn has_replacement(json: &[u8]) -> bool {
    let mut rest = json.iter();
    while let Some(byte) = rest.next() {
        if *byte == b'\\' && rest.next() == Some(&b'u') && rest.as_slice().starts_with(b"fffd") {
            return true;
        }
    }
    false
}

#[derive(Deserialize)]
struct Answer {
    message: Raw,
}

#[derive(Deserialize)]
struct Raw {
    subject: String,
    seq: u64,
    time: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

impl Raw {
    fn read(self, subject_is_utf8: bool) -> Result<Stored, serde_json::Error> {
        let bytes = |text: &str| STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom);
        let time: jiff::Timestamp = self.time.parse().map_err(serde::de::Error::custom)?;
        let headers = bytes(&self.hdrs)?;
        // With headers the client parts the words of the line before them at any white space, else at spaces alone.
        let parted = !headers.is_empty() && self.subject.contains(char::is_whitespace);
        let unreadable = if parted || !subject_is_utf8 { Some(Unreadable::Subject) } else { fault(&headers) };
        Ok(Stored {
            sequence: self.seq,
            store_time_ns: i64::try_from(time.as_nanosecond()).map_err(serde::de::Error::custom)?,
            payload: bytes(&self.data)?,
            subject: self.subject,
            headers,
            unreadable,
        })
    }
}

/// Where a message is acknowledged of which no delivery could be read.
///
/// The server goes by the sequence in the stream alone, also for the oldest form of the subject, which it always hears:
/// it has to take late acknowledgements, whose delivery is no longer the last one.
#[must_use]
pub fn stored_reply(stream: &str, consumer: &str, stored: &Stored) -> Subject {
    let Stored { sequence, store_time_ns, .. } = stored;
    format!("$JS.ACK.{stream}.{consumer}.1.{sequence}.1.{store_time_ns}.0").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_reads_is_no_fault() {
        for good in [
            "",
            "NATS/1.0\r\n\r\n",
            "NATS/1.0\r\nA: b\r\nC:\r\n d\r\n\r\n",
            "NATS/1.0 404 No Messages\r\n\r\n",
            "NATS/1.0\r\n\r\nA:é:c\r\n",
            "NATS/1.0\r\nA: b\r\r\n\r\n",
        ] {
            assert_eq!(fault(good.as_bytes()), None, "{good:?}");
        }
    }

    #[test]
    fn each_fault_is_named() {
        for (bad, why) in [
            (&b"NATS/1.0\r\nA: \xff\r\n\r\n"[..], Unreadable::NotUtf8),
            (b"A: b\r\n\r\n", Unreadable::Version),
            (b"\r\n", Unreadable::Version),
            (b"NATS/1.0 x\r\n\r\n", Unreadable::Status),
            (b"NATS/1.0\r\nA\r\n\r\n", Unreadable::Colon),
            (b"NATS/1.0\r\nA: b\rc\r\n\r\n", Unreadable::Value),
            (b"NATS/1.0\r\nA: b\r\n \rc\r\n\r\n", Unreadable::Value),
            (b"NATS/1.0\r\n A: b\r\n\r\n", Unreadable::Name),
            ("NATS/1.0\r\né: b\r\n\r\n".as_bytes(), Unreadable::Name),
        ] {
            assert_eq!(fault(bad), Some(why), "{bad:?}");
        }
    }

    #[test]
    fn a_backslash_of_the_subject_itself_is_no_escape() {
        assert!(has_replacement(br#"{"subject":"a\ufffdb"}"#));
        assert!(has_replacement(br#"{"subject":"a\\\ufffdb"}"#));
        assert!(!has_replacement(br#"{"subject":"a\\ufffdb"}"#));
        assert!(!has_replacement(br#"{"subject":"a\u00e9b"}"#));
    }

    #[test]
    fn a_subject_that_parts_the_line_is_a_fault() {
        let raw = |subject: &str, hdrs: &str| Raw {
            subject: subject.to_owned(),
            seq: 7,
            time: "2026-09-21T14:13:20.000000001Z".to_owned(),
            hdrs: STANDARD.encode(hdrs),
            data: STANDARD.encode("x"),
        };
        let stored = raw("a\u{a0}b", "").read(true).unwrap();
        assert_eq!((stored.unreadable, stored.store_time_ns), (None, 1_790_000_000_000_000_001));
        assert_eq!(raw("a\u{a0}b", "NATS/1.0\r\n\r\n").read(true).unwrap().unreadable, Some(Unreadable::Subject));
        assert_eq!(raw("a\u{fffd}b", "").read(false).unwrap().unreadable, Some(Unreadable::Subject));
        assert_eq!(raw("a\u{fffd}b", "").read(true).unwrap().unreadable, None);
    }
}

//! A delivered message, and what its reply subject says about it.

use std::sync::Arc;
use std::time::Instant;

use async_nats::{HeaderMap, Message, Subject};
use bytes::Bytes;

/// A message of the stream, in hand until it is acknowledged.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The subject it was published to.
    pub subject: Subject,
    /// Its headers, sorted by name; several values of one name keep their order.
    pub headers: Vec<(String, String)>,
    /// Its payload.
    pub payload: Bytes,
    /// The stream it is stored in.
    pub stream: Arc<str>,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The sequence of this delivery in the consumer.
    pub consumer_sequence: u64,
    /// When the server stored it, in nanoseconds since 1970 by the server's clock.
    pub store_time_ns: i64,
    /// How many times the server says that it was delivered, this time included. A killed server forgets.
    pub delivered: u64,
    /// How many messages wait behind it.
    pub pending: u64,
    /// Where to acknowledge it.
    pub reply: Subject,
    /// The send of the oldest pull that may have brought it: the conservative start of its ack wait.
    pub pull_sent: Instant,
    /// The connection epoch whose pull brought it.
    pub epoch: u64,
    /// No credit stands behind it: it came on a pull that was given up. Return it with a negative ack.
    pub above_credit: bool,
}

/// Why a reply subject says nothing about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// There is none.
    #[error("the message has no reply subject")]
    Missing,
    /// It does not begin with `$JS.ACK.`.
    #[error("the reply subject is none of JetStream's")]
    Prefix,
    /// It has neither 9 nor 11 and more tokens.
    #[error("the reply subject has an unknown number of tokens")]
    Tokens,
    /// A token that must be a number is none.
    #[error("the reply subject has a number that is none")]
    Number,
}

/// What the reply subject of a delivery says. Both forms are read: `$JS.ACK.<stream>.<consumer>...` with 9 tokens and
/// `$JS.ACK.<domain>.<account>.<stream>.<consumer>...` with 11 and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyInfo {
    /// How many times it was delivered.
    pub delivered: u64,
    /// Sequence in the stream.
    pub sequence: u64,
    /// Sequence of the delivery.
    pub consumer_sequence: u64,
    /// Store time in nanoseconds since 1970.
    pub store_time_ns: i64,
    /// Messages behind it.
    pub pending: u64,
}

impl ReplyInfo {
    /// Reads a reply subject, without allocating: this is on the path of every message.
    pub fn parse(reply: &str) -> Result<Self, ReplyError> {
        let rest = reply.strip_prefix("$JS.ACK.").ok_or(ReplyError::Prefix)?;
        let mut tokens = rest.split('.');
        let skip = match rest.bytes().filter(|byte| *byte == b'.').count() + 1 {
            7 => 2,
            9.. => 4,
            _ => return Err(ReplyError::Tokens),
        };
        for _ in 0..skip {
            tokens.next();
        }
        let mut number = || tokens.next().and_then(|token| token.parse().ok()).ok_or(ReplyError::Number);
        Ok(Self {
            delivered: number()?,
            sequence: number()?,
            consumer_sequence: number()?,
            store_time_ns: i64::try_from(number()?).map_err(|_| ReplyError::Number)?,
            pending: number()?,
        })
    }
}

/// Where a delivery came from, as far as the message itself does not say it.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) stream: Arc<str>,
    pub(crate) pull_sent: Instant,
    pub(crate) epoch: u64,
    pub(crate) above_credit: bool,
}

impl Delivery {
    pub(crate) fn read(message: Message, origin: Origin) -> Result<Self, ReplyError> {
        let reply = message.reply.ok_or(ReplyError::Missing)?;
        let info = ReplyInfo::parse(&reply)?;
        Ok(Self {
            subject: message.subject,
            headers: message.headers.as_ref().map_or_else(Vec::new, header_pairs),
            payload: message.payload,
            stream: origin.stream,
            sequence: info.sequence,
            consumer_sequence: info.consumer_sequence,
            store_time_ns: info.store_time_ns,
            delivered: info.delivered,
            pending: info.pending,
            reply,
            pull_sent: origin.pull_sent,
            epoch: origin.epoch,
            above_credit: origin.above_credit,
        })
    }
}

fn header_pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut pairs: Vec<(String, String)> = headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.as_str().to_owned())))
        .collect();
    // The client's map has no order of its own. The sort is stable, so values of one name keep theirs.
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "1790230470084404000";

    fn expected() -> ReplyInfo {
        ReplyInfo {
            delivered: 3,
            sequence: 100,
            consumer_sequence: 7,
            store_time_ns: 1_790_230_470_084_404_000,
            pending: 42,
        }
    }

    #[test]
    fn both_reply_forms_are_read() {
        for reply in [
            format!("$JS.ACK.events.durable.3.100.7.{TIME}.42"),
            format!("$JS.ACK._.szMpdrwD.events.durable.3.100.7.{TIME}.42"),
            format!("$JS.ACK.hub.szMpdrwD.events.durable.3.100.7.{TIME}.42.token"),
            format!("$JS.ACK.hub.szMpdrwD.events.durable.3.100.7.{TIME}.42.token.later.more"),
        ] {
            assert_eq!(ReplyInfo::parse(&reply), Ok(expected()), "{reply}");
        }
    }

    #[test]
    fn other_subjects_are_refused() {
        for (reply, error) in [
            (String::from("_INBOX.a.b"), ReplyError::Prefix),
            (format!("$JS.ACK.events.durable.3.100.7.{TIME}"), ReplyError::Tokens),
            (format!("$JS.ACK.hub.hash.events.durable.3.100.7.{TIME}"), ReplyError::Tokens),
            (format!("$JS.ACK.events.durable.3.abc.7.{TIME}.42"), ReplyError::Number),
            (String::from("$JS.ACK.events.durable.3.1.7.99999999999999999999.42"), ReplyError::Number),
        ] {
            assert_eq!(ReplyInfo::parse(&reply), Err(error), "{reply}");
        }
    }

    #[test]
    fn headers_are_sorted_and_keep_the_order_of_values() {
        let mut headers = HeaderMap::new();
        headers.insert("b", "2");
        headers.append("a", "9");
        headers.append("a", "1");
        let pairs = header_pairs(&headers);
        let flat: Vec<_> = pairs.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(flat, ["a=9", "a=1", "b=2"]);
    }
}

//! The end of a message that can never succeed: a copy in the dead-letter stream that says why.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::MessageId;

/// The most bytes of detail that a dead letter carries; the API server's texts can be as long as the object.
pub const MAX_DETAIL_BYTES: usize = 1_024;

/// Why a message can never succeed. A closed set: it is a header, a metric label and a line of the docs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// An expression of the template fails on this message.
    Template,
    /// The payload is not what the sensor file says it is.
    Payload,
    /// The API server refuses the object itself (400, 422).
    InvalidObject,
    /// The object is larger than the API server or its store takes.
    TooLarge,
    /// The name of the object is taken by one that was not made for this message.
    ForeignObject,
    /// It can't be known whether the object was made, and `ON_DOUBT=dead` forbids to make it again.
    InDoubt,
}

impl DeadReason {
    /// All reasons, in the order of the docs.
    pub const ALL: [Self; 6] =
        [Self::Template, Self::Payload, Self::InvalidObject, Self::TooLarge, Self::ForeignObject, Self::InDoubt];

    /// The word of headers, labels and docs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Payload => "payload",
            Self::InvalidObject => "invalid_object",
            Self::TooLarge => "too_large",
            Self::ForeignObject => "foreign_object",
            Self::InDoubt => "in_doubt",
        }
    }

    /// What it means, in a sentence for people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Template => "an expression of the template fails on this message",
            Self::Payload => "the payload is not what the sensor file says it is",
            Self::InvalidObject => "the API server refuses the object that this message gives",
            Self::TooLarge => "the object that this message gives is larger than the API server takes",
            Self::ForeignObject => "the object's name is taken by an object that was not made for this message",
            Self::InDoubt => "it is not known whether the object was made before, and ON_DOUBT is dead",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a dead letter says about the message it is a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// The message.
    pub id: &'a MessageId,
    /// The subject it was stored under.
    pub subject: &'a str,
    /// How often it was delivered, this time included.
    pub deliveries: u64,
    /// Why it is dead.
    pub reason: DeadReason,
    /// What exactly was wrong, in the words of who refused it.
    pub detail: &'a str,
}

impl DeadLetter<'_> {
    /// The headers that are added to the message's own; their values are safe in a header.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let stored = jiff::Timestamp::from_nanosecond(i128::from(self.id.store_time_ns))
            .map_or_else(|_| self.id.store_time_ns.to_string(), |time| time.to_string());
        vec![
            ("Jetgate-Reason", self.reason.as_str().to_owned()),
            ("Jetgate-Detail", header_safe(self.detail)),
            ("Jetgate-Sensor", header_safe(&self.id.sensor)),
            ("Jetgate-Trigger", header_safe(&self.id.trigger)),
            ("Jetgate-Stream", header_safe(&self.id.stream)),
            ("Jetgate-Sequence", self.id.sequence.to_string()),
            ("Jetgate-Subject", header_safe(self.subject)),
            ("Jetgate-Stored", stored),
            ("Jetgate-Deliveries", self.deliveries.to_string()),
            ("Jetgate-Message", header_safe(&self.id.annotation())),
        ]
    }

    /// The id under which the dead letter is published, so that a repeat is stored once.
    #[must_use]
    pub fn dedup_id(&self) -> String {
        self.id.dedup_id("dead")
    }
}

/// Whether a header of the message goes into its dead letter too.
///
/// `Nats-` headers are instructions to the server (an id, a time to live, an expected sequence) that were meant for
/// the first stream; `Jetgate-` headers would be taken for ours.
#[must_use]
pub fn keeps_header(name: &str) -> bool {
    let begins = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    !begins("Nats-") && !begins("Jetgate-")
}

/// One line of at most [`MAX_DETAIL_BYTES`]: a line break in a value would begin a header of its own.
fn header_safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(MAX_DETAIL_BYTES));
    for c in text.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if safe.len() + c.len_utf8() > MAX_DETAIL_BYTES {
            break;
        }
        safe.push(c);
    }
    safe
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn id() -> MessageId {
        MessageId {
            namespace: "team".into(),
            sensor: "orders".into(),
            trigger: "create".into(),
            stream: "EVENTS".into(),
            sequence: 42,
            store_time_ns: 1_790_000_000_000_000_001,
        }
    }

    #[test]
    fn a_dead_letter_says_all() {
        let id = id();
        let letter = DeadLetter {
            id: &id,
            subject: "orders.eu",
            deliveries: 3,
            reason: DeadReason::Payload,
            detail: "bad\r\nX: y",
        };
        let headers = letter.headers();
        let want = [
            ("Jetgate-Reason", "payload"),
            ("Jetgate-Detail", "bad  X: y"),
            ("Jetgate-Sensor", "orders"),
            ("Jetgate-Trigger", "create"),
            ("Jetgate-Stream", "EVENTS"),
            ("Jetgate-Sequence", "42"),
            ("Jetgate-Subject", "orders.eu"),
            ("Jetgate-Stored", "2026-09-21T14:13:20.000000001Z"),
            ("Jetgate-Deliveries", "3"),
            ("Jetgate-Message", "team/orders/create/EVENTS/42/1790000000000000001"),
        ];
        assert_eq!(headers, want.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(letter.dedup_id(), id.dedup_id("dead"));
    }

    #[test]
    fn words_are_distinct() {
        let words: HashSet<_> = DeadReason::ALL.iter().map(|r| r.as_str()).collect();
        let sentences: HashSet<_> = DeadReason::ALL.iter().map(|r| r.sentence()).collect();
        assert_eq!((words.len(), sentences.len()), (DeadReason::ALL.len(), DeadReason::ALL.len()));
    }

    #[test]
    fn server_instructions_are_not_copied() {
        for name in ["Nats-Msg-Id", "nats-ttl", "NATS-Expected-Stream", "Jetgate-Reason", "jetgate-x"] {
            assert!(!keeps_header(name), "{name}");
        }
        for name in ["ce-id", "Content-Type", "Nats", "", "é", "Natsé-"] {
            assert!(keeps_header(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn values_are_one_bounded_line(detail in "(?s).{0,3000}") {
            let id = id();
            let reason = DeadReason::Template;
            let letter = DeadLetter { id: &id, subject: &detail, deliveries: 1, reason, detail: &detail };
            for (_, value) in letter.headers() {
                prop_assert!(value.len() <= MAX_DETAIL_BYTES);
                prop_assert!(!value.contains(['\r', '\n', '\0']));
            }
        }
    }
}

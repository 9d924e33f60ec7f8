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
    /// The NATS client cannot read the message and ends the connection that brings it.
    Unreadable,
}

impl DeadReason {
    /// All reasons, in the order of the docs.
    pub const ALL: [Self; 7] = [
        Self::Template,
        Self::Payload,
        Self::InvalidObject,
        Self::TooLarge,
        Self::ForeignObject,
        Self::InDoubt,
        Self::Unreadable,
    ];

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
            Self::Unreadable => "unreadable",
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
            Self::Unreadable => "its headers or its subject are not what NATS allows, and no client can read it",
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
    /// How often it was delivered, this time included; none where no delivery could be read.
    pub deliveries: Option<u64>,
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
        let mut headers = vec![
            ("Jetgate-Reason", self.reason.as_str().to_owned()),
            ("Jetgate-Detail", header_safe(self.detail)),
            ("Jetgate-Sensor", header_safe(&self.id.sensor)),
            ("Jetgate-Trigger", header_safe(&self.id.trigger)),
            ("Jetgate-Stream", header_safe(&self.id.stream)),
            ("Jetgate-Sequence", self.id.sequence.to_string()),
            ("Jetgate-Subject", header_safe(self.subject)),
            ("Jetgate-Stored", stored),
            ("Jetgate-Message", header_safe(&self.id.annotation())),
        ];
        headers.extend(self.deliveries.map(|deliveries| ("Jetgate-Deliveries", deliveries.to_string())));
        headers
    }

    /// The dead letter of a message with these headers, of which those are kept that may be, and a payload of this size.
    #[must_use]
    pub fn pack(&self, own: Vec<(String, String)>, payload: usize) -> Packed {
        let ours = self.headers().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Packed { ours, own, message_id: self.dedup_id(), payload }
    }

    /// The id under which the dead letter is published, so that a repeat is stored once.
    #[must_use]
    pub fn dedup_id(&self) -> String {
        self.id.dedup_id("dead")
    }
}

/// A dead letter that is ready to be sent, as soon as it is known how large it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    ours: Vec<(String, String)>,
    own: Vec<(String, String)>,
    message_id: String,
    payload: usize,
}

impl Packed {
    /// See [`DeadLetter::dedup_id`].
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// The headers, and how many bytes of the payload go with them, so that both are `largest` bytes at most.
    ///
    /// What says where the message is and why it is dead goes in any case: the message's own headers go where they fit,
    /// and its payload is cut to what is left. What is not there is said.
    #[must_use]
    pub fn fit(&self, largest: usize) -> (Vec<(String, String)>, usize) {
        let mut headers = self.ours.clone();
        let bare = VERSION_LINE + on_the_wire("Nats-Msg-Id", &self.message_id);
        let size = |headers: &[(String, String)]| -> usize {
            bare + headers.iter().map(|(name, value)| on_the_wire(name, value)).sum::<usize>()
        };
        let whole = size(&self.ours) + size(&self.own) - bare;
        if whole + self.payload.min(TRUNCATED) <= largest {
            headers.extend(self.own.iter().cloned());
        } else if !self.own.is_empty() {
            headers.push(("Jetgate-Headers-Left-Out".to_owned(), self.own.len().to_string()));
        }
        if size(&headers) + self.payload <= largest {
            return (headers, self.payload);
        }
        headers.push(("Jetgate-Truncated".to_owned(), self.payload.to_string()));
        let room = largest.saturating_sub(size(&headers));
        (headers, room.min(self.payload))
    }
}

/// `NATS/1.0`, and the line ends around the headers.
const VERSION_LINE: usize = 12;

/// The most that the header takes which says that the payload is cut.
const TRUNCATED: usize = on_the_wire("Jetgate-Truncated", "18446744073709551615");

/// What a header takes, with its colon, a space and its line end.
const fn on_the_wire(name: &str, value: &str) -> usize {
    name.len() + value.len() + 4
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
    use crate::message::identity::examples::id;

    #[test]
    fn a_dead_letter_says_all() {
        let id = id();
        let letter = DeadLetter {
            id: &id,
            subject: "orders.eu",
            deliveries: Some(3),
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
            ("Jetgate-Message", "team/orders/create/EVENTS/42/1790000000000000001"),
            ("Jetgate-Deliveries", "3"),
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

    fn packed(own: &[(&str, usize)], payload: usize) -> Packed {
        let own = own.iter().map(|(name, size)| ((*name).to_owned(), "x".repeat(*size))).collect();
        let reason = DeadReason::Payload;
        DeadLetter { id: &id(), subject: "s", deliveries: None, reason, detail: "" }.pack(own, payload)
    }

    #[test]
    fn what_fits_goes_whole() {
        let (headers, kept) = packed(&[("a", 10), ("b", 10)], 500).fit(8192);
        assert_eq!(kept, 500);
        assert!(headers.iter().any(|(name, _)| name == "b"));
        assert!(!headers.iter().any(|(name, _)| name == "Jetgate-Truncated" || name == "Jetgate-Headers-Left-Out"));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said() {
        let said = |headers: &[(String, String)], name: &str| {
            headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        let (headers, kept) = packed(&[("a", 10)], 9000).fit(8192);
        assert!(kept > 7000, "{kept}");
        assert_eq!(said(&headers, "Jetgate-Truncated").unwrap(), "9000");
        assert_eq!(said(&headers, "a").unwrap().len(), 10);
        let (headers, kept) = packed(&[("a", 9000), ("b", 1)], 100).fit(8192);
        assert_eq!((kept, said(&headers, "a"), said(&headers, "Jetgate-Truncated")), (100, None, None));
        assert_eq!(said(&headers, "Jetgate-Headers-Left-Out").unwrap(), "2");
        // Nothing is known of how much may be: what says where the message is goes all the same.
        let (headers, kept) = packed(&[("a", 1)], 7).fit(0);
        assert_eq!((kept, said(&headers, "Jetgate-Sequence").unwrap().as_str()), (0, "42"));
        assert_eq!(said(&headers, "Jetgate-Truncated").unwrap(), "7");
    }

    proptest! {
        #[test]
        fn nothing_is_larger_than_allowed(own in 0_usize..3000, payload in 0_usize..3000, largest in 1000_usize..5000) {
            let packed = packed(&[("a", own)], payload);
            let (headers, kept) = packed.fit(largest);
            let size = |(name, value): &(String, String)| name.len() + value.len() + 4;
            let all: usize = headers.iter().map(size).sum::<usize>() + 12 + 11 + packed.message_id().len() + 4;
            prop_assert!(all + kept <= largest, "{all} + {kept} > {largest}");
            let cut = headers.iter().any(|(name, _)| name == "Jetgate-Truncated");
            prop_assert_eq!(cut, kept < payload);
        }

        #[test]
        fn values_are_one_bounded_line(detail in "(?s).{0,3000}") {
            let id = id();
            let reason = DeadReason::Template;
            let letter = DeadLetter { id: &id, subject: &detail, deliveries: None, reason, detail: &detail };
            for (_, value) in letter.headers() {
                prop_assert!(value.len() <= MAX_DETAIL_BYTES);
                prop_assert!(!value.contains(['\r', '\n', '\0']));
            }
        }
    }
}

//! Who a message is, and how its object shows it.
//!
//! The identity is the whole of namespace, sensor, trigger, stream, sequence and store time. A stream that was made
//! anew counts from 1 again, so a sequence alone would take a new message for an old one; the store time tells them
//! apart. The identity gives the object its name, and stands whole in an annotation beside it.

use std::fmt;
use std::sync::Arc;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The annotation that carries the whole identity of the message an object was made for.
pub const MESSAGE_ANNOTATION: &str = "jetgate.dev/message";
/// The annotation that carries the holder and the number under which an object was made.
pub const CREDIT_ANNOTATION: &str = "jetgate.dev/credit";
/// How many characters of an object's name come from the identity: 128 bits in base32.
pub const NAME_HASH_CHARS: usize = 26;

/// The longest name that every kind takes: a DNS-1123 label, because pods and label values are derived from it.
const NAME_MAX_CHARS: usize = 63;
/// Separates this use of the hash from any other, and one form of the identity from a later one.
const HASH_DOMAIN: &[u8] = b"jetgate/message/1";

/// The identity of one message for one sensor and trigger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The namespace that the object is made in.
    pub namespace: Arc<str>,
    /// The sensor; renaming it makes a new sensor, and all of its messages others.
    pub sensor: Arc<str>,
    /// The trigger of the sensor.
    pub trigger: Arc<str>,
    /// The stream that the message stands in.
    pub stream: Arc<str>,
    /// The sequence in that stream.
    pub sequence: u64,
    /// When the server stored it, in nanoseconds since 1970.
    pub store_time_ns: i64,
}

impl MessageId {
    /// The text of [`MESSAGE_ANNOTATION`]: the parts in order, separated by `/`.
    ///
    /// A `/` or `%` inside a part is written as `%2F` or `%25`, so that every identity has one text and every text
    /// at most one identity.
    #[must_use]
    pub fn annotation(&self) -> String {
        let mut text = String::with_capacity(96);
        for part in self.texts() {
            escape_into(part, &mut text);
            text.push('/');
        }
        text.push_str(&format!("{}/{}", self.sequence, self.store_time_ns));
        text
    }

    /// Reads the text of an annotation; `None` for anything that [`Self::annotation`] does not write.
    #[must_use]
    pub fn parse_annotation(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let id = Self {
            namespace: unescape(parts.next()?)?.into(),
            sensor: unescape(parts.next()?)?.into(),
            trigger: unescape(parts.next()?)?.into(),
            stream: unescape(parts.next()?)?.into(),
            sequence: canonical(parts.next()?)?,
            store_time_ns: canonical(parts.next()?)?,
        };
        parts.next().is_none().then_some(id)
    }

    /// The identity in 26 characters of lower-case base32: 128 bits of SHA-256.
    ///
    /// Each part goes in with its length before it, so that no two identities feed the hash the same bytes.
    #[must_use]
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(HASH_DOMAIN);
        for part in self.texts() {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(self.sequence.to_be_bytes());
        hash.update(self.store_time_ns.to_be_bytes());
        let bits = hash.finalize();
        let mut key = BASE32_NOPAD.encode(bits.get(..16).unwrap_or_default());
        key.make_ascii_lowercase();
        key
    }

    /// The name of the object: the prefix, made fit for a DNS-1123 label, then [`Self::key`].
    ///
    /// A prefix that is too long loses its end, never the key. Characters that no name may have become `-`.
    #[must_use]
    pub fn object_name(&self, prefix: &str) -> String {
        let mut name: String = prefix
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .skip_while(|c| *c == '-')
            .take(NAME_MAX_CHARS)
            .collect();
        let room = NAME_MAX_CHARS - NAME_HASH_CHARS;
        if name.len() > room {
            name.truncate(room - 1);
            name.push('-');
        }
        name.push_str(&self.key());
        name
    }

    /// The id under which a copy of the message is published to another stream (`Nats-Msg-Id`).
    ///
    /// The hop (`dead`, `backlog`, ...) keeps the copies in several streams apart.
    #[must_use]
    pub fn dedup_id(&self, hop: &str) -> String {
        format!("{}-{hop}", self.key())
    }

    /// A number that differs from message to message, for jitter: the same message always has the same.
    #[must_use]
    pub fn seed(&self) -> u64 {
        super::retry::mix(self.sequence ^ self.store_time_ns.cast_unsigned().rotate_left(32))
    }

    fn texts(&self) -> [&str; 4] {
        [&self.namespace, &self.sensor, &self.trigger, &self.stream]
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.annotation())
    }
}

/// Whether an object of this name was made for the message of this annotation.
///
/// Whoever copies an object copies its annotations, and gives it another name: then the end of the name is not the
/// key of the annotation, and the copy counts for nothing. The prefix is not compared, since it may be changed in the
/// sensor file while objects live.
#[must_use]
pub fn owns(annotation: &str, name: &str) -> bool {
    let Some(id) = MessageId::parse_annotation(annotation) else {
        return false;
    };
    name.ends_with(&id.key())
}

/// One holder of credits: one lane of one sensor process, from its start to its end.
///
/// Any text serves: the number behind it in an annotation has no `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct HolderId(Arc<str>);

impl From<String> for HolderId {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<HolderId> for String {
    fn from(id: HolderId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl HolderId {
    /// The id of this text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text of the id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One credit of one holder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CreditId {
    /// Whose credit it is.
    pub holder: HolderId,
    /// Which of the holder's, from 1.
    pub number: u64,
}

impl CreditId {
    /// The text of [`CREDIT_ANNOTATION`]: holder, `/`, number.
    #[must_use]
    pub fn annotation(&self) -> String {
        format!("{}/{}", self.holder, self.number)
    }

    /// Reads the text of an annotation; `None` for anything that [`Self::annotation`] does not write for a number
    /// from 1.
    #[must_use]
    pub fn parse_annotation(text: &str) -> Option<Self> {
        let (holder, number) = text.rsplit_once('/')?;
        let number = canonical(number).filter(|n| *n > 0)?;
        (!holder.is_empty()).then(|| Self { holder: HolderId::new(holder), number })
    }
}

impl fmt::Display for CreditId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.holder, self.number)
    }
}

fn escape_into(part: &str, text: &mut String) {
    for c in part.chars() {
        match c {
            '%' => text.push_str("%25"),
            '/' => text.push_str("%2F"),
            other => text.push(other),
        }
    }
}

fn unescape(part: &str) -> Option<String> {
    let mut text = String::with_capacity(part.len());
    let mut rest = part;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let (c, tail) = match (after.strip_prefix("25"), after.strip_prefix("2F")) {
            (Some(tail), _) => ('%', tail),
            (None, Some(tail)) => ('/', tail),
            (None, None) => return None,
        };
        text.push(c);
        rest = tail;
    }
    text.push_str(rest);
    Some(text)
}

/// A number in the one form that `Display` gives it: no sign that is not needed, no leading zero.
fn canonical<N: std::str::FromStr + fmt::Display>(text: &str) -> Option<N> {
    let number: N = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// What the tests of several modules are about.
#[cfg(test)]
pub(super) mod examples {
    use super::MessageId;

    pub(in crate::message) fn id() -> MessageId {
        MessageId {
            namespace: "team".into(),
            sensor: "orders".into(),
            trigger: "create".into(),
            stream: "EVENTS".into(),
            sequence: 42,
            store_time_ns: 1_790_000_000_000_000_001,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::examples::id;
    use super::*;

    /// The name is part of what runs in clusters: a change here makes every redelivery a second object.
    #[test]
    fn name_and_annotations_are_pinned() {
        assert_eq!(id().annotation(), "team/orders/create/EVENTS/42/1790000000000000001");
        assert_eq!(id().object_name("order-"), PINNED_NAME);
        assert_eq!(id().dedup_id("dead"), format!("{}-dead", id().key()));
        let credit = CreditId { holder: HolderId::new("pod-1.x7"), number: 9 };
        assert_eq!(credit.annotation(), "pod-1.x7/9");
        assert_eq!(CreditId::parse_annotation("pod-1.x7/9"), Some(credit));
    }
    const PINNED_NAME: &str = "order-lhu537iwzola3xxe47ogu6qcee";

    #[test]
    fn every_part_is_in_the_name() {
        let mut others = vec![id()];
        others.push(MessageId { namespace: "team2".into(), ..id() });
        others.push(MessageId { sensor: "order".into(), ..id() });
        others.push(MessageId { trigger: "screate".into(), sensor: "order".into(), ..id() });
        others.push(MessageId { trigger: "c".into(), ..id() });
        others.push(MessageId { stream: "EVENT".into(), ..id() });
        others.push(MessageId { sequence: 43, ..id() });
        others.push(MessageId { store_time_ns: 1_790_000_000_000_000_002, ..id() });
        let names: HashSet<_> = others.iter().map(|i| i.object_name("p-")).collect();
        assert_eq!(names.len(), others.len());
    }

    #[test]
    fn prefixes_become_labels() {
        let key = id().key();
        assert_eq!(id().object_name(""), key);
        assert_eq!(id().object_name("Order_"), format!("order-{key}"));
        assert_eq!(id().object_name("--a.b-"), format!("a-b-{key}"));
        let exact = "x".repeat(37);
        assert_eq!(id().object_name(&exact), format!("{exact}{key}"));
        assert_eq!(id().object_name(&"x".repeat(38)), format!("{}-{key}", "x".repeat(36)));
        assert_eq!(id().object_name(&"x".repeat(3_000)).len(), 63);
    }

    #[test]
    fn a_copied_object_does_not_count() {
        let annotation = id().annotation();
        assert!(owns(&annotation, &id().object_name("order-")));
        assert!(owns(&annotation, &id().object_name("another-")));
        assert!(!owns(&annotation, "order-copy"));
        assert!(!owns(&annotation, &format!("{}-copy", id().object_name("order-"))));
        assert!(!owns("team/orders", &id().object_name("order-")));
        assert!(!owns("", ""));
    }

    #[test]
    fn what_we_did_not_write_is_not_read() {
        for text in ["", "/", "/////", "a/b/c/d/1", "a/b/c/d/1/2/3", "a/b/c/d/01/2", "a/b/c/d/+1/2", "a/b/c/d/-1/2"] {
            assert_eq!(MessageId::parse_annotation(text), None, "{text}");
        }
        assert_eq!(MessageId::parse_annotation("a/b/c%/d/1/2"), None);
        assert_eq!(MessageId::parse_annotation("a/b/c%2f/d/1/2"), None);
        for text in ["", "h", "h/", "/1", "h/0", "h/-1", "h/01", "h/1 "] {
            assert_eq!(CreditId::parse_annotation(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn annotations_come_back(ns in ".*", sensor in "[a-z/%]*", trigger in ".*", stream in "[A-Z%2F5/]*",
                                 sequence: u64, store_time_ns: i64, prefix in ".*") {
            let id = MessageId {
                namespace: ns.into(),
                sensor: sensor.into(),
                trigger: trigger.into(),
                stream: stream.into(),
                sequence,
                store_time_ns,
            };
            prop_assert_eq!(MessageId::parse_annotation(&id.annotation()), Some(id.clone()));
            let name = id.object_name(&prefix);
            prop_assert!(name.len() <= 63);
            prop_assert!(name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()));
            prop_assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
            prop_assert!(owns(&id.annotation(), &name));
        }

        #[test]
        fn any_text_is_read_without_panic(text in ".*", name in ".*") {
            prop_assert!(MessageId::parse_annotation(&text).is_none_or(|id| id.annotation() == text));
            prop_assert!(CreditId::parse_annotation(&text).is_none_or(|id| id.annotation() == text));
            prop_assert!(!owns(&text, &name) || MessageId::parse_annotation(&text).is_some());
        }

        #[test]
        fn credits_come_back(holder in ".+", number in 1..=u64::MAX) {
            let credit = CreditId { holder: HolderId::new(holder), number };
            prop_assert_eq!(CreditId::parse_annotation(&credit.annotation()), Some(credit));
        }
    }
}

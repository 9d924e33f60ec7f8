//! Reports, grants and books: the messages of the credit protocol.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::gate::{Counted, Quantity, Ratio, Reason, ResourceName};
use crate::message::HolderId;
use crate::wire::NumberSet;

/// The version of every message of this module. A reader refuses others and says so.
pub const VERSION: u32 = 1;

/// What one effect costs of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// The key of the quota's hard list.
    pub resource: ResourceName,
    /// How much of it one effect takes.
    pub amount: Quantity,
}

/// The terms of a holder: what its credits stand for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The quota's namespace, in which the objects are created.
    pub namespace: String,
    /// The sensor, whose durable consumer has the same name.
    pub sensor: String,
    /// The stream that the messages come from.
    pub stream: String,
    /// The quotas to respect with the ratio.
    pub quotas: Vec<String>,
    /// The part of hard that may be used.
    #[serde(with = "ratio_text")]
    pub ratio: Ratio,
    /// What one effect costs.
    pub costs: Vec<Cost>,
    /// The kind that an effect creates in the quota's namespace; none for effects that are no object.
    pub created: Option<Counted>,
    /// How long an effect stays counted where its objects cannot be watched.
    #[serde(with = "millis")]
    pub settle_time: Duration,
    /// L: how long a grant is believed.
    #[serde(with = "millis")]
    pub lease: Duration,
    /// P: the longest a create may live.
    #[serde(with = "millis")]
    pub create_timeout: Duration,
}

/// A definite refusal for want of quota, which contradicts what the leader believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Counts the holder's refusals, so that a repeated report does not refuse twice.
    pub count: u64,
    /// The quota that refused, as the API server names it.
    pub quota: String,
}

/// What a holder tells its leader: its full state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`] of the writer.
    pub v: u32,
    /// Who reports; random at each start.
    pub holder: HolderId,
    /// Rises with each report.
    pub seq: u64,
    /// The epoch of the leader that the holder follows; 0 before the first grant.
    pub epoch: u64,
    /// What the credits stand for.
    pub terms: Terms,
    /// The highest number that the holder was granted.
    pub top: u64,
    /// Numbers that are unused, or whose effect has no definite answer.
    pub open: NumberSet,
    /// Numbers whose effect was answered and not yet echoed by the leader.
    pub made: NumberSet,
    /// How many more numbers the holder could use.
    pub want: u64,
    /// The newest refusal for want of quota.
    pub refused: Option<Refusal>,
    /// The holder ends: it takes nothing more, and what is not open or made is returned for good.
    pub leaving: bool,
}

/// What the leader believes of one resource of one quota, for the refusal check, metrics and status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The quota.
    pub quota: String,
    /// The resource.
    pub resource: ResourceName,
    /// The smaller of spec.hard and status.hard.
    pub hard: Quantity,
    /// From the quota's status.
    pub used: Quantity,
    /// Objects of the counted kind; none where they cannot be watched.
    pub live: Option<u64>,
    /// hard x ratio, as this holder's terms have it.
    pub limit: Quantity,
    /// What is left under the limit, credits of all holders taken off.
    pub headroom: Quantity,
    /// The resourceVersion of the quota that was read.
    pub version: u64,
}

/// What the leader tells a holder: totals only, so that a lost or repeated grant changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// [`VERSION`] of the writer.
    pub v: u32,
    /// Whom it is for.
    pub holder: HolderId,
    /// The leader's epoch.
    pub epoch: u64,
    /// The newest report that this answers.
    pub seq: u64,
    /// The highest number granted, confirmed by the books.
    pub top: u64,
    /// Made numbers that the leader has counted out of its books.
    pub made_seen: NumberSet,
    /// Another holder waits for room.
    pub others_wait: bool,
    /// What is believed of the quotas.
    pub readings: Vec<Reading>,
    /// Why no further number is granted, or none.
    pub reason: Option<Reason>,
    /// A person's explanation of the reason.
    pub detail: String,
    /// The holder was taken for dead: it must start a new id.
    pub restart: bool,
}

/// One holder in the books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// Its terms.
    pub terms: Terms,
    /// The highest number granted.
    pub top: u64,
    /// Numbers still out when this was written.
    pub out: NumberSet,
}

/// The books of one namespace: which credits may be out. Written by compare-and-set before a grant is sent.
///
/// One value serves all resources of the namespace, because one credit may cost several of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// [`VERSION`] of the writer.
    pub v: u32,
    /// The epoch of the leader that wrote them.
    pub epoch: u64,
    /// Rises with each write of a leader, so that it knows its own write again after a lost answer.
    pub write: u64,
    /// The holders.
    pub holders: BTreeMap<HolderId, Book>,
}

impl Books {
    /// The books of a namespace that never had a leader.
    #[must_use]
    pub const fn empty() -> Self {
        Self { v: VERSION, epoch: 0, write: 0, holders: BTreeMap::new() }
    }
}

/// A message of this module that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not the JSON that it should be.
    #[error("{what} cannot be read: {source}")]
    Malformed {
        /// Which message.
        what: &'static str,
        /// What the reader said.
        source: serde_json::Error,
    },
    /// Written by a version that this one does not know.
    #[error("{what} has version {found}; this jetgate reads version {VERSION}: run neighbouring versions together")]
    Version {
        /// Which message.
        what: &'static str,
        /// The version found.
        found: u64,
    },
    /// A set of numbers that is not sorted and disjoint.
    #[error("{what} holds a set of numbers that is not sorted and disjoint")]
    Numbers {
        /// Which message.
        what: &'static str,
    },
}

/// Reads a value whose field `v` must be [`VERSION`].
fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, WireError> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u64,
    }
    let malformed = |source| WireError::Malformed { what, source };
    let versioned: Versioned = serde_json::from_slice(bytes).map_err(malformed)?;
    if versioned.v != u64::from(VERSION) {
        return Err(WireError::Version { what, found: versioned.v });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

/// Writes a message. The types of this module have no map keys or numbers that JSON could refuse.
fn write<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, WireError> {
    serde_json::to_vec(value).map_err(|source| WireError::Malformed { what, source })
}

impl Report {
    /// Reads a report; refuses another version and malformed sets.
    ///
    /// # Errors
    /// [`WireError`] says what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let report: Self = read("the report", bytes)?;
        if report.open.is_well_formed() && report.made.is_well_formed() {
            Ok(report)
        } else {
            Err(WireError::Numbers { what: "the report" })
        }
    }

    /// Writes the report.
    ///
    /// # Errors
    /// Only where the serializer fails.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        write("the report", self)
    }
}

impl Grant {
    /// Reads a grant; refuses another version and malformed sets.
    ///
    /// # Errors
    /// [`WireError`] says what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let grant: Self = read("the grant", bytes)?;
        if grant.made_seen.is_well_formed() { Ok(grant) } else { Err(WireError::Numbers { what: "the grant" }) }
    }

    /// Writes the grant.
    ///
    /// # Errors
    /// Only where the serializer fails.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        write("the grant", self)
    }
}

impl Books {
    /// Reads the books; refuses another version and malformed sets.
    ///
    /// # Errors
    /// [`WireError`] says what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let books: Self = read("the books", bytes)?;
        if books.holders.values().all(|book| book.out.is_well_formed()) {
            Ok(books)
        } else {
            Err(WireError::Numbers { what: "the books" })
        }
    }

    /// Writes the books.
    ///
    /// # Errors
    /// Only where the serializer fails.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        write("the books", self)
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

mod ratio_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::gate::Ratio;

    pub(super) fn serialize<S: Serializer>(ratio: &Ratio, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(ratio)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ratio, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

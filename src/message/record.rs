//! Which messages have had their object: the memory that outlives the object.
//!
//! The leader keeps one record per consumer, as a projection of its object watch: the sequences whose object was seen
//! and the resourceVersion up to which it looked are one value, stored by compare-and-set. So a record of version `v`
//! knows every object that was made at or before `v`, except in a gap (`410 Gone`), which it says.
//!
//! # Size
//!
//! Above the floor the sequences are runs. A dense stream has at most one run more than messages without an ack, which
//! `max_ack_pending` bounds; a sparse filter has one per message above the floor, so that one message that can't be
//! made for very long lets them grow. At [`MAX_RANGES`] the record takes no more runs (it still joins what touches
//! one) and remembers the span of what it could not take. Those messages are then as after a gap: [`Record::in_doubt`]
//! is true for them, a redelivery is looked up by name, and where nothing is found `ON_DOUBT` decides. That ends by
//! itself when the floor has passed the span.
//!
//! # A stream that lost its end
//!
//! A server that crashes may lose the last stored messages and give their sequences to new ones. What the record knows
//! of those sequences belongs to messages that are gone. So it keeps the newest sequence that it saw, or that lies below
//! its floor, with a time when that was surely stored:
//! a message with a lower sequence and a clearly later time can't be (a sequence is stored once, and time goes on).
//! [`Record::says`] does not speak for such a message, and [`Record::saw`] and [`Record::stream_ends_at`] drop
//! all that is known then, and count it as a gap.

use serde::{Deserialize, Serialize};

use super::ranges::{Ranges, Run};

/// The most runs above the floor.
pub const MAX_RANGES: usize = 4_096;
/// The most bytes of [`Record::encode`]: two numbers of 20 digits and their commas for each run, and the rest.
/// Well below the megabyte that a server takes by default.
pub const MAX_ENCODED_BYTES: usize = MAX_RANGES * 42 + 512;

/// The version of the encoding. A reader refuses any other, because guessing here makes objects twice.
const ENCODING: u64 = 1;
/// How much earlier than a lower sequence a higher one may be stored: the server's clock may be set back a little.
const CLOCK_STEP_NS: i64 = 1_000_000_000;

/// What the record says about one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// The message had its object, or lies below the floor.
    Done,
    /// The record, as of its version, knows no object of it.
    NotYet,
}

/// What became of a sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saw {
    /// The record did not know.
    New,
    /// It knew already.
    Known,
    /// It has no room for another run, so the message is in doubt from now on.
    Full,
    /// The stream gives its sequences a second time: all that was known is dropped but this sighting.
    StreamRegressed,
}

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not the JSON of a record.
    #[error("the record is not readable")]
    Json(#[from] serde_json::Error),
    /// Written by another version of jetgate.
    #[error("the record has encoding version {found}, and this jetgate reads version {ENCODING} only")]
    Encoding {
        /// The version found.
        found: u64,
    },
    /// JSON of the right form whose numbers can't be.
    #[error("the record contradicts itself: {0}")]
    Corrupt(&'static str),
}

/// The record of one consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    stream_created_ns: i64,
    floor: u64,
    done: Ranges,
    version: u64,
    gaps: u64,
    gap_upto: u64,
    untaken: Option<Run>,
    newest_sequence: u64,
    newest_time_ns: i64,
}

impl Record {
    /// An empty record of the stream that was created then.
    #[must_use]
    pub fn new(stream_created_ns: i64) -> Self {
        Self {
            stream_created_ns,
            floor: 0,
            done: Ranges::default(),
            version: 0,
            gaps: 0,
            gap_upto: 0,
            untaken: None,
            newest_sequence: 0,
            newest_time_ns: 0,
        }
    }

    /// When the stream was created, in nanoseconds since 1970. A stream with another time is another one: its record
    /// begins empty.
    #[must_use]
    pub const fn stream_created_ns(&self) -> i64 {
        self.stream_created_ns
    }

    /// All sequences below it are done.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.floor
    }

    /// The resourceVersion up to which every object is in the record; 0 before the first list.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// How many gaps there were since the record began.
    #[must_use]
    pub const fn gaps(&self) -> u64 {
        self.gaps
    }

    /// How many runs stand above the floor.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.done.runs().len()
    }

    /// Whether sightings had to be left out, so that messages are in doubt until the floor has passed them.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.untaken.is_some()
    }

    /// What the record says about the message with this sequence and store time.
    #[must_use]
    pub fn says(&self, sequence: u64, store_time_ns: i64) -> Says {
        if self.knows(sequence) && !self.regressed(sequence, store_time_ns) { Says::Done } else { Says::NotYet }
    }

    /// The object of the message with this sequence and store time was seen.
    pub fn saw(&mut self, sequence: u64, store_time_ns: i64) -> Saw {
        let regressed = self.regressed(sequence, store_time_ns);
        if regressed {
            self.forget();
        }
        let known = self.knows(sequence);
        let full = !known && self.done.needs_run_for(sequence) && self.done.runs().len() >= MAX_RANGES;
        if full {
            let span = self.untaken.unwrap_or(Run { first: sequence, last: sequence });
            self.untaken = Some(Run { first: span.first.min(sequence), last: span.last.max(sequence) });
        } else if !known {
            self.done.insert(Run { first: sequence, last: sequence });
            self.settle();
        }
        self.newest_sequence = self.newest_sequence.max(sequence);
        self.newest_time_ns = self.newest_time_ns.max(store_time_ns);
        match (regressed, full, known) {
            (true, _, _) => Saw::StreamRegressed,
            (false, true, _) => Saw::Full,
            (false, false, true) => Saw::Known,
            (false, false, false) => Saw::New,
        }
    }

    /// All below `floor` is acknowledged (the consumer's ack floor plus one), and was stored at this time or before. It
    /// never falls.
    ///
    /// Ask [`Self::stream_ends_at`] first.
    pub fn raise_floor(&mut self, floor: u64, stored_by_ns: i64) {
        if floor > self.floor {
            self.floor = floor;
            // Most of them were never seen, where a filter leaves sequences out. Given anew they are known by their time.
            self.newest_sequence = self.newest_sequence.max(floor.saturating_sub(1));
            self.newest_time_ns = self.newest_time_ns.max(stored_by_ns);
        }
        self.settle();
    }

    /// Every object that was made at or before this resourceVersion has been seen. It never falls.
    pub fn advance(&mut self, version: u64) {
        self.version = self.version.max(version);
    }

    /// The versions of the API server began again (another cluster, or one restored from a backup): what was done
    /// stays done, and from here on its versions count. To be followed by [`Self::mark_gap`];
    /// 0 until then, so that nobody goes on from a version behind a gap that is not marked.
    pub fn rewind(&mut self, version: u64) {
        self.version = version;
    }

    /// The watch could not go on where it was (`410 Gone`), and a list took its place.
    ///
    /// `handed_out` is the highest sequence that the consumer had delivered when the list ended: what was delivered
    /// later can't have had its object in the gap.
    pub fn mark_gap(&mut self, handed_out: u64) {
        self.gaps = self.gaps.saturating_add(1);
        self.gap_upto = self.gap_upto.max(handed_out);
        self.settle();
    }

    /// Whether an object of this message may have come and gone without the record: it was handed out before the end
    /// of a gap, or the record was full.
    ///
    /// It concerns only a message that is delivered again and whose object is not there. One that was merely never
    /// tried is in doubt too, since nobody remembers that.
    #[must_use]
    pub fn in_doubt(&self, sequence: u64) -> bool {
        let untaken = self.untaken.is_some_and(|span| (span.first..=span.last).contains(&sequence));
        !self.knows(sequence) && (sequence <= self.gap_upto || untaken)
    }

    /// The highest sequence that the record knows of: the stream has had it.
    #[must_use]
    pub fn reach(&self) -> u64 {
        self.newest_sequence.max(self.floor.saturating_sub(1))
    }

    /// The stream's last sequence was this when it was asked for; `reach` is [`Self::reach`] of the moment before, because
    /// the stream may have grown since, and the record with it. Gives true, and drops all that is known, if the record
    /// knew of a later one: then the stream has lost its end.
    pub fn stream_ends_at(&mut self, last_sequence: u64, reach: u64) -> bool {
        let lost = last_sequence < reach.min(self.reach());
        if lost {
            self.forget();
        }
        lost
    }

    /// The record in compact JSON, at most [`MAX_ENCODED_BYTES`] long.
    ///
    /// # Errors
    /// Never in practice: the form holds nothing but numbers.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let mut done = Vec::with_capacity(self.done.runs().len() * 2);
        let mut end = 0_u64;
        for run in self.done.runs() {
            done.push(run.first - end);
            done.push(run.last - run.first);
            end = run.last;
        }
        let stored = Stored {
            v: ENCODING,
            stream_created_ns: self.stream_created_ns,
            floor: self.floor,
            version: self.version,
            gaps: self.gaps,
            gap_upto: self.gap_upto,
            untaken: self.untaken.map(|span| (span.first, span.last)),
            newest: (self.newest_sequence, self.newest_time_ns),
            done,
        };
        Ok(serde_json::to_vec(&stored)?)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are no record, one of another encoding, or one that contradicts itself. None of these may be
    /// taken for an empty record: that would make objects again.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let head: Head = serde_json::from_slice(bytes)?;
        if head.v != ENCODING {
            return Err(RecordError::Encoding { found: head.v });
        }
        let stored: Stored = serde_json::from_slice(bytes)?;
        let (pairs, odd) = stored.done.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(RecordError::Corrupt("a run has no length"));
        }
        if pairs.len() > MAX_RANGES {
            return Err(RecordError::Corrupt("there are too many runs"));
        }
        if stored.untaken.is_some_and(|(first, last)| first > last) {
            return Err(RecordError::Corrupt("a span ends before it begins"));
        }
        let mut done = Ranges::default();
        let mut end = 0_u64;
        for [skip, more] in pairs {
            let first = end.checked_add(*skip).ok_or(RecordError::Corrupt("a sequence is too large"))?;
            end = first.checked_add(*more).ok_or(RecordError::Corrupt("a sequence is too large"))?;
            done.insert(Run { first, last: end });
        }
        if done.runs().len() != pairs.len() {
            return Err(RecordError::Corrupt("two runs overlap or touch"));
        }
        let mut record = Self {
            stream_created_ns: stored.stream_created_ns,
            floor: stored.floor,
            done,
            version: stored.version,
            gaps: stored.gaps,
            gap_upto: stored.gap_upto,
            untaken: stored.untaken.map(|(first, last)| Run { first, last }),
            newest_sequence: stored.newest.0,
            newest_time_ns: stored.newest.1,
        };
        record.settle();
        Ok(record)
    }

    fn knows(&self, sequence: u64) -> bool {
        sequence < self.floor || self.done.contains(sequence)
    }

    fn regressed(&self, sequence: u64, store_time_ns: i64) -> bool {
        // Without any sighting there is no time to compare with; sequences start at 1.
        sequence <= self.newest_sequence && store_time_ns > self.newest_time_ns.saturating_add(CLOCK_STEP_NS)
    }

    /// Drops all that is known of sequences; what was seen is in doubt from now on.
    fn forget(&mut self) {
        self.gap_upto = self.gap_upto.max(self.newest_sequence).max(self.floor.saturating_sub(1));
        self.gaps = self.gaps.saturating_add(1);
        self.floor = 0;
        self.done.clear();
        self.untaken = None;
        self.newest_sequence = 0;
        self.newest_time_ns = 0;
    }

    /// Moves the floor over what is done right at it, and drops what lies below.
    fn settle(&mut self) {
        self.done.remove_below(self.floor);
        if let Some(run) = self.done.runs().first().copied()
            && run.first == self.floor
        {
            self.floor = run.last.saturating_add(1);
            self.done.remove_below(self.floor);
        }
        if self.gap_upto < self.floor {
            self.gap_upto = 0;
        }
        if self.untaken.is_some_and(|span| span.last < self.floor) {
            self.untaken = None;
        }
    }
}

#[derive(Deserialize)]
struct Head {
    v: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    v: u64,
    stream_created_ns: i64,
    floor: u64,
    version: u64,
    gaps: u64,
    gap_upto: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    untaken: Option<(u64, u64)>,
    newest: (u64, i64),
    /// For each run, how far it begins from the end of the last one and how many follow its first.
    done: Vec<u64>,
}

#[cfg(test)]
mod tests;

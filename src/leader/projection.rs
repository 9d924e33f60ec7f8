//! The record as a projection of the object watch: which stream sequences have had their object.

use std::time::{Duration, Instant};

use crate::k8s::Sight;
use crate::message::{MessageId, Record};

/// How long seen objects may wait to be written, so that many go in one write. A message that is waiting for the
/// record waits this long at most beside the write itself.
pub(super) const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// The record of one consumer, with what is not written yet.
#[derive(Debug)]
pub(super) struct Projection {
    namespace: String,
    sensor: String,
    stream: String,
    record: Record,
    /// The revision of the stored value; none where there is none.
    pub(super) revision: Option<u64>,
    dirty_since: Option<Instant>,
}

impl Projection {
    pub(super) fn new(namespace: &str, sensor: &str, stream: &str, record: Record, revision: Option<u64>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            sensor: sensor.to_owned(),
            stream: stream.to_owned(),
            record,
            revision,
            dirty_since: None,
        }
    }

    pub(super) const fn record(&self) -> &Record {
        &self.record
    }

    /// When the record is to be written, if anything changed.
    pub(super) fn flush_at(&self) -> Option<Instant> {
        self.dirty_since.map(|since| since + FLUSH_AFTER)
    }

    /// The value to write; what changes from now on goes into the next write.
    pub(super) fn take(&mut self) -> Record {
        self.dirty_since = None;
        self.record.clone()
    }

    /// The write did not happen: it is still owed.
    pub(super) fn owe(&mut self, now: Instant) {
        self.dirty_since.get_or_insert(now);
    }

    /// An object that exists, or existed: a deletion tells as much as a creation.
    pub(super) fn saw(&mut self, sight: &Sight, now: Instant) {
        let Some(id) = sight.message.as_deref().and_then(MessageId::parse_annotation) else { return };
        let ours = id.namespace == self.namespace && id.sensor == self.sensor && id.stream == self.stream;
        // An older store time than the stream's creation is another stream's that had the same name.
        if !ours || id.store_time_ns < self.record.stream_created_ns() || !MessageId::owns_name(&id, &sight.name) {
            return;
        }
        if self.record.saw(id.sequence) {
            self.owe(now);
        }
    }

    /// The watch has told everything up to this version.
    pub(super) fn advance(&mut self, version: u64, now: Instant) {
        if self.record.advance(version) {
            self.owe(now);
        }
    }

    /// The consumer's ack floor: everything up to it is done.
    pub(super) fn raise_floor(&mut self, floor: u64, now: Instant) {
        if self.record.raise_floor(floor) {
            self.owe(now);
        }
    }

    /// The watch lost its place: what came and went meanwhile is unknown, for messages handed out up to `upto`.
    pub(super) fn mark_gap(&mut self, upto: u64, now: Instant) {
        self.record.mark_gap(upto);
        self.owe(now);
    }
}

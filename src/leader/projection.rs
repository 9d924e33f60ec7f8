//! The record as a projection of the object watch: which stream sequences have had their object.

use std::time::{Duration, Instant};

use crate::k8s::Sight;
use crate::message::{MessageId, Record, Saw, owns};

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
        let Some(text) = sight.message.as_deref() else { return };
        let Some(id) = MessageId::parse_annotation(text) else { return };
        let ours = *id.namespace == *self.namespace && *id.sensor == *self.sensor && *id.stream == *self.stream;
        // An older store time than the stream's creation is another stream's that had the same name.
        if !ours || id.store_time_ns < self.record.stream_created_ns() || !owns(text, &sight.name) {
            return;
        }
        match self.record.saw(id.sequence, id.store_time_ns) {
            Saw::Known => {}
            Saw::New | Saw::Full => self.owe(now),
            Saw::StreamRegressed => {
                tracing::warn!(
                    stream = self.stream,
                    sequence = id.sequence,
                    "the stream gives its sequences a second time: the record begins again"
                );
                self.owe(now);
            }
        }
    }

    /// The watch has told everything up to this version.
    pub(super) fn advance(&mut self, version: u64, now: Instant) {
        if version > self.record.version() {
            self.record.advance(version);
            self.owe(now);
        }
    }

    /// The API server's versions began again, lower than ours.
    pub(super) fn rewind(&mut self, version: u64, now: Instant) {
        self.record.rewind(version);
        self.owe(now);
    }

    /// Facts of one moment: the stream's last sequence and the consumer's ack floor, up to which everything is done.
    /// True when the stream has lost its end, so that nothing known of it holds any more.
    pub(super) fn facts(&mut self, last_sequence: u64, ack_floor: u64, now: Instant) -> bool {
        let lost = self.record.stream_ends_at(last_sequence);
        if lost {
            self.owe(now);
        }
        // A consumer that is ahead of its stream speaks of messages that are gone: others will have their sequences.
        let floor = if ack_floor > last_sequence { 0 } else { ack_floor.saturating_add(1) };
        if floor > self.record.floor() {
            self.record.raise_floor(floor);
            self.owe(now);
        }
        lost
    }

    /// The watch lost its place: what came and went meanwhile is unknown, for messages handed out up to `upto`.
    pub(super) fn mark_gap(&mut self, upto: u64, now: Instant) {
        self.record.mark_gap(upto);
        self.owe(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::message::Says;

    const LATER: i64 = i64::MAX;

    fn projection() -> Projection {
        Projection::new("team", "orders", "EVENTS", Record::new(1), None)
    }

    #[test]
    fn a_consumer_that_is_ahead_of_its_stream_raises_no_floor() {
        let now = clock::now();
        let mut projection = projection();
        assert!(!projection.facts(100, 100, now));
        assert_eq!(projection.record().floor(), 101);
        // The server was killed and the stream lost what lay beyond 90; 91 to 95 are new.
        assert!(projection.facts(95, 100, now));
        for _ in 0..2 {
            assert_eq!(projection.record().says(93, LATER), Says::NotYet);
            assert!(projection.record().in_doubt(93));
            assert!(!projection.facts(97, 100, now));
        }
    }
}

//! The record as a projection of the object watch: which stream sequences have had their object.

use std::time::{Duration, Instant};

use crate::k8s::Sight;
use crate::message::{MessageId, Record, Saw, owns};

/// How long seen objects may wait to be written, so that many go in one write. A message that is waiting for the
/// record waits this long at most beside the write itself.
pub(super) const FLUSH_AFTER: Duration = Duration::from_millis(50);

/// How the list that begins a watch stands to what the record knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// The watch goes on from the record's version, or nothing was watched before.
    InPlace,
    /// The API server forgot what happened since the last watch (`410 Gone`).
    Expired,
    /// The objects could not be watched until now, and nothing stands in the record to go on from.
    Blind,
}

/// Why the record may lack objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    Expired,
    Blind,
    Rewound,
    /// There is no record, or none that a watch could go on from, and nobody knows of a time before it.
    NoRecord,
}

impl Doubt {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "the API server forgot what happened since the last watch (410 Gone)",
            Self::Blind => "the objects could not be watched until now",
            Self::Rewound => "the API server's versions began again (another cluster, or one restored from a backup)",
            Self::NoRecord => "messages were handed out before, and there is no record of them",
        }
    }
}

/// A gap that is not marked yet: until then the record keeps a version that makes a successor find it again.
#[derive(Debug)]
struct Gap {
    doubt: Doubt,
    /// When the list that ended it was there.
    since: Instant,
    /// The version that the record will have when it is marked.
    version: u64,
}

/// What a consumer has handed out.
#[derive(Debug, Clone, Copy)]
pub(super) struct HandedOut {
    /// Up to this sequence.
    pub(super) upto: u64,
    /// So many messages, each delivery counted.
    pub(super) deliveries: u64,
    /// When that was asked for.
    pub(super) began: Instant,
}

/// The end of the stream at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamEnd {
    /// Its last sequence.
    pub(super) sequence: u64,
    /// When that was stored, where the server knows it.
    pub(super) stored_ns: Option<i64>,
}

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
    gap: Option<Gap>,
    /// As read last.
    stream_end: Option<StreamEnd>,
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
            gap: None,
            stream_end: None,
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

    /// The list that begins a watch is in, with this version. True when what the consumer has handed out is to be told.
    ///
    /// A gap is marked together with the version that the record gets behind it. Until then the stored version is one
    /// that no watch can go on from (the old one, or none), so that whoever comes next finds the gap again.
    pub(super) fn listed(&mut self, version: u64, begin: Begin, now: Instant) -> bool {
        let rewound = version < self.record.version();
        let doubt = match (begin, rewound) {
            (Begin::Expired, _) => Some(Doubt::Expired),
            (Begin::Blind, _) => Some(Doubt::Blind),
            (Begin::InPlace, true) => Some(Doubt::Rewound),
            (Begin::InPlace, false) => (self.record.version() == 0).then_some(Doubt::NoRecord),
        };
        if rewound {
            self.record.rewind(0);
            self.owe(now);
        }
        match (&mut self.gap, doubt) {
            // One after the other: the first one stays, and ends with the newest list.
            (Some(gap), Some(_)) => (gap.since, gap.version) = (now, version),
            (None, Some(doubt)) => self.gap = Some(Gap { doubt, since: now, version }),
            // A watch that resumes behind this list moves the version itself.
            (Some(_) | None, None) => {}
        }
        self.gap.is_some()
    }

    /// The watch has told everything up to this version. The record's version waits for a gap to be marked: until then
    /// no version proves anything.
    pub(super) fn advance(&mut self, version: u64, now: Instant) {
        match &mut self.gap {
            Some(gap) => gap.version = gap.version.max(version),
            None if version > self.record.version() => {
                self.record.advance(version);
                self.owe(now);
            }
            None => {}
        }
    }

    /// A gap waits for what the consumer had handed out.
    pub(super) const fn has_open_gap(&self) -> bool {
        self.gap.is_some()
    }

    /// Marks the gap, once it is known what the consumer had handed out when the list had ended; says why there was one.
    pub(super) fn close_gap(&mut self, handed_out: HandedOut, now: Instant) -> Option<Doubt> {
        let gap = self.gap.take_if(|gap| handed_out.began >= gap.since)?;
        // Where nothing was ever handed out there is nothing that a record could lack.
        let marked = gap.doubt != Doubt::NoRecord || handed_out.deliveries > 0;
        if marked {
            self.record.mark_gap(handed_out.upto);
        }
        self.record.advance(gap.version);
        self.owe(now);
        marked.then_some(gap.doubt)
    }

    /// The consumer's ack floor, up to which everything is done, and behind it the end of the stream; `reach` is the
    /// record's of before both were asked for. True when the stream has lost its end, so that nothing known of it holds
    /// any more.
    pub(super) fn facts(&mut self, end: StreamEnd, ack_floor: u64, reach: u64, now: Instant) -> bool {
        let lost = self.record.stream_ends_at(end.sequence, reach);
        if lost {
            self.owe(now);
        }
        // A stream that loses its end between these two answers and fills up again shows nothing. So the floor follows up
        // to an end that was read before: what is given anew after that has a later time, by which the record knows it.
        // A consumer that is ahead of its stream speaks of messages that are gone: others will have their sequences.
        let before = std::mem::replace(&mut self.stream_end, (ack_floor <= end.sequence).then_some(end));
        if let Some(StreamEnd { sequence, stored_ns: Some(stored_by) }) =
            before.filter(|_| !lost && ack_floor <= end.sequence)
        {
            let floor = ack_floor.min(sequence).saturating_add(1);
            if floor > self.record.floor() {
                self.record.raise_floor(floor, stored_by);
                self.owe(now);
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::message::Says;

    const STORED: i64 = 5_000_000_000;
    const LATER: i64 = i64::MAX;

    fn projection() -> Projection {
        Projection::new("team", "orders", "EVENTS", Record::new(1), None)
    }

    fn end(sequence: u64) -> StreamEnd {
        StreamEnd { sequence, stored_ns: Some(STORED) }
    }

    #[test]
    fn a_consumer_that_is_ahead_of_its_stream_raises_no_floor() {
        let now = clock::now();
        let mut projection = projection();
        for _ in 0..2 {
            assert!(!projection.facts(end(100), 100, projection.record().reach(), now));
        }
        assert_eq!(projection.record().floor(), 101);
        // The server was killed and the stream lost what lay beyond 90; 91 to 95 are new.
        assert!(projection.facts(end(95), 100, projection.record().reach(), now));
        for _ in 0..2 {
            assert_eq!(projection.record().says(93, LATER), Says::NotYet);
            assert!(projection.record().in_doubt(93));
            assert!(!projection.facts(end(97), 100, projection.record().reach(), now));
        }
    }

    #[test]
    fn a_stream_that_lost_its_end_and_filled_up_unnoticed_makes_nothing_done() {
        let now = clock::now();
        let mut projection = projection();
        projection.facts(end(100), 0, 0, now);
        projection.facts(end(100), 100, 0, now);
        assert_eq!(projection.record().says(93, STORED), Says::Done);
        // 91 and all later ones were lost, and as many and more came again before anybody looked.
        assert_eq!(projection.record().says(93, LATER), Says::NotYet);
        projection.facts(end(150), 90, 100, now);
        assert_eq!(projection.record().says(93, LATER), Says::NotYet);
        // A consumer's word from before the loss, beside an end from after it: 151 to 180 may be new.
        projection.facts(StreamEnd { sequence: 300, stored_ns: Some(LATER) }, 180, 150, now);
        assert_eq!(projection.record().says(170, LATER), Says::NotYet);
        assert_eq!(projection.record().says(150, STORED), Says::Done);
    }

    #[test]
    fn what_was_seen_while_the_end_was_asked_for_is_no_loss() {
        let now = clock::now();
        let mut projection = projection();
        for sequence in 1..=100 {
            projection.record.saw(sequence, STORED);
        }
        let asked = projection.record().reach();
        projection.record.saw(101, STORED);
        assert!(!projection.facts(end(100), 0, asked, now));
        assert_eq!((projection.record().says(101, STORED), projection.record().gaps()), (Says::Done, 0));
        assert!(projection.facts(end(100), 0, projection.record().reach(), now), "asked for later");
    }

    #[test]
    fn an_end_without_a_time_raises_no_floor() {
        let now = clock::now();
        let mut projection = projection();
        for _ in 0..3 {
            projection.facts(StreamEnd { sequence: 100, stored_ns: None }, 100, 0, now);
        }
        assert_eq!(projection.record().floor(), 0);
    }

    fn handed_out(deliveries: u64, began: Instant) -> HandedOut {
        HandedOut { upto: 7, deliveries, began }
    }

    /// What a successor finds whenever the process is killed.
    fn successor(projection: &Projection) -> Projection {
        let record = Record::decode(&projection.record().encode().unwrap()).unwrap();
        Projection::new("team", "orders", "EVENTS", record, Some(1))
    }

    #[test]
    fn no_record_of_a_consumer_that_has_handed_out_is_a_gap() {
        let now = clock::now();
        let mut lost = projection();
        assert!(lost.listed(50, Begin::InPlace, now));
        lost.advance(60, now);
        assert_eq!(lost.record().version(), 0, "nothing is proven before the gap is marked");
        assert_eq!(lost.close_gap(handed_out(9, now), now), Some(Doubt::NoRecord));
        assert_eq!((lost.record().gaps(), lost.record().version()), (1, 60));
        assert!(lost.record().in_doubt(7) && !lost.record().in_doubt(8));
        // From then on there is one.
        let mut next = successor(&lost);
        assert!(!next.listed(70, Begin::InPlace, now));
        assert_eq!(next.close_gap(handed_out(9, now), now), None);
    }

    #[test]
    fn nothing_handed_out_is_no_gap() {
        let now = clock::now();
        let mut projection = projection();
        assert!(projection.listed(50, Begin::InPlace, now));
        assert_eq!(projection.close_gap(handed_out(0, now), now), None);
        assert_eq!((projection.record().gaps(), projection.record().version()), (0, 50));
    }

    #[test]
    fn a_kill_before_a_gap_is_marked_never_hides_it() {
        let now = clock::now();
        for (begin, version, stays) in [(Begin::Expired, 900, 500), (Begin::InPlace, 40, 0)] {
            let mut projection = projection();
            projection.listed(500, Begin::InPlace, now);
            projection.close_gap(handed_out(0, now), now);
            assert!(projection.listed(version, begin, now), "{begin:?}");
            projection.advance(version + 10, now);
            // It goes on from a version that the API server has forgotten, or from none.
            let mut next = successor(&projection);
            assert_eq!((next.record().version(), next.record().gaps()), (stays, 0), "{begin:?}");
            assert!(next.listed(version + 20, begin, now), "{begin:?}");
            assert!(next.close_gap(handed_out(9, now), now).is_some(), "{begin:?}");
            assert_eq!((next.record().version(), next.record().gaps()), (version + 20, 1), "{begin:?}");
            // So does the one that lives.
            assert_eq!(projection.close_gap(handed_out(9, now - FLUSH_AFTER), now), None, "asked for before the list");
            assert!(projection.close_gap(handed_out(9, now), now).is_some());
            assert_eq!((projection.record().version(), projection.record().gaps()), (version + 10, 1), "{begin:?}");
        }
    }
}

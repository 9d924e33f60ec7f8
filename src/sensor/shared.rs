//! What the lane and its messages share.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::limiter::Limiter;
use super::trigger::Trigger;
use crate::jetstream::{Acker, Connection, ConnectionState};
use crate::message::{Displaced, HolderId, MessageId, QuotaRefusal, Record, Says, Terms};
use crate::telemetry::SensorMetrics;
use crate::wire::{Grant, Reading};

/// Who the messages are handled for.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) namespace: Arc<str>,
    pub(super) sensor: Arc<str>,
    pub(super) trigger: Arc<str>,
    pub(super) stream: Arc<str>,
    /// When the stream was created, as last looked up; written by the lane alone.
    pub(super) stream_created: Arc<AtomicI64>,
}

/// The sensor's copy of the record.
#[derive(Debug, Clone, Default)]
pub(super) enum RecordCopy {
    /// Not read yet: nothing is known, so a redelivery waits.
    #[default]
    Unread,
    /// No record is kept: the objects may not be watched, or the effects are no objects. What it knew when it was kept
    /// is true still.
    Unkept(Option<Arc<Record>>),
    /// As last read.
    Kept(Arc<Record>),
}

/// Whether messages may be handed out, as far as it is for the record to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// A record stands that a successor can go on from, or none is kept.
    Stands,
    /// None stands yet.
    Settling,
    /// Whether it is one of this stream is not known until the stream has answered.
    StreamUnknown,
}

/// What every message in hand has to hear of at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Alert {
    /// The connection's epoch, and whether it is up.
    pub(super) connection: (u64, bool),
    /// Holders that the leader took for dead: the newest.
    pub(super) dead_holder: Option<HolderId>,
    /// The process ends.
    pub(super) shutdown: bool,
    /// How often the consumer may have forgotten what it handed out, with the connection in place.
    pub(super) forgotten: u64,
    /// The messages in hand whose sequence the stream gave to another one.
    pub(super) displaced: Displaced,
}

/// What the lane knows and a message needs at a step.
#[derive(Debug, Default)]
struct LaneFacts {
    /// Whose lease it is: a message of an older holder has none any more.
    holder: Option<HolderId>,
    lease_until: Option<Instant>,
    readings: Arc<[Reading]>,
}

pub(super) struct Shared {
    pub(super) identity: Identity,
    pub(super) trigger: Trigger,
    pub(super) terms: Terms,
    pub(super) connection: Connection,
    /// The connection's state, to be looked at.
    pub(super) connection_state: watch::Receiver<ConnectionState>,
    pub(super) acker: Acker,
    pub(super) dead_letter_subject: String,
    pub(super) metrics: SensorMetrics,
    pub(super) limiter: Limiter,
    pub(super) record: watch::Receiver<RecordCopy>,
    pub(super) alerts: watch::Sender<Alert>,
    /// Whether `stream_created` was looked up since the consumer may last have forgotten something.
    stream_known: AtomicBool,
    facts: Mutex<LaneFacts>,
}

/// What the record says of one message, all of one and the same value.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordFacts {
    pub(super) says: Says,
    pub(super) version: Option<u64>,
    pub(super) in_doubt: bool,
}

impl Shared {
    #[allow(clippy::too_many_arguments, reason = "one call, at the start")]
    pub(super) fn new(
        identity: Identity,
        trigger: Trigger,
        terms: Terms,
        connection: Connection,
        dead_letter_subject: String,
        metrics: SensorMetrics,
        limiter: Limiter,
        record: watch::Receiver<RecordCopy>,
    ) -> Self {
        Self {
            identity,
            trigger,
            terms,
            acker: Acker::new(connection.clone()),
            connection_state: connection.state(),
            connection,
            dead_letter_subject,
            metrics,
            limiter,
            record,
            alerts: watch::Sender::new(Alert::default()),
            stream_known: AtomicBool::new(true),
            facts: Mutex::new(LaneFacts::default()),
        }
    }

    pub(super) fn message_id(&self, sequence: u64, store_time_ns: i64) -> MessageId {
        MessageId {
            namespace: Arc::clone(&self.identity.namespace),
            sensor: Arc::clone(&self.identity.sensor),
            trigger: Arc::clone(&self.identity.trigger),
            stream: Arc::clone(&self.identity.stream),
            sequence,
            store_time_ns,
        }
    }

    fn facts(&self) -> MutexGuard<'_, LaneFacts> {
        // Plain values behind it: whoever panicked left them whole.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lease_until(&self, holder: &HolderId) -> Option<Instant> {
        let facts = self.facts();
        facts.lease_until.filter(|_| facts.holder.as_ref() == Some(holder))
    }

    /// Whose lease holds until when.
    pub(super) fn publish_lease(&self, holder: &HolderId, lease_until: Option<Instant>) {
        let mut facts = self.facts();
        if facts.holder.as_ref() != Some(holder) {
            facts.holder = Some(holder.clone());
        }
        facts.lease_until = lease_until;
    }

    /// What the leader last told of the quotas.
    pub(super) fn publish_readings(&self, grant: &Grant) {
        self.facts().readings = grant.readings.clone().into();
    }

    /// When the stream was created; none while it may be another one than was last looked up.
    pub(super) fn publish_stream(&self, created_ns: Option<i64>) {
        if let Some(created_ns) = created_ns {
            self.identity.stream_created.store(created_ns, Ordering::Relaxed);
        }
        self.stream_known.store(created_ns.is_some(), Ordering::Release);
    }

    pub(super) fn record_facts(&self, sequence: u64, store_time_ns: i64) -> RecordFacts {
        let copy = self.record.borrow();
        let (record, kept) = match &*copy {
            RecordCopy::Unread => (None, true),
            RecordCopy::Unkept(last) => (last.as_ref(), false),
            RecordCopy::Kept(record) => (Some(record), true),
        };
        let known = self.stream_known.load(Ordering::Acquire);
        let record = record.filter(|record| known && self.is_of_this_stream(record));
        RecordFacts {
            says: record.map_or(Says::NotYet, |record| record.says(sequence, store_time_ns)),
            // A version below every other: nothing is proven by it.
            version: (kept || !known).then(|| record.map_or(0, |record| record.version())),
            in_doubt: record.is_some_and(|record| record.in_doubt(sequence)),
        }
    }

    /// Nothing is to be handed out before a record stands: whoever is killed then leaves no doubt behind.
    pub(super) fn standing(&self) -> Standing {
        match &*self.record.borrow() {
            RecordCopy::Unread => Standing::Settling,
            // Nothing is asked of a record, so it need not be one of this stream.
            RecordCopy::Unkept(_) => Standing::Stands,
            RecordCopy::Kept(_) if !self.stream_known.load(Ordering::Acquire) => Standing::StreamUnknown,
            RecordCopy::Kept(record) if record.version() > 0 && self.is_of_this_stream(record) => Standing::Stands,
            RecordCopy::Kept(_) => Standing::Settling,
        }
    }

    pub(super) fn record_stands(&self) -> bool {
        self.standing() == Standing::Stands
    }

    /// The record of another stream of this name says nothing about the messages of this one.
    fn is_of_this_stream(&self, record: &Record) -> bool {
        record.stream_created_ns() == self.identity.stream_created.load(Ordering::Relaxed)
    }

    /// Whether what the leader last told has less used than the quota that refused says: then the refusal is late,
    /// and the API server's admission will see in a moment what we see already.
    pub(super) fn contradicts(&self, refusal: &QuotaRefusal) -> bool {
        let readings = Arc::clone(&self.facts().readings);
        refusal.is_late(|resource| {
            let ours = |reading: &&Reading| reading.quota == refusal.quota && reading.resource.as_str() == resource;
            readings.iter().find(ours).map(|reading| reading.used)
        })
    }
}

//! The sensor's place in JetStream: stream, durable, dead letters; made where missing, checked where present, and
//! looked at once a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::lane::Waiting;
use crate::api::DeliverPolicy;
use crate::clock;
use crate::jetstream::{
    Bucket, BucketOptions, Connection, ConsumerFacts, ConsumerSpec, ConsumerTerms, DeadLetterSpec, Finding,
    ManageError, Start, StreamFacts, StreamSpec, consumer_facts, ensure_consumer, ensure_dead_letter, ensure_stream,
    oldest_pending,
};
use crate::leader::{bucket_name, record_key};
use crate::message::Record;

/// How often what waits is counted.
const EVERY: Duration = Duration::from_secs(1);
/// The pause between tries while NATS does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// What the sensor needs of JetStream.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) sensor: String,
    pub(super) stream: String,
    pub(super) subject: String,
    pub(super) instance: String,
    pub(super) dead_letters: String,
    pub(super) ack_wait: Duration,
    pub(super) ack_wait_min: Duration,
    pub(super) max_ack_pending: i64,
    pub(super) deliver: Option<DeliverPolicy>,
    /// When the stream was created, as last looked up: before its consumer is.
    pub(super) stream_created: Arc<AtomicI64>,
}

/// What was found or made.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) consumer: ConsumerTerms,
    pub(super) records: Bucket,
    /// No message was ever handed out: the durable is new and there was none before it.
    pub(super) is_new: bool,
}

/// Why the sensor has no place: something that time does not heal.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    #[error(transparent)]
    Manage(#[from] ManageError),
    #[error("the record of this sensor (key {key:?}) cannot be read")]
    Record { key: String, source: crate::message::RecordError },
}

/// What was last seen of a consumer that may vanish: where another one is to begin, should no record tell.
#[derive(Debug, Clone, Copy)]
struct Seen {
    stream_created_ns: i64,
    /// Up to here everything is acknowledged.
    floor: u64,
}

impl Place {
    /// Makes or checks everything; tries on while NATS does not answer, and says once what it waits for.
    pub(super) async fn settle(&self, connection: &Connection) -> Result<Settled, PlaceError> {
        let mut tries = 0_u64;
        loop {
            match self.try_settle(connection, None).await {
                Ok(settled) => return Ok(settled),
                Err(PlaceError::Manage(error)) if error.is_passing() => {
                    tries = tries.saturating_add(1);
                    // The first try comes before any connection can be there.
                    if tries == 2 {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            last_error = connection.state().borrow().last_error.as_deref(),
                            "waiting for NATS"
                        );
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// `seen` is what this process last saw of the consumer.
    async fn try_settle(&self, connection: &Connection, seen: Option<Seen>) -> Result<Settled, PlaceError> {
        let spec = StreamSpec { name: self.stream.clone(), subject: self.subject.clone(), create: true, replicas: 1 };
        let stream = ensure_stream(connection, &spec).await?;
        self.stream_created.store(stream.created_ns, Ordering::Relaxed);
        warn("stream", &stream.warnings);
        let spec =
            DeadLetterSpec { name: self.dead_letters.clone(), source: self.stream.clone(), create: true, replicas: 1 };
        let dead = ensure_dead_letter(connection, &spec).await?;
        warn("dead-letter stream", &dead.warnings);
        let options = BucketOptions { create: true, replicas: 1 };
        let records = Bucket::open(connection.clone(), &bucket_name("jetgate-record", &self.instance), options).await?;
        let key = record_key(&self.namespace, &self.sensor);
        let record = match records.get(&key).await? {
            None => None,
            Some((bytes, _)) => {
                let record = Record::decode(&bytes).map_err(|source| PlaceError::Record { key, source })?;
                Some(record).filter(|record| record.stream_created_ns() == stream.created_ns)
            }
        };
        let recorded = record.as_ref().filter(|record| record.floor() > 0).map(Record::floor);
        let seen = seen.filter(|seen| seen.stream_created_ns == stream.created_ns).map(|seen| seen.floor);
        // A stream that lost its end gives its last sequences again.
        let known = recorded.max(seen).map(|floor| floor.min(stream.last_sequence.saturating_add(1)));
        let start = known.map_or_else(|| self.start(&stream), Start::Sequence);
        let consumer = ensure_consumer(connection, &self.consumer(start)).await?;
        warn("consumer", &consumer.warnings);
        if consumer.made {
            tracing::info!(stream = self.stream, consumer = self.sensor, start = ?start, "durable consumer made");
        }
        let is_new = consumer.made && record.is_none() && seen.is_none();
        Ok(Settled { consumer, records, is_new })
    }

    fn start(&self, stream: &StreamFacts) -> Start {
        match self.deliver {
            Some(DeliverPolicy::All) => Start::All,
            Some(DeliverPolicy::Last) => Start::Sequence(stream.last_sequence.max(1)),
            // A work queue takes no other than `All`; the adapter sees to that.
            Some(DeliverPolicy::New) | None => Start::New,
        }
    }

    fn consumer(&self, start: Start) -> ConsumerSpec {
        ConsumerSpec {
            stream: self.stream.clone(),
            durable: self.sensor.clone(),
            filter_subject: self.subject.clone(),
            ack_wait: self.ack_wait,
            ack_wait_min: self.ack_wait_min,
            max_ack_pending: self.max_ack_pending,
            start,
            create: true,
        }
    }

    /// Counts what waits, and makes a consumer that vanished again, at the record's floor.
    pub(super) async fn keep(
        &self,
        connection: Connection,
        waiting: watch::Sender<Waiting>,
        mut gone: mpsc::Receiver<()>,
    ) -> Result<(), PlaceError> {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                missing = gone.recv() => {
                    if missing.is_none() {
                        return Ok(());
                    }
                    match self.try_settle(&connection, seen).await {
                        Ok(_) => {}
                        Err(PlaceError::Manage(error)) if error.is_passing() => {
                            tracing::debug!(error = &error as &dyn std::error::Error, "the consumer is not found yet");
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            let facts = consumer_facts(&connection, &self.stream, &self.sensor).await.ok();
            if let Some(facts) = &facts {
                let stream_created_ns = self.stream_created.load(Ordering::Relaxed);
                seen = Some(Seen { stream_created_ns, floor: facts.ack_floor_stream_sequence.saturating_add(1) });
            }
            waiting.send_replace(self.count(&connection, facts).await);
        }
    }

    async fn count(&self, connection: &Connection, facts: Option<ConsumerFacts>) -> Waiting {
        let Some(facts) = facts else { return Waiting::default() };
        let oldest_stored_ns = if facts.num_pending == 0 {
            None
        } else {
            let from = facts.delivered_stream_sequence.saturating_add(1);
            oldest_pending(connection, &self.stream, &self.subject, from).await.ok().flatten()
        };
        Waiting {
            pending: Some(facts.num_pending),
            ack_pending: Some(facts.num_ack_pending),
            paused: facts.paused,
            reign: Some(facts.reign),
            oldest: oldest_stored_ns.map(|stored| (age_now(stored), clock::now())),
        }
    }
}

/// The age by wall clocks, ours and the server's, at the moment of reading; from then on the monotonic clock counts.
fn age_now(stored_ns: i64) -> Duration {
    let age = clock::wall().as_nanosecond().saturating_sub(i128::from(stored_ns)).max(0);
    Duration::from_nanos(u64::try_from(age).unwrap_or(u64::MAX))
}

impl Waiting {
    /// The age of the oldest message that waits.
    pub(super) fn oldest_age(&self, now: Instant) -> Option<Duration> {
        self.oldest.map(|(age, read)| age.saturating_add(now.saturating_duration_since(read)))
    }
}

fn warn(what: &str, findings: &[Finding]) {
    for finding in findings {
        tracing::warn!(
            what,
            setting = finding.setting,
            value = finding.value,
            advice = finding.allowed,
            "unwise setting"
        );
    }
}

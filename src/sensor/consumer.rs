//! The sensor's place in JetStream: stream, durable, dead letters; made where missing, checked where present, and
//! looked at once a second.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::lane::{PULL_EXPIRES, Reign, Waiting};
use super::unreadable::Search;
use crate::api::DeliverPolicy;
use crate::clock;
use crate::jetstream::{
    Bucket, BucketOptions, Connection, ConsumerFacts, ConsumerSpec, ConsumerTerms, DeadLetterSpec, Finding,
    ManageError, Start, StreamFacts, StreamSpec, ensure_consumer, ensure_dead_letter, ensure_stream, oldest_pending,
    with_sources,
};
use crate::leader::record_key;
use crate::message::Record;

/// How often what waits is counted.
const EVERY: Duration = Duration::from_secs(1);
/// The pause between tries while NATS does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// What the sensor needs of JetStream.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) sensor: String,
    pub(super) stream: String,
    pub(super) subject: String,
    pub(super) instance: String,
    pub(super) dead_letters: String,
    /// The bucket of the record.
    pub(super) records: String,
    /// Buckets of the leader, where it is in this process.
    pub(super) leads_in: Vec<String>,
    /// None: as many as the stream has.
    pub(super) replicas: Option<usize>,
    pub(super) ack_wait: Duration,
    pub(super) ack_wait_min: Duration,
    /// What one pull may ask for, once that was found.
    pub(super) pulls: Option<(u64, Duration)>,
    pub(super) max_in_flight: u32,
    pub(super) deliver: Option<DeliverPolicy>,
    /// What was said of settings that are unwise.
    pub(super) said: Mutex<BTreeSet<(String, Finding)>>,
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

/// When a place is looked for.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// At the start, when all that is missing may be made.
    Start,
    /// While the sensor runs, with what was last seen. A stream that went then is not made again: whoever deleted it
    /// knows how it is to be.
    Later(Seen),
}

/// What was last seen of a consumer that may vanish: where another one is to begin, should no record tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    stream_created_ns: i64,
    /// Below this everything is acknowledged.
    floor: u64,
    /// The stream of the last look, where that is not known to be the consumer's.
    last_stream_ns: i64,
}

impl Seen {
    const fn of(terms: &ConsumerTerms) -> Self {
        let floor = terms.facts.ack_floor_stream_sequence.saturating_add(1);
        let stream_created_ns = terms.stream_created_ns;
        Self { stream_created_ns, floor, last_stream_ns: stream_created_ns }
    }

    /// After one more look. The consumer is asked before its stream, which may be made anew in between: only what is
    /// asked between two answers of one stream is of that stream.
    const fn then(self, terms: &ConsumerTerms) -> Self {
        if terms.stream_created_ns == self.last_stream_ns {
            Self::of(terms)
        } else {
            Self { last_stream_ns: terms.stream_created_ns, ..self }
        }
    }
}

/// What keeps a sensor that runs from its consumer, while there is a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is no such stream.
    Gone,
    /// No leader, no answer.
    Silent,
    /// Our NATS user may not look.
    Denied,
}

impl Trouble {
    /// What an error comes to for a sensor of this stream; the error itself where time does not heal it.
    fn of(error: ManageError, stream: &str, connection: &Connection) -> Result<Option<Self>, ManageError> {
        if let ManageError::StreamMissing { stream: missing } = &error {
            // Another one, that of the dead letters, is made at the next look.
            Ok(Some(if missing == stream { Self::Gone } else { Self::Silent }))
        } else if error.is_denied() {
            Ok(Some(Self::Denied))
        } else if error.is_passing() {
            // A lost connection is said elsewhere.
            Ok(connection.live_epoch().map(|_| Self::Silent))
        } else {
            Err(error)
        }
    }

    /// For people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Gone => "the stream is gone; waiting until somebody makes it again",
            Self::Silent => "the stream or its consumer does not answer; waiting for it",
            Self::Denied => "the NATS user may not use the stream or its consumer; waiting until it may",
        }
    }
}

impl Place {
    /// Makes or checks everything; tries on while NATS does not answer, or does not allow what is missing to be made,
    /// and says once what it waits for. `waits` hears it each time.
    pub(super) async fn settle(&self, connection: &Connection, waits: impl Fn(&str)) -> Result<Settled, PlaceError> {
        let (mut tries, mut lacked) = (0_u64, String::new());
        loop {
            match self.try_settle(connection, Moment::Start).await {
                Ok(settled) => return Ok(settled),
                // Somebody may make it, or give the right.
                Err(PlaceError::Manage(error)) if error.is_denied() => {
                    let lack = with_sources(&error);
                    if lacked != lack {
                        tracing::warn!(error = lack, "waiting for what the sensor needs in JetStream");
                    }
                    waits(&lack);
                    lacked = lack;
                }
                // A stream that is gone before the rest is there is made with the next try.
                Err(PlaceError::Manage(error))
                    if error.is_passing() || matches!(error, ManageError::StreamMissing { .. }) =>
                {
                    tries = tries.saturating_add(1);
                    let last_error = connection.state().borrow().last_error.clone();
                    // The first try comes before any connection can be there.
                    if tries == 2 {
                        tracing::warn!(error = &error as &dyn std::error::Error, last_error, "waiting for NATS");
                    }
                    if tries >= 2 {
                        waits(&last_error.unwrap_or_else(|| with_sources(&error)));
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_settle(&self, connection: &Connection, moment: Moment) -> Result<Settled, PlaceError> {
        let (create, seen) = match moment {
            Moment::Start => (true, None),
            Moment::Later(seen) => (false, Some(seen)),
        };
        let replicas = self.replicas.unwrap_or(1);
        let spec = StreamSpec { name: self.stream.clone(), subject: self.subject.clone(), create, replicas };
        let stream = ensure_stream(connection, &spec).await?;
        let replicas = self.replicas.unwrap_or(stream.replicas);
        self.warn("stream", &stream.warnings);
        if stream.made {
            let (stream, subject) = (self.stream.as_str(), self.subject.as_str());
            tracing::warn!(stream, subject, "the stream did not exist and was made: is its name right?");
        }
        let spec = DeadLetterSpec {
            name: self.dead_letters.clone(),
            source: self.stream.clone(),
            instance: self.instance.clone(),
            create: true,
            replicas,
        };
        let dead = ensure_dead_letter(connection, &spec).await?;
        self.warn("dead-letter stream", &dead.warnings);
        if dead.made {
            tracing::info!(stream = self.dead_letters, "dead-letter stream made");
        }
        let options = BucketOptions { create: true, replicas };
        let records = Bucket::open(connection.clone(), &self.records, options).await?;
        self.warn(&self.records, records.warnings());
        for name in &self.leads_in {
            // The leader would make them, too, but knows of no stream whose replicas they should have.
            let bucket = Bucket::open(connection.clone(), name, options).await?;
            self.warn(name, bucket.warnings());
        }
        let key = record_key(&self.namespace, &self.sensor);
        let record = match records.get(&key).await? {
            None => None,
            Some((bytes, _)) => {
                let record = Record::decode(&bytes).map_err(|source| PlaceError::Record { key, source })?;
                Some(record).filter(|record| record.stream_created_ns() == stream.created_ns)
            }
        };
        let recorded = record.as_ref().filter(|record| record.floor() > 0).map(Record::floor);
        // All that is in a stream that was made since then came since then.
        let anew = seen.is_some_and(|seen| seen.stream_created_ns != stream.created_ns);
        let seen = seen.filter(|_| !anew).map(|seen| seen.floor);
        // A stream that lost its end gives its last sequences again.
        let known = recorded.max(seen).map(|floor| floor.min(stream.last_sequence.saturating_add(1)));
        let start = match known {
            Some(sequence) => Start::Sequence(sequence),
            None if anew => Start::All,
            None => self.start(&stream),
        };
        let consumer = ensure_consumer(connection, &self.consumer(start, Some(stream.created_ns))).await?;
        self.warn("consumer", &consumer.warnings);
        if consumer.made {
            tracing::info!(stream = self.stream, consumer = self.sensor, start = ?start, "durable consumer made");
        }
        // Asked before the consumer and after it: what it says is of this stream only where both are the same.
        if consumer.stream_created_ns != stream.created_ns {
            return Err(ManageError::StreamChanged { stream: self.stream.clone() }.into());
        }
        let is_new = consumer.made && record.is_none() && seen.is_none();
        Ok(Settled { consumer, records, is_new })
    }

    /// Each finding once: a place is looked for again and again where something is missing.
    fn warn(&self, what: &str, findings: &[Finding]) {
        for finding in findings {
            // A plain set behind it: whoever panicked left it whole.
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.insert((what.to_owned(), finding.clone())) {
                let Finding { setting, value, allowed } = finding;
                tracing::warn!(what, setting, value, advice = allowed, "unwise setting");
            }
        }
    }

    fn start(&self, stream: &StreamFacts) -> Start {
        match self.deliver {
            Some(DeliverPolicy::All) => Start::All,
            Some(DeliverPolicy::Last) => Start::Sequence(stream.last_sequence.max(1)),
            // A work queue takes no other than `All`; the adapter sees to that.
            Some(DeliverPolicy::New) | None => Start::New,
        }
    }

    /// The consumer; with the start in the stream that was created then, where it may be made.
    fn consumer(&self, start: Start, start_of_ns: Option<i64>) -> ConsumerSpec {
        ConsumerSpec {
            stream: self.stream.clone(),
            durable: self.sensor.clone(),
            filter_subject: self.subject.clone(),
            ack_wait: self.ack_wait,
            ack_wait_min: self.ack_wait_min,
            pulls_min: self.pulls,
            max_ack_pending: i64::from(self.max_in_flight).saturating_mul(4),
            start,
            start_of_ns,
            create: start_of_ns.is_some(),
        }
    }

    /// The place of a sensor that runs: the consumer stays as it was found, because that is what the messages in hand
    /// go by.
    pub(super) fn of(mut self, consumer: &ConsumerTerms) -> Self {
        self.ack_wait = consumer.ack_wait;
        self.ack_wait_min = consumer.ack_wait;
        self.pulls =
            Some((consumer.batch_bound().min(self.max_in_flight.into()), consumer.expires_bound().min(PULL_EXPIRES)));
        self
    }

    /// Counts what waits, checks the consumer again, makes one that vanished again at the record's floor, and waits for
    /// a stream that vanished. Ends where somebody changed the consumer so that it breaks a promise. From `stop` on it
    /// begins to make nothing, and ends nothing: as long as there are acks it tells whose they would be.
    pub(super) async fn keep(
        &self,
        connection: Connection,
        waiting: watch::Sender<Waiting>,
        mut gone: mpsc::Receiver<()>,
        mut search: Search,
        settled: &ConsumerTerms,
        stop: &CancellationToken,
    ) -> Result<(), PlaceError> {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What is gone at the first look was there when the sensor began.
        let mut seen = Seen::of(settled);
        let mut trouble = None;
        // With each pull it is tried in vain, where it may not be made: said once.
        let mut said_gone = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                asked = gone.recv() => {
                    if asked.is_none() {
                        return Ok(());
                    }
                    if trouble.is_some() {
                        // Each pull asks; while it is known what is wrong the clock does.
                        continue;
                    }
                }
            }
            let facts = match self.look(&connection, seen, &mut said_gone, &waiting, stop).await {
                Ok(terms) => {
                    // First of all: what the lane believes may be of another stream.
                    reigned_by(&waiting, Reign::Of(terms.facts.reign));
                    said_gone = false;
                    seen = seen.then(&terms);
                    Some(terms.facts)
                }
                // It answered; the next look finds what is there now.
                Err(PlaceError::Manage(ManageError::StreamChanged { .. })) => None,
                Err(PlaceError::Manage(error)) => {
                    match Trouble::of(error, &self.stream, &connection) {
                        Ok(now) => self.say(now, &mut trouble),
                        Err(_) if stop.is_cancelled() => {}
                        Err(error) => return Err(error.into()),
                    }
                    None
                }
                Err(PlaceError::Record { .. }) if stop.is_cancelled() => None,
                Err(error @ PlaceError::Record { .. }) => return Err(error),
            };
            if let Some(facts) = &facts {
                self.say(None, &mut trouble);
                if !stop.is_cancelled() {
                    search.look(facts).await;
                }
            }
            let count = self.count(&connection, facts).await;
            // Who reigns may be told just now and not be heard yet: it stays until it is known anew.
            waiting
                .send_modify(|waiting| *waiting = Waiting { trouble, reign: count.reign.or(waiting.reign), ..count });
        }
    }

    /// One line for each change.
    fn say(&self, now: Option<Trouble>, before: &mut Option<Trouble>) {
        if *before == now {
            return;
        }
        let stream = self.stream.as_str();
        match now {
            Some(trouble) => tracing::warn!(stream, "{}", trouble.words()),
            None => tracing::info!(stream, "stream and consumer are back"),
        }
        *before = now;
    }

    /// The consumer as it is now, made again where it is missing.
    async fn look(
        &self,
        connection: &Connection,
        seen: Seen,
        said_gone: &mut bool,
        waiting: &watch::Sender<Waiting>,
        stop: &CancellationToken,
    ) -> Result<ConsumerTerms, PlaceError> {
        match ensure_consumer(connection, &self.consumer(Start::New, None)).await {
            Ok(terms) => Ok(terms),
            Err(error @ ManageError::ConsumerMissing { .. }) => {
                // Before there is one to pull from: its stream may be another one, too.
                reigned_by(waiting, Reign::NoConsumer);
                if stop.is_cancelled() {
                    return Err(error.into());
                }
                if !std::mem::replace(said_gone, true) {
                    let (stream, consumer) = (self.stream.as_str(), self.sensor.as_str());
                    tracing::warn!(stream, consumer, "the consumer is gone; making it again");
                }
                self.try_settle(connection, Moment::Later(seen)).await.map(|settled| settled.consumer)
            }
            Err(error) => Err(error.into()),
        }
        .inspect_err(|error| {
            let PlaceError::Manage(error) = error else { return };
            // What is in hand is the old one's: no ack of it may reach what has its sequence in the next.
            if let ManageError::StreamMissing { stream } | ManageError::StreamChanged { stream } = error
                && *stream == self.stream
            {
                reigned_by(waiting, Reign::NoStream);
            } else if matches!(error, ManageError::Unsuitable { .. }) {
                // Changed, or another one in another stream: that is not told.
                reigned_by(waiting, Reign::NoConsumer);
            }
        })
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
            trouble: None,
            reign: Some(Reign::Of(facts.reign)),
            oldest: oldest_stored_ns.map(|stored| (age_now(stored), clock::now())),
        }
    }
}

/// Tells the lane who its consumer is.
fn reigned_by(waiting: &watch::Sender<Waiting>, reign: Reign) {
    waiting.send_if_modified(|waiting| waiting.reign.replace(reign) != Some(reign));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jetstream::Retention;

    /// The consumer of a stream, with everything up to here acknowledged.
    fn terms(stream_created_ns: i64, acked: u64) -> ConsumerTerms {
        ConsumerTerms {
            ack_wait: Duration::from_secs(30),
            max_ack_pending: 1,
            max_batch: None,
            max_expires: None,
            retention: Retention::Limits,
            stream_created_ns,
            made: false,
            warnings: Vec::new(),
            facts: ConsumerFacts {
                created_ns: 1,
                num_pending: 0,
                num_ack_pending: 0,
                num_redelivered: 0,
                num_waiting: 0,
                ack_floor_stream_sequence: acked,
                delivered_stream_sequence: acked,
                delivered_consumer_sequence: acked,
                paused: false,
                reign: 1,
            },
        }
    }

    #[test]
    fn a_floor_is_never_taken_for_one_of_the_next_stream() {
        let seen = Seen::of(&terms(1, 500)).then(&terms(1, 600));
        assert_eq!((seen.stream_created_ns, seen.floor), (1, 601));
        // The consumer of the first stream, answered before it went; then the second stream.
        let between = seen.then(&terms(2, 700));
        assert_eq!((between.stream_created_ns, between.floor), (1, 601), "whose 700 is it?");
        assert_eq!(between.then(&terms(2, 3)), Seen::of(&terms(2, 3)));
        for stream in [1, 3] {
            let still = between.then(&terms(stream, 3));
            assert_eq!((still.stream_created_ns, still.floor), (1, 601));
        }
    }
}

//! One leadership: from the books read to the Lease lost. All that decides is in the ledger; this feeds it what the
//! watches, the holders and the stores say, and does what it asks for.

mod objects;
mod quotas;
mod waiting;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::candidate::Vote;
use super::projection::{Projection, StreamEnd};
use super::signals::{SignalStore, Written};
use super::stores::{BooksStore, Lost, RecordStore};
use super::watches::{self, Seen};
use super::{Leader, LeaderView, RecordView};
use crate::clock;
use crate::gate::{Counted, QuotaView};
use crate::jetstream::{ConsumerFacts, StreamFacts, consumer_facts, stream_facts};
use crate::k8s::{CallError, Cluster, DiscoverError, Kind, Sight};
use crate::ledger::{Action, Lack, Ledger, LiveState, SeenObject};
use crate::message::HolderId;
use crate::telemetry::{LabelValue as _, WatchKind, WriteResult};
use crate::wire::{Books, Grant, Report};
use waiting::WaitingGrants;

/// Watch events that wait for the ledger: bounded, because a watch that cannot deliver simply reads slower.
const EVENTS: usize = 1024;
/// How often the consumer's ack floor is read, which moves the record's floor.
const FACTS_EVERY: Duration = Duration::from_secs(1);
/// At most one signal per quota in this time.
const SIGNAL_EVERY: Duration = Duration::from_millis(200);
/// How the reads beside the watch are called in the log.
const OBJECT_READINGS: &str = "object readings";
/// How long a session that ends may take to write what it owes.
const LAST_WRITES: Duration = Duration::from_secs(3);

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The process stops; books and record are written.
    Shutdown,
    /// The Lease is lost.
    LeaseLost,
    /// Another leader wrote the books or the record: this one may grant nothing more.
    Deposed(Lost),
}

/// What a call that was started has come to.
enum Done {
    Books(Result<u64, Lost>),
    Quotas { result: Result<Vec<QuotaView>, CallError>, began: Instant },
    Checked { kind: Counted, result: Result<Vec<Sight>, CallError>, began: Instant },
    Record(Result<u64, Lost>),
    Facts { facts: Option<(StreamFacts, ConsumerFacts)>, began: Instant, reach: u64 },
    Signals(Result<Written, Lost>),
}

type Call = Pin<Box<dyn Future<Output = Done> + Send>>;

pub(super) struct Session<'a> {
    leader: &'a Leader,
    ledger: Ledger,
    books: BooksStore,
    records: RecordStore,
    signals: SignalStore,
    projection: Projection,
    calls: FuturesUnordered<Call>,
    record_writing: bool,
    facts_reading: bool,
    signal_writing: bool,
    signal_due: Option<Instant>,
    leads_until: Option<Instant>,
    grants: mpsc::Sender<Grant>,
    /// The grant channel was full.
    waiting: WaitingGrants,
    /// The top that the newest grant told to each holder.
    told_tops: BTreeMap<HolderId, u64>,
    /// When the newest write of the books began.
    books_began: Option<Instant>,
    forbidden_said: bool,
    /// The consumer is ahead of its stream, which was said.
    ahead_said: bool,
    /// What lacks to know the quotas, as was said.
    said_lack: Option<Lack>,
    trouble_since: BTreeMap<&'static str, Instant>,
}

impl<'a> Session<'a> {
    /// Writes the epoch into the books, reads them and the record; then the ledger stands.
    pub(super) async fn adopt(leader: &'a Leader, lease_epoch: u64) -> Result<Self, Lost> {
        let stores = leader.open_stores().await?;
        let (books, store) = stores.books.adopt(lease_epoch).await?;
        let epoch = books.epoch;
        let created = leader.stream_created().await?;
        let (record, revision) = stores.records.load(created).await?;
        let now = clock::now();
        tracing::info!(
            namespace = leader.settings.namespace,
            epoch,
            holders = books.holders.len(),
            record_version = record.version(),
            record_floor = record.floor(),
            "leading: books adopted"
        );
        let ledger = Ledger::adopt(&leader.settings.namespace, epoch, books, leader.settings.options.clone(), now);
        let own = &leader.settings.own;
        let projection = Projection::new(&leader.settings.namespace, &own.sensor, &own.stream, record, revision);
        Ok(Self {
            leader,
            ledger,
            books: store,
            records: stores.records,
            signals: stores.signals,
            projection,
            calls: FuturesUnordered::new(),
            record_writing: false,
            facts_reading: false,
            signal_writing: false,
            signal_due: None,
            leads_until: None,
            grants: leader.grants.clone(),
            waiting: WaitingGrants::default(),
            told_tops: BTreeMap::new(),
            books_began: None,
            forbidden_said: false,
            ahead_said: false,
            said_lack: None,
            trouble_since: BTreeMap::new(),
        })
    }

    /// Leads until the Lease is lost, another leader shows, or the process stops.
    pub(super) async fn run(
        mut self,
        early: Option<Report>,
        reports: &mut mpsc::Receiver<Report>,
        leading: &mut watch::Receiver<Vote>,
        shutdown: &CancellationToken,
    ) -> End {
        let leader = self.leader;
        let settings = &leader.settings;
        let (to, mut seen) = mpsc::channel(EVENTS);
        // Dropped with the session: a watch lives no longer than the leadership that it serves.
        let mut eyes = JoinSet::new();
        let cluster = self.leader.cluster.clone();
        if settings.gated {
            eyes.spawn(watches::quotas(cluster.clone(), settings.namespace.clone(), to.clone()));
        }
        if let Some((_, kind)) = &settings.own.created {
            let resume = Some(self.projection.record().version()).filter(|version| *version > 0);
            let namespace = settings.namespace.clone();
            eyes.spawn(watches::objects(cluster, kind.clone(), namespace, resume, to.clone()));
        }
        drop(to);
        let mut poll = tokio::time::interval(settings.poll_interval);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut facts = tokio::time::interval(FACTS_EVERY);
        facts.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if let Some(report) = early {
            self.ledger.report(&report, clock::now());
        }
        let mut stopping: Option<Instant> = None;
        self.leads_until = leading.borrow_and_update().until;
        let grants = self.grants.clone();
        loop {
            self.act();
            self.show();
            let now = clock::now();
            if stopping.is_some_and(|until| now >= until || (self.is_clean() && reports.is_empty())) {
                return End::Shutdown;
            }
            let wake = self.wake_at(now).into_iter().chain(stopping).min();
            tokio::select! {
                Some(done) = self.calls.next(), if !self.calls.is_empty() => {
                    if let Err(lost) = self.done(done) {
                        return End::Deposed(lost);
                    }
                }
                Some(seen) = seen.recv() => self.seen(seen),
                Some(report) = reports.recv() => self.ledger.report(&report, clock::now()),
                changed = leading.changed() => {
                    let vote = leading.borrow_and_update();
                    if changed.is_err() || vote.epoch.is_none() {
                        return End::LeaseLost;
                    }
                    self.leads_until = vote.until;
                }
                // None may end while somebody listens to it.
                Some(end) = eyes.join_next() => {
                    let how = end.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
                    return End::Deposed(Lost::Watch { how });
                }
                permit = grants.reserve(), if !self.waiting.is_empty() => {
                    match permit {
                        Ok(permit) => if let Some(grant) = self.waiting.pop() {
                            permit.send(grant);
                        },
                        // Nobody listens any more.
                        Err(_closed) => self.waiting = WaitingGrants::default(),
                    }
                }
                _ = poll.tick(), if settings.gated => self.read_quotas(),
                _ = facts.tick() => self.read_facts(),
                () = sleep_until(wake) => self.ledger.tick(clock::now()),
                () = shutdown.cancelled(), if stopping.is_none() => stopping = Some(clock::now() + LAST_WRITES),
            }
        }
    }

    /// Nothing is owed to the stores.
    fn is_clean(&self) -> bool {
        !self.books.is_writing() && !self.record_writing && self.projection.flush_at().is_none()
    }

    fn wake_at(&self, now: Instant) -> Option<Instant> {
        let flush = self.projection.flush_at().filter(|_| !self.record_writing);
        let signal = self.signal_due.filter(|_| !self.signal_writing);
        self.ledger.deadline(now).into_iter().chain(flush).chain(signal).min()
    }

    /// Does what the ledger asks for, and writes what is due.
    fn act(&mut self) {
        let now = clock::now();
        for action in self.ledger.drain() {
            match action {
                Action::WriteBooks(books) => self.write_books(books),
                Action::Send(grant) => self.send(grant),
                Action::ReadQuotas => self.read_quotas(),
                Action::CheckObjects(kind) => self.check(kind),
            }
        }
        if self.projection.flush_at().is_some_and(|at| now >= at) && !self.record_writing {
            self.write_record();
        }
        if self.signal_due.is_some_and(|at| now >= at) && !self.signal_writing {
            self.signal_due = None;
            self.write_signals(now);
        }
    }

    /// Sends a grant, unless our own clock says that the Lease may be another's by now: a process that was stopped finds
    /// that out here, before anything else.
    fn send(&mut self, grant: Grant) {
        if self.leads_until.is_none_or(|until| clock::now() >= until) {
            return;
        }
        let told = self.told_tops.get(&grant.holder).copied().unwrap_or(0);
        if told < grant.top {
            let now = clock::now();
            self.leader.metrics.grants.inc();
            let since = self.books_began.unwrap_or(now);
            self.leader.metrics.grant_latency.observe(now.saturating_duration_since(since).as_secs_f64());
        }
        let ledger = &self.ledger;
        if told == 0 {
            self.told_tops.retain(|holder, _| ledger.knows(holder));
        }
        self.told_tops.insert(grant.holder.clone(), grant.top);
        self.waiting.overtaken(&grant.holder);
        match self.grants.try_send(grant) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(grant)) => self.waiting.keep(grant, |holder| ledger.knows(holder)),
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    fn write_books(&mut self, books: Books) {
        // What made the next grant possible was heard just now.
        self.books_began = Some(clock::now());
        let write = self.books.write(books);
        self.calls.push(Box::pin(async move { Done::Books(write.await) }));
    }

    fn write_record(&mut self) {
        self.record_writing = true;
        let record = self.projection.take();
        let write = self.records.write(record, self.projection.revision);
        self.calls.push(Box::pin(async move { Done::Record(write.await) }));
    }

    fn write_signals(&mut self, now: Instant) {
        let terms: Vec<_> = self.ledger.terms().cloned().collect();
        let mut names: Vec<String> = terms.iter().flat_map(|terms| terms.quotas.clone()).collect();
        names.sort_unstable();
        names.dedup();
        let signals = names.iter().map(|name| self.ledger.signal(name, &terms, now)).collect();
        if let Some(write) = self.signals.publish(signals) {
            self.signal_writing = true;
            self.leader.metrics.signals_published.inc();
            self.calls.push(Box::pin(async move { Done::Signals(write.await) }));
        }
    }

    fn check(&mut self, kind: Counted) {
        let cluster = self.leader.cluster.clone();
        let namespace = self.leader.settings.namespace.clone();
        let known = self.leader.settings.own.created.clone();
        self.calls.push(Box::pin(async move {
            let began = clock::now();
            let result = list_objects(&cluster, known, &kind, &namespace).await;
            Done::Checked { kind, result, began }
        }));
    }

    fn read_facts(&mut self) {
        if self.facts_reading {
            return;
        }
        self.facts_reading = true;
        let connection = self.leader.connection.clone();
        let own = self.leader.settings.own.clone();
        let reach = self.projection.record().reach();
        self.calls.push(Box::pin(async move {
            // What cannot be read now is read a second later. The consumer first: the stream's end may only have grown.
            let began = clock::now();
            let consumer = consumer_facts(&connection, &own.stream, &own.sensor).await.ok();
            let stream = stream_facts(&connection, &own.stream).await.ok();
            Done::Facts { facts: stream.zip(consumer), began, reach }
        }));
    }

    fn done(&mut self, done: Done) -> Result<(), Lost> {
        let now = clock::now();
        match done {
            Done::Books(result) => {
                let label = if result.is_ok() { WriteResult::Stored } else { WriteResult::Conflict };
                self.leader.metrics.books_writes.inc(label);
                self.books.written(result)?;
                self.ledger.books_written(now);
            }
            Done::Quotas { result, began } => self.quotas_read(result, began, now),
            Done::Checked { kind, result: Ok(sights), began } => {
                self.well(OBJECT_READINGS);
                let objects: Vec<SeenObject> = sights.iter().map(seen_object).collect();
                self.ledger.objects_checked(&kind, &objects, began, now);
            }
            Done::Checked { kind, result: Err(error), began: _ } => {
                self.trouble(OBJECT_READINGS, &error);
                self.ledger.objects_check_failed(&kind, now);
            }
            Done::Record(result) => {
                self.record_writing = false;
                self.projection.revision = Some(result?);
            }
            Done::Facts { facts, began, reach } => {
                self.facts_reading = false;
                if let Some((stream, consumer)) = facts {
                    if stream.created_ns != self.projection.record().stream_created_ns() {
                        return Err(Lost::Overtaken { what: "stream (it was created anew)" });
                    }
                    let floor = consumer.ack_floor_stream_sequence;
                    let end = StreamEnd { sequence: stream.last_sequence, stored_ns: stream.last_stored_ns };
                    if self.projection.facts(end, floor, reach, now) {
                        tracing::warn!(
                            stream = self.leader.settings.own.stream,
                            last_sequence = stream.last_sequence,
                            "the stream has lost its end: the record begins again"
                        );
                    }
                    self.say_ahead(floor, stream.last_sequence);
                    self.close_gap(&consumer, began, now);
                    if self.projection.has_open_gap() {
                        // These facts were asked for before the list was there.
                        self.read_facts();
                    }
                }
            }
            Done::Signals(result) => {
                self.signal_writing = false;
                self.signals.written(result?);
            }
        }
        self.say_lack();
        self.signal_soon(now);
        Ok(())
    }

    fn seen(&mut self, seen: Seen) {
        let now = clock::now();
        match seen {
            Seen::Quotas { views, began } => {
                self.well(WatchKind::Quotas.as_str());
                self.ledger.quotas_listed(views, began, now);
            }
            Seen::Quota(update) => self.ledger.quota(update, now),
            Seen::QuotasAlive => {
                self.well(WatchKind::Quotas.as_str());
                self.ledger.quota_watch_alive(now);
            }
            Seen::Objects { objects, version, began, gap } => self.listed(&objects, version, began, gap),
            Seen::Object { event, replayed } => self.object(&event, replayed),
            Seen::ObjectsAlive => {
                self.well(WatchKind::Objects.as_str());
                if let Some((counted, _)) = &self.leader.settings.own.created {
                    self.ledger.object_watch_alive(counted, now);
                }
            }
            Seen::Forbidden { text } => self.forbidden(&text),
            Seen::QuotasForbidden { lack } => self.ledger.quotas_refused(lack, now),
            Seen::Trouble { watch, error } => {
                self.leader.metrics.watch_restarts.inc(watch);
                self.trouble(watch.as_str(), &error);
            }
        }
        self.say_lack();
        self.signal_soon(now);
    }

    fn trouble(&mut self, what: &'static str, error: &CallError) {
        if !self.trouble_since.contains_key(what) {
            self.trouble_since.insert(what, clock::now());
            tracing::warn!(what, error = %error, "the API server does not answer as expected; trying on");
        }
    }

    fn well(&mut self, what: &'static str) {
        if let Some(since) = self.trouble_since.remove(what) {
            let seconds = clock::now().saturating_duration_since(since).as_secs_f64();
            tracing::info!(what, seconds, "the API server answers again");
        }
    }

    fn signal_soon(&mut self, now: Instant) {
        if self.leader.settings.gated {
            self.signal_due.get_or_insert(now + SIGNAL_EVERY);
        }
    }

    /// Shows the state to metrics and `/debug/state`.
    fn show(&self) {
        let record = self.projection.record();
        let live: BTreeMap<String, Option<u64>> = self
            .ledger
            .kinds()
            .map(|kind| (kind.to_string(), self.ledger.live(kind).and_then(LiveState::count)))
            .collect();
        let view = LeaderView {
            leading: true,
            epoch: Some(self.ledger.epoch()),
            waits_for: None,
            quotas: self.ledger.quotas().len() as u64,
            live,
            holders: self
                .ledger
                .holders()
                .map(|(id, phase, out)| (id.to_string(), (format!("{phase:?}"), out.len())))
                .collect(),
            record: Some(RecordView {
                version: record.version(),
                floor: record.floor(),
                ranges: record.ranges() as u64,
                gaps: record.gaps(),
                watched: !self.forbidden_said,
            }),
        };
        self.leader.view.send_replace(view);
    }
}

/// The object as the ledger sees it.
fn seen_object(sight: &Sight) -> SeenObject {
    SeenObject::read(&sight.name, sight.message.as_deref(), sight.credit.as_deref())
}

async fn list_objects(
    cluster: &Cluster,
    known: Option<(Counted, Kind)>,
    counted: &Counted,
    namespace: &str,
) -> Result<Vec<Sight>, CallError> {
    let kind = match known {
        Some((known, kind)) if known == *counted => kind,
        Some(_) | None => cluster.discover_plural(&counted.plural, &counted.group).await.map_err(unlisted)?,
    };
    let (objects, _) = cluster.list(&kind, namespace).await?;
    Ok(objects)
}

/// A kind that cannot be found cannot be listed now; it is asked for again.
fn unlisted(error: DiscoverError) -> CallError {
    CallError::Connection(Box::new(error))
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

//! The lane: one consumer loop. It owns the credits, pulls exactly as many messages as it has, and hands each to a task
//! that sees it to its end.

mod flow;
mod lines;
mod memory;

pub(super) use flow::PULL_EXPIRES;
pub(super) use memory::Baseline;
use memory::Unread;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::announce::Announcer;
use super::asking::Asking;
use super::block::LocalBlock;
use super::board::Board;
use super::consumer::Trouble;
use super::credits::Credits;
use super::freshness::Freshness;
use super::hand::{Ended, Hand, News};
use super::pulls::Pulls;
use super::shared::{Alert, Shared};
use super::trigger::Trigger;
use crate::clock;
use crate::gate::{Gate, Reminder};
use crate::jetstream::{Ack, ConnectionState, Delivery, PullEnd, PullEvent, Puller, stream_facts};
use crate::leader::LeaseState;
use crate::message::{Arrival, CreditId, Effect, Handed, HolderId, InHand, Outcome, Why};
use crate::runtime::{Crew, TaskFailure};
use crate::telemetry::{Health, Outcome as OutcomeLabel};
use crate::wire::{Grant, Report};

/// The pause after a pull that was refused.
const PULL_PAUSE: Duration = Duration::from_millis(200);
/// The delay of what arrives when its credit is no more.
const LATE_DELAY: Duration = Duration::from_millis(500);
/// News that wait for the lane: two per message in hand at most matter at a time; a full queue only slows its writers.
const NEWS: usize = 1024;

/// What is handled in one turn before anything follows from it: reports, pulls and what is shown cost more than a
/// message does. Bounded, so that a signal to end is heard.
const TURN: usize = 64;

/// What a lane is given.
pub(super) struct LaneSettings {
    pub(super) max_in_flight: u64,
    pub(super) consumer: String,
    /// What the consumer allows one pull to ask for.
    pub(super) max_batch: u64,
    pub(super) max_expires: Duration,
    /// After a start or a forgetful reconnect: how long until a lookup proves something. None where that is not wanted.
    pub(super) redelivery_pause: Option<Duration>,
    /// How often a gate that is still blocked is said.
    pub(super) remind_every: Duration,
    pub(super) baseline: Baseline,
    /// How long the lane may take to end.
    pub(super) grace: Duration,
}

/// Who hands messages out. What one handed out, and what was acknowledged to it, the next may not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reign {
    /// There is no stream, or it is another one just now.
    NoStream,
    /// There is a stream, and no consumer.
    NoConsumer,
    /// A consumer under a leader; see [`ConsumerFacts::reign`](crate::jetstream::ConsumerFacts::reign).
    Of(u64),
}

/// What the lane hears of its consumer, read once a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) pending: Option<u64>,
    pub(super) ack_pending: Option<u64>,
    pub(super) paused: bool,
    /// What keeps the sensor from its consumer although there is a connection.
    pub(super) trouble: Option<Trouble>,
    /// None: not known.
    pub(super) reign: Option<Reign>,
    /// The age of the oldest pending message, and when it was read.
    pub(super) oldest: Option<(Duration, Instant)>,
}

/// The ends of the lane's channels.
pub(super) struct LanePorts {
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) grants: mpsc::Receiver<Grant>,
    pub(super) waiting: watch::Receiver<Waiting>,
    /// Whether somebody may lead at all.
    pub(super) lease: watch::Receiver<LeaseState>,
    /// Asks for the consumer to be made again.
    pub(super) consumer_gone: mpsc::Sender<()>,
}

pub(super) struct Lane {
    shared: Arc<Shared>,
    settings: LaneSettings,
    board: Arc<Board>,
    health: Arc<Health>,
    credits: Credits,
    reports: mpsc::Sender<Report>,
    waiting: watch::Receiver<Waiting>,
    lease: watch::Receiver<LeaseState>,
    consumer_gone: mpsc::Sender<()>,
    news: mpsc::Sender<News>,
    gate: Gate,
    reminder: Reminder,
    announcer: Announcer,
    detail: String,
    block: Option<LocalBlock>,
    freshness: Freshness,
    in_hand: InHand,
    connection: watch::Receiver<ConnectionState>,
    known_connection: ConnectionState,
    known_reign: Reign,
    /// When the consumer may last have forgotten something with the connection in place.
    forgotten_at: Option<Instant>,
    stream_unread: Option<Unread>,
    reported_at: Option<Instant>,
    asking: Asking,
    /// When the next report goes.
    report_at: Option<Instant>,
    /// The leader has not answered yet, or its queue was full.
    report_not_before: Option<Instant>,
    pull_not_before: Option<Instant>,
    pulls: Pulls,
    stopping: Option<Instant>,
}

impl Lane {
    pub(super) fn new(
        shared: Arc<Shared>,
        settings: LaneSettings,
        credits: Credits,
        freshness: Freshness,
        board: Arc<Board>,
        health: Arc<Health>,
        ports: LanePorts,
    ) -> (Self, mpsc::Receiver<Grant>, mpsc::Receiver<News>) {
        let (news, heard) = mpsc::channel(NEWS);
        let connection = shared.connection.state();
        let reminder = Reminder::new(settings.remind_every);
        let Baseline { connection: known_connection, reign: known_reign } = settings.baseline.clone();
        if freshness.wants_stream_end().is_some() {
            shared.publish_stream(None);
        }
        let lane = Self {
            shared,
            settings,
            board,
            health,
            credits,
            reports: ports.reports,
            waiting: ports.waiting,
            lease: ports.lease,
            consumer_gone: ports.consumer_gone,
            news,
            gate: Gate::new(clock::now()),
            reminder,
            announcer: Announcer::new(),
            detail: String::new(),
            block: None,
            freshness,
            in_hand: InHand::default(),
            connection,
            known_connection,
            known_reign,
            forgotten_at: None,
            stream_unread: None,
            reported_at: None,
            asking: Asking::default(),
            report_at: None,
            report_not_before: None,
            pull_not_before: None,
            pulls: Pulls::default(),
            stopping: None,
        };
        (lane, ports.grants, heard)
    }

    /// Runs until `shutdown`, and then until what is in hand has ended or the grace is over.
    pub(super) async fn run(
        mut self,
        mut grants: mpsc::Receiver<Grant>,
        mut news: mpsc::Receiver<News>,
        shutdown: CancellationToken,
    ) {
        let mut puller =
            Puller::new(self.shared.connection.clone(), &self.shared.identity.stream, &self.settings.consumer);
        let bound = usize::try_from(self.settings.max_in_flight).unwrap_or(usize::MAX);
        let mut crew: Crew<Ended> = Crew::new("message", bound.saturating_add(16));
        let mut stream_end = None;
        let mut connection = self.connection.clone();
        let mut waiting = self.waiting.clone();
        let mut record = self.shared.record.clone();
        let (mut counted, mut connected, mut recorded) = (true, true, true);
        self.connection_changed();
        loop {
            if let Some(question) = self.stream_question(clock::now()).filter(|_| stream_end.is_none()) {
                let (connection, stream) = (self.shared.connection.clone(), Arc::clone(&self.shared.identity.stream));
                stream_end = Some(Box::pin(async move { (question, stream_facts(&connection, &stream).await) }));
            }
            self.pump(&mut puller).await;
            let now = clock::now();
            self.health.beat(now);
            if let Some(until) = self.stopping
                && (self.has_ended(&puller) || now >= until)
            {
                break;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if self.stopping.is_none() => self.stop(),
                Some(heard) = news.recv() => {
                    self.heard(heard);
                    // Whatever else has been said meanwhile goes into the same report.
                    for _ in 1..TURN {
                        let Ok(heard) = news.try_recv() else { break };
                        self.heard(heard);
                    }
                }
                Some(grant) = grants.recv() => self.granted(&grant),
                end = crew.next() => {
                    self.task_ended(end);
                    for _ in 1..TURN {
                        let Some(end) = crew.try_next() else { break };
                        self.task_ended(end);
                    }
                }
                event = puller.next() => {
                    self.pulled(event, &mut crew);
                    for _ in 1..TURN {
                        let Some(event) = puller.next().now_or_never() else { break };
                        self.pulled(event, &mut crew);
                    }
                }
                changed = connection.changed(), if connected => {
                    connected = changed.is_ok();
                    connection.borrow_and_update();
                    self.connection_changed();
                }
                (question, facts) = wait_for(&mut stream_end), if stream_end.is_some() => {
                    stream_end = None;
                    self.stream_answered(question, facts);
                }
                changed = record.changed(), if recorded && !self.shared.record_stands() => {
                    // Nobody follows it any more at the end.
                    recorded = changed.is_ok();
                    record.borrow_and_update();
                }
                changed = waiting.changed(), if counted => {
                    // Nobody counts any more at the end.
                    counted = changed.is_ok();
                    let reign = waiting.borrow_and_update().reign;
                    self.reigned_by(reign);
                }
                () = tokio::time::sleep_until(self.wake_at(now).into()) => {}
            }
        }
        if !self.in_hand.is_empty() {
            tracing::warn!(
                in_hand = self.in_hand.len(),
                "the grace is over before every message in hand had its end: those come again after ACK_WAIT"
            );
        }
        crew.abort().await;
        self.board.close(clock::now());
    }

    // --- events ---------------------------------------------------------------------------------------------------

    fn heard(&mut self, news: News) {
        let now = clock::now();
        match news {
            News::Made(credit) => {
                if matches!(self.shared.trigger, Trigger::Log { .. }) {
                    // Nothing stays of a line in the log: its settle time is 0.
                    self.credits.returned(&credit);
                } else {
                    self.credits.made(&credit);
                }
                if let Some(block) = self.block.take() {
                    tracing::info!(reason = block.reason.as_str(), "the target takes effects again");
                }
            }
            News::Returned(credit) => {
                self.credits.returned(&credit);
                if let Some(block) = &mut self.block {
                    block.ended(credit.number, now);
                }
            }
            News::Block(credit, block) => self.blocked(&credit, block, now),
        }
    }

    fn granted(&mut self, grant: &Grant) {
        let effect = self.credits.granted(grant);
        if effect.restart {
            tracing::warn!(holder = grant.holder.as_str(), "the leader took this holder for dead; a new one begins");
            self.begin_anew(grant.holder.clone());
        }
        if !effect.ignored {
            self.asking.granted(effect.new_numbers);
            if self.credits.is_answered() {
                self.report_not_before = None;
            }
            self.shared.publish_readings(grant);
            self.board.granted(grant, clock::now());
        }
    }

    fn task_ended(&mut self, end: Result<Ended, TaskFailure>) {
        match end {
            Ok(ended) => self.ended(&ended),
            // Where a message's task panics it says so itself.
            Err(failure) => tracing::error!(error = %failure, "a message's task failed"),
        }
    }

    /// What the old holder has in hand is resolved under its numbers, and never created again.
    fn begin_anew(&mut self, dead: HolderId) {
        self.alert(|alert| alert.dead_holder = Some(dead));
        self.credits.restart(new_holder(&self.shared.identity.sensor));
    }

    fn ended(&mut self, ended: &Ended) {
        self.in_hand_ended(ended.sequence, ended.store_time_ns);
        if let Some(block) = &mut self.block {
            block.ended(ended.credit.number, clock::now());
        }
        let label = match ended.outcome {
            None => {
                // Nobody knows whether its number has an object: as where a holder died, a list of the leader's tells.
                if *self.credits.holder_id() == ended.credit.holder {
                    self.begin_anew(ended.credit.holder.clone());
                }
                self.credits.returned(&ended.credit);
                OutcomeLabel::Again
            }
            Some(outcome) => {
                if let Outcome::Dead(reason) | Outcome::TermUnconfirmed(reason) = outcome {
                    self.shared.metrics.dead_letters.inc(reason);
                }
                OutcomeLabel::from(outcome)
            }
        };
        self.shared.metrics.messages.inc(label);
        tracing::debug!(sequence = ended.sequence, outcome = ?ended.outcome, "message ended");
    }

    fn pulled(&mut self, event: PullEvent, crew: &mut Crew<Ended>) {
        let now = clock::now();
        self.heard_of_a_pull(&event, now);
        match event {
            PullEvent::Message(delivery) => self.delivered(delivery, crew, now),
            PullEvent::GivenBack(_) => {
                if self.credits.others_wait() {
                    // An empty pull: who waits elsewhere has more use for them.
                    self.credits.give_back(0);
                }
            }
            PullEvent::Refused { credits: _, why } | PullEvent::AllDead { credits: _, why } => {
                self.pull_ended(&why, now)
            }
        }
    }

    fn pull_ended(&mut self, why: &PullEnd, now: Instant) {
        if why.may_have_forgotten() {
            self.forgotten(now);
        }
        match why {
            PullEnd::ConnectionChanged => tracing::debug!("the pulls ended with their connection"),
            PullEnd::Denied(said) => {
                // Said once where the server's word arrives.
                tracing::debug!(said, "the NATS user may not pull; pulling again");
                self.pull_not_before = Some(now + PULL_PAUSE);
            }
            PullEnd::ConsumerDeleted | PullEnd::NoConsumer => {
                // Each pull says so; who looks for it says it once.
                tracing::debug!(why = ?why, consumer = self.settings.consumer, "the consumer does not answer; looking for it");
                self.pull_not_before = Some(now + PULL_PAUSE);
                // Full: it is being looked for already.
                if self.consumer_gone.try_send(()).is_err() {
                    tracing::debug!("the consumer is being looked for");
                }
            }
            PullEnd::LeadershipChange
            | PullEnd::ServerShutdown
            | PullEnd::TooManyPulls
            | PullEnd::LimitExceeded(_)
            | PullEnd::Silent
            | PullEnd::SubscriptionEnded
            | PullEnd::Other { .. } => {
                tracing::info!(why = ?why, "the pulls ended; pulling again");
                self.pull_not_before = Some(now + PULL_PAUSE);
            }
        }
    }

    fn delivered(&mut self, delivery: Delivery, crew: &mut Crew<Ended>, now: Instant) {
        let remembers = self.knows_connection(delivery.epoch);
        match self.arrives(&delivery, now) {
            Arrival::Copy => return,
            Arrival::New | Arrival::Displacing | Arrival::Displaced | Arrival::Known => {}
        }
        // A pull that was sent before the target refused may still bring some: one at a time is tried.
        let blocked = self.block.as_ref().is_some_and(|block| !block.may_probe(now));
        let refuses = blocked || self.stopping.is_some() || delivery.above_credit || crew.room() == 0;
        let credit = if refuses { None } else { self.credits.take(now) };
        let Some(credit) = credit else {
            self.return_late(delivery, crew);
            return;
        };
        if let Some(block) = &mut self.block {
            block.probing(credit.number);
        }
        // A pull that was sent before may bring a message when no record stands any more.
        let remembers = remembers && self.shared.record_stands();
        let handed = Handed {
            delivered: delivery.delivered,
            pull_sent: delivery.pull_sent,
            connection: delivery.epoch,
            fresh: remembers && self.freshness.is_fresh(delivery.sequence, delivery.delivered),
            not_before: if remembers { self.freshness.not_before() } else { self.pause_from(now) },
            effect: match self.shared.trigger {
                Trigger::Kubernetes(_) => Effect::Object,
                Trigger::Log { .. } => Effect::Instant,
            },
        };
        if delivery.delivered == 1 {
            let age = clock::wall().as_nanosecond().saturating_sub(i128::from(delivery.store_time_ns)).max(0);
            self.shared
                .metrics
                .event_age
                .observe(Duration::from_nanos(u64::try_from(age).unwrap_or(u64::MAX)).as_secs_f64());
        }
        let (sequence, store_time_ns) = (delivery.sequence, delivery.store_time_ns);
        let hand = Box::new(Hand::new(Arc::clone(&self.shared), delivery, credit.clone(), handed, self.news.clone()));
        if crew.spawn(hand.run()).is_ok() {
            self.in_hand.taken(sequence, store_time_ns);
        } else {
            // There was room a moment ago, so this is not reached; the message comes again by its ack wait.
            self.credits.returned(&credit);
        }
    }

    /// What arrives in the instant in which its credit went away is returned at once, if it is surely ours still.
    fn return_late(&mut self, delivery: Delivery, crew: &mut Crew<Ended>) {
        if !self.shared.terms.may_nak(delivery.pull_sent, self.has_forgotten(&delivery), clock::now()) {
            self.shared.metrics.messages.inc(OutcomeLabel::Again);
            return;
        }
        let shared = Arc::clone(&self.shared);
        let (sequence, store_time_ns) = (delivery.sequence, delivery.store_time_ns);
        let credit = CreditId { holder: HolderId::new("none"), number: 0 };
        let nak = async move {
            // Where this fails the message comes again when its ack wait is over.
            let returned = shared.acker.ack(&delivery.reply, Ack::Nak(LATE_DELAY)).await;
            let outcome =
                if returned.is_ok() { Outcome::Again(Why::LeaseOver) } else { Outcome::Abandoned(Why::LeaseOver) };
            Ended { sequence, store_time_ns, credit, outcome: Some(outcome) }
        };
        if crew.spawn(nak).is_ok() {
            self.in_hand.taken(sequence, store_time_ns);
        }
    }

    fn alert(&self, change: impl FnOnce(&mut Alert)) {
        self.shared.alerts.send_if_modified(|alert| {
            let before = alert.clone();
            change(alert);
            *alert != before
        });
    }

    fn has_ended(&mut self, puller: &Puller) -> bool {
        self.in_hand.is_empty() && puller.outstanding() == 0 && self.credits.leave()
    }
}

async fn wait_for<T>(future: &mut Option<std::pin::Pin<Box<T>>>) -> T::Output
where
    T: Future,
{
    match future {
        Some(future) => future.as_mut().await,
        None => std::future::pending().await,
    }
}

/// A holder's id: new at each start, and after each time the leader took the old one for dead.
pub(super) fn new_holder(sensor: &str) -> HolderId {
    HolderId::new(format!("{sensor}-{:016x}", clock::random()))
}

#[cfg(test)]
mod tests;

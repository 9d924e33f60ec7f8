//! What follows from the lane's state: reports, pulls, and what is shown.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::error::TrySendError;

use super::lines::{self, Sources};
use super::{Lane, PULL_PAUSE};
use crate::clock;
use crate::gate::{GateFacts, Heard, Reason, Reasons};
use crate::jetstream::{PullError, Puller};
use crate::sensor::asking::News;
use crate::sensor::block::LocalBlock;
use crate::sensor::board::Shown;
use crate::sensor::consumer::Trouble;
use crate::sensor::shared::Standing;

/// How long one pull waits at the server. Short, so that nothing needs a heartbeat and a credit is never away longer.
pub(in crate::sensor) const PULL_EXPIRES: Duration = Duration::from_secs(1);
/// Pulls that may be outstanding at once: while one is being filled the next is on its way.
const PULLS: u64 = 4;
/// How long a report waits for its answer before the next one goes. Together with the answers it makes one report of
/// all that happens on the way to the leader and back; where the leader's queue is full it is the pause.
const REPORT_PAUSE: Duration = Duration::from_millis(50);
/// How often the lane shows that it lives.
const BEAT: Duration = Duration::from_secs(5);

impl Lane {
    /// Reports, pulls and shows what the state asks for.
    pub(super) async fn pump(&mut self, puller: &mut Puller) {
        let now = clock::now();
        if self.stopping.is_some() && self.in_hand.is_empty() && puller.outstanding() == 0 {
            self.credits.leave();
        }
        self.report(now);
        self.pull(puller, now).await;
        self.shared.publish_lease(self.credits.holder_id(), self.credits.lease_until());
        self.show(puller, clock::now());
    }

    fn report(&mut self, now: Instant) {
        if !self.credits.is_gated() {
            return;
        }
        let want = self.want(now);
        let news = News {
            urgent: self.credits.is_urgent(),
            returned: self.credits.is_dirty(),
            want,
            others_wait: self.credits.others_wait(),
            idle: self.in_hand.is_empty() && self.credits.unused() == 0,
            most: self.settings.max_in_flight,
        };
        let due = self.reported_at.map_or(now, |at| at + self.credits.report_interval());
        let at = self.asking.due(news, now).map_or(due, |at| at.min(due)).max(self.report_not_before.unwrap_or(now));
        self.report_at = Some(at);
        if now < at {
            return;
        }
        let later = match self.reports.try_reserve() {
            Ok(permit) => {
                if let Some(report) = self.credits.report(want, now) {
                    permit.send(report);
                }
                self.reported_at = Some(now);
                self.report_at = Some(now + self.credits.report_interval());
                self.asking.reported(want);
                self.report_not_before = Some(now + REPORT_PAUSE);
                None
            }
            // The leader has reports to read, or does not lead yet: this one goes later, as new as it then is.
            Err(TrySendError::Full(())) => Some(now + REPORT_PAUSE),
            // Nobody leads from this process.
            Err(TrySendError::Closed(())) => Some(now + self.credits.report_interval()),
        };
        if later.is_some() {
            self.report_not_before = later;
            self.report_at = later;
        }
    }

    /// How many more numbers the lane could use.
    fn want(&self, now: Instant) -> u64 {
        if self.stopping.is_some() || !self.known_connection.up {
            return 0;
        }
        let unused = self.credits.unused();
        if let Some(block) = &self.block {
            return u64::from(unused == 0 && block.may_probe(now));
        }
        let room = self.settings.max_in_flight.saturating_sub(self.in_hand.len() as u64).saturating_sub(unused);
        if self.credits.others_wait() {
            let waiting = *self.waiting.borrow();
            // Where nobody can tell how much waits, one is worth a pull, which tells.
            let work = waiting.pending.map_or(1, |n| n.saturating_add(waiting.ack_pending.unwrap_or(0)));
            return room.min(work.saturating_sub(unused));
        }
        room
    }

    async fn pull(&mut self, puller: &mut Puller, now: Instant) {
        if self.stopping.is_some()
            || !self.known_connection.up
            || self.pull_not_before.is_some_and(|at| now < at)
            || !self.credits.may_use(now)
            || !self.shared.record_stands()
        {
            return;
        }
        let outstanding = puller.outstanding();
        let in_hand = self.in_hand.len() as u64;
        let mut free = self.credits.ready(in_hand, self.settings.max_in_flight).saturating_sub(outstanding);
        if let Some(block) = &self.block {
            free = if block.may_probe(now) && outstanding == 0 { free.min(1) } else { 0 };
        }
        // Small pulls beside a large one cost more than they bring; alone, a single credit is worth one at once.
        let window = outstanding.saturating_add(in_hand).saturating_add(free);
        if free == 0 || (outstanding > 0 && free.saturating_mul(PULLS) < window) {
            return;
        }
        let rest = self.credits.lease_until().map_or(PULL_EXPIRES, |until| until.saturating_duration_since(now));
        let expires = PULL_EXPIRES.min(rest).max(Duration::from_millis(50)).min(self.settings.max_expires);
        match puller.pull(free.min(self.settings.max_batch), expires).await {
            Ok(()) => self.pulls.sent(now),
            Err(error @ (PullError::Disconnected | PullError::TimedOut)) => {
                tracing::debug!(error = %error, "no pull now");
                self.pull_not_before = Some(now + PULL_PAUSE);
            }
            Err(error @ (PullError::Subscribe(_) | PullError::Publish(_))) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a pull could not be sent; trying on");
                self.pull_not_before = Some(now + PULL_PAUSE);
            }
        }
    }

    pub(super) fn stop(&mut self) {
        tracing::info!(
            in_hand = self.in_hand.len(),
            "stopping: no more pulls, what is in hand is finished or returned"
        );
        self.stopping = Some(clock::now() + self.settings.grace);
        self.health.drain();
        self.alert(|alert| alert.shutdown = true);
    }

    pub(super) fn wake_at(&self, now: Instant) -> Instant {
        let block = self.block.as_ref().and_then(LocalBlock::not_before).filter(|at| *at > now);
        let pull = self.pull_not_before.filter(|at| *at > now);
        let stream = self.asks_stream_at().filter(|at| *at > now);
        let lease = self.credits.lease_until().filter(|at| *at > now);
        let reminder = self.reminder.deadline().filter(|at| *at > now);
        let pulls = self.pulls.deadline(self.waiting.borrow().trouble.is_some()).filter(|at| *at > now);
        let announce = self.announcer.deadline(&self.gate).filter(|at| *at > now);
        [
            self.report_at.filter(|_| self.credits.is_gated()),
            block,
            pull,
            stream,
            lease,
            reminder,
            pulls,
            announce,
            self.stopping,
            Some(now + BEAT),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(now + BEAT)
    }

    /// Brings gate, log, metrics and board to what is true now.
    fn show(&mut self, puller: &Puller, now: Instant) {
        let waiting = *self.waiting.borrow();
        let grant = self.credits.last_grant();
        let heard = match grant {
            _ if !self.credits.is_gated() => Heard::NotNeeded,
            None => Heard::Never,
            Some(_) if !self.credits.may_use(now) => Heard::Over,
            Some(grant) => Heard::Live(grant.reason),
        };
        let standing = self.shared.standing();
        let trouble = waiting.trouble.filter(|trouble| self.pulls.are_hindered_by(*trouble, now));
        let nats_down = !self.known_connection.up
            || trouble.is_some()
            || self.pulls.are_denied(now)
            // A stream that does not answer is as good as gone.
            || standing == Standing::StreamUnknown;
        let local = Reasons::NONE
            .with_if(nats_down, Reason::NatsDown)
            .with_if(waiting.paused, Reason::ConsumerPaused)
            .with_if(self.stopping.is_some(), Reason::Shutdown);
        let local = self.block.as_ref().map_or(local, |block| local.with(block.reason));
        let facts = GateFacts {
            credits_ready: self.credits.ready(self.in_hand.len() as u64, self.settings.max_in_flight),
            in_hand: self.credits.busy(),
            heard,
            candidacy: self.lease.borrow().candidacy,
            settling: standing == Standing::Settling,
            local,
        };
        let moved = self.gate.update(facts, now);
        {
            let lease = self.lease.borrow();
            let unread = self.stream_unread.as_ref().map(|unread| unread.why.as_str());
            let trouble = trouble.map(Trouble::words).or(unread);
            let nats = trouble.filter(|_| self.known_connection.up).or(self.known_connection.last_error.as_deref());
            let grant = grant.filter(|_| self.credits.may_use(now));
            let from = Sources { block: self.block.as_ref(), lease: &lease, grant, nats };
            let detail = lines::detail(self.gate.reason(), from);
            if self.detail != detail {
                detail.clone_into(&mut self.detail);
            }
        }
        if let Some(transition) = moved {
            tracing::debug!(from = %transition.from, to = %transition.to, detail = self.detail, "gate moved");
        }
        if let Some(said) = self.announcer.due(&self.gate, now) {
            self.board.say(&said, &self.detail);
        }
        self.shared.metrics.blocked.set(self.gate.gauge());
        let waits = lines::waiting(waiting, self.in_hand.len());
        if let Some(reminded) = self.reminder.due(&self.gate, waits, now) {
            tracing::info!(
                reason = reminded.reason.as_str(),
                since = %lines::since(reminded.lasted, clock::wall()),
                blocked_seconds = reminded.lasted.as_secs(),
                waiting = reminded.waiting,
                detail = self.detail,
                freed_by = reminded.reason.freed_by(),
                "still blocked"
            );
        }
        let shown =
            Shown { in_hand: self.in_hand.len(), outstanding: puller.outstanding(), waiting, detail: &self.detail };
        self.board.show(&self.gate, &self.credits, &shown, now);
    }
}

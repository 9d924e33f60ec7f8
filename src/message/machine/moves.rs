//! What the machine does in each state.

use std::time::{Duration, Instant};

use super::{
    Action, Actions, Block, Call, Confirmed, Effect, End, Facts, Found, How, Look, Looked, Machine, Noted, OnDoubt,
    Outcome, State, Wait, Why, after,
};
use crate::message::{Answer, DeadReason, Says, retry};

/// How long after the first refusal one that contradicts a newer view is tried again: admission lags by 6 to 23 ms.
const CONTRADICTION: Duration = Duration::from_millis(100);
/// How long a message waits for the record; it moves at least every few seconds, mostly within 100 ms.
const RECORD_WAIT: Duration = Duration::from_secs(2);
/// The pauses before a failed call is made again.
const CALL_BASE: Duration = Duration::from_millis(200);
const CALL_CAP: Duration = Duration::from_secs(5);
/// The pauses before a create that lost a race is made again.
const CONFLICT_BASE: Duration = Duration::from_millis(20);
const CONFLICT_CAP: Duration = Duration::from_millis(200);

/// Creates within one delivery, whatever they failed for; a quota that contradicts its view allows some ten.
const MOST_CREATES: u64 = 16;
const MOST_UNSENT: u64 = 3;
const MOST_CONFLICTS: u64 = 6;
/// Lookups and version reads that fail while nothing is open but the message.
const MOST_CALLS: u64 = 3;
/// In-progress for the time of one create; one is enough where `ack_wait` is longer than P.
const MOST_RENEWALS: u64 = 3;
const MOST_DEAD_LETTERS: u64 = 5;
const MOST_SETTLEMENTS: u64 = 8;
const MOST_NAKS: u64 = 2;

impl Machine {
    pub(super) fn start(&mut self, facts: &Facts, now: Instant, actions: &mut Actions) {
        if self.leaves_or_is_done(facts, now, actions) {
            return;
        }
        match self.handed.effect {
            Effect::Instant => self.render(actions),
            Effect::Object if self.handed.fresh => self.render(actions),
            // `wake` looks at once where the time has come.
            Effect::Object => {
                self.state = State::Waiting(Wait::Pause { until: self.handed.not_before.unwrap_or(now) });
            }
        }
    }

    // ---- numbers ----

    pub(super) fn number_made(&mut self, actions: &mut Actions) {
        if std::mem::take(&mut self.number_open) {
            actions.push(Action::Made(self.credit.number));
        }
    }

    fn number_back(&mut self, actions: &mut Actions) {
        if std::mem::take(&mut self.number_open) {
            actions.push(Action::Return(self.credit.number));
        }
    }

    // ---- before a create ----

    /// Ends what was not created: true when the record knows the message, or it can't go on.
    pub(super) fn leaves_or_is_done(&mut self, facts: &Facts, now: Instant, actions: &mut Actions) -> bool {
        if facts.record == Says::Done {
            self.number_back(actions);
            self.settle(End::Ack(How::Recorded), actions);
            return true;
        }
        let Some(why) = self.must_leave(facts, now) else { return false };
        self.give_up(why, retry::short(self.handed.delivered, self.seed), actions);
        true
    }

    /// Why no create may follow in this delivery.
    fn must_leave(&self, facts: &Facts, now: Instant) -> Option<Why> {
        let lease_over = facts.lease_until.is_none_or(|until| until <= now);
        self.stop.or_else(|| self.no_longer_ours()).or_else(|| lease_over.then_some(Why::LeaseOver))
    }

    fn render(&mut self, actions: &mut Actions) {
        self.state = State::Calling(Call::Render);
        actions.push(Action::Render);
    }

    pub(super) fn lookup(&mut self, look: Look, actions: &mut Actions) -> bool {
        self.state = State::Calling(Call::Lookup(look));
        actions.push(Action::Lookup);
        true
    }

    pub(super) fn read_version(&mut self, actions: &mut Actions) -> bool {
        self.state = State::Calling(Call::Version);
        actions.push(Action::ReadVersion);
        true
    }

    pub(super) fn looked(&mut self, look: Look, looked: Looked, facts: &Facts, now: Instant, actions: &mut Actions) {
        match (looked, look) {
            (Looked::Found(found), Look::Redelivered | Look::Refused | Look::Taken | Look::Unanswered) => {
                self.found(&found, actions);
            }
            (Looked::Absent, Look::Refused) => self.absent_after_refusal(facts, now, actions),
            (Looked::Absent, Look::Redelivered | Look::Taken | Look::Unanswered) => {
                // From here on nothing of ours is under way, so the number may go back.
                if !self.leaves_or_is_done(facts, now, actions) {
                    if facts.record_version.is_some() {
                        self.read_version(actions);
                    } else {
                        self.doubtful = true;
                        self.go_on(facts, now, actions);
                    }
                }
            }
            (Looked::Failed, Look::Redelivered | Look::Refused) => {
                self.tries.lookups += 1;
                if self.tries.lookups >= MOST_CALLS {
                    self.give_up_growing(Why::LookupFailed, actions);
                } else {
                    let at = self.call_again(self.tries.lookups, now);
                    self.state = State::Waiting(Wait::LookAgain { at, look });
                }
            }
            (Looked::Failed, Look::Taken | Look::Unanswered) => {
                self.tries.lookups = self.tries.lookups.saturating_add(1);
                let at = self.call_again(self.tries.lookups, now);
                self.state = State::Waiting(Wait::LookAgain { at, look });
            }
        }
    }

    fn found(&mut self, found: &Found, actions: &mut Actions) {
        if found.message.as_deref() != Some(self.id.annotation().as_str()) {
            let whose = found.message.as_deref().unwrap_or("none");
            let text = format!("the name is taken by an object whose message annotation is {whose}");
            self.bury(DeadReason::ForeignObject, text, actions);
            return;
        }
        if found.credit.as_deref() == Some(self.credit.annotation().as_str()) {
            self.number_made(actions);
        } else {
            self.number_back(actions);
        }
        self.settle(End::Ack(How::Found), actions);
    }

    /// The refused create was not hiding an object: again, with the same number.
    fn absent_after_refusal(&mut self, facts: &Facts, now: Instant, actions: &mut Actions) {
        let late = self.refused_at.is_some_and(|first| now >= after(first, CONTRADICTION));
        match self.refusal.take() {
            Some(refusal) if late => self.refused_by_quota(Block::QuotaRefused(refusal), Why::QuotaRefused, actions),
            Some(_) | None => self.try_create(facts, now, actions),
        }
    }

    pub(super) fn version(&mut self, version: Option<u64>, now: Instant, actions: &mut Actions) {
        if let Some(version) = version {
            self.state = State::Waiting(Wait::Record { version, until: after(now, RECORD_WAIT) });
            return;
        }
        self.tries.versions += 1;
        if self.tries.versions >= MOST_CALLS {
            self.give_up_growing(Why::LookupFailed, actions);
        } else {
            let at = self.call_again(self.tries.versions, now);
            self.state = State::Waiting(Wait::VersionAgain { at });
        }
    }

    /// The object is absent, and the record was asked already whether it came and went: has it looked that far?
    pub(super) fn record_reached(
        &mut self,
        version: u64,
        until: Instant,
        facts: &Facts,
        now: Instant,
        actions: &mut Actions,
    ) -> bool {
        // A record that is kept no longer proves nothing; it counts as one that lags.
        if facts.record_version.is_none_or(|reached| reached < version) {
            if now < until {
                return false;
            }
            self.give_up(Why::RecordBehind, retry::short(self.handed.delivered, self.seed), actions);
            return true;
        }
        if facts.in_doubt {
            match self.terms.on_doubt {
                OnDoubt::Create => self.doubtful = true,
                OnDoubt::Dead => {
                    let text = "delivered again, and its object may have come and gone in a gap of the record";
                    self.bury(DeadReason::InDoubt, text.to_owned(), actions);
                    return true;
                }
            }
        }
        self.go_on(facts, now, actions);
        true
    }

    fn go_on(&mut self, facts: &Facts, now: Instant, actions: &mut Actions) {
        if self.rendered {
            self.try_create(facts, now, actions);
        } else {
            self.render(actions);
        }
    }

    /// Creates, if every condition holds at this moment.
    pub(super) fn try_create(&mut self, facts: &Facts, now: Instant, actions: &mut Actions) {
        if self.leaves_or_is_done(facts, now, actions) {
            return;
        }
        if self.tries.creates >= MOST_CREATES {
            self.give_up_growing(Why::NoAnswer, actions);
            return;
        }
        if !self.has_time(now) {
            self.progress_due = self.progress_due.min(now);
            self.state = State::Waiting(Wait::Time);
            return;
        }
        self.tries.creates += 1;
        self.state = State::Calling(Call::Create { ordered: now });
        if std::mem::take(&mut self.doubtful) {
            actions.push(Action::Count(Noted::PossibleDuplicate));
        }
        actions.push(Action::Create { send_by: after(now, self.terms.create_timeout / 2) });
    }

    /// A confirmed in-progress gives the time, unless `ack_wait` is too short for any.
    pub(super) fn time_is_renewed(&mut self, facts: &Facts, now: Instant, actions: &mut Actions) -> bool {
        let goes_on = self.has_time(now);
        if goes_on {
            self.try_create(facts, now, actions);
        } else if self.tries.renewals >= MOST_RENEWALS {
            self.give_up(Why::HoldOver, retry::short(self.handed.delivered, self.seed), actions);
            return true;
        }
        goes_on
    }

    pub(super) fn progress_confirmed(&mut self, now: Instant) {
        let Some(asked) = self.progress_asked.take() else { return };
        // An answer after the end of the hold, or over another connection, may concern another's delivery.
        if self.no_longer_ours().is_none() {
            self.kept_from = self.kept_from.max(asked);
        }
        self.progress_due = after(asked, self.terms.ack_wait / 3);
        if matches!(self.state, State::Waiting(Wait::Time)) && !self.has_time(now) {
            self.tries.renewals += 1;
            self.progress_due = self.progress_due.min(now);
        }
    }

    pub(super) fn progress_failed(&mut self, now: Instant, actions: &mut Actions) {
        if self.progress_asked.take().is_none() {
            return;
        }
        self.progress_due = after(now, self.terms.ack_wait / 12);
        if matches!(self.state, State::Waiting(Wait::Time)) {
            self.give_up(Why::HoldOver, retry::short(self.handed.delivered, self.seed), actions);
        }
    }

    // ---- the answer of a create ----

    pub(super) fn unanswered(&mut self, ordered: Instant, actions: &mut Actions) {
        match self.handed.effect {
            Effect::Instant => self.give_up_growing(Why::NoAnswer, actions),
            Effect::Object => {
                let until = after(ordered, self.terms.create_timeout);
                self.state = State::Waiting(Wait::Answer { until });
            }
        }
    }

    pub(super) fn not_sent(&mut self, facts: &Facts, now: Instant, actions: &mut Actions) {
        self.tries.unsent += 1;
        if self.tries.unsent >= MOST_UNSENT {
            self.give_up(Why::NotSent, retry::short(self.handed.delivered, self.seed), actions);
        } else {
            self.try_create(facts, now, actions);
        }
    }

    pub(super) fn refused(
        &mut self,
        answer: Answer,
        ordered: Instant,
        facts: &Facts,
        now: Instant,
        actions: &mut Actions,
    ) {
        match self.handed.effect {
            Effect::Object => {}
            // A local effect has nothing that could refuse; a driver that says so has not done it.
            Effect::Instant => return self.give_up_growing(Why::Refused, actions),
        }
        match answer {
            Answer::AlreadyExists => {
                self.lookup(Look::Taken, actions);
            }
            Answer::QuotaExceeded(refusal) => {
                let first = *self.refused_at.get_or_insert(now);
                if facts.contradicted && now < after(first, CONTRADICTION) {
                    self.refusal = Some(refusal);
                    actions.push(Action::Count(Noted::RefusalRetried));
                    let at = after(now, retry::pause(self.tries.creates, self.seed));
                    self.state = State::Waiting(Wait::Retry { at });
                } else {
                    self.refused_by_quota(Block::QuotaRefused(refusal), Why::QuotaRefused, actions);
                }
            }
            Answer::QuotaConflict => {
                self.refusal = None;
                self.tries.conflicts += 1;
                if self.tries.conflicts >= MOST_CONFLICTS {
                    self.give_up(Why::Conflict, retry::refused(self.handed.delivered, self.seed), actions);
                } else {
                    actions.push(Action::Count(Noted::ConflictRetried));
                    let pause = retry::grow(CONFLICT_BASE, CONFLICT_CAP, self.tries.conflicts, self.seed);
                    self.state = State::Waiting(Wait::Retry { at: after(now, pause) });
                }
            }
            Answer::NeverFits(refusal) => self.blocked(Block::NeverFits(refusal), Why::NeverFits, actions),
            Answer::StatusUnknown { quota, resources } => {
                self.refused_by_quota(Block::StatusUnknown { quota, resources }, Why::StatusUnknown, actions);
            }
            Answer::TargetRefused { what, text } => {
                self.blocked(Block::TargetRefused { what, text }, Why::TargetRefused, actions);
            }
            Answer::Unauthorized => self.blocked(Block::Unauthorized, Why::Unauthorized, actions),
            Answer::Poison(reason, text) => self.bury(reason, text, actions),
            Answer::Throttled { after } => {
                actions.push(Action::Block(Block::Throttled { after }));
                self.unanswered(ordered, actions);
            }
            Answer::Unknown { text: _ } => self.unanswered(ordered, actions),
            Answer::Again { text: _ } => self.give_up_growing(Why::Refused, actions),
        }
    }

    // ---- the ends ----

    fn blocked(&mut self, block: Block, why: Why, actions: &mut Actions) {
        self.number_back(actions);
        actions.push(Action::Block(block));
        self.give_up_growing(why, actions);
    }

    /// As `blocked`, for what ends by itself when the quota moves.
    fn refused_by_quota(&mut self, block: Block, why: Why, actions: &mut Actions) {
        self.number_back(actions);
        actions.push(Action::Block(block));
        self.give_up(why, retry::refused(self.handed.delivered, self.seed), actions);
    }

    fn give_up_growing(&mut self, why: Why, actions: &mut Actions) {
        self.give_up(why, retry::delay(self.handed.delivered, self.seed), actions);
    }

    /// Gives the number back and the message too; `wake` goes on at once.
    fn give_up(&mut self, why: Why, delay: Duration, actions: &mut Actions) {
        self.number_back(actions);
        self.state = State::Waiting(Wait::Leave { why, delay });
    }

    pub(super) fn leave(&mut self, why: Why, delay: Duration, now: Instant, actions: &mut Actions) -> bool {
        if self.hold_over || now >= self.nak_end() || (self.link.lost && self.link.forgotten) {
            self.finish(Outcome::Abandoned(why), actions);
            return true;
        }
        if !self.link.up {
            return false;
        }
        self.state = State::Calling(Call::Nak { why, delay });
        actions.push(Action::Nak(delay));
        true
    }

    pub(super) fn left(&mut self, why: Why, delay: Duration, confirmed: Confirmed, actions: &mut Actions) {
        self.tries.naks += 1;
        match confirmed {
            Confirmed::Yes => self.finish(Outcome::Again(why), actions),
            Confirmed::No if self.tries.naks >= MOST_NAKS => self.finish(Outcome::Abandoned(why), actions),
            Confirmed::No => self.state = State::Waiting(Wait::Leave { why, delay }),
        }
    }

    pub(super) fn bury(&mut self, reason: DeadReason, text: String, actions: &mut Actions) {
        self.number_back(actions);
        if let Some(why) = self.no_longer_ours() {
            // Whoever has it now decides for himself; a create of his and a dead letter of ours would be two ends.
            self.give_up(why, retry::short(self.handed.delivered, self.seed), actions);
            return;
        }
        self.dead = Some((reason, text.clone()));
        self.state = State::Calling(Call::Bury);
        actions.push(Action::PublishDead { reason, text });
    }

    fn no_longer_ours(&self) -> Option<Why> {
        if self.link.lost { Some(Why::ConnectionLost) } else { self.hold_over.then_some(Why::HoldOver) }
    }

    pub(super) fn dead_stored(&mut self, stored: Confirmed, now: Instant, actions: &mut Actions) {
        match (stored, &self.dead) {
            (Confirmed::Yes, Some((reason, _))) => self.settle(End::Term(*reason), actions),
            (Confirmed::No, Some(_)) if self.tries.dead_letters + 1 < MOST_DEAD_LETTERS => {
                self.tries.dead_letters += 1;
                let at = self.call_again(self.tries.dead_letters, now);
                self.state = State::Waiting(Wait::BuryAgain { at });
            }
            (Confirmed::No, Some(_)) | (Confirmed::Yes | Confirmed::No, None) => {
                self.give_up_growing(Why::DeadLetterFailed, actions);
            }
        }
    }

    pub(super) fn bury_again(&mut self, at: Instant, now: Instant, actions: &mut Actions) -> bool {
        let ends = self.no_longer_ours().or_else(|| self.shutdown.then_some(Why::Shutdown));
        if let Some(why) = ends {
            self.give_up(why, retry::short(self.handed.delivered, self.seed), actions);
            return true;
        }
        if now < at {
            return false;
        }
        match self.dead.clone() {
            Some((reason, text)) => self.bury(reason, text, actions),
            None => self.give_up_growing(Why::DeadLetterFailed, actions),
        }
        true
    }

    pub(super) fn settle(&mut self, end: End, actions: &mut Actions) {
        self.state = State::Calling(Call::Settle(end));
        actions.push(match end {
            End::Ack(_) => Action::Ack,
            End::Term(reason) => Action::Term(reason),
        });
    }

    pub(super) fn settled(&mut self, end: End, confirmed: Confirmed, now: Instant, actions: &mut Actions) {
        self.tries.settlements += 1;
        match (confirmed, end) {
            (Confirmed::Yes, End::Ack(how)) => self.finish(Outcome::Done(how), actions),
            (Confirmed::Yes, End::Term(reason)) => self.finish(Outcome::Dead(reason), actions),
            (Confirmed::No, End::Ack(_) | End::Term(_)) if self.tries.settlements < MOST_SETTLEMENTS => {
                let at = self.call_again(self.tries.settlements, now);
                self.state = State::Waiting(Wait::SettleAgain { end, at });
            }
            (Confirmed::No, End::Ack(_) | End::Term(_)) => self.unconfirmed(end, actions),
        }
    }

    pub(super) fn settle_again(&mut self, end: End, at: Instant, now: Instant, actions: &mut Actions) -> bool {
        if now >= self.hold_end() {
            self.unconfirmed(end, actions);
            return true;
        }
        // A request over no connection is only queued; it must not use up the tries.
        if now < at || !self.link.up {
            return false;
        }
        self.settle(end, actions);
        true
    }

    fn unconfirmed(&mut self, end: End, actions: &mut Actions) {
        let outcome = match end {
            End::Ack(how) => Outcome::AckUnconfirmed(how),
            End::Term(reason) => Outcome::TermUnconfirmed(reason),
        };
        self.finish(outcome, actions);
    }

    fn finish(&mut self, outcome: Outcome, actions: &mut Actions) {
        self.state = State::Finished(outcome);
        actions.push(Action::Finish(outcome));
    }

    fn call_again(&self, attempt: u64, now: Instant) -> Instant {
        after(now, retry::grow(CALL_BASE, CALL_CAP, attempt, self.seed))
    }
}

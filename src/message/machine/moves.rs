//! From the delivery to the create.

use std::time::{Duration, Instant};

use super::{
    Action, Actions, Block, Call, Effect, End, Facts, Found, How, Look, Looked, Machine, Noted, OnDoubt, State, Wait,
    Why, after,
};
use crate::message::{DeadReason, Says, retry};

/// How long after the first refusal one that contradicts a newer view is tried again: admission lags by 6 to 23 ms.
pub(super) const CONTRADICTION: Duration = Duration::from_millis(100);
/// How long a message waits for the record; it moves at least every few seconds, mostly within 100 ms.
const RECORD_WAIT: Duration = Duration::from_secs(2);
/// The pauses before a failed call is made again.
const CALL_BASE: Duration = Duration::from_millis(200);
const CALL_CAP: Duration = Duration::from_secs(5);

/// Creates within one delivery, whatever they failed for; a quota that contradicts its view allows some ten.
const MOST_CREATES: u64 = 16;
/// Lookups and version reads that fail while nothing is open but the message.
const MOST_CALLS: u64 = 3;
/// In-progress for the time of one create; one is enough where `ack_wait` is longer than P.
const MOST_RENEWALS: u64 = 3;

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

    pub(super) fn number_back(&mut self, actions: &mut Actions) {
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
        let Some(why) = self.must_leave(facts, now) else {
            return false;
        };
        self.give_up(why, retry::short(self.handed.delivered, self.seed), actions);
        true
    }

    /// Why no create may follow in this delivery.
    fn must_leave(&self, facts: &Facts, now: Instant) -> Option<Why> {
        let lease_over = facts.lease_until.is_none_or(|until| until <= now);
        self.stop.or_else(|| self.no_longer_ours()).or_else(|| lease_over.then_some(Why::LeaseOver))
    }

    /// Returns the message for as long as the API server still wants to be left alone: who waits elsewhere has more use
    /// for the number.
    fn leaves_as_asked(&mut self, now: Instant, actions: &mut Actions) -> bool {
        let Some(rest) = self.asked_until.take().and_then(|until| until.checked_duration_since(now)) else {
            return false;
        };
        self.give_up(Why::NoAnswer, rest + retry::short(self.handed.delivered, self.seed), actions);
        true
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
                if !self.leaves_or_is_done(facts, now, actions) && !self.leaves_as_asked(now, actions) {
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

    /// Asks for a place to create, if every condition holds; a local effect needs none.
    pub(super) fn try_create(&mut self, facts: &Facts, now: Instant, actions: &mut Actions) {
        match self.handed.effect {
            Effect::Instant => self.create(facts, now, actions),
            Effect::Object => {
                if self.may_create(facts, now, actions) {
                    self.state = State::Waiting(Wait::Place);
                    actions.push(Action::Place);
                }
            }
        }
    }

    /// Whether every condition of a create holds at this moment; where one does not, what follows from that is done.
    fn may_create(&mut self, facts: &Facts, now: Instant, actions: &mut Actions) -> bool {
        if self.leaves_or_is_done(facts, now, actions) {
            return false;
        }
        if self.tries.creates >= MOST_CREATES {
            self.give_up_growing(Why::NoAnswer, actions);
            return false;
        }
        if !self.has_time(now) {
            self.progress_due = self.progress_due.min(now);
            self.state = State::Waiting(Wait::Time);
            return false;
        }
        true
    }

    /// Creates, if every condition holds at this moment.
    pub(super) fn create(&mut self, facts: &Facts, now: Instant, actions: &mut Actions) {
        if !self.may_create(facts, now, actions) {
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
        let Some(asked) = self.progress_asked.take() else {
            return;
        };
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

    /// When a call that failed is made again.
    pub(super) fn call_again(&self, attempt: u64, now: Instant) -> Instant {
        after(now, retry::grow(CALL_BASE, CALL_CAP, attempt, self.seed))
    }
}

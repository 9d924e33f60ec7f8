//! From the answer of the create to the end.

use std::time::{Duration, Instant};

use super::moves::CONTRADICTION;
use super::{
    Action, Actions, Block, Call, Confirmed, Effect, End, Facts, Look, Machine, Noted, Outcome, State, Wait, Why, after,
};
use crate::message::{Answer, DeadReason, retry};

/// The pauses before a create that lost a race is made again.
const CONFLICT_BASE: Duration = Duration::from_millis(20);
const CONFLICT_CAP: Duration = Duration::from_millis(200);
/// Creates that could not be sent in their time.
const MOST_UNSENT: u64 = 3;
const MOST_CONFLICTS: u64 = 6;
const MOST_DEAD_LETTERS: u64 = 5;
const MOST_SETTLEMENTS: u64 = 8;
const MOST_NAKS: u64 = 2;

impl Machine {
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
            Answer::Throttled { after: asked } => {
                actions.push(Action::Block(Block::Throttled { after: asked }));
                self.asked_until = asked.map(|asked| after(now, asked.min(retry::LONGEST_ASKED)));
                self.unanswered(ordered, actions);
            }
            Answer::Unknown { text: _ } => self.unanswered(ordered, actions),
            Answer::Again { text: _ } => self.give_up_growing(Why::Refused, actions),
        }
    }

    // ---- the ends ----

    pub(super) fn blocked(&mut self, block: Block, why: Why, actions: &mut Actions) {
        // First the block: who hears of the number again knows already that it is not to be used.
        actions.push(Action::Block(block));
        self.number_back(actions);
        self.give_up_growing(why, actions);
    }

    /// As `blocked`, for what ends by itself when the quota moves.
    pub(super) fn refused_by_quota(&mut self, block: Block, why: Why, actions: &mut Actions) {
        actions.push(Action::Block(block));
        self.number_back(actions);
        self.give_up(why, retry::refused(self.handed.delivered, self.seed), actions);
    }

    pub(super) fn give_up_growing(&mut self, why: Why, actions: &mut Actions) {
        self.give_up(why, retry::delay(self.handed.delivered, self.seed), actions);
    }

    /// Gives the number back and the message too; `wake` goes on at once.
    pub(super) fn give_up(&mut self, why: Why, delay: Duration, actions: &mut Actions) {
        self.number_back(actions);
        self.state = State::Waiting(Wait::Leave { why, delay });
    }

    pub(super) fn leave(&mut self, why: Why, delay: Duration, now: Instant, actions: &mut Actions) -> bool {
        if self.hold_over || !self.terms.may_nak(self.kept_from, self.link.forgotten, now) {
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

    pub(super) fn no_longer_ours(&self) -> Option<Why> {
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
        // The sequence may be another message's by now.
        if self.link.forgotten {
            self.unconfirmed(end, actions);
            return;
        }
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
        if now >= self.hold_end() || self.link.forgotten {
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
}

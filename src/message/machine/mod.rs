//! The machine of one message: from its delivery to its end.
//!
//! It gets what happened and the newest facts, and gives what is to be done. It has no clock and does nothing itself,
//! so a simulator and a model checker run the same code as the sensor.
//!
//! ```text
//!  Start ──record says done──────────────────────────────────────────────► ACK
//!    │
//!    ├─never handed out before─► RENDER ──fails──► (number back) ► DEAD LETTER ──stored──► TERM ─► Dead
//!    │                             │                                   └─fails, a few times─► leave
//!    └─delivered again             ▼
//!        wait not_before     hold, lease, connection, time left? ──no──► (number back) ► leave
//!        LOOKUP                    │            └─only time is short─► PROGRESS, then again
//!         │ found, ours ► ACK      ▼ PLACE among the creates, and the same questions again
//!         │ found, foreign ► DEAD  CREATE ──stored──► (number made) ► ACK ──confirmed──► Done
//!         │ failed ► again, leave  │  │                                └─not─► again, AckUnconfirmed
//!         ▼ absent                 │  ├─name taken──────────────────────────────► LOOKUP
//!        VERSION ◄──absent──┐      │  ├─no answer, 429, 5xx─► wait P from CREATE ► LOOKUP
//!         ▼                 │      │  ├─quota refused, view says room, within 100 ms─► wait 10-25 ms ► LOOKUP ► CREATE
//!        record reaches it ─┼──────┘  ├─lost race for the quota─► wait ► LOOKUP ► CREATE
//!         │ not in 2 s ► leave        ├─quota full, target refuses─► (number back, block) ► leave
//!         └ in doubt, dead ► DEAD     └─the message's own fault─► (number back) ► DEAD LETTER
//!
//!  leave: (number back) ► NAK with a delay, if the message is surely still ours and the connection's server remembers;
//!         else nothing, and it comes again when the server's ack wait is over.
//! ```
//!
//! Rules that the picture does not show:
//! - The number of a create without a definite answer stays open until a lookup that began P after the create was
//!   ordered found the object or nothing. That goes on when the message itself is lost: the number outlives the hold.
//! - Where the API server asks for a longer pause than P with its 429, the message goes back for the rest of it.
//! - A nak or in-progress that arrives late would concern somebody else's delivery. Both are sent only while the
//!   message is surely ours: `ack_wait` from the send of the pull, or of the last confirmed in-progress. An ack may be
//!   late: then its effect is there all the same.
//! - The server knows a message by its sequence alone. One that may have forgotten what it stored may have given the
//!   sequence to another message, which an ack or term of ours would settle unseen: after that none is sent. The
//!   message comes again if it is still there, and record, object or dead letter answer it.
//! - A place among the creates under way is waited for with the message in hand: in-progress goes on, and whatever ends
//!   the message is heard. The place is for one POST: every create asks for its own.
//! - Lease over, holder dead and shutdown end what was not created yet. What is under way is answered first.
//! - In-progress is sent at a third of `ack_wait`, beside the call under way.

mod ends;
mod moves;
mod words;

use std::time::{Duration, Instant};

pub use words::{
    Action, Actions, Block, Confirmed, Effect, Event, Facts, Found, Handed, How, Looked, Noted, OnDoubt, Outcome,
    Terms, Why,
};

use super::{CreditId, DeadReason, MessageId, QuotaRefusal};

/// The machine of one message.
#[derive(Clone, Debug)]
pub struct Machine {
    id: MessageId,
    credit: CreditId,
    terms: Terms,
    handed: Handed,
    seed: u64,
    state: State,
    /// Whether the number has neither been made nor returned.
    number_open: bool,
    /// The send of the pull, or of the last confirmed in-progress.
    kept_from: Instant,
    /// When the in-progress under way was ordered.
    progress_asked: Option<Instant>,
    progress_due: Instant,
    link: Link,
    /// The server may have given the message to another.
    hold_over: bool,
    /// Why no create may follow.
    stop: Option<Why>,
    shutdown: bool,
    rendered: bool,
    /// The next create may make a second object.
    doubtful: bool,
    /// When the quota first refused.
    refused_at: Option<Instant>,
    /// The refusal that is being tried again.
    refusal: Option<QuotaRefusal>,
    dead: Option<(DeadReason, String)>,
    /// The API server wants no create before.
    asked_until: Option<Instant>,
    tries: Tries,
}

/// How often each thing was tried; each has its bound.
#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    creates: u64,
    unsent: u64,
    conflicts: u64,
    lookups: u64,
    versions: u64,
    renewals: u64,
    dead_letters: u64,
    settlements: u64,
    naks: u64,
}

/// The connection that brought the message.
#[derive(Clone, Copy, Debug)]
struct Link {
    lost: bool,
    up: bool,
    /// The server behind the present connection may not know that it delivered the message.
    forgotten: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Idle,
    Waiting(Wait),
    Calling(Call),
    Finished(Outcome),
}

/// Nothing is under way; time or a fact goes on with it.
#[derive(Clone, Copy, Debug)]
enum Wait {
    /// A redelivery, until a lookup proves something.
    Pause { until: Instant },
    /// A lookup failed.
    LookAgain { at: Instant, look: Look },
    /// Reading a version failed.
    VersionAgain { at: Instant },
    /// The record has to reach the version.
    Record { version: u64, until: Instant },
    /// A confirmed in-progress has to give time for a create.
    Time,
    /// A place among the creates under way.
    Place,
    /// A refusal is tried again.
    Retry { at: Instant },
    /// The create has no definite answer and may still be under way.
    Answer { until: Instant },
    /// The dead letter could not be stored.
    BuryAgain { at: Instant },
    /// The ack or term was not confirmed.
    SettleAgain { end: End, at: Instant },
    /// The message is to go back as soon as the connection allows.
    Leave { why: Why, delay: Duration },
}

/// One call is under way.
#[derive(Clone, Copy, Debug)]
enum Call {
    Lookup(Look),
    Version,
    Render,
    Create { ordered: Instant },
    Bury,
    Settle(End),
    Nak { why: Why, delay: Duration },
}

/// What a lookup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// The message was delivered again.
    Redelivered,
    /// The create was definitely refused and is to be tried again.
    Refused,
    /// The create says that the name is taken.
    Taken,
    /// The create had no definite answer, and P has passed.
    Unanswered,
}

/// Which end is to be confirmed.
#[derive(Clone, Copy, Debug)]
enum End {
    Ack(How),
    Term(DeadReason),
}

impl Machine {
    /// The machine of a message that was handed out and has its credit. Nothing happens before [`Event::Start`].
    #[must_use]
    pub fn new(id: MessageId, credit: CreditId, terms: Terms, handed: Handed, now: Instant) -> Self {
        // A pull is never sent after its message: a later time would stretch the hold.
        let kept_from = handed.pull_sent.min(now);
        Self {
            seed: id.seed(),
            id,
            credit,
            terms,
            handed,
            state: State::Idle,
            number_open: true,
            kept_from,
            progress_asked: None,
            progress_due: after(kept_from, terms.ack_wait / 3),
            link: Link { lost: false, up: true, forgotten: false },
            hold_over: false,
            stop: None,
            shutdown: false,
            rendered: false,
            doubtful: false,
            refused_at: None,
            refusal: None,
            dead: None,
            asked_until: None,
            tries: Tries::default(),
        }
    }

    /// The message.
    #[must_use]
    pub const fn id(&self) -> &MessageId {
        &self.id
    }

    /// The credit that it was given.
    #[must_use]
    pub const fn credit(&self) -> &CreditId {
        &self.credit
    }

    /// Whether the number is neither made nor returned.
    #[must_use]
    pub const fn number_is_open(&self) -> bool {
        self.number_open
    }

    /// Whether it waits for a place among the creates under way. A place that comes when it no longer does goes back.
    #[must_use]
    pub const fn wants_place(&self) -> bool {
        matches!(self.state, State::Waiting(Wait::Place))
    }

    /// Whether it has ended.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished(_))
    }

    /// How it ended.
    #[must_use]
    pub const fn outcome(&self) -> Option<Outcome> {
        match self.state {
            State::Finished(outcome) => Some(outcome),
            State::Idle | State::Waiting(_) | State::Calling(_) => None,
        }
    }

    /// Takes one event with the newest facts, and gives what is to be done, in order.
    pub fn step(&mut self, event: Event, facts: &Facts, now: Instant) -> Actions {
        let mut actions = Actions::new();
        self.notice(facts, now);
        self.take(event, facts, now, &mut actions);
        while self.wake(facts, now, &mut actions) {}
        self.keep_alive(now, &mut actions);
        actions
    }

    /// When it wants [`Event::Tick`] at the latest; `None` where only an answer or a fact goes on with it. Facts may
    /// change earlier: the driver ticks when they do, and at the end of the lease.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let hold_end = self.hold_end();
        let state = match self.state {
            State::Idle | State::Calling(_) | State::Finished(_) => None,
            State::Waiting(wait) => Some(match wait {
                Wait::Pause { until: at }
                | Wait::VersionAgain { at }
                | Wait::Record { until: at, .. }
                | Wait::Retry { at }
                | Wait::BuryAgain { at }
                | Wait::LookAgain { at, look: Look::Redelivered | Look::Refused } => at.min(hold_end),
                Wait::LookAgain { at, look: Look::Taken | Look::Unanswered } | Wait::Answer { until: at } => at,
                Wait::Time | Wait::Place => hold_end,
                Wait::SettleAgain { at, .. } if self.link.up => at.min(hold_end),
                Wait::SettleAgain { .. } => hold_end,
                Wait::Leave { .. } => self.nak_end(),
            }),
        };
        let progress = (self.keeps_alive() && self.progress_asked.is_none()).then_some(self.progress_due);
        state.into_iter().chain(progress).min()
    }

    /// Takes what the facts say about connection and hold; both are lost for good.
    fn notice(&mut self, facts: &Facts, now: Instant) {
        self.link.up = facts.connected;
        self.link.forgotten |= facts.forgetful > self.handed.connection;
        self.link.lost |= !facts.connected || facts.connection != self.handed.connection || self.link.forgotten;
        self.hold_over |= now >= self.hold_end();
    }

    /// All pairs of state and event.
    fn take(&mut self, event: Event, facts: &Facts, now: Instant, actions: &mut Actions) {
        use Call::{Bury, Create, Lookup, Nak, Render, Settle, Version};
        use State::{Calling, Finished, Idle, Waiting};
        match (self.state, event) {
            (Idle, Event::Start) => self.start(facts, now, actions),
            // What has started does not start again.
            (Waiting(_) | Calling(_) | Finished(_), Event::Start) => {}

            // What is true from now on; a state that waits looks at it next, a call is answered first.
            (Idle | Waiting(_) | Calling(_) | Finished(_), Event::Tick) => {}
            (Idle | Waiting(_) | Calling(_) | Finished(_), Event::ConnectionLost) => self.link.lost = true,
            (Idle | Waiting(_) | Calling(_) | Finished(_), Event::HolderDead) => self.stop_for(Why::HolderDead),
            (Idle | Waiting(_) | Calling(_) | Finished(_), Event::Shutdown) => {
                self.stop_for(Why::Shutdown);
                self.shutdown = true;
            }
            (Idle | Waiting(_) | Calling(_) | Finished(_), Event::ProgressConfirmed) => self.progress_confirmed(now),
            (Idle | Waiting(_) | Calling(_) | Finished(_), Event::ProgressFailed) => {
                self.progress_failed(now, actions);
            }

            (Calling(Lookup(look)), Event::Looked(looked)) => self.looked(look, looked, facts, now, actions),
            (Calling(Version), Event::Version(version)) => self.version(version, now, actions),
            (Calling(Render), Event::Rendered(Ok(()))) => {
                self.rendered = true;
                self.try_create(facts, now, actions);
            }
            (Calling(Render), Event::Rendered(Err((reason, text)))) => self.bury(reason, text, actions),
            (Waiting(Wait::Place), Event::Placed) => self.create(facts, now, actions),
            // It was waited for, and something else came first.
            (Idle | Waiting(_) | Calling(_) | Finished(_), Event::Placed) => {}
            (Calling(Create { .. }), Event::Created) => {
                self.number_made(actions);
                self.settle(End::Ack(How::Made), actions);
            }
            (Calling(Create { ordered }), Event::Refused(answer)) => {
                self.refused(answer, ordered, facts, now, actions);
            }
            (Calling(Create { ordered }), Event::NoAnswer) => self.unanswered(ordered, actions),
            (Calling(Create { .. }), Event::NotSent) => self.not_sent(facts, now, actions),
            (Calling(Bury), Event::DeadStored(stored)) => self.dead_stored(stored, now, actions),
            (Calling(Settle(end)), Event::Acked(confirmed)) => self.settled(end, confirmed, now, actions),
            (Calling(Nak { why, delay }), Event::Acked(confirmed)) => self.left(why, delay, confirmed, actions),

            // Answers that no call under way has asked for.
            (Idle | Waiting(_) | Finished(_), Event::Looked(_) | Event::Version(_) | Event::Rendered(_))
            | (
                Idle | Waiting(_) | Finished(_),
                Event::Created | Event::Refused(_) | Event::NoAnswer | Event::NotSent,
            )
            | (Idle | Waiting(_) | Finished(_), Event::DeadStored(_) | Event::Acked(_))
            | (Calling(Version | Render | Create { .. } | Bury | Settle(_) | Nak { .. }), Event::Looked(_))
            | (Calling(Lookup(_) | Render | Create { .. } | Bury | Settle(_) | Nak { .. }), Event::Version(_))
            | (Calling(Lookup(_) | Version | Create { .. } | Bury | Settle(_) | Nak { .. }), Event::Rendered(_))
            | (
                Calling(Lookup(_) | Version | Render | Bury | Settle(_) | Nak { .. }),
                Event::Created | Event::Refused(_) | Event::NoAnswer | Event::NotSent,
            )
            | (Calling(Lookup(_) | Version | Render | Create { .. } | Settle(_) | Nak { .. }), Event::DeadStored(_))
            | (Calling(Lookup(_) | Version | Render | Create { .. } | Bury), Event::Acked(_)) => {}
        }
    }

    /// Goes on with a state that waits, if time and facts allow; false when it waits on.
    fn wake(&mut self, facts: &Facts, now: Instant, actions: &mut Actions) -> bool {
        let State::Waiting(wait) = self.state else {
            return false;
        };
        match wait {
            Wait::Pause { until } => {
                self.leaves_or_is_done(facts, now, actions) || {
                    now >= until && self.lookup(Look::Redelivered, actions)
                }
            }
            Wait::LookAgain { at, look: look @ (Look::Redelivered | Look::Refused) } => {
                self.leaves_or_is_done(facts, now, actions) || (now >= at && self.lookup(look, actions))
            }
            // The number is open until this is answered, whatever became of the message.
            Wait::LookAgain { at, look: look @ (Look::Taken | Look::Unanswered) } => {
                now >= at && self.lookup(look, actions)
            }
            Wait::Answer { until } => now >= until && self.lookup(Look::Unanswered, actions),
            Wait::VersionAgain { at } => {
                self.leaves_or_is_done(facts, now, actions) || (now >= at && self.read_version(actions))
            }
            Wait::Record { version, until } => {
                self.leaves_or_is_done(facts, now, actions) || self.record_reached(version, until, facts, now, actions)
            }
            Wait::Time => self.leaves_or_is_done(facts, now, actions) || self.time_is_renewed(facts, now, actions),
            Wait::Place => self.leaves_or_is_done(facts, now, actions),
            Wait::Retry { at } => {
                self.leaves_or_is_done(facts, now, actions) || (now >= at && self.lookup(Look::Refused, actions))
            }
            Wait::BuryAgain { at } => self.bury_again(at, now, actions),
            Wait::SettleAgain { end, at } => self.settle_again(end, at, now, actions),
            Wait::Leave { why, delay } => self.leave(why, delay, now, actions),
        }
    }

    fn stop_for(&mut self, why: Why) {
        self.stop.get_or_insert(why);
    }

    /// Until when the message is surely ours.
    fn hold_end(&self) -> Instant {
        after(self.kept_from, self.terms.ack_wait)
    }

    /// Until when a nak may be sent.
    fn nak_end(&self) -> Instant {
        self.terms.nak_end(self.kept_from)
    }

    /// Whether a create that is ordered now is over before the server may deliver the message to another.
    fn has_time(&self, now: Instant) -> bool {
        after(now, self.terms.create_timeout) <= self.hold_end()
    }

    /// Whether in-progress is to be sent: the message is in hand, and nothing ends its stay yet.
    const fn keeps_alive(&self) -> bool {
        let in_hand = match self.state {
            State::Waiting(
                Wait::Pause { .. }
                | Wait::LookAgain { .. }
                | Wait::VersionAgain { .. }
                | Wait::Record { .. }
                | Wait::Time
                | Wait::Place
                | Wait::Retry { .. }
                | Wait::Answer { .. }
                | Wait::BuryAgain { .. },
            )
            | State::Calling(Call::Lookup(_) | Call::Version | Call::Render | Call::Create { .. } | Call::Bury) => true,
            State::Idle
            | State::Waiting(Wait::SettleAgain { .. } | Wait::Leave { .. })
            | State::Calling(Call::Settle(_) | Call::Nak { .. })
            | State::Finished(_) => false,
        };
        in_hand && !self.link.lost && !self.hold_over
    }

    fn keep_alive(&mut self, now: Instant, actions: &mut Actions) {
        if self.keeps_alive() && self.progress_asked.is_none() && now >= self.progress_due {
            self.progress_asked = Some(now);
            actions.push(Action::Progress);
        }
    }
}

/// A time that can't be told is never reached early: the latest that can.
fn after(from: Instant, wait: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365);
    from.checked_add(wait).or_else(|| from.checked_add(FAR)).unwrap_or(from)
}

#[cfg(test)]
mod dice;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod reuse;
#[cfg(test)]
mod scenarios;

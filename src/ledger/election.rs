//! Who leads: the rules of a Lease, without a clock and without a connection.
//!
//! Two promises. Never two leaders at once, as long as clocks of two machines run equally fast: a leader counts its
//! time from before it *sent* the last renewal that succeeded, the others count theirs from when they *saw* it, and
//! theirs is longer. And whoever takes the Lease does so by a write that fails where somebody else wrote in between.
//! Wall clocks, also those in the Lease, decide nothing.
//!
//! A name stands for one living process at a time: who finds its own name in the Lease is its restarted self, and
//! takes it at once. So a name must be the pod's, or random.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The times of an election. `renew_deadline` must be shorter than `duration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    /// How long the others wait after they last saw the Lease change.
    pub duration: Duration,
    /// How long a leader leads after it sent its last successful renewal.
    pub renew_deadline: Duration,
    /// Between two renewals, and between two looks at a Lease that somebody else holds.
    pub retry: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self { duration: Duration::from_secs(6), renew_deadline: Duration::from_secs(4), retry: Duration::from_secs(1) }
    }
}

impl LeaseTimes {
    /// The longest that one call should take: a renewal that gets no answer leaves time for another one.
    #[must_use]
    pub fn call_timeout(&self) -> Duration {
        self.renew_deadline.saturating_sub(self.retry) / 2
    }
}

/// A Lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// How long its holder asks the others to wait.
    pub duration: Duration,
    /// How often it went from one holder to another.
    pub transitions: u32,
    /// When it was taken, by its holder's wall clock: kept for people.
    pub acquired: Option<Timestamp>,
    /// The version of this state.
    pub resource_version: u64,
}

/// What is to be written into the Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The holder: us, or nobody.
    pub holder: String,
    /// How long the others are to wait.
    pub duration: Duration,
    /// How often it went from one holder to another.
    pub transitions: u32,
    /// When it was taken; None: with this write.
    pub acquired: Option<Timestamp>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed. The first one starts the election.
    Tick,
    /// What [`Action::Read`] found; None: there is no Lease.
    Seen(Option<Lease>),
    /// [`Action::Read`] got no answer, or an error.
    ReadFailed,
    /// The write succeeded; the Lease as it now is.
    WriteDone(Lease),
    /// The write was refused because the Lease changed, came or went in between.
    WriteConflict,
    /// The write got another error, or no answer: it may have happened, and may yet happen.
    WriteFailed,
    /// Give leadership up and let the others have their turn (a leader that is cut off from its holders), then stand
    /// for election again.
    StandDown,
    /// Give leadership up for good.
    Shutdown,
}

/// What is to be done, in this order. Of the three calls at most one is under way; its end must be told, whatever it
/// is, so each needs a time-out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read the Lease from the store itself.
    Read,
    /// Create the Lease.
    Create(Claim),
    /// Replace the Lease if it still is at this version.
    Replace {
        /// The version.
        resource_version: u64,
        /// The new content.
        claim: Claim,
    },
    /// We lead, under an epoch that is higher than every earlier one.
    BecameLeader {
        /// The version of the write that made us the leader.
        epoch: u64,
    },
    /// We lead no more.
    LostLeadership(Lost),
}

/// Why leadership ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lost {
    /// No renewal succeeded in time.
    Expired,
    /// Somebody else holds the Lease; empty: somebody emptied it.
    TakenBy(String),
    /// Somebody deleted the Lease.
    Deleted,
    /// We were told to.
    GivenUp,
}

/// One candidate.
#[derive(Debug)]
pub struct Election {
    me: String,
    times: LeaseTimes,
    known: Known,
    leading: Option<Leading>,
    /// The call under way and when it was sent.
    call: Option<(Call, Instant)>,
    /// When the next call is due that nothing hurries; None before the start.
    due: Option<Instant>,
    /// The last write was a conflict or had no answer: look before anything else.
    look: bool,
    last_write: Option<Instant>,
    /// The Lease is being given back; how often that may still be tried.
    leaving: Option<u8>,
    /// We let the others have their turn until then.
    paused_until: Option<Instant>,
    ending: bool,
}

/// The Lease as last seen or written. `since` is when we first saw this state.
#[derive(Debug)]
enum Known {
    Nothing,
    Absent { since: Instant },
    Present { lease: Lease, since: Instant },
}

#[derive(Debug, Clone, Copy)]
struct Leading {
    epoch: u64,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    /// A write that makes or keeps us the holder.
    Hold,
    /// A write that leaves the Lease without a holder.
    Release,
}

/// How often giving the Lease back is tried. It only spares the others their wait.
const RELEASES: u8 = 2;

impl Election {
    /// A candidate that has not started.
    #[must_use]
    pub fn new(me: impl Into<String>, times: LeaseTimes) -> Self {
        Self {
            me: me.into(),
            times,
            known: Known::Nothing,
            leading: None,
            call: None,
            due: None,
            look: false,
            last_write: None,
            leaving: None,
            paused_until: None,
            ending: false,
        }
    }

    /// The epoch under which we lead at `now`. True to the clock also where no `Tick` came in time, so ask it before
    /// each use of leadership.
    #[must_use]
    pub fn leading(&self, now: Instant) -> Option<u64> {
        self.leading.filter(|leading| now < leading.until).map(|leading| leading.epoch)
    }

    /// Until when we lead if no renewal succeeds any more.
    #[must_use]
    pub fn leads_until(&self) -> Option<Instant> {
        self.leading.map(|leading| leading.until)
    }

    /// Who was last seen to hold the Lease; None where nobody does, or nothing is known.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        match &self.known {
            Known::Present { lease, .. } => Some(lease.holder.as_str()).filter(|holder| !holder.is_empty()),
            Known::Nothing | Known::Absent { .. } => None,
        }
    }

    /// Is nothing more to be done after a [`Event::Shutdown`]?
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ending && self.leaving.is_none()
    }

    /// When the next [`Event::Tick`] is needed; None where only the end of a call, or nothing more, is awaited.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let expiry = self.leading.map(|leading| leading.until);
        let call = if self.call.is_some() || self.ending { None } else { self.next_call() };
        expiry.into_iter().chain(call).min()
    }

    /// Takes one event and says what is to be done.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.leading.is_some_and(|leading| now >= leading.until) {
            self.lose(Lost::Expired, &mut actions);
        }
        match event {
            Event::Tick => {}
            Event::Seen(lease) => self.seen(lease, now, &mut actions),
            Event::ReadFailed => self.not_seen(),
            Event::WriteDone(lease) => self.written(lease, now, &mut actions),
            Event::WriteConflict | Event::WriteFailed => self.not_written(now),
            Event::StandDown => {
                self.paused_until = Some(now + self.times.duration);
                self.leave(&mut actions);
            }
            Event::Shutdown => {
                self.ending = true;
                self.leave(&mut actions);
            }
        }
        actions.extend(self.next(now));
        actions
    }

    fn seen(&mut self, lease: Option<Lease>, now: Instant, actions: &mut Vec<Action>) {
        let Some((Call::Read, sent)) = self.call else {
            return;
        };
        self.call = None;
        self.look = false;
        let lost = match &lease {
            None => Some(Lost::Deleted),
            Some(lease) => (lease.holder != self.me).then(|| Lost::TakenBy(lease.holder.clone())),
        };
        if let Some(lost) = lost {
            self.lose(lost, actions);
        }
        self.know(lease, now);
        // A leader looks only after a write went wrong, and writes again as soon as it may.
        self.due = Some(if self.leading.is_some() { self.after_last_write(now) } else { sent + self.times.retry });
    }

    fn not_seen(&mut self) {
        let Some((Call::Read, sent)) = self.call else {
            return;
        };
        self.call = None;
        self.look = false;
        self.leaving = None;
        self.due = Some(sent + self.times.retry);
    }

    fn written(&mut self, lease: Lease, now: Instant, actions: &mut Vec<Action>) {
        let (call, sent) = match self.call {
            Some((call @ (Call::Hold | Call::Release), sent)) => (call, sent),
            Some((Call::Read, _)) | None => return,
        };
        self.call = None;
        let epoch = lease.resource_version;
        self.know(Some(lease), now);
        self.due = Some(sent + self.times.retry);
        let until = sent + self.times.renew_deadline;
        // An answer that comes after the time that it gives makes no leader; the Lease is ours, so we write again.
        if call == Call::Release || self.leaving.is_some() || now >= until {
            return;
        }
        match &mut self.leading {
            Some(leading) => leading.until = until,
            None => {
                self.leading = Some(Leading { epoch, until });
                actions.push(Action::BecameLeader { epoch });
            }
        }
    }

    fn not_written(&mut self, now: Instant) {
        match self.call {
            Some((Call::Hold | Call::Release, _)) => {
                self.call = None;
                self.look = true;
                self.due = Some(now);
            }
            Some((Call::Read, _)) | None => {}
        }
    }

    fn leave(&mut self, actions: &mut Vec<Action>) {
        self.lose(Lost::GivenUp, actions);
        self.leaving = Some(RELEASES);
    }

    fn lose(&mut self, lost: Lost, actions: &mut Vec<Action>) {
        if self.leading.take().is_some() {
            actions.push(Action::LostLeadership(lost));
        }
    }

    fn know(&mut self, lease: Option<Lease>, now: Instant) {
        let known_since = match (&self.known, &lease) {
            (Known::Present { lease: old, since }, Some(new)) if old.resource_version == new.resource_version => *since,
            (Known::Absent { since }, None) => *since,
            (Known::Present { .. } | Known::Absent { .. } | Known::Nothing, _) => now,
        };
        self.known = match lease {
            Some(lease) => Known::Present { lease, since: known_since },
            None => Known::Absent { since: known_since },
        };
    }

    /// When a write may follow the last one, from `earliest` on. Only a release does not wait for it.
    fn after_last_write(&self, earliest: Instant) -> Instant {
        self.last_write.map_or(earliest, |sent| earliest.max(sent + self.times.retry))
    }

    /// When we may take the Lease, if it stays as it is.
    fn may_take_at(&self) -> Option<Instant> {
        let free = match &self.known {
            Known::Nothing => return None,
            Known::Absent { since } => *since,
            Known::Present { lease, since } if lease.holder.is_empty() || lease.holder == self.me => *since,
            // The longer one, so that a holder with other settings than ours is safe from us.
            Known::Present { lease, since } => *since + lease.duration.max(self.times.duration),
        };
        let free = self.after_last_write(free);
        Some(self.paused_until.map_or(free, |pause| free.max(pause)))
    }

    fn next_call(&self) -> Option<Instant> {
        let due = self.due?;
        if self.leading.is_some() || self.look {
            return Some(due);
        }
        Some(self.may_take_at().map_or(due, |take| take.min(due)))
    }

    /// The call that is due, if none is under way.
    fn next(&mut self, now: Instant) -> Option<Action> {
        if self.call.is_some() {
            return None;
        }
        if let Some(left) = self.leaving {
            if left > 0 && self.look {
                return Some(self.read(now));
            }
            if left > 0 && self.holder() == Some(self.me.as_str()) {
                self.leaving = Some(left - 1);
                return Some(self.write(Call::Release, now));
            }
            self.leaving = None;
        }
        if self.ending {
            return None;
        }
        let due = self.due.is_none_or(|due| now >= due);
        if self.look {
            return Some(self.read(now));
        }
        if self.leading.is_some() {
            return due.then(|| self.write(Call::Hold, now));
        }
        if self.may_take_at().is_some_and(|take| now >= take) {
            return Some(self.write(Call::Hold, now));
        }
        due.then(|| self.read(now))
    }

    fn read(&mut self, now: Instant) -> Action {
        self.call = Some((Call::Read, now));
        Action::Read
    }

    fn write(&mut self, call: Call, now: Instant) -> Action {
        self.call = Some((call, now));
        self.last_write = Some(now);
        let holder = if call == Call::Hold { self.me.clone() } else { String::new() };
        let duration = self.times.duration;
        match &self.known {
            Known::Present { lease, .. } => {
                let mine = lease.holder == self.me;
                let transitions = lease.transitions.saturating_add(u32::from(call == Call::Hold && !mine));
                // A renewal keeps the time, a new beginning of the same name does not.
                let acquired = lease.acquired.filter(|_| self.leading.is_some() || call == Call::Release);
                let claim = Claim { holder, duration, transitions, acquired };
                Action::Replace { resource_version: lease.resource_version, claim }
            }
            Known::Nothing | Known::Absent { .. } => {
                Action::Create(Claim { holder, duration, transitions: 0, acquired: None })
            }
        }
    }
}

#[cfg(test)]
mod tests;

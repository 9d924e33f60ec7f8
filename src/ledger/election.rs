//! Who leads: the rules of a Lease, without a clock and without a connection.
//!
//! Two promises. Never two leaders at once, as long as clocks of two machines run equally fast: a leader counts its
//! time from before it *sent* the last renewal that succeeded, the others count theirs from when they *saw* it, and
//! theirs is longer. And whoever takes the Lease does so by a write that fails where somebody else wrote in between.
//! Wall clocks, also those in the Lease, decide nothing.
//!
//! One exception to the first promise: a process that at its very first look finds a namesake in the Lease, another
//! process of its own pod, is most likely the restarted one, and takes the Lease at once. Should the other live after
//! all (two processes with one pod name), its next renewal meets a conflict, and at the latest `renew_deadline` after
//! the Lease was taken it leads no more. Until then the books fence its grants, and the successor counts the leases
//! that it may still renew (`ledger::account`). It waits like any other then, so that the two come to rest.
//!
//! Whoever is cut off from its holders (NATS does not answer) gives the Lease up, and takes none before it hears again.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::refusal::{Lack, Lacking};

/// What a process is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// A name that no other process has or ever had.
    pub own: String,
    /// What the names of all processes begin with that its pod starts in its place; None where nobody tells the pod.
    pub pod: Option<String>,
}

impl Name {
    /// Is this the name of another process that was started in the same place?
    fn is_namesake(&self, holder: &str) -> bool {
        holder != self.own && self.pod.as_deref().is_some_and(|pod| holder.starts_with(pod))
    }
}

/// The times of an election. `renew_deadline` must be shorter than `duration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    /// How long the others wait after they last saw the Lease change.
    pub duration: Duration,
    /// How long a leader leads after it sent its last successful renewal.
    pub renew_deadline: Duration,
    /// Between two renewals, and between two looks at a Lease that somebody else holds.
    pub retry: Duration,
    /// After so long without an answer from NATS a leader gives the Lease up, and nobody takes it.
    pub silence: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl LeaseTimes {
    /// What every process uses.
    pub const DEFAULT: Self = Self {
        duration: Duration::from_secs(6),
        renew_deadline: Duration::from_secs(4),
        retry: Duration::from_secs(1),
        silence: Duration::from_secs(5),
    };

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
    /// The call under way was refused for want of a right or of the namespace: a write did not happen.
    Refused(Lack),
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
    /// Another process of our own pod holds it: both live.
    TakenByNamesake(String),
    /// Somebody deleted the Lease.
    Deleted,
    /// NATS has not answered for so long that we are no use as a leader.
    CutOff,
    /// We were told to.
    GivenUp,
}

/// One candidate.
#[derive(Debug)]
pub struct Election {
    me: Name,
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
    /// The Lease was not looked at yet.
    newborn: bool,
    /// The version of the Lease that a namesake left us, as we found it at the first look.
    heir_of: Option<u64>,
    /// Until then the namesake may still lead whose Lease we took: we do not give it to others before.
    shared_until: Option<Instant>,
    /// When NATS last answered.
    heard: Option<Instant>,
    /// As of the last step NATS had been silent for too long.
    cut_off: bool,
    /// What lasting refusals of reads and of writes say is missing. Each has an answer of its own: one may be allowed
    /// without the other.
    unread: Lacking,
    unwritten: Lacking,
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
    pub const fn new(me: Name, times: LeaseTimes) -> Self {
        Self {
            me,
            times,
            known: Known::Nothing,
            leading: None,
            call: None,
            due: None,
            look: false,
            last_write: None,
            leaving: None,
            newborn: true,
            heir_of: None,
            shared_until: None,
            heard: None,
            cut_off: true,
            unread: Lacking::new(),
            unwritten: Lacking::new(),
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
        let silence = self.leading.and(self.heard).map(|heard| heard + self.times.silence);
        let call = if self.call.is_some() || self.ending { None } else { self.next_call() };
        expiry.into_iter().chain(silence).chain(call).min()
    }

    /// NATS answered at `at`. To be followed by a step.
    pub fn heard(&mut self, at: Instant) {
        self.heard = self.heard.max(Some(at));
    }

    /// Has NATS been silent for so long that we neither lead nor stand for election?
    #[must_use]
    pub const fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// What is missing for us to hold the Lease, where the API server has refused it for long enough to be believed.
    #[must_use]
    pub const fn lack(&self) -> Option<&Lack> {
        match self.unread.believed() {
            Some(lack) => Some(lack),
            None => self.unwritten.believed(),
        }
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
            Event::ReadFailed => {
                self.unread.unanswered();
                self.not_seen();
            }
            Event::WriteDone(lease) => self.written(lease, now, &mut actions),
            Event::WriteConflict => {
                self.unwritten.over();
                self.not_written(now);
            }
            Event::WriteFailed => {
                self.unwritten.unanswered();
                self.not_written(now);
            }
            Event::Refused(lack) => self.refused(lack, now),
            Event::Shutdown => {
                self.ending = true;
                self.leave(Lost::GivenUp, &mut actions);
            }
        }
        self.cut_off = self.heard.is_none_or(|heard| now >= heard + self.times.silence);
        if self.cut_off && self.leading.is_some() {
            self.leave(Lost::CutOff, &mut actions);
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
        self.unread.over();
        let namesake = lease.as_ref().filter(|lease| self.me.is_namesake(&lease.holder));
        let lost = match (&lease, namesake) {
            (None, _) => Some(Lost::Deleted),
            (Some(_), Some(lease)) => Some(Lost::TakenByNamesake(lease.holder.clone())),
            (Some(lease), None) => (lease.holder != self.me.own).then(|| Lost::TakenBy(lease.holder.clone())),
        };
        if std::mem::take(&mut self.newborn) {
            self.heir_of = namesake.map(|lease| lease.resource_version);
        }
        if let Some(lost) = lost {
            self.lose(lost, actions);
        }
        self.know(lease, now);
        // A leader looks only after a write went wrong, and writes again as soon as it may.
        self.due = Some(if self.leading.is_some() { self.after_last_write(now) } else { sent + self.times.retry });
    }

    fn refused(&mut self, lack: Lack, now: Instant) {
        match self.call {
            Some((Call::Read, _)) => {
                self.unread.again(lack, now);
                self.not_seen();
            }
            Some((Call::Hold | Call::Release, _)) => {
                self.unwritten.again(lack, now);
                self.not_written(now);
            }
            None => {}
        }
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
        self.unwritten.over();
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

    fn leave(&mut self, why: Lost, actions: &mut Vec<Action>) {
        self.lose(why, actions);
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
        // Somebody else renews it, so somebody leads: what we lack is in nobody's way.
        let another = lease.as_ref().is_some_and(|lease| lease.holder != self.me.own && !lease.holder.is_empty());
        if another && known_since == now {
            self.unwritten.over();
        }
        let versions = lease.as_ref().map(|lease| (lease.holder == self.me.own, lease.resource_version));
        match (self.heir_of, versions) {
            (Some(_), Some((true, _))) => {
                self.shared_until = Some(now + self.times.renew_deadline);
                self.heir_of = None;
            }
            (Some(left), Some((false, version))) if left == version => {}
            (Some(_), Some((false, _)) | None) | (None, _) => self.heir_of = None,
        }
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
            Known::Present { lease, since } if lease.holder.is_empty() || lease.holder == self.me.own => *since,
            Known::Present { lease, since } if self.heir_of == Some(lease.resource_version) => *since,
            // The longer one, so that a holder with other settings than ours is safe from us.
            Known::Present { lease, since } => *since + lease.duration.max(self.times.duration),
        };
        (!self.cut_off).then(|| self.after_last_write(free))
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
            let shared = self.shared_until.is_some_and(|until| now < until);
            if left > 0 && !shared && self.holder() == Some(self.me.own.as_str()) {
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
        let holder = if call == Call::Hold { self.me.own.clone() } else { String::new() };
        let duration = self.times.duration;
        match &self.known {
            Known::Present { lease, .. } => {
                let mine = lease.holder == self.me.own;
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

//! The holder's side of the credit protocol: one lane of one sensor process.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::gate::{Quantity, Reason};
use crate::message::HolderId;
use crate::wire::{Grant, NumberSet, Refusal, Report, Terms, VERSION};

/// How many unanswered reports are remembered with their send time. A leader that answers later than this many
/// reports renews nothing, which is safe.
const REMEMBERED_REPORTS: usize = 64;

/// What a grant changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GrantEffect {
    /// The grant was for another holder, from an older epoch or older than one already applied.
    pub ignored: bool,
    /// How many numbers are new.
    pub new_numbers: u64,
    /// The leader took this holder for dead: it must be replaced by one with a new id.
    pub restart: bool,
}

/// The credits of one lane.
///
/// Every number from 1 to `top` is in exactly one of: unused, busy, made, or returned (in no set).
#[derive(Debug, Clone)]
pub struct Holder {
    id: HolderId,
    terms: Terms,
    epoch: u64,
    seq: u64,
    applied_seq: u64,
    /// Send times of reports that are not answered yet: a lease starts where its report was sent.
    sent: VecDeque<(u64, Instant)>,
    lease_until: Option<Instant>,
    top: u64,
    unused: NumberSet,
    busy: NumberSet,
    made: NumberSet,
    refused: Option<Refusal>,
    restart: bool,
    leaving: bool,
    /// Something changed that the leader should hear of.
    dirty: bool,
    /// It is more than that numbers came back.
    urgent: bool,
    /// The newest grant that was obeyed.
    last: Option<Grant>,
}

impl Holder {
    /// A holder without any number. `id` must be new at each start.
    #[must_use]
    pub const fn new(id: HolderId, terms: Terms) -> Self {
        Self {
            id,
            terms,
            epoch: 0,
            seq: 0,
            applied_seq: 0,
            sent: VecDeque::new(),
            lease_until: None,
            top: 0,
            unused: NumberSet::new(),
            busy: NumberSet::new(),
            made: NumberSet::new(),
            refused: None,
            restart: false,
            leaving: false,
            dirty: true,
            urgent: true,
            last: None,
        }
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> &HolderId {
        &self.id
    }

    /// What its credits stand for.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Until when its numbers may be used; none before the first grant and after the leader took it for dead.
    #[must_use]
    pub const fn lease_until(&self) -> Option<Instant> {
        self.lease_until
    }

    /// Whether its numbers may be used now.
    #[must_use]
    pub fn lease_holds(&self, now: Instant) -> bool {
        !self.restart && self.lease_until.is_some_and(|until| now < until)
    }

    /// How many numbers are granted and not on a message.
    #[must_use]
    pub fn unused(&self) -> u64 {
        self.unused.len()
    }

    /// How many numbers are on a message without a definite answer.
    #[must_use]
    pub fn busy(&self) -> u64 {
        self.busy.len()
    }

    /// How many numbers were answered and not yet echoed.
    #[must_use]
    pub fn made_count(&self) -> u64 {
        self.made.len()
    }

    /// The highest number that was granted.
    #[must_use]
    pub const fn top(&self) -> u64 {
        self.top
    }

    /// The newest grant that was obeyed.
    #[must_use]
    pub const fn last_grant(&self) -> Option<&Grant> {
        self.last.as_ref()
    }

    /// Whether any leader ever answered.
    #[must_use]
    pub const fn was_ever_granted(&self) -> bool {
        self.last.is_some()
    }

    /// Whether the leader took this holder for dead.
    #[must_use]
    pub const fn must_restart(&self) -> bool {
        self.restart
    }

    /// Whether a report is worth sending at once.
    #[must_use]
    pub const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Whether the last report is answered.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.applied_seq >= self.seq
    }

    /// How often a report is due though nothing changed: a third of the lease, so that two may be lost.
    #[must_use]
    pub fn report_interval(&self) -> Duration {
        self.terms.lease / 3
    }

    /// Whether what changed is more than that numbers came back.
    #[must_use]
    pub const fn is_urgent(&self) -> bool {
        self.urgent
    }

    const fn hurry(&mut self, changed: bool) {
        self.dirty |= changed;
        self.urgent |= changed;
    }

    /// Puts a number on a message: the smallest unused one, and only under a lease that holds.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        if !self.lease_holds(now) {
            return None;
        }
        let number = self.unused.pop_first()?;
        self.busy.insert(number);
        Some(number)
    }

    /// The number's effect is there.
    pub fn made(&mut self, number: u64) {
        if self.busy.remove(number) {
            self.made.insert(number);
            self.hurry(true);
        }
    }

    /// The number had no effect and never will: it is given back.
    pub fn returned(&mut self, number: u64) {
        if self.busy.remove(number) {
            self.dirty = true;
        }
    }

    /// The number was put on a message that turned out to need none, before anything was tried: it stays ready.
    pub fn unuse(&mut self, number: u64) {
        if self.busy.remove(number) {
            self.unused.insert(number);
        }
    }

    /// Gives unused numbers back, down to `keep`; says how many went.
    pub fn give_back(&mut self, keep: u64) -> u64 {
        let mut gone = 0;
        while self.unused.len() > keep && self.unused.pop_last().is_some() {
            gone += 1;
        }
        self.hurry(gone > 0);
        gone
    }

    /// A quota refused definitely although a credit was held.
    pub fn refused(&mut self, quota: &str) {
        let count = self.refused.as_ref().map_or(0, |refusal| refusal.count).saturating_add(1);
        self.refused = Some(Refusal { count, quota: quota.to_owned() });
        self.hurry(true);
    }

    /// The lane ends: unused numbers are given back and no more are wanted.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.unused = NumberSet::new();
        self.hurry(true);
    }

    /// Whether it ends.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Whether nothing is left that the leader would have to hear of.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.unused.is_empty() && self.busy.is_empty() && self.made.is_empty()
    }

    /// The full state, to be sent now: the lease of its answer starts here.
    pub fn report(&mut self, want: u64, now: Instant) -> Report {
        self.seq = self.seq.saturating_add(1);
        if self.sent.len() >= REMEMBERED_REPORTS {
            self.sent.pop_front();
        }
        self.sent.push_back((self.seq, now));
        self.dirty = false;
        self.urgent = false;
        Report {
            v: VERSION,
            holder: self.id.clone(),
            seq: self.seq,
            epoch: self.epoch,
            terms: self.terms.clone(),
            top: self.top,
            open: self.unused.union(&self.busy),
            made: self.made.clone(),
            want: if self.leaving { 0 } else { want },
            refused: self.refused.clone(),
            leaving: self.leaving,
        }
    }

    /// Gives back what the quotas do not allow any more: all where nothing is known of them or one effect is too much,
    /// else what is above the room that is left, where hard was lowered or others took it.
    ///
    /// Objects alive and unused numbers were under the limit together when they were granted, and a number is used
    /// before its object is seen: so nothing goes back unless the room became smaller.
    fn withdraw(&mut self, grant: &Grant) {
        if grant.reason.is_some_and(Reason::withdraws) {
            self.give_back(0);
            return;
        }
        let costs = &self.terms.costs;
        let room = grant.readings.iter().filter_map(|reading| {
            let cost = costs.iter().find(|cost| cost.resource == reading.resource)?;
            let live = reading.live.map_or(Quantity::ZERO, Quantity::from_whole);
            Some(reading.limit.saturating_sub(reading.used.max(live)).divided_by(cost.amount))
        });
        if let Some(room) = room.min() {
            self.give_back(room);
        }
    }

    /// Obeys a grant, unless it is older than what was obeyed already.
    pub fn on_grant(&mut self, grant: &Grant) -> GrantEffect {
        let outdated = grant.epoch < self.epoch || (grant.epoch == self.epoch && grant.seq < self.applied_seq);
        if grant.holder != self.id || outdated || self.restart {
            return GrantEffect { ignored: true, ..GrantEffect::default() };
        }
        let newer = grant.epoch > self.epoch || grant.seq > self.applied_seq;
        // Tops only rise, and a new leader knows every one that was ever sent. One that has fallen is told by a
        // leader that forgot this holder, and met it anew by an old report: none of its numbers counts there.
        let forgotten = newer && grant.top < self.top;
        self.epoch = grant.epoch;
        self.applied_seq = grant.seq;
        if grant.restart || forgotten {
            self.restart = true;
            self.lease_until = None;
            return GrantEffect { ignored: false, new_numbers: 0, restart: true };
        }
        while let Some(&(seq, at)) = self.sent.front().filter(|(seq, _)| *seq <= grant.seq) {
            if seq == grant.seq {
                let until = at + self.terms.lease;
                self.lease_until = Some(self.lease_until.map_or(until, |held| held.max(until)));
            }
            self.sent.pop_front();
        }
        let new_numbers = grant.top.saturating_sub(self.top);
        if new_numbers > 0 {
            if !self.leaving {
                self.unused.insert_range(self.top + 1, grant.top);
            }
            self.top = grant.top;
            // A holder that leaves returns at once what it is still given.
            self.hurry(self.leaving);
        }
        self.withdraw(grant);
        let before = self.made.len();
        self.made.subtract(&grant.made_seen);
        // The echo is answered by a report without these numbers, or the leader would repeat it for ever.
        self.hurry(self.made.len() < before);
        self.last = Some(grant.clone());
        GrantEffect { ignored: false, new_numbers, restart: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::gate::{Ratio, ResourceName};
    use crate::wire::{Cost, Reading};

    fn holder() -> Holder {
        let terms = Terms {
            namespace: "team".to_owned(),
            sensor: "orders".to_owned(),
            stream: "EVENTS".to_owned(),
            quotas: vec!["team".to_owned()],
            ratio: Ratio::ONE,
            costs: vec![Cost { resource: resource(), amount: Quantity::from_whole(2) }],
            created: None,
            settle_time: Duration::ZERO,
            lease: Duration::from_secs(10),
            create_timeout: Duration::from_secs(10),
        };
        Holder::new(HolderId::new("h"), terms)
    }

    fn resource() -> ResourceName {
        ResourceName::new("count/widgets.example.com").unwrap()
    }

    fn grant(top: u64, limit: u64, used: u64, live: u64, reason: Option<Reason>) -> Grant {
        Grant {
            v: VERSION,
            holder: HolderId::new("h"),
            epoch: 1,
            seq: 1,
            top,
            made_seen: NumberSet::new(),
            others_wait: false,
            readings: vec![Reading {
                quota: "team".to_owned(),
                resource: resource(),
                hard: Quantity::from_whole(limit),
                used: Quantity::from_whole(used),
                live: Some(live),
                limit: Quantity::from_whole(limit),
                headroom: Quantity::ZERO,
                version: 1,
            }],
            reason,
            detail: String::new(),
            restart: false,
        }
    }

    #[test]
    fn what_the_quota_does_not_allow_any_more_is_given_back() {
        let mut holder = holder();
        holder.report(5, clock::now());
        holder.on_grant(&grant(5, 20, 10, 10, None));
        assert_eq!(holder.unused(), 5);
        holder.on_grant(&grant(5, 20, 10, 10, Some(Reason::AtLimit)));
        assert_eq!(holder.unused(), 5, "a full limit that is full of these numbers takes none of them");
        holder.on_grant(&grant(5, 17, 10, 10, Some(Reason::AtLimit)));
        assert_eq!(holder.unused(), 3, "hard was lowered");
        holder.on_grant(&grant(5, 17, 13, 10, Some(Reason::AtLimit)));
        assert_eq!(holder.unused(), 2, "others took room, says used");
        holder.on_grant(&grant(5, 17, 13, 15, Some(Reason::AtLimit)));
        assert_eq!(holder.unused(), 1, "others took room, say the objects");
        let busy = holder.take(clock::now()).unwrap();
        holder.on_grant(&Grant { readings: Vec::new(), ..grant(6, 0, 0, 0, Some(Reason::QuotaMissing)) });
        assert_eq!((holder.unused(), holder.busy()), (0, 1), "unknown is not zero; what is on a message stays there");
        holder.made(busy);
        assert!(holder.is_dirty());
    }
}

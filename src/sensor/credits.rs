//! The lane's credits: a holder's numbers, or a plain count where gating is off. Pure.

use std::time::{Duration, Instant};

use crate::ledger::{GrantEffect, Holder};
use crate::message::{CreditId, HolderId};
use crate::wire::{Grant, Report, Terms};

/// Where gating is off a lease never ends.
const ENDLESS: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// What a lane may start.
#[derive(Debug)]
pub(super) enum Credits {
    /// Numbers granted by the leader.
    Gated { holder: Box<Holder>, others_wait: bool },
    /// No quota: bounded by `MAX_IN_FLIGHT` alone.
    Free { holder: HolderId, next: u64, busy: u64, endless: Instant },
}

impl Credits {
    pub(super) fn gated(id: HolderId, terms: Terms) -> Self {
        Self::Gated { holder: Box::new(Holder::new(id, terms)), others_wait: false }
    }

    pub(super) fn free(id: HolderId, now: Instant) -> Self {
        Self::Free { holder: id, next: 1, busy: 0, endless: now + ENDLESS }
    }

    pub(super) const fn is_gated(&self) -> bool {
        matches!(self, Self::Gated { .. })
    }

    pub(super) const fn holder_id(&self) -> &HolderId {
        match self {
            Self::Gated { holder, others_wait: _ } => holder.id(),
            Self::Free { holder, .. } => holder,
        }
    }

    pub(super) fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Gated { holder, others_wait: _ } => Some(holder),
            Self::Free { .. } => None,
        }
    }

    pub(super) const fn others_wait(&self) -> bool {
        match self {
            Self::Gated { holder: _, others_wait } => *others_wait,
            Self::Free { .. } => false,
        }
    }

    pub(super) fn last_grant(&self) -> Option<&Grant> {
        self.holder().and_then(Holder::last_grant)
    }

    pub(super) fn lease_until(&self) -> Option<Instant> {
        match self {
            Self::Gated { holder, others_wait: _ } => holder.lease_until(),
            Self::Free { endless, .. } => Some(*endless),
        }
    }

    /// Whether numbers may be used now.
    pub(super) fn may_use(&self, now: Instant) -> bool {
        match self {
            Self::Gated { holder, others_wait: _ } => holder.lease_holds(now),
            Self::Free { .. } => true,
        }
    }

    /// Numbers that wait for a message.
    pub(super) fn unused(&self) -> u64 {
        self.holder().map_or(0, Holder::unused)
    }

    /// Messages that may be asked for beside those in hand.
    pub(super) fn ready(&self, in_hand: u64, max_in_flight: u64) -> u64 {
        let room = max_in_flight.saturating_sub(in_hand);
        match self {
            Self::Gated { holder, others_wait: _ } => holder.unused().min(room),
            Self::Free { .. } => room,
        }
    }

    /// Numbers on messages without a definite answer.
    pub(super) fn busy(&self) -> u64 {
        match self {
            Self::Gated { holder, others_wait: _ } => holder.busy(),
            Self::Free { busy, .. } => *busy,
        }
    }

    pub(super) fn take(&mut self, now: Instant) -> Option<CreditId> {
        match self {
            Self::Gated { holder, others_wait: _ } => {
                holder.take(now).map(|number| CreditId { holder: holder.id().clone(), number })
            }
            Self::Free { holder, next, busy, endless: _ } => {
                let number = *next;
                *next = next.saturating_add(1);
                *busy = busy.saturating_add(1);
                Some(CreditId { holder: holder.clone(), number })
            }
        }
    }

    /// A number of a holder that the leader took for dead concerns nobody any more.
    fn settle(&mut self, credit: &CreditId, gated: impl FnOnce(&mut Holder)) {
        match self {
            Self::Gated { holder, others_wait: _ } if *holder.id() == credit.holder => gated(holder),
            Self::Gated { .. } => {}
            Self::Free { holder: _, next: _, busy, endless: _ } => *busy = busy.saturating_sub(1),
        }
    }

    pub(super) fn made(&mut self, credit: &CreditId) {
        self.settle(credit, |holder| holder.made(credit.number));
    }

    pub(super) fn returned(&mut self, credit: &CreditId) {
        self.settle(credit, |holder| holder.returned(credit.number));
    }

    /// A quota refused: whatever is not on a message goes back until the leader has looked.
    pub(super) fn refused(&mut self, quota: &str) {
        match self {
            Self::Gated { holder, others_wait: _ } => {
                holder.refused(quota);
                holder.give_back(0);
            }
            Self::Free { .. } => {}
        }
    }

    pub(super) fn give_back(&mut self, keep: u64) {
        match self {
            Self::Gated { holder, others_wait: _ } => {
                holder.give_back(keep);
            }
            Self::Free { .. } => {}
        }
    }

    pub(super) fn granted(&mut self, grant: &Grant) -> GrantEffect {
        match self {
            Self::Gated { holder, others_wait } => {
                let effect = holder.on_grant(grant);
                if !effect.ignored {
                    *others_wait = grant.others_wait;
                }
                effect
            }
            Self::Free { .. } => GrantEffect { ignored: true, ..GrantEffect::default() },
        }
    }

    /// A new holder takes the place of one that the leader took for dead.
    pub(super) fn restart(&mut self, id: HolderId) {
        match self {
            Self::Gated { holder, others_wait } => {
                **holder = Holder::new(id, holder.terms().clone());
                *others_wait = false;
            }
            // What is in hand ends under the old name; what comes has the new one.
            Self::Free { holder, .. } => *holder = id,
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.holder().is_some_and(Holder::is_dirty)
    }

    pub(super) fn report_interval(&self) -> Duration {
        self.holder().map_or(Duration::from_secs(3600), Holder::report_interval)
    }

    /// Whether it is to hear of more than of returned numbers.
    pub(super) fn is_urgent(&self) -> bool {
        self.holder().is_some_and(Holder::is_urgent)
    }

    /// Whether the leader has answered the last report.
    pub(super) fn is_answered(&self) -> bool {
        self.holder().is_none_or(Holder::is_answered)
    }

    pub(super) fn report(&mut self, want: u64, now: Instant) -> Option<Report> {
        match self {
            Self::Gated { holder, others_wait: _ } => Some(holder.report(want, now)),
            Self::Free { .. } => None,
        }
    }

    /// Gives back what is unused, for good; says whether the leader has heard of all that was made.
    pub(super) fn leave(&mut self) -> bool {
        match self {
            Self::Gated { holder, others_wait: _ } => {
                if !holder.is_leaving() {
                    holder.leave();
                }
                !holder.was_ever_granted() || (holder.is_settled() && !holder.is_dirty())
            }
            Self::Free { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// The old name is told to every message as that of a dead holder.
    #[test]
    fn a_new_holder_has_its_own_name_without_a_quota_too() {
        let now = clock::now();
        let mut credits = Credits::free(HolderId::new("old"), now);
        let before = credits.take(now).unwrap();
        credits.restart(HolderId::new("new"));
        assert_eq!(credits.take(now).unwrap().holder, HolderId::new("new"));
        credits.returned(&before);
        assert_eq!(credits.busy(), 1);
    }
}

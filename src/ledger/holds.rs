//! Quotas that refused an effect although a credit was out for it: nothing is granted on them until a later reading,
//! then one probe at a time, with growing pauses, until one goes through.

use std::time::Instant;

use crate::ledger::owner::Ledger;
use crate::message::HolderId;
use crate::wire::{NumberSet, Report};

/// A quota that refused.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    /// The newest refusal: only a later reading lifts it.
    since: Instant,
    /// How many probes in a row were refused, the first refusal with them.
    refusals: u32,
    not_before: Instant,
    probe: Option<Probe>,
}

/// The one credit that is out on a quota that refused.
#[derive(Debug, Clone)]
struct Probe {
    holder: HolderId,
    number: u64,
    /// A holder may keep a credit and have nothing to try it with; then another one is tried.
    until: Instant,
}

impl Hold {
    /// Was the last refusal before `at`?
    pub(super) fn is_before(&self, at: Instant) -> bool {
        self.since < at
    }
}

impl Ledger {
    /// A refusal. Of those that come together, which all met the same wrong view, one counts.
    pub(super) fn refused(&mut self, quota: &str, now: Instant) {
        let (base, cap) = (self.options.probe_base, self.options.probe_cap);
        let hold = self.holds.entry(quota.to_owned()).or_insert_with(|| Hold {
            since: now,
            refusals: 0,
            not_before: now,
            probe: None,
        });
        hold.since = now;
        if hold.probe.is_none() && now >= hold.not_before {
            hold.not_before = now + base.saturating_mul(1 << hold.refusals.min(10)).min(cap);
            hold.refusals = hold.refusals.saturating_add(1);
        }
        self.want_quotas(now);
    }

    /// What a report tells of the probes that its holder has.
    pub(super) fn judge_probes(&mut self, report: &Report, newly_made: &NumberSet) {
        self.holds.retain(|_, hold| {
            let Some(probe) = hold.probe.as_ref().filter(|probe| probe.holder == report.holder) else { return true };
            if newly_made.contains(probe.number) {
                // The probe went through: the quota has room after all.
                return false;
            }
            if probe.number <= report.top && !report.open.contains(probe.number) {
                hold.probe = None;
            }
            true
        });
    }

    /// Probes of holders that are dead or gone prove nothing any more.
    pub(super) fn drop_probes(&mut self) {
        let holders = &self.holders;
        for hold in self.holds.values_mut() {
            let alive = hold
                .probe
                .as_ref()
                .is_some_and(|probe| holders.get(&probe.holder).is_some_and(super::account::Account::is_alive));
            if !alive {
                hold.probe = None;
            }
        }
    }

    /// Whether grants on a quota are one probe at a time.
    pub(super) fn is_probing(&self, quota: &str) -> bool {
        self.holds.contains_key(quota)
    }

    /// A credit goes out on quotas, some of which may be on hold.
    pub(super) fn probe<'a>(
        &mut self,
        quotas: impl Iterator<Item = &'a str>,
        id: &HolderId,
        number: u64,
        now: Instant,
    ) {
        let until = now + self.options.probe_cap;
        for quota in quotas {
            if let Some(hold) = self.holds.get_mut(quota) {
                hold.probe = Some(Probe { holder: id.clone(), number, until });
            }
        }
    }

    /// Why nothing is granted on a quota after a refusal.
    pub(super) fn held(&self, quota: &str, now: Instant) -> bool {
        let Some(hold) = self.holds.get(quota) else { return false };
        let read_since = self.quota_read_at(quota).is_some_and(|at| at > hold.since);
        !read_since || now < hold.not_before || hold.probe.as_ref().is_some_and(|probe| now < probe.until)
    }

    /// When time alone changes what a hold allows.
    pub(super) fn hold_due(hold: &Hold) -> impl Iterator<Item = Instant> + use<> {
        [Some(hold.not_before), hold.probe.as_ref().map(|probe| probe.until)].into_iter().flatten()
    }
}

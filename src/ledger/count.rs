//! The count: what is free under the limit, and why nothing is.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::gate::{self, Quantity, Reason, ResourceName};
use crate::ledger::account::Account;
use crate::ledger::live::LiveState;
use crate::ledger::owner::{Ledger, Standing};
use crate::message::HolderId;
use crate::wire::{Reading, ResourceSignal, Signal, Terms, VERSION};

impl Ledger {
    /// The signal of a quota, for people: the terms that name it decide which resources it shows.
    pub fn signal(&mut self, quota: &str, terms: &[Terms], now: Instant) -> Signal {
        self.signal_seq = self.signal_seq.saturating_add(1);
        let mut resources: BTreeMap<ResourceName, ResourceSignal> = BTreeMap::new();
        let mut reason = None;
        for terms in terms.iter().filter(|terms| terms.quotas.iter().any(|name| name == quota)) {
            let standing = self.standing(terms, None, now);
            reason = reason.or(standing.reason);
            for reading in standing.readings.into_iter().filter(|reading| reading.quota == quota) {
                let credits = self.holders.values().map(|account| account.out().len()).sum();
                let weaker = !self.is_live(terms, &reading.resource);
                let signal = ResourceSignal {
                    resource: reading.resource.clone(),
                    hard: reading.hard,
                    used: reading.used,
                    live: reading.live,
                    limit: reading.limit,
                    headroom: reading.headroom,
                    credits,
                    weaker,
                };
                resources
                    .entry(reading.resource)
                    .and_modify(|known| {
                        if known.limit < signal.limit {
                            *known = signal.clone();
                        }
                    })
                    .or_insert(signal);
            }
        }
        Signal {
            v: VERSION,
            namespace: self.namespace.clone(),
            quota: quota.to_owned(),
            resources: resources.into_values().collect(),
            reason,
            resource_version: self.quotas.get(quota).map_or(0, |view| view.resource_version),
            epoch: self.epoch,
            seq: self.signal_seq,
        }
    }

    /// How a set of terms stands. `holder` is whose credits do not count as held by others.
    #[must_use]
    pub fn standing(&self, terms: &Terms, holder: Option<&HolderId>, now: Instant) -> Standing {
        let mut readings = Vec::new();
        let mut credits: u64 = u64::MAX;
        let mut blocked = self.not_ready(terms, now);
        for cost in &terms.costs {
            let bounds = match gate::bounds(&self.quotas, &terms.quotas, terms.ratio, &cost.resource, cost.amount) {
                Ok(bounds) => bounds,
                Err(why) => {
                    if self.all_read_at.is_some() {
                        blocked = blocked.or(Some((why.reason, why.detail)));
                    }
                    credits = 0;
                    continue;
                }
            };
            let live = self.live_side(&cost.resource);
            for bound in bounds {
                let used = bound.used.saturating_add(self.used_pending(&bound.quota, &cost.resource));
                let side = live.map_or(used, |live| live.max(used));
                let headroom = bound.limit.saturating_sub(side);
                credits = credits.min(headroom.divided_by(cost.amount));
                if let Some((reason, detail)) = self.held(&bound.quota, now) {
                    blocked = blocked.or(Some((reason, detail)));
                }
                readings.push(Reading {
                    version: self.quotas.get(&bound.quota).map_or(0, |view| view.resource_version),
                    quota: bound.quota,
                    resource: cost.resource.clone(),
                    hard: bound.hard,
                    used: bound.used,
                    live: self.live_count(&cost.resource),
                    limit: bound.limit,
                    headroom,
                });
            }
        }
        if terms.costs.is_empty() {
            credits = 0;
        }
        if let Some((reason, detail)) = blocked {
            return Standing { credits: 0, reason: Some(reason), detail, readings };
        }
        if credits == 0 {
            let held = self.holders.iter().filter(|(id, _)| Some(*id) != holder).any(|(_, account)| {
                !account.unanswered().minus(&account.seen).is_empty()
                    && account.terms.costs.iter().any(|cost| terms.costs.iter().any(|c| c.resource == cost.resource))
            });
            let full = readings.iter().find(|reading| {
                terms.costs.iter().any(|cost| cost.resource == reading.resource && reading.headroom < cost.amount)
            });
            let detail = full.map_or_else(String::new, |reading| {
                let live = reading.live.map_or_else(String::new, |live| format!(", {live} live"));
                format!(
                    "{} of quota {}: {} used{live}, limit {}, hard {}",
                    reading.resource.as_str(),
                    reading.quota,
                    reading.used,
                    reading.limit,
                    reading.hard
                )
            });
            let reason = if held { Reason::HeldByOthers } else { Reason::AtLimit };
            return Standing { credits, reason: Some(reason), detail, readings };
        }
        Standing { credits, reason: None, detail: String::new(), readings }
    }

    /// Whether a terms' cost of this resource is counted by its objects.
    pub(super) fn is_live(&self, terms: &Terms, resource: &ResourceName) -> bool {
        self.options.live_side
            && resource.counted().is_some_and(|counted| {
                terms.created.as_ref() == Some(&counted)
                    && matches!(self.kinds.get(&counted), Some(LiveState::Watched { .. } | LiveState::Unknown))
            })
    }

    /// Whether some cost of the holder is settled by time, because no watch shows its effect.
    pub(super) fn is_settled_by_time(&self, account: &Account) -> bool {
        account.terms.costs.iter().any(|cost| !self.is_live(&account.terms, &cost.resource))
    }

    /// Whether some cost of the holder is settled by the sight of the object.
    pub(super) fn is_settled_by_sight(&self, account: &Account) -> bool {
        account.terms.costs.iter().any(|cost| self.is_live(&account.terms, &cost.resource))
    }

    pub(super) fn live_count(&self, resource: &ResourceName) -> Option<u64> {
        if !self.options.live_side {
            return None;
        }
        resource.counted().and_then(|counted| self.kinds.get(&counted).and_then(LiveState::count))
    }

    /// Live objects and every credit that may still become one.
    pub(super) fn live_side(&self, resource: &ResourceName) -> Option<Quantity> {
        let mut side = Quantity::from_whole(self.live_count(resource)?);
        for account in self.holders.values() {
            for cost in account.terms.costs.iter().filter(|cost| cost.resource == *resource) {
                let out = if self.is_live(&account.terms, resource) { account.out_unseen() } else { account.out() };
                side = side.saturating_add(cost.amount.times(out.len()));
            }
        }
        Some(side)
    }

    /// What `used` of a quota does not show yet: credits without an answer, and answers after its last reading.
    pub(super) fn used_pending(&self, quota: &str, resource: &ResourceName) -> Quantity {
        let read_at = self.quota_read_at(quota);
        let mut pending = Quantity::ZERO;
        for account in self.holders.values() {
            for cost in account.terms.costs.iter().filter(|cost| cost.resource == *resource) {
                let live = self.is_live(&account.terms, resource);
                let made =
                    account.made.iter().filter(|(_, at)| !live || read_at.is_none_or(|read| read <= **at)).count();
                let count = account.unanswered().len().saturating_add(made as u64);
                pending = pending.saturating_add(cost.amount.times(count));
            }
        }
        pending
    }

    pub(super) fn quota_read_at(&self, quota: &str) -> Option<Instant> {
        self.read_at.get(quota).copied().into_iter().chain(self.all_read_at).max()
    }

    /// Why nothing at all is granted to these terms for now.
    pub(super) fn not_ready(&self, terms: &Terms, now: Instant) -> Option<(Reason, String)> {
        let Some(quotas_alive) = self.quotas_alive.filter(|_| self.all_read_at.is_some()) else {
            return Some((Reason::LeaderSettling, "the quotas have not been listed yet".to_owned()));
        };
        if now >= quotas_alive + self.options.watch_grace {
            return Some((Reason::ApiDown, "the watch of the quotas is silent".to_owned()));
        }
        for cost in &terms.costs {
            let Some(counted) = cost.resource.counted().filter(|counted| terms.created.as_ref() == Some(counted))
            else {
                continue;
            };
            match self.kinds.get(&counted) {
                None | Some(LiveState::Unknown) => {
                    return Some((Reason::LeaderSettling, format!("{counted} have not been listed yet")));
                }
                Some(LiveState::Watched { names: _, alive }) if now >= *alive + self.options.watch_grace => {
                    return Some((Reason::ApiDown, format!("the watch of {counted} is silent")));
                }
                Some(LiveState::Watched { names: _, alive: _ } | LiveState::Forbidden) => {}
            }
        }
        None
    }
}

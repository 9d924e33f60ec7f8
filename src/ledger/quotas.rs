//! What the leader knows of the quotas.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::gate::QuotaView;
use crate::ledger::account::Priced;
use crate::ledger::count::price;
use crate::ledger::owner::{Ledger, QuotaUpdate};
use crate::ledger::refusal::Lack;

/// The verbs of a quota's lack.
const LIST: &str = "list";
const WATCH: &str = "watch";

impl Ledger {
    /// The quotas of the namespace, read by a list that began at `began`.
    pub fn quotas_listed(&mut self, views: Vec<QuotaView>, began: Instant, now: Instant) {
        self.quota_read.answered_if_later(began);
        self.quota_lacks.remove(LIST);
        self.quota_list.over();
        let mut listed = BTreeMap::new();
        for view in views {
            // A watch event may have overtaken the list.
            let known = self.quotas.remove(&view.name);
            if known.is_none() && self.read_at.get(&view.name).is_some_and(|at| *at > began) {
                // Deleted since, or made anew after that: a later list tells.
                self.want_quotas(now);
                continue;
            }
            let newer = known.filter(|known| known.uid == view.uid && known.resource_version > view.resource_version);
            listed.insert(view.name.clone(), newer.unwrap_or(view));
        }
        // What the list lacks but an event showed after the list began is there.
        let read_at = &self.read_at;
        let kept = std::mem::take(&mut self.quotas);
        listed.extend(kept.into_iter().filter(|(name, _)| read_at.get(name).is_some_and(|at| *at >= began)));
        for name in listed.keys() {
            let at = self.read_at.entry(name.clone()).or_insert(began);
            *at = (*at).max(began);
        }
        // Of what is gone nothing is kept that this list knows as well.
        self.read_at.retain(|name, at| listed.contains_key(name) || *at > began);
        self.holds.retain(|name, hold| listed.contains_key(name) || !hold.is_before(began));
        self.quotas = listed;
        self.all_read_at = self.all_read_at.max(Some(began));
        self.quotas_alive = self.quotas_alive.max(Some(now));
        self.quotas_changed();
        self.advance(now);
    }

    /// A read of the quotas beside their watch failed: it is asked for again.
    pub fn quotas_read_failed(&mut self, now: Instant) {
        self.quota_list.over();
        self.quotas_unread(now);
    }

    /// A read of the quotas beside their watch was refused: it is asked for again. Once it has lasted it is a lack, also
    /// while the watch goes on: what was made is settled by reading.
    pub fn quotas_list_refused(&mut self, lack: Lack, now: Instant) {
        if self.quota_list.again(now) {
            self.quota_lacks.insert(LIST, lack);
        }
        self.quotas_unread(now);
    }

    fn quotas_unread(&mut self, now: Instant) {
        self.quota_read.failed(now);
        // A mere poll is asked for by nobody else before the next one.
        self.want_quotas(now);
        self.advance(now);
    }

    /// An event of the quota watch.
    pub fn quota(&mut self, update: QuotaUpdate, now: Instant) {
        self.quotas_alive = Some(now);
        self.quota_lacks.remove(WATCH);
        match update {
            QuotaUpdate::Applied(view) => {
                self.read_at.insert(view.name.clone(), now);
                let outdated = self
                    .quotas
                    .get(&view.name)
                    .is_some_and(|known| known.uid == view.uid && known.resource_version > view.resource_version);
                if !outdated {
                    self.quotas.insert(view.name.clone(), view);
                }
            }
            QuotaUpdate::Deleted(name) => {
                self.quotas.remove(&name);
                self.read_at.insert(name, now);
            }
        }
        self.quotas_changed();
        self.advance(now);
    }

    /// The quota watch is alive: a bookmark or an orderly end.
    pub fn quota_watch_alive(&mut self, now: Instant) {
        self.quotas_alive = Some(now);
        self.quota_lacks.remove(WATCH);
        self.advance(now);
    }

    /// The API server refuses to tell of the quotas, and has for long enough to be believed. Nothing is granted until
    /// what was refused is answered.
    pub fn quotas_refused(&mut self, lack: Lack, now: Instant) {
        self.quota_lacks.insert(lack.verb, lack);
        self.advance(now);
    }

    /// What lacks to know the quotas.
    #[must_use]
    pub fn quota_lack(&self) -> Option<&Lack> {
        self.quota_lacks.values().next()
    }

    fn quotas_changed(&mut self) {
        for account in self.holders.values_mut() {
            account.prices = price(&self.quotas, &account.terms);
            account.unsettled = true;
        }
    }

    pub(super) fn quota_read_at(&self, quota: &str) -> Option<Instant> {
        self.read_at.get(quota).copied().max(self.all_read_at)
    }

    /// When the quota of these costs that was read longest ago was read.
    pub(super) fn oldest_reading(&self, prices: &[Priced]) -> Option<Instant> {
        let oldest = self
            .quotas
            .values()
            .filter(|view| prices.iter().any(|price| view.tracks(&price.resource)))
            .filter_map(|view| self.quota_read_at(&view.name))
            .min();
        oldest.or(self.all_read_at)
    }
}

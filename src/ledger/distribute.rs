//! How room is shared: round robin, through the books, to the holders that want.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::gate::{Reason, ResourceName};
use crate::ledger::account::Account;
use crate::ledger::owner::{Action, Ledger};
use crate::message::HolderId;
use crate::wire::{Books, Grant, VERSION};

impl Ledger {
    /// Grants what is free, round robin over the holders that want. The holder in turn keeps room that does not
    /// suffice for it yet, so that a large cost is not starved by small ones.
    pub(super) fn distribute(&mut self, now: Instant) {
        if self.writing {
            return;
        }
        let wanting: Vec<HolderId> = self
            .holders
            .iter()
            .filter(|(_, account)| account.is_alive() && !account.leaving && self.wants(account) > 0)
            .map(|(id, _)| id.clone())
            .collect();
        let split = self.turn.as_ref().map_or(0, |turn| wanting.partition_point(|id| id < turn));
        let order: Vec<&HolderId> = wanting.iter().skip(split).chain(wanting.iter().take(split)).collect();
        let mut raised = false;
        let mut reserved: BTreeSet<ResourceName> = BTreeSet::new();
        let mut next_turn = None;
        let mut left = order.len() as u64;
        for (at, id) in order.iter().enumerate() {
            let Some(account) = self.holders.get(*id) else { continue };
            let share = left.max(1);
            left = left.saturating_sub(1);
            if account.terms.costs.iter().any(|cost| reserved.contains(&cost.resource)) {
                continue;
            }
            let standing = self.standing(&account.terms, Some(id), now);
            let wants = self.wants(account);
            if standing.credits == 0 {
                if matches!(standing.reason, Some(Reason::AtLimit | Reason::HeldByOthers)) {
                    reserved.extend(account.terms.costs.iter().map(|cost| cost.resource.clone()));
                    next_turn = next_turn.or_else(|| Some((*id).clone()));
                }
                continue;
            }
            let hold = standing.readings.iter().any(|reading| self.holds.contains_key(&reading.quota));
            let fair = standing.credits.div_ceil(share);
            let count = if hold { 1 } else { wants.min(fair) };
            let quotas: Vec<String> = standing.readings.into_iter().map(|reading| reading.quota).collect();
            if let Some(account) = self.holders.get_mut(*id) {
                account.next_top = account.next_top.max(account.top).saturating_add(count);
                raised = true;
                for quota in quotas {
                    if let Some(hold) = self.holds.get_mut(&quota) {
                        hold.probe = Some(((*id).clone(), account.next_top));
                    }
                }
            }
            if next_turn.is_none() && at + 1 == order.len() {
                next_turn = order.get(1).map(|id| (*id).clone());
            }
        }
        if order.len() > 1 {
            self.turn = next_turn;
        }
        if raised || self.books_outdated {
            self.write_books();
        }
    }

    pub(super) fn write_books(&mut self) {
        self.writing = true;
        self.books_outdated = false;
        self.writes = self.writes.saturating_add(1);
        let holders = self.holders.iter().map(|(id, account)| (id.clone(), account.book())).collect();
        self.outbox.push(Action::WriteBooks(Books { v: VERSION, epoch: self.epoch, write: self.writes, holders }));
    }

    /// How many numbers a holder still wants, what is on its way to it taken off.
    pub(super) fn wants(&self, account: &Account) -> u64 {
        account.want.saturating_sub(account.next_top.max(account.top).saturating_sub(account.reported_top))
    }

    /// Sends the grants that are owed, and one to each holder whose reason changed.
    pub(super) fn answer(&mut self, now: Instant) {
        let waiting: BTreeSet<HolderId> = self
            .holders
            .iter()
            .filter(|(_, account)| account.is_alive() && self.wants(account) > 0)
            .map(|(id, _)| id.clone())
            .collect();
        let ids: Vec<HolderId> =
            self.holders.iter().filter(|(_, account)| account.is_alive()).map(|(id, _)| id.clone()).collect();
        for id in ids {
            let Some(account) = self.holders.get(&id) else { continue };
            let others_wait = waiting.iter().any(|other| *other != id);
            let standing = self.standing(&account.terms, Some(&id), now);
            let tells = (standing.reason, others_wait);
            if !account.owed && account.told == Some(tells) {
                continue;
            }
            let grant = Grant {
                v: VERSION,
                holder: id.clone(),
                epoch: self.epoch,
                seq: account.seq,
                top: account.top,
                made_seen: account.settled.clone(),
                others_wait,
                readings: standing.readings,
                reason: standing.reason,
                detail: standing.detail,
                restart: false,
            };
            if let Some(account) = self.holders.get_mut(&id) {
                account.owed = false;
                account.told = Some(tells);
            }
            self.outbox.push(Action::Send(grant));
        }
    }
}

//! How room is shared: round robin, through the books, to the holders that want.

use std::time::Instant;

use crate::gate::{Quantity, Reason, ResourceName};
use crate::ledger::account::Account;
use crate::ledger::owner::{Action, Ledger};
use crate::message::HolderId;
use crate::wire::{Books, Grant, VERSION};

/// Room that is kept for the holder that waits longest, so that a large cost is not starved by small ones.
struct Kept {
    quota: String,
    resource: ResourceName,
    /// The limit of the one it is kept for: who has a higher one may use what lies above.
    limit: Quantity,
    amount: Quantity,
}

/// What one holder is given.
struct Share {
    holder: HolderId,
    count: u64,
    quotas: Vec<String>,
}

impl Ledger {
    /// Grants what is free, first to who waits longest. Whoever is first and does not fit yet has its cost kept free.
    pub(super) fn distribute(&mut self, now: Instant) {
        if self.writing {
            return;
        }
        let mut wanting: Vec<(u64, &HolderId, &Account)> = self
            .holders
            .iter()
            .filter(|(_, account)| Self::wants(account) > 0)
            .map(|(id, account)| (account.served, id, account))
            .collect();
        if wanting.is_empty() {
            if self.books_outdated {
                self.write_books();
            }
            return;
        }
        wanting.sort_unstable_by_key(|(served, id, _)| (*served, *id));
        let mut raised = false;
        let order: Vec<HolderId> = wanting.into_iter().map(|(_, id, _)| id.clone()).collect();
        let mut left = order.len() as u64;
        let mut kept: Vec<Kept> = Vec::new();
        for id in order {
            let share = left.max(1);
            left = left.saturating_sub(1);
            let Some(share) = self.share(&id, share, &mut kept, now) else { continue };
            self.turns = self.turns.saturating_add(1);
            let turn = self.turns;
            if let Some(account) = self.holders.get_mut(&id) {
                account.next_top = account.next_top.max(account.top).saturating_add(share.count);
                account.served = turn;
                account.recount();
                raised = true;
                let number = account.next_top;
                self.probe(share.quotas.iter().map(String::as_str), &share.holder, number, now);
            }
        }
        if raised || self.books_outdated {
            self.write_books();
        }
    }

    /// What a holder is given now, where `among` holders are left to serve.
    fn share(&self, id: &HolderId, among: u64, kept: &mut Vec<Kept>, now: Instant) -> Option<Share> {
        let account = self.holders.get(id)?;
        if self.blocked(&account.prices, now).is_some() {
            return None;
        }
        let rooms = self.rooms(&account.prices);
        let free = rooms.iter().map(|room| {
            let others: Quantity = kept
                .iter()
                .filter(|kept| {
                    kept.quota == room.bound.quota
                        && kept.resource == room.price.resource
                        && kept.limit >= room.bound.limit
                })
                .fold(Quantity::ZERO, |sum, kept| sum.saturating_add(kept.amount));
            room.headroom.saturating_sub(others).divided_by(room.price.amount)
        });
        let credits = free.min().unwrap_or(0);
        if credits == 0 {
            if kept.is_empty() {
                kept.extend(rooms.iter().map(|room| Kept {
                    quota: room.bound.quota.clone(),
                    resource: room.price.resource.clone(),
                    limit: room.bound.limit,
                    amount: room.price.amount,
                }));
            }
            return None;
        }
        let probing = rooms.iter().any(|room| self.is_probing(&room.bound.quota));
        let count = if probing { 1 } else { Self::wants(account).min(credits.div_ceil(among)) };
        let quotas = if probing { rooms.iter().map(|room| room.bound.quota.clone()).collect() } else { Vec::new() };
        Some(Share { holder: id.clone(), count, quotas })
    }

    pub(super) fn write_books(&mut self) {
        self.writing = true;
        self.books_outdated = false;
        self.writes = self.writes.saturating_add(1);
        let holders = self.holders.iter().map(|(id, account)| (id.clone(), account.book())).collect();
        self.outbox.push(Action::WriteBooks(Books { v: VERSION, epoch: self.epoch, write: self.writes, holders }));
    }

    /// How many numbers a holder still wants, what is on its way to it taken off.
    pub(super) fn wants(account: &Account) -> u64 {
        if !account.is_alive() || account.leaving {
            return 0;
        }
        account.want.saturating_sub(account.next_top.max(account.top).saturating_sub(account.reported_top))
    }

    /// Sends the grants that are owed, and one to each holder whose reason changed.
    pub(super) fn answer(&mut self, now: Instant) {
        let waiting = self.holders.values().filter(|account| Self::wants(account) > 0).count();
        let mut news: Vec<(HolderId, Option<Reason>, bool)> = Vec::new();
        for (id, account) in &self.holders {
            if !account.is_alive() {
                continue;
            }
            let others_wait = waiting > usize::from(Self::wants(account) > 0);
            let reason = self.reason(&account.prices, Some(id), now);
            if account.owed || account.told != Some((reason, others_wait)) {
                news.push((id.clone(), reason, others_wait));
            }
        }
        for (id, reason, others_wait) in news {
            let Some(account) = self.holders.get(&id) else { continue };
            let standing = self.explain(&account.prices, Some(&id), now);
            let grant = Grant {
                v: VERSION,
                holder: id.clone(),
                epoch: self.epoch,
                seq: account.seq,
                top: account.top,
                made_seen: account.settled.clone(),
                others_wait,
                readings: standing.readings,
                reason,
                detail: standing.detail,
                restart: false,
            };
            if let Some(account) = self.holders.get_mut(&id) {
                account.owed = false;
                account.told = Some((reason, others_wait));
            }
            self.outbox.push(Action::Send(grant));
        }
    }
}

//! How numbers leave the books: by sight, by time, by a list that the leader itself starts.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::gate::Counted;
use crate::ledger::account::Phase;
use crate::ledger::live::SeenObject;
use crate::ledger::owner::Ledger;
use crate::message::{CreditId, HolderId};
use crate::wire::{NumberSet, Terms};

impl Ledger {
    /// What a quorum list proves by absence. Presence proves nothing here: the watch must tell of the object
    /// itself, or the record would have a gap.
    pub(super) fn settle_by_list(&mut self, kind: &Counted, objects: &[SeenObject], began: Instant) {
        let present: BTreeSet<&CreditId> = objects.iter().filter_map(|object| object.credit.as_ref()).collect();
        for (id, account) in &mut self.holders {
            if account.terms.created.as_ref() != Some(kind) {
                continue;
            }
            let absent = |number: u64| !present.contains(&CreditId { holder: id.clone(), number });
            let lost: Vec<u64> =
                account.made.iter().filter(|(number, at)| **at < began && absent(**number)).map(|(n, _)| *n).collect();
            for number in lost {
                account.seen.insert(number);
            }
            if let Phase::Dead { safe } = account.phase {
                if began >= safe {
                    let gone: NumberSet =
                        account.open.iter().filter(|n| absent(*n) || account.seen.contains(*n)).collect();
                    account.open.subtract(&gone);
                    account.made.retain(|number, _| !absent(*number) && !account.seen.contains(*number));
                }
            }
        }
    }

    /// Holders that were silent too long are dead; what came of their creates is asked once it cannot change.
    pub(super) fn bury(&mut self, now: Instant) {
        let mut kinds = BTreeSet::new();
        let mut timed_out = Vec::new();
        for (id, account) in &mut self.holders {
            if account.silent_at().is_some_and(|at| now >= at) {
                account.die(now);
                self.books_outdated = true;
            }
            if let Phase::Dead { safe } = account.phase {
                if now >= safe && !account.out().is_empty() {
                    timed_out.push((id.clone(), safe));
                    kinds.extend(account.terms.created.clone());
                }
            }
        }
        for (id, safe) in timed_out {
            let Some(account) = self.holders.get(&id) else { continue };
            let by_sight = self.is_settled_by_sight(account);
            let by_time = self.is_settled_by_time(account);
            let settle_time = account.terms.settle_time;
            let created = account.terms.created.clone();
            if !by_sight {
                if !by_time || now >= safe + settle_time {
                    if let Some(account) = self.holders.get_mut(&id) {
                        account.open = NumberSet::new();
                        account.made.clear();
                    }
                }
                if let Some(kind) = created {
                    kinds.remove(&kind);
                }
                continue;
            }
            // Seen numbers have left the live side; what is neither seen nor listed is settled by the list.
            if let Some(account) = self.holders.get_mut(&id) {
                let seen = account.seen.clone();
                account.open.subtract(&seen);
                account.made.retain(|number, _| !seen.contains(*number));
            }
        }
        for kind in kinds {
            // One list proves all that was under way before it; a further one is due only for later deaths, and for
            // what a list showed and the watch does not.
            let done = self.check_done.get(&kind).copied();
            let due = self.holders.values().any(|account| match account.phase {
                Phase::Dead { safe } => {
                    account.terms.created.as_ref() == Some(&kind)
                        && !account.out().is_empty()
                        && now >= safe
                        && done.is_none_or(|done| done < safe || now >= done + self.options.list_after)
                }
                Phase::Adopted { since: _ } | Phase::Alive { heard: _ } => false,
            });
            if due {
                self.ask_for_objects(&kind);
            }
        }
    }

    /// Made numbers that have left every side are echoed.
    pub(super) fn settle(&mut self, now: Instant) {
        let mut read_quotas = false;
        let mut check = BTreeSet::new();
        let ids: Vec<HolderId> =
            self.holders.iter().filter(|(_, account)| !account.made.is_empty()).map(|(id, _)| id.clone()).collect();
        for id in ids {
            let Some(account) = self.holders.get(&id) else { continue };
            let by_sight = self.is_settled_by_sight(account);
            let by_time = self.is_settled_by_time(account);
            let oldest_reading = self.oldest_reading(&account.terms);
            let mut done = NumberSet::new();
            for (number, at) in &account.made {
                let seen = !by_sight || account.seen.contains(*number);
                let read = !by_sight || oldest_reading.is_some_and(|read| read > *at);
                let settled = !by_time || now >= *at + account.terms.settle_time;
                if seen && read && settled {
                    done.insert(*number);
                }
                read_quotas |= !read && now >= *at + self.options.read_after;
                if !seen && now >= *at + self.options.list_after {
                    let recent = account
                        .terms
                        .created
                        .as_ref()
                        .and_then(|kind| self.check_done.get(kind))
                        .is_some_and(|done| now < *done + self.options.list_after);
                    if !recent {
                        check.extend(account.terms.created.clone());
                    }
                }
            }
            if let Some(account) = self.holders.get_mut(&id).filter(|_| !done.is_empty()) {
                for number in done.iter() {
                    account.made.remove(&number);
                    account.settled.insert(number);
                }
                account.owed |= account.is_alive();
            }
        }
        if read_quotas {
            self.ask_for_quotas();
        }
        for kind in check {
            self.ask_for_objects(&kind);
        }
    }

    /// When the quota of these terms that was read longest ago was read.
    pub(super) fn oldest_reading(&self, terms: &Terms) -> Option<Instant> {
        self.quotas
            .values()
            .filter(|view| terms.costs.iter().any(|cost| view.tracks(&cost.resource)))
            .filter_map(|view| self.quota_read_at(&view.name))
            .min()
            .or(self.all_read_at)
    }

    /// Holders of which nothing is left, and who ask for nothing any more, are forgotten.
    pub(super) fn forget(&mut self) {
        let before = self.holders.len();
        self.holders.retain(|_, account| {
            let over = match account.phase {
                Phase::Dead { safe: _ } => true,
                // A holder that leaves hears the last echo first.
                Phase::Alive { heard: _ } => account.leaving && account.settled.is_empty(),
                Phase::Adopted { since: _ } => false,
            };
            !(over && account.out().is_empty())
        });
        self.books_outdated |= self.holders.len() < before;
    }
}

//! How numbers leave the books: by sight, by time, by a list that the leader itself starts.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::gate::Counted;
use crate::ledger::account::{Account, Phase};
use crate::ledger::owner::Ledger;
use crate::wire::NumberSet;

/// What is to be asked to settle made numbers.
#[derive(Debug, Default)]
struct Wanted {
    quotas: bool,
    objects: BTreeSet<Counted>,
}

impl Ledger {
    /// Holders that were silent too long are dead; what came of their creates is asked once it cannot change.
    pub(super) fn bury(&mut self, now: Instant) {
        let mut died = false;
        for account in self.holders.values_mut() {
            if account.silent_at().is_some_and(|at| now >= at) {
                account.die(now);
                died = true;
            }
        }
        if died {
            self.books_outdated = true;
            self.drop_probes();
        }
        let mut kinds = BTreeSet::new();
        let mut ends = Vec::new();
        for (id, account) in &self.holders {
            let Phase::Dead { safe } = account.phase else { continue };
            // What no watch shows stays counted for its settle time: its last effect may be as young as `safe`.
            let over = if self.is_settled_by_time(account) { safe + account.terms.settle_time } else { safe };
            let due = (now < over).then_some(over);
            if now < over || !account.has_out() {
                ends.push((id.clone(), over, due, false));
                continue;
            }
            let Some(kind) = account.terms.created.as_ref().filter(|_| self.is_settled_by_sight(account)) else {
                ends.push((id.clone(), over, None, true));
                continue;
            };
            // One list proves all that was under way before it; a further one is due only for what it showed and
            // the watch does not.
            let newest = self.checks.get(kind).and_then(super::ask::Ask::newest).filter(|began| *began >= over);
            let again = newest.map(|began| began + self.options.list_after);
            if again.is_none_or(|again| now >= again) {
                kinds.insert(kind.clone());
            }
            ends.push((id.clone(), over, again, false));
        }
        for (id, over, due, by_time) in ends {
            let Some(account) = self.holders.get_mut(&id) else { continue };
            account.over_at = Some(over);
            account.due = due;
            if now >= over {
                // Seen numbers have left the live side already.
                let gone = if by_time { account.out() } else { NumberSet::new() };
                account.free(&gone);
            }
        }
        for kind in kinds {
            self.want_objects(&kind, now);
        }
    }

    /// Made numbers that have left every side are echoed.
    pub(super) fn settle(&mut self, now: Instant) {
        let mut wanted = Wanted::default();
        let mut settled = Vec::new();
        for (id, account) in &self.holders {
            let due = account.unsettled || account.due.is_some_and(|at| now >= at);
            if due && account.is_alive_or_adopted() {
                let (done, next) = self.settled_now(account, &mut wanted, now);
                settled.push((id.clone(), done, next));
            }
        }
        for (id, done, next) in settled {
            let Some(account) = self.holders.get_mut(&id) else { continue };
            account.due = next;
            account.unsettled = false;
            if !done.is_empty() {
                account.settled.extend(&done);
                account.unmake(&done);
                account.keep_seen_out();
                account.recount();
                account.owed |= account.is_alive();
            }
        }
        if wanted.quotas {
            self.want_quotas(now);
        }
        for kind in wanted.objects {
            self.want_objects(&kind, now);
        }
    }

    /// The made numbers that have left every side, and when time changes the answer.
    fn settled_now(&self, account: &Account, wanted: &mut Wanted, now: Instant) -> (NumberSet, Option<Instant>) {
        let by_sight = self.is_settled_by_sight(account);
        let by_time = self.is_settled_by_time(account);
        let reading = if account.made.is_empty() { None } else { self.oldest_reading(&account.prices) };
        let asked = self.quota_read.newest();
        let checked =
            account.terms.created.as_ref().and_then(|kind| self.checks.get(kind)).and_then(|ask| ask.newest());
        let mut done = NumberSet::new();
        let mut next: Option<Instant> = None;
        let mut wake = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        for batch in &account.made {
            let read = !by_sight || reading.is_some_and(|read| read > batch.at);
            let aged = !by_time || now >= batch.at + account.terms.settle_time;
            if read && aged {
                done.extend(&if by_sight { batch.numbers.intersection(&account.seen) } else { batch.numbers.clone() });
            }
            if !aged {
                wake(batch.at + account.terms.settle_time);
            }
            if !read {
                let at = batch.at + self.options.read_after;
                if now < at {
                    wake(at);
                } else if asked.is_none_or(|asked| asked <= batch.at) {
                    wanted.quotas = true;
                }
            }
            if by_sight {
                let doubted = !batch.numbers.intersection(&account.doubted).is_empty();
                let first = if doubted { batch.at } else { batch.at + self.options.list_after };
                let again = checked.filter(|began| *began > batch.at).map(|began| began + self.options.list_after);
                let at = again.map_or(first, |again| again.max(first));
                if now < at {
                    wake(at);
                } else if !batch.numbers.minus(&account.seen).is_empty() {
                    wanted.objects.extend(account.terms.created.clone());
                }
            }
        }
        (done, next)
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
            !over || account.has_out()
        });
        if self.holders.len() < before {
            self.books_outdated = true;
            self.drop_probes();
        }
    }
}

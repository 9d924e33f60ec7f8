//! What the leader knows of the objects of the counted kinds, and which numbers that settles.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::gate::Counted;
use crate::ledger::account::Phase;
use crate::ledger::live::{LiveState, SeenObject};
use crate::ledger::owner::Ledger;
use crate::message::{CreditId, HolderId};
use crate::wire::NumberSet;

impl Ledger {
    /// All objects of a kind, by the list that begins or renews its watch. What is out and reported as made before
    /// the list began, and is not in it, came and went unseen.
    pub fn objects_listed(&mut self, kind: &Counted, objects: &[SeenObject], began: Instant, now: Instant) {
        let listed = objects.iter().map(|object| (object.name.clone(), object.credit.clone())).collect();
        let state = LiveState::Watched { objects: listed, alive: now };
        if let Some(LiveState::Watched { objects, alive: _ }) = self.kinds.insert(kind.clone(), state) {
            for credit in objects.values().flatten() {
                self.no_longer_present(credit);
            }
        }
        for credit in objects.iter().filter_map(|object| object.credit.as_ref()) {
            self.now_present(credit);
            self.credit_sighted(credit);
        }
        self.checks.entry(kind.clone()).or_default().learned(began);
        self.settle_by_list(kind, objects, began);
        self.advance(now);
    }

    /// An object was created or changed.
    pub fn object_applied(&mut self, kind: &Counted, object: &SeenObject, now: Instant) {
        let mut replaced = None;
        let mut is_new = false;
        if let Some(LiveState::Watched { objects, alive }) = self.kinds.get_mut(kind) {
            *alive = now;
            if objects.get(&object.name) != Some(&object.credit) {
                is_new = true;
                replaced = objects.insert(object.name.clone(), object.credit.clone()).flatten();
            }
        }
        if let Some(credit) = replaced {
            self.no_longer_present(&credit);
        }
        if let Some(credit) = &object.credit {
            if is_new {
                self.now_present(credit);
            }
            self.credit_sighted(credit);
        }
        self.advance(now);
    }

    /// An object is gone from the store. Its credit counts as seen, should its creation have been missed.
    pub fn object_deleted(&mut self, kind: &Counted, object: &SeenObject, now: Instant) {
        let mut gone = None;
        if let Some(LiveState::Watched { objects, alive }) = self.kinds.get_mut(kind) {
            *alive = now;
            gone = objects.remove(&object.name).flatten();
        }
        if let Some(credit) = gone {
            self.no_longer_present(&credit);
        }
        if let Some(credit) = &object.credit {
            self.credit_sighted(credit);
        }
        self.advance(now);
    }

    /// An object of the past, told by a watch that was resumed behind the list: it settles its number, and the live
    /// count knows it already.
    pub fn object_replayed(&mut self, object: &SeenObject, now: Instant) {
        if let Some(credit) = &object.credit {
            self.credit_sighted(credit);
        }
        self.advance(now);
    }

    /// The object watch is alive: a bookmark or an orderly end.
    pub fn object_watch_alive(&mut self, kind: &Counted, now: Instant) {
        if let Some(LiveState::Watched { objects: _, alive }) = self.kinds.get_mut(kind) {
            *alive = now;
        }
        self.advance(now);
    }

    /// The objects of a kind may not be watched.
    pub fn object_watch_forbidden(&mut self, kind: &Counted, now: Instant) {
        if let Some(LiveState::Watched { objects, alive: _ }) = self.kinds.insert(kind.clone(), LiveState::Forbidden) {
            for credit in objects.values().flatten() {
                self.no_longer_present(credit);
            }
        }
        for account in self.holders.values_mut() {
            account.unsettled = true;
        }
        self.advance(now);
    }

    /// A quorum list that [`Action::CheckObjects`](super::Action::CheckObjects) asked for.
    pub fn objects_checked(&mut self, kind: &Counted, objects: &[SeenObject], began: Instant, now: Instant) {
        self.checks.entry(kind.clone()).or_default().answered(began);
        self.settle_by_list(kind, objects, began);
        self.advance(now);
    }

    /// A list that failed: it is asked for again.
    pub fn objects_check_failed(&mut self, kind: &Counted, now: Instant) {
        self.checks.entry(kind.clone()).or_default().failed(now);
        self.advance(now);
    }

    /// What a quorum list proves by absence. Presence proves nothing here: the watch must tell of the object
    /// itself, or the record would have a gap.
    fn settle_by_list(&mut self, kind: &Counted, objects: &[SeenObject], began: Instant) {
        let mut listed: BTreeMap<&HolderId, NumberSet> = BTreeMap::new();
        for credit in objects.iter().filter_map(|object| object.credit.as_ref()) {
            listed.entry(&credit.holder).or_default().insert(credit.number);
        }
        let none = NumberSet::new();
        for (id, account) in &mut self.holders {
            if account.terms.created.as_ref() != Some(kind) {
                continue;
            }
            let listed = listed.get(id).unwrap_or(&none);
            // A holder that was forgotten and met anew by an old report may be granted numbers whose objects the
            // watch told of long ago, and tells of no more.
            account.sighted_all(self.present.get(id).unwrap_or(&none));
            account.proven_absent(listed, began);
            if let Phase::Dead { safe: _ } = account.phase {
                account.unsettled = true;
                if account.over_at.is_some_and(|over| began >= over) {
                    let gone = account.out().minus(listed);
                    account.free(&gone);
                }
            }
        }
    }

    fn now_present(&mut self, credit: &CreditId) {
        if let Some(numbers) = self.present.get_mut(&credit.holder) {
            numbers.insert(credit.number);
        } else {
            self.present.insert(credit.holder.clone(), NumberSet::of_range(credit.number, credit.number));
        }
    }

    fn no_longer_present(&mut self, credit: &CreditId) {
        if let Some(numbers) = self.present.get_mut(&credit.holder) {
            numbers.remove(credit.number);
            if numbers.is_empty() {
                self.present.remove(&credit.holder);
            }
        }
    }

    fn credit_sighted(&mut self, credit: &CreditId) {
        if let Some(account) = self.holders.get_mut(&credit.holder) {
            account.sighted(credit.number);
        }
    }
}

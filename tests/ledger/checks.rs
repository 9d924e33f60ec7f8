//! The invariants.

use std::collections::BTreeMap;

use jetgate::gate::{QuotaView, Reason};
use jetgate::ledger::{LiveState, Phase};
use jetgate::message::HolderId;
use jetgate::wire::{Books, NumberSet};

use crate::api::{CPU_COST, CPU_HARD};
use crate::world::{HolderSim, LeaderSim, World};

fn limit_under(hard: u64, ratio: &str, cost: u64) -> u64 {
    let tenths = match ratio {
        "1" => 10,
        "0.9" => 9,
        "0.7" => 7,
        _ => 5,
    };
    if hard < cost { 0 } else { (hard * tenths / 10).max(cost) }
}

/// What a holder was raised by in one write of the books, in the amounts of one resource.
struct Raise {
    amount: u64,
    limit: u64,
}

impl World {
    fn limit_of(&self, ratio: &str) -> u64 {
        limit_under(self.hard.unwrap_or(0), ratio, 1)
    }

    /// V1 and V3, after every step.
    pub(crate) fn check(&mut self) {
        if self.violation.is_some() {
            return;
        }
        if let Some(what) = self.uncounted().or_else(|| self.overstayed()) {
            self.violate(what);
        }
    }

    /// V1: what exists or may come to exist is in live or out.
    fn uncounted(&self) -> Option<String> {
        let ledger = &self.leaders[self.current()?].ledger;
        let Some(LiveState::Watched { objects, .. }) = ledger.live(&self.kind) else { return None };
        let unseen: BTreeMap<&HolderId, NumberSet> = ledger.unseen().collect();
        let out =
            |by: usize, number: u64| unseen.get(self.holders[by].id()).is_some_and(|numbers| numbers.contains(number));
        for (name, object) in &self.objects {
            if let Some((by, number)) = object.by
                && !objects.contains_key(name)
                && !out(by, number)
            {
                return Some(format!("V1: {name} of h{by}/{number} exists and is not counted"));
            }
        }
        for post in self.posts.iter().filter(|post| post.flying) {
            if !out(post.holder, post.number) {
                return Some(format!("V1: h{}/{} may yet exist and is not counted", post.holder, post.number));
            }
        }
        None
    }

    /// V3: a holder that believes in its lease is not dead to its leader.
    fn overstayed(&self) -> Option<String> {
        let ledger = &self.leaders[self.current()?].ledger;
        for (at, sim) in self.holders.iter().enumerate() {
            let holder = &sim.holder;
            if !sim.alive || sim.retired || holder.unused() + holder.busy() == 0 || !holder.lease_holds(self.present())
            {
                continue;
            }
            let known = ledger.holders().find(|(id, _, _)| *id == holder.id()).map(|(_, phase, _)| phase);
            match known {
                None => return Some(format!("V3: h{at} has a lease and is not known")),
                Some(Phase::Dead { .. }) => return Some(format!("V3: h{at} has a lease and is taken for dead")),
                Some(Phase::Alive { .. } | Phase::Adopted { .. }) => {}
            }
        }
        None
    }

    /// V2 where it is decided: no raise takes either side above the limit of who is raised, by what this leader was
    /// told until now. Strangers and a lowered hard change nothing about that.
    pub(crate) fn check_grants(&mut self, at: usize, books: &Books) {
        let mut raised: BTreeMap<HolderId, u64> = BTreeMap::new();
        for (id, book) in &books.holders {
            let top = self.leaders[at].tops.get(id).copied().unwrap_or(0);
            // What a stranger to the books claims is counted, and granted to nobody.
            let mut holders = self.leaders[at].ledger.holders();
            let dead = holders.any(|(known, phase, _)| known == id && matches!(phase, Phase::Dead { .. }));
            if book.top > top && !dead {
                raised.insert(id.clone(), book.top - top);
            }
        }
        self.leaders[at].tops = books.holders.iter().map(|(id, book)| (id.clone(), book.top)).collect();
        if let Some(what) = (!raised.is_empty()).then(|| self.overdrawn(at, books, &raised)).flatten() {
            self.violate(what);
        }
    }

    /// What a write of the books takes above a limit.
    fn overdrawn(&self, at: usize, books: &Books, raised: &BTreeMap<HolderId, u64>) -> Option<String> {
        let leader = &self.leaders[at];
        let Some(known) = leader.ledger.quotas().get("team") else {
            return Some(format!("V2: leader {at} grants without a quota"));
        };
        if known.resource_version < leader.told_version {
            return Some(format!("V2: leader {at} grants by an older reading than it was told"));
        }
        // The reading as it was made, whatever became of it on its way.
        let index = usize::try_from(known.resource_version).ok()?.checked_sub(1)?;
        let read = self.quota_log.get(index)?.as_ref()?;
        let unseen: u64 = leader.ledger.unseen().map(|(_, numbers)| numbers.len()).sum();
        let live = leader.told.len() as u64 + unseen;
        let count = |_: &HolderSim| Some(1);
        let used = self.thousandths(read, false) / 1_000;
        let hard = read.spec_hard.get(&self.count)?.whole_floor();
        let over = |side: &str, after: u64, unit: &dyn Fn(&HolderSim) -> Option<u64>, hard: u64| {
            let raises: Vec<Raise> = raised
                .iter()
                .filter_map(|(id, by)| {
                    let sim = self.holders.iter().find(|sim| sim.id() == id)?;
                    let cost = unit(sim)?;
                    Some(Raise { amount: by * cost, limit: limit_under(hard, sim.ratio, cost) })
                })
                .collect();
            let all: u64 = raises.iter().map(|raise| raise.amount).sum();
            let most = raises.iter().map(|raise| raise.limit).max()?;
            // In which order they were raised is not told; each of them may have been the first.
            let own = raises.iter().find(|raise| after - all + raise.amount > raise.limit);
            if let Some(Raise { amount, limit }) = own {
                return Some(format!("V2: {amount} more granted on the {side} side of {}, limit {limit}", after - all));
            }
            (after > most).then(|| format!("V2: granted up to {after} on the {side} side, limit {most}"))
        };
        let unanswered = |unit: &dyn Fn(&HolderSim) -> Option<u64>| -> u64 {
            let each = books.holders.iter().map(|(id, book)| {
                let sim = self.holders.iter().find(|sim| sim.id() == id);
                sim.and_then(unit).unwrap_or(0) * leader.unanswered(id, &book.out)
            });
            each.sum()
        };
        over("live", live, &count, hard).or_else(|| over("used", used + unanswered(&count), &count, hard)).or_else(
            || {
                let cpu = |sim: &HolderSim| sim.cpu.then_some(CPU_COST);
                let used = self.thousandths(read, true);
                over("used cpu", used + unanswered(&cpu), &cpu, CPU_HARD)
            },
        )
    }

    /// What a reading shows as used, in thousandths.
    fn thousandths(&self, read: &QuotaView, cpu: bool) -> u64 {
        let used = read.used.get(if cpu { &self.cpu } else { &self.count });
        used.map_or(0, |used| used.times(1_000).whole_ceil())
    }

    /// V2 in the world: as many as may exist, and no more.
    pub(crate) fn check_limit(&mut self) {
        let limit = self.holders.iter().map(|sim| self.limit_of(sim.ratio)).max().unwrap_or(0);
        if self.clean && self.objects.len() as u64 > limit {
            self.violate(format!("V2: {} objects exist, limit {limit}", self.objects.len()));
        }
    }

    /// V5: at rest nothing is out but what the living hold.
    pub(crate) fn check_rest(&mut self) {
        let Some(at) = self.current() else {
            self.violate("V5: nobody leads");
            return;
        };
        let ledger = &self.leaders[at].ledger;
        let mut wrong = None;
        for (id, phase, out) in ledger.holders() {
            let sim = self.holders.iter().find(|sim| sim.id() == id);
            let living = sim.is_some_and(|sim| sim.alive && !sim.retired);
            if !out.is_empty() {
                wrong = Some(format!("V5: {out:?} of {id} ({phase:?}) are out at rest"));
            } else if !living {
                wrong = Some(format!("V5: {id} ({phase:?}) is not forgotten"));
            }
        }
        if let Some(sim) = self.holders.iter().find(|sim| sim.alive && !sim.retired && !sim.holder.is_settled()) {
            let holder = &sim.holder;
            let (unused, busy, made) = (holder.unused(), holder.busy(), holder.made_count());
            wrong = Some(format!("V5: {} is not settled: {unused} unused, {busy} busy, {made} made", sim.id()));
        }
        let live = ledger.live(&self.kind).and_then(LiveState::count);
        if live != Some(self.objects.len() as u64) {
            wrong = Some(format!("V5: {live:?} live, {} exist", self.objects.len()));
        }
        let behind = self.books.holders.keys().find(|id| ledger.holders().all(|(known, _, _)| known != *id));
        if let Some(id) = behind {
            wrong = Some(format!("V5: the books still name {id}"));
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }

    /// V5, the other half: where everybody wants, all that fits is out.
    pub(crate) fn check_full(&mut self) {
        let Some(at) = self.current() else { return };
        let ledger = &self.leaders[at].ledger;
        let mut limit = 0;
        let mut wrong = None;
        for sim in self.holders.iter().filter(|sim| sim.alive && !sim.retired && !sim.leaving) {
            let standing = ledger.standing(sim.holder.terms(), Some(sim.id()), self.present());
            let full = matches!(standing.reason, Some(Reason::AtLimit | Reason::HeldByOthers | Reason::NeverFits));
            if standing.credits > 0 && !self.with_cpu || !full && standing.credits == 0 {
                wrong = Some(format!("V5: {} wants and gets nothing: {standing:?}", sim.id()));
            }
            limit = limit.max(self.limit_of(sim.ratio));
        }
        let held: u64 =
            self.holders.iter().filter(|sim| sim.alive && !sim.retired).map(|sim| sim.holder.unused()).sum();
        let exist = self.objects.len() as u64;
        if !self.with_cpu && held + exist < limit {
            wrong = Some(format!("V5: {held} credits and {exist} objects under a limit of {limit}"));
        }
        if self.clean && held + exist > limit.max(exist) {
            wrong = Some(format!("V2: {held} credits and {exist} objects over a limit of {limit}"));
        }
        if let Some(wrong) = wrong {
            self.violate(wrong);
        }
    }
}

impl LeaderSim {
    /// How many of a holder's numbers that are out have no answer, by what it told this leader.
    fn unanswered(&self, id: &HolderId, out: &NumberSet) -> u64 {
        let Some(heard) = self.heard.get(id) else { return out.len() };
        let mut open = heard.open.clone();
        if !heard.leaving {
            open.extend(&NumberSet::of_range(heard.top + 1, u64::MAX));
        }
        out.intersection(&open).len()
    }
}

//! The API server and the quota controller of the world.

use std::collections::BTreeMap;

use jetgate::gate::QuotaView;
use jetgate::ledger::SeenObject;
use jetgate::message::CreditId;

use crate::world::{Answer, Event, Logged, Object, World};

/// Cpu that one effect of a holder with a cpu cost takes, and the quota's, in thousandths.
pub(crate) const CPU_COST: u64 = 1_500;
pub(crate) const CPU_HARD: u64 = 7_000;

impl World {
    fn view(&self) -> Option<QuotaView> {
        let hard = self.hard?;
        let mut list = BTreeMap::from([(self.count.clone(), hard.to_string().parse().unwrap())]);
        let mut used = BTreeMap::from([(self.count.clone(), self.used.to_string().parse().unwrap())]);
        if self.with_cpu {
            list.insert(self.cpu.clone(), format!("{CPU_HARD}m").parse().unwrap());
            used.insert(self.cpu.clone(), format!("{}m", self.used_cpu).parse().unwrap());
        }
        Some(QuotaView {
            name: "team".to_owned(),
            uid: "u".to_owned(),
            resource_version: self.quota_log.len() as u64 + 1,
            scoped: false,
            spec_hard: list.clone(),
            status_hard: Some(list),
            used,
        })
    }

    /// The quota's present state becomes an event.
    pub(crate) fn quota_changed(&mut self) {
        let view = self.view();
        self.quota_log.push(view);
        for leader in 0..self.leaders.len() {
            let after = self.delay();
            self.schedule(after, Event::QuotaPump(leader));
        }
    }

    fn log(&mut self, object: SeenObject, deleted: bool) {
        let cpu = self.objects.values().filter(|object| object.cpu).count() as u64;
        self.counts.push((self.objects.len() as u64, cpu));
        self.log.push(Logged { object, deleted });
        for leader in 0..self.leaders.len() {
            let after = self.delay();
            self.schedule(after, Event::Pump(leader));
        }
    }

    /// A create arrives: admission, then the store, each of which may be the last that is heard of it.
    pub(crate) fn commit(&mut self, post: usize) {
        let Some(flight) = self.posts.get_mut(post) else { return };
        flight.flying = false;
        let (by, number) = (flight.holder, flight.number);
        let cpu = self.holders[by].cpu;
        let cost = if cpu { CPU_COST } else { 0 };
        let fits = self
            .hard
            .is_none_or(|hard| self.used < hard && (!self.with_cpu || cost == 0 || self.used_cpu + cost <= CPU_HARD));
        let answer = if fits {
            self.used += 1;
            self.used_cpu += cost;
            self.quota_changed();
            if !self.calm && self.rng.chance(3) {
                // Charged, and then the store fails: nothing exists, and `used` is too high until recalculated.
                self.say(|| format!("api: create h{by}/{number} charged and lost"));
                return;
            }
            self.named += 1;
            let name = format!("o{}", self.named);
            let credit = CreditId { holder: self.holders[by].holder.id().clone(), number };
            let seen = SeenObject { name: name.clone(), credit: Some(credit) };
            self.say(|| format!("api: {name} made by h{by}/{number}"));
            self.objects.insert(name, Object { seen: seen.clone(), by: Some((by, number)), cpu });
            self.log(seen, false);
            self.check_limit();
            Answer::Made
        } else {
            self.say(|| format!("api: h{by}/{number} refused, used {} of {:?}", self.used, self.hard));
            Answer::Refused
        };
        if !self.lost() {
            let after = self.delay();
            self.schedule(after, Event::Answer(post, answer));
        }
    }

    /// A quorum GET of the object that a create was to make.
    pub(crate) fn get(&mut self, post: usize) {
        let Some(flight) = self.posts.get(post) else { return };
        if !flight.waiting {
            return;
        }
        let by = (flight.holder, flight.number);
        let proves = self.now >= flight.checked + crate::world::LIVES;
        let found = self.objects.values().any(|object| object.by == Some(by));
        if found || proves {
            let answer = if found { Answer::Made } else { Answer::Absent };
            let after = self.delay();
            self.schedule(after, Event::Answer(post, answer));
            if !self.calm {
                // The answer of the GET may come late; a further one follows.
                self.schedule(20_000, Event::Get(post));
            }
        } else {
            let after = self.rng.between(500, 3_000);
            self.schedule(after, Event::Get(post));
        }
    }

    pub(crate) fn delete(&mut self, name: &str) {
        let Some(object) = self.objects.remove(name) else { return };
        self.say(|| format!("api: {name} deleted"));
        self.log(object.seen, true);
        // The controller recalculates, at times from a cache that lacks what was charged meanwhile.
        let seen = self.counts.len() - 1;
        let after = self.rng.between(2, 200);
        let behind =
            if self.calm || self.rng.chance(60) { seen } else { seen.saturating_sub(self.rng.below(4) as usize) };
        self.schedule(after, Event::Recalculate { seen: behind });
        let later = self.rng.between(200, 3_000);
        self.schedule(later, Event::Recalculate { seen: usize::MAX });
    }

    /// `used` becomes what the controller's cache held: all of it at `usize::MAX`.
    pub(crate) fn recalculate(&mut self, seen: usize) {
        let at = seen.min(self.counts.len() - 1);
        let Some(&(objects, cpu)) = self.counts.get(at) else { return };
        self.say(|| format!("api: used recalculated from {} to {objects}", self.used));
        self.used = objects;
        self.used_cpu = cpu * CPU_COST;
        self.quota_changed();
    }

    pub(crate) fn foreign_create(&mut self) {
        self.clean = false;
        self.used += 1;
        self.quota_changed();
        self.named += 1;
        let name = format!("o{}", self.named);
        let seen = SeenObject { name: name.clone(), credit: None };
        self.say(|| format!("api: {name} made by a stranger"));
        self.objects.insert(name, Object { seen: seen.clone(), by: None, cpu: false });
        self.log(seen, false);
    }

    /// All objects as a list shows them.
    pub(crate) fn snapshot(&self) -> Vec<SeenObject> {
        self.objects.values().map(|object| object.seen.clone()).collect()
    }

    pub(crate) fn quotas_now(&self) -> Vec<QuotaView> {
        self.quota_log.last().cloned().flatten().into_iter().collect()
    }
}

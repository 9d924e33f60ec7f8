//! The holders of the world: each keeps the rules of the protocol, unless the mutant says otherwise.

use std::collections::BTreeSet;
use std::time::Duration;

use jetgate::gate::Reason;
use jetgate::ledger::Holder;
use jetgate::message::HolderId;
use jetgate::wire::{Cost, Grant, Terms};

use crate::api::CPU_COST;
use crate::world::{Answer, Event, HolderSim, LEASE, LIVES, Mutant, Post, World};

const RATIOS: [&str; 4] = ["1", "0.9", "0.7", "0.5"];

impl World {
    pub(crate) fn new_holder(&mut self, like: Option<(&'static str, bool)>) {
        let id = HolderId::new(format!("h{}", self.holders.len()));
        let (ratio, cpu) = like.unwrap_or_else(|| {
            let ratio = if self.rng.chance(50) { "0.7" } else { self.rng.pick(&RATIOS).unwrap() };
            (ratio, self.with_cpu && self.rng.chance(50))
        });
        let mut costs = vec![Cost { resource: self.count.clone(), amount: "1".parse().unwrap() }];
        if cpu {
            costs.push(Cost { resource: self.cpu.clone(), amount: format!("{CPU_COST}m").parse().unwrap() });
        }
        let lives = if self.mutant == Mutant::NoWait { 0 } else { LIVES };
        let terms = Terms {
            namespace: "ns".to_owned(),
            sensor: "s".to_owned(),
            stream: "events".to_owned(),
            quotas: vec!["team".to_owned()],
            ratio: ratio.parse().unwrap(),
            costs,
            created: Some(self.kind.clone()),
            settle_time: Duration::from_secs(2),
            lease: Duration::from_millis(LEASE),
            create_timeout: Duration::from_millis(lives),
        };
        let at = self.holders.len();
        self.say(|| format!("h{at} starts, ratio {ratio}, cpu {cpu}"));
        self.holders.push(HolderSim {
            holder: Holder::new(id, terms),
            alive: true,
            retired: false,
            leaving: false,
            stalled_until: 0,
            cpu,
            ratio,
            want: self.rng.between(1, 5),
            taken: BTreeSet::new(),
        });
        let first = self.rng.between(0, 50);
        self.schedule(first, Event::Heartbeat(at));
        let work = self.rng.between(20, 500);
        self.schedule(work, Event::Work(at));
    }

    /// Puts an event off while the process stands still; true when it was.
    fn put_off(&mut self, holder: usize, event: Event) -> bool {
        let until = self.holders[holder].stalled_until;
        if self.now >= until {
            return false;
        }
        let after = until - self.now + self.rng.between(0, 20);
        self.schedule(after, event);
        true
    }

    pub(crate) fn heartbeat(&mut self, at: usize) {
        if !self.holders[at].alive || self.holders[at].retired || self.put_off(at, Event::Heartbeat(at)) {
            return;
        }
        if self.resting {
            self.holders[at].want = 0;
            self.holders[at].holder.give_back(0);
        }
        if self.filling {
            let sim = &mut self.holders[at];
            sim.want = 100;
            // A quota that refused is tried with one credit, which somebody has to use.
            let held = sim.holder.last_grant().is_some_and(|grant| grant.reason == Some(Reason::QuotaRefused));
            if let Some(number) =
                held.then(|| self.base + Duration::from_millis(self.now)).and_then(|now| sim.holder.take(now))
            {
                self.post(at, number);
            }
        }
        self.send_report(at);
        let sim = &self.holders[at];
        if sim.leaving && sim.holder.is_settled() {
            self.say(|| format!("h{at} has left"));
            self.holders[at].retired = true;
            return;
        }
        self.schedule(LEASE / 3, Event::Heartbeat(at));
    }

    fn send_report(&mut self, at: usize) {
        let late = if self.mutant == Mutant::LateLease { 8_000 } else { 0 };
        let now = self.instant(self.now + late);
        let sim = &mut self.holders[at];
        let report = sim.holder.report(sim.want, now);
        for leader in 0..self.leaders.len() {
            if !self.leaders[leader].acting || self.lost_between(at, leader) {
                continue;
            }
            let copies = if !self.calm && self.rng.chance(4) { 2 } else { 1 };
            for _ in 0..copies {
                let after = self.delay();
                self.schedule(after, Event::Report { leader, report: Box::new(report.clone()) });
            }
        }
    }

    /// A holder with news reports at once, mostly.
    fn news(&mut self, at: usize) {
        let sim = &self.holders[at];
        if sim.alive && !sim.retired && sim.holder.is_dirty() && (self.calm || self.rng.chance(60)) {
            self.send_report(at);
        }
    }

    pub(crate) fn grant_arrives(&mut self, at: usize, grant: Box<Grant>) {
        if !self.holders[at].alive || self.holders[at].retired {
            return;
        }
        if self.now < self.holders[at].stalled_until {
            self.put_off(at, Event::Grant { holder: at, grant });
            return;
        }
        if self.mutant == Mutant::IgnoresRestart && grant.restart {
            return;
        }
        let before = self.holders[at].holder.top();
        let effect = self.holders[at].holder.on_grant(&grant);
        self.say(|| {
            format!(
                "h{at} gets epoch {} seq {} top {} echo {:?}: {effect:?}",
                grant.epoch, grant.seq, grant.top, grant.made_seen
            )
        });
        if self.holders[at].holder.top() < before {
            self.violate("V4: a top fell");
        }
        if effect.restart {
            // What is in hand is resolved under the old numbers; new messages get a new holder.
            self.holders[at].retired = true;
            if self.mutant == Mutant::PostsAgain {
                for id in 0..self.posts.len() {
                    if self.posts[id].holder == at && self.posts[id].waiting && !self.posts[id].flying {
                        self.posts[id].flying = true;
                        self.schedule(50, Event::Commit(id));
                    }
                }
            }
            if !self.holders[at].leaving {
                let like = (self.holders[at].ratio, self.holders[at].cpu);
                self.new_holder(Some(like));
            }
            return;
        }
        self.news(at);
    }

    pub(crate) fn work(&mut self, at: usize) {
        if !self.holders[at].alive || self.holders[at].retired || self.put_off(at, Event::Work(at)) {
            return;
        }
        if self.working && !self.holders[at].leaving {
            let now = if self.mutant == Mutant::PostsAfterLease {
                // The check believes in an earlier time.
                self.instant(self.now.saturating_sub(30_000))
            } else {
                self.present()
            };
            self.holders[at].want = self.rng.below(5);
            match self.rng.below(10) {
                0 => {
                    let keep = self.rng.below(2);
                    self.holders[at].holder.give_back(keep);
                }
                1 => {
                    if let Some(number) = self.holders[at].holder.take(now) {
                        self.holders[at].holder.unuse(number);
                    }
                }
                _ => {
                    for _ in 0..self.rng.between(1, 3) {
                        let Some(number) = self.holders[at].holder.take(now) else { break };
                        self.post(at, number);
                    }
                }
            }
            self.news(at);
        }
        let after = self.rng.between(100, 3_000);
        if self.working {
            self.schedule(after, Event::Work(at));
        }
    }

    fn post(&mut self, at: usize, number: u64) {
        if !self.holders[at].taken.insert(number) {
            self.violate(format!("V4: h{at}/{number} serves a second message"));
        }
        let id = self.posts.len();
        let mut post = Post { holder: at, number, checked: self.now, flying: true, waiting: true };
        let longest = if self.mutant == Mutant::SlowPost { 2 * LIVES } else { LIVES };
        let lands = match self.rng.below(10) {
            _ if self.calm => self.rng.between(1, 20),
            0 => self.rng.between(longest * 9 / 10, longest),
            1 | 2 => self.rng.between(50, longest),
            _ => self.rng.between(1, 80),
        };
        self.say(|| format!("h{at} posts {number}, lands in {lands} ms"));
        if !self.calm && self.rng.chance(4) {
            self.say(|| format!("h{at}/{number} is lost on its way"));
            post.flying = false;
        } else {
            self.schedule(lands, Event::Commit(id));
        }
        self.posts.push(post);
        if self.mutant == Mutant::ReturnsUnanswered {
            self.schedule(2_000, Event::Answer(id, Answer::Absent));
        }
        let ask = LIVES / 2 + self.rng.between(0, LIVES);
        self.schedule(ask, Event::Get(id));
    }

    pub(crate) fn answered(&mut self, post: usize, answer: Answer) {
        let Some(flight) = self.posts.get(post) else { return };
        let (at, number) = (flight.holder, flight.number);
        if !flight.waiting || !self.holders[at].alive || self.put_off(at, Event::Answer(post, answer)) {
            return;
        }
        self.say(|| format!("h{at}/{number}: {answer:?}"));
        if let Some(flight) = self.posts.get_mut(post) {
            flight.waiting = false;
        }
        let holder = &mut self.holders[at].holder;
        match answer {
            Answer::Made => holder.made(number),
            Answer::Absent => holder.returned(number),
            Answer::Refused => {
                holder.refused("team");
                holder.returned(number);
            }
        }
        self.news(at);
    }
}

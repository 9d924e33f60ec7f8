//! What happens to the world from outside, and how a schedule comes to rest.

use crate::world::{Event, LEASE, LIVES, Mutant, World};

impl World {
    /// One schedule: some chaos, then rest, then want everywhere.
    pub(crate) fn play(&mut self) {
        self.quota_changed();
        self.adopt();
        for _ in 0..self.rng.between(1, 3) {
            self.new_holder(None);
        }
        if self.rng.chance(30) {
            self.new_holder(None);
        }
        let first = self.rng.between(200, 2_000);
        self.schedule(first, Event::Chaos);
        let end = self.rng.between(5_000, 40_000);
        self.run_until(end);
        if self.violation.is_some() {
            return;
        }
        self.come_to_rest();
        // The dead need L, P and a list; a create the same before its GET; what no watch shows needs a list.
        self.run_until(self.now + 2 * (LEASE + LIVES) + 25_000);
        if self.violation.is_some() {
            return;
        }
        self.check_rest();
        self.resting = false;
        self.filling = true;
        self.run_until(self.now + 16_000);
        if self.violation.is_none() {
            self.check_full();
        }
    }

    fn come_to_rest(&mut self) {
        self.say(|| "no faults any more".to_owned());
        self.calm = true;
        self.working = false;
        self.resting = true;
        for sim in &mut self.holders {
            sim.stalled_until = 0;
        }
        let last = self.leaders.len().saturating_sub(1);
        for older in 0..last {
            self.leader_ends(older);
        }
        if self.current().is_none() {
            self.schedule(10, Event::Adopt);
        }
        if self.hard.is_none() {
            self.hard = Some(3);
        }
        self.quota_changed();
        self.schedule(50, Event::Recalculate { seen: usize::MAX });
        self.schedule(30_000, Event::Recalculate { seen: usize::MAX });
    }

    /// One thing that nobody asked for.
    pub(crate) fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let after = self.rng.between(50, 3_000);
        self.schedule(after, Event::Chaos);
        match self.rng.below(100) {
            0..35 => {
                let at = self.rng.below(self.objects.len() as u64) as usize;
                if let Some(name) = self.objects.keys().nth(at).cloned() {
                    self.delete(&name);
                }
            }
            35..41 => self.foreign(),
            41..47 => self.edit_hard(),
            47..53 => {
                if let Some(at) = self.some_holder() {
                    self.say(|| format!("h{at} dies"));
                    self.holders[at].alive = false;
                    if self.rng.chance(60) {
                        let like = (self.holders[at].ratio, self.holders[at].cpu);
                        self.new_holder(Some(like));
                    }
                }
            }
            53..63 => {
                if let Some(at) = self.some_holder() {
                    let long = self.rng.between(500, 2 * (LEASE + LIVES));
                    self.say(|| format!("h{at} stands still for {long} ms"));
                    self.holders[at].stalled_until = self.now + long;
                }
            }
            63..67 => {
                if let Some(at) = self.some_holder().filter(|at| self.now >= self.holders[*at].stalled_until) {
                    self.say(|| format!("h{at} leaves"));
                    self.holders[at].leaving = true;
                    self.holders[at].holder.leave();
                }
            }
            67..71 => {
                if self.holders.len() < 8 {
                    self.new_holder(None);
                }
            }
            71..84 if self.mutant == Mutant::OldLeaderLives && self.leaders.len() > 1 => {}
            71..80 => {
                self.adopt();
                self.some_hear_the_old_one();
            }
            80..84 => {
                if let Some(at) = self.current() {
                    self.leader_ends(at);
                    let after = self.rng.between(500, LEASE + LIVES);
                    self.schedule(after, Event::Adopt);
                }
            }
            84..92 => {
                if let Some(at) = self.current() {
                    self.say(|| format!("leader {at} loses its watch"));
                    self.leaders[at].watching = false;
                    let after = self.rng.between(10, 6_000);
                    self.schedule(after, Event::Relist(at));
                }
            }
            92..96 => {
                let newest = self.leaders.len() - 1;
                if let Some(at) = self.some_holder() {
                    let until = self.now + self.rng.between(1_000, 2 * (LEASE + LIVES));
                    self.say(|| format!("h{at} and leader {newest} do not hear each other until {until}"));
                    self.cuts.push((at, newest, until));
                }
            }
            _ => {
                let at = self.counts.len() - 1;
                let behind = at.saturating_sub(self.rng.below(5) as usize);
                self.recalculate(behind);
            }
        }
    }

    fn some_holder(&mut self) -> Option<usize> {
        let living: Vec<usize> =
            (0..self.holders.len()).filter(|at| self.holders[*at].alive && !self.holders[*at].retired).collect();
        self.rng.pick(&living)
    }

    fn foreign(&mut self) {
        // Most schedules have no stranger, so that the count can be held to account.
        if self.clean && self.rng.chance(75) {
            return;
        }
        self.foreign_create();
    }

    fn edit_hard(&mut self) {
        match self.rng.below(10) {
            0..5 => {
                if let Some(hard) = self.hard {
                    self.hard = Some(hard + self.rng.between(1, 3));
                }
            }
            5..8 if !self.clean || self.rng.chance(30) => {
                self.clean = false;
                self.hard = self.hard.map(|hard| hard.saturating_sub(self.rng.between(1, 3)));
            }
            8..10 if !self.clean || self.rng.chance(30) => {
                self.clean = false;
                self.hard = if self.hard.is_none() { Some(self.rng.between(0, 6)) } else { None };
            }
            _ => return,
        }
        self.say(|| format!("hard is {:?}", self.hard));
        self.quota_changed();
    }
}

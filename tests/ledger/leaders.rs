//! The leaders of the world: the shell around each ledger, with its watches, lists and books.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jetgate::gate::{Quantity, QuotaView};
use jetgate::ledger::{Action, Ledger, LedgerOptions, Phase, QuotaUpdate, SeenObject};
use jetgate::wire::{Books, Report};

use crate::world::{Event, LEASE, LIVES, LeaderSim, Mutant, World};

impl World {
    /// A new leader writes its epoch into the books and reads them. Its predecessor does not know.
    pub(crate) fn adopt(&mut self) {
        self.epoch += self.rng.between(1, 3);
        self.books.epoch = self.epoch;
        self.books.write += 1;
        self.revision += 1;
        let books = if self.mutant == Mutant::SkipsBooks { Books::empty() } else { self.books.clone() };
        let at = self.leaders.len();
        self.say(|| format!("leader {at} adopts, epoch {}: {:?}", self.epoch, brief(&books)));
        for older in 0..at {
            if self.leaders[older].acting && self.mutant != Mutant::OldLeaderLives {
                // It stops by its own renewal clock, within P of the successor's start.
                let after = if self.calm { 1 } else { self.rng.between(1, LIVES - 1) };
                self.schedule(after, Event::LeaderEnds(older));
            }
        }
        let tops = books.holders.iter().map(|(id, book)| (id.clone(), book.top)).collect();
        let options = LedgerOptions { live_side: self.mutant != Mutant::IgnoresLive, ..LedgerOptions::default() };
        let ledger = Ledger::adopt("ns", self.epoch, books, options, self.present());
        self.leaders.push(LeaderSim {
            ledger,
            acting: true,
            revision: self.revision,
            watching: false,
            position: 0,
            listed: 0,
            quota_position: 0,
            writing: false,
            reading: None,
            listing: false,
            checking: false,
            next_tick: None,
            tops,
            told: BTreeSet::new(),
            told_version: 0,
            heard: BTreeMap::new(),
        });
        let after = self.delay();
        self.schedule(after, Event::Relist(at));
        let after = self.delay();
        self.quotas_asked(at, after, false);
        self.schedule(5_000, Event::Bookmark(at));
        self.act(at);
    }

    /// Some holders do not hear the newest leader for a while: only its predecessor.
    pub(crate) fn some_hear_the_old_one(&mut self) {
        let newest = self.leaders.len() - 1;
        for at in 0..self.holders.len() {
            let forever = self.mutant == Mutant::OldLeaderLives;
            if forever || self.rng.chance(20) {
                let long = if forever { 60_000 } else { self.rng.between(1_000, LEASE + 2 * LIVES) };
                let until = self.now + long;
                self.cuts.push((at, newest, until));
            }
        }
    }

    pub(crate) fn leader_ends(&mut self, at: usize) {
        if self.leaders[at].acting {
            self.say(|| format!("leader {at} ends"));
            self.leaders[at].acting = false;
        }
    }

    /// The leader that the books know.
    pub(crate) fn current(&self) -> Option<usize> {
        let last = self.leaders.len().checked_sub(1)?;
        self.leaders[last].acting.then_some(last)
    }

    fn quotas_asked(&mut self, at: usize, after: u64, asked: bool) {
        // The list is of the moment it lands; it began earlier.
        let began = self.now;
        let views = if asked && self.lost() { None } else { Some(self.quotas_now()) };
        let views = views.map(|views| views.into_iter().map(|view| self.distorted(view)).collect());
        self.schedule(after, Event::QuotasDone { leader: at, began, views, asked });
    }

    /// A reading as the mutants take it.
    fn distorted(&self, mut view: QuotaView) -> QuotaView {
        for (mutant, resource) in [(Mutant::IgnoresUsed, &self.count), (Mutant::IgnoresUsedCpu, &self.cpu)] {
            if let Some(used) = view.used.get_mut(resource).filter(|_| self.mutant == mutant) {
                *used = Quantity::ZERO;
            }
        }
        view
    }

    pub(crate) fn quotas_read(&mut self, at: usize, began: u64, views: Option<Vec<QuotaView>>, asked: bool) {
        if !self.leaders[at].acting {
            return;
        }
        let (began, now) = (self.instant(began), self.present());
        let leader = &mut self.leaders[at];
        if leader.reading.is_some_and(|at| began >= self.base + Duration::from_millis(at)) {
            leader.reading = None;
        }
        if asked && views.is_none() {
            leader.reading = None;
        }
        match views {
            Some(views) => leader.ledger.quotas_listed(views, began, now),
            None => leader.ledger.quotas_read_failed(now),
        }
        self.act(at);
    }

    /// A list that begins a watch, or renews it after a gap.
    pub(crate) fn relist(&mut self, at: usize) {
        if !self.leaders[at].acting || self.leaders[at].listing {
            return;
        }
        let first = !self.leaders[at].watching && self.leaders[at].listed == 0 && self.leaders[at].position == 0;
        self.leaders[at].watching = false;
        self.leaders[at].listing = true;
        let upto = self.log.len();
        // A record tells a new leader where to watch on from; a gap has no such place.
        let from =
            if first && self.rng.chance(60) { upto - self.rng.below(upto.min(8) as u64 + 1) as usize } else { upto };
        let objects = self.snapshot();
        self.say(|| format!("leader {at} lists {} objects, watches on from {from} of {upto}", objects.len()));
        let after = self.delay();
        self.schedule(after, Event::ListDone { leader: at, began: self.now, upto, from, objects });
    }

    pub(crate) fn listed(&mut self, at: usize, began: u64, upto: usize, from: usize, objects: &[SeenObject]) {
        let (began, now, kind) = (self.instant(began), self.present(), self.kind.clone());
        let leader = &mut self.leaders[at];
        if !leader.acting {
            return;
        }
        leader.watching = true;
        leader.listing = false;
        leader.listed = upto;
        leader.position = from;
        leader.told = objects.iter().map(|object| object.name.clone()).collect();
        leader.ledger.objects_listed(&kind, objects, began, now);
        self.act(at);
        let after = self.delay();
        self.schedule(after, Event::Pump(at));
    }

    /// The object watch delivers what it has.
    pub(crate) fn pump(&mut self, at: usize) {
        if !self.leaders[at].acting || !self.leaders[at].watching {
            return;
        }
        let (now, kind) = (self.present(), self.kind.clone());
        let leader = &mut self.leaders[at];
        // At times only a part of it.
        let all = self.log.len();
        let upto = if self.calm || self.rng.chance(80) {
            all
        } else {
            leader.position + self.rng.below((all - leader.position) as u64 + 1) as usize
        };
        // What is decided on one event is looked at before the next one.
        for index in leader.position..upto {
            let (leader, Some(entry)) = (&mut self.leaders[at], self.log.get(index)) else { break };
            if index < leader.listed {
                leader.ledger.object_replayed(&entry.object, now);
            } else if entry.deleted {
                leader.told.remove(&entry.object.name);
                leader.ledger.object_deleted(&kind, &entry.object, now);
            } else {
                leader.told.insert(entry.object.name.clone());
                leader.ledger.object_applied(&kind, &entry.object, now);
            }
            leader.position = index + 1;
            self.act(at);
        }
        if upto < all {
            let after = self.delay();
            self.schedule(after, Event::Pump(at));
        }
        self.act(at);
    }

    pub(crate) fn quota_pump(&mut self, at: usize) {
        if !self.leaders[at].acting {
            return;
        }
        let now = self.present();
        while let Some(view) = self.quota_log.get(self.leaders[at].quota_position).cloned() {
            let view = view.map(|view| self.distorted(view));
            let leader = &mut self.leaders[at];
            leader.quota_position += 1;
            leader.told_version = view.as_ref().map_or(0, |view| leader.told_version.max(view.resource_version));
            let ignored = self.mutant == Mutant::IgnoresNews && leader.ledger.quotas().contains_key("team");
            match view {
                Some(_) if ignored => leader.ledger.quota_watch_alive(now),
                Some(view) => leader.ledger.quota(QuotaUpdate::Applied(view), now),
                None => leader.ledger.quota(QuotaUpdate::Deleted("team".to_owned()), now),
            }
            self.act(at);
        }
    }

    pub(crate) fn bookmark(&mut self, at: usize) {
        if !self.leaders[at].acting {
            return;
        }
        if self.calm || self.rng.chance(85) {
            self.pump(at);
            self.quota_pump(at);
            let (now, kind) = (self.present(), self.kind.clone());
            let leader = &mut self.leaders[at];
            if leader.watching {
                leader.ledger.object_watch_alive(&kind, now);
            }
            leader.ledger.quota_watch_alive(now);
            self.act(at);
        }
        self.schedule(5_000, Event::Bookmark(at));
    }

    pub(crate) fn report_arrives(&mut self, at: usize, report: &Report) {
        if !self.leaders[at].acting {
            return;
        }
        self.say(|| {
            let Report { holder, seq, epoch, top, open, made, want, leaving, .. } = report;
            format!("leader {at} hears {holder} seq {seq} epoch {epoch} top {top} open {open:?} made {made:?} want {want} leaving {leaving}")
        });
        let now = self.present();
        let leader = &mut self.leaders[at];
        let phase = leader.ledger.holders().find(|(id, _, _)| **id == report.holder).map(|(_, phase, _)| phase);
        let newest = leader.heard.get(&report.holder).is_none_or(|heard| heard.seq < report.seq);
        let taken = match phase {
            // Met for the first time, or forgotten since.
            None => true,
            Some(Phase::Dead { .. }) => false,
            Some(Phase::Alive { .. } | Phase::Adopted { .. }) => newest,
        };
        if taken {
            leader.heard.insert(report.holder.clone(), report.clone());
        }
        leader.ledger.report(report, now);
        self.act(at);
    }

    pub(crate) fn checked(&mut self, at: usize, began: u64, objects: Option<Vec<SeenObject>>) {
        let (began, now, kind) = (self.instant(began), self.present(), self.kind.clone());
        let leader = &mut self.leaders[at];
        leader.checking = false;
        if !leader.acting {
            return;
        }
        match objects {
            Some(objects) => leader.ledger.objects_checked(&kind, &objects, began, now),
            None => leader.ledger.objects_check_failed(&kind, now),
        }
        self.act(at);
    }

    pub(crate) fn books_land(&mut self, at: usize, books: Books) {
        let written = self.leaders[at].revision == self.revision;
        if written {
            self.revision += 1;
            self.leaders[at].revision = self.revision;
            self.books = books;
        }
        self.say(|| format!("books of leader {at}: written {written} {:?}", brief(&self.books)));
        let after = self.delay();
        self.schedule(after, Event::BooksDone { leader: at, written });
    }

    pub(crate) fn books_done(&mut self, at: usize, written: bool) {
        if !self.leaders[at].acting {
            return;
        }
        let now = self.present();
        let leader = &mut self.leaders[at];
        leader.writing = false;
        if !written {
            if self.mutant != Mutant::OldLeaderLives {
                self.leader_ends(at);
            }
            return;
        }
        if self.mutant != Mutant::GrantsUnconfirmed {
            leader.ledger.books_written(now);
        }
        self.act(at);
    }

    pub(crate) fn tick(&mut self, at: usize) {
        if !self.leaders[at].acting || self.leaders[at].next_tick != Some(self.now) {
            return;
        }
        let now = self.present();
        let leader = &mut self.leaders[at];
        leader.next_tick = None;
        leader.ledger.tick(now);
        if leader.ledger.deadline(now).is_some_and(|due| due <= now) {
            self.violate("no spin: the deadline stays where it was");
        }
        self.act(at);
    }

    /// Does what the ledger asks for.
    pub(crate) fn act(&mut self, at: usize) {
        loop {
            let actions = self.leaders[at].ledger.drain();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.perform(at, action);
            }
        }
        let now = self.present();
        if let Some(due) = self.leaders[at].ledger.deadline(now) {
            // Rounded up to the clock of this world.
            let millis = u64::try_from((due - self.base).as_nanos().div_ceil(1_000_000)).unwrap();
            let next = self.leaders[at].next_tick;
            if next.is_none_or(|next| next > millis || next < self.now) {
                self.leaders[at].next_tick = Some(millis);
                self.schedule(millis.saturating_sub(self.now), Event::Tick(at));
            }
        }
    }

    fn perform(&mut self, at: usize, action: Action) {
        {
            match action {
                Action::WriteBooks(books) => {
                    if self.leaders[at].writing && self.mutant != Mutant::GrantsUnconfirmed {
                        self.violate("the books are written twice at once");
                    }
                    self.check_grants(at, &books);
                    self.leaders[at].writing = true;
                    if self.mutant == Mutant::GrantsUnconfirmed {
                        let now = self.present();
                        self.leaders[at].ledger.books_written(now);
                    }
                    let after = self.delay();
                    self.schedule(after, Event::BooksLand { leader: at, books: Box::new(books) });
                }
                Action::Send(grant) => {
                    let Some(holder) = self.holders.iter().position(|sim| *sim.id() == grant.holder) else {
                        self.violate("a grant for nobody");
                        return;
                    };
                    if self.lost_between(holder, at) {
                        return;
                    }
                    let copies = if !self.calm && self.rng.chance(4) { 2 } else { 1 };
                    for _ in 0..copies {
                        let after = self.delay();
                        self.schedule(after, Event::Grant { holder, grant: Box::new(grant.clone()) });
                    }
                }
                Action::ReadQuotas => {
                    if self.leaders[at].reading.is_some() {
                        self.violate("the quotas are read twice at once");
                    }
                    self.leaders[at].reading = Some(self.now);
                    let after = self.delay();
                    self.quotas_asked(at, after, true);
                }
                Action::CheckObjects(_) => {
                    if self.leaders[at].checking {
                        self.violate("the objects are listed twice at once");
                    }
                    self.leaders[at].checking = true;
                    let objects = if self.lost() { None } else { Some(self.snapshot()) };
                    let after = self.delay();
                    self.say(|| format!("leader {at} checks the objects"));
                    self.schedule(after, Event::CheckDone { leader: at, began: self.now, objects });
                }
            }
        }
    }
}

pub(crate) fn brief(books: &Books) -> BTreeMap<String, (u64, String)> {
    books.holders.iter().map(|(id, book)| (id.to_string(), (book.top, format!("{:?}", book.out)))).collect()
}

//! The world of one schedule: its parts, its clock and its queue of events. Nothing here is real: an instant is a
//! number of milliseconds, and what happens next is drawn from the seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use jetgate::gate::{Counted, QuotaView, ResourceName};
use jetgate::ledger::{Holder, Ledger, SeenObject};
use jetgate::message::HolderId;
use jetgate::wire::{Books, Grant, Report};

use crate::rng::Rng;

/// L and P of every holder here, in milliseconds.
pub(crate) const LEASE: u64 = 10_000;
pub(crate) const LIVES: u64 = 10_000;

/// A world that breaks one rule of the protocol, to show that the invariants notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// All rules are kept.
    None,
    /// A holder goes on posting after its lease.
    PostsAfterLease,
    /// A create lives up to 2 P.
    SlowPost,
    /// A new leader begins with empty books.
    SkipsBooks,
    /// A dead holder's creates are settled by a list at once, without the wait of P.
    NoWait,
    /// A leader sends grants before its books are confirmed.
    GrantsUnconfirmed,
    /// A holder returns a number whose create was not answered.
    ReturnsUnanswered,
    /// A holder's lease starts later than its report.
    LateLease,
    /// A deposed leader goes on answering for as long as nobody tells it.
    OldLeaderLives,
    /// A holder that was taken for dead posts once more what it had in hand.
    PostsAgain,
    /// What is taken for dead and comes back goes on under its old id.
    IgnoresRestart,
    /// A leader takes the objects for unused, whatever the quota says.
    IgnoresUsed,
    /// The same for cpu.
    IgnoresUsedCpu,
    /// A leader believes `used` alone.
    IgnoresLive,
    /// A leader takes no notice of what the quota's watch tells, once it has read it.
    IgnoresNews,
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    Heartbeat(usize),
    Report { leader: usize, report: Box<Report> },
    Grant { holder: usize, grant: Box<Grant> },
    Work(usize),
    Commit(usize),
    Answer(usize, Answer),
    Get(usize),
    Pump(usize),
    QuotaPump(usize),
    Bookmark(usize),
    Relist(usize),
    ListDone { leader: usize, began: u64, upto: usize, from: usize, objects: Vec<SeenObject> },
    CheckDone { leader: usize, began: u64, objects: Option<Vec<SeenObject>> },
    QuotasDone { leader: usize, began: u64, views: Option<Vec<QuotaView>>, asked: bool },
    BooksLand { leader: usize, books: Box<Books> },
    BooksDone { leader: usize, written: bool },
    Tick(usize),
    Recalculate { seen: usize },
    Adopt,
    LeaderEnds(usize),
    Chaos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Made,
    Refused,
    Absent,
}

struct Queued {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One create.
pub(crate) struct Post {
    pub(crate) holder: usize,
    pub(crate) number: u64,
    pub(crate) checked: u64,
    /// It may still land.
    pub(crate) flying: bool,
    /// The holder has no answer yet.
    pub(crate) waiting: bool,
}

pub(crate) struct HolderSim {
    pub(crate) holder: Holder,
    /// The process lives.
    pub(crate) alive: bool,
    /// It took a new id, or left: this id is history.
    pub(crate) retired: bool,
    pub(crate) leaving: bool,
    pub(crate) stalled_until: u64,
    pub(crate) cpu: bool,
    /// hard x ratio is per holder.
    pub(crate) ratio: &'static str,
    pub(crate) want: u64,
    /// Every number that was ever put on a message.
    pub(crate) taken: BTreeSet<u64>,
}

impl HolderSim {
    pub(crate) const fn id(&self) -> &HolderId {
        self.holder.id()
    }
}

pub(crate) struct LeaderSim {
    pub(crate) ledger: Ledger,
    pub(crate) acting: bool,
    pub(crate) revision: u64,
    pub(crate) watching: bool,
    /// What of the object log it was told.
    pub(crate) position: usize,
    /// Entries before this one are history that the list knows already.
    pub(crate) listed: usize,
    pub(crate) quota_position: usize,
    pub(crate) writing: bool,
    pub(crate) reading: Option<u64>,
    pub(crate) listing: bool,
    pub(crate) checking: bool,
    pub(crate) next_tick: Option<u64>,
    pub(crate) tops: BTreeMap<HolderId, u64>,
    /// The objects that it was told of, and not told to be gone.
    pub(crate) told: BTreeSet<String>,
    /// The newest version of the quota that an event told it.
    pub(crate) told_version: u64,
    /// The newest report of each holder that it took.
    pub(crate) heard: BTreeMap<HolderId, Report>,
}

pub(crate) struct Logged {
    pub(crate) object: SeenObject,
    pub(crate) deleted: bool,
}

pub(crate) struct Object {
    pub(crate) seen: SeenObject,
    /// Whose number made it.
    pub(crate) by: Option<(usize, u64)>,
    pub(crate) cpu: bool,
}

/// What went wrong, in words.
pub(crate) type Violation = String;

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) mutant: Mutant,
    pub(crate) trace: bool,
    pub(crate) base: Instant,
    pub(crate) now: u64,
    pub(crate) steps: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    pub(crate) calm: bool,
    /// Working holders put messages on numbers; at rest they do not.
    pub(crate) working: bool,
    /// At rest everything is given back; then everybody wants.
    pub(crate) resting: bool,
    pub(crate) filling: bool,

    pub(crate) kind: Counted,
    pub(crate) count: ResourceName,
    pub(crate) cpu: ResourceName,
    pub(crate) with_cpu: bool,
    pub(crate) objects: BTreeMap<String, Object>,
    pub(crate) log: Vec<Logged>,
    /// How many objects, and how many with cpu, existed after each entry of the log.
    pub(crate) counts: Vec<(u64, u64)>,
    pub(crate) quota_log: Vec<Option<QuotaView>>,
    pub(crate) hard: Option<u64>,
    pub(crate) used: u64,
    pub(crate) used_cpu: u64,
    /// No foreign writer, no lowered hard: the count must hold exactly.
    pub(crate) clean: bool,
    pub(crate) named: u64,

    pub(crate) books: Books,
    pub(crate) revision: u64,
    pub(crate) epoch: u64,
    pub(crate) leaders: Vec<LeaderSim>,
    pub(crate) holders: Vec<HolderSim>,
    pub(crate) posts: Vec<Post>,
    /// Holder and leader that do not hear each other, until when.
    pub(crate) cuts: Vec<(usize, usize, u64)>,
    pub(crate) violation: Option<Violation>,
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Mutant, trace: bool, base: Instant) -> Self {
        let mut rng = Rng::new(seed);
        let hard = rng.between(1, 8);
        let with_cpu = rng.chance(20);
        Self {
            rng,
            mutant,
            trace,
            base,
            now: 0,
            steps: 0,
            queue: BinaryHeap::new(),
            order: 0,
            calm: false,
            working: true,
            resting: false,
            filling: false,
            kind: Counted { plural: "widgets".to_owned(), group: "example.com".to_owned() },
            count: ResourceName::new("count/widgets.example.com").unwrap(),
            cpu: ResourceName::new("requests.cpu").unwrap(),
            with_cpu,
            objects: BTreeMap::new(),
            log: Vec::new(),
            counts: vec![(0, 0)],
            quota_log: Vec::new(),
            hard: Some(hard),
            used: 0,
            used_cpu: 0,
            clean: true,
            named: 0,
            books: Books::empty(),
            revision: 0,
            epoch: 0,
            leaders: Vec::new(),
            holders: Vec::new(),
            posts: Vec::new(),
            cuts: Vec::new(),
            violation: None,
        }
    }

    pub(crate) fn instant(&self, at: u64) -> Instant {
        self.base + Duration::from_millis(at)
    }

    pub(crate) fn present(&self) -> Instant {
        self.instant(self.now)
    }

    pub(crate) fn schedule(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Queued { at: self.now + after, order: self.order, event }));
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>7} ms  {}", self.now, what());
        }
    }

    pub(crate) fn violate(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.say(|| format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    /// How long a message or an answer takes: mostly short, at times long.
    pub(crate) fn delay(&mut self) -> u64 {
        if self.calm {
            return self.rng.between(1, 5);
        }
        match self.rng.below(20) {
            0 => self.rng.between(1_000, 12_000),
            1..=3 => self.rng.between(100, 1_500),
            _ => self.rng.between(1, 60),
        }
    }

    /// Whether a message between these two is lost.
    pub(crate) fn lost_between(&mut self, holder: usize, leader: usize) -> bool {
        let now = self.now;
        let cut = !self.calm && self.cuts.iter().any(|cut| (cut.0, cut.1) == (holder, leader) && now < cut.2);
        cut || self.lost()
    }

    pub(crate) fn lost(&mut self) -> bool {
        !self.calm && self.rng.chance(8)
    }

    /// Runs until `end`, or until an invariant is broken.
    pub(crate) fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            match self.queue.peek() {
                Some(Reverse(next)) if next.at <= end => {}
                Some(_) | None => break,
            }
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now = next.at;
            self.steps += 1;
            if self.steps > 20_000 {
                self.violate("V5: the schedule does not end");
                return;
            }
            self.happen(next.event);
            self.check();
        }
        self.now = end.max(self.now);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Heartbeat(holder) => self.heartbeat(holder),
            Event::Report { leader, report } => self.report_arrives(leader, &report),
            Event::Grant { holder, grant } => self.grant_arrives(holder, grant),
            Event::Work(holder) => self.work(holder),
            Event::Commit(post) => self.commit(post),
            Event::Answer(post, answer) => self.answered(post, answer),
            Event::Get(post) => self.get(post),
            Event::Pump(leader) => self.pump(leader),
            Event::QuotaPump(leader) => self.quota_pump(leader),
            Event::Bookmark(leader) => self.bookmark(leader),
            Event::Relist(leader) => self.relist(leader),
            Event::ListDone { leader, began, upto, from, objects } => self.listed(leader, began, upto, from, &objects),
            Event::CheckDone { leader, began, objects } => self.checked(leader, began, objects),
            Event::QuotasDone { leader, began, views, asked } => self.quotas_read(leader, began, views, asked),
            Event::BooksLand { leader, books } => self.books_land(leader, *books),
            Event::BooksDone { leader, written } => self.books_done(leader, written),
            Event::Tick(leader) => self.tick(leader),
            Event::Recalculate { seen } => self.recalculate(seen),
            Event::Adopt => self.adopt(),
            Event::LeaderEnds(leader) => self.leader_ends(leader),
            Event::Chaos => self.chaos(),
        }
    }
}

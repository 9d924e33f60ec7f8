//! The leader's account of one holder.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::gate::{Blocked, Bound, Counted, Quantity, Reason, ResourceName};
use crate::ledger::election::LeaseTimes;
use crate::wire::{Book, NumberSet, Report, Terms};

/// Made numbers that were reported within this time of each other are kept as one batch with the later time, which
/// keeps the number of batches small where reports come by the thousand.
const BATCH: Duration = Duration::from_millis(5);

/// Where a holder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Found in the books by a new leader and not heard yet.
    Adopted {
        /// When the books were read.
        since: Instant,
    },
    /// Heard of.
    Alive {
        /// When its newest report came.
        heard: Instant,
    },
    /// Silent for its lease: never granted anything again. Its creates may still be under way until `safe`.
    Dead {
        /// From when on a list proves what came of its creates.
        safe: Instant,
    },
}

/// One cost of the holder's terms, with what follows from it and from the quotas as last read.
#[derive(Debug, Clone)]
pub(super) struct Priced {
    pub(super) resource: ResourceName,
    pub(super) amount: Quantity,
    /// The kind whose objects the resource counts.
    pub(super) counted: Option<Counted>,
    /// Whether the holder's effects are those objects.
    pub(super) own: bool,
    pub(super) bounds: Result<Vec<Bound>, Blocked>,
}

/// Numbers that were reported as made at about the same time.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    first: Instant,
    /// When the last of them was reported.
    pub(super) at: Instant,
    pub(super) numbers: NumberSet,
}

/// What the leader knows of one holder's numbers.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) terms: Terms,
    pub(super) prices: Vec<Priced>,
    pub(super) phase: Phase,
    /// When this leader read the books, until the holder follows it: until then the predecessor may have renewed the
    /// holder's lease.
    pub(super) adopted: Option<Instant>,
    /// Found in the books, and not following this leader yet: until then the predecessor may have echoed numbers
    /// that this leader has not seen.
    inherited: bool,
    pub(super) seq: u64,
    /// The top that the newest report knew.
    pub(super) reported_top: u64,
    /// The top that the books have confirmed: the only one that is ever sent.
    pub(super) top: u64,
    /// The top in the write of the books that is under way, else equal to `top`.
    pub(super) next_top: u64,
    /// Reported as unused or without a definite answer.
    pub(super) open: NumberSet,
    /// Reported as answered, oldest first; until counted out on every side.
    pub(super) made: VecDeque<Batch>,
    /// Those of `made` that the holder never called so: they vanished while it followed another leader.
    pub(super) doubted: NumberSet,
    /// Numbers that are out, and whose object was seen or found absent by a list: they left the live side.
    pub(super) seen: NumberSet,
    /// Made numbers that left every side, to be echoed until the holder stops reporting them.
    pub(super) settled: NumberSet,
    pub(super) want: u64,
    pub(super) refusals: u64,
    pub(super) leaving: bool,
    /// A grant is to be sent.
    pub(super) owed: bool,
    /// What the last grant said, to send another when it changes.
    pub(super) told: Option<(Option<Reason>, bool)>,
    /// When it was last given a number, in distributions: who waits longest is served first.
    pub(super) served: u64,
    /// Something changed that may settle a made number.
    pub(super) unsettled: bool,
    /// When time alone changes what is to be done about the made numbers.
    pub(super) due: Option<Instant>,
    /// From when on all that is left of a dead holder can be settled by a list, or is.
    pub(super) over_at: Option<Instant>,
    /// How many numbers have no answer.
    pub(super) unanswered: u64,
    /// How many numbers are out and not seen.
    pub(super) unseen: u64,
}

impl Account {
    pub(super) const fn new(terms: Terms, prices: Vec<Priced>, now: Instant) -> Self {
        Self {
            terms,
            prices,
            phase: Phase::Alive { heard: now },
            adopted: None,
            inherited: false,
            seq: 0,
            reported_top: 0,
            top: 0,
            next_top: 0,
            open: NumberSet::new(),
            made: VecDeque::new(),
            doubted: NumberSet::new(),
            seen: NumberSet::new(),
            settled: NumberSet::new(),
            want: 0,
            refusals: 0,
            leaving: false,
            owed: false,
            told: None,
            served: 0,
            unsettled: false,
            due: None,
            over_at: None,
            unanswered: 0,
            unseen: 0,
        }
    }

    /// A holder that the predecessor's books name: all that they call out counts until it reports or is dead.
    pub(super) fn adopted(book: Book, prices: Vec<Priced>, now: Instant) -> Self {
        let mut account = Self::new(book.terms, prices, now);
        account.phase = Phase::Adopted { since: now };
        account.adopted = Some(now);
        account.inherited = true;
        account.reported_top = book.top;
        account.top = book.top;
        account.next_top = book.top;
        account.open = book.out;
        account.recount();
        account
    }

    pub(super) const fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Alive { heard: _ })
    }

    pub(super) const fn is_alive_or_adopted(&self) -> bool {
        !matches!(self.phase, Phase::Dead { safe: _ })
    }

    /// When the holder is to be taken for dead, unless it is already.
    ///
    /// An adopted holder gets P more, and no less than the old leader may lead on, for as long as it does not follow
    /// this leader: its lease may be as young as the old leader's last breath.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        let more = self.terms.create_timeout.max(LeaseTimes::DEFAULT.renew_deadline);
        let adopted = self.adopted.map(|since| since + self.terms.lease + more);
        match self.phase {
            Phase::Adopted { since: _ } => adopted,
            Phase::Alive { heard } => adopted.max(Some(heard + self.terms.lease)),
            Phase::Dead { safe: _ } => None,
        }
    }

    /// Takes over a newer report; says which numbers are newly made. `present` are the holder's numbers whose object
    /// lives, as the watch tells.
    pub(super) fn hear(&mut self, report: &Report, epoch: u64, present: Option<&NumberSet>, now: Instant) -> NumberSet {
        let mut known = self.made_numbers();
        if self.inherited {
            // What is gone since the books was returned, or echoed by the predecessor on a sight that this leader
            // has not had: which of the two is not told, so it counts until a sight or a list settles it.
            let mut before = self.open.union(&NumberSet::of_range(self.reported_top.saturating_add(1), report.top));
            before.remove_range(report.top.saturating_add(1), u64::MAX);
            let gone = before.union(&known).minus(&report.open).minus(&report.made);
            self.doubted.extend(&gone);
            self.make(&gone.minus(&known), now);
            known.extend(&gone);
        }
        if report.epoch >= epoch {
            self.adopted = None;
            self.inherited = false;
        }
        self.phase = Phase::Alive { heard: now };
        self.seq = report.seq;
        self.leaving |= report.leaving;
        // A holder that leaves never puts another number on a message: what is on its way to it is returned already,
        // and it may be gone before that arrives.
        self.reported_top = if self.leaving { self.top.max(self.next_top) } else { report.top };
        self.open.clone_from(&report.open);
        self.want = report.want;
        // What the holder no longer calls made has been echoed.
        if !self.settled.is_empty() {
            self.settled = self.settled.intersection(&report.made);
        }
        self.unmake(&known.minus(&report.made).minus(&self.doubted));
        let newly = report.made.minus(&known).minus(&self.settled);
        self.make(&newly, now);
        self.keep_seen_out();
        self.recount();
        if let Some(present) = present {
            self.sighted_all(present);
        }
        newly
    }

    fn make(&mut self, numbers: &NumberSet, now: Instant) {
        if numbers.is_empty() {
            return;
        }
        self.unsettled = true;
        match self.made.back_mut() {
            Some(batch) if now < batch.first + BATCH => {
                batch.numbers.extend(numbers);
                batch.at = now;
            }
            Some(_) | None => self.made.push_back(Batch { first: now, at: now, numbers: numbers.clone() }),
        }
    }

    /// Takes numbers out of what was made.
    pub(super) fn unmake(&mut self, numbers: &NumberSet) {
        if numbers.is_empty() {
            return;
        }
        for batch in &mut self.made {
            batch.numbers.subtract(numbers);
        }
        self.made.retain(|batch| !batch.numbers.is_empty());
        self.doubted.subtract(numbers);
    }

    pub(super) fn made_numbers(&self) -> NumberSet {
        let mut batches = self.made.iter();
        let mut numbers = batches.next().map_or_else(NumberSet::new, |batch| batch.numbers.clone());
        for batch in batches {
            numbers.extend(&batch.numbers);
        }
        numbers
    }

    /// A sight is worth remembering only while its number is out.
    pub(super) fn keep_seen_out(&mut self) {
        if !self.seen.is_empty() {
            self.seen = self.seen.intersection(&self.out());
        }
    }

    pub(super) fn recount(&mut self) {
        self.unanswered = self.open.len() + self.top.max(self.next_top).saturating_sub(self.reported_top);
        let made: u64 = self.made.iter().map(|batch| batch.numbers.len()).sum();
        self.unseen = (self.unanswered + made).saturating_sub(self.seen.len());
    }

    /// Numbers that were granted, or are being granted, and that no report knew yet.
    fn unreported(&self) -> NumberSet {
        NumberSet::of_range(self.reported_top.saturating_add(1), self.top.max(self.next_top))
    }

    /// Every number that may still have an effect which is not counted elsewhere.
    pub(super) fn out(&self) -> NumberSet {
        let mut out = self.open.clone();
        out.extend(&self.unreported());
        for batch in &self.made {
            out.extend(&batch.numbers);
        }
        out
    }

    pub(super) fn has_out(&self) -> bool {
        self.unanswered > 0 || !self.made.is_empty()
    }

    /// The numbers that count on the live side: out and not seen.
    pub(super) fn out_unseen(&self) -> NumberSet {
        self.out().minus(&self.seen)
    }

    /// Notes a sight of a number.
    pub(super) fn sighted(&mut self, number: u64) {
        let is_out = number > self.reported_top && number <= self.top.max(self.next_top)
            || self.open.contains(number)
            || self.made.iter().any(|batch| batch.numbers.contains(number));
        if is_out && self.seen.insert(number) {
            self.unseen = self.unseen.saturating_sub(1);
            self.unsettled = true;
        }
    }

    /// Notes a sight of each of these that is out.
    pub(super) fn sighted_all(&mut self, numbers: &NumberSet) {
        let seen = numbers.intersection(&self.out()).minus(&self.seen);
        if !seen.is_empty() {
            self.seen.extend(&seen);
            self.unsettled = true;
            self.recount();
        }
    }

    /// Notes numbers of `made` that a list proved absent, for all reported before the list began.
    pub(super) fn proven_absent(&mut self, listed: &NumberSet, began: Instant) {
        let mut absent = NumberSet::new();
        for batch in self.made.iter().take_while(|batch| batch.at < began) {
            absent.extend(&batch.numbers.minus(listed));
        }
        if !absent.is_empty() {
            self.seen.extend(&absent);
            self.unsettled = true;
            self.recount();
        }
    }

    /// The holder is dead from now on.
    pub(super) fn die(&mut self, now: Instant) {
        self.open.extend(&self.unreported());
        self.reported_top = self.top.max(self.next_top);
        self.want = 0;
        self.owed = false;
        self.phase = Phase::Dead { safe: now + self.terms.create_timeout };
        self.recount();
    }

    /// Numbers of a dead holder that are over: seen, or `gone`.
    pub(super) fn free(&mut self, gone: &NumberSet) {
        let gone = gone.union(&self.seen);
        self.open.subtract(&gone);
        self.unmake(&gone);
        self.keep_seen_out();
        self.recount();
    }

    pub(super) fn book(&self) -> Book {
        Book { terms: self.terms.clone(), top: self.top.max(self.next_top), out: self.out() }
    }
}

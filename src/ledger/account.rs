//! The leader's account of one holder.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::gate::Reason;
use crate::wire::{Book, NumberSet, Report, Terms};

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

/// What the leader knows of one holder's numbers.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) terms: Terms,
    pub(super) phase: Phase,
    pub(super) seq: u64,
    /// The top that the newest report knew.
    pub(super) reported_top: u64,
    /// The top that the books have confirmed: the only one that is ever sent.
    pub(super) top: u64,
    /// The top in the write of the books that is under way, else equal to `top`.
    pub(super) next_top: u64,
    /// Reported as unused or without a definite answer.
    pub(super) open: NumberSet,
    /// Reported as answered, with the time of the report; until counted out on every side.
    pub(super) made: BTreeMap<u64, Instant>,
    /// Numbers whose object was seen, or found absent by a list: they left the live side.
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
}

impl Account {
    pub(super) const fn new(terms: Terms, now: Instant) -> Self {
        Self {
            terms,
            phase: Phase::Alive { heard: now },
            seq: 0,
            reported_top: 0,
            top: 0,
            next_top: 0,
            open: NumberSet::new(),
            made: BTreeMap::new(),
            seen: NumberSet::new(),
            settled: NumberSet::new(),
            want: 0,
            refusals: 0,
            leaving: false,
            owed: false,
            told: None,
        }
    }

    /// A holder that the predecessor's books name: all that they call out counts until it reports or is dead.
    pub(super) fn adopted(book: Book, now: Instant) -> Self {
        let mut account = Self::new(book.terms, now);
        account.phase = Phase::Adopted { since: now };
        account.reported_top = book.top;
        account.top = book.top;
        account.next_top = book.top;
        account.open = book.out;
        account
    }

    pub(super) const fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Alive { heard: _ })
    }

    /// When the holder is to be taken for dead, unless it is already.
    ///
    /// An adopted holder gets P more: its last grant may be as young as the old leader's last breath.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Adopted { since } => Some(since + self.terms.lease + self.terms.create_timeout),
            Phase::Alive { heard } => Some(heard + self.terms.lease),
            Phase::Dead { safe: _ } => None,
        }
    }

    /// Takes over a newer report; says which numbers are newly made.
    pub(super) fn hear(&mut self, report: &Report, now: Instant) -> NumberSet {
        self.phase = Phase::Alive { heard: now };
        self.seq = report.seq;
        self.reported_top = report.top;
        self.open = report.open.clone();
        self.want = report.want;
        self.leaving |= report.leaving;
        // What the holder no longer calls made has been echoed.
        self.settled = self.settled.intersection(&report.made);
        self.made.retain(|number, _| report.made.contains(*number));
        let mut newly = NumberSet::new();
        for number in report.made.iter() {
            if !self.settled.contains(number) && !self.made.contains_key(&number) {
                self.made.insert(number, now);
                newly.insert(number);
            }
        }
        // A sight is worth remembering only while its number is out.
        let seen_out = self.seen.intersection(&report.open.union(&report.made));
        let unreported = NumberSet::of_range(report.top.saturating_add(1), u64::MAX);
        self.seen = seen_out.union(&self.seen.intersection(&unreported));
        newly
    }

    /// Numbers that were granted, or are being granted, and that no report knew yet.
    pub(super) fn unreported(&self) -> NumberSet {
        NumberSet::of_range(self.reported_top.saturating_add(1), self.top.max(self.next_top))
    }

    /// Numbers without an answer that the leader knows of.
    pub(super) fn unanswered(&self) -> NumberSet {
        self.open.union(&self.unreported())
    }

    /// Every number that may still have an effect which is not counted elsewhere.
    pub(super) fn out(&self) -> NumberSet {
        let mut out = self.unanswered();
        for number in self.made.keys() {
            out.insert(*number);
        }
        out
    }

    /// The numbers that count on the live side: out and not seen.
    pub(super) fn out_unseen(&self) -> NumberSet {
        self.out().minus(&self.seen)
    }

    /// Notes a sight (or a proven absence) of a number.
    pub(super) fn sighted(&mut self, number: u64) {
        if number <= self.top.max(self.next_top)
            && (number > self.reported_top || self.open.contains(number) || self.made.contains_key(&number))
        {
            self.seen.insert(number);
        }
    }

    /// The holder is dead from now on.
    pub(super) fn die(&mut self, now: Instant) {
        self.open.extend(&self.unreported());
        self.reported_top = self.top.max(self.next_top);
        self.want = 0;
        self.owed = false;
        self.phase = Phase::Dead { safe: now + self.terms.create_timeout };
    }

    pub(super) fn book(&self) -> Book {
        Book { terms: self.terms.clone(), top: self.top.max(self.next_top), out: self.out() }
    }
}

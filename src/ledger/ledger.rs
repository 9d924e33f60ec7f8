//! The leader's side of the credit protocol: the books of one namespace.
//!
//! Events come in by method calls with `now` last; what is to be done comes out by [`Ledger::drain`].
//! `docs/protocol.md` explains the two sides of the count, and why a number leaves each of them when it does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::gate::{Counted, QuotaView, Reason};
use crate::ledger::account::{Account, Phase};
use crate::ledger::ask::Ask;
use crate::ledger::count::price;
use crate::ledger::holds::Hold;
use crate::ledger::live::LiveState;
use crate::ledger::refusal::{Lack, Refusal};
use crate::message::HolderId;
use crate::wire::{Books, Grant, NumberSet, Reading, Report, Terms, VERSION};

/// What is set for a ledger.
#[derive(Debug, Clone)]
pub struct LedgerOptions {
    /// Whether live objects are counted. Off only in tests, to show what a gate on `used` alone lets through.
    pub live_side: bool,
    /// How long a watch may be silent before nothing is granted: its own timeout is 5 s.
    pub watch_grace: Duration,
    /// How long after an answered create the quota is read, where no event of it came meanwhile.
    pub read_after: Duration,
    /// How long an answered create may stay unseen by a living watch before a list settles it.
    pub list_after: Duration,
    /// The first pause before a grant is tried again on a quota that refused; doubles up to `probe_cap`.
    pub probe_base: Duration,
    /// See `probe_base`.
    pub probe_cap: Duration,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self {
            live_side: true,
            watch_grace: Duration::from_secs(12),
            read_after: Duration::from_millis(50),
            list_after: Duration::from_secs(10),
            probe_base: Duration::from_millis(100),
            probe_cap: Duration::from_secs(10),
        }
    }
}

/// What the leader is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the books by compare-and-set, then call [`Ledger::books_written`]. At most one is under way.
    WriteBooks(Books),
    /// Send a grant.
    Send(Grant),
    /// Read all quotas of the namespace, then call [`Ledger::quotas_listed`] with the time the read began.
    ReadQuotas,
    /// List the objects of a kind by quorum, then call [`Ledger::objects_checked`] with the time the list began.
    CheckObjects(Counted),
}

/// A change of one quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuotaUpdate {
    /// It is there, or has changed.
    Applied(QuotaView),
    /// It is gone.
    Deleted(String),
}

/// How a set of terms stands: what a holder with them would be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// How many more effects fit.
    pub credits: u64,
    /// Why none, where it is none.
    pub reason: Option<Reason>,
    /// A person's explanation.
    pub detail: String,
    /// What is believed of each quota and resource.
    pub readings: Vec<Reading>,
}

/// The ledgers of one namespace: all resources together, because one credit may cost several of them.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub(super) namespace: String,
    pub(super) epoch: u64,
    /// When the books were read.
    since: Instant,
    pub(super) options: LedgerOptions,
    pub(super) quotas: BTreeMap<String, QuotaView>,
    /// When each quota, or its absence, was last read: the receipt of an event, the begin of a read.
    pub(super) read_at: BTreeMap<String, Instant>,
    /// When all quotas were last read; none before the first list.
    pub(super) all_read_at: Option<Instant>,
    pub(super) quotas_alive: Option<Instant>,
    /// What the API server refuses of the quotas, by verb.
    pub(super) quota_lacks: BTreeMap<&'static str, Lack>,
    /// Of the reads of the quotas beside their watch.
    pub(super) quota_list: Refusal,
    pub(super) kinds: BTreeMap<Counted, LiveState>,
    /// Whose live objects carry which numbers.
    pub(super) present: BTreeMap<HolderId, NumberSet>,
    pub(super) holders: BTreeMap<HolderId, Account>,
    pub(super) holds: BTreeMap<String, Hold>,
    /// Counts the distributions, so that who waits longest is served first.
    pub(super) turns: u64,
    pub(super) writes: u64,
    pub(super) writing: bool,
    /// The books name a holder that is gone, or miss nothing else than that.
    pub(super) books_outdated: bool,
    pub(super) quota_read: Ask,
    pub(super) checks: BTreeMap<Counted, Ask>,
    pub(super) signal_seq: u64,
    pub(super) outbox: Vec<Action>,
    /// Up to when everything that is due was handled.
    advanced: Option<Instant>,
}

impl Ledger {
    /// The ledger of a leader that has just written its epoch into the books and read them.
    #[must_use]
    pub fn adopt(namespace: &str, epoch: u64, books: Books, options: LedgerOptions, now: Instant) -> Self {
        let mut ledger = Self {
            namespace: namespace.to_owned(),
            epoch,
            since: now,
            options,
            quotas: BTreeMap::new(),
            read_at: BTreeMap::new(),
            all_read_at: None,
            quotas_alive: None,
            quota_lacks: BTreeMap::new(),
            quota_list: Refusal::default(),
            kinds: BTreeMap::new(),
            present: BTreeMap::new(),
            holders: BTreeMap::new(),
            holds: BTreeMap::new(),
            turns: 0,
            writes: books.write,
            writing: false,
            books_outdated: false,
            quota_read: Ask::default(),
            checks: BTreeMap::new(),
            signal_seq: 0,
            outbox: Vec::new(),
            advanced: None,
        };
        for (id, book) in books.holders {
            ledger.meet(&book.terms);
            let prices = price(&ledger.quotas, &book.terms);
            ledger.holders.insert(id, Account::adopted(book, prices, now));
        }
        ledger
    }

    /// The leader's epoch.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The kinds whose objects are to be watched.
    pub fn kinds(&self) -> impl Iterator<Item = &Counted> {
        self.kinds.keys()
    }

    /// What is known of a kind.
    #[must_use]
    pub fn live(&self, kind: &Counted) -> Option<&LiveState> {
        self.kinds.get(kind)
    }

    /// The quotas as last read.
    #[must_use]
    pub const fn quotas(&self) -> &BTreeMap<String, QuotaView> {
        &self.quotas
    }

    /// The holders with their phase and the numbers that are out.
    pub fn holders(&self) -> impl Iterator<Item = (&HolderId, Phase, NumberSet)> {
        self.holders.iter().map(|(id, account)| (id, account.phase, account.out()))
    }

    /// Is this holder in the books?
    #[must_use]
    pub fn knows(&self, holder: &HolderId) -> bool {
        self.holders.contains_key(holder)
    }

    /// The numbers of each holder that count beside the live objects: out, and their object not seen.
    pub fn unseen(&self) -> impl Iterator<Item = (&HolderId, NumberSet)> {
        self.holders.iter().map(|(id, account)| (id, account.out_unseen()))
    }

    /// The terms of every holder that is known.
    pub fn terms(&self) -> impl Iterator<Item = &Terms> {
        self.holders.values().map(|account| &account.terms)
    }

    /// What is to be done since the last call.
    pub fn drain(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.outbox)
    }

    /// A report of a holder.
    pub fn report(&mut self, report: &Report, now: Instant) {
        let present = self.present.get(&report.holder);
        let Some(account) = self.holders.get_mut(&report.holder) else {
            if report.top > 0 || report.leaving || report.epoch == self.epoch {
                // A forgotten holder's numbers are settled: it must never use them again.
                self.tell_to_restart(report);
                return;
            }
            self.meet(&report.terms);
            let mut account = Account::new(report.terms.clone(), price(&self.quotas, &report.terms), now);
            // It may have heard the predecessor alone until now, and go on doing so.
            account.adopted = Some(self.since);
            account.hear(report, self.epoch, None, now);
            account.owed = true;
            // Whoever is new queues up behind those who wait already.
            self.turns = self.turns.saturating_add(1);
            account.served = self.turns;
            self.holders.insert(report.holder.clone(), account);
            self.advance(now);
            return;
        };
        match account.phase {
            Phase::Dead { safe: _ } => {
                self.tell_to_restart(report);
                return;
            }
            Phase::Alive { heard: _ } if report.seq <= account.seq => return,
            Phase::Alive { heard: _ } | Phase::Adopted { since: _ } => {}
        }
        if report.top > account.top {
            // It claims numbers that the books never granted: whatever it is, it is not the holder of these books.
            account.open.extend(&report.open.union(&report.made));
            account.top = account.top.max(account.next_top).max(report.top);
            account.next_top = account.top;
            account.die(now);
            self.books_outdated = true;
            self.drop_probes();
            self.tell_to_restart(report);
            self.advance(now);
            return;
        }
        let newly_made = account.hear(report, self.epoch, present, now);
        account.owed = true;
        let refusal = report.refused.clone().filter(|refusal| refusal.count > account.refusals);
        if let Some(refusal) = &refusal {
            account.refusals = refusal.count;
        }
        self.judge_probes(report, &newly_made);
        if let Some(refusal) = refusal {
            self.refused(&refusal.quota, now);
        }
        self.advance(now);
    }

    /// The write of the books was confirmed.
    pub fn books_written(&mut self, now: Instant) {
        self.writing = false;
        for account in self.holders.values_mut() {
            if account.next_top > account.top {
                account.top = account.next_top;
                account.owed = account.is_alive();
            }
        }
        self.advance(now);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        self.advance(now);
    }

    /// When [`Ledger::tick`] must be called at the latest; in the past where something became due since the last event.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let accounts = self.holders.values().flat_map(|account| account.silent_at().into_iter().chain(account.due));
        let watches = self.kinds.values().filter_map(|state| match state {
            LiveState::Watched { objects: _, alive } => Some(*alive + self.options.watch_grace),
            LiveState::Unknown | LiveState::Forbidden => None,
        });
        let holds = self.holds.values().flat_map(Self::hold_due);
        let asks = self.checks.values().chain([&self.quota_read]).filter_map(|ask| ask.retry);
        let quotas = self.quotas_alive.map(|at| at + self.options.watch_grace);
        // What was due at the last event was handled by it; what has become due since is not.
        let handled = self.advanced.map_or(now, |advanced| advanced.min(now));
        accounts.chain(watches).chain(holds).chain(asks).chain(quotas).filter(|at| *at > handled).min()
    }

    /// Learns which kinds a set of terms counts.
    pub(super) fn meet(&mut self, terms: &Terms) {
        for cost in &terms.costs {
            if let Some(counted) = cost.resource.counted().filter(|counted| terms.created.as_ref() == Some(counted)) {
                let state = if self.options.live_side { LiveState::Unknown } else { LiveState::Forbidden };
                self.kinds.entry(counted).or_insert(state);
            }
        }
    }

    pub(super) fn tell_to_restart(&mut self, report: &Report) {
        self.outbox.push(Action::Send(Grant {
            v: VERSION,
            holder: report.holder.clone(),
            epoch: self.epoch,
            seq: report.seq,
            top: report.top,
            made_seen: NumberSet::new(),
            others_wait: false,
            readings: Vec::new(),
            reason: Some(Reason::GrantStale),
            detail: "the leader took this holder for dead".to_owned(),
            restart: true,
        }));
    }

    /// Everything that follows from the state as it is now.
    pub(super) fn advance(&mut self, now: Instant) {
        self.advanced = self.advanced.max(Some(now));
        self.bury(now);
        self.settle(now);
        self.forget();
        self.distribute(now);
        self.answer(now);
        self.ask(now);
    }
}

//! The leader's side of the credit protocol: the books of one namespace.
//!
//! Events come in by method calls with `now` last; what is to be done comes out by [`Ledger::drain`].
//! `docs/protocol.md` explains the two sides of the count, and why a number leaves each of them when it does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::gate::{Counted, QuotaView, Reason};
use crate::ledger::account::{Account, Phase};
use crate::ledger::live::{LiveState, SeenObject};
use crate::message::{CreditId, HolderId};
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

/// A quota that refused an effect although a credit was out for it.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    /// The refusal: only a later reading may lift it.
    pub(super) since: Instant,
    pub(super) refusals: u32,
    pub(super) not_before: Instant,
    pub(super) probe: Option<(HolderId, u64)>,
}

/// The ledgers of one namespace: all resources together, because one credit may cost several of them.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub(super) namespace: String,
    pub(super) epoch: u64,
    pub(super) options: LedgerOptions,
    pub(super) quotas: BTreeMap<String, QuotaView>,
    /// When each quota, or its absence, was last read: the receipt of an event, the begin of a read.
    pub(super) read_at: BTreeMap<String, Instant>,
    /// When all quotas were last read; none before the first list.
    pub(super) all_read_at: Option<Instant>,
    pub(super) quotas_alive: Option<Instant>,
    pub(super) kinds: BTreeMap<Counted, LiveState>,
    pub(super) holders: BTreeMap<HolderId, Account>,
    pub(super) holds: BTreeMap<String, Hold>,
    /// Who is served first at the next distribution.
    pub(super) turn: Option<HolderId>,
    pub(super) writes: u64,
    pub(super) writing: bool,
    /// The books name a holder that is gone, or miss nothing else than that.
    pub(super) books_outdated: bool,
    pub(super) reading: bool,
    pub(super) checking: BTreeSet<Counted>,
    pub(super) check_done: BTreeMap<Counted, Instant>,
    pub(super) signal_seq: u64,
    pub(super) outbox: Vec<Action>,
}

impl Ledger {
    /// The ledger of a leader that has just written its epoch into the books and read them.
    #[must_use]
    pub fn adopt(namespace: &str, epoch: u64, books: Books, options: LedgerOptions, now: Instant) -> Self {
        let holders: BTreeMap<_, _> =
            books.holders.into_iter().map(|(id, book)| (id, Account::adopted(book, now))).collect();
        let mut ledger = Self {
            namespace: namespace.to_owned(),
            epoch,
            options,
            quotas: BTreeMap::new(),
            read_at: BTreeMap::new(),
            all_read_at: None,
            quotas_alive: None,
            kinds: BTreeMap::new(),
            holders: BTreeMap::new(),
            holds: BTreeMap::new(),
            turn: None,
            writes: books.write,
            writing: false,
            books_outdated: false,
            reading: false,
            checking: BTreeSet::new(),
            check_done: BTreeMap::new(),
            signal_seq: 0,
            outbox: Vec::new(),
        };
        for account in holders.values() {
            ledger.meet(&account.terms);
        }
        ledger.holders = holders;
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
        let Some(account) = self.holders.get_mut(&report.holder) else {
            if report.top > 0 || report.leaving {
                // A forgotten holder's numbers are settled: it must never use them again.
                if !report.leaving {
                    self.tell_to_restart(report);
                }
                return;
            }
            self.meet(&report.terms);
            let mut account = Account::new(report.terms.clone(), now);
            account.hear(report, now);
            account.owed = true;
            self.holders.insert(report.holder.clone(), account);
            self.advance(now);
            return;
        };
        match account.phase {
            Phase::Dead { safe: _ } => {
                if !report.leaving {
                    self.tell_to_restart(report);
                }
                return;
            }
            Phase::Alive { heard: _ } if report.seq <= account.seq => return,
            Phase::Alive { heard: _ } | Phase::Adopted { since: _ } => {}
        }
        if report.top > account.top {
            // It claims numbers that the books never granted: whatever it is, it is not the holder of these books.
            account.next_top = report.top;
            account.open.extend(&report.open);
            account.die(now);
            self.tell_to_restart(report);
            return;
        }
        let newly_made = account.hear(report, now);
        account.owed = true;
        let refusal = report.refused.clone().filter(|refusal| refusal.count > account.refusals);
        if let Some(refusal) = &refusal {
            account.refusals = refusal.count;
        }
        self.holds.retain(|_, hold| {
            let Some((_, number)) = hold.probe.as_ref().filter(|(holder, _)| *holder == report.holder) else {
                return true;
            };
            if newly_made.contains(*number) {
                // The probe went through: the quota has room after all.
                return false;
            }
            if !report.open.contains(*number) && *number <= report.top {
                hold.probe = None;
            }
            true
        });
        if let Some(refusal) = refusal {
            self.refused(&refusal.quota, now);
        }
        self.advance(now);
    }

    /// The quotas of the namespace, read by a list that began at `began`.
    pub fn quotas_listed(&mut self, views: Vec<QuotaView>, began: Instant, now: Instant) {
        self.reading = false;
        let mut listed = BTreeMap::new();
        for view in views {
            // A watch event may have overtaken the list.
            let newer = self
                .quotas
                .remove(&view.name)
                .filter(|known| known.uid == view.uid && known.resource_version > view.resource_version);
            listed.insert(view.name.clone(), newer.unwrap_or(view));
        }
        // What the list lacks but an event showed after the list began is there.
        let read_at = &self.read_at;
        let kept = std::mem::take(&mut self.quotas);
        listed.extend(kept.into_iter().filter(|(name, _)| read_at.get(name).is_some_and(|at| *at >= began)));
        for name in listed.keys() {
            let at = self.read_at.entry(name.clone()).or_insert(began);
            *at = (*at).max(began);
        }
        self.quotas = listed;
        self.all_read_at = Some(self.all_read_at.map_or(began, |at| at.max(began)));
        self.quotas_alive = Some(now);
        self.advance(now);
    }

    /// A read of the quotas that failed: it will be asked for again where it is still needed.
    pub fn quotas_read_failed(&mut self, _now: Instant) {
        self.reading = false;
    }

    /// An event of the quota watch.
    pub fn quota(&mut self, update: QuotaUpdate, now: Instant) {
        self.quotas_alive = Some(now);
        match update {
            QuotaUpdate::Applied(view) => {
                self.read_at.insert(view.name.clone(), now);
                let outdated = self
                    .quotas
                    .get(&view.name)
                    .is_some_and(|known| known.uid == view.uid && known.resource_version > view.resource_version);
                if !outdated {
                    self.quotas.insert(view.name.clone(), view);
                }
            }
            QuotaUpdate::Deleted(name) => {
                self.quotas.remove(&name);
                self.read_at.insert(name, now);
            }
        }
        self.advance(now);
    }

    /// The quota watch is alive: a bookmark or an orderly end.
    pub fn quota_watch_alive(&mut self, now: Instant) {
        self.quotas_alive = Some(now);
        self.advance(now);
    }

    /// All objects of a kind, by the list that begins or renews its watch. What is out and reported as made before
    /// the list began, and is not in it, came and went unseen.
    pub fn objects_listed(&mut self, kind: &Counted, objects: &[SeenObject], began: Instant, now: Instant) {
        let names = objects.iter().map(|object| object.name.clone()).collect();
        self.kinds.insert(kind.clone(), LiveState::Watched { names, alive: now });
        for object in objects {
            self.credit_sighted(object.credit.as_ref());
        }
        self.settle_by_list(kind, objects, began);
        self.advance(now);
    }

    /// An object was created or changed.
    pub fn object_applied(&mut self, kind: &Counted, object: &SeenObject, now: Instant) {
        if let Some(LiveState::Watched { names, alive }) = self.kinds.get_mut(kind) {
            *alive = now;
            if !names.contains(&object.name) {
                names.insert(object.name.clone());
            }
        }
        self.credit_sighted(object.credit.as_ref());
        self.advance(now);
    }

    /// An object is gone from the store. Its credit counts as seen, should its creation have been missed.
    pub fn object_deleted(&mut self, kind: &Counted, object: &SeenObject, now: Instant) {
        if let Some(LiveState::Watched { names, alive }) = self.kinds.get_mut(kind) {
            *alive = now;
            names.remove(&object.name);
        }
        self.credit_sighted(object.credit.as_ref());
        self.advance(now);
    }

    /// An object of the past, told by a watch that was resumed behind the list: it settles its number, and the live
    /// count knows it already.
    pub fn object_replayed(&mut self, object: &SeenObject, now: Instant) {
        self.credit_sighted(object.credit.as_ref());
        self.advance(now);
    }

    /// The object watch is alive: a bookmark or an orderly end.
    pub fn object_watch_alive(&mut self, kind: &Counted, now: Instant) {
        if let Some(LiveState::Watched { names: _, alive }) = self.kinds.get_mut(kind) {
            *alive = now;
        }
        self.advance(now);
    }

    /// The objects of a kind may not be watched.
    pub fn object_watch_forbidden(&mut self, kind: &Counted, now: Instant) {
        self.kinds.insert(kind.clone(), LiveState::Forbidden);
        self.advance(now);
    }

    /// A quorum list that [`Action::CheckObjects`] asked for.
    pub fn objects_checked(&mut self, kind: &Counted, objects: &[SeenObject], began: Instant, now: Instant) {
        self.checking.remove(kind);
        self.check_done.insert(kind.clone(), began);
        self.settle_by_list(kind, objects, began);
        self.advance(now);
    }

    /// A list that failed: it will be asked for again.
    pub fn objects_check_failed(&mut self, kind: &Counted, _now: Instant) {
        self.checking.remove(kind);
    }

    /// The write of the books was confirmed.
    pub fn books_written(&mut self, now: Instant) {
        self.writing = false;
        for account in self.holders.values_mut() {
            if account.next_top > account.top {
                account.top = account.next_top;
                account.owed = true;
            }
        }
        self.advance(now);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        self.advance(now);
    }

    /// When [`Ledger::tick`] must be called at the latest.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let mut due: Vec<Instant> = Vec::new();
        for account in self.holders.values() {
            due.extend(account.silent_at());
            if let Phase::Dead { safe } = account.phase {
                due.push(if self.is_settled_by_time(account) { safe + account.terms.settle_time } else { safe });
            }
            let settles = self.is_settled_by_time(account);
            for at in account.made.values() {
                due.push(*at + self.options.read_after);
                if settles {
                    due.push(*at + account.terms.settle_time);
                } else {
                    due.push(*at + self.options.list_after);
                }
            }
        }
        due.extend(self.holds.values().map(|hold| hold.not_before));
        due.extend(self.quotas_alive.map(|at| at + self.options.watch_grace));
        for state in self.kinds.values() {
            if let LiveState::Watched { names: _, alive } = state {
                due.push(*alive + self.options.watch_grace);
            }
        }
        // What is due already was handled by the last event; a retry of it waits for one more of these.
        due.into_iter().filter(|at| *at > now).min()
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

    pub(super) fn credit_sighted(&mut self, credit: Option<&CreditId>) {
        if let Some(credit) = credit {
            if let Some(account) = self.holders.get_mut(&credit.holder) {
                account.sighted(credit.number);
            }
        }
    }
    pub(super) fn refused(&mut self, quota: &str, now: Instant) {
        let (base, cap) = (self.options.probe_base, self.options.probe_cap);
        let hold = self.holds.entry(quota.to_owned()).or_insert(Hold {
            since: now,
            refusals: 0,
            not_before: now,
            probe: None,
        });
        hold.since = now;
        hold.probe = None;
        hold.not_before = now + base.saturating_mul(1 << hold.refusals.min(10)).min(cap);
        hold.refusals = hold.refusals.saturating_add(1);
        self.ask_for_quotas();
    }

    /// Whether a quota is held back after a refusal.
    pub(super) fn held(&self, quota: &str, now: Instant) -> Option<(Reason, String)> {
        let hold = self.holds.get(quota)?;
        let read_since = self.quota_read_at(quota).is_some_and(|at| at > hold.since);
        (!read_since || now < hold.not_before || hold.probe.is_some()).then(|| {
            let detail = format!("quota {quota} refused an effect that a credit was held for");
            (Reason::QuotaRefused, detail)
        })
    }

    pub(super) fn ask_for_quotas(&mut self) {
        if !self.reading {
            self.reading = true;
            self.outbox.push(Action::ReadQuotas);
        }
    }

    pub(super) fn ask_for_objects(&mut self, kind: &Counted) {
        if self.checking.insert(kind.clone()) {
            self.outbox.push(Action::CheckObjects(kind.clone()));
        }
    }

    /// Everything that follows from the state as it is now.
    pub(super) fn advance(&mut self, now: Instant) {
        self.bury(now);
        self.settle(now);
        self.forget();
        self.distribute(now);
        self.answer(now);
    }
}

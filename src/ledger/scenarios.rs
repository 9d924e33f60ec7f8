//! Named scenarios of a ledger and its holders: what each rule is for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;
use crate::gate::{Counted, QuotaView, Reason};
use crate::message::{CreditId, HolderId};
use crate::wire::{Book, Books, Cost, Grant, NumberSet, Refusal, Report, Terms};

const COUNT: &str = "count/widgets.example.com";
const CPU: &str = "requests.cpu";

fn kind() -> Counted {
    Counted { plural: "widgets".to_owned(), group: "example.com".to_owned() }
}

fn quota(name: &str, version: u64, list: &[(&str, &str, &str)]) -> QuotaView {
    let hard: BTreeMap<String, String> =
        list.iter().map(|(key, hard, _)| ((*key).to_owned(), (*hard).to_owned())).collect();
    let used = list.iter().map(|(key, _, used)| ((*key).to_owned(), (*used).to_owned())).collect();
    QuotaView::from_parts(name, "u", &version.to_string(), false, hard.clone(), Some(hard), used).unwrap()
}

fn count_quota(version: u64, hard: &str, used: &str) -> QuotaView {
    quota("team", version, &[(COUNT, hard, used)])
}

fn terms(costs: &[(&str, &str)]) -> Terms {
    Terms {
        namespace: "ns".to_owned(),
        sensor: "s".to_owned(),
        stream: "events".to_owned(),
        quotas: vec!["team".to_owned()],
        ratio: "1".parse().unwrap(),
        costs: costs
            .iter()
            .map(|(resource, amount)| Cost { resource: resource.parse().unwrap(), amount: amount.parse().unwrap() })
            .collect(),
        created: Some(kind()),
        settle_time: Duration::from_secs(2),
        lease: Duration::from_secs(10),
        create_timeout: Duration::from_secs(10),
    }
}

fn object(name: &str, holder: &str, number: u64) -> SeenObject {
    SeenObject { name: name.to_owned(), credit: Some(CreditId { holder: HolderId::new(holder), number }) }
}

/// A ledger with a prompt shell around it: books are written at once, grants reach their holders at once; reads and
/// lists wait for the test.
struct Stand {
    ledger: Ledger,
    now: Instant,
    holders: BTreeMap<String, Holder>,
    books: Option<Books>,
    grants: Vec<Grant>,
    reads: u64,
    checks: u64,
}

impl Stand {
    fn bare(books: Books) -> Self {
        #[allow(clippy::disallowed_methods, reason = "the base of simulated instants; nothing else reads a clock")]
        let now = Instant::now();
        let ledger = Ledger::adopt("ns", 7, books, LedgerOptions::default(), now);
        Self { ledger, now, holders: BTreeMap::new(), books: None, grants: Vec::new(), reads: 0, checks: 0 }
    }

    /// Quotas and objects have been listed.
    fn with(quotas: Vec<QuotaView>) -> Self {
        let mut stand = Self::bare(Books::empty());
        // Long after the leader began.
        stand.now += secs(60);
        stand.quotas(quotas);
        stand.objects(&[]);
        stand
    }

    fn quotas(&mut self, quotas: Vec<QuotaView>) {
        self.now += millis(1);
        self.ledger.quotas_listed(quotas, self.now, self.now);
        self.act();
    }

    fn quota(&mut self, view: QuotaView) {
        self.now += millis(1);
        self.ledger.quota(QuotaUpdate::Applied(view), self.now);
        self.act();
    }

    fn objects(&mut self, objects: &[SeenObject]) {
        self.ledger.objects_listed(&kind(), objects, self.now, self.now);
        self.act();
    }

    fn checked(&mut self, objects: &[SeenObject]) {
        self.ledger.objects_checked(&kind(), objects, self.now, self.now);
        self.act();
    }

    fn applied(&mut self, name: &str, holder: &str, number: u64) {
        self.ledger.object_applied(&kind(), &object(name, holder, number), self.now);
        self.act();
    }

    fn deleted(&mut self, name: &str, holder: &str, number: u64) {
        self.ledger.object_deleted(&kind(), &object(name, holder, number), self.now);
        self.act();
    }

    fn holder(&mut self, id: &str, terms: Terms) {
        self.holders.insert(id.to_owned(), Holder::new(HolderId::new(id), terms));
    }

    fn counting(&mut self, id: &str) {
        self.holder(id, terms(&[(COUNT, "1")]));
    }

    fn of(&mut self, id: &str) -> &mut Holder {
        self.holders.get_mut(id).unwrap()
    }

    fn report(&mut self, id: &str, want: u64) -> Report {
        let now = self.now;
        let report = self.of(id).report(want, now);
        self.ledger.report(&report, now);
        self.act();
        report
    }

    fn take(&mut self, id: &str) -> u64 {
        let now = self.now;
        self.of(id).take(now).expect("a number under a lease")
    }

    /// Takes a number, makes its object, and reports it; the watch has not told yet.
    fn make(&mut self, id: &str) -> u64 {
        let number = self.take(id);
        self.of(id).made(number);
        self.report(id, 0);
        number
    }

    fn act(&mut self) {
        loop {
            let actions = self.ledger.drain();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::WriteBooks(books) => {
                        self.books = Some(books);
                        self.ledger.books_written(self.now);
                    }
                    Action::Send(grant) => {
                        if let Some(holder) = self.holders.get_mut(grant.holder.as_str()) {
                            holder.on_grant(&grant);
                        }
                        self.grants.push(grant);
                    }
                    Action::ReadQuotas => self.reads += 1,
                    Action::CheckObjects(_) => self.checks += 1,
                }
            }
        }
    }

    /// Time passes, with every deadline met; the watches stay alive.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut ticks = 0;
        while let Some(due) = self.ledger.deadline(self.now).filter(|due| *due <= end) {
            assert!(due > self.now, "the deadline moves on");
            self.now = due;
            self.ledger.quota_watch_alive(due);
            self.ledger.object_watch_alive(&kind(), due);
            self.ledger.tick(due);
            self.act();
            ticks += 1;
            assert!(ticks < 1_000, "it comes to rest");
        }
        self.now = end;
        self.ledger.quota_watch_alive(end);
        self.ledger.object_watch_alive(&kind(), end);
        self.act();
    }

    fn out(&self, id: &str) -> NumberSet {
        self.ledger.holders().find(|(known, _, _)| known.as_str() == id).map(|(_, _, out)| out).unwrap_or_default()
    }

    fn knows(&self, id: &str) -> bool {
        self.ledger.holders().any(|(known, _, _)| known.as_str() == id)
    }

    fn phase(&self, id: &str) -> Phase {
        self.ledger.holders().find(|(known, _, _)| known.as_str() == id).map(|(_, phase, _)| phase).unwrap()
    }

    fn reason(&mut self, id: &str) -> Option<Reason> {
        self.of(id).last_grant().unwrap().reason
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

mod cost;
mod counting;
mod holding;
mod leaving;

//! The bookkeeping of pulls: how many messages may still come, and what the server's statuses give back. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long after a pull's expiry its status may be missing before the pull counts as lost.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
struct Pull {
    number: u64,
    batch: u64,
    sent: Instant,
    due: Instant,
}

/// The pulls of one reply inbox. `outstanding = sum of the batches - delivered - given back`, never below 0.
///
/// Messages do not say which pull brought them, and the server serves its waiting pulls in turn; statuses do. So the
/// credits are one sum, and a pull is only known by what ends it: its status, its expiry, or the sum reaching 0.
#[derive(Debug, Default)]
pub struct PullBook {
    pulls: VecDeque<Pull>,
    outstanding: u64,
    next: u64,
}

/// Credits of pulls whose status never came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// How many messages can no longer be accounted for by a pull that may still end properly.
    pub credits: u64,
}

impl PullBook {
    /// How many messages may still come.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// The number of the next pull, for its reply subject.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// A pull was sent. Its number is what `next_number` said.
    pub fn sent(&mut self, batch: u64, expires: Duration, now: Instant) {
        let due = now + expires + STATUS_PATIENCE;
        self.pulls.push_back(Pull { number: self.next, batch, sent: now, due });
        self.next += 1;
        self.outstanding = self.outstanding.saturating_add(batch);
    }

    /// A message came. False: no credit stands behind it.
    pub fn delivered(&mut self) -> bool {
        let Some(rest) = self.outstanding.checked_sub(1) else { return false };
        self.outstanding = rest;
        self.tidy();
        true
    }

    /// The server ended a pull with so many messages undelivered; all of its batch where it does not say how many.
    /// Returns the credits given back.
    pub fn ended(&mut self, number: u64, pending: Option<u64>) -> u64 {
        let Some(at) = self.pulls.iter().position(|pull| pull.number == number) else { return 0 };
        let Some(pull) = self.pulls.remove(at) else { return 0 };
        let credits = pending.unwrap_or(pull.batch).min(pull.batch).min(self.outstanding);
        self.outstanding -= credits;
        self.tidy();
        credits
    }

    /// Every pull is dead. Returns the credits given back.
    pub fn give_up(&mut self) -> u64 {
        self.pulls.clear();
        std::mem::take(&mut self.outstanding)
    }

    /// When `expire` has something to look at.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.pulls.iter().map(|pull| pull.due).min()
    }

    /// The send of the oldest pull that may still bring a message.
    #[must_use]
    pub fn oldest_sent(&self) -> Option<Instant> {
        self.pulls.front().map(|pull| pull.sent)
    }

    /// Forgets the pulls whose time is over. Those that were served in full send no status, so that is mostly
    /// nothing; but credits beyond what the remaining pulls can still bring are lost.
    pub fn expire(&mut self, now: Instant) -> Option<Expired> {
        self.pulls.retain(|pull| pull.due > now);
        let possible = self.pulls.iter().fold(0u64, |sum, pull| sum.saturating_add(pull.batch));
        let credits = self.outstanding.saturating_sub(possible);
        self.outstanding -= credits;
        self.tidy();
        (credits > 0).then_some(Expired { credits })
    }

    fn tidy(&mut self) {
        if self.outstanding == 0 {
            self.pulls.clear();
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn statuses_give_back_what_was_not_delivered() {
        let t0 = Instant::now();
        let mut book = PullBook::default();
        book.sent(5, SECOND, t0);
        book.sent(3, SECOND, t0);
        assert!(book.delivered() && book.delivered());
        assert_eq!(book.outstanding(), 6);
        assert_eq!(book.ended(0, Some(4)), 4);
        assert_eq!(book.ended(0, Some(4)), 0, "a status counts once");
        assert_eq!(book.ended(1, None), 2, "never more than is outstanding");
        assert_eq!(book.outstanding(), 0);
        assert!(!book.delivered());
    }

    #[test]
    fn a_lost_status_is_noticed_at_its_time_and_not_before() {
        let t0 = Instant::now();
        let mut book = PullBook::default();
        book.sent(5, SECOND, t0);
        book.sent(4, SECOND, t0 + SECOND);
        let due = t0 + SECOND + STATUS_PATIENCE;
        assert_eq!(book.next_due(), Some(due));
        assert_eq!(book.expire(due - Duration::from_nanos(1)), None);
        assert_eq!(book.expire(due), Some(Expired { credits: 5 }));
        assert_eq!(book.next_due(), Some(due + SECOND));
        assert!(book.delivered());
        assert_eq!(book.expire(due + SECOND), Some(Expired { credits: 3 }));
        assert_eq!(book.next_due(), None, "the deadline is gone, or a timer would spin on it");
    }

    #[test]
    fn a_pull_served_in_full_expires_in_silence() {
        let t0 = Instant::now();
        let mut book = PullBook::default();
        book.sent(2, SECOND, t0);
        book.sent(2, SECOND, t0 + SECOND);
        assert!(book.delivered() && book.delivered());
        assert_eq!(book.expire(t0 + SECOND + STATUS_PATIENCE), None);
        assert_eq!(book.outstanding(), 2);
        assert_eq!(book.oldest_sent(), Some(t0 + SECOND));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Pull(u64),
        Serve,
        Expire(usize),
        LoseStatus(usize),
        Wait(u64),
        Die,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u64..20).prop_map(Step::Pull),
            Just(Step::Serve),
            Just(Step::Serve),
            Just(Step::Serve),
            (0usize..4).prop_map(Step::Expire),
            (0usize..4).prop_map(Step::LoseStatus),
            (0u64..2_500).prop_map(Step::Wait),
            Just(Step::Die),
        ]
    }

    proptest! {
        // A server that keeps its word, and a network that loses statuses: the book never says less than what the
        // server may still send, and nothing stays out when all is over.
        #[test]
        fn outstanding_covers_what_the_server_may_send(steps in prop::collection::vec(step(), 1..200)) {
            let t0 = Instant::now();
            let mut now = t0;
            let mut book = PullBook::default();
            let mut server: BTreeMap<u64, (u64, Instant)> = BTreeMap::new();
            let (mut sent, mut delivered, mut back) = (0u64, 0u64, 0u64);
            for step in steps {
                match step {
                    Step::Pull(batch) => {
                        server.insert(book.next_number(), (batch, now + SECOND));
                        book.sent(batch, SECOND, now);
                        sent += batch;
                    }
                    Step::Serve => {
                        let turn = server.keys().nth(usize::try_from(sent % 3).unwrap() % server.len().max(1)).copied();
                        if let Some(number) = turn {
                            let entry = server.get_mut(&number).unwrap();
                            entry.0 -= 1;
                            if entry.0 == 0 {
                                server.remove(&number);
                            }
                            prop_assert!(book.delivered(), "a message that was asked for has a credit");
                            delivered += 1;
                        }
                    }
                    Step::Expire(n) => {
                        if let Some(number) = server.keys().nth(n).copied() {
                            let (left, _) = server.remove(&number).unwrap();
                            prop_assert_eq!(book.ended(number, Some(left)), left);
                            back += left;
                        }
                    }
                    Step::LoseStatus(n) => {
                        if let Some(number) = server.keys().nth(n).copied() {
                            server.remove(&number);
                        }
                    }
                    Step::Wait(ms) => {
                        now += Duration::from_millis(ms);
                        // What expires at the server while its status is lost on the way.
                        server.retain(|_, (_, expires)| *expires > now);
                        if let Some(Expired { credits }) = book.expire(now) {
                            back += credits;
                        }
                        prop_assert!(book.next_due().is_none_or(|due| due > now));
                    }
                    Step::Die => {
                        server.clear();
                        back += book.give_up();
                    }
                }
                let may_come: u64 = server.values().map(|(left, _)| left).sum();
                prop_assert!(book.outstanding() >= may_come);
                prop_assert_eq!(book.outstanding(), sent - delivered - back);
            }
            now += Duration::from_secs(10);
            if let Some(Expired { credits }) = book.expire(now) {
                back += credits;
            }
            prop_assert_eq!(book.outstanding(), 0);
            prop_assert_eq!(sent, delivered + back);
        }
    }
}

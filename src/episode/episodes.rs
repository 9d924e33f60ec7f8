//! How often and how long each reason held.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::gate::Reason;

/// How an episode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The condition cleared.
    Recovered,
    /// Nobody waits for it any more.
    Cancelled,
    /// The process ended first.
    Shutdown,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 3] = [Self::Recovered, Self::Cancelled, Self::Shutdown];

    /// Its name as a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::Cancelled => "cancelled",
            Self::Shutdown => "shutdown",
        }
    }
}

/// An episode that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// What held.
    pub reason: Reason,
    /// For how long.
    pub lasted: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// How many episodes a reason has had: `begun` is the sum of the others, and one more while one is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct EpisodeCount {
    /// Begun.
    pub begun: u64,
    /// Ended because the condition cleared.
    pub recovered: u64,
    /// Ended because nobody waits any more.
    pub cancelled: u64,
    /// Ended with the process.
    pub shutdown: u64,
}

/// What is known of one reason.
#[derive(Debug, Clone, Copy, Default)]
struct Book {
    count: EpisodeCount,
    /// The time of the episodes that are over, and of the open one up to the last look.
    total: Duration,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: Instant,
    /// Up to where it is in the total.
    counted: Instant,
}

/// Episodes by reason, at most one of each open at a time; several reasons may be open at once.
///
/// Seconds never go back, also where the callers' `now` arrive out of order: what was told once stays told.
#[derive(Debug, Clone, Default)]
pub struct Episodes {
    books: BTreeMap<Reason, Book>,
}

impl Episodes {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            books: BTreeMap::new(),
        }
    }

    /// The condition holds. True where that is new: a repeated rejection is the same episode.
    pub fn begin(&mut self, reason: Reason, now: Instant) -> bool {
        let book = self.books.entry(reason).or_default();
        if book.open.is_some() {
            return false;
        }
        book.open = Some(Open {
            since: now,
            counted: now,
        });
        book.count.begun += 1;
        true
    }

    /// The condition is over; called where it clears, not where the next work happens to come. None where no episode
    /// of that reason is open.
    pub fn end(&mut self, reason: Reason, outcome: Outcome, now: Instant) -> Option<Ended> {
        self.books.get_mut(&reason)?.end(reason, outcome, now)
    }

    /// Ends every open episode: at a shutdown none of them is lost.
    pub fn end_all(&mut self, outcome: Outcome, now: Instant) -> Vec<Ended> {
        self.books
            .iter_mut()
            .filter_map(|(reason, book)| book.end(*reason, outcome, now))
            .collect()
    }

    /// The time that each reason has held up to now, the open episodes included; every reason is there.
    pub fn blocked(&mut self, now: Instant) -> BTreeMap<Reason, Duration> {
        for book in self.books.values_mut() {
            book.count_up_to(now);
        }
        Reason::ALL
            .into_iter()
            .map(|reason| (reason, self.book(reason).total))
            .collect()
    }

    /// How many episodes a reason has had.
    #[must_use]
    pub fn count(&self, reason: Reason) -> EpisodeCount {
        self.book(reason).count
    }

    /// What holds now, with the time at which it began.
    pub fn open(&self) -> impl Iterator<Item = (Reason, Instant)> {
        self.books
            .iter()
            .filter_map(|(reason, book)| Some((*reason, book.open?.since)))
    }

    fn book(&self, reason: Reason) -> Book {
        self.books.get(&reason).copied().unwrap_or_default()
    }
}

impl Book {
    fn count_up_to(&mut self, now: Instant) {
        if let Some(open) = &mut self.open {
            self.total += now.saturating_duration_since(open.counted);
            open.counted = open.counted.max(now);
        }
    }

    fn end(&mut self, reason: Reason, outcome: Outcome, now: Instant) -> Option<Ended> {
        self.count_up_to(now);
        let open = self.open.take()?;
        match outcome {
            Outcome::Recovered => self.count.recovered += 1,
            Outcome::Cancelled => self.count.cancelled += 1,
            Outcome::Shutdown => self.count.shutdown += 1,
        }
        Some(Ended {
            reason,
            // As long as it was counted, so that the samples of a histogram add up to the seconds.
            lasted: open.counted.saturating_duration_since(open.since),
            outcome,
        })
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn an_episode_counts_while_it_is_open() {
        let t0 = Instant::now();
        let mut episodes = Episodes::new();
        assert!(episodes.begin(Reason::AtLimit, t0));
        assert_eq!(episodes.blocked(t0 + secs(3))[&Reason::AtLimit], secs(3));
        // A repeated rejection neither begins anew nor counts.
        assert!(!episodes.begin(Reason::AtLimit, t0 + secs(4)));
        assert_eq!(episodes.blocked(t0 + secs(5))[&Reason::AtLimit], secs(5));
        assert_eq!(episodes.open().collect::<Vec<_>>(), [(Reason::AtLimit, t0)]);
        let ended = episodes
            .end(Reason::AtLimit, Outcome::Recovered, t0 + secs(6))
            .unwrap();
        assert_eq!((ended.lasted, ended.outcome), (secs(6), Outcome::Recovered));
        // It is over: nothing runs on, and it does not end twice.
        assert_eq!(episodes.blocked(t0 + secs(60))[&Reason::AtLimit], secs(6));
        assert_eq!(
            episodes.end(Reason::AtLimit, Outcome::Recovered, t0 + secs(61)),
            None
        );
        assert_eq!(episodes.end(Reason::ApiDown, Outcome::Recovered, t0), None);
        let count = episodes.count(Reason::AtLimit);
        assert_eq!((count.begun, count.recovered), (1, 1));
    }

    #[test]
    fn every_reason_is_there_from_the_start() {
        let blocked = Episodes::new().blocked(Instant::now());
        assert_eq!(blocked.len(), Reason::ALL.len());
        assert!(blocked.values().all(Duration::is_zero));
    }

    #[test]
    fn several_reasons_hold_at_once_and_none_is_lost_at_the_end() {
        let t0 = Instant::now();
        let mut episodes = Episodes::new();
        episodes.begin(Reason::AtLimit, t0);
        episodes.begin(Reason::NatsDown, t0 + secs(1));
        let ended = episodes.end_all(Outcome::Shutdown, t0 + secs(3));
        assert_eq!(
            ended
                .iter()
                .map(|ended| (ended.reason, ended.lasted))
                .collect::<Vec<_>>(),
            [(Reason::AtLimit, secs(3)), (Reason::NatsDown, secs(2))]
        );
        assert_eq!(episodes.count(Reason::NatsDown).shutdown, 1);
        assert_eq!(episodes.open().count(), 0);
        assert!(episodes.end_all(Outcome::Shutdown, t0 + secs(4)).is_empty());
    }

    #[test]
    fn an_earlier_now_takes_nothing_back() {
        let t0 = Instant::now();
        let mut episodes = Episodes::new();
        episodes.begin(Reason::AtLimit, t0);
        assert_eq!(episodes.blocked(t0 + secs(10))[&Reason::AtLimit], secs(10));
        let ended = episodes
            .end(Reason::AtLimit, Outcome::Cancelled, t0 + secs(4))
            .unwrap();
        assert_eq!(ended.lasted, secs(10));
        assert_eq!(episodes.blocked(t0)[&Reason::AtLimit], secs(10));
        assert_eq!(episodes.count(Reason::AtLimit).cancelled, 1);
    }

    proptest! {
        #[test]
        fn samples_and_seconds_and_counts_agree(
            steps in prop::collection::vec((0_usize..3, 0_u8..3, 0_u64..1000), 0..60),
        ) {
            let mut now = Instant::now();
            let mut episodes = Episodes::new();
            let mut samples: BTreeMap<Reason, Duration> = BTreeMap::new();
            let mut told = BTreeMap::new();
            for (reason, action, pause) in steps {
                now += Duration::from_millis(pause);
                let reason = Reason::ALL[reason];
                let ended = match action {
                    0 => {
                        episodes.begin(reason, now);
                        None
                    }
                    1 => episodes.end(reason, Outcome::Recovered, now),
                    _ => None,
                };
                if let Some(ended) = ended {
                    *samples.entry(reason).or_default() += ended.lasted;
                }
                let blocked = episodes.blocked(now);
                for (reason, before) in &told {
                    prop_assert!(blocked[reason] >= *before);
                }
                told = blocked;
            }
            for ended in episodes.end_all(Outcome::Shutdown, now) {
                *samples.entry(ended.reason).or_default() += ended.lasted;
            }
            for (reason, blocked) in episodes.blocked(now + secs(5)) {
                prop_assert_eq!(blocked, samples.get(&reason).copied().unwrap_or_default());
                let count = episodes.count(reason);
                prop_assert_eq!(count.begun, count.recovered + count.cancelled + count.shutdown);
            }
        }
    }
}

//! Where the time of a lane goes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::{Ended, EpisodeCount, Episodes, Outcome};
use crate::gate::{GateState, Reason};

/// What a lane does; at any moment exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activity {
    /// It may pull, and has something in hand.
    Working,
    /// It may pull, and has nothing in hand.
    Idle,
    /// It may not pull.
    Blocked(Reason),
}

impl Activity {
    /// What a lane does, by its gate and by whether it has something in hand.
    ///
    /// A blocked gate comes first, so that the blocked seconds of a reason are those in which its gate was.
    #[must_use]
    pub const fn of(gate: GateState, busy: bool) -> Self {
        match (gate, busy) {
            (GateState::Blocked(reason), _) => Self::Blocked(reason),
            (GateState::Open, true) => Self::Working,
            (GateState::Open, false) => Self::Idle,
        }
    }

    /// Every activity.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Working, Self::Idle]
            .into_iter()
            .chain(Reason::ALL.map(Self::Blocked))
    }

    /// The state as a label: `working`, `idle` or `blocked`.
    #[must_use]
    pub const fn state(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Idle => "idle",
            Self::Blocked(_) => "blocked",
        }
    }

    /// The reason of a blocked one.
    #[must_use]
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Blocked(reason) => Some(reason),
            Self::Working | Self::Idle => None,
        }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Working | Self::Idle => f.write_str(self.state()),
            Self::Blocked(reason) => write!(f, "blocked: {reason}"),
        }
    }
}

/// Splits the wall time of one lane into what it did.
///
/// The parts always add up to the time from the start to the last look, exactly, and none of them ever goes back: a
/// `now` that is earlier than one seen before counts as that one.
#[derive(Debug, Clone)]
pub struct TimeAccount {
    start: Instant,
    /// Up to where the parts are filled.
    counted: Instant,
    doing: Activity,
    parts: BTreeMap<Activity, Duration>,
    episodes: Episodes,
    closed: bool,
}

impl TimeAccount {
    /// An account that starts now.
    #[must_use]
    pub fn new(doing: Activity, now: Instant) -> Self {
        let mut episodes = Episodes::new();
        if let Activity::Blocked(reason) = doing {
            episodes.begin(reason, now);
        }
        Self {
            start: now,
            counted: now,
            doing,
            parts: Activity::all()
                .map(|activity| (activity, Duration::ZERO))
                .collect(),
            episodes,
            closed: false,
        }
    }

    /// The lane does something else from now on; gives the blocked episode that this ends, if any.
    pub fn switch(&mut self, doing: Activity, now: Instant) -> Option<Ended> {
        if self.closed || doing == self.doing {
            self.count_up_to(now);
            return None;
        }
        let now = self.count_up_to(now);
        let ended = match self.doing {
            Activity::Blocked(reason) => self.episodes.end(reason, Outcome::Recovered, now),
            Activity::Working | Activity::Idle => None,
        };
        if let Activity::Blocked(reason) = doing {
            self.episodes.begin(reason, now);
        }
        self.doing = doing;
        ended
    }

    /// Ends the account with the process: what is open is ended, and time stands still from then on.
    pub fn close(&mut self, now: Instant) -> Option<Ended> {
        let now = self.count_up_to(now);
        self.closed = true;
        self.episodes.end_all(Outcome::Shutdown, now).pop()
    }

    /// What the lane does.
    #[must_use]
    pub const fn doing(&self) -> Activity {
        self.doing
    }

    /// The time that went into each activity up to now; every activity is there.
    pub fn read(&mut self, now: Instant) -> &BTreeMap<Activity, Duration> {
        self.count_up_to(now);
        &self.parts
    }

    /// The blocked part of [`TimeAccount::read`] by reason; every reason is there.
    pub fn blocked(&mut self, now: Instant) -> BTreeMap<Reason, Duration> {
        self.read(now)
            .iter()
            .filter_map(|(activity, time)| Some((activity.reason()?, *time)))
            .collect()
    }

    /// The time that is accounted for, which is the sum of the parts.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.counted.saturating_duration_since(self.start)
    }

    /// How many blocked episodes a reason has had.
    #[must_use]
    pub fn episodes(&self, reason: Reason) -> EpisodeCount {
        self.episodes.count(reason)
    }

    /// Puts what has passed into the part that it belongs to; gives the time up to which that is done.
    fn count_up_to(&mut self, now: Instant) -> Instant {
        if !self.closed {
            *self.parts.entry(self.doing).or_default() +=
                now.saturating_duration_since(self.counted);
            self.counted = self.counted.max(now);
        }
        self.counted
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
    fn time_goes_into_exactly_one_part() {
        let t0 = Instant::now();
        let mut account = TimeAccount::new(Activity::Blocked(Reason::NoLeader), t0);
        assert_eq!(
            account.switch(Activity::Idle, t0 + secs(2)).unwrap().lasted,
            secs(2)
        );
        assert_eq!(account.switch(Activity::Working, t0 + secs(5)), None);
        account.switch(Activity::Blocked(Reason::AtLimit), t0 + secs(9));
        // It advances while it is open.
        assert_eq!(account.blocked(t0 + secs(10))[&Reason::AtLimit], secs(1));
        let parts = account.read(t0 + secs(14));
        assert_eq!(parts[&Activity::Blocked(Reason::NoLeader)], secs(2));
        assert_eq!(parts[&Activity::Idle], secs(3));
        assert_eq!(parts[&Activity::Working], secs(4));
        assert_eq!(parts[&Activity::Blocked(Reason::AtLimit)], secs(5));
        assert_eq!(parts.values().sum::<Duration>(), secs(14));
        assert_eq!(account.total(), secs(14));
        assert_eq!(account.episodes(Reason::AtLimit).begun, 1);
    }

    #[test]
    fn another_reason_is_another_episode() {
        let t0 = Instant::now();
        let mut account = TimeAccount::new(Activity::Blocked(Reason::AtLimit), t0);
        let ended = account
            .switch(Activity::Blocked(Reason::HeldByOthers), t0 + secs(1))
            .unwrap();
        assert_eq!(
            (ended.reason, ended.outcome),
            (Reason::AtLimit, Outcome::Recovered)
        );
        // The same state again is no change.
        assert_eq!(
            account.switch(Activity::Blocked(Reason::HeldByOthers), t0 + secs(2)),
            None
        );
        assert_eq!(account.episodes(Reason::HeldByOthers).begun, 1);
    }

    #[test]
    fn the_end_loses_nothing_and_comes_once() {
        let t0 = Instant::now();
        let mut account = TimeAccount::new(Activity::Blocked(Reason::AtLimit), t0);
        let ended = account.close(t0 + secs(7)).unwrap();
        assert_eq!((ended.lasted, ended.outcome), (secs(7), Outcome::Shutdown));
        assert_eq!(account.close(t0 + secs(8)), None);
        assert_eq!(account.switch(Activity::Working, t0 + secs(9)), None);
        assert_eq!(account.blocked(t0 + secs(9))[&Reason::AtLimit], secs(7));
        assert_eq!(account.total(), secs(7));
        assert_eq!(account.episodes(Reason::AtLimit).shutdown, 1);
    }

    #[test]
    fn a_blocked_gate_comes_before_what_is_in_hand() {
        let blocked = GateState::Blocked(Reason::AtLimit);
        assert_eq!(
            Activity::of(blocked, true),
            Activity::Blocked(Reason::AtLimit)
        );
        assert_eq!(
            Activity::of(blocked, false),
            Activity::Blocked(Reason::AtLimit)
        );
        assert_eq!(Activity::of(GateState::Open, true), Activity::Working);
        assert_eq!(Activity::of(GateState::Open, false), Activity::Idle);
        assert_eq!(
            Activity::Blocked(Reason::AtLimit).to_string(),
            "blocked: at_limit"
        );
    }

    #[test]
    fn every_part_is_there_from_the_start() {
        let now = Instant::now();
        let mut account = TimeAccount::new(Activity::Idle, now);
        assert_eq!(account.read(now).len(), Reason::ALL.len() + 2);
        assert_eq!(account.blocked(now).len(), Reason::ALL.len());
    }

    proptest! {
        #[test]
        fn the_parts_are_the_wall_time(
            // Activity, nanoseconds back or forth from the step before, and whether it is a switch or a look.
            steps in prop::collection::vec((0_usize..23, -1_000_000_i64..1_000_000_000, any::<bool>()), 0..80),
            close in any::<bool>(),
        ) {
            let activities: Vec<_> = Activity::all().collect();
            let start = Instant::now() + secs(3600);
            let (mut now, mut latest) = (start, start);
            let mut account = TimeAccount::new(Activity::Idle, start);
            let mut told = account.read(start).clone();
            let mut samples: BTreeMap<Reason, Duration> = BTreeMap::new();
            for (activity, pause, switch) in steps {
                let pause_length = Duration::from_nanos(pause.unsigned_abs());
                now = if pause < 0 { now - pause_length } else { now + pause_length };
                latest = latest.max(now);
                if switch && let Some(ended) = account.switch(activities[activity], now) {
                    *samples.entry(ended.reason).or_default() += ended.lasted;
                }
                let parts = account.read(now).clone();
                prop_assert_eq!(parts.values().sum::<Duration>(), latest - start);
                for (activity, before) in &told {
                    prop_assert!(parts[activity] >= *before);
                }
                told = parts;
            }
            prop_assert_eq!(account.total(), latest - start);
            if close {
                if let Some(ended) = account.close(latest) {
                    *samples.entry(ended.reason).or_default() += ended.lasted;
                }
                // The blocked seconds are the sum of the episodes.
                for (reason, blocked) in account.blocked(latest + secs(9)) {
                    prop_assert_eq!(blocked, samples.get(&reason).copied().unwrap_or_default());
                }
            }
        }
    }
}

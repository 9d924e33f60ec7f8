//! The gate of one lane: blocked with a reason, or open.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Reason, Reasons};

/// What is known of the leader's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Heard {
    /// No grant since the start.
    #[default]
    Never,
    /// There was one, and its lease is over.
    Over,
    /// A grant whose lease runs, and why it grants no more, if it does not.
    Live(Option<Reason>),
    /// Nothing is counted here, so no grant is needed; a leader is, for the record.
    NotNeeded,
}

/// Whether somebody may lead here, as the API server's answers about the Lease tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Candidacy {
    /// Nothing is in the way, or nobody stands in this process.
    #[default]
    Stands,
    /// The API server cannot be asked for the Lease.
    ApiDown,
    /// The API server refuses the Lease: a right or the namespace is missing.
    Refused,
}

/// What the state of a gate is decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GateFacts {
    /// Numbers that are not used yet.
    pub credits_ready: u64,
    /// Numbers on messages whose effect has no definite answer yet.
    pub in_hand: u64,
    /// What the leader says.
    pub heard: Heard,
    /// Why there is no leader, where that is known.
    pub candidacy: Candidacy,
    /// No record of finished messages stands yet, so nothing may be handed out.
    pub settling: bool,
    /// What keeps this lane from using a number that it has: NATS or the API server down, a refusal by the target,
    /// draining, shutdown.
    pub local: Reasons,
}

/// Blocked, with a reason, or open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GateState {
    /// Nothing may be pulled.
    Blocked(Reason),
    /// What the lane has numbers for may be pulled.
    Open,
}

/// A change of state, which is one line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state that ended.
    pub from: GateState,
    /// The state that began.
    pub to: GateState,
    /// How long the state that ended had lasted.
    pub after: Duration,
}

/// The gate of one lane.
///
/// It is blocked when the lane holds no open number and none is granted, and also where a number that it holds cannot
/// be used: the lease is over, or something local is in the way. Before any grant it is blocked, because unknown is
/// not zero.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    state: GateState,
    /// All that holds, of which the state says the first.
    held: Reasons,
    since: Instant,
}

impl Gate {
    /// A gate that has heard nothing.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { state: GateState::Blocked(Reason::NoLeader), held: Reasons::NONE.with(Reason::NoLeader), since: now }
    }

    /// Decides anew; gives the change, if the state is another one.
    pub fn update(&mut self, facts: GateFacts, now: Instant) -> Option<Transition> {
        self.held = held(facts);
        let to = self.held.first().map_or(GateState::Open, GateState::Blocked);
        if to == self.state {
            return None;
        }
        let transition = Transition { from: self.state, to, after: now.saturating_duration_since(self.since) };
        self.state = to;
        self.since = now;
        Some(transition)
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> GateState {
        self.state
    }

    /// When the state began.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Why it is blocked; none while it is open.
    #[must_use]
    pub const fn reason(&self) -> Option<Reason> {
        match self.state {
            GateState::Blocked(reason) => Some(reason),
            GateState::Open => None,
        }
    }

    /// Every reason that holds, beside the one that is said.
    #[must_use]
    pub const fn held(&self) -> Reasons {
        self.held
    }

    /// Whether it is open.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.state, GateState::Open)
    }

    /// The value of `sensor_quota_blocked`: whether it would refuse a credit for a reason that sets the gauge, messages
    /// waiting or not. A reason that is said first and does not set it hides none that does.
    #[must_use]
    pub fn gauge(&self) -> bool {
        self.held.sets_gauge()
    }
}

fn held(facts: GateFacts) -> Reasons {
    let GateFacts { credits_ready, in_hand, heard, candidacy, settling, local } = facts;
    // The cause of there being no grant, and none for as long as there is one.
    let leaderless = |reason| match candidacy {
        Candidacy::Stands => local.with(reason),
        Candidacy::ApiDown => local.with(reason).with(Reason::ApiDown),
        Candidacy::Refused => local.with(Reason::TargetRefused),
    };
    let settled = local.with_if(settling, Reason::LeaderSettling);
    match heard {
        Heard::Never => leaderless(Reason::NoLeader),
        Heard::Over => leaderless(Reason::GrantStale),
        // There is no record for want of a leader.
        Heard::NotNeeded if settling && candidacy != Candidacy::Stands => leaderless(Reason::NoLeader),
        Heard::Live(Some(reason)) if credits_ready == 0 && in_hand == 0 => settled.with(reason),
        Heard::Live(_) | Heard::NotNeeded => settled,
    }
}

impl fmt::Display for GateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked(reason) => f.write_str(reason.as_str()),
            Self::Open => f.write_str("open"),
        }
    }
}

/// Says again, once in a while, that a gate is still blocked.
///
/// The change of state was said when it came, so the first reminder is due a whole period after it.
#[derive(Debug, Clone, Copy)]
pub struct Reminder {
    every: Duration,
    /// The blocked state that was said last, with the time at which it is said again.
    said: Option<(Reason, Instant, Instant)>,
}

/// What is said again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reminded {
    /// Why it is blocked.
    pub reason: Reason,
    /// Since when, for that reason.
    pub since: Instant,
    /// For how long.
    pub lasted: Duration,
    /// How many messages wait, where that is known.
    pub waiting: Option<u64>,
}

impl Reminder {
    /// The period of the log.
    pub const EVERY: Duration = Duration::from_secs(300);

    /// One that speaks at this period.
    #[must_use]
    pub const fn new(every: Duration) -> Self {
        Self { every, said: None }
    }

    /// What is to be said now, if anything; called after each update, and at [`Reminder::deadline`].
    pub fn due(&mut self, gate: &Gate, waiting: Option<u64>, now: Instant) -> Option<Reminded> {
        let Some(reason) = gate.reason() else {
            self.said = None;
            return None;
        };
        let since = gate.since();
        let at = match self.said {
            Some((said, began, at)) if said == reason && began == since => at,
            Some(_) | None => since + self.every,
        };
        let due = now >= at;
        // After a long silence there is one line, not one for each period that was missed.
        let next = if due { now + self.every } else { at };
        self.said = Some((reason, since, next));
        due.then(|| Reminded { reason, since, lasted: now.saturating_duration_since(since), waiting })
    }

    /// When to ask again; none while the gate was open when asked last.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.said.map(|(_, _, at)| at)
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

    fn live(reason: Option<Reason>) -> GateFacts {
        GateFacts { heard: Heard::Live(reason), ..GateFacts::default() }
    }

    fn after(facts: GateFacts) -> Gate {
        let t0 = Instant::now();
        let mut gate = Gate::new(t0);
        gate.update(facts, t0);
        gate
    }

    #[test]
    fn before_any_grant_it_is_blocked() {
        let t0 = Instant::now();
        let mut gate = Gate::new(t0);
        assert_eq!(gate.state(), GateState::Blocked(Reason::NoLeader));
        assert!(gate.gauge());
        assert_eq!(gate.update(GateFacts::default(), t0 + secs(1)), None);
        assert_eq!(gate.since(), t0);
    }

    #[test]
    fn the_first_grant_opens_and_the_last_slot_blocks() {
        let t0 = Instant::now();
        let mut gate = Gate::new(t0);
        let ready = GateFacts { credits_ready: 1, ..live(None) };
        let opened = gate.update(ready, t0 + secs(3)).unwrap();
        assert_eq!(opened.from, GateState::Blocked(Reason::NoLeader));
        assert_eq!((opened.to, opened.after), (GateState::Open, secs(3)));
        assert!(!gate.gauge());
        // The number is on a message: it is open still.
        let busy = GateFacts { in_hand: 1, ..live(Some(Reason::AtLimit)) };
        assert_eq!(gate.update(busy, t0 + secs(4)), None);
        let blocked = gate.update(live(Some(Reason::AtLimit)), t0 + secs(5)).unwrap();
        assert_eq!(blocked.to, GateState::Blocked(Reason::AtLimit));
        assert_eq!((blocked.after, gate.since()), (secs(2), t0 + secs(5)));
        assert!(gate.gauge());
        let other = gate.update(live(Some(Reason::HeldByOthers)), t0 + secs(6)).unwrap();
        assert_eq!(format!("{} => {}", other.from, other.to), "at_limit => held_by_others");
    }

    #[test]
    fn a_lease_that_is_over_blocks_the_numbers_too() {
        let gate = after(GateFacts { credits_ready: 4, in_hand: 2, heard: Heard::Over, ..GateFacts::default() });
        assert_eq!(gate.reason(), Some(Reason::GrantStale));
    }

    #[test]
    fn why_nobody_leads_is_said_and_opens_or_blocks_nothing_else() {
        let refused = Candidacy::Refused;
        for heard in [Heard::Never, Heard::Over] {
            let gate = after(GateFacts { heard, candidacy: refused, ..GateFacts::default() });
            // Not the hint at a leader, which would not help.
            assert_eq!(gate.held().iter().collect::<Vec<_>>(), [Reason::TargetRefused]);
            assert!(gate.gauge());
            let gate = after(GateFacts { heard, candidacy: Candidacy::ApiDown, ..GateFacts::default() });
            assert_eq!(gate.reason(), Some(Reason::ApiDown));
            assert!(gate.gauge(), "nobody has granted");
        }
        // Another leads, or the grant is still believed.
        for candidacy in [refused, Candidacy::ApiDown] {
            assert!(after(GateFacts { candidacy, credits_ready: 1, ..live(None) }).is_open());
            let full = after(GateFacts { candidacy, ..live(Some(Reason::AtLimit)) });
            assert_eq!(full.held().iter().collect::<Vec<_>>(), [Reason::AtLimit]);
        }
    }

    #[test]
    fn nothing_is_handed_out_before_a_record_stands() {
        for heard in [Heard::NotNeeded, Heard::Live(None)] {
            let facts = GateFacts { heard, credits_ready: 1, settling: true, ..GateFacts::default() };
            assert_eq!(after(facts).reason(), Some(Reason::LeaderSettling));
            assert!(after(GateFacts { settling: false, ..facts }).is_open());
        }
        // Without a gate a missing leader is in the way for as long as there is no record, and no longer.
        for (candidacy, reason) in [(Candidacy::Refused, Reason::TargetRefused), (Candidacy::ApiDown, Reason::ApiDown)]
        {
            let facts = GateFacts { heard: Heard::NotNeeded, candidacy, settling: true, ..GateFacts::default() };
            assert_eq!(after(facts).reason(), Some(reason));
            assert!(after(GateFacts { settling: false, ..facts }).is_open());
        }
    }

    #[test]
    fn what_is_in_the_way_blocks_the_numbers_too() {
        let gate = after(GateFacts { credits_ready: 4, local: Reasons::NONE.with(Reason::NatsDown), ..live(None) });
        assert_eq!(gate.reason(), Some(Reason::NatsDown));
        assert!(!gate.gauge());
    }

    #[test]
    fn a_quiet_reason_hides_no_loud_one() {
        let gate = after(GateFacts { local: Reasons::NONE.with(Reason::NatsDown), ..live(Some(Reason::AtLimit)) });
        assert_eq!(gate.reason(), Some(Reason::NatsDown));
        assert!(gate.gauge());
        assert_eq!(gate.held().iter().collect::<Vec<_>>(), [Reason::NatsDown, Reason::AtLimit]);
    }

    #[test]
    fn an_earlier_now_does_no_harm() {
        let t0 = Instant::now();
        let mut gate = Gate::new(t0 + secs(5));
        let transition = gate.update(live(None), t0).unwrap();
        assert_eq!(transition.after, Duration::ZERO);
    }

    #[test]
    fn a_reminder_comes_each_period_while_blocked() {
        let t0 = Instant::now();
        let mut gate = Gate::new(t0);
        let mut reminder = Reminder::new(Reminder::EVERY);
        assert_eq!(reminder.due(&gate, None, t0), None);
        assert_eq!(reminder.deadline(), Some(t0 + secs(300)));
        assert_eq!(reminder.due(&gate, None, t0 + secs(299)), None);
        let said = reminder.due(&gate, Some(7), t0 + secs(300)).unwrap();
        assert_eq!((said.reason, said.since, said.lasted), (Reason::NoLeader, t0, secs(300)));
        assert_eq!(said.waiting, Some(7));
        // Once asked at its deadline, the deadline is later: nobody spins.
        assert_eq!(reminder.deadline(), Some(t0 + secs(600)));
        assert_eq!(reminder.due(&gate, None, t0 + secs(300)), None);
        // Three periods were slept through.
        assert!(reminder.due(&gate, None, t0 + secs(1300)).is_some());
        assert_eq!(reminder.deadline(), Some(t0 + secs(1600)));
        // Another reason was said as a change: its period begins there.
        gate.update(live(Some(Reason::AtLimit)), t0 + secs(1400));
        assert_eq!(reminder.due(&gate, None, t0 + secs(1600)), None);
        assert!(reminder.due(&gate, None, t0 + secs(1700)).is_some());
        gate.update(live(None), t0 + secs(1800));
        assert_eq!(reminder.due(&gate, None, t0 + secs(9000)), None);
        assert_eq!(reminder.deadline(), None);
    }

    #[test]
    fn the_same_reason_again_begins_anew() {
        let t0 = Instant::now();
        let mut gate = Gate::new(t0);
        let mut reminder = Reminder::new(secs(10));
        assert_eq!(reminder.due(&gate, None, t0), None);
        // Open and blocked again between two questions.
        gate.update(live(None), t0 + secs(8));
        gate.update(GateFacts::default(), t0 + secs(9));
        assert_eq!(reminder.due(&gate, None, t0 + secs(10)), None);
        assert_eq!(reminder.deadline(), Some(t0 + secs(19)));
    }

    fn any_facts() -> impl Strategy<Value = GateFacts> {
        let reason = || prop::sample::select(Reason::ALL.to_vec());
        let heard = prop_oneof![
            Just(Heard::Never),
            Just(Heard::Over),
            Just(Heard::NotNeeded),
            prop::option::of(reason()).prop_map(Heard::Live),
        ];
        let candidacy = prop::sample::select(vec![Candidacy::Stands, Candidacy::ApiDown, Candidacy::Refused]);
        let local = prop::collection::vec(reason(), 0..3);
        (0_u64..2, 0_u64..2, heard, candidacy, prop::bool::ANY, local).prop_map(
            |(credits_ready, in_hand, heard, candidacy, settling, local)| GateFacts {
                credits_ready,
                in_hand,
                heard,
                candidacy,
                settling,
                local: local.into_iter().collect(),
            },
        )
    }

    proptest! {
        #[test]
        fn open_means_that_nothing_holds(steps in prop::collection::vec((any_facts(), 0_u64..50), 1..20)) {
            let mut now = Instant::now();
            let start = now;
            let mut gate = Gate::new(now);
            let mut lasted = Duration::ZERO;
            for (facts, pause) in steps {
                now += Duration::from_millis(pause);
                let before = gate.state();
                let transition = gate.update(facts, now);
                prop_assert_eq!(transition.is_some(), before != gate.state());
                lasted += transition.map_or(Duration::ZERO, |transition| transition.after);
                prop_assert_eq!(gate.is_open(), gate.held().is_empty());
                prop_assert!(!(gate.is_open() && gate.gauge()));
                // Unknown never opens, and a number alone never does where something is in the way.
                let known = matches!(facts.heard, Heard::Live(_) | Heard::NotNeeded);
                if !known || facts.settling || !facts.local.is_empty() {
                    prop_assert!(!gate.is_open());
                } else if facts.heard == Heard::NotNeeded || facts.credits_ready + facts.in_hand > 0 {
                    prop_assert!(gate.is_open());
                }
            }
            prop_assert_eq!(lasted, gate.since() - start);
        }
    }
}

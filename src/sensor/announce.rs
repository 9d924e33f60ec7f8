//! Which states of the gate get a line in the log. Pure.
//!
//! At full use the gate opens for moments at each release: a line for each would be a line per message. So a state is
//! announced once it has lasted, and says how often the gate moved since the line before.

use std::time::{Duration, Instant};

use crate::gate::{Gate, GateState};

/// How long a state must last to be announced.
const LASTS: Duration = Duration::from_secs(1);

/// A line about the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) state: GateState,
    /// The state of the line before, and how long ago that began.
    pub(super) before: Option<GateState>,
    pub(super) before_lasted: Duration,
    /// How often the gate moved since.
    pub(super) moves: u64,
}

/// Decides which states are announced.
#[derive(Debug, Clone)]
pub(super) struct Announcer {
    announced: Option<(GateState, Instant)>,
    seen: Option<(GateState, Instant)>,
    moves: u64,
}

impl Announcer {
    pub(super) const fn new() -> Self {
        Self { announced: None, seen: None, moves: 0 }
    }

    /// The line that is due, if any. The very first state is announced at once.
    pub(super) fn due(&mut self, gate: &Gate, now: Instant) -> Option<Announced> {
        let current = (gate.state(), gate.since());
        if self.seen != Some(current) {
            self.moves = self.moves.saturating_add(1);
            self.seen = Some(current);
        }
        let is_news = self.announced.is_none_or(|(state, _)| state != current.0);
        if !is_news || (self.announced.is_some() && now < current.1 + LASTS) {
            return None;
        }
        let before = self.announced.replace(current);
        let moves = std::mem::take(&mut self.moves);
        Some(Announced {
            state: current.0,
            before: before.map(|(state, _)| state),
            before_lasted: before.map_or(Duration::ZERO, |(_, since)| current.1.saturating_duration_since(since)),
            moves,
        })
    }

    /// When a line will be due, should the gate not move.
    pub(super) fn deadline(&self, gate: &Gate) -> Option<Instant> {
        self.announced.filter(|(state, _)| *state != gate.state()).map(|_| gate.since() + LASTS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::gate::{GateFacts, Heard, Reason};

    fn facts(open: bool) -> GateFacts {
        GateFacts {
            credits_ready: u64::from(open),
            in_hand: 0,
            heard: Heard::Live(if open { None } else { Some(Reason::AtLimit) }),
            ..GateFacts::default()
        }
    }

    #[test]
    fn a_flapping_gate_is_announced_once_it_rests() {
        let t0 = clock::now();
        let mut gate = Gate::new(t0);
        let mut announcer = Announcer::new();
        assert!(announcer.due(&gate, t0).is_some(), "the first state at once");
        let mut now = t0;
        for turn in 0..100 {
            now += Duration::from_millis(20);
            gate.update(facts(turn % 2 == 0), now);
            assert_eq!(announcer.due(&gate, now), None);
        }
        let deadline = announcer.deadline(&gate).unwrap();
        assert_eq!(announcer.due(&gate, deadline - Duration::from_millis(1)), None);
        let said = announcer.due(&gate, deadline).unwrap();
        assert_eq!(said.state, GateState::Blocked(Reason::AtLimit));
        assert_eq!(said.moves, 100);
        assert_eq!(announcer.deadline(&gate), None);
        assert_eq!(announcer.due(&gate, deadline + Duration::from_secs(9)), None, "once");
    }
}

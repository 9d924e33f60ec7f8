//! What keeps one lane from using its credits although the leader grants them: the target refuses. Pure.

use std::time::{Duration, Instant};

use crate::gate::Reason;
use crate::message::retry;

/// The first pause before one message is tried again, doubling up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A refusal that concerns every message: one at a time is tried, with growing pauses, until one goes through.
#[derive(Debug, Clone)]
pub(super) struct LocalBlock {
    pub(super) reason: Reason,
    pub(super) detail: String,
    not_before: Instant,
    refusals: u32,
    /// The number that is being tried.
    probe: Option<u64>,
}

impl LocalBlock {
    pub(super) fn new(reason: Reason, detail: String, after: Option<Duration>, now: Instant) -> Self {
        Self {
            reason,
            detail,
            not_before: now + after.unwrap_or(PAUSE).min(retry::LONGEST_ASKED),
            refusals: 1,
            probe: None,
        }
    }

    /// Another refusal. Those of messages that were under way when the first came do not make the pause longer.
    pub(super) fn refused(
        &mut self,
        reason: Reason,
        detail: String,
        after: Option<Duration>,
        number: u64,
        now: Instant,
    ) {
        self.reason = reason;
        self.detail = detail;
        if self.probe == Some(number) {
            self.probe = None;
            self.refusals = self.refusals.saturating_add(1);
            let pause = PAUSE.saturating_mul(1 << self.refusals.min(10).saturating_sub(1)).min(LONGEST_PAUSE);
            self.not_before = now + after.map_or(pause, |after| after.max(pause).min(retry::LONGEST_ASKED));
        }
    }

    /// Whether one message may be tried now.
    pub(super) fn may_probe(&self, now: Instant) -> bool {
        self.probe.is_none() && now >= self.not_before
    }

    /// When a message may be tried.
    pub(super) const fn not_before(&self) -> Option<Instant> {
        if self.probe.is_some() { None } else { Some(self.not_before) }
    }

    pub(super) const fn probing(&mut self, number: u64) {
        self.probe = Some(number);
    }

    /// The number that was tried came to an end that says nothing about the target.
    pub(super) fn ended(&mut self, number: u64, now: Instant) {
        if self.probe == Some(number) {
            self.probe = None;
            self.not_before = self.not_before.max(now + PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn pauses_grow_with_each_probe_that_is_refused_and_not_with_stragglers() {
        let t0 = clock::now();
        let mut block = LocalBlock::new(Reason::TargetRefused, "no".to_owned(), None, t0);
        for straggler in 1..50 {
            block.refused(Reason::TargetRefused, "no".to_owned(), None, straggler, t0);
        }
        assert!(!block.may_probe(t0));
        let mut now = t0 + PAUSE;
        let mut pauses = Vec::new();
        for number in 100..108 {
            assert!(block.may_probe(now));
            block.probing(number);
            assert!(!block.may_probe(now + LONGEST_PAUSE), "one at a time");
            block.refused(Reason::TargetRefused, "no".to_owned(), None, number, now);
            let next = block.not_before().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30, 30]);
    }

    #[test]
    fn nobody_is_obeyed_for_a_day() {
        let t0 = clock::now();
        let day = Some(Duration::from_secs(86_400));
        let mut block = LocalBlock::new(Reason::ApiThrottled, String::new(), day, t0);
        assert!(block.may_probe(t0 + retry::LONGEST_ASKED));
        block.probing(1);
        block.refused(Reason::ApiThrottled, String::new(), day, 1, t0);
        assert_eq!(block.not_before(), Some(t0 + retry::LONGEST_ASKED));
    }

    #[test]
    fn a_probe_that_ended_otherwise_lets_another_go() {
        let t0 = clock::now();
        let mut block = LocalBlock::new(Reason::ApiThrottled, String::new(), Some(Duration::from_secs(3)), t0);
        assert!(!block.may_probe(t0 + Duration::from_secs(2)));
        block.probing(1);
        block.ended(1, t0 + Duration::from_secs(4));
        assert!(block.may_probe(t0 + Duration::from_secs(5)));
    }
}

//! What the leader asks of the API server on its own: each question once at a time, again where the answer failed.

use std::time::{Duration, Instant};

use crate::gate::Counted;
use crate::ledger::owner::{Action, Ledger};

/// The pause after a question that failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// One question.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ask {
    /// Since when an answer is wanted: only what began later is one.
    wanted: Option<Instant>,
    /// When the one under way was asked.
    asked: Option<Instant>,
    /// When the newest answer began.
    done: Option<Instant>,
    /// When to ask again after a failure.
    pub(super) retry: Option<Instant>,
}

impl Ask {
    /// When the newest that was asked, or answered without being asked, began.
    pub(super) fn newest(&self) -> Option<Instant> {
        self.asked.max(self.done)
    }

    fn want(&mut self, now: Instant) {
        self.wanted = Some(now);
    }

    /// The question under way is answered.
    pub(super) fn answered(&mut self, began: Instant) {
        self.asked = None;
        self.learned(began);
    }

    /// An answer that began at `began` came without being asked for.
    pub(super) fn learned(&mut self, began: Instant) {
        if self.wanted.is_some_and(|since| began >= since) {
            self.wanted = None;
        }
        self.done = self.done.max(Some(began));
    }

    /// An answer that may be the one to the question under way: a later one is as good.
    pub(super) fn answered_if_later(&mut self, began: Instant) {
        if self.asked.is_some_and(|at| began >= at) {
            self.asked = None;
        }
        self.learned(began);
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.asked = None;
        self.retry = Some(now + RETRY_AFTER);
    }

    /// Whether to ask now.
    fn due(&mut self, now: Instant) -> bool {
        if self.retry.is_some_and(|at| now >= at) {
            self.retry = None;
        }
        let due = self.wanted.is_some() && self.asked.is_none() && self.retry.is_none();
        if due {
            self.asked = Some(now);
        }
        due
    }
}

impl Ledger {
    /// A reading of the quotas that begins from now on is needed.
    pub(super) fn want_quotas(&mut self, now: Instant) {
        self.quota_read.want(now);
    }

    /// A list of the objects of a kind that begins from now on is needed.
    pub(super) fn want_objects(&mut self, kind: &Counted, now: Instant) {
        if !self.checks.contains_key(kind) {
            self.checks.insert(kind.clone(), Ask::default());
        }
        if let Some(ask) = self.checks.get_mut(kind) {
            ask.want(now);
        }
    }

    /// Puts the questions that are due into the outbox.
    pub(super) fn ask(&mut self, now: Instant) {
        if self.quota_read.due(now) {
            self.outbox.push(Action::ReadQuotas);
        }
        for (kind, ask) in &mut self.checks {
            if ask.due(now) {
                self.outbox.push(Action::CheckObjects(kind.clone()));
            }
        }
    }
}

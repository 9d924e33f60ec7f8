//! How many creates may be under way at once: the rule is in `message`, this makes tasks wait for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::message::Concurrency;

/// A semaphore whose size follows [`Concurrency`].
#[derive(Debug, Clone)]
pub(super) struct Limiter {
    semaphore: Arc<Semaphore>,
    rule: Arc<Mutex<Rule>>,
}

#[derive(Debug)]
struct Rule {
    concurrency: Concurrency,
    /// Permits that exist: in the semaphore or in use.
    permits: usize,
}

impl Limiter {
    pub(super) fn new() -> Self {
        let concurrency = Concurrency::new();
        let permits = concurrency.limit();
        Self { semaphore: Arc::new(Semaphore::new(permits)), rule: Arc::new(Mutex::new(Rule { concurrency, permits })) }
    }

    pub(super) fn limit(&self) -> usize {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner).concurrency.limit()
    }

    /// Waits for a place. The semaphore is never closed, so there always comes one.
    pub(super) async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.semaphore).acquire_owned().await.ok()
    }

    /// A create was answered in this time.
    pub(super) fn answered(&self, latency: Duration) {
        let mut rule = self.rule.lock().unwrap_or_else(PoisonError::into_inner);
        let in_flight = rule.permits.saturating_sub(self.semaphore.available_permits());
        rule.concurrency.answered(latency, in_flight);
        self.resize(&mut rule);
    }

    /// A create had no answer, or one that says that the server has too much to do.
    pub(super) fn overloaded(&self) {
        let mut rule = self.rule.lock().unwrap_or_else(PoisonError::into_inner);
        rule.concurrency.overloaded();
        self.resize(&mut rule);
    }

    fn resize(&self, rule: &mut Rule) {
        let limit = rule.concurrency.limit();
        if limit > rule.permits {
            self.semaphore.add_permits(limit - rule.permits);
            rule.permits = limit;
        } else {
            // Permits in use cannot be taken away: the rest goes with the next answers.
            rule.permits -= self.semaphore.forget_permits(rule.permits - limit);
        }
    }
}

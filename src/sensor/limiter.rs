//! How many creates may be under way at once: the rule is in `message`, this makes tasks wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::message::Concurrency;

/// A place among the creates under way, for one create: it ends with the answer.
#[derive(Debug)]
pub(super) struct Place {
    limiter: Limiter,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut rule = self.limiter.rule();
        // After a cut a place that comes back is one too many: whoever waits must not get it.
        if rule.permits > rule.concurrency.limit()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
            rule.permits -= 1;
        }
    }
}

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

    fn rule(&self) -> MutexGuard<'_, Rule> {
        // Plain values behind it: whoever panicked left them whole.
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limit(&self) -> usize {
        self.rule().concurrency.limit()
    }

    /// A place, where there is one and nobody waits for it.
    pub(super) fn try_acquire(&self) -> Option<Place> {
        let permit = Arc::clone(&self.semaphore).try_acquire_owned().ok()?;
        Some(Place { limiter: self.clone(), permit: Some(permit) })
    }

    /// Waits for a place. The semaphore is never closed, so there always comes one.
    pub(super) async fn acquire(self) -> Place {
        let permit = Arc::clone(&self.semaphore).acquire_owned().await.ok();
        Place { limiter: self, permit }
    }

    /// An object was stored, in this time.
    pub(super) fn answered(&self, latency: Duration) {
        let mut rule = self.rule();
        let in_flight = rule.permits.saturating_sub(self.semaphore.available_permits());
        rule.concurrency.answered(latency, in_flight);
        self.resize(&mut rule);
    }

    /// A create had no answer, or one that says that the server has too much to do.
    pub(super) fn overloaded(&self) {
        let mut rule = self.rule();
        rule.concurrency.overloaded();
        self.resize(&mut rule);
    }

    fn resize(&self, rule: &mut Rule) {
        let limit = rule.concurrency.limit();
        if limit > rule.permits {
            self.semaphore.add_permits(limit - rule.permits);
            rule.permits = limit;
        } else {
            // Permits in use cannot be taken away: the rest goes with the places that come back.
            rule.permits -= self.semaphore.forget_permits(rule.permits - limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_place_that_comes_back_after_a_cut_goes_to_nobody() {
        let limiter = Limiter::new();
        let mut held: Vec<Place> = std::iter::from_fn(|| limiter.try_acquire()).collect();
        let places = limiter.limit();
        assert_eq!(held.len(), places);
        let mut waiting: Vec<_> = (0..2 * places).map(|_| Box::pin(limiter.clone().acquire())).collect();
        let mut served = |held: &mut Vec<Place>| {
            waiting.retain_mut(|place| match place.now_or_never() {
                Some(place) => {
                    held.push(place);
                    false
                }
                None => true,
            });
        };
        served(&mut held);
        assert_eq!(held.len(), places, "all others wait");
        limiter.overloaded();
        let cut = limiter.limit();
        assert_eq!(cut, places / 2);
        for left in (cut..places).rev() {
            held.pop();
            served(&mut held);
            assert_eq!(held.len(), left, "no more than the cut");
        }
        for _ in 0..places {
            held.pop();
            served(&mut held);
            assert_eq!(held.len(), cut, "from then on each goes to the next");
        }
    }

    #[test]
    fn who_no_longer_waits_leaves_its_place_to_the_next() {
        let limiter = Limiter::new();
        let mut held: Vec<Place> = std::iter::from_fn(|| limiter.try_acquire()).collect();
        let mut gone = Box::pin(limiter.clone().acquire());
        let mut next = Box::pin(limiter.clone().acquire());
        assert!((&mut gone).now_or_never().is_none() && (&mut next).now_or_never().is_none());
        held.pop();
        drop(gone);
        assert!(next.now_or_never().is_some());
    }
}

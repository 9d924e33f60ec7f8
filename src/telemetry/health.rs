//! Whether the process is alive and ready. Blocked is healthy: a full quota makes nobody restart and stops no rollout.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the main loop may be silent and the process still count as alive: several times what the longest step of a
/// healthy loop may take, since each remote call has a timeout of at most 10 s.
pub const LIVE_WITHIN: Duration = Duration::from_secs(30);

/// Ready once every condition of the start was met, until it drains; alive while the main loop beats.
#[derive(Debug)]
pub struct Health {
    start: Instant,
    last_beat_ms: AtomicU64,
    draining: AtomicBool,
    conditions: Mutex<Vec<Condition>>,
}

impl Health {
    /// No conditions yet; name them with [`Health::expects`] before anybody asks. The start is the first beat.
    #[must_use]
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            start: now,
            last_beat_ms: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            conditions: Mutex::new(Vec::new()),
        })
    }

    /// One more thing that must have happened once before the process is ready; the handle says so.
    #[must_use]
    pub fn expects(&self, name: &'static str) -> Condition {
        let condition = Condition { name, met: Arc::new(AtomicBool::new(false)) };
        self.conditions().push(condition.clone());
        condition
    }

    fn conditions(&self) -> MutexGuard<'_, Vec<Condition>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The main loop goes round.
    pub fn beat(&self, now: Instant) {
        let since = now.saturating_duration_since(self.start).as_millis();
        self.last_beat_ms.fetch_max(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The process is about to end: no longer ready, still alive.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// How long the main loop has been silent.
    #[must_use]
    pub fn silent(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.last_beat_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(self.start).saturating_sub(last)
    }

    /// Whether the main loop still goes round.
    #[must_use]
    pub fn is_live(&self, now: Instant) -> bool {
        self.silent(now) <= LIVE_WITHIN
    }

    /// Whether every condition was met, and the process is not about to end.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && self.conditions().iter().all(Condition::is_met)
    }

    pub(super) fn liveness(&self, now: Instant) -> String {
        let mut text = String::new();
        line(&mut text, self.is_live(now), "main loop");
        // Writing into a String cannot fail.
        writeln!(text, "last beat {:.1} s ago", self.silent(now).as_secs_f64()).ok();
        text
    }

    pub(super) fn readiness(&self) -> String {
        let mut text = String::new();
        for condition in self.conditions().iter() {
            line(&mut text, condition.is_met(), condition.name);
        }
        line(&mut text, !self.draining.load(Ordering::Relaxed), "not draining");
        text
    }
}

fn line(text: &mut String, good: bool, name: &str) {
    text.push_str(if good { "[+] " } else { "[-] " });
    text.push_str(name);
    text.push('\n');
}

/// One condition of the start, in the hands of the part that meets it.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    met: Arc<AtomicBool>,
}

impl Condition {
    /// It is met, for good: what breaks later has its own reason and metric, and is no cause to take the process out.
    pub fn met(&self) {
        self.met.store(true, Ordering::Relaxed);
    }

    /// Whether it was met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.met.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // any instant will do as the start of the test's time
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_conditions_were_met_until_it_drains() {
        let health = Health::new(Instant::now());
        let (nats, quota) = (health.expects("nats"), health.expects("quota"));
        nats.met();
        assert!(!health.is_ready());
        assert_eq!(health.readiness(), "[+] nats\n[-] quota\n[+] not draining\n");
        quota.met();
        assert!(health.is_ready());
        health.drain();
        assert!(!health.is_ready());
    }

    #[test]
    fn live_up_to_the_limit_after_a_beat_and_not_beyond() {
        let t0 = Instant::now();
        let health = Health::new(t0);
        let ms = Duration::from_millis(1);
        assert!(health.is_live(t0 + LIVE_WITHIN));
        assert!(!health.is_live(t0 + LIVE_WITHIN + ms));
        health.beat(t0 + LIVE_WITHIN);
        assert!(health.is_live(t0 + LIVE_WITHIN * 2));
        assert!(!health.is_live(t0 + LIVE_WITHIN * 2 + ms));
        health.beat(t0);
        assert!(health.is_live(t0 + LIVE_WITHIN * 2), "an older beat takes nothing back");
        health.drain();
        assert!(health.is_live(t0 + LIVE_WITHIN * 2), "draining is alive");
    }
}

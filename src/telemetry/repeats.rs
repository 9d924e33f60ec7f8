//! A limit on warnings that repeat.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Lets the first line of each key through, then one each `every`, and says how many it held back. Pure: `now` is given.
#[derive(Debug)]
pub struct Repeats<K> {
    every: Duration,
    capacity: usize,
    keys: BTreeMap<K, Seen>,
}

#[derive(Debug)]
struct Seen {
    said: Instant,
    held_back: u64,
}

impl<K: Ord + Clone> Repeats<K> {
    /// Remembers at most `capacity` keys (one at least); the one said longest ago makes room.
    #[must_use]
    pub fn new(every: Duration, capacity: usize) -> Self {
        Self { every, capacity: capacity.max(1), keys: BTreeMap::new() }
    }

    /// Whether a line of this key may be written now: `Some(n)` where `n` of them were held back since the last.
    pub fn allow(&mut self, key: K, now: Instant) -> Option<u64> {
        if let Some(seen) = self.keys.get_mut(&key) {
            if now.saturating_duration_since(seen.said) < self.every {
                seen.held_back = seen.held_back.saturating_add(1);
                return None;
            }
            seen.said = now;
            return Some(std::mem::take(&mut seen.held_back));
        }
        if self.keys.len() >= self.capacity {
            let oldest = self.keys.iter().min_by_key(|(_, seen)| seen.said);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.keys.remove(&oldest);
            }
        }
        self.keys.insert(key, Seen { said: now, held_back: 0 });
        Some(0)
    }

    /// Forgets a key whose trouble is over: its next line is news again. Returns how many lines were held back.
    pub fn forget(&mut self, key: &K) -> u64 {
        self.keys.remove(key).map_or(0, |seen| seen.held_back)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // any instant will do as the start of the test's time
mod tests {
    use super::*;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn one_line_per_interval_and_the_rest_is_counted() {
        let t0 = Instant::now();
        let mut repeats = Repeats::new(secs(60), 8);
        assert_eq!(repeats.allow("a", t0), Some(0));
        assert_eq!(repeats.allow("a", t0 + secs(1)), None);
        assert_eq!(repeats.allow("b", t0 + secs(1)), Some(0));
        assert_eq!(repeats.allow("a", t0 + Duration::from_millis(59_999)), None);
        assert_eq!(repeats.allow("a", t0 + secs(60)), Some(2));
        assert_eq!(repeats.allow("a", t0 + secs(61)), None);
        assert_eq!(repeats.allow("a", t0 + secs(120)), Some(1));
    }

    #[test]
    fn what_is_over_is_news_again() {
        let t0 = Instant::now();
        let mut repeats = Repeats::new(secs(60), 8);
        assert_eq!(repeats.allow("a", t0), Some(0));
        assert_eq!(repeats.allow("a", t0), None);
        assert_eq!(repeats.forget(&"a"), 1);
        assert_eq!(repeats.forget(&"a"), 0);
        assert_eq!(repeats.allow("a", t0), Some(0));
    }

    #[test]
    fn memory_is_bounded() {
        let t0 = Instant::now();
        let mut repeats = Repeats::new(secs(60), 2);
        assert_eq!(repeats.allow(1, t0), Some(0));
        assert_eq!(repeats.allow(2, t0 + secs(1)), Some(0));
        assert_eq!(repeats.allow(3, t0 + secs(2)), Some(0));
        assert_eq!(repeats.keys.len(), 2);
        assert_eq!(repeats.allow(2, t0 + secs(3)), None, "the oldest went, not this one");
        assert_eq!(repeats.allow(1, t0 + secs(3)), Some(0));
    }
}

//! How long a message waits before it is tried again.
//!
//! All delays are a function of the message and the attempt: no random source, so a simulation gives the same run
//! twice, and two messages that failed together still come back apart. None of them is ever zero, because a negative
//! acknowledgement without delay comes back at once and turns in a hot loop.

use std::time::Duration;

/// The first of the growing delays; long enough that a broken target is not called in a tight loop.
pub const GROWING_BASE: Duration = Duration::from_secs(1);
/// The last of the growing delays: a repaired target is noticed within a minute.
pub const GROWING_CAP: Duration = Duration::from_secs(60);
/// The longest pause that an answer may ask for: something on the way may ask for a day.
pub const LONGEST_ASKED: Duration = Duration::from_secs(60);
/// The first delay after a refusal by the quota.
pub const REFUSED_BASE: Duration = Duration::from_millis(250);
/// The last delay after a refusal by the quota. The gate keeps such messages from being fetched in vain, so the delay
/// need not; a long one would leave room unused when the refused message is the last in the stream.
pub const REFUSED_CAP: Duration = Duration::from_secs(4);
/// The delay of what is only handed to somebody else: at a shutdown, a lost lease, a record that lags.
pub const SHORT: Duration = Duration::from_millis(200);
/// The longest wait before a refusal that contradicts the view is tried again: admission lags by 6 to 23 ms.
pub const PAUSE: Duration = Duration::from_millis(25);

/// The delay before attempt `attempt + 1` of a message that failed: 1 s, doubled with each attempt up to 60 s, of
/// which the second half is jitter.
#[must_use]
pub fn delay(attempt: u64, seed: u64) -> Duration {
    grow(GROWING_BASE, GROWING_CAP, attempt, seed)
}

/// The delay of a message that the quota refused: 250 ms doubled up to 4 s, of which the second half is jitter.
#[must_use]
pub fn refused(attempt: u64, seed: u64) -> Duration {
    grow(REFUSED_BASE, REFUSED_CAP, attempt, seed)
}

/// The delay of a message that is only handed on: 100 to 200 ms.
#[must_use]
pub fn short(attempt: u64, seed: u64) -> Duration {
    jitter(SHORT, SHORT / 2, attempt, seed)
}

/// The pause before a create is tried again with its number in hand: 10 to 25 ms.
#[must_use]
pub fn pause(attempt: u64, seed: u64) -> Duration {
    jitter(PAUSE, PAUSE * 2 / 5, attempt, seed)
}

/// The pause before a failed call is made again within one delivery: `base`, doubled up to `cap`, of which the second
/// half is jitter.
#[must_use]
pub fn grow(base: Duration, cap: Duration, attempt: u64, seed: u64) -> Duration {
    // 2^20 times a base of a millisecond is beyond every cap.
    let doublings = u32::try_from(attempt.saturating_sub(1).min(20)).unwrap_or(20);
    let full = base.saturating_mul(1 << doublings).min(cap);
    jitter(full, full / 2, attempt, seed)
}

/// A value in `[low, high]` that depends on nothing but attempt and seed.
fn jitter(high: Duration, low: Duration, attempt: u64, seed: u64) -> Duration {
    let spread = u64::try_from(high.saturating_sub(low).as_nanos()).unwrap_or(u64::MAX);
    let drawn = mix(seed ^ mix(attempt)) % spread.saturating_add(1).max(1);
    low + Duration::from_nanos(drawn)
}

/// The finalizer of SplitMix64: every bit of the input moves every bit of the output.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delays_grow_to_their_cap() {
        let bounds = [(0, 500, 1_000), (1, 500, 1_000), (2, 1_000, 2_000), (6, 16_000, 32_000), (7, 30_000, 60_000)];
        for (attempt, low, high) in bounds {
            for seed in 0..100 {
                let got = delay(attempt, seed).as_millis();
                assert!((low..=high).contains(&got), "attempt {attempt}: {got} ms");
            }
        }
        assert!(delay(u64::MAX, 7) >= GROWING_CAP / 2);
    }

    #[test]
    fn two_messages_that_fail_together_come_back_apart() {
        let mut delays: Vec<_> = (0..1_000).map(|seed| delay(7, seed)).collect();
        delays.sort();
        // 1,000 messages over 30 s: no fortieth of the span holds more than a tenth of them.
        for slot in 0..40_u32 {
            let from = Duration::from_secs(30) + Duration::from_millis(750) * slot;
            let in_slot = delays.iter().filter(|d| **d >= from && **d < from + Duration::from_millis(750)).count();
            assert!(in_slot < 100, "{in_slot} in slot {slot}");
        }
    }

    proptest! {
        #[test]
        fn never_zero_never_above_the_cap_and_the_same_twice(attempt: u64, seed: u64) {
            for (of, cap) in [
                (delay as fn(u64, u64) -> Duration, GROWING_CAP), (refused, REFUSED_CAP), (short, SHORT), (pause, PAUSE),
            ] {
                let got = of(attempt, seed);
                prop_assert!(got >= Duration::from_millis(10) && got <= cap);
                prop_assert_eq!(got, of(attempt, seed));
            }
        }
    }
}

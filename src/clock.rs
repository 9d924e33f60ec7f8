//! The only reader of clocks, and of the system's randomness.
#![allow(clippy::disallowed_methods)]

use std::time::Instant;

/// The monotonic time, from which every age and deadline of this process is computed.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Wall time, for Kubernetes timestamps and logs alone: two machines' clocks are never compared.
#[must_use]
pub fn wall() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Another number at each call, for names that nobody had before and for pauses: the standard library seeds this from
/// the system's randomness.
#[must_use]
pub fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

//! The only reader of clocks.
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

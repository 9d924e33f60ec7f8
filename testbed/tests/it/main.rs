//! The test bed on its own: every promise that other tests rely on, shown on the real processes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::time::Duration;

mod build;
mod control_plane;
mod demo;
mod faults;
mod guard;
mod http_proxy;
mod nats;
mod proxy;
mod referee;

/// Long enough for a busy machine; every wait ends as soon as its condition holds.
const SOON: Duration = Duration::from_secs(30);

//! The main job on the real parts: a real API server, etcd, quota controller and nats-server, and the real program.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs
)]

mod answers;
mod bad_settings;
mod burst;
mod churn;
mod effects;
mod election;
mod faults;
mod flow;
mod input;
mod lacks;
mod logins;
mod metrics;
#[path = "../common/operator.rs"]
mod operator;
mod places;
mod poison;
mod quota_truth;
mod reasons;
mod record;
mod rights;
mod shutdown;
mod support;
mod triggers;
mod two_servers;
mod verdict;
mod weaker;

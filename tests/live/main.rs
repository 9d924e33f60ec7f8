//! The main job on the real parts: a real API server, etcd, quota controller and nats-server, and the real program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::disallowed_methods, missing_docs)]

mod burst;
mod faults;
mod record;
mod shutdown;
mod support;
mod two_servers;
mod weaker;

//! jetgate lets work leave NATS JetStream only when Kubernetes has room for its effect.
//!
//! The folders `gate`, `ledger`, `message`, `episode`, `template` and `wire` decide and are pure: no clock, no
//! I/O, `now` is an argument. `k8s` and `jetstream` are adapters. `sensor` and `leader` are the roles that wire them.

pub mod api;
pub mod cli;
pub mod clock;
pub mod episode;
pub mod gate;
pub mod jetstream;
pub mod k8s;
pub mod leader;
pub mod ledger;
pub mod message;
pub mod runtime;
pub mod sensor;
pub mod telemetry;
pub mod template;
pub mod wire;

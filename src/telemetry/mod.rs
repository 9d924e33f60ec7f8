//! Metrics, logs and the admin HTTP server.
//!
//! Nothing here decides anything: roles count into [`Metrics`], tell [`Health`] how they are, and write events with
//! `tracing`. The pure folders know none of it.

pub mod admin;
mod health;
mod labels;
mod listener;
pub mod logs;
mod metrics;
mod process;
mod series;
mod table;

pub use health::{Condition, Health, LIVE_WITHIN};
pub use labels::{
    AckResult, CreditState, LabelValue, Outcome, RefusalClass, TimeState, TriggerOutcome, WatchKind, WriteResult,
};
pub use metrics::{LeaderMetrics, Metrics, MetricsError, QuotaSample, SensorIdentity, SensorMetrics, WatchSample};
pub use series::{BlockedGauge, Counters, Gauges, MaybeGauge};
pub use table::{Kind, Label, LabelSpec, Metric, TABLE, Unit, markdown};

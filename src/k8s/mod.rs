//! Adapter to the Kubernetes API: client, discovery, create, reads, watches, Lease.
//!
//! What is absent, and why: no retries (who calls knows whether a second POST is safe, and a create that was sent twice
//! is charged to the quota twice), no caches and no reflector (the ledger and the record need every event, not the
//! newest state), no rule of the election (`ledger/election.rs`).

mod call;
mod client;
mod connector;
mod create;
mod discover;
mod error;
mod lease;
mod quota;
mod read;
mod sight;
mod watch;

pub use client::{Cluster, ClusterOptions, ConnectError, check_kubeconfig};
pub use discover::{DiscoverError, Kind};
pub use error::{CallError, DecodeError};
pub use lease::{LeaseClaim, LeaseView, LeaseWrite};
pub use quota::{QuotaEvent, QuotaFault};
pub use sight::Sight;
pub use watch::{ObjectEvent, Watch};

#[cfg(test)]
mod mock;
#[cfg(test)]
mod tests;

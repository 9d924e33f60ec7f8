//! The capacity signal: what the leader publishes about a quota for people, status and other programs.

use serde::{Deserialize, Serialize};

use crate::gate::{Quantity, Reason, ResourceName};

/// One resource of the quota in the signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceSignal {
    /// The key of the quota's hard list.
    pub resource: ResourceName,
    /// The smaller of spec.hard and status.hard.
    pub hard: Quantity,
    /// From the quota's status.
    pub used: Quantity,
    /// Objects of the counted kind that exist; null where they cannot be watched.
    pub live: Option<u64>,
    /// hard x ratio; with several ratios in use, the largest.
    pub limit: Quantity,
    /// limit less what is used, live and out.
    pub headroom: Quantity,
    /// Credits that are out.
    pub credits: u64,
    /// Where the objects cannot be watched: `used` with a settle time is all that is counted, which is weaker.
    pub weaker: bool,
}

/// The value of the key `<namespace>.<quota>` in the bucket `jetgate-capacity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Version of this form.
    pub v: u32,
    /// The quota's namespace.
    pub namespace: String,
    /// The quota.
    pub quota: String,
    /// Its resources that a sensor respects.
    pub resources: Vec<ResourceSignal>,
    /// Why a sensor with these terms would be blocked now.
    pub reason: Option<Reason>,
    /// The quota's resourceVersion; 0 where it is missing.
    pub resource_version: u64,
    /// The leader's epoch.
    pub epoch: u64,
    /// Rises with each signal of an epoch.
    pub seq: u64,
}

impl Signal {
    /// Whether two signals tell the same, their sequence aside.
    #[must_use]
    pub fn tells_the_same(&self, other: &Self) -> bool {
        let mut other = other.clone();
        other.seq = self.seq;
        *self == other
    }
}

//! Stand-ins until the pure folders have these.
#![allow(missing_docs)]
use std::{collections::BTreeMap, time::Duration};
pub const MESSAGE_ANNOTATION: &str = "jetgate.dev/message";
pub const CREDIT_ANNOTATION: &str = "jetgate.dev/credit";
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiStatus {
    pub code: u16,
    pub reason: String,
    pub message: String,
    pub kind: String,
    pub group: String,
    pub name: String,
    pub causes: Vec<Cause>,
    pub retry_after: Option<Duration>,
}
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaView {
    pub name: String,
    pub uid: String,
    pub resource_version: u64,
    pub scoped: bool,
    pub spec_hard: BTreeMap<String, String>,
    pub status_hard: Option<BTreeMap<String, String>>,
    pub used: BTreeMap<String, String>,
}
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ResourceQuota `{quota}`, resource `{resource}`")]
pub struct QuotaError {
    pub quota: String,
    pub resource: String,
}
impl QuotaView {
    pub fn from_parts(
        name: impl Into<String>,
        uid: impl Into<String>,
        resource_version: &str,
        scoped: bool,
        spec_hard: BTreeMap<String, String>,
        status_hard: Option<BTreeMap<String, String>>,
        used: BTreeMap<String, String>,
    ) -> Result<Self, QuotaError> {
        let name = name.into();
        if let Some((resource, _)) = spec_hard.iter().find(|(_, value)| value.starts_with("bad")) {
            return Err(QuotaError { quota: name, resource: resource.clone() });
        }
        Ok(Self {
            name,
            uid: uid.into(),
            resource_version: resource_version.parse().unwrap_or(0),
            scoped,
            spec_hard,
            status_hard,
            used,
        })
    }
}

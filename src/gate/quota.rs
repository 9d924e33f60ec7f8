//! What a ResourceQuota says, and what may be concluded from it.

use std::collections::BTreeMap;

use serde::Serialize;
use thiserror::Error;

use super::{Quantity, QuantityError, Reason, ResourceName, ResourceNameError};

/// A ResourceQuota as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuotaView {
    /// Its name.
    pub name: String,
    /// Its uid: another one of the same name is another quota.
    pub uid: String,
    /// The revision of this view, by which two views are ordered.
    pub resource_version: u64,
    /// Whether it has scopes or a scope selector: then it bounds some pods or claims, never other objects.
    pub scoped: bool,
    /// What the user asks for.
    pub spec_hard: BTreeMap<ResourceName, Quantity>,
    /// What the API server enforces; none, or empty, until the quota controller has calculated it.
    pub status_hard: Option<BTreeMap<ResourceName, Quantity>>,
    /// What is in use.
    pub used: BTreeMap<ResourceName, Quantity>,
}

/// What a quota says about one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// The smaller one of what is asked for and what is enforced.
    pub hard: Quantity,
    /// What is in use, never below zero.
    pub used: Quantity,
    /// Whether what is asked for is not (yet) what is enforced.
    pub spec_differs: bool,
}

/// Why a ResourceQuota cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuotaError {
    /// A key of one of its lists.
    #[error("ResourceQuota `{quota}`")]
    Resource {
        /// The quota's name.
        quota: String,
        /// What is wrong with the key.
        source: ResourceNameError,
    },
    /// A value of one of its lists.
    #[error("ResourceQuota `{quota}`, resource `{resource}`")]
    Quantity {
        /// The quota's name.
        quota: String,
        /// The key of the value.
        resource: String,
        /// What is wrong with the value.
        source: QuantityError,
    },
    /// Its resourceVersion is no number.
    #[error("ResourceQuota `{quota}` has the resourceVersion `{version}`, which is not a number")]
    Version {
        /// The quota's name.
        quota: String,
        /// What was read.
        version: String,
        /// What the parser says.
        source: std::num::ParseIntError,
    },
}

impl QuotaView {
    /// Reads the parts of a ResourceQuota as the API server sends them.
    ///
    /// # Errors
    /// Where a key, a value or the version is not what Kubernetes writes. Nothing is left out silently: a key that
    /// is missing has a meaning of its own.
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
        let resource_version = resource_version
            .parse()
            .map_err(|source| QuotaError::Version {
                quota: name.clone(),
                version: resource_version.to_owned(),
                source,
            })?;
        let spec_hard = amounts(&name, spec_hard)?;
        let status_hard = status_hard.map(|hard| amounts(&name, hard)).transpose()?;
        let used = amounts(&name, used)?;
        Ok(Self {
            name,
            uid: uid.into(),
            resource_version,
            scoped,
            spec_hard,
            status_hard,
            used,
        })
    }

    /// What it says about a resource, whatever its scopes.
    ///
    /// A key in the status alone is still enforced, and so still bounds. A key in the spec alone is about to be.
    ///
    /// # Errors
    /// [`Reason::ResourceMissing`] where neither list has the key, [`Reason::StatusUnknown`] where it is not
    /// calculated yet: hard not taken over into the status, or nothing said about what is in use.
    pub fn reading(&self, resource: &ResourceName) -> Result<Reading, Reason> {
        let asked = self.spec_hard.get(resource).copied();
        let enforced = self.enforced(resource);
        let (hard, spec_differs) = match (asked, enforced) {
            (None, None) => return Err(Reason::ResourceMissing),
            (Some(_), None) => return Err(Reason::StatusUnknown),
            (None, Some(enforced)) => (enforced, true),
            (Some(asked), Some(enforced)) => (asked.min(enforced), asked != enforced),
        };
        let used = self
            .used
            .get(resource)
            .copied()
            .ok_or(Reason::StatusUnknown)?;
        let (hard, used) = if resource.is_object_count() {
            (hard.floor(), used.ceil())
        } else {
            (hard, used)
        };
        Ok(Reading {
            hard,
            // A negative `used`, which the quota controller can show for a moment, must not become room.
            used: used.max(Quantity::ZERO),
            spec_differs,
        })
    }

    /// Whether it bounds the resource for everybody in its namespace: it has no scopes, and names the resource.
    #[must_use]
    pub fn tracks(&self, resource: &ResourceName) -> bool {
        !self.scoped && self.names(resource)
    }

    /// Whether its spec or its status has the key.
    pub(super) fn names(&self, resource: &ResourceName) -> bool {
        self.spec_hard.contains_key(resource) || self.enforced(resource).is_some()
    }

    fn enforced(&self, resource: &ResourceName) -> Option<Quantity> {
        self.status_hard.as_ref()?.get(resource).copied()
    }
}

fn amounts(
    quota: &str,
    texts: BTreeMap<String, String>,
) -> Result<BTreeMap<ResourceName, Quantity>, QuotaError> {
    texts
        .into_iter()
        .map(|(resource, amount)| {
            let name = ResourceName::new(&resource).map_err(|source| QuotaError::Resource {
                quota: quota.to_owned(),
                source,
            })?;
            let amount = Quantity::parse(&amount).map_err(|source| QuotaError::Quantity {
                quota: quota.to_owned(),
                resource,
                source,
            })?;
            Ok((name, amount))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    const COUNT: &str = "count/workflows.argoproj.io";

    fn list(amount: Option<&str>) -> BTreeMap<String, String> {
        amount
            .map(|amount| (COUNT.to_owned(), amount.to_owned()))
            .into_iter()
            .collect()
    }

    fn view(spec: Option<&str>, status: Option<&str>, used: Option<&str>) -> QuotaView {
        QuotaView::from_parts(
            "team",
            "u1",
            "7",
            false,
            list(spec),
            Some(list(status)),
            list(used),
        )
        .unwrap()
    }

    fn read(
        spec: Option<&str>,
        status: Option<&str>,
        used: Option<&str>,
    ) -> Result<(String, String, bool), Reason> {
        view(spec, status, used)
            .reading(&COUNT.parse().unwrap())
            .map(|reading| {
                (
                    reading.hard.to_string(),
                    reading.used.to_string(),
                    reading.spec_differs,
                )
            })
    }

    fn says(hard: &str, used: &str, differs: bool) -> Result<(String, String, bool), Reason> {
        Ok((hard.to_owned(), used.to_owned(), differs))
    }

    #[test]
    fn hard_is_the_smaller_one() {
        assert_eq!(
            read(Some("75"), Some("75"), Some("3")),
            says("75", "3", false)
        );
        assert_eq!(
            read(Some("50"), Some("75"), Some("3")),
            says("50", "3", true)
        );
        assert_eq!(
            read(Some("75"), Some("50"), Some("3")),
            says("50", "3", true)
        );
        assert_eq!(
            read(Some("1k"), Some("1000"), Some("1e3")),
            says("1k", "1k", false)
        );
        assert_eq!(read(Some("5"), Some("5"), Some("9")), says("5", "9", false));
        assert_eq!(read(Some("0"), Some("0"), Some("0")), says("0", "0", false));
    }

    #[test]
    fn what_is_missing_is_unknown_and_not_zero() {
        assert_eq!(read(None, None, None), Err(Reason::ResourceMissing));
        assert_eq!(read(None, None, Some("3")), Err(Reason::ResourceMissing));
        assert_eq!(read(Some("5"), None, None), Err(Reason::StatusUnknown));
        assert_eq!(read(Some("5"), None, Some("3")), Err(Reason::StatusUnknown));
        assert_eq!(read(Some("5"), Some("5"), None), Err(Reason::StatusUnknown));
        assert_eq!(read(None, Some("5"), Some("3")), says("5", "3", true));
        assert_eq!(read(None, Some("5"), None), Err(Reason::StatusUnknown));
    }

    #[test]
    fn a_status_that_is_not_there_is_like_an_empty_one() {
        let mut quota = view(Some("5"), None, None);
        let resource = COUNT.parse().unwrap();
        quota.status_hard = None;
        assert_eq!(quota.reading(&resource), Err(Reason::StatusUnknown));
        assert!(quota.tracks(&resource));
        let other = "pods".parse().unwrap();
        assert_eq!(quota.reading(&other), Err(Reason::ResourceMissing));
        assert!(!quota.tracks(&other));
    }

    #[test]
    fn a_negative_use_is_no_room() {
        assert_eq!(
            read(Some("5"), Some("5"), Some("-2")),
            says("5", "0", false)
        );
    }

    #[test]
    fn objects_are_read_whole() {
        assert_eq!(
            read(Some("5500m"), Some("5500m"), Some("1100m")),
            says("5", "2", false)
        );
    }

    #[test]
    fn a_scoped_quota_bounds_nobody_else() {
        let mut quota = view(Some("5"), Some("5"), Some("0"));
        let resource = COUNT.parse().unwrap();
        assert!(quota.tracks(&resource));
        quota.scoped = true;
        assert!(!quota.tracks(&resource));
    }

    #[test]
    fn errors_name_quota_and_key() {
        let parts = |version: &str, key: &str, amount: &str| {
            let hard = BTreeMap::from([(key.to_owned(), amount.to_owned())]);
            QuotaView::from_parts("team", "u1", version, false, hard, None, BTreeMap::new())
                .unwrap_err()
        };
        let error = parts("7", "pods", "5K");
        assert_eq!(error.to_string(), "ResourceQuota `team`, resource `pods`");
        assert!(error.source().unwrap().to_string().contains("`5K`"));
        assert!(matches!(
            parts("7", "po ds", "5"),
            QuotaError::Resource { .. }
        ));
        assert!(matches!(
            parts("x", "pods", "5"),
            QuotaError::Version { .. }
        ));
    }
}

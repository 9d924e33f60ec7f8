//! Names of the resources that a quota counts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest part behind the slash, and longest label, of a Kubernetes name.
const MAX_NAME: usize = 63;
/// Longest prefix in front of the slash.
const MAX_PREFIX: usize = 253;

/// Resources beside `count/...` that are counted in whole objects.
const OBJECTS: [&str; 9] = [
    "pods",
    "services",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
    "services.loadbalancers",
    "services.nodeports",
];

/// What the name of a storage class stands in front of, where its claims are counted.
const CLAIMS_OF_CLASS: &str = ".storageclass.storage.k8s.io/persistentvolumeclaims";

/// A key of a quota's hard list, such as `count/workflows.argoproj.io`, `pods` or `requests.cpu`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceName(String);

/// The kind whose objects a `count/...` resource counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counted {
    /// The plural of the kind, such as `workflows`.
    pub plural: String,
    /// Its API group, empty for the core group.
    pub group: String,
}

/// Why a text is no name of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{name}` is not the name of a resource: {problem}; allowed are names such as count/workflows.argoproj.io, pods or requests.cpu"
)]
pub struct ResourceNameError {
    /// What was read.
    pub name: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl ResourceName {
    /// Checks a name by the rules of Kubernetes: an optional DNS prefix with a slash, and a qualified name.
    ///
    /// # Errors
    /// Where a rule is broken, with the rule.
    pub fn new(name: &str) -> Result<Self, ResourceNameError> {
        match problem(name) {
            None => Ok(Self(name.to_owned())),
            Some(problem) => Err(ResourceNameError {
                name: name.to_owned(),
                problem,
            }),
        }
    }

    /// The name as quotas write it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kind that is counted, for `count/<plural>[.<group>]`; none for every other resource.
    #[must_use]
    pub fn counted(&self) -> Option<Counted> {
        let kind = self.0.strip_prefix("count/")?;
        let (plural, group) = kind.split_once('.').unwrap_or((kind, ""));
        Some(Counted {
            plural: plural.to_owned(),
            group: group.to_owned(),
        })
    }

    /// Whether it is counted in whole objects; else it is divisible, as cpu and memory are.
    #[must_use]
    pub fn is_object_count(&self) -> bool {
        self.0.starts_with("count/")
            || OBJECTS.contains(&self.as_str())
            || self.0.ends_with(CLAIMS_OF_CLASS)
    }

    /// Whether a quota with scopes can count it at all: pods, claims, and what is divided among them.
    ///
    /// Kubernetes refuses a scoped quota that names any other resource.
    #[must_use]
    pub fn may_be_scoped(&self) -> bool {
        !self.is_object_count()
            || self.0 == "pods"
            || self.0 == "persistentvolumeclaims"
            || self.0.ends_with(CLAIMS_OF_CLASS)
    }
}

/// The rule that a name breaks, if any.
fn problem(name: &str) -> Option<&'static str> {
    let (prefix, rest) = match name.split_once('/') {
        Some((prefix, rest)) => (Some(prefix), rest),
        None => (None, name),
    };
    let alphanumeric_ends = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    if let Some(prefix) = prefix {
        let label = |label: &str| {
            alphanumeric_ends(label)
                && label
                    .bytes()
                    .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        };
        if prefix.is_empty() {
            return Some("the part in front of the slash is empty");
        }
        if prefix.len() > MAX_PREFIX {
            return Some("the part in front of the slash is longer than 253 characters");
        }
        if !prefix.split('.').all(label) {
            return Some(
                "the part in front of the slash must be lower-case letters, digits, `-` and `.`, as in a DNS name",
            );
        }
    }
    if rest.is_empty() {
        return Some("the name is empty");
    }
    if rest.contains('/') {
        return Some("it has more than one slash");
    }
    if rest.len() > MAX_NAME {
        return Some("the name is longer than 63 characters");
    }
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !rest.bytes().all(inner) || !alphanumeric_ends(rest) {
        return Some(
            "the name must be letters, digits, `-`, `_` and `.`, and begin and end with a letter or digit",
        );
    }
    None
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ResourceName {
    type Err = ResourceNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<String> for ResourceName {
    type Error = ResourceNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl From<ResourceName> for String {
    fn from(name: ResourceName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ResourceName {
        ResourceName::new(text).unwrap()
    }

    #[test]
    fn names_of_quotas_are_taken() {
        for text in [
            "count/workflows.argoproj.io",
            "count/jobs.batch",
            "count/pods",
            "pods",
            "requests.cpu",
            "limits.memory",
            "requests.nvidia.com/gpu",
            "gold.storageclass.storage.k8s.io/requests.storage",
            "hugepages-2Mi",
            "requests.hugepages-1Gi",
            "services.loadbalancers",
        ] {
            assert_eq!(name(text).as_str(), text);
        }
    }

    #[test]
    fn other_names_are_refused_with_the_rule() {
        for (text, rule) in [
            ("", "empty"),
            ("/pods", "in front of the slash is empty"),
            ("count/", "the name is empty"),
            ("Count/pods", "lower-case"),
            ("count./pods", "lower-case"),
            ("-count/pods", "lower-case"),
            ("a/b/c", "more than one slash"),
            ("pods ", "begin and end"),
            ("pods=1", "letters, digits"),
            (".pods", "begin and end"),
            ("größe", "letters, digits"),
        ] {
            let error = ResourceName::new(text).unwrap_err().to_string();
            assert!(error.contains(rule), "{text}: {error}");
            assert!(error.contains("count/workflows.argoproj.io"));
        }
        assert!(ResourceName::new(&"a".repeat(63)).is_ok());
        assert!(ResourceName::new(&"a".repeat(64)).is_err());
        assert!(ResourceName::new(&format!("{}a/x", "a.".repeat(126))).is_ok());
        assert!(ResourceName::new(&format!("{}aa/x", "a.".repeat(126))).is_err());
    }

    #[test]
    fn the_counted_kind_is_named() {
        let counted = |plural: &str, group: &str| {
            Some(Counted {
                plural: plural.to_owned(),
                group: group.to_owned(),
            })
        };
        assert_eq!(
            name("count/workflows.argoproj.io").counted(),
            counted("workflows", "argoproj.io")
        );
        assert_eq!(name("count/jobs.batch").counted(), counted("jobs", "batch"));
        assert_eq!(name("count/pods").counted(), counted("pods", ""));
        assert_eq!(name("pods").counted(), None);
        assert_eq!(name("requests.cpu").counted(), None);
    }

    #[test]
    fn objects_are_told_from_what_can_be_divided() {
        for text in OBJECTS {
            assert!(name(text).is_object_count(), "{text}");
        }
        for text in [
            "count/jobs.batch",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims",
        ] {
            assert!(name(text).is_object_count(), "{text}");
        }
        for text in [
            "requests.cpu",
            "limits.memory",
            "cpu",
            "requests.nvidia.com/gpu",
            "requests.storage",
        ] {
            assert!(!name(text).is_object_count(), "{text}");
        }
    }

    #[test]
    fn scopes_reach_pods_and_claims_alone() {
        for text in [
            "pods",
            "persistentvolumeclaims",
            "requests.cpu",
            "limits.memory",
        ] {
            assert!(name(text).may_be_scoped(), "{text}");
        }
        for text in ["count/jobs.batch", "count/pods", "secrets", "services"] {
            assert!(!name(text).may_be_scoped(), "{text}");
        }
    }
}

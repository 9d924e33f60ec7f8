//! From `apiVersion` and `kind`, or from a plural and its group, to the place where objects are created.

use serde::Deserialize;
use thiserror::Error;

use super::{call::Address, client::Cluster, error::CallError};

/// A kind of object and where its collection is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Its group; empty for the core group.
    pub group: String,
    /// Its version.
    pub version: String,
    /// Its name in documents: `Workflow`.
    pub kind: String,
    /// Its name in addresses and quotas: `workflows`.
    pub plural: String,
    /// Do its objects live in namespaces?
    pub namespaced: bool,
}

impl Kind {
    /// `group/version`, or the version alone for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        join(&self.group, &self.version)
    }
}

/// Why a kind was not found.
#[derive(Debug, Error)]
pub enum DiscoverError {
    /// Not of the form of an apiVersion.
    #[error("apiVersion {0:?} is not of the form \"version\" or \"group/version\"")]
    ApiVersion(String),
    /// No such group.
    #[error("the API server has no group {0:?}: is its CustomResourceDefinition installed?")]
    Group(String),
    /// The group is there, the version is not.
    #[error("the API server serves {} as {}, not {version:?}", group_name(.group), .served.join(", "))]
    Version {
        /// The group asked for.
        group: String,
        /// The version asked for.
        version: String,
        /// The versions that exist.
        served: Vec<String>,
    },
    /// Group and version are there, the kind is not.
    #[error("{api_version} has no kind {kind:?}{}", suggestion(.nearest))]
    Kind {
        /// Group and version.
        api_version: String,
        /// The kind asked for.
        kind: String,
        /// The kinds of this group and version with similar names.
        nearest: Vec<String>,
    },
    /// The group is there, the plural is not.
    #[error("{} has no resource {plural:?}{}", group_name(.group), suggestion(.nearest))]
    Plural {
        /// The group.
        group: String,
        /// The plural asked for.
        plural: String,
        /// The resources of the group with similar names.
        nearest: Vec<String>,
    },
    /// The question itself failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl Cluster {
    /// The kind that a document's `apiVersion` and `kind` name.
    pub async fn discover(&self, api_version: &str, kind: &str) -> Result<Kind, DiscoverError> {
        let (group, version) = split(api_version).ok_or_else(|| DiscoverError::ApiVersion(api_version.to_owned()))?;
        let Some(resources) = self.resources(group, version).await? else {
            let served = self.versions(group).await?;
            return Err(DiscoverError::Version { group: group.to_owned(), version: version.to_owned(), served });
        };
        resources.iter().find(|resource| resource.kind == kind).map_or_else(
            || {
                Err(DiscoverError::Kind {
                    api_version: api_version.to_owned(),
                    kind: kind.to_owned(),
                    nearest: nearest(kind, resources.iter().map(|resource| resource.kind.as_str())),
                })
            },
            |resource| Ok(resource.to_kind(group, version)),
        )
    }

    /// The kind that a quota's `count/<plural>.<group>` names, in the version that the server prefers.
    pub async fn discover_plural(&self, plural: &str, group: &str) -> Result<Kind, DiscoverError> {
        let mut names = Vec::new();
        for version in self.versions(group).await? {
            let resources = self.resources(group, &version).await?.unwrap_or_default();
            if let Some(resource) = resources.iter().find(|resource| resource.name == plural) {
                return Ok(resource.to_kind(group, &version));
            }
            names.extend(resources.into_iter().map(|resource| resource.name));
        }
        Err(DiscoverError::Plural {
            group: group.to_owned(),
            plural: plural.to_owned(),
            nearest: nearest(plural, names.iter().map(String::as_str)),
        })
    }

    /// What a group serves in a version, without subresources; None where there is no such group or version.
    async fn resources(&self, group: &str, version: &str) -> Result<Option<Vec<Resource>>, CallError> {
        let address = if group.is_empty() { Address::new("/api") } else { Address::new("/apis").segment(group) };
        let list: Option<Resources> = self.ask(address.segment(version)).await?;
        Ok(list.map(|list| list.resources.into_iter().filter(|resource| !resource.name.contains('/')).collect()))
    }

    /// The versions of a group, the preferred one first.
    async fn versions(&self, group: &str) -> Result<Vec<String>, DiscoverError> {
        if group.is_empty() {
            return Ok(vec!["v1".to_owned()]);
        }
        let found: Option<Group> = self.ask(Address::new("/apis").segment(group)).await?;
        let found = found.ok_or_else(|| DiscoverError::Group(group.to_owned()))?;
        let mut versions: Vec<String> = found.versions.into_iter().map(|served| served.version).collect();
        if let Some(preferred) = found.preferred_version {
            versions.sort_by_key(|version| *version != preferred.version);
        }
        Ok(versions)
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, address: Address) -> Result<Option<T>, CallError> {
        match self.read(address.get_json(), self.options().read_timeout).await {
            Ok(answer) => Ok(Some(answer)),
            Err(CallError::Refused(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    kind: String,
    #[serde(default)]
    namespaced: bool,
}

impl Resource {
    fn to_kind(&self, group: &str, version: &str) -> Kind {
        Kind {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: self.kind.clone(),
            plural: self.name.clone(),
            namespaced: self.namespaced,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    #[serde(default)]
    versions: Vec<Served>,
    preferred_version: Option<Served>,
}

#[derive(Deserialize)]
struct Served {
    version: String,
}

/// `group/version`, or a version alone.
fn split(api_version: &str) -> Option<(&str, &str)> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let named = api_version.contains('/') != group.is_empty();
    (named && !version.is_empty() && !version.contains('/')).then_some((group, version))
}

fn join(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn group_name(group: &str) -> String {
    if group.is_empty() { "the core group".to_owned() } else { format!("group {group:?}") }
}

/// At most three names that somebody may have meant.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut similar: Vec<(f64, &str)> = names
        .map(|name| (strsim::jaro_winkler(&wanted, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= 0.85)
        .collect();
    similar.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    similar.dedup();
    similar.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

fn suggestion(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!(": did you mean {}?", nearest.join(" or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_versions() {
        assert_eq!(split("v1"), Some(("", "v1")));
        assert_eq!(split("argoproj.io/v1alpha1"), Some(("argoproj.io", "v1alpha1")));
        for bad in ["", "/", "/v1", "argoproj.io/", "a/b/c"] {
            assert_eq!(split(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn errors_are_for_people() {
        let kinds = ["Workflow", "WorkflowTemplate", "CronWorkflow", "Sensor"];
        let error = DiscoverError::Kind {
            api_version: "argoproj.io/v1alpha1".to_owned(),
            kind: "workflow".to_owned(),
            nearest: nearest("workflow", kinds.into_iter()),
        };
        assert_eq!(
            error.to_string(),
            "argoproj.io/v1alpha1 has no kind \"workflow\": did you mean Workflow or WorkflowTemplate?"
        );
        let error =
            DiscoverError::Version { group: String::new(), version: "v2".to_owned(), served: vec!["v1".to_owned()] };
        assert_eq!(error.to_string(), "the API server serves the core group as v1, not \"v2\"");
        assert!(nearest("Banana", kinds.into_iter()).is_empty());
    }
}

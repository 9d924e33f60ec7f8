//! The kinds that every control plane of the bed knows.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

/// A kind of objects, as referees and finishers need it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resource {
    /// API group; empty for the core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Plural, as in paths.
    pub plural: String,
}

impl Resource {
    /// Any kind.
    pub fn new(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned(), plural: plural.to_owned() }
    }

    /// The demo's Workflow (`count/workflows.argoproj.io`).
    pub fn workflows() -> Self {
        Self::new("argoproj.io", "v1alpha1", "Workflow", "workflows")
    }

    /// A kind whose `spec.size` must be an integer of at least 0 (`count/widgets.example.com`).
    pub fn widgets() -> Self {
        Self::new("example.com", "v1", "Widget", "widgets")
    }

    /// `group/version`, or the version alone for the core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Its key in a quota's hard list.
    pub fn quota_key(&self) -> String {
        if self.group.is_empty() {
            format!("count/{}", self.plural)
        } else {
            format!("count/{}.{}", self.plural, self.group)
        }
    }

    /// For kube's dynamic API.
    pub fn api_resource(&self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(&self.group, &self.version, &self.kind), &self.plural)
    }

    /// A small object of it.
    pub fn object(&self, name: &str) -> Value {
        json!({
            "apiVersion": self.api_version(),
            "kind": self.kind,
            "metadata": {"name": name},
            "spec": {},
        })
    }
}

/// The CustomResourceDefinition of a kind, with the given schema of its spec.
pub fn definition(resource: &Resource, spec: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{}", resource.plural, resource.group)},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced",
            "names": {
                "kind": resource.kind,
                "plural": resource.plural,
                "singular": resource.kind.to_lowercase(),
                "listKind": format!("{}List", resource.kind),
            },
            "versions": [{
                "name": resource.version,
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": spec,
                        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    },
                }},
            }],
        },
    })
}

pub(super) fn standard() -> Vec<Value> {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let sized = json!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"size": {"type": "integer", "minimum": 0}},
    });
    vec![definition(&Resource::workflows(), &open), definition(&Resource::widgets(), &sized)]
}

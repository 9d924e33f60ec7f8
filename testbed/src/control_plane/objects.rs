//! What a test puts into the control plane: namespaces, quotas, rights, objects.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::{ControlPlane, Resource, ServiceAccount, api_server};
use crate::error::{Error, Result};
use crate::wait;

const SOON: Duration = Duration::from_secs(30);

static NAMESPACES: AtomicU64 = AtomicU64::new(0);

impl ControlPlane {
    /// A new namespace whose name begins with `prefix`, with its default service account where a controller manager
    /// makes one.
    pub async fn namespace(&self, prefix: &str) -> Result<String> {
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis()) % 100_000_000;
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{stamp}-{number}");
        let client = self.client().await?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = Namespace {
            metadata: kube::api::ObjectMeta { name: Some(name.clone()), ..Default::default() },
            ..Default::default()
        };
        namespaces
            .create(&PostParams::default(), &object)
            .await
            .map_err(Error::doing(format!("create namespace {name}")))?;
        if self.controller_manager.get().is_some() {
            let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = Api::namespaced(client, &name);
            wait::until_true("the default service account", SOON, || {
                let accounts = accounts.clone();
                async move { matches!(accounts.get_opt("default").await, Ok(Some(_))) }
            })
            .await?;
        }
        Ok(name)
    }

    /// A quota with this hard list; back when its status shows hard and used of every key.
    pub async fn quota(&self, namespace: &str, name: &str, hard: &[(&str, &str)]) -> Result<()> {
        self.quota_unready(namespace, name, hard).await?;
        self.quota_settled(namespace, name).await
    }

    /// As [`quota`](Self::quota), without waiting for its status.
    pub async fn quota_unready(&self, namespace: &str, name: &str, hard: &[(&str, &str)]) -> Result<()> {
        let hard: BTreeMap<_, _> = hard.iter().copied().collect();
        let object = json!({
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"hard": hard},
        });
        let object: ResourceQuota = serde_json::from_value(object).map_err(Error::doing("write a quota"))?;
        self.quotas(namespace)
            .await?
            .create(&PostParams::default(), &object)
            .await
            .map_err(Error::doing(format!("create quota {namespace}/{name}")))?;
        Ok(())
    }

    /// Changes one key of spec.hard (`None` removes it); back when the status follows.
    pub async fn set_hard(&self, namespace: &str, name: &str, key: &str, value: Option<&str>) -> Result<()> {
        let patch = json!({"spec": {"hard": {key: value}}});
        self.quotas(namespace)
            .await?
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(Error::doing(format!("change quota {namespace}/{name}")))?;
        self.quota_settled(namespace, name).await
    }

    /// Deletes a quota.
    pub async fn delete_quota(&self, namespace: &str, name: &str) -> Result<()> {
        self.quotas(namespace)
            .await?
            .delete(name, &DeleteParams::default())
            .await
            .map_err(Error::doing(format!("delete quota {namespace}/{name}")))?;
        Ok(())
    }

    /// `status.used` of a key, as it stands.
    pub async fn used(&self, namespace: &str, name: &str, key: &str) -> Result<Option<String>> {
        let quota = self
            .quotas(namespace)
            .await?
            .get(name)
            .await
            .map_err(Error::doing(format!("read quota {namespace}/{name}")))?;
        Ok(quota
            .status
            .and_then(|status| status.used)
            .and_then(|used| used.get(key).map(|quantity| quantity.0.clone())))
    }

    /// Applies a manifest of any kind (server-side, as owner of all of it).
    pub async fn apply(&self, manifest: &Value) -> Result<DynamicObject> {
        let field = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str);
        let name = field("/metadata/name").unwrap_or_default();
        let what = format!("apply {} {name}", field("/kind").unwrap_or("an object"));
        let kind: GroupVersionKind = serde_json::from_value::<kube::core::TypeMeta>(manifest.clone())
            .map_err(Error::doing(what.clone()))
            .and_then(|types| GroupVersionKind::try_from(types).map_err(Error::doing(what.clone())))?;
        let client = self.client().await?;
        let (resource, _) = kube::discovery::pinned_kind(&client, &kind).await.map_err(Error::doing(what.clone()))?;
        let objects: Api<DynamicObject> = match field("/metadata/namespace") {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        objects
            .patch(name, &PatchParams::apply("testbed").force(), &Patch::Apply(manifest))
            .await
            .map_err(Error::doing(what))
    }

    /// A service account that may do what `rules` (of a Role in its namespace) say; back when the API server agrees.
    ///
    /// `rules` is the list of a Role, for instance
    /// `json!([{"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["create", "get"]}])`.
    pub async fn service_account(&self, namespace: &str, name: &str, rules: &Value) -> Result<ServiceAccount> {
        let place = json!({"name": name, "namespace": namespace});
        let account = self.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place})).await?;
        let account = ServiceAccount {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: account.metadata.uid.unwrap_or_default(),
        };
        self.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": place,
            "rules": rules,
        }))
        .await?;
        self.apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": place,
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        }))
        .await?;
        let last = rules.as_array().and_then(|rules| rules.last());
        let word = |list: &str| last.and_then(|rule| rule.pointer(&format!("/{list}/0"))).and_then(Value::as_str);
        if let (Some(group), Some(resource), Some(verb)) = (word("apiGroups"), word("resources"), word("verbs")) {
            wait::until_true("the rights of a service account", SOON, || async {
                self.may(&account.user(), namespace, verb, group, resource).await.is_ok_and(|allowed| allowed)
            })
            .await?;
        }
        Ok(account)
    }

    /// Whether the API server allows a user something now.
    pub async fn may(&self, user: &str, namespace: &str, verb: &str, group: &str, resource: &str) -> Result<bool> {
        use k8s_openapi::api::authorization::v1::SubjectAccessReview;
        let review: SubjectAccessReview = serde_json::from_value(json!({
            "spec": {
                "user": user,
                "groups": ["system:authenticated", "system:serviceaccounts"],
                "resourceAttributes": {
                    "namespace": namespace, "verb": verb, "group": group, "resource": resource,
                },
            },
        }))
        .map_err(Error::doing("write an access review"))?;
        let reviews: Api<SubjectAccessReview> = Api::all(self.client().await?);
        let answer = reviews.create(&PostParams::default(), &review).await.map_err(Error::doing("ask for rights"))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Creates an object of a kind.
    pub async fn create(&self, resource: &Resource, namespace: &str, object: &Value) -> Result<DynamicObject> {
        let object: DynamicObject = serde_json::from_value(object.clone()).map_err(Error::doing("write an object"))?;
        self.objects(resource, namespace)
            .await?
            .create(&PostParams::default(), &object)
            .await
            .map_err(Error::doing(format!("create a {}", resource.kind)))
    }

    /// Deletes an object of a kind.
    pub async fn delete(&self, resource: &Resource, namespace: &str, name: &str) -> Result<()> {
        self.objects(resource, namespace)
            .await?
            .delete(name, &DeleteParams::default())
            .await
            .map_err(Error::doing(format!("delete {} {name}", resource.kind)))?;
        Ok(())
    }

    /// The names of a kind's objects, by a quorum list.
    pub async fn names(&self, resource: &Resource, namespace: &str) -> Result<Vec<String>> {
        let list = self
            .objects(resource, namespace)
            .await?
            .list_metadata(&ListParams::default())
            .await
            .map_err(Error::doing(format!("list {}", resource.plural)))?;
        Ok(list.items.into_iter().filter_map(|object| object.metadata.name).collect())
    }

    /// The API of a kind's objects, as administrator.
    pub async fn objects(&self, resource: &Resource, namespace: &str) -> Result<Api<DynamicObject>> {
        Ok(Api::namespaced_with(self.client().await?, namespace, &resource.api_resource()))
    }

    /// Makes CustomResourceDefinitions; back when all are served. A controller manager that runs already notices them
    /// up to 30 s later: give them in the options where quotas are to count them.
    pub async fn define(&self, definitions: &[Value]) -> Result<()> {
        let client = self.client().await?;
        let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::from_gvk(&kind));
        let made = definitions.iter().map(|definition| {
            let api = api.clone();
            async move {
                let object: DynamicObject =
                    serde_json::from_value(definition.clone()).map_err(Error::doing("write a definition"))?;
                let name = object.metadata.name.clone().unwrap_or_default();
                // While the server becomes ready it may answer that it is not (429, 503).
                wait::until(&format!("{name} to be made"), SOON, || async {
                    match api.create(&PostParams::default(), &object).await {
                        Err(kube::Error::Api(status)) if matches!(status.code, 429 | 503) => None,
                        result => Some(result.map(drop)),
                    }
                })
                .await?
                .map_err(Error::doing(format!("define {name}")))?;
                wait::until_true(&format!("{name} to be established"), SOON, || async {
                    api.get(&name).await.is_ok_and(|object| established(&object))
                })
                .await?;
                self.until_served(path(definition)).await
            }
        });
        try_join_all(made).await?;
        Ok(())
    }

    /// For 2 s after a kind is defined an API server holds each create of it back for 2 s, so that other servers hear of
    /// the kind first. Back when that is over for what the control plane starts with.
    pub async fn creates_are_prompt(&self) -> Result<()> {
        let workflows = Resource::workflows();
        let object: DynamicObject =
            serde_json::from_value(workflows.object("prompt")).map_err(Error::doing("write an object"))?;
        let api = self.objects(&workflows, "default").await?;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        // The API server makes the namespace itself, a moment after it has started.
        wait::until_true("creates to be answered at once", SOON, || async { api.create(&dry, &object).await.is_ok() })
            .await
    }

    async fn until_served(&self, path: String) -> Result<()> {
        let config = self.config().await?;
        wait::until_true(&format!("{path} to be served"), SOON, || {
            let answer = api_server::probe(config.clone(), vec![path.clone()]);
            async { answer.await.is_ok() }
        })
        .await?;
        self.served.lock().unwrap_or_else(PoisonError::into_inner).push(path);
        Ok(())
    }

    async fn quotas(&self, namespace: &str) -> Result<Api<ResourceQuota>> {
        Ok(Api::namespaced(self.client().await?, namespace))
    }

    /// Back when the status of a quota shows hard and used of every key.
    pub async fn quota_settled(&self, namespace: &str, name: &str) -> Result<()> {
        let quotas = self.quotas(namespace).await?;
        wait::until_true(&format!("the status of quota {namespace}/{name}"), Duration::from_secs(60), || async {
            quotas.get(name).await.is_ok_and(|quota| settled(&quota))
        })
        .await
    }
}

/// Where the objects of a definition are listed.
pub(super) fn path(definition: &Value) -> String {
    let text = |pointer: &str| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    format!("/apis/{}/{}/{}?limit=1", text("/spec/group"), text("/spec/versions/0/name"), text("/spec/names/plural"))
}

fn settled(quota: &ResourceQuota) -> bool {
    let spec = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let status = quota.status.as_ref();
    let hard = status.and_then(|status| status.hard.as_ref());
    let used = status.and_then(|status| status.used.as_ref());
    match (spec, hard, used) {
        (None, None, _) => true,
        (Some(spec), Some(hard), Some(used)) => spec == hard && spec.keys().all(|key| used.contains_key(key)),
        (None | Some(_), _, _) => spec.is_none_or(BTreeMap::is_empty),
    }
}

fn established(definition: &DynamicObject) -> bool {
    definition.data.pointer("/status/conditions").and_then(Value::as_array).is_some_and(|conditions| {
        conditions.iter().any(|condition| {
            condition.get("type").and_then(Value::as_str) == Some("Established")
                && condition.get("status").and_then(Value::as_str) == Some("True")
        })
    })
}

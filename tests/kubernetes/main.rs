//! The adapter to the Kubernetes API on a real control plane.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all};
use jetgate::{
    gate::{Quantity, ResourceName},
    k8s::{
        CallError, Cluster, ClusterOptions, DiscoverError, Kind, LeaseClaim, LeaseWrite, ObjectEvent, QuotaEvent, Sight,
    },
    message::{CREDIT_ANNOTATION, CreateTarget, MESSAGE_ANNOTATION, classify},
};
use serde_json::{Value, json};
use testbed::{ControlPlane, ControlPlaneOptions, Direction, FaultProxy, Login, Resource, wait};

mod faults;
mod objects;

pub(crate) const SOON: Duration = Duration::from_secs(5);
pub(crate) const WATCH: Duration = Duration::from_secs(5);

pub(crate) async fn plane() -> &'static ControlPlane {
    ControlPlane::shared().await.unwrap()
}

pub(crate) async fn connect(kubeconfig: PathBuf) -> Cluster {
    let options = ClusterOptions { kubeconfig: Some(kubeconfig), ..ClusterOptions::default() };
    Cluster::connect(&options).await.unwrap()
}

pub(crate) async fn admin(plane: &ControlPlane) -> Cluster {
    connect(plane.kubeconfig_admin().unwrap()).await
}

pub(crate) fn widgets() -> Kind {
    let widgets = Resource::widgets();
    Kind {
        group: widgets.group,
        version: widgets.version,
        kind: widgets.kind,
        plural: widgets.plural,
        namespaced: true,
    }
}

pub(crate) fn widget(name: &str) -> Value {
    let mut object = Resource::widgets().object(name);
    object["metadata"]["annotations"] = json!({
        MESSAGE_ANNOTATION: format!("message of {name}"),
        CREDIT_ANNOTATION: "holder/1",
        "other": "x",
    });
    object
}

pub(crate) async fn create(cluster: &Cluster, namespace: &str, name: &str) -> Result<Sight, CallError> {
    cluster.create(&widgets(), namespace, &widget(name), SOON).await
}

/// Reads one watch call to its end.
pub(crate) async fn watched(cluster: &Cluster, namespace: &str, from: u64, timeout: Duration) -> Vec<ObjectEvent> {
    let events = cluster.watch(&widgets(), namespace, from, timeout).await.unwrap();
    events.map(Result::unwrap).collect().await
}

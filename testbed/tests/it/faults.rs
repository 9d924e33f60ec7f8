//! A control plane that is broken on purpose: stopped, killed, restarted, compacted, doubled.

use std::time::Duration;

use kube::api::{Api, DynamicObject, WatchParams};
use testbed::{ControlPlane, ControlPlaneOptions, Error, Resource, process, wait};

use crate::SOON;

#[tokio::test]
async fn every_part_can_be_stopped_killed_and_restarted_on_its_port() {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
    let namespace = plane.namespace("break").await.unwrap();
    let widgets = Resource::widgets();
    let key = widgets.quota_key();
    plane.quota(&namespace, "q", &[(&key, "5")]).await.unwrap();
    let object = widgets.object("before");
    plane.create(&widgets, &namespace, &object).await.unwrap();

    // Stopped: no answer, nothing lost.
    plane.apiserver().process().stop().unwrap();
    let patience = Duration::from_secs(1);
    let silent = tokio::time::timeout(patience, plane.names(&widgets, &namespace)).await;
    assert!(silent.is_err());
    plane.apiserver().process().cont().unwrap();
    assert_eq!(plane.names(&widgets, &namespace).await.unwrap(), ["before"]);

    // A watch from here is answered by the watch cache now, and is gone after compaction and restart.
    let api = plane.objects(&widgets, &namespace).await.unwrap();
    let old = api.list(&Default::default()).await.unwrap();
    let old = old.metadata.resource_version.unwrap();
    let later = widgets.object("later");
    plane.create(&widgets, &namespace, &later).await.unwrap();
    assert!(!forgotten(&api, &old).await);
    let url = plane.url();
    plane.compact_etcd().await.unwrap();
    plane.apiserver().process().restart().await.unwrap();
    assert_eq!(plane.url(), url);
    wait::until_true("410 for the old version", SOON, || forgotten(&api, &old)).await.unwrap();

    // Killed: objects survive, and the quota controller goes on.
    plane.etcd().restart().await.unwrap();
    plane.apiserver().process().until_ready(SOON).await.unwrap();
    let manager = plane.controller_manager().unwrap();
    manager.kill().await.unwrap();
    plane.delete(&widgets, &namespace, "before").await.unwrap();
    assert_eq!(plane.used(&namespace, "q", &key).await.unwrap().as_deref(), Some("2"));
    manager.start_again().await.unwrap();
    wait::until_true("replenishment", SOON, || async {
        plane.used(&namespace, "q", &key).await.unwrap().as_deref() == Some("1")
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn two_api_servers_serve_one_etcd() {
    let plane = ControlPlane::start(ControlPlaneOptions {
        controller_manager: testbed::control_plane::ControllerManager::Absent,
        ..Default::default()
    })
    .await
    .unwrap();
    let namespace = plane.namespace("two").await.unwrap();
    let second = plane.second_apiserver().await.unwrap();
    let widgets = Resource::widgets();
    let client = plane.client_at(&testbed::Login::Admin, &second.url()).await.unwrap();
    let there: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &widgets.api_resource());
    let object = serde_json::from_value(widgets.object("there")).unwrap();
    there.create(&Default::default(), &object).await.unwrap();
    assert_eq!(plane.names(&widgets, &namespace).await.unwrap(), ["there"]);
    let posts = plane.audit(&namespace).unwrap().posts_with(&widgets, &namespace, 201);
    assert_eq!(posts, 1);
    let refused = plane.controller_manager().unwrap_err();
    assert!(refused.to_string().contains("without a controller manager"));
}

#[tokio::test]
async fn what_ends_too_early_shows_its_last_lines_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let spec =
        process::Spec::new("short-lived", "sh", ["-c", "echo the reason >&2; exit 3"], folder.path().join("log"))
            .ready(|| async { Err("never".to_owned()) });
    match process::Process::start(spec).await.unwrap_err() {
        Error::Died { program, status, log } => {
            assert_eq!(program, "short-lived");
            assert!(status.contains('3'), "{status}");
            assert_eq!(log, "the reason");
        }
        other => panic!("{other}"),
    }
}

async fn forgotten(api: &Api<DynamicObject>, version: &str) -> bool {
    use futures::StreamExt as _;
    let params = WatchParams::default().timeout(1);
    match api.watch(&params, version).await {
        Ok(events) => {
            let mut events = std::pin::pin!(events);
            match events.next().await {
                Some(Ok(kube::api::WatchEvent::Error(status))) => status.code == 410,
                _ => false,
            }
        }
        Err(kube::Error::Api(status)) => status.code == 410,
        Err(_) => false,
    }
}

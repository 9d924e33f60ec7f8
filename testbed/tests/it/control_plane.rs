//! The shared control plane: quotas that replenish, rights, tokens, one for all tests.

use std::time::Duration;

use serde_json::json;
use testbed::{ControlPlane, Login, Resource, wait};

use crate::SOON;

#[tokio::test]
async fn a_quota_refuses_and_is_replenished_after_a_delete() {
    let plane = ControlPlane::shared().await.unwrap();
    let namespace = plane.namespace("replenish").await.unwrap();
    let widgets = Resource::widgets();
    let key = widgets.quota_key();
    plane.quota(&namespace, "q", &[(&key, "2")]).await.unwrap();
    for name in ["a", "b"] {
        let object = widgets.object(name);
        plane.create(&widgets, &namespace, &object).await.unwrap();
    }
    let refused = plane.create(&widgets, &namespace, &widgets.object("c")).await.unwrap_err();
    assert!(refused.to_string().contains("exceeded quota: q"), "{refused}");

    plane.delete(&widgets, &namespace, "a").await.unwrap();
    wait::until_true("a free slot", SOON, || async {
        plane.used(&namespace, "q", &key).await.unwrap().as_deref() == Some("1")
    })
    .await
    .unwrap();
    let again = widgets.object("c");
    plane.create(&widgets, &namespace, &again).await.unwrap();

    let audit = plane.audit(&namespace).unwrap();
    let codes = audit.post_codes(&widgets, &namespace);
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), [(201, 3), (403, 1)]);
    let created = audit.created(&widgets, &namespace);
    assert_eq!(created.keys().collect::<Vec<_>>(), ["a", "b", "c"]);

    plane.set_hard(&namespace, "q", &key, Some("5")).await.unwrap();
    plane.delete_quota(&namespace, "q").await.unwrap();
}

#[tokio::test]
async fn tests_share_one_control_plane_in_their_own_namespaces() {
    let (one, two) = tokio::join!(ControlPlane::shared(), ControlPlane::shared());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.etcd().pid(), two.etcd().pid());
    let (a, b) = tokio::join!(one.namespace("same"), two.namespace("same"));
    assert_ne!(a.unwrap(), b.unwrap());
}

#[tokio::test]
async fn the_schema_of_widgets_refuses_what_is_no_size() {
    let plane = ControlPlane::shared().await.unwrap();
    let namespace = plane.namespace("schema").await.unwrap();
    let widgets = Resource::widgets();
    let mut object = widgets.object("wrong");
    object["spec"]["size"] = json!("much");
    let refused = plane.create(&widgets, &namespace, &object).await.unwrap_err();
    assert!(refused.to_string().contains("spec.size"), "{refused}");
    let codes = plane.audit(&namespace).unwrap().post_codes(&widgets, &namespace);
    assert_eq!(codes.into_keys().collect::<Vec<_>>(), [422]);
}

#[tokio::test]
async fn a_token_that_we_sign_has_the_rights_of_its_account_until_it_expires() {
    let plane = ControlPlane::shared().await.unwrap();
    let namespace = plane.namespace("token").await.unwrap();
    let rules = json!([{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["create"]}]);
    let account = plane.service_account(&namespace, "maker", &rules).await.unwrap();
    let widgets = Resource::widgets();

    let lifetime = Duration::from_secs(3);
    let token = plane.sign_token(&account, lifetime).unwrap();
    let client = plane.client_at(&Login::Token(token), &plane.url()).await.unwrap();
    let api: kube::Api<kube::api::DynamicObject> =
        kube::Api::namespaced_with(client, &namespace, &widgets.api_resource());
    let object: kube::api::DynamicObject = serde_json::from_value(widgets.object("by-token")).unwrap();
    api.create(&Default::default(), &object).await.unwrap();

    let forbidden = api.list(&Default::default()).await.unwrap_err();
    assert_eq!(code(&forbidden), Some(403), "{forbidden}");

    wait::until_true("the token to expire", SOON, || async {
        let again = api.create(&Default::default(), &object).await.unwrap_err();
        code(&again) == Some(401)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_client_certificate_makes_a_user() {
    let plane = ControlPlane::shared().await.unwrap();
    let namespace = plane.namespace("user").await.unwrap();
    let somebody = plane.certificate("somebody", None).unwrap();
    let client = plane.client_at(&Login::Certificate(somebody), &plane.url()).await.unwrap();
    let api: kube::Api<kube::api::DynamicObject> =
        kube::Api::namespaced_with(client, &namespace, &Resource::widgets().api_resource());
    let refused = api.list(&Default::default()).await.unwrap_err();
    assert!(refused.to_string().contains("somebody"), "{refused}");
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

//! Faults inside TLS: the answer of one POST, one watch, an answer in the API server's place.

use std::time::Duration;

use futures::StreamExt as _;
use http::StatusCode;
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};
use serde_json::json;
use testbed::http_proxy::{Action, Matching, Reply};
use testbed::{ControlPlane, FaultProxy, HttpFaultProxy, Login, Resource};

use crate::SOON;

struct Bed {
    plane: &'static ControlPlane,
    proxy: HttpFaultProxy,
    namespace: String,
    api: Api<DynamicObject>,
}

async fn bed() -> Bed {
    let plane = ControlPlane::shared().await.unwrap();
    let proxy = HttpFaultProxy::start(plane).await.unwrap();
    let namespace = plane.namespace("faulty").await.unwrap();
    let rules = json!([{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["*"]}]);
    let account = plane.service_account(&namespace, "all", &rules).await.unwrap();
    let token = plane.sign_token(&account, Duration::from_secs(3600)).unwrap();
    let client = plane.client_at(&Login::Token(token), &proxy.url()).await.unwrap();
    let api = Api::namespaced_with(client, &namespace, &Resource::widgets().api_resource());
    Bed { plane, proxy, namespace, api }
}

fn widget(name: &str) -> DynamicObject {
    serde_json::from_value(Resource::widgets().object(name)).unwrap()
}

impl Bed {
    async fn create(&self, name: &str) -> Result<DynamicObject, kube::Error> {
        let widget = widget(name);
        tokio::time::timeout(SOON, self.api.create(&Default::default(), &widget)).await.unwrap()
    }

    async fn names(&self) -> Vec<String> {
        let widgets = Resource::widgets();
        self.plane.names(&widgets, &self.namespace).await.unwrap()
    }
}

#[tokio::test]
async fn the_object_of_a_dropped_reply_exists_though_the_client_saw_an_error() {
    let bed = bed().await;
    let rule = bed.proxy.rule(Matching::post("/widgets").body("doubtful").once(), Action::DropReply);
    bed.create("other").await.unwrap();
    let error = bed.create("doubtful").await.unwrap_err();
    assert!(!matches!(error, kube::Error::Api(_)), "{error}");
    assert_eq!(rule.hits(), 1);
    assert_eq!(bed.names().await, ["doubtful", "other"]);
    let again = bed.create("doubtful").await.unwrap_err();
    assert!(matches!(&again, kube::Error::Api(status) if status.is_already_exists()), "{again}");
}

#[tokio::test]
async fn an_answer_in_the_api_servers_place_leaves_nothing_behind() {
    let bed = bed().await;
    let busy = Action::status(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", "slow down");
    let rule = bed.proxy.rule(Matching::post("/widgets").times(2), busy);
    for _ in 0..2 {
        let error = bed.create("w").await.unwrap_err();
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 429), "{error}");
    }
    assert!(bed.names().await.is_empty());
    bed.create("w").await.unwrap();
    assert_eq!(rule.hits(), 2);
    assert_eq!(bed.names().await, ["w"]);
}

#[tokio::test]
async fn an_answer_instead_of_the_api_servers_leaves_its_object_behind_and_requests_are_kept() {
    let bed = bed().await;
    let book = bed.proxy.rule(Matching::any().target("/widgets"), Action::Keep);
    let page = Reply::page(StatusCode::GATEWAY_TIMEOUT, "<html>late</html>").header("Retry-After", "7");
    let rule = bed.proxy.rule(Matching::post("/widgets").once(), Action::AnswerAfter(page));
    let error = bed.create("w").await.unwrap_err();
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 504), "{error}");
    assert_eq!(rule.hits(), 1);
    assert_eq!(bed.names().await, ["w"]);
    bed.api.get("w").await.unwrap();
    let kept = book.kept();
    assert_eq!(kept.iter().map(|kept| kept.method.as_str()).collect::<Vec<_>>(), ["POST", "GET"]);
    assert!(kept[1].target.ends_with("/widgets/w") && kept[0].at <= kept[1].at);
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&kept[0].body).unwrap()["metadata"]["name"], "w");
}

#[tokio::test]
async fn a_request_is_held_before_and_an_answer_after() {
    let bed = bed().await;
    let before = bed.proxy.rule(Matching::post("/widgets").once(), Action::HoldBefore);
    let meanwhile = async {
        before.until_hits(1, SOON).await.unwrap();
        let names = bed.names().await;
        before.release();
        names
    };
    let (made, names) = tokio::join!(bed.create("late"), meanwhile);
    made.unwrap();
    assert!(names.is_empty());

    let after = bed.proxy.rule(Matching::post("/widgets").once(), Action::HoldAfter);
    let meanwhile = async {
        testbed::wait::until_true("the object", SOON, || async { bed.names().await.len() == 2 }).await.unwrap();
        after.release();
    };
    let (made, ()) = tokio::join!(bed.create("unheard"), meanwhile);
    made.unwrap();
}

#[tokio::test]
async fn watches_stream_are_held_and_are_cut() {
    let bed = bed().await;
    let list = bed.api.list(&ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let held = bed.proxy.rule(Matching::get("watch=").once(), Action::HoldBody);
    let params = WatchParams::default();
    let mut stalled = Box::pin(bed.api.watch(&params, &version).await.unwrap());
    let mut flowing = Box::pin(bed.api.watch(&params, &version).await.unwrap());
    bed.create("seen").await.unwrap();

    let event = tokio::time::timeout(SOON, flowing.next()).await.unwrap();
    assert!(matches!(event, Some(Ok(WatchEvent::Added(object))) if object.metadata.name.as_deref() == Some("seen")));
    let patience = Duration::from_millis(300);
    assert!(tokio::time::timeout(patience, stalled.next()).await.is_err());
    held.release();
    let event = tokio::time::timeout(SOON, stalled.next()).await.unwrap();
    assert!(matches!(event, Some(Ok(WatchEvent::Added(_)))));

    bed.proxy.cut();
    let event = tokio::time::timeout(SOON, flowing.next()).await.unwrap();
    assert!(!matches!(event, Some(Ok(_))));
    // The first try may be on a pooled connection that is gone.
    testbed::wait::until_true("another connection", SOON, || async { bed.create("after").await.is_ok() })
        .await
        .unwrap();
}

#[tokio::test]
async fn tls_to_the_api_server_passes_the_plain_proxy() {
    let plane = ControlPlane::shared().await.unwrap();
    let proxy = FaultProxy::start(plane.apiserver().address()).await.unwrap();
    let client = plane.client_at(&Login::Admin, &proxy.url("https")).await.unwrap();
    client.apiserver_version().await.unwrap();
    proxy.cut();
    // The first try may be on the connection that is gone.
    testbed::wait::until_true("another connection", SOON, || async { client.apiserver_version().await.is_ok() })
        .await
        .unwrap();
    assert!(proxy.connections() >= 2);
}

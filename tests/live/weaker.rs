//! Where the objects may not be watched: `used` with a settle time is all there is. Weaker, said everywhere, and over as
//! soon as the right is there.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};
use testbed::control_plane::Login;
use testbed::http_proxy::{Action, Matching};
use testbed::{ControlPlane, Finisher, HttpFaultProxy, Nats, Pace, Resource, wait};

use crate::support::{LONG, Sensor, Stage, sensor_rules};

/// Replaces what the sensor's service account may do with workflows, and waits until the API server knows.
async fn allow(stage: &Stage<'_>, verbs: &[&str], list: bool) {
    let (plane, namespace) = (stage.plane, stage.namespace.as_str());
    plane
        .apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "sensor", "namespace": namespace},
            "rules": sensor_rules(verbs),
        }))
        .await
        .unwrap();
    let user = format!("system:serviceaccount:{namespace}:sensor");
    wait::until_true("the rights to change", LONG, || async {
        plane.may(&user, namespace, "list", "argoproj.io", "workflows").await.is_ok_and(|may| may == list)
    })
    .await
    .unwrap();
}

async fn until_weaker(stage: &Stage<'_>, sensor: &Sensor) {
    stage.until_signal("the signal says that it is weaker", |resource| resource["weaker"] == json!(true)).await;
    sensor.until_metric("jetgate_live_watch", &[], |value| value == 0.0).await;
}

async fn until_live(stage: &Stage<'_>, sensor: &Sensor, live: u64) -> Value {
    let signal = stage
        .until_signal("the signal counts live objects", |resource| {
            resource["weaker"] == json!(false) && resource["live"] == json!(live)
        })
        .await;
    sensor.until_metric("jetgate_live_watch", &[], |value| value == 1.0).await;
    signal
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_watch_is_said_and_ends_when_the_right_is_given() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "weaker", "10").await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").set("BACKPRESSURE_SETTLE_TIME", "1s");
    let token = stage.token(&sensor_rules(&["create", "get"])).await;
    stage.login(&Login::Token(token));
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    until_weaker(&stage, &sensor).await;
    assert_eq!(sensor.lines("may not be listed and watched").len(), 1, "{}", sensor.log());
    // Nothing is published yet: an open gate on `used`.
    assert!(stage.signal().await.unwrap()["resources"][0]["live"].is_null());

    stage.publish(0..40).await;
    let failed = |error: testbed::Error| panic!("{error}\n{}", sensor.process.last_log_lines(20));
    referee.until_created(10, LONG).await.unwrap_or_else(failed);
    sensor.until_reason(Some("at_limit")).await;
    let finisher = Finisher::start(plane, &Resource::workflows(), &stage.namespace, Pace::OnDemand).await.unwrap();
    for released in 1..=5 {
        finisher.finish_one().await.unwrap().unwrap();
        referee.until_created(10 + released, LONG).await.unwrap_or_else(failed);
    }
    assert_eq!(sensor.lines("may not be listed and watched").len(), 1, "said once: {}", sensor.log());

    allow(&stage, &["create", "get", "list", "watch"], true).await;
    until_live(&stage, &sensor, 10).await;
    assert_eq!(sensor.lines("may be watched again").len(), 1, "{}", sensor.log());
    finisher.finish_one().await.unwrap().unwrap();
    referee.until_created(16, LONG).await.unwrap_or_else(failed);

    // Taken and given again, while the API server still remembers where the watch was.
    allow(&stage, &["create", "get"], false).await;
    until_weaker(&stage, &sensor).await;
    finisher.finish_one().await.unwrap().unwrap();
    referee.until_created(17, LONG).await.unwrap_or_else(failed);
    allow(&stage, &["create", "get", "list", "watch"], true).await;
    until_live(&stage, &sensor, 10).await;
    finisher.set_pace(Pace::AtRandom { per_second: 50.0, seed: 3 }).await.unwrap();
    referee.until_created(40, LONG).await.unwrap_or_else(failed);
    stage.until_drained().await;
    let verdict = stage.verdict(&referee, 40).await;
    eprintln!("watch forbidden: {verdict}");
    assert!(verdict.is_clean(), "{verdict}");
    assert!(verdict.most_alive <= 10, "{verdict}");
    assert_eq!(stage.dead_letters().await, 0);
    assert_eq!(sensor.stop().await, Some(0), "{}", sensor.process.last_log_lines(20));
}

/// Who may list and not watch is not taken for somebody who may watch, each time that a list succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_without_a_watch_is_no_watch() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "listed", "10").await;
    let token = stage.token(&sensor_rules(&["create", "get", "list"])).await;
    let proxy = HttpFaultProxy::start(plane).await.unwrap();
    stage.kubeconfig = plane.kubeconfig_at(&Login::Token(token), &proxy.url()).unwrap();
    let looks = proxy.rule(Matching::get("/workflows?"), Action::Count);
    let sensor = stage.start().await;
    until_weaker(&stage, &sensor).await;
    let before = looks.hits();
    wait::until_true("three more lists and watches", LONG, || async { looks.hits() >= before + 6 }).await.unwrap();
    let said = |what: &str| sensor.lines(what).len();
    assert_eq!((said("may not be listed and watched"), said("may be watched again")), (1, 0), "{}", sensor.log());
    assert_eq!(stage.signal().await.unwrap()["resources"][0]["live"], serde_json::Value::Null);
    allow(&stage, &["create", "get", "list", "watch"], true).await;
    until_live(&stage, &sensor, 0).await;
    assert_eq!((said("may not be listed and watched"), said("may be watched again")), (1, 1), "{}", sensor.log());
    assert_eq!(sensor.stop().await, Some(0), "{}", sensor.process.last_log_lines(20));
}

/// An API server that starts refuses everything for a moment: it does not know the rights yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_refused_for_a_moment_is_asked_for_again() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let http = HttpFaultProxy::start(plane).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "refused-once", "10").await;
    stage.behind(&http).await;
    let lists = Matching::get(&format!("/namespaces/{}/workflows?", stage.namespace)).times(2);
    let refusal = http.rule(lists, Action::status(StatusCode::FORBIDDEN, "Forbidden", "not yet"));
    let sensor = stage.start().await;
    until_live(&stage, &sensor, 0).await;
    assert_eq!(refusal.hits(), 2);
    assert_eq!(sensor.lines("may not be listed and watched").len(), 0, "{}", sensor.log());
    assert_eq!(sensor.stop().await, Some(0));
}

/// Without a record a message that comes again is looked up by its name, and nothing waits for a record.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_again_needs_no_record_where_none_is_kept() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "weaker-again", "10").await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").set("BACKPRESSURE_SETTLE_TIME", "1s");
    let token = stage.token(&sensor_rules(&["create", "get"])).await;
    stage.login(&Login::Token(token));
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    stage.publish(0..20).await;
    let failed = |error: testbed::Error| panic!("{error}\n{}", sensor.process.last_log_lines(20));
    referee.until_created(10, LONG).await.unwrap_or_else(failed);
    // What is done is acknowledged: where no record is kept, nobody could know of it when its object is gone.
    wait::until_true("the rest waits", LONG, || async { stage.waiting().await == (10, 0) }).await.unwrap();
    sensor.process.kill().await.unwrap();
    // After a start every message may have been handed out before.
    let sensor = stage.start().await;
    let pace = Pace::After(Duration::from_secs(1));
    let _finisher = Finisher::start(plane, &Resource::workflows(), &stage.namespace, pace).await.unwrap();
    referee
        .until_created(20, LONG)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    stage.until_drained().await;
    let verdict = stage.verdict(&referee, 20).await;
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(sensor.stop().await, Some(0), "{}", sensor.process.last_log_lines(20));
}

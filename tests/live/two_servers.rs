//! Watches from one API server, creates through another, whose admission knows of a release later than we do.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use testbed::http_proxy::{Action, Matching, Reply};
use testbed::{ControlPlane, Finisher, HttpFaultProxy, Nats, Pace, Resource, wait};

use crate::support::{LONG, Stage};

/// What admission says whose cache does not know of a release yet: the quota full, which our view has room in.
fn late_refusal() -> Action {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden", "code": 403,
        "message": "workflows.argoproj.io \"order-x\" is forbidden: exceeded quota: team, requested: \
            count/workflows.argoproj.io=1, used: count/workflows.argoproj.io=20, limited: \
            count/workflows.argoproj.io=20",
        "details": {"name": "order-x", "group": "argoproj.io", "kind": "workflows"},
    });
    Action::Answer(Reply { status: StatusCode::FORBIDDEN, headers: Vec::new(), body })
}

/// What the API server says where two creates charge the quota at once.
fn lost_race() -> Action {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Conflict", "code": 409,
        "message": "Operation cannot be fulfilled on resourcequotas \"team\": the object has been modified; please \
            apply your changes to the latest version and try again",
        "details": {"name": "team", "kind": "resourcequotas"},
    });
    Action::Answer(Reply { status: StatusCode::CONFLICT, headers: Vec::new(), body })
}

#[tokio::test(flavor = "multi_thread")]
async fn creates_through_a_second_api_server_stay_under_the_limit() {
    let plane = ControlPlane::shared().await.unwrap();
    let second = plane.second_apiserver().await.unwrap();
    let proxy = HttpFaultProxy::start(plane).await.unwrap();
    let ways = proxy.rule(Matching::post("/workflows"), Action::Via(second.address()));
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "two-servers", "20").await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").behind(&proxy).await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    let messages = 400;
    stage.publish(0..messages).await;
    let failed = |error: testbed::Error| panic!("{error}\n{}", sensor.process.last_log_lines(20));
    referee.until_alive(20, LONG).await.unwrap_or_else(failed);
    let pace = Pace::AtRandom { per_second: 100.0, seed: 5 };
    let _finisher = Finisher::start(plane, &Resource::workflows(), &stage.namespace, pace).await.unwrap();
    referee.until_created(messages, LONG).await.unwrap_or_else(failed);
    stage.until_drained().await;
    let verdict = stage.verdict(&referee, messages).await;
    let counted = async |name: &str, label: &str| sensor.metric(name, &[label]).await.unwrap_or_default();
    let retries = counted("sensor_quota_retries_total", "").await;
    let refusals = counted("sensor_refusals_total", "class=\"quota_exceeded\"").await;
    let conflicts = counted("sensor_refusals_total", "class=\"quota_conflict\"").await;
    let again = counted("sensor_messages_total", "outcome=\"again\"").await;
    eprintln!(
        "two API servers: {verdict}, {refusals} refusals, {retries} tried again at once, {again} returned, {conflicts} \
         conflicts, {} creates by the second",
        ways.hits()
    );
    // Each refusal is tried again with the credit in hand, or its message is returned. A conflict is none.
    assert!(retries <= refusals && refusals <= retries + again, "{refusals} refusals, {retries} retries");
    assert_eq!(counted("sensor_trigger_total", "outcome=\"conflict\"").await, conflicts);
    assert!(ways.hits() >= messages as u64, "the creates went through the second API server");
    assert!(verdict.is_clean(), "{verdict}");
    assert!(verdict.most_alive <= 20, "{verdict}");
    assert_eq!(stage.dead_letters().await, 0);
    assert_eq!(sensor.stop().await, Some(0), "{}", sensor.process.last_log_lines(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_contradicts_a_newer_view_is_tried_again_with_the_credit_in_hand() {
    let plane = ControlPlane::shared().await.unwrap();
    let proxy = HttpFaultProxy::start(plane).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "contradicts", "20").await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").behind(&proxy).await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    stage.publish(0..5).await;
    let failed = |error: testbed::Error| panic!("{error}\n{}", sensor.process.last_log_lines(20));
    referee.until_created(5, LONG).await.unwrap_or_else(failed);
    sensor.until_metric("sensor_quota_used", &[], |used| used == 5.0).await;

    let refuse = proxy.rule(Matching::post("/workflows").once(), late_refusal());
    let posts = proxy.rule(Matching::post("/workflows"), Action::Count);
    stage.publish(5..6).await;
    referee.until_created(6, LONG).await.unwrap_or_else(failed);
    stage.until_drained().await;
    assert_eq!(refuse.hits(), 1);
    assert_eq!(posts.hits(), 2, "the refused one, and one more");
    sensor.until_metric("sensor_quota_retries_total", &[], |value| value == 1.0).await;
    sensor.until_metric("sensor_refusals_total", &["quota_exceeded"], |value| value == 1.0).await;
    // A charge to the quota that lost a race is no refusal, and has a count of its own.
    let lost = proxy.rule(Matching::post("/workflows").once(), lost_race());
    stage.publish(6..7).await;
    referee.until_created(7, LONG).await.unwrap_or_else(failed);
    stage.until_drained().await;
    assert_eq!(lost.hits(), 1);
    sensor.until_metric("sensor_trigger_total", &["outcome=\"conflict\""], |value| value == 1.0).await;
    sensor.until_metric("sensor_refusals_total", &["quota_conflict"], |value| value == 1.0).await;
    assert_eq!(sensor.metric("sensor_quota_retries_total", &[]).await, Some(1.0), "as before");

    // With the credit in hand: the message was delivered once, so it never went back.
    sensor.until_metric("sensor_messages_total", &["outcome=\"done\""], |value| value == 7.0).await;
    let again = sensor.metric("sensor_messages_total", &["outcome=\"again\""]).await;
    assert_eq!(again.unwrap_or_default(), 0.0);
    assert_eq!(sensor.reason().await, None, "one late refusal closes no gate");
    assert_eq!(stage.dead_letters().await, 0);
    assert_eq!(sensor.stop().await, Some(0), "{}", sensor.process.last_log_lines(20));
}

/// The same while it lasts: after 100 ms the message goes back with a delay, the gate says why, and nothing is hot.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_goes_on_blocks_and_ends_by_itself() {
    let plane = ControlPlane::shared().await.unwrap();
    let proxy = HttpFaultProxy::start(plane).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "goes-on", "20").await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").behind(&proxy).await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    let refuse = proxy.rule(Matching::post("/workflows"), late_refusal());
    stage.publish(0..10).await;
    sensor.until_reason(Some("quota_refused")).await;
    sensor.until_metric("sensor_quota_blocked", &[], |blocked| blocked == 1.0).await;
    let (first, begun) = (refuse.hits(), std::time::Instant::now());
    wait::until_true("10 s of refusals", LONG, || async { begun.elapsed() > Duration::from_secs(10) }).await.unwrap();
    let more = refuse.hits() - first;
    eprintln!("refused without end: {first} POSTs until blocked, {more} in 10 s after that");
    // One probe at a time with pauses that double from 100 ms to 10 s; each may be tried again for 100 ms.
    assert!(more <= 60, "{more} POSTs in 10 s is a hot loop");
    refuse.end();
    referee
        .until_created(10, LONG)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    stage.until_drained().await;
    let verdict = stage.verdict(&referee, 10).await;
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(stage.dead_letters().await, 0);
    assert_eq!(sensor.stop().await, Some(0), "{}", sensor.process.last_log_lines(20));
}

//! Answers that every message would get: the gate closes, one at a time is tried, and nothing is buried.

use http::StatusCode;
use jetgate::gate::Reason;
use serde_json::json;
use testbed::control_plane::{ControlPlaneOptions, Login};
use testbed::http_proxy::{Action, Reply};
use testbed::{ControlPlane, HttpFaultProxy, Nats};

use super::*;
use crate::reasons::{blocked, detail, open};
use crate::support::sensor_rules;

/// The first pause of a lane that is refused, doubled with each further refusal.
const PAUSE: Duration = Duration::from_secs(1);

/// One at a time, and later and later: the first refusal closes the gate, and each one after it doubles the pause.
fn one_at_a_time(posts: &[(Instant, Value)], refused: usize) {
    for (before, pair) in posts.windows(2).take(refused).enumerate() {
        let (gap, least) = (pair[1].0 - pair[0].0, PAUSE * (1 << before));
        assert!(gap >= least, "POST {} came after {gap:?} and not after {least:?}", before + 2);
    }
}

struct Row {
    reply: Reply,
    class: &'static str,
    reason: Reason,
    detail: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_every_message_would_hear_closes_the_gate_until_one_goes_through() {
    // Their pauses, 15 s in all, are time to look.
    const REFUSED: usize = 4;
    let plane = ControlPlane::shared().await.unwrap();
    let quota = "insufficient quota to consume: count/workflows.argoproj.io";
    let rows = [
        Row {
            reply: Reply::status(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized"),
            class: "unauthorized",
            reason: Reason::ApiDown,
            detail: "the API server does not know who asks (401)",
        },
        Row {
            reply: about_a_workflow(StatusCode::FORBIDDEN, "Forbidden", quota),
            class: "target_refused",
            reason: Reason::TargetRefused,
            detail: "no_quota: ",
        },
        Row {
            reply: Reply::page(StatusCode::NOT_FOUND, "<html>404 page not found</html>"),
            class: "target_refused",
            reason: Reason::TargetRefused,
            detail: "kind: <html>404 page not found",
        },
    ];
    let one = async |row: &Row| {
        let proxy = HttpFaultProxy::start(plane).await.unwrap();
        let nats = Nats::start_plain().await.unwrap();
        let mut stage = Stage::new(plane, &nats, "blocking", "20").await;
        stage.behind(&proxy).await;
        let book = Book::open(&proxy, &stage);
        let referee = stage.referee().await;
        let sensor = stage.start().await;
        sensor.until_reason(None).await;
        let refusal = proxy.rule(posts(&stage).times(REFUSED as u64), Action::Answer(row.reply.clone()));
        stage.publish(0..1).await;
        refusal.until_hits(1, LONG).await.unwrap();
        detail(&sensor, row.detail).await;
        // A pull that was sent before may still bring these.
        stage.publish(1..6).await;
        blocked(&sensor, row.reason).await;
        stage.keeps(6).await;
        let verdict = stage.until_exact(&referee, &sensor, 6).await;
        println!("{}: {verdict}", row.detail);
        let all = book.posts();
        assert_eq!(all.len(), REFUSED + 6, "no hot loop");
        one_at_a_time(&all, REFUSED);
        for calls in book.calls().values() {
            looked_up_before_each_further_create(calls, Duration::ZERO);
        }
        sensor.only_refusals(&[(row.class, REFUSED)]).await;
        assert_eq!((sensor.effects("refused").await, sensor.effects("done").await), (REFUSED, 6));
        assert_eq!(sensor.lines("the target takes effects again").len(), 1);
        open(&sensor).await;
        assert_eq!(sensor.stop().await, Some(0));
    };
    tokio::join!(one(&rows[0]), one(&rows[1]), one(&rows[2]));
}

/// A second quota, on what the template does not give.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_wants_requests_of_a_pod_closes_the_gate_until_it_is_gone() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let pods = Resource::new("", "v1", "Pod", "pods");
    let mut stage = Stage::without_quota(plane, &nats, "must-specify").await;
    let namespace = stage.namespace.clone();
    plane.quota(&namespace, "team", &[("count/pods", "10")]).await.unwrap();
    plane.quota(&namespace, "compute", &[("requests.cpu", "4")]).await.unwrap();
    let file = json!({
        "name": stage.sensor,
        "stream": stage.stream,
        "subject": format!("{}.>", stage.stream),
        "trigger": {"name": "create", "kubernetes": {"object": {
            "apiVersion": "v1",
            "kind": "Pod",
            "spec": {"containers": [{"name": "c", "image": "busybox"}]},
        }}},
    });
    stage.set("BACKPRESSURE_RESOURCE_NAME", "count/pods").file(&file.to_string());
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    stage.publish(0..3).await;
    blocked(&sensor, Reason::TargetRefused).await;
    detail(&sensor, "must_specify: ").await;
    detail(&sensor, "failed quota: compute: must specify requests.cpu").await;
    stage.keeps(3).await;
    let refused = plane.audit(&namespace).unwrap().posts_with(&pods, &namespace, 403);
    assert!((1..=3 + 2).contains(&refused), "{refused} refusals");
    plane.delete_quota(&namespace, "compute").await.unwrap();
    sensor.until("all pods", async || alive(&stage, &pods).await == 3).await;
    stage.until_drained().await;
    open(&sensor).await;
    let codes = plane.audit(&namespace).unwrap().post_codes(&pods, &namespace);
    assert_eq!((codes[&201], codes.len()), (3, 2), "{codes:?}");
    sensor.only_refusals(&[("target_refused", codes[&403])]).await;
    assert_eq!((sensor.effects("refused").await, sensor.effects("done").await), (codes[&403], 3));
    assert_eq!(stage.dead_letters().await, 0);
    assert_eq!(sensor.stop().await, Some(0));
}

/// A cluster that allows the kind only where a quota counts it.
#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_needs_a_quota_closes_the_gate_until_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("admission.yaml");
    let key = Resource::workflows().quota_key();
    let limited = json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [{"name": "ResourceQuota", "configuration": {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "ResourceQuotaConfiguration",
            "limitedResources": [{"apiGroup": "argoproj.io", "resource": "workflows", "matchContains": [key]}],
        }}],
    });
    std::fs::write(&config, limited.to_string()).unwrap();
    let options = ControlPlaneOptions {
        apiserver_flags: vec![format!("--admission-control-config-file={}", config.display())],
        ..ControlPlaneOptions::default()
    };
    let plane = ControlPlane::start(options).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::without_quota(&plane, &nats, "needs-quota").await;
    // A quota of the sensor's own would be the one that is needed.
    stage.unset("BACKPRESSURE_QUOTA_NAME");
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    stage.publish(0..3).await;
    blocked(&sensor, Reason::TargetRefused).await;
    detail(&sensor, "no_quota: ").await;
    detail(&sensor, &format!("insufficient quota to consume: {key}")).await;
    stage.keeps(3).await;
    plane.quota(&stage.namespace, "some", &[(&key, "10")]).await.unwrap();
    let verdict = stage.until_exact(&referee, &sensor, 3).await;
    println!("{verdict}");
    let refused = verdict.refusals_403;
    sensor.only_refusals(&[("target_refused", refused)]).await;
    assert_eq!((sensor.effects("refused").await, sensor.effects("done").await), (refused, 3));
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

/// A token that is over: nothing is answered any more, neither creates nor the Lease, until there is a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_over_empties_no_stream() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "token", "40").await;
    let rules = sensor_rules(&["create", "get", "list", "watch"]);
    let account = plane.service_account(&stage.namespace, "sensor", &rules).await.unwrap();
    let file = stage.folder().join("token");
    std::fs::write(&file, plane.sign_token(&account, Duration::from_secs(10)).unwrap()).unwrap();
    stage.kubeconfig = plane.kubeconfig(&Login::TokenFile(file.clone())).unwrap();
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    stage.publish(0..3).await;
    referee.until_created(3, LONG).await.unwrap();
    stage.until_drained().await;
    sensor.until("the token is over", async || sensor.reason().await.is_some()).await;
    stage.publish(3..8).await;
    sensor.until_reason(Some(Reason::ApiDown.as_str())).await;
    detail(&sensor, "refused with 401 Unauthorized").await;
    stage.keeps(5).await;
    assert_eq!(referee.tally().created(), 3);
    std::fs::write(&file, plane.sign_token(&account, Duration::from_secs(3600)).unwrap()).unwrap();
    let verdict = stage.until_exact(&referee, &sensor, 8).await;
    println!("{verdict}");
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

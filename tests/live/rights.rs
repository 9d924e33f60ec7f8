//! Rights that the sensor itself lacks, beside the one to create: it says which, loses nothing, and goes on when they
//! are given.

use jetgate::gate::Reason;
use serde_json::{Value, json};
use testbed::{ControlPlane, Nats, Resource, wait};

use crate::reasons::{Scene, blocked, detail, login, open, scene};
use crate::support::{LONG, Sensor, Stage, sensor_rules};

/// The rules of a sensor, but for what it may do with Leases and quotas.
fn rules(leases: &[&str], quotas: &[&str]) -> Value {
    let mut rules = vec![
        json!({"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["create", "get", "list", "watch"]}),
    ];
    if !leases.is_empty() {
        rules.push(json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": leases}));
    }
    if !quotas.is_empty() {
        rules.push(json!({"apiGroups": [""], "resources": ["resourcequotas"], "verbs": quotas}));
    }
    Value::Array(rules)
}

const LEASES: &[&str] = &["get", "create", "update"];
const QUOTAS: &[&str] = &["get", "list", "watch"];

/// Blocked for want of this right, in the server's words, with every message kept.
async fn lacks(scene: &Scene<'_>, sensor: &Sensor, verb: &str, resource: &str) {
    detail(sensor, &format!("the right to {verb} {resource} is missing")).await;
    let plural = resource.split('.').next().unwrap();
    detail(sensor, &format!("cannot {verb} resource \"{plural}\"")).await;
    blocked(sensor, Reason::TargetRefused).await;
    assert!(scene.stage.waiting().await.0 > 0, "the stream is not emptied");
    assert_eq!(scene.stage.dead_letters().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_to_the_lease_that_are_missing_and_given() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "no-lease", "10").await;
    let namespace = stage.namespace.clone();
    let allow = async |leases: &[&str]| {
        plane.service_account(&namespace, "sensor", &rules(leases, QUOTAS)).await.unwrap();
    };
    let account = plane.service_account(&namespace, "sensor", &rules(&[], QUOTAS)).await.unwrap();
    stage.login(&login(plane, &account));
    let mut scene = scene(stage);
    let sensor = scene.stage.start().await;
    scene.publish(3).await;
    lacks(&scene, &sensor, "get", "leases.coordination.k8s.io").await;
    assert_eq!(sensor.lines("the Lease is refused:").len(), 1, "once: {}", sensor.log());
    assert!(sensor.lines("the Lease cannot be read or written").is_empty(), "{}", sensor.log());
    assert_eq!(scene.posts(), 0);
    allow(&["get"]).await;
    lacks(&scene, &sensor, "create", "leases.coordination.k8s.io").await;
    assert_eq!(sensor.lines("the Lease is refused:").len(), 2, "once more: {}", sensor.log());
    allow(LEASES).await;
    scene.all_created(&sensor).await;
    open(&sensor).await;
    // Taken from a leader: it leads to the end of its time, and its grants are believed to the end of theirs.
    allow(&["get"]).await;
    wait::until_true("the Lease is lost", LONG, || async { sensor.state().await["leader"]["leading"] == false })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    blocked(&sensor, Reason::TargetRefused).await;
    scene.publish(1).await;
    lacks(&scene, &sensor, "update", "leases.coordination.k8s.io").await;
    allow(LEASES).await;
    scene.all_created(&sensor).await;
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_to_the_quotas_that_are_missing_and_given() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "no-quotas", "2").await;
    stage.set("BACKPRESSURE_POLL_INTERVAL", "2s");
    let (namespace, key) = (stage.namespace.clone(), Resource::workflows().quota_key());
    let allow = async |quotas: &[&str]| {
        plane.service_account(&namespace, "sensor", &rules(LEASES, quotas)).await.unwrap();
    };
    let account = plane.service_account(&namespace, "sensor", &rules(LEASES, &[])).await.unwrap();
    stage.login(&login(plane, &account));
    let mut scene = scene(stage);
    let sensor = scene.stage.start().await;
    scene.publish(3).await;
    lacks(&scene, &sensor, "list", "resourcequotas").await;
    assert_eq!(sensor.lines("the quotas may not be listed and watched").len(), 1, "once: {}", sensor.log());
    assert!(sensor.lines("does not answer as expected").is_empty(), "{}", sensor.log());
    assert_eq!(scene.posts(), 0);
    // What a list shows to be free may be used; without the watch nothing more is granted.
    allow(&["list"]).await;
    lacks(&scene, &sensor, "watch", "resourcequotas").await;
    assert!(scene.posts() <= 1, "the limit is 1");
    let raise = async |hard: &str| plane.set_hard(&namespace, "team", &key, Some(hard)).await.unwrap();
    raise("20").await;
    allow(QUOTAS).await;
    scene.all_created(&sensor).await;
    open(&sensor).await;
    assert!(!sensor.lines("the quotas may be listed and watched again").is_empty());
    // Taken while it leads: what is granted is good, and nothing more is.
    allow(&[]).await;
    scene.publish(20).await;
    lacks(&scene, &sensor, "list", "resourcequotas").await;
    raise("40").await;
    allow(QUOTAS).await;
    scene.all_created(&sensor).await;
    open(&sensor).await;
    // The watch goes on, and nobody waits for a reading: the poll alone is refused. What is granted is good.
    let said = |what: &str| sensor.lines(what).len();
    let (lacked, well) = ("the quotas may not be listed and watched", "the quotas may be listed and watched again");
    let before = (said(lacked), said(well));
    allow(&["get", "watch"]).await;
    let once_more = wait::until_true("it says what lacks", LONG, || async { said(lacked) == before.0 + 1 });
    once_more.await.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    allow(QUOTAS).await;
    let over = wait::until_true("it says that it is over", LONG, || async { said(well) == before.1 + 1 });
    over.await.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

/// The account of another namespace's sensor: the objects go where it has no rights at all.
async fn stranger(stage: &mut Stage<'_>) -> Value {
    let plane = stage.plane;
    let home = plane.namespace("home").await.unwrap();
    let rules = sensor_rules(&["create", "get", "list", "watch"]);
    let account = plane.service_account(&home, "sensor", &rules).await.unwrap();
    stage.login(&login(plane, &account));
    json!([{"kind": "ServiceAccount", "name": "sensor", "namespace": home}])
}

/// Gives it what a sensor needs.
async fn admit(stage: &Stage<'_>, subjects: &Value) {
    let place = json!({"name": "sensor", "namespace": stage.namespace});
    let api = "rbac.authorization.k8s.io";
    let version = format!("{api}/v1");
    let rules = sensor_rules(&["create", "get", "list", "watch"]);
    let role = json!({"apiVersion": version, "kind": "Role", "metadata": place, "rules": rules});
    stage.plane.apply(&role).await.unwrap();
    let reference = json!({"apiGroup": api, "kind": "Role", "name": "sensor"});
    let binding = json!({
        "apiVersion": version, "kind": "RoleBinding", "metadata": place, "roleRef": reference, "subjects": subjects,
    });
    stage.plane.apply(&binding).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_forbidden_is_named_and_used_once_it_is_allowed() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "forbidden", "10").await;
    let account = stranger(&mut stage).await;
    let mut scene = scene(stage);
    let sensor = scene.stage.start().await;
    scene.publish(3).await;
    lacks(&scene, &sensor, "get", "leases.coordination.k8s.io").await;
    detail(&sensor, &format!("in the namespace \"{}\"", scene.stage.namespace)).await;
    assert_eq!(scene.posts(), 0, "nothing is tried where nobody can count");
    admit(&scene.stage, &account).await;
    scene.all_created(&sensor).await;
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

/// Without a quota nobody counts, but nothing is handed out before a record stands, which whoever holds the Lease keeps.
#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_namespace_without_a_quota_loses_nothing_either() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::without_quota(plane, &nats, "forbidden-free").await;
    let account = stranger(&mut stage).await;
    stage.unset("BACKPRESSURE_QUOTA_NAME");
    let mut scene = scene(stage);
    let sensor = scene.stage.start().await;
    scene.publish(3).await;
    blocked(&sensor, Reason::TargetRefused).await;
    detail(&sensor, "the right to get leases.coordination.k8s.io is missing").await;
    detail(&sensor, &format!("in the namespace \"{}\"", scene.stage.namespace)).await;
    assert_eq!(scene.posts(), 0);
    let (pending, unacknowledged) = scene.stage.waiting().await;
    assert_eq!(pending + unacknowledged, 3, "the stream is not emptied");
    assert_eq!(scene.stage.dead_letters().await, 0);
    admit(&scene.stage, &account).await;
    scene.all_created(&sensor).await;
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

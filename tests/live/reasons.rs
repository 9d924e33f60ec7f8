//! Why a sensor is blocked: the right reason in state, log and metric, and on from there without a restart.

use jetgate::gate::Reason;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use testbed::control_plane::{ControlPlaneOptions, Login, Resource, ServiceAccount, definition};
use testbed::{ControlPlane, Nats, wait};

use crate::support::{LONG, Sensor, Stage, sensor_rules, workflow_file};

/// The gate is blocked for this reason: state, log and metrics say so, and the process is ready all the same.
pub(crate) async fn blocked(sensor: &Sensor, reason: Reason) {
    let word = reason.as_str();
    sensor.until_reason(Some(word)).await;
    let gate = sensor.state().await["gate"].clone();
    if gate["reason"] == word {
        assert_eq!(gate["state"], "blocked");
        assert_eq!(gate["sentence"], reason.sentence());
        assert_eq!(gate["freed_by"], reason.freed_by());
    }
    wait::until_true(&format!("the log says {word}"), LONG, || async {
        sensor.lines("gate blocked").last().is_some_and(|line| line["reason"] == word)
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    let gauge = if reason.sets_gauge() { 1.0 } else { 0.0 };
    sensor.until_metric("sensor_quota_blocked", &[], |value| value == gauge).await;
    let label = format!("reason=\"{word}\"");
    let before = sensor.until_metric("sensor_quota_blocked_seconds_total", &[&label], |value| value > 0.0).await;
    sensor.until_metric("sensor_quota_blocked_seconds_total", &[&label], |value| value > before).await;
    sensor
        .until_metric("sensor_time_seconds_total", &["state=\"blocked\"", &label], |value| value > before / 2.0)
        .await;
    assert_eq!(sensor.get("/readyz").await.unwrap().0, 200, "blocked is ready");
    assert_eq!(sensor.get("/livez").await.unwrap().0, 200, "blocked is alive");
}

/// The detail of the gate, once it holds this text.
pub(crate) async fn detail(sensor: &Sensor, text: &str) {
    wait::until_true(&format!("the detail says {text:?}"), LONG, || async {
        sensor.state().await["gate"]["detail"].as_str().is_some_and(|detail| detail.contains(text))
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
}

/// The line that is written again and again while a gate is blocked: why, since when, and how many messages wait.
async fn still_blocked(sensor: &Sensor, reason: Reason, detail: &str, waiting: u64, not_before: jiff::Timestamp) {
    let line = wait::until("the line that says it again", LONG, || async {
        sensor.lines("still blocked").into_iter().find(|line| line["waiting"] == waiting)
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    assert_eq!(line["reason"], reason.as_str(), "{line}");
    assert!(line["detail"].as_str().unwrap().contains(detail), "{line}");
    let (since, said): (jiff::Timestamp, jiff::Timestamp) =
        (line["since"].as_str().unwrap().parse().unwrap(), line["time"].as_str().unwrap().parse().unwrap());
    assert!(not_before <= since && since < said, "{line}");
    let lasted = line["blocked_seconds"].as_u64().unwrap();
    assert_eq!(lasted, said.duration_since(since).as_secs().unsigned_abs(), "{line}");
}

pub(crate) async fn open(sensor: &Sensor) {
    sensor.until_reason(None).await;
    sensor.until_metric("sensor_quota_blocked", &[], |value| value == 0.0).await;
}

pub(crate) struct Scene<'p> {
    pub(crate) stage: Stage<'p>,
    pub(crate) resource: Resource,
    pub(crate) published: usize,
}

impl Scene<'_> {
    pub(crate) async fn publish(&mut self, count: usize) {
        self.stage.publish(self.published..self.published + count).await;
        self.published += count;
    }

    pub(crate) fn posts(&self) -> usize {
        self.stage.plane.audit(&self.stage.namespace).unwrap().posts(&self.resource, &self.stage.namespace).count()
    }

    /// One more message is published, is seen to wait, and nothing is tried for it.
    pub(crate) async fn one_waits(&mut self, sensor: &Sensor, reason: Reason) {
        let before = self.posts();
        self.publish(1).await;
        self.stage_waits().await;
        blocked(sensor, reason).await;
        assert_eq!(self.posts(), before, "nothing is tried while {reason} holds");
    }

    pub(crate) async fn stage_waits(&self) {
        wait::until_true("a message waits", LONG, || async {
            let (pending, unacknowledged) = self.stage.waiting().await;
            pending + unacknowledged > 0
        })
        .await
        .unwrap();
    }

    /// Everything published so far has its object, once.
    pub(crate) async fn all_created(&self, sensor: &Sensor) {
        wait::until_true("every message has its object", LONG, || async {
            self.stage
                .plane
                .names(&self.resource, &self.stage.namespace)
                .await
                .is_ok_and(|names| names.len() == self.published)
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
        self.stage.until_drained().await;
        assert_eq!(self.stage.dead_letters().await, 0);
    }
}

pub(crate) fn scene(stage: Stage<'_>) -> Scene<'_> {
    Scene { stage, resource: Resource::workflows(), published: 0 }
}

fn key() -> String {
    Resource::workflows().quota_key()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_comes_goes_and_comes_again() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut scene = scene(Stage::without_quota(plane, &nats, "missing").await);
    let sensor = scene.stage.start().await;
    let namespace = scene.stage.namespace.clone();
    scene.one_waits(&sensor, Reason::QuotaMissing).await;
    detail(&sensor, "team").await;
    plane.quota(&namespace, "team", &[(&key(), "10")]).await.unwrap();
    scene.all_created(&sensor).await;
    open(&sensor).await;
    // It holds numbers that it has not used: they are worth nothing any more.
    sensor.until_metric("sensor_credits", &["state=\"unused\""], |value| value == 8.0).await;
    plane.delete_quota(&namespace, "team").await.unwrap();
    blocked(&sensor, Reason::QuotaMissing).await;
    scene.one_waits(&sensor, Reason::QuotaMissing).await;
    plane.quota(&namespace, "team", &[(&key(), "10")]).await.unwrap();
    scene.all_created(&sensor).await;
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_that_is_lowered_below_used_and_raised() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut scene = scene(Stage::new(plane, &nats, "lowered", "10").await);
    let sensor = scene.stage.start().await;
    let namespace = scene.stage.namespace.clone();
    scene.publish(3).await;
    scene.all_created(&sensor).await;
    open(&sensor).await;
    plane.set_hard(&namespace, "team", &key(), Some("2")).await.unwrap();
    blocked(&sensor, Reason::AtLimit).await;
    scene.one_waits(&sensor, Reason::AtLimit).await;
    plane.set_hard(&namespace, "team", &key(), Some("5")).await.unwrap();
    scene.all_created(&sensor).await;
    blocked(&sensor, Reason::AtLimit).await;
    scene.one_waits(&sensor, Reason::AtLimit).await;
    // An object that goes makes room as well as a raised hard does.
    let names = plane.names(&scene.resource, &namespace).await.unwrap();
    plane.delete(&scene.resource, &namespace, &names[0]).await.unwrap();
    scene.published -= 1;
    scene.all_created(&sensor).await;
    plane.set_hard(&namespace, "team", &key(), Some("20")).await.unwrap();
    open(&sensor).await;
    assert_eq!(plane.audit(&namespace).unwrap().posts_with(&scene.resource, &namespace, 403), 0);
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_leaves_the_quota_and_a_cost_that_never_fits() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::without_quota(plane, &nats, "resource").await;
    plane.quota(&stage.namespace, "team", &[(&key(), "10"), ("pods", "1")]).await.unwrap();
    let mut scene = scene(stage);
    let sensor = scene.stage.start().await;
    let namespace = scene.stage.namespace.clone();
    scene.publish(1).await;
    scene.all_created(&sensor).await;
    plane.set_hard(&namespace, "team", &key(), None).await.unwrap();
    blocked(&sensor, Reason::ResourceMissing).await;
    scene.one_waits(&sensor, Reason::ResourceMissing).await;
    detail(&sensor, "count/workflows.argoproj.io").await;
    plane.set_hard(&namespace, "team", &key(), Some("10")).await.unwrap();
    scene.all_created(&sensor).await;
    open(&sensor).await;
    plane.set_hard(&namespace, "team", &key(), Some("0")).await.unwrap();
    blocked(&sensor, Reason::NeverFits).await;
    scene.one_waits(&sensor, Reason::NeverFits).await;
    plane.set_hard(&namespace, "team", &key(), Some("10")).await.unwrap();
    scene.all_created(&sensor).await;
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_quota_that_bounds_harder() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut scene = scene(Stage::new(plane, &nats, "second", "20").await);
    let sensor = scene.stage.start().await;
    let namespace = scene.stage.namespace.clone();
    scene.publish(2).await;
    scene.all_created(&sensor).await;
    open(&sensor).await;
    plane.quota(&namespace, "tight", &[(&key(), "3")]).await.unwrap();
    // Its limit is its hard, without the ratio, which is for the named ones.
    sensor.until_metric("sensor_credits", &["state=\"unused\""], |value| value == 1.0).await;
    scene.publish(1).await;
    scene.all_created(&sensor).await;
    blocked(&sensor, Reason::AtLimit).await;
    scene.one_waits(&sensor, Reason::AtLimit).await;
    detail(&sensor, "tight").await;
    sensor.until_metric("sensor_quota_limit", &["quota=\"tight\""], |value| value == 3.0).await;
    sensor.until_metric("sensor_quota_limit", &["quota=\"team\""], |value| value == 19.0).await;
    plane.delete_quota(&namespace, "tight").await.unwrap();
    scene.all_created(&sensor).await;
    open(&sensor).await;
    assert_eq!(plane.audit(&namespace).unwrap().posts_with(&scene.resource, &namespace, 403), 0);
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_controller_that_is_stopped_and_continued() {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(&plane, &nats, "stopped", "2").await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    let mut scene = scene(stage);
    let sensor = scene.stage.start().await;
    let namespace = scene.stage.namespace.clone();
    scene.publish(2).await;
    scene.all_created(&sensor).await;
    plane.controller_manager().unwrap().stop().unwrap();
    let names = plane.names(&scene.resource, &namespace).await.unwrap();
    plane.delete(&scene.resource, &namespace, &names[0]).await.unwrap();
    scene.published -= 1;
    // The object is gone, and the quota does not say so: the live side alone opens nothing.
    sensor.until_metric("sensor_quota_live", &[], |live| live == 1.0).await;
    scene.one_waits(&sensor, Reason::AtLimit).await;
    assert_eq!(sensor.metric("sensor_quota_used", &[]).await, Some(2.0));
    plane.controller_manager().unwrap().cont().unwrap();
    scene.all_created(&sensor).await;
    assert_eq!(plane.audit(&namespace).unwrap().posts_with(&scene.resource, &namespace, 403), 0);
    assert_eq!(sensor.stop().await, Some(0));
}

/// A file for another kind than the Workflow.
fn file_for(resource: &Resource, stage: &Stage<'_>) -> String {
    workflow_file(&stage.sensor, &stage.stream)
        .replace("apiVersion: argoproj.io/v1alpha1", &format!("apiVersion: {}", resource.api_version()))
        .replace("kind: Workflow", &format!("kind: {}", resource.kind))
}

fn open_definition(resource: &Resource) -> Value {
    definition(resource, &json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_made_right_behind_its_definition() {
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::without_quota(&plane, &nats, "behind").await;
    let gears = Resource::new("late.example.com", "v1", "Gear", "gears");
    // It looks for new kinds every 30 s. Stopped, it cannot happen to do so right now.
    let controllers = plane.controller_manager().unwrap();
    controllers.stop().unwrap();
    plane.define(&[open_definition(&gears)]).await.unwrap();
    plane.quota_unready(&stage.namespace, "team", &[(&gears.quota_key(), "5")]).await.unwrap();
    let file = file_for(&gears, &stage);
    stage.set("BACKPRESSURE_RESOURCE_NAME", &gears.quota_key()).file(&file);
    let mut scene = scene(stage);
    scene.resource = gears;
    let sensor = scene.stage.start().await;
    scene.one_waits(&sensor, Reason::StatusUnknown).await;
    controllers.cont().unwrap();
    scene.all_created(&sensor).await;
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

pub(crate) fn login(plane: &ControlPlane, account: &ServiceAccount) -> Login {
    Login::Token(plane.sign_token(account, std::time::Duration::from_secs(3600)).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_to_create_that_is_missing_empties_no_stream() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "rights", "75").await;
    let namespace = stage.namespace.clone();
    let account = plane.service_account(&namespace, "sensor", &sensor_rules(&["get", "list", "watch"])).await.unwrap();
    stage.login(&login(plane, &account)).set("JETGATE_TEST_REMIND_EVERY_MS", "1500");
    let mut scene = scene(stage);
    let sensor = scene.stage.start().await;
    let before = jiff::Timestamp::now();
    scene.publish(100).await;
    blocked(&sensor, Reason::TargetRefused).await;
    still_blocked(&sensor, Reason::TargetRefused, "cannot create resource \"workflows\"", 100, before).await;
    detail(&sensor, "cannot create resource \"workflows\"").await;
    // One at a time is tried, with growing pauses.
    let refused = sensor.metric("sensor_refusals_total", &["class=\"target_refused\""]).await.unwrap();
    sensor.until_metric("sensor_refusals_total", &["class=\"target_refused\""], |value| value >= refused + 2.0).await;
    let (pending, unacknowledged) = scene.stage.waiting().await;
    assert_eq!(pending + unacknowledged, 100, "the stream is not emptied");
    assert_eq!(scene.stage.dead_letters().await, 0);
    assert!(plane.names(&scene.resource, &namespace).await.unwrap().is_empty());
    plane.service_account(&namespace, "sensor", &sensor_rules(&["get", "list", "watch", "create"])).await.unwrap();
    scene.published = 71;
    wait::until_true("the limit is reached", LONG, || async {
        plane.names(&scene.resource, &namespace).await.unwrap().len() == 71
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    blocked(&sensor, Reason::AtLimit).await;
    assert!(!sensor.lines("the target takes effects again").is_empty());
    assert_eq!(scene.stage.dead_letters().await, 0);
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_deleted_under_the_sensor() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut scene = scene(Stage::new(plane, &nats, "deleted", "5").await);
    let namespace = scene.stage.namespace.clone();
    // What holds the namespace in its terminating state, and its quota with it.
    let mut held = Resource::workflows().object("held");
    held["metadata"]["finalizers"] = json!(["example.com/held"]);
    plane.create(&scene.resource, &namespace, &held).await.unwrap();
    let sensor = scene.stage.start().await;
    open(&sensor).await;
    let namespaces: Api<Namespace> = Api::all(plane.client().await.unwrap());
    namespaces.delete(&namespace, &DeleteParams::default()).await.unwrap();
    scene.publish(2).await;
    // The quota goes with the namespace, and the Lease; what stays is that nothing new may be made there.
    detail(&sensor, "because it is being terminated").await;
    blocked(&sensor, Reason::TargetRefused).await;
    let kept = async || {
        let (pending, unacknowledged) = scene.stage.waiting().await;
        assert_eq!(pending + unacknowledged, 2, "the stream is not emptied");
        assert_eq!(scene.stage.dead_letters().await, 0);
    };
    kept().await;
    let objects = plane.objects(&scene.resource, &namespace).await.unwrap();
    let patch = kube::api::Patch::Merge(json!({"metadata": {"finalizers": null}}));
    objects.patch("held", &kube::api::PatchParams::default(), &patch).await.unwrap();
    wait::until_true("the namespace is gone", LONG, || async {
        matches!(namespaces.get_opt(&namespace).await, Ok(None))
    })
    .await
    .unwrap();
    detail(&sensor, "the namespace is missing or being deleted").await;
    detail(&sensor, &format!("namespaces \"{namespace}\" not found")).await;
    blocked(&sensor, Reason::TargetRefused).await;
    kept().await;
    let again = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    plane.apply(&again).await.unwrap();
    plane.quota(&namespace, "team", &[(&key(), "5")]).await.unwrap();
    scene.all_created(&sensor).await;
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_vanishes_and_comes_back() {
    let gears = Resource::new("gone.example.com", "v1", "Gear", "gears");
    let options = ControlPlaneOptions { definitions: vec![open_definition(&gears)], ..ControlPlaneOptions::default() };
    let plane = ControlPlane::start(options).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::without_quota(&plane, &nats, "vanishes").await;
    plane.quota(&stage.namespace, "team", &[(&gears.quota_key(), "5")]).await.unwrap();
    let file = file_for(&gears, &stage);
    stage.set("BACKPRESSURE_RESOURCE_NAME", &gears.quota_key()).file(&file);
    let mut scene = scene(stage);
    scene.resource = gears.clone();
    let sensor = scene.stage.start().await;
    open(&sensor).await;
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let definitions: Api<DynamicObject> = Api::all_with(plane.client().await.unwrap(), &ApiResource::from_gvk(&kind));
    let name = "gears.gone.example.com";
    definitions.delete(name, &DeleteParams::default()).await.unwrap();
    wait::until_true("the definition is gone", LONG, || async {
        matches!(definitions.get_opt(name).await, Ok(None))
            && plane.names(&gears, &scene.stage.namespace).await.is_err()
    })
    .await
    .unwrap();
    scene.publish(2).await;
    blocked(&sensor, Reason::TargetRefused).await;
    let (pending, unacknowledged) = scene.stage.waiting().await;
    assert_eq!(pending + unacknowledged, 2, "the stream is not emptied");
    plane.define(&[open_definition(&gears)]).await.unwrap();
    scene.all_created(&sensor).await;
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_grants() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "nobody", "5").await;
    stage.set("BACKPRESSURE_SOURCE", "controller");
    let mut scene = scene(stage);
    let sensor = scene.stage.start().await;
    scene.one_waits(&sensor, Reason::NoLeader).await;
    let said = sensor.lines("waiting for grants of the jetgate controller");
    assert_eq!(said.len(), 1, "once: {said:?}");
    assert_eq!(
        said[0]["msg"],
        "waiting for grants of the jetgate controller; where none is installed, install it or set \
         BACKPRESSURE_SOURCE=apiserver"
    );
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_paused() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut scene = scene(Stage::new(plane, &nats, "paused", "5").await);
    let sensor = scene.stage.start().await;
    open(&sensor).await;
    let js = scene.stage.jetstream();
    let subject = format!("CONSUMER.PAUSE.{}.{}", scene.stage.stream, scene.stage.sensor);
    let pause = json!({"pause_until": "2099-01-01T00:00:00Z"});
    let answer: Value = js.request(subject.clone(), &pause).await.unwrap();
    assert_eq!(answer["paused"], true, "{answer}");
    blocked(&sensor, Reason::ConsumerPaused).await;
    scene.one_waits(&sensor, Reason::ConsumerPaused).await;
    let _: Value = js.request(subject, &json!({})).await.unwrap();
    scene.all_created(&sensor).await;
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

//! How messages flow: one at a time, to the log, past no quota, and to a sensor that was idle.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use futures::StreamExt as _;
use jiff::Timestamp;
use testbed::control_plane::{Login, Resource};
use testbed::{ControlPlane, Direction, FaultProxy, Nats, wait};

use crate::support::{LONG, Stage};
use crate::triggers::until_drained;

fn log_file(stage: &Stage<'_>, trigger: &str) -> String {
    format!(
        "name: {}\nstream: {}\nsubject: {}.>\ntrigger: {{name: say, log: {trigger}}}\n",
        stage.sensor, stage.stream, stage.stream
    )
}

/// A number that comes back before its message has ended leaves room only at that end: the leader must hear of it then,
/// and not with the next report that is due.
#[tokio::test(flavor = "multi_thread")]
async fn one_message_in_flight_waits_for_no_report() {
    const MESSAGES: usize = 60;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "one-in-flight", "100").await;
    let file = log_file(&stage, "{silent: true}");
    // A report is due every 20 s.
    stage.set("BACKPRESSURE_SIGNAL_MAX_AGE", "60s").set("MAX_IN_FLIGHT", "1").file(&file);
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    stage.publish(0..MESSAGES).await;
    until_drained(&stage, &sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_trigger_without_a_quota() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::without_quota(plane, &nats, "log").await;
    let file = log_file(&stage, "{}");
    stage
        .unset("BACKPRESSURE_QUOTA_NAME")
        .unset("BACKPRESSURE_SOURCE")
        .unset("BACKPRESSURE_SIGNAL_MAX_AGE")
        .file(&file);
    // It needs no Kubernetes at all.
    stage.kubeconfig = stage.folder().join("nowhere");
    let sensor = stage.start().await;
    stage.publish(0..20).await;
    until_drained(&stage, &sensor).await;
    let events = sensor.lines("event");
    assert_eq!(events.len(), 20, "one line for each");
    for (index, line) in events.iter().enumerate() {
        assert_eq!(line["subject"], format!("{}.order", stage.stream));
        assert!(line["payload"].as_str().unwrap().starts_with("{\"id\":"), "{line}");
        assert!(line["sequence"].as_u64().is_some_and(|sequence| sequence >= 1), "{index}: {line}");
    }
    let off = sensor.lines("gating is off");
    assert_eq!(off.len(), 1, "said once");
    assert_eq!(
        off[0]["msg"],
        "gating is off: BACKPRESSURE_QUOTA_NAME is not set; only MAX_IN_FLIGHT bounds what is in hand"
    );
    assert_eq!(off[0]["max_in_flight"], 256);
    assert_eq!(stage.consumer().await.config.max_ack_pending, 1024, "four times MAX_IN_FLIGHT");
    assert_eq!(sensor.metric("sensor_quota_blocked", &[]).await, Some(0.0));
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_trigger_silent() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::without_quota(plane, &nats, "silent").await;
    let file = log_file(&stage, "{silent: true}");
    stage
        .unset("BACKPRESSURE_QUOTA_NAME")
        .unset("BACKPRESSURE_SOURCE")
        .unset("BACKPRESSURE_SIGNAL_MAX_AGE")
        .file(&file);
    let sensor = stage.start().await;
    stage.publish(0..20).await;
    until_drained(&stage, &sensor).await;
    sensor.until_metric("sensor_messages_total", &["outcome=\"done\""], |value| value == 20.0).await;
    assert!(sensor.lines("event").is_empty());
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_trigger_behind_a_quota() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "gated", "3").await;
    let file = log_file(&stage, "{}");
    stage.file(&file);
    let sensor = stage.start().await;
    // Many more than the limit: a line in the log leaves nothing behind that would count.
    stage.publish(0..50).await;
    until_drained(&stage, &sensor).await;
    assert_eq!(sensor.lines("event").len(), 50);
    let key = Resource::workflows().quota_key();
    plane.set_hard(&stage.namespace, "team", &key, Some("0")).await.unwrap();
    sensor.until_reason(Some("never_fits")).await;
    stage.publish(50..51).await;
    wait::until_true("the message waits", LONG, || async {
        let (pending, unacknowledged) = stage.waiting().await;
        pending + unacknowledged == 1
    })
    .await
    .unwrap();
    sensor.until_reason(Some("never_fits")).await;
    assert_eq!(sensor.lines("event").len(), 50);
    plane.set_hard(&stage.namespace, "team", &key, Some("3")).await.unwrap();
    until_drained(&stage, &sensor).await;
    assert_eq!(sensor.lines("event").len(), 51);
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quota_only_max_in_flight_bounds() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::without_quota(plane, &nats, "ungated").await;
    stage.unset("BACKPRESSURE_QUOTA_NAME").unset("BACKPRESSURE_SOURCE").unset("BACKPRESSURE_SIGNAL_MAX_AGE");
    stage.set("MAX_IN_FLIGHT", "5");
    let proxy = FaultProxy::start(plane.apiserver().address()).await.unwrap();
    stage.kubeconfig = plane.kubeconfig_at(&Login::Admin, &proxy.url("https")).unwrap();
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    assert_eq!(sensor.lines("gating is off").len(), 1, "said once");
    // The record stands.
    sensor.until_reason(None).await;
    proxy.stall(Direction::ToServer);
    stage.publish(0..50).await;
    sensor.until_metric("sensor_inflight", &[], |value| value == 5.0).await;
    assert_eq!(stage.waiting().await, (45, 5), "no more than MAX_IN_FLIGHT are taken");
    assert_eq!(stage.consumer().await.config.max_ack_pending, 20, "four times MAX_IN_FLIGHT");
    proxy.pass();
    referee
        .until_created(50, LONG)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    until_drained(&stage, &sensor).await;
    let verdict = stage.verdict(&referee, 50).await;
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(sensor.stop().await, Some(0));
}

/// How long after the publish a bare pull that waits has the message.
async fn bare_delay(stage: &Stage<'_>) -> Duration {
    let js = stage.jetstream();
    let name = format!("BARE{}", stage.stream);
    let config = Config { name: name.clone(), subjects: vec![format!("{name}.>")], ..Config::default() };
    let stream = js.create_stream(config).await.unwrap();
    let consumer = stream
        .create_consumer(async_nats::jetstream::consumer::pull::Config {
            durable_name: Some("bare".to_owned()),
            ..Default::default()
        })
        .await
        .unwrap();
    let mut messages = consumer.batch().max_messages(1).expires(Duration::from_secs(30)).messages().await.unwrap();
    stage.nats.flush().await.unwrap();
    let sent = std::time::Instant::now();
    let acknowledged = js.publish(format!("{name}.order"), "{}".into()).await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    let delay = sent.elapsed();
    acknowledged.await.unwrap();
    message.ack().await.unwrap();
    js.delete_stream(&name).await.unwrap();
    delay
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_of_an_idle_sensor_finds_a_credit_ready() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "idle", "10").await;
    // A report is due every 20 s.
    stage.set("BACKPRESSURE_SIGNAL_MAX_AGE", "60s");
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_metric("sensor_credits", &["state=\"unused\""], |value| value == 9.0).await;
    wait::until_true("a pull waits", LONG, || async { sensor.state().await["pull_outstanding"].as_u64() > Some(0) })
        .await
        .unwrap();
    let grants = sensor.metric("jetgate_grants_total", &[]).await.unwrap();
    let workflows = Resource::workflows();
    let mut delays = Vec::new();
    for id in 0..7_usize {
        let before = bare_delay(&stage).await;
        let sent = Timestamp::now();
        stage.publish(id..id + 1).await;
        referee.until_created(id + 1, LONG).await.unwrap();
        let post = wait::until("the POST in the audit log", LONG, || async {
            let audit = plane.audit(&stage.namespace).unwrap();
            audit.posts(&workflows, &stage.namespace).nth(id).cloned()
        })
        .await
        .unwrap();
        let received = post.received.as_nanosecond() - sent.as_nanosecond();
        // What the machine does beside is in the yardstick, too: the slower of the one before and the one after.
        let bare = before.max(bare_delay(&stage).await);
        delays.push((Duration::from_nanos(u64::try_from(received.max(0)).unwrap()), bare));
    }
    println!("publish to POST on the wire, beside a bare pull: {delays:?}");
    assert_eq!(sensor.metric("jetgate_grants_total", &[]).await, Some(grants), "no grant was needed");
    assert_eq!(sensor.metric("sensor_credits", &["state=\"top\""]).await, Some(9.0));
    // The first one waited for no report (20 s) and no poll (30 s). A pull ends after a second, at a moment that has
    // nothing to do with the message: who waits for that is late by half of it in the mean.
    let late = |(delay, bare): &(Duration, Duration)| delay.saturating_sub(*bare * 10);
    assert!(late(&delays[0]) < Duration::from_millis(500), "the first message waited for something: {delays:?}");
    let mut late: Vec<_> = delays.iter().map(late).collect();
    late.sort_unstable();
    assert!(late[late.len() / 2] < Duration::from_millis(150), "the messages waited for something: {delays:?}");
    assert_eq!(sensor.stop().await, Some(0));
}

//! How a sensor ends, and what its successor finds.

use std::time::Duration;

use serde_json::Value;
use testbed::{ControlPlane, ControlPlaneOptions, Finisher, Nats, Pace, Referee, Resource, wait};

use crate::support::{LONG, Sensor, Stage};

/// The books of the stage's namespace.
async fn books(stage: &Stage<'_>) -> Value {
    let bucket = stage.jetstream().get_key_value("jetgate-books").await.unwrap();
    let bytes = bucket.get(&stage.namespace).await.unwrap().expect("there are books");
    serde_json::from_slice(&bytes).unwrap()
}

async fn finisher(stage: &Stage<'_>, pace: Pace) -> Finisher {
    Finisher::start(stage.plane, &Resource::workflows(), &stage.namespace, pace).await.unwrap()
}

/// SIGTERM in the middle of a burst, again and again; each time a successor goes on at once.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_nothing_and_leaves_nothing_behind() {
    const MESSAGES: usize = 400;
    const LIMIT: usize = 40;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "sigterm", &LIMIT.to_string()).await;
    // What a stop left to it would not come again before the deadline.
    assert!(LONG < Duration::from_secs(600));
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").set("ACK_WAIT", "600s");
    let referee = stage.referee().await;
    let finisher = finisher(&stage, Pace::After(Duration::from_millis(50))).await;
    let mut sensor = stage.start().await;
    stage.publish(0..MESSAGES).await;
    for stops in 1..=4 {
        referee.until_created(stops * MESSAGES / 6, LONG).await.unwrap();
        assert_eq!(sensor.stop().await, Some(0), "{}", sensor.process.last_log_lines(30));
        assert!(!sensor.lines("stopped").is_empty());
        let books = books(&stage).await;
        let log = sensor.process.last_log_lines(30);
        assert_eq!(books["holders"], serde_json::json!({}), "{log}");
        assert_eq!(stage.lease_holder().await, None, "the Lease is given up");
        let created = referee.tally().created();
        println!("stopped with {created} created, {:?} waiting and unacknowledged", stage.waiting().await);
        sensor = stage.start().await;
    }
    stage.until_exact_under(LIMIT, &referee, &sensor, MESSAGES).await;
    assert_eq!(sensor.stop().await, Some(0));
    drop(finisher);
}

/// What is under way cannot end, because the API server does not answer: a second SIGTERM does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_aborts_while_the_api_server_hangs() {
    const MESSAGES: usize = 30;
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(&plane, &nats, "abort", "20").await;
    // Far longer than the second signal takes.
    stage.set("SHUTDOWN_GRACE", "100s");
    let (referee, sensor) = stage.start_and_stop_the_api(MESSAGES).await;
    sensor.process.terminate().unwrap();
    wait::until_true("the first SIGTERM is heard", LONG, || async { !sensor.lines("stopping:").is_empty() })
        .await
        .unwrap();
    assert!(sensor.process.is_alive());
    sensor.process.terminate().unwrap();
    let status = sensor.process.wait_exit(Duration::from_secs(30)).await.unwrap();
    assert_eq!(status.code(), Some(143), "{status}: {}", sensor.process.last_log_lines(20));
    assert!(!sensor.lines("aborted by a second signal").is_empty());
    plane.apiserver().process().cont().unwrap();
    let finisher = finisher(&stage, Pace::After(Duration::ZERO)).await;
    let sensor = stage.start().await;
    stage.until_exact_under(19, &referee, &sensor, MESSAGES).await;
    assert_eq!(sensor.stop().await, Some(0));
    drop(finisher);
}

async fn until_full(referee: &Referee, sensor: &Sensor, limit: usize) {
    referee
        .until_alive(limit, LONG)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
}

/// SIGKILL in the middle of a backlog: the credits of the dead come back, and the limit is used in full again.
#[tokio::test(flavor = "multi_thread")]
async fn sigkill_in_a_backlog_gives_every_credit_back() {
    const MESSAGES: usize = 300;
    const LIMIT: usize = 30;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "sigkill", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    let referee = stage.referee().await;
    let finisher = finisher(&stage, Pace::After(Duration::from_millis(50))).await;
    let mut sensor = stage.start().await;
    stage.publish(0..MESSAGES).await;
    for kills in 1..=3 {
        referee.until_created(kills * 60, LONG).await.unwrap();
        sensor.process.kill().await.unwrap();
        let (waiting, unacknowledged) = stage.waiting().await;
        println!(
            "killed with {} created, {waiting} waiting, {unacknowledged} unacknowledged",
            referee.tally().created()
        );
        // Nothing ends while the successor comes: it has to find the room that the dead one's credits took.
        finisher.set_pace(Pace::OnDemand).await.unwrap();
        sensor = stage.start().await;
        until_full(&referee, &sensor, LIMIT).await;
        finisher.set_pace(Pace::After(Duration::from_millis(50))).await.unwrap();
    }
    stage.until_exact_under(LIMIT, &referee, &sensor, MESSAGES).await;
    assert_eq!(sensor.stop().await, Some(0));
}

/// One leads and works, the other stands by, says for whom it waits, and takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_stands_by_and_takes_over() {
    const MESSAGES: usize = 200;
    const LIMIT: usize = 20;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "standby", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").set("POD_NAME", "first-pod");
    let referee = stage.referee().await;
    let finisher = finisher(&stage, Pace::After(Duration::from_millis(50))).await;
    let first = stage.start().await;
    first.until_reason(None).await;
    stage.set("POD_NAME", "second-pod");
    stage.own_log("second");
    let second = stage.start().await;
    second.until_reason(Some("no_leader")).await;
    wait::until_true("the second one says who holds the Lease", LONG, || async {
        let state = second.state().await;
        state["leader"]["waits_for"].as_str().is_some_and(|text| text.contains("first-pod"))
    })
    .await
    .unwrap();
    assert!(stage.lease_holder().await.unwrap().starts_with(&format!("first-pod/{}/", stage.sensor)));
    stage.publish(0..MESSAGES).await;
    referee.until_created(MESSAGES / 3, LONG).await.unwrap();
    assert_eq!(second.metric("sensor_trigger_total", &["outcome=\"done\""]).await.unwrap_or(0.0), 0.0);
    first.process.kill().await.unwrap();
    let verdict = stage.until_exact(&referee, &second, MESSAGES).await;
    println!("{verdict}");
    assert!(stage.lease_holder().await.unwrap().starts_with(&format!("second-pod/{}/", stage.sensor)));
    assert!(verdict.most_alive <= LIMIT, "{verdict}");
    assert_eq!(second.stop().await, Some(0));
    drop(finisher);
}

/// A sensor that sleeps for longer than its Lease, its grants and its hold on the messages: another takes its place, and
/// it may do nothing of what it was about to when it wakes up.
#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_that_wakes_up_late_does_no_harm() {
    const MESSAGES: usize = 200;
    const LIMIT: usize = 20;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "zombie", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").set("POD_NAME", "first-pod");
    let referee = stage.referee().await;
    let finisher = finisher(&stage, Pace::After(Duration::from_millis(100))).await;
    // On a durable that was there before, each message is held for P and looked up before its create.
    assert_eq!(stage.start().await.stop().await, Some(0));
    stage.publish(0..MESSAGES).await;
    let first = stage.start().await;
    wait::until_true("messages in hand", LONG, || async { first.state().await["messages_in_hand"] == LIMIT })
        .await
        .unwrap();
    first.process.stop().unwrap();
    let (_, held) = stage.waiting().await;
    assert_eq!(referee.tally().created(), 0, "it had looked nothing up yet");
    stage.set("POD_NAME", "second-pod");
    stage.own_log("second");
    let second = stage.start().await;
    second.until_metric("sensor_trigger_total", &["outcome=\"done\""], |done| done >= MESSAGES as f64 / 2.0).await;
    first.process.cont().unwrap();
    wait::until_true("the first one knows that it leads no more", LONG, || async {
        !first.lines("leadership").is_empty()
    })
    .await
    .unwrap();
    println!("woken up with {held} messages in hand");
    stage.until_exact_under(LIMIT, &referee, &second, MESSAGES).await;
    assert!(matches!(first.reason().await.as_deref(), Some("no_leader" | "grant_stale")), "{:?}", first.reason().await);
    assert_eq!(second.stop().await, Some(0));
    // The first one leads again.
    first.until_reason(None).await;
    assert_eq!(first.stop().await, Some(0));
    drop(finisher);
}

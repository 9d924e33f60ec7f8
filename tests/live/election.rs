//! Who leads where more than one process would.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};
use testbed::{ControlPlane, Direction, FaultProxy, Finisher, Nats, Pace, Resource, wait};

use crate::support::{LONG, Sensor, Stage};

async fn until_leading(sensor: &Sensor, leads: bool) {
    let reached =
        wait::until_true("who leads", LONG, || async { sensor.state().await["leader"]["leading"] == leads }).await;
    reached.unwrap_or_else(|error| panic!("leading {leads}: {error}\n{}", sensor.process.last_log_lines(30)));
}

/// A restarted container takes the Lease from its predecessor at once. Should that live on, it notices and steps down,
/// and does not take the Lease back.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_live_with_one_pod_name_come_to_rest() {
    const MESSAGES: usize = 150;
    const LIMIT: usize = 15;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "twins", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").set("POD_NAME", "one-pod");
    let referee = stage.referee().await;
    let pace = Pace::After(Duration::from_millis(100));
    let finisher = Finisher::start(plane, &Resource::workflows(), &stage.namespace, pace).await.unwrap();
    let first = stage.start().await;
    first.until_reason(None).await;
    let held = stage.lease_holder().await.unwrap();
    stage.publish(0..MESSAGES).await;
    referee.until_created(MESSAGES / 5, LONG).await.unwrap();
    stage.own_log("second");
    let second = stage.start().await;
    until_leading(&second, true).await;
    until_leading(&first, false).await;
    wait::until_true("the first one has lost the Lease", LONG, || async {
        !first.lines("the Lease is not ours any more").is_empty()
    })
    .await
    .unwrap();
    assert!(first.log().contains("another process that lives has our POD_NAME"), "{}", first.log());
    let holder = stage.lease_holder().await.unwrap();
    assert!(holder != held && holder.starts_with("one-pod/"), "{held}, then {holder}");
    let verdict = stage.until_exact(&referee, &second, MESSAGES).await;
    println!("{verdict}");
    assert!(verdict.most_alive <= LIMIT, "{verdict}");
    // The second one has held it for as long as all this took, and still does.
    assert_eq!(first.lines("the Lease is not ours any more").len(), 1, "{}", first.log());
    assert_eq!(stage.lease_holder().await, Some(holder));
    assert_eq!(second.lines("the Lease is not ours any more").len(), 0, "{}", second.log());
    assert_eq!(second.stop().await, Some(0));
    until_leading(&first, true).await;
    assert_eq!(first.stop().await, Some(0));
    drop(finisher);
}

/// A leader whose way to NATS is cut is no use to anybody: it gives the Lease up, and another leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_from_nats_lets_another_lead() {
    const MESSAGES: usize = 30;
    const LIMIT: usize = 10;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let tcp = FaultProxy::start(nats.address()).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "cut-off", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").set("POD_NAME", "first-pod");
    let direct = std::mem::replace(&mut stage.nats_url, tcp.url("nats"));
    let referee = stage.referee().await;
    let pace = Pace::After(Duration::from_millis(100));
    let finisher = Finisher::start(plane, &Resource::workflows(), &stage.namespace, pace).await.unwrap();
    let first = stage.start().await;
    first.until_reason(None).await;
    stage.nats_url = direct;
    stage.set("POD_NAME", "second-pod").own_log("second");
    let second = stage.start().await;
    second.until_reason(Some("no_leader")).await;
    tcp.stall(Direction::ToServer);
    tcp.stall(Direction::ToClient);
    until_leading(&second, true).await;
    stage.publish(0..MESSAGES).await;
    let verdict = stage.until_exact(&referee, &second, MESSAGES).await;
    println!("{verdict}");
    assert!(verdict.most_alive <= LIMIT, "{verdict}");
    assert!(first.log().contains("NATS has not answered for 5 s"), "{}", first.log());
    // It stands by again, once it hears.
    tcp.pass();
    wait::until_true("the first one hears NATS", LONG, || async {
        !first.lines("NATS answers again: a candidate for the Lease").is_empty()
    })
    .await
    .unwrap();
    assert!(stage.lease_holder().await.unwrap().starts_with("second-pod/"));
    assert_eq!(second.stop().await, Some(0));
    until_leading(&first, true).await;
    assert_eq!(first.stop().await, Some(0));
    drop(finisher);
}

/// A leader that lives on although another has begun to lead: here the other's word is put in its place. It must not be
/// spoken over, and whoever finds it leads no more; the Lease being its own, it then leads anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_does_not_speak_over_its_successor() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "deposed", "10").await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    stage.until_signal("the first word", |resource| resource["live"] == json!(0)).await;
    let bucket = stage.jetstream().get_key_value("jetgate-capacity").await.unwrap();
    let key = format!("{}.team", stage.namespace);
    // Its own words follow each other.
    stage.publish(0..1).await;
    stage.until_signal("the next word", |resource| resource["live"] == json!(1)).await;
    stage.until_drained().await;
    let mut successor = stage.signal().await.unwrap();
    let epoch = successor["epoch"].as_u64().unwrap();
    let mut words = bucket.watch(&key).await.unwrap();
    successor["epoch"] = json!(epoch + 1);
    bucket.put(&key, successor.to_string().into()).await.unwrap();
    stage.publish(1..2).await;
    wait::until_true("it notices", LONG, || async { !sensor.lines("leadership given up").is_empty() })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    let given_up = sensor.lines("leadership given up");
    assert_eq!(given_up[0]["cause"], "another leader wrote the capacity signal");
    until_leading(&sensor, true).await;
    stage.until_signal("the word of the new leadership", |resource| resource["live"] == json!(2)).await;
    let mut begun = false;
    loop {
        let word = tokio::time::timeout(LONG, words.next()).await.unwrap().unwrap().unwrap();
        let signal: Value = serde_json::from_slice(&word.value).unwrap();
        let told = signal["epoch"].as_u64().unwrap();
        begun |= told > epoch;
        assert!(!begun || told > epoch, "a word of the deposed leader: {signal}");
        if begun && signal["resources"][0]["live"] == json!(2) {
            break;
        }
    }
    stage.until_drained().await;
    assert_eq!(sensor.lines("leadership given up").len(), 1, "{}", sensor.log());
    assert_eq!(sensor.stop().await, Some(0));
}

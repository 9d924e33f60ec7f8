//! One object per message, also where the object is gone and the acknowledgement was lost.

use std::time::{Duration, Instant};

use async_nats::jetstream::{Message, consumer, stream};
use testbed::http_proxy::{Action, Matching};
use testbed::{
    ControlPlane, ControlPlaneOptions, Direction, FaultProxy, HttpFaultProxy, Nats, Referee, Resource, wait,
};

use crate::support::{LONG, Sensor, Stage};

/// P of the stage.
const CREATE_TIMEOUT: Duration = Duration::from_secs(2);

async fn ended(sensor: &Sensor) -> f64 {
    let mut sum = 0.0;
    for outcome in ["done", "recorded"] {
        sum += sensor.metric("sensor_messages_total", &[&format!("outcome=\"{outcome}\"")]).await.unwrap_or(0.0);
    }
    sum
}

/// Ends as soon as the sensor has had this many acknowledgements confirmed; says when the last of them was still missing.
async fn until_acked(sensor: &Sensor, count: f64) -> Instant {
    let address = sensor.address().await;
    let begun = Instant::now();
    let mut missing = begun;
    loop {
        let asked = Instant::now();
        let (_, text) = crate::support::get(&address, "/metrics").await.unwrap();
        let acked = text
            .lines()
            .filter(|line| line.starts_with("sensor_acks_total{") && line.contains("result=\"confirmed\""))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum::<f64>();
        if acked >= count {
            return missing;
        }
        missing = asked;
        assert!(begun.elapsed() < LONG, "{acked} of {count} acknowledged\n{}", sensor.process.last_log_lines(20));
        tokio::task::yield_now().await;
    }
}

/// A killed nats-server forgets acknowledgements that it has confirmed. The object is gone by then.
#[tokio::test(flavor = "multi_thread")]
async fn an_ack_that_nats_forgot_makes_no_second_object() {
    const ROUND: usize = 5;
    const MOST_ROUNDS: usize = 20;
    const SOON: Duration = Duration::from_millis(50);
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "forgotten-ack", "50").await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    let (mut published, mut again, mut shown) = (0, 0.0, false);
    while !shown && published < ROUND * MOST_ROUNDS {
        sensor.until_metric("sensor_nats_connected", &[], |up| up == 1.0).await;
        let acked = sensor.metric("sensor_acks_total", &["result=\"confirmed\""]).await.unwrap_or(0.0);
        stage.publish(published..published + ROUND).await;
        published += ROUND;
        let missing = until_acked(&sensor, acked + ROUND as f64).await;
        nats.process().kill().await.unwrap();
        let killed_after = missing.elapsed();
        referee.until_created(published, LONG).await.unwrap();
        stage.delete_all(&referee).await;
        nats.process().start_again().await.unwrap();
        stage.until_drained().await;
        // What was forgotten has been handed out again, or else nothing was forgotten.
        let all = wait::until_true("the ends of all messages are counted", LONG, || async {
            ended(&sensor).await >= published as f64
        });
        all.await.unwrap();
        let forgotten = ended(&sensor).await - published as f64 - again;
        again += forgotten;
        println!("killed at most {killed_after:?} after the last ack: {forgotten} handed out again");
        shown = forgotten > 0.0 && killed_after <= SOON;
    }
    assert!(shown, "no acknowledgement was forgotten by a server that was killed within {SOON:?} of it");
    let verdict = stage.until_exact(&referee, &sensor, published).await;
    assert_eq!(verdict.posts_201, published, "{verdict}");
    assert_eq!(sensor.metric("sensor_possible_duplicates_total", &[]).await.unwrap_or(0.0), 0.0);
    assert_eq!(sensor.stop().await, Some(0));
}

/// Whoever is killed right after its first object leaves no doubt: nothing is handed out before a record stands.
#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_killed_after_its_first_object_leaves_no_gap() {
    const ROUNDS: usize = 6;
    const MESSAGES: usize = 8;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    for round in 0..ROUNDS {
        let name = format!("newborn-{round}");
        let mut stage = if round % 2 == 0 {
            Stage::new(plane, &nats, &name, "50").await
        } else {
            Stage::without_quota(plane, &nats, &name).await
        };
        stage.set("ON_DOUBT", "create").set("DELIVER_POLICY", "all");
        if round % 2 == 1 {
            stage.unset("BACKPRESSURE_QUOTA_NAME").unset("BACKPRESSURE_SOURCE");
        }
        stage.publish(0..MESSAGES).await;
        let referee = stage.referee().await;
        let first = stage.spawn();
        referee
            .until_created(1, LONG)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", first.process.last_log_lines(30)));
        first.process.kill().await.unwrap();
        stage.delete_all(&referee).await;
        let second = stage.start().await;
        let verdict = stage.until_exact(&referee, &second, MESSAGES).await;
        println!("round {round}: {verdict}");
        assert_eq!(second.metric("sensor_record_gaps_total", &[]).await.unwrap_or(0.0), 0.0, "round {round}");
        assert_eq!(second.stop().await, Some(0));
    }
}

/// Brings a sensor to the moment after its object was stored and before its answer, its record and its ack were:
/// killed there. The message is then as good as never worked on, but for the object.
async fn killed_between_post_and_ack(
    stage: &Stage<'_>,
    http: &HttpFaultProxy,
    tcp: &FaultProxy,
    referee: &Referee,
    messages: usize,
) {
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    // The record stands, with the version from which a successor looks on.
    sensor.until_metric("sensor_record_version", &[], |version| version > 0.0).await;
    let posts = http.rule(Matching::post(&format!("/namespaces/{}/workflows", stage.namespace)), Action::HoldBefore);
    stage.publish(0..messages).await;
    posts.until_hits(messages as u64, LONG).await.unwrap();
    tcp.stall(Direction::ToServer);
    posts.release();
    referee.until_created(messages, LONG).await.unwrap_or_else(|error| {
        panic!("{error}\n{}", sensor.process.last_log_lines(30));
    });
    sensor.process.kill().await.unwrap();
    // What the stall holds must not arrive later.
    tcp.cut();
    wait::until_true("the proxy's connections are cut", LONG, || async { tcp.open() == 0 }).await.unwrap();
    tcp.pass();
    assert_eq!(stage.waiting().await, (0, messages as u64), "handed out, and not acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sensor_killed_between_post_and_ack_makes_no_second_object() {
    const MESSAGES: usize = 8;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let tcp = FaultProxy::start(nats.address()).await.unwrap();
    let http = HttpFaultProxy::start(plane).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "killed", "50").await;
    stage.login_at(&http.url()).await;
    stage.nats_url = tcp.url("nats");
    let referee = stage.referee().await;
    killed_between_post_and_ack(&stage, &http, &tcp, &referee, MESSAGES).await;
    stage.delete_all(&referee).await;
    let handed_out = stage.handed_out().await;
    let sensor = stage.start().await;
    let verdict = stage.until_exact(&referee, &sensor, MESSAGES).await;
    assert_eq!(verdict.posts_201, MESSAGES, "{verdict}");
    assert!(stage.handed_out().await >= handed_out + MESSAGES as u64, "every message was handed out again");
    sensor.until_metric("sensor_messages_total", &["outcome=\"recorded\""], |value| value == MESSAGES as f64).await;
    assert_eq!(sensor.metric("sensor_possible_duplicates_total", &[]).await.unwrap_or(0.0), 0.0);
    assert_eq!(sensor.stop().await, Some(0));
}

/// The API server has forgotten what happened while the sensor was down: nobody can know whether the object was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_the_record_is_said_and_on_doubt_decides() {
    const MESSAGES: usize = 3;
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
    plane.creates_are_prompt().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let http = HttpFaultProxy::start(&plane).await.unwrap();
    let mut stages = Vec::new();
    for on_doubt in ["create", "dead"] {
        let tcp = FaultProxy::start(nats.address()).await.unwrap();
        let mut stage = Stage::new(&plane, &nats, &format!("doubt-{on_doubt}"), "50").await;
        stage.set("ON_DOUBT", on_doubt).login_at(&http.url()).await;
        stage.nats_url = tcp.url("nats");
        let referee = stage.referee().await;
        killed_between_post_and_ack(&stage, &http, &tcp, &referee, MESSAGES).await;
        stage.delete_all(&referee).await;
        stages.push((stage, referee, tcp));
    }
    plane.compact_etcd().await.unwrap();
    plane.apiserver().process().restart().await.unwrap();
    for (number, (stage, referee, _tcp)) in stages.iter().enumerate() {
        let sensor = stage.start().await;
        sensor.until_metric("sensor_record_gaps_total", &[], |gaps| gaps == 1.0).await;
        assert_eq!(sensor.lines("record gap").len(), 1, "said once:\n{}", sensor.log());
        stage.until_drained().await;
        let verdict = stage.verdict(referee, MESSAGES).await;
        let created = number == 0;
        let doubled = if created { MESSAGES } else { 0 };
        assert_eq!(verdict.posts_201, MESSAGES + doubled, "{verdict}");
        assert_eq!(
            sensor.metric("sensor_possible_duplicates_total", &[]).await.unwrap_or(0.0),
            doubled as f64,
            "as many as were made in doubt"
        );
        if created {
            assert_eq!(stage.dead_letters().await, 0);
            assert_eq!(sensor.lines("creating in doubt").len(), MESSAGES);
        } else {
            assert_eq!(stage.dead_letters().await, MESSAGES as u64);
            let letters =
                testbed::referee::stream_messages(&stage.jetstream(), &format!("{}-dead", stage.stream)).await.unwrap();
            for letter in letters {
                assert!(letter.headers.iter().any(|(_, value)| value == "in_doubt"), "{:?}", letter.headers);
            }
        }
        // What comes after the gap is as before.
        stage.publish(MESSAGES..MESSAGES + 1).await;
        referee.until_created(MESSAGES + doubled + 1, LONG).await.unwrap();
        stage.until_drained().await;
        assert_eq!(sensor.metric("sensor_possible_duplicates_total", &[]).await.unwrap_or(0.0), doubled as f64);
        assert_eq!(sensor.stop().await, Some(0));
    }
}

/// The record is gone, and the consumer is not new: nobody can know whether the object was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_somebody_deleted_is_a_gap() {
    const MESSAGES: usize = 3;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let http = HttpFaultProxy::start(plane).await.unwrap();
    let tcp = FaultProxy::start(nats.address()).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "deleted-record", "50").await;
    stage.set("ON_DOUBT", "dead").login_at(&http.url()).await;
    stage.nats_url = tcp.url("nats");
    let referee = stage.referee().await;
    killed_between_post_and_ack(&stage, &http, &tcp, &referee, MESSAGES).await;
    stage.delete_all(&referee).await;
    stage.jetstream().delete_key_value("jetgate-record").await.unwrap();
    let sensor = stage.spawn_anew();
    sensor.until_ready().await;
    sensor.until_metric("sensor_record_gaps_total", &[], |gaps| gaps == 1.0).await;
    assert_eq!(sensor.lines("record gap").len(), 1, "said once:\n{}", sensor.log());
    stage.until_drained().await;
    let verdict = stage.verdict(&referee, MESSAGES).await;
    assert_eq!(verdict.posts_201, MESSAGES, "{verdict}");
    assert_eq!(stage.dead_letters().await, MESSAGES as u64);
    stage.publish(MESSAGES..MESSAGES + 1).await;
    referee.until_created(MESSAGES + 1, LONG).await.unwrap();
    sensor.until_metric("sensor_record_gaps_total", &[], |value| value == 1.0).await;
    assert_eq!(sensor.stop().await, Some(0));
}

/// Makes the stream again, with the sensor's consumer, and takes its first message, which is the stage's second.
async fn taken_by_another_replica(stage: &Stage<'_>, config: stream::Config, ack_wait: Duration) -> Message {
    let stream = stage.jetstream().create_stream(config).await.unwrap();
    let durable = consumer::pull::Config {
        durable_name: Some(stage.sensor.clone()),
        filter_subject: format!("{}.>", stage.stream),
        ack_policy: consumer::AckPolicy::Explicit,
        ack_wait,
        max_deliver: -1,
        ..Default::default()
    };
    let consumer = stream.create_consumer(durable).await.unwrap();
    stage.publish(1..2).await;
    let mut fetched = consumer.batch().max_messages(1).expires(Duration::from_secs(30)).messages().await.unwrap();
    let other = futures::StreamExt::next(&mut fetched).await.unwrap().unwrap();
    assert_eq!(other.info().unwrap().stream_sequence, 1, "the sequence of the lost message");
    other
}

/// What becomes of a sensor whose stream is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    GoesOn,
    Stops,
    /// It ends because the next consumer breaks a promise.
    Fails,
}

/// A stream is deleted while the only message that fits is in hand, so that no pull is out which would tell of it, and
/// made again with a replica being first.
async fn deleted_with_a_message_in_hand(name: &str, life: Life) {
    const ACK_WAIT: Duration = Duration::from_secs(30);
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let http = HttpFaultProxy::start(plane).await.unwrap();
    let mut stage = Stage::new(plane, &nats, name, "50").await;
    stage.set("MAX_IN_FLIGHT", "1").set("CREATE_TIMEOUT", "10s").set("ACK_WAIT", "30s").login_at(&http.url()).await;
    let referee = stage.referee().await;
    let mut sensor = stage.start().await;
    sensor.until_reason(None).await;
    let posts = http.rule(Matching::post(&format!("/namespaces/{}/workflows", stage.namespace)), Action::HoldBefore);
    stage.publish(0..1).await;
    posts.until_hits(1, LONG).await.unwrap();
    if life == Life::Stops {
        sensor.process.terminate().unwrap();
    }
    let js = stage.jetstream();
    let config = js.get_stream(&stage.stream).await.unwrap().cached_info().config.clone();
    stage.remember(1).await;
    js.delete_stream(&stage.stream).await.unwrap();
    let said = async |line: &str| {
        wait::until_true(line, LONG, || async { sensor.lines(line).len() == 1 })
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    };
    let held_since = Instant::now();
    let other = if life == Life::Fails {
        let other = taken_by_another_replica(&stage, config, ACK_WAIT * 2 / 3).await;
        said("failed").await;
        other
    } else {
        said("the stream is gone").await;
        said("the consumer is another one, has another leader, or is gone").await;
        taken_by_another_replica(&stage, config, ACK_WAIT).await
    };
    // At once: the next look would find another consumer, which tells, too.
    posts.release();
    referee.until_created(1, LONG).await.unwrap();
    if life != Life::GoesOn {
        let code = i32::from(life == Life::Fails);
        assert_eq!(sensor.process.wait_exit(LONG).await.unwrap().code(), Some(code));
    } else {
        wait::until_true("the message of the first stream is in hand no more", LONG, || async {
            sensor.state().await["messages_in_hand"] == 0
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    }
    assert!(held_since.elapsed() < ACK_WAIT, "too slow to tell");
    assert_eq!(stage.waiting().await, (0, 1), "the other replica's message is settled, and has no object");
    other.ack_with(async_nats::jetstream::AckKind::Nak(None)).await.unwrap();
    if life == Life::Fails {
        return;
    }
    if life == Life::Stops {
        sensor = stage.spawn_anew();
        sensor.until_ready().await;
    }
    let verdict = stage.until_exact(&referee, &sensor, 2).await;
    println!("{verdict}");
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_ack_does_not_settle_a_message_of_the_next_stream() {
    deleted_with_a_message_in_hand("remade", Life::GoesOn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_ack_of_a_sensor_that_stops_does_not_either() {
    deleted_with_a_message_in_hand("remade-stopping", Life::Stops).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_ack_of_a_sensor_that_fails_does_not_either() {
    deleted_with_a_message_in_hand("remade-failing", Life::Fails).await;
}

/// NATS comes back without the end of its stream, gives a sequence to another message, and a replica has that one in
/// hand: the late ack of the lost message must not settle it, because nats-server asks for the sequence alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_ack_does_not_settle_another_message_of_the_same_sequence() {
    const ACK_WAIT: Duration = Duration::from_secs(30);
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let tcp = FaultProxy::start(nats.address()).await.unwrap();
    let http = HttpFaultProxy::start(plane).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "reused", "50").await;
    stage.set("CREATE_TIMEOUT", "5s").set("ACK_WAIT", "30s").login_at(&http.url()).await;
    stage.nats_url = tcp.url("nats");
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    let posts = http.rule(Matching::post(&format!("/namespaces/{}/workflows", stage.namespace)), Action::HoldBefore);
    stage.publish(0..1).await;
    posts.until_hits(1, LONG).await.unwrap();
    tcp.refuse().await.unwrap();
    tcp.cut();
    nats.process().kill().await.unwrap();
    posts.release();
    referee.until_created(1, LONG).await.unwrap();
    nats.process().start_again().await.unwrap();

    // What was stored is lost with the whole stream, and another replica is sooner back than ours.
    let js = stage.jetstream();
    let config = wait::until("NATS is back", LONG, || async {
        Some(js.get_stream(&stage.stream).await.ok()?.cached_info().config.clone())
    });
    let config = config.await.unwrap();
    stage.remember(1).await;
    js.delete_stream(&stage.stream).await.unwrap();
    let other = taken_by_another_replica(&stage, config, ACK_WAIT).await;
    let held_since = Instant::now();
    tcp.accept().await.unwrap();
    sensor.until_metric("sensor_nats_reconnects_total", &[], |count| count > 0.0).await;
    wait::until_true("the lost message is in hand no more", LONG, || async {
        sensor.state().await["messages_in_hand"] == 0
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    assert!(held_since.elapsed() < ACK_WAIT, "too slow to tell");
    assert_eq!(stage.waiting().await, (0, 1), "the other replica's message is settled, and has no object");
    other.ack_with(async_nats::jetstream::AckKind::Nak(None)).await.unwrap();
    let verdict = stage.until_exact(&referee, &sensor, 2).await;
    println!("{verdict}");
    assert_eq!(sensor.stop().await, Some(0));
}

/// The number of credits without a definite answer is none again.
async fn until_settled(sensor: &Sensor) {
    let settled = wait::until_true("no number is in hand and none is made and unseen", LONG, || async {
        let state = sensor.state().await;
        state["credits"]["in_hand"] == 0 && state["credits"]["made"] == 0 && state["messages_in_hand"] == 0
    });
    settled.await.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
}

/// Four ways in which the answer of a POST does not come, or comes late; one object each, found by its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_post_whose_answer_is_lost_or_late_makes_one_object() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let http = HttpFaultProxy::start(plane).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "lost-reply", "4").await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").login_at(&http.url()).await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    let path = format!("/namespaces/{}/workflows", stage.namespace);
    let faults = [
        ("reply dropped after the commit", Action::DropReply),
        ("cut before it arrived", Action::Cut),
        ("held for more than half of P", Action::DelayBefore(CREATE_TIMEOUT * 3 / 4)),
        ("answer held for longer than P", Action::DelayAfter(CREATE_TIMEOUT * 3 / 2)),
    ];
    let mut created = 0;
    for (what, action) in faults {
        let rule = http.rule(Matching::post(&path).times(2), action);
        stage.publish(created..created + 4).await;
        created += 4;
        let verdict = stage.until_exact(&referee, &sensor, created).await;
        println!("{what}: {verdict}, {} requests hit", rule.hits());
        assert_eq!(rule.hits(), 2, "{what}");
        assert_eq!(verdict.posts_201, created, "{what}: {verdict}");
        assert!(verdict.most_alive <= 4, "{what}: {verdict}");
        until_settled(&sensor).await;
        rule.end();
        // All four credits come back: the next round needs them all.
        stage.delete_all(&referee).await;
    }
    assert_eq!(sensor.metric("sensor_possible_duplicates_total", &[]).await.unwrap_or(0.0), 0.0);
    assert_eq!(sensor.stop().await, Some(0));
}

/// A POST may lie in a stopped API server, and be carried out when that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_stops_during_a_post_makes_one_object() {
    const MESSAGES: usize = 20;
    let plane = ControlPlane::start(ControlPlaneOptions::default()).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(&plane, &nats, "stopped-api", "10").await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    let (referee, sensor) = stage.start_and_stop_the_api(MESSAGES).await;
    // Long enough for every POST under way to be given up.
    sensor.until_metric("sensor_trigger_total", &["outcome=\"doubtful\""], |doubtful| doubtful > 0.0).await;
    plane.apiserver().process().cont().unwrap();
    referee.until_created(10, LONG).await.unwrap_or_else(|error| {
        panic!("{error}\n{}", sensor.process.last_log_lines(30));
    });
    sensor.until_reason(Some("at_limit")).await;
    let finisher = testbed::Finisher::start(
        &plane,
        &Resource::workflows(),
        &stage.namespace,
        testbed::Pace::After(Duration::ZERO),
    )
    .await
    .unwrap();
    stage.until_exact_under(10, &referee, &sensor, MESSAGES).await;
    until_settled(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
    drop(finisher);
}

//! What the sensor keeps in JetStream is deleted, paused, purged or moved while it works.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::json;
use testbed::{ControlPlane, Finisher, Nats, NatsCluster, NatsOptions, Pace, Resource, wait};

use crate::reasons::detail;
use crate::support::{LONG, Stage};

async fn finisher(stage: &Stage<'_>, pace: Pace) -> Finisher {
    Finisher::start(stage.plane, &Resource::workflows(), &stage.namespace, pace).await.unwrap()
}

/// Asks JetStream's API; panics on its error.
async fn api(client: &async_nats::Client, subject: String, body: &str) -> serde_json::Value {
    let answer = client.request(subject.clone(), body.to_owned().into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{subject}: {answer}");
    answer
}

/// The durable is deleted in the middle of a burst, with messages in hand, acknowledged and waiting; objects finish at
/// once, so that only the record knows of them. It is made again where the record stands.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_is_made_again_where_the_record_stands() {
    const MESSAGES: usize = 300;
    const LIMIT: usize = 20;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "deleted", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    let referee = stage.referee().await;
    let finisher = finisher(&stage, Pace::After(Duration::ZERO)).await;
    let sensor = stage.start().await;
    stage.publish(0..MESSAGES).await;
    for deletions in 1..=3 {
        referee.until_created(deletions * MESSAGES / 5, LONG).await.unwrap();
        // The floor of the record is what the successor begins at; before it is written once there is none.
        api(&stage.nats, format!("$JS.API.CONSUMER.DELETE.{}.{}", stage.stream, stage.sensor), "").await;
        let made = wait::until_true("the consumer is made again", LONG, || async {
            sensor.lines("durable consumer made").len() == deletions + 1
        });
        made.await.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
        println!("{}", sensor.lines("durable consumer made").pop().unwrap()["start"]);
    }
    let verdict = stage.until_exact(&referee, &sensor, MESSAGES).await;
    let recorded = sensor.metric("sensor_messages_total", &["outcome=\"recorded\""]).await;
    println!("{verdict}, acknowledged by the record: {recorded:?}");
    assert!(verdict.most_alive <= LIMIT, "{verdict}");
    assert_eq!(sensor.metric("sensor_possible_duplicates_total", &[]).await.unwrap_or(0.0), 0.0);
    assert_eq!(sensor.stop().await, Some(0));
    drop(finisher);
}

/// Deleted while the sensor is down: the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_vanished_while_the_sensor_was_down_loses_and_doubles_nothing() {
    const MESSAGES: usize = 60;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "vanished", "20").await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    stage.publish(0..MESSAGES).await;
    referee.until_created(10, LONG).await.unwrap();
    sensor.until_reason(Some("at_limit")).await;
    assert_eq!(sensor.stop().await, Some(0));
    let created = referee.tally().created();
    stage.delete_all(&referee).await;
    api(&stage.nats, format!("$JS.API.CONSUMER.DELETE.{}.{}", stage.stream, stage.sensor), "").await;
    let finisher = finisher(&stage, Pace::After(Duration::ZERO)).await;
    let sensor = stage.start().await;
    let verdict = stage.until_exact(&referee, &sensor, MESSAGES).await;
    println!("{created} before, {verdict}");
    assert_eq!(sensor.stop().await, Some(0));
    drop(finisher);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_consumer_is_the_reason_and_goes_on() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "paused", "20").await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    stage.publish(0..5).await;
    referee.until_created(5, LONG).await.unwrap();
    stage.until_drained().await;
    let subject = format!("$JS.API.CONSUMER.PAUSE.{}.{}", stage.stream, stage.sensor);
    api(&stage.nats, subject.clone(), r#"{"pause_until":"2100-01-01T00:00:00Z"}"#).await;
    sensor.until_reason(Some("consumer_paused")).await;
    stage.publish(5..10).await;
    sensor.until_metric("sensor_pending_messages", &[], |pending| pending == 5.0).await;
    assert_eq!(sensor.metric("sensor_quota_blocked", &[]).await, Some(0.0), "no matter of the quota");
    assert_eq!(referee.tally().created(), 5);
    api(&stage.nats, subject, "{}").await;
    stage.until_exact(&referee, &sensor, 10).await;
    sensor.until_reason(None).await;
    assert_eq!(sensor.stop().await, Some(0));
}

/// A purge takes what was not handed out; the rest, and what comes later, goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_purged_stream_goes_on_with_what_comes_later() {
    const LIMIT: usize = 10;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "purged", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    stage.publish(0..50).await;
    referee.until_created(LIMIT, LONG).await.unwrap();
    sensor.until_reason(Some("at_limit")).await;
    stage.remember(LIMIT).await;
    stage.jetstream().get_stream(&stage.stream).await.unwrap().purge().await.unwrap();
    stage.publish(50..80).await;
    let finisher = finisher(&stage, Pace::After(Duration::ZERO)).await;
    let verdict = stage.until_exact(&referee, &sensor, LIMIT + 30).await;
    println!("{verdict}");
    assert!(verdict.most_alive <= LIMIT, "{verdict}");
    assert_eq!(sensor.stop().await, Some(0));
    drop(finisher);
}

/// Somebody deletes the buckets of books and record under a running leader. What they held is lost; the limit is not.
#[tokio::test(flavor = "multi_thread")]
async fn deleted_buckets_come_back_and_the_limit_holds() {
    const MESSAGES: usize = 60;
    const LIMIT: usize = 10;
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "buckets", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    let referee = stage.referee().await;
    let finisher = finisher(&stage, Pace::OnDemand).await;
    let sensor = stage.start().await;
    stage.publish(0..MESSAGES).await;
    referee.until_created(LIMIT, LONG).await.unwrap();
    sensor.until_reason(Some("at_limit")).await;
    for bucket in ["jetgate-books", "jetgate-record", "jetgate-capacity"] {
        stage.jetstream().delete_key_value(bucket).await.unwrap();
        let created = referee.tally().created();
        finisher.finish_one().await.unwrap().unwrap();
        finisher.finish_one().await.unwrap().unwrap();
        referee
            .until_created(created + 2, LONG)
            .await
            .unwrap_or_else(|error| panic!("{bucket}: {error}\n{}", sensor.process.last_log_lines(30)));
        println!("went on without {bucket}");
    }
    finisher.set_pace(Pace::After(Duration::ZERO)).await.unwrap();
    let verdict = stage.until_exact(&referee, &sensor, MESSAGES).await;
    assert!(verdict.most_alive <= LIMIT, "{verdict}");
    assert_eq!(sensor.stop().await, Some(0));
}

/// Three servers with everything on three: leaders are moved and servers killed while objects are created.
#[tokio::test(flavor = "multi_thread")]
async fn leaders_move_and_servers_die_in_a_cluster() {
    const MESSAGES: usize = 400;
    const LIMIT: usize = 30;
    let plane = ControlPlane::shared().await.unwrap();
    let cluster = NatsCluster::start(NatsOptions::default()).await.unwrap();
    let mut stage = Stage::new(plane, &cluster.nodes()[0], "cluster", &LIMIT.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1");
    stage.nats_url = cluster.url();
    stage.nats = cluster.connect().await.unwrap();
    let js = stage.jetstream();
    for bucket in ["jetgate-books", "jetgate-record", "jetgate-capacity"] {
        let config = jetstream::kv::Config { bucket: bucket.to_owned(), num_replicas: 3, ..Default::default() };
        js.create_key_value(config).await.unwrap();
    }
    let mut stream = js.get_stream(&stage.stream).await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.num_replicas = 3;
    js.update_stream(config).await.unwrap();
    wait::until_true("the stream is on three servers", LONG, || async {
        let mut stream = js.get_stream(&stage.stream).await.unwrap();
        let info = stream.info().await.unwrap();
        info.cluster.as_ref().is_some_and(|cluster| {
            cluster.leader.is_some() && cluster.replicas.len() == 2 && cluster.replicas.iter().all(|peer| peer.current)
        })
    })
    .await
    .unwrap();
    let referee = stage.referee().await;
    let finisher = finisher(&stage, Pace::After(Duration::from_millis(20))).await;
    let sensor = stage.start().await;
    stage.publish(0..MESSAGES).await;
    let (stream, durable) = (&stage.stream, &stage.sensor);
    let mut done = 0;
    for round in 0..3 {
        for subject in [
            format!("$JS.API.CONSUMER.LEADER.STEPDOWN.{stream}.{durable}"),
            format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}"),
            "$JS.API.STREAM.LEADER.STEPDOWN.KV_jetgate-books".to_owned(),
        ] {
            done += 15;
            referee
                .until_created(done, LONG)
                .await
                .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
            // While a leader is being chosen nobody can step down.
            wait::until_true(&subject, LONG, || async {
                let Ok(answer) = stage.nats.request(subject.clone(), "".into()).await else { return false };
                let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
                answer["error"].is_null()
            })
            .await
            .unwrap();
        }
        done += 15;
        referee.until_created(done, LONG).await.unwrap_or_else(|error| {
            panic!("{error}\n{}", sensor.process.last_log_lines(30));
        });
        let node = &cluster.nodes()[round];
        node.process().kill().await.unwrap();
        done += 40;
        referee
            .until_created(done, LONG)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
        node.process().start_again().await.unwrap();
        cluster.until_formed(LONG).await.unwrap();
        println!("round {round}: {}", referee.tally());
    }
    referee
        .until_created(MESSAGES, LONG)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    let verdict = stage.until_exact(&referee, &sensor, MESSAGES).await;
    println!("{verdict}, {:?} reconnects", sensor.metric("sensor_nats_reconnects_total", &[]).await);
    assert!(verdict.most_alive <= LIMIT, "{verdict}");
    assert_eq!(sensor.stop().await, Some(0));
    drop(finisher);
}

/// Somebody changes the durable under the sensor: it ends with the sentence of the start, and works again with the
/// durable as it should be.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_changed_so_that_it_could_lose_messages_ends_the_sensor() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "changed", "20").await;
    let referee = stage.referee().await;
    let (stream, durable) = (&stage.stream, &stage.sensor);
    let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}.{stream}.>");
    let mut done = 0;
    for (setting, bad, good, said) in [
        // The messages in hand count on what it was when they came; at the next start this is enough.
        ("ack_wait", json!(5_000_000_000_u64), json!(6_000_000_000_u64), "ack_wait is 5s: must be at least 6s"),
        ("max_deliver", json!(3), json!(-1), "max_deliver is 3: must be -1"),
    ] {
        let sensor = stage.spawn_anew();
        sensor.until_ready().await;
        let consumer: jetstream::consumer::PullConsumer =
            stage.jetstream().get_stream(stream).await.unwrap().get_consumer(durable).await.unwrap();
        let mut config = serde_json::to_value(&consumer.cached_info().config).unwrap();
        config[setting] = bad;
        let update = json!({"stream_name": stream, "config": config, "action": "update"}).to_string();
        api(&stage.nats, subject.clone(), &update).await;
        let exit = sensor.process.wait_exit(LONG).await.unwrap();
        assert_eq!(exit.code(), Some(1), "{}", sensor.process.last_log_lines(20));
        let failed = sensor.lines("failed").pop().unwrap();
        let error = failed["error"].as_str().unwrap();
        assert!(error.contains("JetStream refuses what the sensor needs") && error.contains(said), "{error}");
        config[setting] = good;
        let update = json!({"stream_name": stream, "config": config, "action": "update"}).to_string();
        api(&stage.nats, subject.clone(), &update).await;
        let sensor = stage.spawn_anew();
        sensor.until_ready().await;
        stage.publish(done..done + 3).await;
        done += 3;
        stage.until_exact(&referee, &sensor, done).await;
        assert_eq!(sensor.stop().await, Some(0));
    }
}

/// The stream is deleted under the sensor, which waits for it and does not make one of its own; all that is in the
/// next one is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_is_waited_for() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "streamless", "20").await;
    stage.set("LOG_LEVEL", "debug");
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    stage.publish(0..3).await;
    stage.until_exact(&referee, &sensor, 3).await;
    let js = stage.jetstream();
    let config = js.get_stream(&stage.stream).await.unwrap().cached_info().config.clone();
    stage.remember(3).await;
    // Whoever asks for the stream is heard here, too.
    let mut asked = stage.nats.subscribe(format!("$JS.API.STREAM.INFO.{}", stage.stream)).await.unwrap();
    stage.nats.flush().await.unwrap();
    let begun = Instant::now();
    js.delete_stream(&stage.stream).await.unwrap();
    let said =
        wait::until_true("it says that it waits", LONG, || async { sensor.lines("the stream is gone").len() == 1 });
    said.await.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    // For want of NATS, not of room: nobody is to look at the quota.
    sensor.until_reason(Some("nats_down")).await;
    detail(&sensor, "the stream is gone").await;
    assert_eq!(sensor.metric("sensor_quota_blocked", &[]).await, Some(0.0));
    // Nothing is pulled of a stream that nobody knows, and it looks for it again and again.
    let mut questions = 0_u32;
    while questions < 8 {
        let asks = tokio::time::timeout(LONG, asked.next()).await;
        asks.unwrap_or_else(|_| panic!("asked {questions} times\n{}", sensor.process.last_log_lines(30))).unwrap();
        questions += 1;
    }
    let lasted = begun.elapsed().as_secs_f64();
    assert!(js.get_stream(&stage.stream).await.is_err(), "somebody made the stream");
    while asked.next().now_or_never().flatten().is_some() {
        questions += 1;
    }
    let rate = f64::from(questions) / lasted;
    println!("asked for the stream {questions} times in {lasted:.1} s");
    assert!(rate < 20.0, "{questions} questions for a stream that is gone, {rate:.0} a second");
    drop(asked);
    js.create_stream(config).await.unwrap();
    // At once, before there is a consumer.
    stage.publish(3..8).await;
    referee
        .until_created(8, LONG)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    stage.until_drained().await;
    sensor.until_reason(None).await;
    let verdict = stage.verdict(&referee, 8).await;
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!((sensor.lines("the stream is gone").len(), sensor.lines("stream and consumer are back").len()), (1, 1));
    assert_eq!(sensor.stop().await, Some(0));
}

/// What is made in a cluster has the replicas of the stream, or as many as was said: it outlives a server.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_is_kept_like_the_stream() {
    let plane = ControlPlane::shared().await.unwrap();
    let cluster = NatsCluster::start(NatsOptions::default()).await.unwrap();
    let mut stage = Stage::new(plane, &cluster.nodes()[0], "replicas", "20").await;
    stage.nats_url = cluster.url();
    stage.nats = cluster.connect().await.unwrap();
    let js = stage.jetstream();
    let mut config = js.get_stream(&stage.stream).await.unwrap().cached_info().config.clone();
    config.num_replicas = 3;
    js.update_stream(config).await.unwrap();
    let replicas = async |name: String| js.get_stream(name).await.unwrap().cached_info().config.num_replicas;
    for (instance, said, expected) in [("", None, 3), ("east", Some("1"), 1)] {
        stage.set("INSTANCE", instance);
        if let Some(said) = said {
            stage.set("NATS_REPLICAS", said);
        }
        let sensor = stage.start().await;
        sensor.until_reason(None).await;
        let name = |base: &str| if instance.is_empty() { base.to_owned() } else { format!("{base}-{instance}") };
        for bucket in ["jetgate-books", "jetgate-record", "jetgate-capacity"] {
            assert_eq!(replicas(format!("KV_{}", name(bucket))).await, expected, "{bucket}");
        }
        // Each instance has dead letters of its own.
        let dead = name(&format!("{}-dead", stage.stream));
        assert_eq!(replicas(dead.clone()).await, expected, "{dead}");
        js.publish(format!("{}.order", stage.stream), "no JSON".into()).await.unwrap().await.unwrap();
        wait::until_true("its dead letter", LONG, || async {
            js.get_stream(&dead).await.unwrap().cached_info().state.messages == 1
        })
        .await
        .unwrap();
        assert_eq!(sensor.stop().await, Some(0));
    }
}

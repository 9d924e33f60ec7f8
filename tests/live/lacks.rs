//! What JetStream lacks when the sensor starts: made where that is allowed, and where it is not, said and waited for.

use async_nats::jetstream::stream::{Config, StorageType};
use jetgate::gate::Reason;
use testbed::nats::NatsOptions;
use testbed::{ControlPlane, Nats, wait};

use crate::reasons::detail;
use crate::support::{LONG, Sensor, Stage};

async fn delete_stream(stage: &Stage<'_>) -> Config {
    let js = stage.jetstream();
    let config = js.get_stream(&stage.stream).await.unwrap().cached_info().config.clone();
    js.delete_stream(&stage.stream).await.unwrap();
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_missing_is_made_and_that_is_said() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "missing", "20").await;
    delete_stream(&stage).await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    let said = sensor.lines("the stream did not exist and was made");
    assert_eq!(said.len(), 1, "{}", sensor.log());
    assert_eq!((&said[0]["stream"], &said[0]["level"]), (&stage.stream.as_str().into(), &"WARN".into()), "{said:?}");
    assert_eq!(said[0]["subject"], format!("{}.>", stage.stream));
    assert_eq!(sensor.lines("dead-letter stream made").len(), 1);
    stage.publish(0..3).await;
    stage.until_exact(&referee, &sensor, 3).await;
    assert_eq!(sensor.stop().await, Some(0));
    // What is there is not said.
    let sensor = stage.spawn_anew();
    sensor.until_ready().await;
    assert!(sensor.lines("did not exist").is_empty() && sensor.lines("stream made").is_empty(), "{}", sensor.log());
    assert_eq!(sensor.stop().await, Some(0));
}

/// Alive, not ready, with the lack in log and state: `what` cannot be made, because `subject` is denied.
async fn lacks(sensor: &Sensor, lines: usize, what: &str, subject: &str) {
    let error =
        format!("cannot make the {what}, which does not exist: the NATS user may not do this; the server says: ");
    detail(sensor, &error).await;
    detail(sensor, &format!("\"{subject}\"")).await;
    let gate = sensor.state().await["gate"].clone();
    assert_eq!((&gate["reason"], &gate["state"]), (&"nats_down".into(), &"blocked".into()), "{gate}");
    assert_eq!(gate["sentence"], Reason::NatsDown.sentence());
    let said = sensor.lines("waiting for what the sensor needs in JetStream");
    assert_eq!(said.len(), lines, "once for each lack: {}", sensor.log());
    assert!(said[lines - 1]["error"].as_str().unwrap().starts_with(&error), "{said:?}");
    assert_eq!(sensor.get("/livez").await.unwrap().0, 200, "waiting is living");
    let (code, text) = sensor.get("/readyz").await.unwrap();
    assert_eq!(code, 503);
    assert!(text.contains("[-] nats: stream, consumer and dead letters\n"), "{text}");
    let label = ["reason=\"nats_down\""];
    sensor.until_metric("sensor_quota_blocked_seconds_total", &label, |seconds| seconds > 0.0).await;
}

/// The sensor may make nothing: each thing that is missing is named, and it goes on by itself when somebody made it.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_made_is_named_and_waited_for() {
    let plane = ControlPlane::shared().await.unwrap();
    let config = "authorization { users: [\n\
                  {user: me, password: p-w, permissions: {publish: {allow: [\">\"], \
                  deny: [\"$JS.API.STREAM.CREATE.>\", \"$JS.API.CONSUMER.CREATE.*.*.>\"]}, subscribe: \">\"}},\n\
                  {user: anyone, password: x}] }\nno_auth_user: anyone\n";
    let nats = Nats::start(NatsOptions { config: config.to_owned(), ..NatsOptions::default() }).await.unwrap();
    let mut stage = Stage::new(plane, &nats, "denied", "20").await;
    stage.set("NATS_USER", "me").set("NATS_PASSWORD", "p-w");
    let config = delete_stream(&stage).await;
    let js = stage.jetstream();
    let referee = stage.referee().await;
    let sensor = stage.spawn();
    let (stream, dead) = (stage.stream.clone(), format!("{}-dead", stage.stream));
    lacks(&sensor, 1, &format!("stream {stream:?}"), &format!("$JS.API.STREAM.CREATE.{stream}")).await;
    // Each try finds it.
    js.create_stream(Config { storage: StorageType::Memory, ..config }).await.unwrap();
    lacks(&sensor, 2, &format!("stream {dead:?}"), &format!("$JS.API.STREAM.CREATE.{dead}")).await;
    let subjects = vec![format!("jetgate.dead.{stream}.>")];
    js.create_stream(Config { name: dead, subjects, ..Config::default() }).await.unwrap();
    for (number, bucket) in ["jetgate-record", "jetgate-books", "jetgate-capacity"].into_iter().enumerate() {
        let name = format!("KV_{bucket}");
        lacks(&sensor, number + 3, &format!("stream {name:?}"), &format!("$JS.API.STREAM.CREATE.{name}")).await;
        let config = async_nats::jetstream::kv::Config { bucket: bucket.to_owned(), ..Default::default() };
        js.create_key_value(config).await.unwrap();
    }
    let durable = &stage.sensor;
    let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}.{stream}.>");
    lacks(&sensor, 6, &format!("consumer {durable:?} of stream {stream:?}"), &subject).await;
    let consumer = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some(durable.clone()),
        ack_wait: std::time::Duration::from_secs(6),
        max_deliver: -1,
        filter_subject: format!("{stream}.>"),
        ..Default::default()
    };
    js.get_stream(&stream).await.unwrap().create_consumer(consumer.clone()).await.unwrap();
    sensor.until_ready().await;
    sensor.until_reason(None).await;
    stage.publish(0..3).await;
    stage.until_exact(&referee, &sensor, 3).await;

    // Deleted under it, it may not be made again either: said, blocked for the right reason, and on when it is there.
    js.get_stream(&stream).await.unwrap().delete_consumer(durable).await.unwrap();
    wait::until_true("it says that it waits", LONG, || async {
        sensor.lines("the NATS user may not use the stream or its consumer").len() == 1
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    sensor.until_reason(Some("nats_down")).await;
    detail(&sensor, "the NATS user may not use the stream or its consumer").await;
    js.get_stream(&stream).await.unwrap().create_consumer(consumer).await.unwrap();
    sensor.until_reason(None).await;
    // A pull may have told of it before.
    wait::until_true("it says that they are back", LONG, || async {
        sensor.lines("stream and consumer are back").len() == 1
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    assert_eq!(sensor.lines("the consumer is gone").len(), 1, "once: {}", sensor.process.last_log_lines(20));
    let unwise: Vec<_> = sensor.lines("unwise setting").iter().map(|line| line["setting"].clone()).collect();
    assert_eq!(unwise, ["storage"], "once: {}", sensor.process.last_log_lines(20));
    // What it had done is in its record; what is new is not.
    stage.publish(3..5).await;
    stage.until_exact(&referee, &sensor, 5).await;
    assert_eq!(sensor.stop().await, Some(0));
}

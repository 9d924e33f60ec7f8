use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, PriorityPolicy, pull, push};
use async_nats::jetstream::stream::{self, RetentionPolicy};
use futures::{FutureExt as _, StreamExt as _};
use jetgate::jetstream::{
    ConsumerSpec, ManageError, Puller, Retention, Start, StreamSpec, consumer_facts, ensure_consumer,
    ensure_dead_letter, ensure_stream, stream_facts,
};
use testbed::nats::Nats;
use testbed::proxy::{Direction, FaultProxy};

use crate::{DURABLE, STREAM, connect_to, consumer_spec, dead_letter_spec, next_message, send, stream_spec};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_made_where_allowed_and_named_where_not() {
    let nats = Nats::start_plain().await.unwrap();
    let connection = connect_to(nats.url()).await;
    let error = ensure_stream(&connection, &StreamSpec { create: false, ..stream_spec() }).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the stream \"EVENTS\" does not exist, and jetgate may not make it: create it, or allow it"
    );
    let closed = ConsumerSpec { create: false, ..consumer_spec() };
    for spec in [&consumer_spec(), &closed] {
        let error = ensure_consumer(&connection, spec).await.unwrap_err();
        let said = matches!(error, ManageError::StreamMissing { .. });
        assert!(said, "a consumer's stream is not made on the way, and is told of first: {error}");
    }
    let made = ensure_stream(&connection, &stream_spec()).await.unwrap();
    assert_eq!((made.made, made.retention, made.last_sequence), (true, Retention::Limits, 0));
    assert_eq!(made.subjects, ["orders.>"]);
    assert!(made.created_ns > 1_700_000_000_000_000_000);
    assert!(!ensure_stream(&connection, &stream_spec()).await.unwrap().made);
    let error = ensure_consumer(&connection, &closed).await.unwrap_err();
    assert!(matches!(error, ManageError::ConsumerMissing { .. }), "{error}");
    let error = consumer_facts(&connection, STREAM, DURABLE).await.unwrap_err();
    assert!(matches!(error, ManageError::ConsumerMissing { .. }), "{error}");
    send(&connection, 3).await;
    let other = ConsumerSpec { start: Start::Sequence(2), start_of_ns: Some(made.created_ns - 1), ..consumer_spec() };
    let error = ensure_consumer(&connection, &other).await.unwrap_err();
    assert!(
        matches!(error, ManageError::StreamChanged { .. }) && error.is_passing(),
        "the start is another's: {error}"
    );
    let new = ConsumerSpec { start: Start::New, start_of_ns: Some(made.created_ns), ..consumer_spec() };
    let terms = ensure_consumer(&connection, &new).await.unwrap();
    assert!(terms.made);
    assert_eq!((terms.ack_wait, terms.max_ack_pending), (Duration::from_secs(30), 10_000));
    assert_eq!((terms.facts.num_pending, terms.facts.paused), (0, false));
    assert!(!ensure_consumer(&connection, &closed).await.unwrap().made);
    send(&connection, 2).await;
    let mut puller = Puller::new(connection.clone(), STREAM, DURABLE);
    puller.pull(1, Duration::from_secs(1)).await.unwrap();
    assert_eq!(next_message(&mut puller).await.sequence, 4);
    let facts = consumer_facts(&connection, STREAM, DURABLE).await.unwrap();
    assert_eq!((facts.num_pending, facts.num_ack_pending, facts.delivered_stream_sequence), (1, 1, 4));
    assert_eq!(facts.ack_floor_stream_sequence, 3);
    let stream = stream_facts(&connection, STREAM).await.unwrap();
    assert_eq!((stream.first_sequence, stream.last_sequence, stream.messages), (1, 5, 5));
    assert_eq!(stream.created_ns, terms.stream_created_ns);
}

/// The stream is deleted and made again between the last look at it and the request that makes the consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_was_made_for_another_stream_is_not_kept() {
    const MOST_ROUNDS: usize = 20;
    let nats = Nats::start_plain().await.unwrap();
    let proxy = FaultProxy::start(nats.address()).await.unwrap();
    let (direct, behind) = (connect_to(nats.url()).await, connect_to(proxy.url("nats")).await);
    let client = async_nats::connect(nats.url()).await.unwrap();
    let js = async_nats::jetstream::new(client.clone());
    let mut deleted = client.subscribe(format!("$JS.API.CONSUMER.DELETE.{STREAM}.{DURABLE}")).await.unwrap();
    let mut shown = false;
    for _ in 0..MOST_ROUNDS {
        let first = ensure_stream(&direct, &stream_spec()).await.unwrap();
        send(&direct, 5).await;
        let mut asked = client.subscribe(format!("$JS.API.STREAM.INFO.{STREAM}")).await.unwrap();
        client.flush().await.unwrap();
        let spec = ConsumerSpec { start: Start::Sequence(4), start_of_ns: Some(first.created_ns), ..consumer_spec() };
        let call = tokio::spawn({
            let behind = behind.clone();
            async move { ensure_consumer(&behind, &spec).await }
        });
        asked.next().await.unwrap();
        proxy.stall(Direction::ToServer);
        // Answered after the question that was heard.
        stream_facts(&direct, STREAM).await.unwrap();
        js.delete_stream(STREAM).await.unwrap();
        ensure_stream(&direct, &stream_spec()).await.unwrap();
        proxy.pass();
        let Err(error) = call.await.unwrap() else {
            // It was over before it was held.
            js.delete_stream(STREAM).await.unwrap();
            continue;
        };
        let said = matches!(error, ManageError::StreamChanged { .. } | ManageError::StreamMissing { .. });
        assert!(said && !error.is_denied(), "{error}");
        let error = consumer_facts(&direct, STREAM, DURABLE).await.expect_err("it would pass over what is below 4");
        assert!(matches!(error, ManageError::ConsumerMissing { .. }), "{error}");
        client.flush().await.unwrap();
        if deleted.next().now_or_never().flatten().is_some() {
            shown = true;
            break;
        }
    }
    assert!(shown, "no consumer was made in the next stream in {MOST_ROUNDS} rounds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_make_the_same_at_once_both_get_it() {
    let nats = Nats::start_plain().await.unwrap();
    let (a, b) = (connect_to(nats.url()).await, connect_to(nats.url()).await);
    for i in 0..10 {
        let spec = StreamSpec { name: format!("S{i}"), subject: format!("s{i}.>"), ..stream_spec() };
        let (x, y) = tokio::join!(ensure_stream(&a, &spec), ensure_stream(&b, &spec));
        assert_eq!(x.unwrap().created_ns, y.unwrap().created_ns);
        let one = ConsumerSpec { stream: spec.name.clone(), filter_subject: spec.subject.clone(), ..consumer_spec() };
        // Another release with other defaults.
        let two = ConsumerSpec { max_ack_pending: 7, ..one.clone() };
        let (x, y) = tokio::join!(ensure_consumer(&a, &one), ensure_consumer(&b, &two));
        assert_eq!(x.unwrap().max_ack_pending, y.unwrap().max_ack_pending);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_work_queue_begins_with_all() {
    let nats = Nats::start_plain().await.unwrap();
    let connection = connect_to(nats.url()).await;
    let jetstream = async_nats::jetstream::new(connection.client().clone());
    let config = stream::Config {
        name: STREAM.into(),
        subjects: vec!["orders.>".into()],
        retention: RetentionPolicy::WorkQueue,
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    send(&connection, 2).await;
    let terms = ensure_consumer(&connection, &ConsumerSpec { start: Start::New, ..consumer_spec() }).await.unwrap();
    assert_eq!((terms.retention, terms.facts.num_pending), (Retention::WorkQueue, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_could_lose_messages_is_refused_with_the_setting() {
    let nats = Nats::start_plain().await.unwrap();
    let connection = connect_to(nats.url()).await;
    let spec = StreamSpec { subject: "orders.>".into(), ..stream_spec() };
    ensure_stream(&connection, &spec).await.unwrap();
    let jetstream = async_nats::jetstream::new(connection.client().clone());
    let stream = jetstream.get_stream(STREAM).await.unwrap();
    let good = || pull::Config {
        durable_name: Some(DURABLE.into()),
        ack_wait: Duration::from_secs(30),
        filter_subject: "orders.>".into(),
        ..Default::default()
    };
    let cases: Vec<(&str, pull::Config)> = vec![
        ("ack_policy is none", pull::Config { ack_policy: AckPolicy::None, ..good() }),
        ("ack_policy is all", pull::Config { ack_policy: AckPolicy::All, ..good() }),
        ("max_deliver is 3", pull::Config { max_deliver: 3, ..good() }),
        ("ack_wait is 5s: must be at least 20s", pull::Config { ack_wait: Duration::from_secs(5), ..good() }),
        ("filter_subject is \"orders.a\"", pull::Config { filter_subject: "orders.a".into(), ..good() }),
        ("max_ack_pending is -1", pull::Config { max_ack_pending: -1, ..good() }),
        ("headers_only is true", pull::Config { headers_only: true, ..good() }),
        ("mem_storage is true", pull::Config { memory_storage: true, ..good() }),
        (
            "backoff is [30s, 60s]",
            pull::Config { backoff: vec![Duration::from_secs(30), Duration::from_secs(60)], max_deliver: 3, ..good() },
        ),
        (
            "priority_policy is overflow",
            pull::Config { priority_policy: PriorityPolicy::Overflow, priority_groups: vec!["a".into()], ..good() },
        ),
    ];
    for (expected, config) in cases {
        stream.create_consumer(config).await.unwrap();
        let error = ensure_consumer(&connection, &consumer_spec()).await.unwrap_err();
        assert!(matches!(error, ManageError::Unsuitable { .. }), "{expected}");
        let told = error.to_string();
        assert!(told.starts_with("the consumer \"orders\" of stream \"EVENTS\" cannot be used: "), "{told}");
        assert!(told.contains(expected), "{told} / {expected}");
        assert!(!error.is_passing());
        stream.delete_consumer(DURABLE).await.unwrap();
    }
    let pushed = push::Config {
        durable_name: Some(DURABLE.into()),
        deliver_subject: "deliver.here".into(),
        filter_subject: "orders.>".into(),
        ..Default::default()
    };
    stream.create_consumer(pushed).await.unwrap();
    let told = ensure_consumer(&connection, &consumer_spec()).await.unwrap_err().to_string();
    assert!(told.contains("deliver_subject is deliver.here: must not be set"), "{told}");
    stream.delete_consumer(DURABLE).await.unwrap();
    // No filter is the filter for everything: the stream takes nothing else.
    stream.create_consumer(pull::Config { filter_subject: String::new(), ..good() }).await.unwrap();
    let terms = ensure_consumer(&connection, &consumer_spec()).await.unwrap();
    assert_eq!((terms.made, terms.warnings), (false, vec![]));
    let config: Config = stream.consumer_info(DURABLE).await.unwrap().config;
    assert_eq!(config.max_deliver, -1, "the server's default");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_stream_of_somebody_else_is_refused() {
    let nats = Nats::start_plain().await.unwrap();
    let connection = connect_to(nats.url()).await;
    let jetstream = async_nats::jetstream::new(connection.client().clone());
    let config = stream::Config { name: "EVENTS-dead".into(), subjects: vec!["mine".into()], ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    let spec = dead_letter_spec();
    let told = ensure_dead_letter(&connection, &spec).await.unwrap_err().to_string();
    assert_eq!(
        told,
        "the dead-letter stream \"EVENTS-dead\" cannot be used: subjects is [\"mine\"]: must take jetgate.dead.EVENTS.>"
    );
    let error = ensure_stream(&connection, &StreamSpec { name: "a.b".into(), ..stream_spec() }).await.unwrap_err();
    assert_eq!(error.to_string(), "\"a.b\" is no name of a stream: letters, digits, - and _ are allowed");
}

use std::time::{Duration, Instant};

use bytes::Bytes;
use jetgate::jetstream::{
    Ack, Acker, CallErrorKind, PublishErrorKind, Puller, consumer_facts, dead_letter_subject, ensure_dead_letter,
    publish, stream_facts,
};
use testbed::nats::Nats;
use testbed::proxy::{Direction, FaultProxy};

use crate::{DURABLE, LIMIT, STREAM, connect_to, dead_letter_spec, next_message, prepare, prepared, send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_does_what_it_says() {
    let (_nats, connection) = prepared().await;
    send(&connection, 4).await;
    let acker = Acker::new(connection.clone());
    let mut puller = Puller::new(connection.clone(), STREAM, DURABLE);
    puller.pull(5, Duration::from_secs(5)).await.unwrap();
    let mut replies = Vec::new();
    for _ in 0..4 {
        replies.push(next_message(&mut puller).await.reply);
    }
    let mut advisories = connection.client().subscribe("$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>").await.unwrap();
    connection.client().flush().await.unwrap();
    acker.ack(&replies[0], Ack::Ack).await.unwrap();
    acker.ack(&replies[1], Ack::Progress).await.unwrap();
    acker.ack(&replies[2], Ack::Term("bad payload")).await.unwrap();
    acker.ack(&replies[3], Ack::Nak(Duration::from_millis(20))).await.unwrap();
    let again = next_message(&mut puller).await;
    assert_eq!((again.sequence, again.delivered), (4, 2));
    let advisory = crate::soon("the advisory", futures::StreamExt::next(&mut advisories)).await.unwrap();
    assert!(String::from_utf8_lossy(&advisory.payload).contains("bad payload"));
    acker.ack(&again.reply, Ack::Ack).await.unwrap();
    // Once more, by the old reply: answered, no effect.
    acker.ack(&replies[3], Ack::Ack).await.unwrap();
    let facts = consumer_facts(&connection, STREAM, DURABLE).await.unwrap();
    assert_eq!((facts.num_ack_pending, facts.ack_floor_stream_sequence), (1, 1));
}

/// T2: an answer that nobody listens is no confirmation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ack_without_a_consumer_is_an_error() {
    let (_nats, connection) = prepared().await;
    send(&connection, 1).await;
    let acker = Acker::new(connection.clone());
    let mut puller = Puller::new(connection.clone(), STREAM, DURABLE);
    puller.pull(1, Duration::from_secs(5)).await.unwrap();
    let reply = next_message(&mut puller).await.reply;
    let jetstream = async_nats::jetstream::new(connection.client().clone());
    jetstream.delete_consumer_from_stream(DURABLE, STREAM).await.unwrap();
    assert_eq!(acker.ack(&reply, Ack::Ack).await.unwrap_err().kind(), CallErrorKind::NoResponders);
    jetstream.delete_stream(STREAM).await.unwrap();
    assert_eq!(acker.ack(&reply, Ack::Ack).await.unwrap_err().kind(), CallErrorKind::NoResponders);
}

/// T9: what is said while there is no connection is an error at once, and is not sent later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_queued_while_the_server_is_down() {
    let (nats, connection) = prepared().await;
    nats.process().kill().await.unwrap();
    let mut state = connection.state();
    crate::soon("the disconnect", state.wait_for(|state| !state.up)).await.unwrap();
    let start = Instant::now();
    let error = publish(&connection, "orders.x", &[], Bytes::new(), None, LIMIT).await.unwrap_err();
    assert_eq!(error.kind(), PublishErrorKind::Disconnected);
    let acker = Acker::new(connection.clone());
    let error = acker.ack(&"$JS.ACK.EVENTS.orders.1.1.1.1.1".into(), Ack::Ack).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Disconnected);
    assert!(start.elapsed() < Duration::from_secs(2));
    nats.process().start_again().await.unwrap();
    crate::until_up(&connection).await;
    send(&connection, 1).await;
    assert_eq!(stream_facts(&connection, STREAM).await.unwrap().last_sequence, 1, "the refused one was not stored");
}

/// A request under way when the connection is lost ends with it, not with its timeout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_ends_what_waits() {
    let nats = Nats::start_plain().await.unwrap();
    let proxy = FaultProxy::start(nats.address()).await.unwrap();
    let connection = connect_to(proxy.url("nats")).await;
    prepare(&connection).await;
    proxy.stall(Direction::ToClient);
    let waiting = tokio::spawn({
        let connection = connection.clone();
        async move { publish(&connection, "orders.x", &[], Bytes::new(), Some("one"), LIMIT * 10).await }
    });
    let direct = connect_to(nats.url()).await;
    crate::soon("the message in the stream", async {
        while stream_facts(&direct, STREAM).await.unwrap().last_sequence == 0 {}
    })
    .await;
    proxy.cut();
    let mut state = connection.state();
    crate::soon("the disconnect", state.wait_for(|state| !state.up)).await.unwrap();
    proxy.pass();
    let error = crate::soon("the end of the request", waiting).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), PublishErrorKind::Disconnected);
    crate::until_up(&connection).await;
    let again = publish(&connection, "orders.x", &[], Bytes::new(), Some("one"), LIMIT).await.unwrap();
    assert!(again.duplicate, "it had been stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_stored_once() {
    let (_nats, connection) = prepared().await;
    let spec = dead_letter_spec();
    assert!(ensure_dead_letter(&connection, &spec).await.unwrap().made);
    assert!(!ensure_dead_letter(&connection, &spec).await.unwrap().made);
    let subject = dead_letter_subject("", STREAM, "orders");
    let headers =
        [("Jetgate-Reason".to_owned(), "it is bad".to_owned()), ("Nats-Msg-Id".to_owned(), "theirs".to_owned())];
    let send = async || publish(&connection, &subject, &headers, Bytes::from_static(b"x"), Some("ours"), LIMIT).await;
    let first = send().await.unwrap();
    assert_eq!((first.sequence, first.duplicate, first.stream.as_str()), (1, false, "EVENTS-dead"));
    let second = send().await.unwrap();
    assert_eq!((second.sequence, second.duplicate), (1, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_errors_have_their_kinds() {
    let (_nats, connection) = prepared().await;
    let kind = async |subject: &str, payload: Vec<u8>| {
        publish(&connection, subject, &[], Bytes::from(payload), None, LIMIT).await.unwrap_err().kind()
    };
    assert_eq!(kind("nobody.listens", vec![]).await, PublishErrorKind::NoStream);
    assert_eq!(kind("orders.big", vec![0; 2_000_000]).await, PublishErrorKind::BadMessage);
    let jetstream = async_nats::jetstream::new(connection.client().clone());
    let config = async_nats::jetstream::stream::Config {
        name: "SMALL".into(),
        subjects: vec!["small".into()],
        max_messages: 1,
        discard: async_nats::jetstream::stream::DiscardPolicy::New,
        ..Default::default()
    };
    jetstream.create_stream(config).await.unwrap();
    publish(&connection, "small", &[], Bytes::new(), None, LIMIT).await.unwrap();
    assert_eq!(kind("small", vec![]).await, PublishErrorKind::Full);
}

//! The JetStream adapter against real servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

mod ack;
mod bucket;
mod connection;
mod identity;
mod manage;
mod measure;
#[path = "../common/operator.rs"]
mod operator;
mod pull;

use std::time::Duration;

use bytes::Bytes;
use jetgate::jetstream::{
    Connection, ConsumerSpec, DeadLetterSpec, Delivery, NatsOptions, PullEvent, Puller, Start, StreamSpec,
    ensure_consumer, ensure_stream, publish,
};
use testbed::nats::Nats;

pub(crate) const STREAM: &str = "EVENTS";
pub(crate) const DURABLE: &str = "orders";
/// The longest that anything may take on a machine that has other work.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Waits for a future that must come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

pub(crate) async fn until_up(connection: &Connection) {
    let mut state = connection.state();
    soon("the connection", state.wait_for(|state| state.up)).await.unwrap();
}

pub(crate) async fn connect_to(url: String) -> Connection {
    let connection = Connection::open(NatsOptions::new(vec![url])).await.unwrap();
    until_up(&connection).await;
    connection
}

pub(crate) fn stream_spec() -> StreamSpec {
    StreamSpec { name: STREAM.into(), subject: "orders.>".into(), create: true, replicas: 1 }
}

pub(crate) fn consumer_spec() -> ConsumerSpec {
    ConsumerSpec {
        stream: STREAM.into(),
        durable: DURABLE.into(),
        filter_subject: "orders.>".into(),
        ack_wait: Duration::from_secs(30),
        ack_wait_min: Duration::from_secs(20),
        pulls_min: None,
        max_ack_pending: 10_000,
        start: Start::All,
        start_of_ns: None,
        create: true,
    }
}

pub(crate) fn dead_letter_spec() -> DeadLetterSpec {
    DeadLetterSpec {
        name: "EVENTS-dead".into(),
        source: STREAM.into(),
        instance: String::new(),
        create: true,
        replicas: 1,
    }
}

/// A server, a connection to it, and the stream with its consumer.
pub(crate) async fn prepared() -> (Nats, Connection) {
    let nats = Nats::start_plain().await.unwrap();
    let connection = connect_to(nats.url()).await;
    prepare(&connection).await;
    (nats, connection)
}

pub(crate) async fn prepare(connection: &Connection) {
    ensure_stream(connection, &stream_spec()).await.unwrap();
    ensure_consumer(connection, &consumer_spec()).await.unwrap();
}

pub(crate) async fn send(connection: &Connection, n: usize) {
    for i in 0..n {
        let payload = Bytes::from(format!("{{\"n\":{i}}}"));
        publish(connection, "orders.new", &[], payload, None, LIMIT).await.unwrap();
    }
}

pub(crate) async fn next(puller: &mut Puller) -> PullEvent {
    soon("something of a pull", puller.next()).await
}

pub(crate) async fn next_message(puller: &mut Puller) -> Delivery {
    match next(puller).await {
        PullEvent::Message(delivery) => delivery,
        other => panic!("a message was expected, not {other:?}"),
    }
}

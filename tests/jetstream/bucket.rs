use std::time::Duration;

use bytes::Bytes;
use jetgate::jetstream::{Bucket, BucketOptions, Connection, ManageError, PutError, Watch, WatchUpdate};
use testbed::nats::Nats;
use testbed::proxy::{Direction, FaultProxy};

use crate::{connect_to, soon, until_up};

const OPTIONS: BucketOptions = BucketOptions { create: true, replicas: 1 };

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn opened(connection: &Connection) -> Bucket {
    Bucket::open(connection.clone(), "jetgate-books", OPTIONS).await.unwrap()
}

async fn update(watch: &mut Watch) -> WatchUpdate {
    soon("an update", watch.next()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_written_by_compare_and_set() {
    let nats = Nats::start_plain().await.unwrap();
    let connection = connect_to(nats.url()).await;
    let closed = BucketOptions { create: false, ..OPTIONS };
    let error = Bucket::open(connection.clone(), "jetgate-books", closed).await.unwrap_err();
    assert!(matches!(error, ManageError::StreamMissing { .. }), "{error}");
    let bucket = opened(&connection).await;
    assert_eq!(bucket.get("a").await.unwrap(), None);
    let first = bucket.put("a", bytes("1"), None).await.unwrap();
    assert_eq!(bucket.get("a").await.unwrap(), Some((bytes("1"), first)));
    let conflict = bucket.put("a", bytes("x"), None).await.unwrap_err();
    assert!(matches!(conflict, PutError::Conflict { .. }), "{conflict:?}");
    let second = bucket.put("a", bytes("2"), Some(first)).await.unwrap();
    for stale in [first, 0, second + 1] {
        let conflict = bucket.put("a", bytes("x"), Some(stale)).await.unwrap_err();
        assert!(matches!(conflict, PutError::Conflict { .. }), "{stale}: {conflict:?}");
    }
    assert_eq!(bucket.get("a").await.unwrap(), Some((bytes("2"), second)));
    assert!(matches!(bucket.delete("a", Some(first)).await, Err(PutError::Conflict { .. })));
    bucket.delete("a", Some(second)).await.unwrap();
    assert_eq!(bucket.get("a").await.unwrap(), None);
    let third = bucket.put("a", bytes("3"), None).await.unwrap();
    assert_eq!(bucket.get("a").await.unwrap(), Some((bytes("3"), third)), "a deleted key can be made again");
    assert!(matches!(bucket.put("a b", bytes(""), None).await, Err(PutError::Key { .. })));
    // Two writers, one winner, as often as they meet.
    let mut revision = third;
    for _ in 0..50 {
        let (a, b) =
            tokio::join!(bucket.put("a", bytes("a"), Some(revision)), bucket.put("a", bytes("b"), Some(revision)));
        let won: Vec<u64> = [a, b].into_iter().flatten().collect();
        assert_eq!(won.len(), 1);
        revision = won[0];
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_forgets_is_refused() {
    let nats = Nats::start_plain().await.unwrap();
    let connection = connect_to(nats.url()).await;
    let jetstream = async_nats::jetstream::new(connection.client().clone());
    let config = async_nats::jetstream::kv::Config {
        bucket: "jetgate-books".into(),
        storage: async_nats::jetstream::stream::StorageType::Memory,
        max_age: Duration::from_secs(100),
        ..Default::default()
    };
    jetstream.create_key_value(config).await.unwrap();
    let error = Bucket::open(connection, "jetgate-books", OPTIONS).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the bucket \"jetgate-books\" cannot be used: storage is memory: must be file: a restart of the server loses \
         what is in memory; max_age is 100s: must be 0: values would vanish"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_what_is_there_and_what_comes() {
    let nats = Nats::start_plain().await.unwrap();
    let connection = connect_to(nats.url()).await;
    let bucket = opened(&connection).await;
    let mut watch = bucket.watch("a");
    assert_eq!(update(&mut watch).await, WatchUpdate { value: None, revision: 0 }, "read, and nothing there");
    bucket.put("b", bytes("other"), None).await.unwrap();
    let revision = bucket.put("a", bytes("1"), None).await.unwrap();
    assert_eq!(update(&mut watch).await, WatchUpdate { value: Some(bytes("1")), revision });
    let mut late = bucket.watch("a");
    assert_eq!(update(&mut late).await, WatchUpdate { value: Some(bytes("1")), revision });
    let revision = bucket.delete("a", None).await.unwrap();
    assert_eq!(update(&mut watch).await, WatchUpdate { value: None, revision });
    let mut newest = 0;
    for _ in 0..200 {
        newest = bucket.put("c", bytes("x"), (newest > 0).then_some(newest)).await.unwrap();
    }
    let mut skipping = bucket.watch("c");
    assert_eq!(update(&mut skipping).await.revision, newest);
}

/// T16: no silence after a restart, a cut or a stall, nor where the bucket was made anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_for_ever() {
    let nats = Nats::start_plain().await.unwrap();
    let proxy = FaultProxy::start(nats.address()).await.unwrap();
    let connection = connect_to(proxy.url("nats")).await;
    let direct = connect_to(nats.url()).await;
    let bucket = opened(&direct).await;
    let mut watch = opened(&connection).await.watch("a");
    assert_eq!(update(&mut watch).await.revision, 0);
    let mut revision = bucket.put("a", bytes("0"), None).await.unwrap();
    assert_eq!(update(&mut watch).await.revision, revision);

    nats.process().restart().await.unwrap();
    until_up(&direct).await;
    revision = bucket.put("a", bytes("1"), Some(revision)).await.unwrap();
    assert_eq!(update(&mut watch).await, WatchUpdate { value: Some(bytes("1")), revision });

    for _ in 0..20 {
        proxy.cut();
        revision = bucket.put("a", bytes("2"), Some(revision)).await.unwrap();
        assert_eq!(update(&mut watch).await.revision, revision);
    }

    proxy.stall(Direction::ToClient);
    revision = bucket.put("a", bytes("3"), Some(revision)).await.unwrap();
    let stalled = tokio::time::timeout(Duration::from_millis(300), watch.next()).await;
    assert!(stalled.is_err());
    proxy.pass();
    assert_eq!(update(&mut watch).await.revision, revision);

    // The consumer behind the watch is gone, and nobody says so.
    let jetstream = async_nats::jetstream::new(direct.client().clone());
    let stream = jetstream.get_stream("KV_jetgate-books").await.unwrap();
    let names: Vec<String> = futures::TryStreamExt::try_collect(stream.consumer_names()).await.unwrap();
    assert!(!names.is_empty());
    for name in names {
        stream.delete_consumer(&name).await.unwrap();
    }
    revision = bucket.put("a", bytes("4"), Some(revision)).await.unwrap();
    assert_eq!(update(&mut watch).await.revision, revision);

    jetstream.delete_key_value("jetgate-books").await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(5), watch.next()).await;
    assert!(told.is_err(), "nothing is known, and that is not the same as nothing there: {told:?}");
    assert!(watch.error().is_some());
    let bucket = opened(&direct).await;
    let revision = bucket.put("a", bytes("5"), None).await.unwrap();
    assert_eq!(revision, 1);
    let mut seen = update(&mut watch).await;
    if seen.value.is_none() {
        seen = update(&mut watch).await;
    }
    assert_eq!(seen, WatchUpdate { value: Some(bytes("5")), revision });
}

use std::time::Duration;

use jetgate::jetstream::{Connection, NatsOptions, Puller};
use testbed::nats::Nats;
use testbed::proxy::FaultProxy;

use crate::{DURABLE, LIMIT, STREAM, connect_to, prepared, soon, until_up};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opens_before_there_is_a_server() {
    let nats = Nats::start_plain().await.unwrap();
    nats.process().kill().await.unwrap();
    let connection = Connection::open(NatsOptions::new(vec![nats.url()])).await.unwrap();
    let mut state = connection.state();
    assert!(!state.borrow().up);
    let said = soon("the error", state.wait_for(|state| state.last_error.is_some())).await.unwrap().clone();
    let said = said.last_error.unwrap();
    assert!(said.contains(&nats.address().to_string()) && said.contains("refused"), "{said}");
    assert_eq!(connection.live_epoch(), None);
    nats.process().start_again().await.unwrap();
    until_up(&connection).await;
    let state = connection.state().borrow().clone();
    assert_eq!((state.epoch, state.forgetful_epoch, state.reconnects, state.last_error), (1, 1, 0, None));
    assert_eq!(connection.live_epoch(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_another_server_process_is_forgetful() {
    let nats = Nats::start_plain().await.unwrap();
    let proxy = FaultProxy::start(nats.address()).await.unwrap();
    let connection = connect_to(proxy.url("nats")).await;
    let mut state = connection.state();
    for cut in 1..=5 {
        proxy.cut();
        let seen = soon("the reconnect", state.wait_for(|state| state.up && state.epoch > cut)).await.unwrap().clone();
        assert_eq!((seen.epoch, seen.forgetful_epoch, seen.reconnects), (cut + 1, 1, cut));
    }
    nats.process().restart().await.unwrap();
    let seen = soon("the reconnect", state.wait_for(|state| state.up && state.epoch > 6)).await.unwrap().clone();
    assert_eq!(seen.forgetful_epoch, seen.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_given_up() {
    let nats = Nats::start_plain().await.unwrap();
    let proxy = FaultProxy::start(nats.address()).await.unwrap();
    let mut options = NatsOptions::new(vec![proxy.url("nats")]);
    options.ping_interval = Duration::from_millis(300);
    let connection = Connection::open(options).await.unwrap();
    until_up(&connection).await;
    proxy.blackhole(testbed::proxy::Direction::ToClient);
    let mut state = connection.state();
    soon("the end of the connection", state.wait_for(|state| !state.up)).await.unwrap();
    proxy.pass();
    until_up(&connection).await;
}

/// Where somebody listens to everything, no server says that nobody does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_to_everything_takes_no_sign_of_life_away() {
    let nats = Nats::start_plain().await.unwrap();
    let curious = nats.connect().await.unwrap();
    let all = curious.subscribe(">").await.unwrap();
    curious.flush().await.unwrap();
    let connection = connect_to(nats.url()).await;
    assert!(connection.answers(Duration::from_secs(4)).await);
    drop(all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_writes_what_is_queued() {
    let (nats, connection) = prepared().await;
    let other = connect_to(nats.url()).await;
    let mut heard = other.client().subscribe("goodbye").await.unwrap();
    // An answer proves that the server knows of the subscription; a flush does not.
    assert!(other.answers(LIMIT).await);
    let mut puller = Puller::new(connection.clone(), STREAM, DURABLE);
    puller.pull(1, Duration::from_secs(1)).await.unwrap();
    connection.client().publish("goodbye", "x".into()).await.unwrap();
    connection.close(LIMIT).await.unwrap();
    soon("the last message", futures::StreamExt::next(&mut heard)).await.unwrap();
    assert_eq!(connection.live_epoch(), None);
    connection.close(LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_last_clone_ends_the_connection() {
    let (nats, connection) = prepared().await;
    let other = connect_to(nats.url()).await;
    let connections = async || nats.monitoring("/connz").await.unwrap()["num_connections"].as_u64().unwrap();
    assert_eq!(connections().await, 2);
    drop(connection);
    soon("the end of the connection", async {
        while connections().await != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_in_lame_duck_mode_is_left() {
    let nats = Nats::start(testbed::nats::NatsOptions {
        config: "lame_duck_grace_period: 20s\nlame_duck_duration: 60s".into(),
        ..Default::default()
    })
    .await
    .unwrap();
    let spare = Nats::start_plain().await.unwrap();
    let proxy = FaultProxy::start(nats.address()).await.unwrap();
    let connection = connect_to(proxy.url("nats")).await;
    proxy.set_upstream(spare.address());
    // SIGUSR2 is lame duck mode.
    let killed =
        std::process::Command::new("kill").args(["-USR2", &nats.process().pid().to_string()]).status().unwrap();
    assert!(killed.success());
    let mut state = connection.state();
    soon("the change of server", state.wait_for(|state| state.up && state.epoch == 2)).await.unwrap();
    assert_eq!(state.borrow().forgetful_epoch, 2);
}

//! nats-server alone and as three: stores that survive, leaders that change, TLS and logins.

use std::time::Duration;

use async_nats::jetstream;
use testbed::certs::Authority;
use testbed::referee::stream_messages;
use testbed::{Nats, NatsCluster, NatsOptions, wait};

use crate::SOON;

#[tokio::test]
async fn a_killed_server_comes_back_on_its_port_with_its_store() {
    let nats =
        Nats::start(NatsOptions { sync_interval: Some("always".to_owned()), ..Default::default() }).await.unwrap();
    let url = nats.url();
    let jetstream = jetstream::new(nats.connect().await.unwrap());
    stream(&jetstream, 1).await;
    for number in 0..10 {
        let payload = format!("{number}");
        let sent = jetstream.publish("events.a", payload.into()).await.unwrap();
        sent.await.unwrap();
    }
    nats.process().restart().await.unwrap();
    assert_eq!(nats.url(), url);
    let jetstream = jetstream::new(nats.connect().await.unwrap());
    let messages = stream_messages(&jetstream, "EVENTS").await.unwrap();
    let payloads: Vec<_> = messages.iter().map(|message| &message.payload[..]).collect();
    assert_eq!(payloads.len(), 10);
    assert_eq!(payloads[9], b"9");
    assert_eq!(messages[0].sequence, 1);
}

#[tokio::test]
async fn a_stopped_server_is_silent_and_goes_on() {
    let nats = Nats::start_plain().await.unwrap();
    let client = nats.connect().await.unwrap();
    nats.process().stop().unwrap();
    let silent = tokio::time::timeout(Duration::from_millis(500), client.flush()).await;
    // A flush only writes; the server's answer is what is missing.
    drop(silent);
    let jetstream = jetstream::new(client);
    let asked = tokio::time::timeout(Duration::from_secs(1), jetstream.query_account()).await;
    // Where this test stands still itself for long, the client gives up before our clock is looked at.
    assert!(!matches!(asked, Ok(Ok(_))), "a stopped server answered");
    nats.process().cont().unwrap();
    wait::until_true("an answer", SOON, || async { jetstream.query_account().await.is_ok() }).await.unwrap();
}

#[tokio::test]
async fn three_servers_form_a_cluster_and_choose_a_new_leader() {
    let cluster = NatsCluster::start(NatsOptions::default()).await.unwrap();
    let first = cluster.leader().await.unwrap();
    let jetstream = jetstream::new(cluster.connect().await.unwrap());
    stream(&jetstream, 3).await;
    let sent = jetstream.publish("events.a", "1".into()).await.unwrap();
    sent.await.unwrap();

    let old = first.address();
    first.process().kill().await.unwrap();
    wait::until_true("another leader", SOON, || async {
        cluster.leader().await.is_some_and(|leader| leader.address() != old)
    })
    .await
    .unwrap();
    first.process().start_again().await.unwrap();
    cluster.until_formed(SOON).await.unwrap();
    let messages = stream_messages(&jetstream, "EVENTS").await.unwrap();
    assert_eq!(messages.len(), 1);
}

#[tokio::test]
async fn tls_and_logins_are_asked_for() {
    let authority = Authority::new("nats").unwrap();
    let nats = Nats::start(NatsOptions {
        config: "authorization { user: u, password: p }".to_owned(),
        tls: Some(authority.serving_loopback().unwrap()),
        verify_clients: Some(authority.pem()),
        ..Default::default()
    })
    .await
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let client = authority.client("client", None).unwrap();
    let options = async_nats::ConnectOptions::with_user_and_password("u".into(), "p".into())
        .require_tls(true)
        .add_root_certificates(write("ca.crt", &authority.pem()))
        .add_client_certificate(write("client.crt", &client.certificate), write("client.key", &client.key));
    options.connect(nats.url()).await.unwrap();
    nats.connect().await.unwrap_err();
}

async fn stream(jetstream: &jetstream::Context, replicas: usize) {
    jetstream
        .create_stream(jetstream::stream::Config {
            name: "EVENTS".to_owned(),
            subjects: vec!["events.>".to_owned()],
            num_replicas: replicas,
            ..Default::default()
        })
        .await
        .unwrap();
}

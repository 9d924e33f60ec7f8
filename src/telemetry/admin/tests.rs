#![allow(clippy::disallowed_methods)] // the tests' tasks end with the test

use super::*;
use crate::telemetry::{Condition, SensorIdentity};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

struct Server {
    port: u16,
    conditions: [Condition; 2],
    stop: CancellationToken,
    task: JoinHandle<Result<(), AdminError>>,
}

async fn start(bounds: Bounds) -> Server {
    let metrics = Arc::new(Metrics::new("").unwrap());
    let identity = SensorIdentity { namespace: "jobs".into(), sensor: "orders".into(), trigger: "create".into() };
    metrics.sensor(identity, []);
    let health = Health::new(Instant::now());
    let conditions = ["nats", "quota"].map(|name| health.expects(name));
    let admin = Admin::bind_within(0, bounds).await.unwrap();
    let port = admin.address().port();
    assert_ne!(port, 0);
    let stop = CancellationToken::new();
    let shown = Shown { metrics, health, state: Arc::new(|| serde_json::json!({"gate": "blocked"})) };
    let task = tokio::spawn(admin.serve(shown, stop.clone()));
    Server { port, conditions, stop, task }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
}

async fn ask(address: (impl Into<std::net::IpAddr>, u16), path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = soon(async {
        let mut stream = TcpStream::connect((address.0.into(), address.1)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("connection: close"), "{head}");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

impl Server {
    async fn get(&self, path: &str) -> (u16, String) {
        ask((Ipv4Addr::LOCALHOST, self.port), path).await
    }

    async fn end(self) {
        self.stop.cancel();
        soon(self.task).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn shows_metrics_health_and_state() {
    let server = start(Bounds::default()).await;
    let (status, text) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("sensor_quota_blocked{"));
    assert_eq!(server.get("/livez").await, (200, "ok\n".into()));
    assert_eq!(server.get("/healthz").await.0, 200);
    let (status, text) = server.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(text.contains("[-] nats\n[-] quota\n"), "{text}");
    for condition in &server.conditions {
        condition.met();
    }
    assert_eq!(server.get("/readyz").await, (200, "ok\n".into()));
    let (status, text) = server.get("/readyz?verbose").await;
    assert_eq!((status, text.contains("[+] quota\n")), (200, true));
    assert_eq!(server.get("/debug/state").await, (200, "{\"gate\":\"blocked\"}\n".into()));
    assert!(server.get("/debug/state?pretty").await.1.contains("\n  \"gate\""));
    let (status, text) = server.get("/").await;
    assert_eq!(status, 404);
    for path in ["/metrics", "/livez", "/readyz", "/healthz", "/debug/state"] {
        assert!(text.contains(path), "{text}");
    }
    server.end().await;
}

#[tokio::test]
async fn answers_on_both_families() {
    let server = start(Bounds::default()).await;
    assert_eq!(server.get("/livez").await.0, 200);
    let v6 = std::net::Ipv6Addr::LOCALHOST;
    if tokio::net::TcpListener::bind((v6, 0)).await.is_ok() {
        assert_eq!(ask((v6, server.port), "/livez").await.0, 200);
    }
    server.end().await;
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_variable() {
    let server = start(Bounds::default()).await;
    let error = Admin::bind(server.port).await.unwrap_err();
    assert!(error.to_string().contains(&format!("METRICS_PORT={}", server.port)));
    assert!(std::error::Error::source(&error).is_some());
    server.end().await;
}

#[tokio::test]
async fn clients_that_say_nothing_keep_nobody_out() {
    let server = start(Bounds { connections: 2, lifetime: Duration::from_millis(200) }).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).await.unwrap();
        stream.write_all(b"GET /livez HT").await.unwrap();
        silent.push(stream);
    }
    assert_eq!(server.get("/livez").await.0, 200);
    for mut stream in silent {
        let mut rest = Vec::new();
        // Closed or reset, with or without a 408: over in any case.
        soon(stream.read_to_end(&mut rest)).await.ok();
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
    server.end().await;
}

#[tokio::test]
async fn stopping_waits_for_no_silent_client() {
    let server = start(Bounds { connections: 8, lifetime: Duration::from_millis(200) }).await;
    let _silent = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).await.unwrap();
    assert_eq!(server.get("/livez").await.0, 200);
    server.end().await;
}

#[test]
fn a_word_in_the_query_is_found() {
    assert!(wants(Some("verbose"), "verbose"));
    assert!(wants(Some("a=b&verbose=1"), "verbose"));
    assert!(!wants(Some("verbosely"), "verbose"));
    assert!(!wants(None, "verbose"));
}

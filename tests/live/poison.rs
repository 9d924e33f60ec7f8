//! Messages that no client can read, or that are too large for their dead letter: the rest goes on.

use async_nats::HeaderMap;
use testbed::{ControlPlane, Nats, NatsOptions, wait};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::support::{LONG, Stage};

/// Publishes as no client library would: these bytes as the headers.
async fn publish_raw(nats: &Nats, subject: &[u8], headers: &[u8], payload: &[u8]) {
    let mut socket = BufReader::new(tokio::net::TcpStream::connect(nats.address()).await.unwrap());
    let mut hello = b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\n".to_vec();
    hello.extend_from_slice(b"HPUB ");
    hello.extend_from_slice(subject);
    hello.extend_from_slice(format!(" {} {}\r\n", headers.len(), headers.len() + payload.len()).as_bytes());
    hello.extend_from_slice(headers);
    hello.extend_from_slice(payload);
    hello.extend_from_slice(b"\r\nPING\r\n");
    socket.write_all(&hello).await.unwrap();
    let mut line = String::new();
    while !line.starts_with("PONG") {
        assert!(!line.starts_with("-ERR"), "{line}");
        line.clear();
        assert!(socket.read_line(&mut line).await.unwrap() > 0, "the server closed the connection");
    }
}

/// The headers of the dead letters, in the order in which they were stored, and their payloads.
async fn letters(stage: &Stage<'_>) -> Vec<(HeaderMap, bytes::Bytes)> {
    let stream = stage.jetstream().get_stream(format!("{}-dead", stage.stream)).await.unwrap();
    let mut letters = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let letter = stream.get_raw_message(sequence).await.unwrap();
        letters.push((letter.headers, letter.payload));
    }
    letters
}

fn word<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).unwrap_or_else(|| panic!("no {name} in {headers:?}")).as_str()
}

/// Each of these cuts the connection of the client that reads it, with whatever is behind it on the way.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cut_the_connection_become_dead_letters() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "unreadable", "50").await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    stage.publish(0..5).await;
    let subject = format!("{}.order", stage.stream);
    let poison: [(&[u8], &str); 4] = [
        (b"NATS/1.0\r\nno colon in here\r\n\r\n", "a line of the headers has no colon"),
        (b"NATS/1.0\r\nName: \xff\xfe\r\n\r\n", "the headers are not UTF-8"),
        (b"NATS/1.0\r\na b: c\r\n\r\n", "a name among the headers has characters that no name may have"),
        (b"something else\r\n\r\n", "the headers do not begin with NATS/1.0"),
    ];
    for (headers, _) in poison {
        publish_raw(&nats, subject.as_bytes(), headers, br#"{"id":"poison"}"#).await;
    }
    // Here it is the subject that is no text.
    let odd = [subject.as_bytes(), b"\xff"].concat();
    publish_raw(&nats, &odd, b"NATS/1.0\r\nA: b\r\n\r\n", br#"{"id":"poison"}"#).await;
    // What looks like a word of the server to the client is a message all the same.
    publish_raw(&nats, subject.as_bytes(), b"NATS/1.0 404 No Messages\r\n\r\n", br#"{"id":"status"}"#).await;
    stage.publish(5..10).await;
    let done = referee.until_created(11, LONG).await;
    done.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    stage.until_drained().await;
    let letters = letters(&stage).await;
    assert_eq!(letters.len(), poison.len() + 1, "{letters:?}");
    assert_eq!(word(&letters[poison.len()].0, "Jetgate-Detail"), "the subject is not UTF-8, or has spaces");
    for ((headers, payload), (raw, why)) in letters.iter().zip(poison) {
        assert_eq!(word(headers, "Jetgate-Reason"), "unreadable");
        assert_eq!(word(headers, "Jetgate-Detail"), why);
        assert_eq!(word(headers, "Jetgate-Subject"), subject);
        assert_eq!(payload.as_ref(), br#"{"id":"poison"}"#);
        let kept =
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, word(headers, "Jetgate-Headers-Base64"));
        assert_eq!(kept.unwrap(), raw);
    }
    sensor.until_metric("sensor_dead_letters_total", &["reason=\"unreadable\""], |value| value == 5.0).await;
    // The connection is left alone from now on.
    let cuts = sensor.metric("sensor_nats_reconnects_total", &[]).await.unwrap();
    stage.publish(10..20).await;
    referee.until_created(21, LONG).await.unwrap();
    stage.until_drained().await;
    sensor.until_metric("sensor_nats_reconnects_total", &[], |value| value == cuts).await;
    println!("{cuts} cuts, {}", referee.tally());
    assert_eq!(sensor.stop().await, Some(0));
}

/// The client panics at this one, and takes nothing any more: the process ends, and its successor finds the message.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_the_client_is_found_by_the_next_process() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "panicking", "50").await;
    stage.set("SHUTDOWN_GRACE", "2s");
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    let subject = format!("{}.order", stage.stream);
    publish_raw(&nats, subject.as_bytes(), b"NATS/1.0\r\nA: b\rc\r\n\r\n", br#"{"id":"poison"}"#).await;
    let status = sensor.process.wait_exit(LONG).await.unwrap();
    assert!(!status.success(), "{status}: {}", sensor.process.last_log_lines(20));
    stage.publish(0..5).await;
    let sensor = stage.start().await;
    let done = referee.until_created(5, LONG).await;
    done.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    stage.until_drained().await;
    let letters = letters(&stage).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(word(&letters[0].0, "Jetgate-Detail"), "a value among the headers has a carriage return in it");
    assert_eq!(sensor.stop().await, Some(0));
}

/// The message alone fits into the server's largest message, the message with the headers of a dead letter does not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_a_dead_letter_is_cut() {
    const LARGEST: usize = 8192;
    let plane = ControlPlane::shared().await.unwrap();
    let options = NatsOptions { config: format!("max_payload: {LARGEST}\n"), ..NatsOptions::default() };
    let nats = Nats::start(options).await.unwrap();
    let stage = Stage::new(plane, &nats, "oversized", "50").await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    let subject = format!("{}.order", stage.stream);
    // No JSON, so that there is no `event.data.id`.
    let large = vec![b'x'; LARGEST];
    let js = stage.jetstream();
    js.publish(subject.clone(), large.clone().into()).await.unwrap().await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("Long", "y".repeat(LARGEST - 100).as_str());
    headers.insert("Short", "kept or not");
    js.publish_with_headers(subject.clone(), headers, "none".into()).await.unwrap().await.unwrap();
    stage.publish(0..3).await;
    let both = wait::until_true("both dead letters", LONG, || async { stage.dead_letters().await == 2 }).await;
    both.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    stage.until_drained().await;
    referee.until("each of the others created", LONG, |tally| tally.created() == 3).await.unwrap();
    let mut letters = letters(&stage).await;
    letters.sort_by_key(|(headers, _)| word(headers, "Jetgate-Sequence").to_owned());
    let (headers, payload) = &letters[0];
    assert_eq!(word(headers, "Jetgate-Truncated"), LARGEST.to_string());
    assert!(payload.len() > LARGEST / 2 && large.starts_with(payload), "{} bytes kept", payload.len());
    let (headers, payload) = &letters[1];
    assert_eq!(word(headers, "Jetgate-Headers-Left-Out"), "2");
    assert_eq!((headers.get("Long"), headers.get("Jetgate-Truncated"), payload.as_ref()), (None, None, &b"none"[..]));
    assert_eq!(sensor.stop().await, Some(0));
}

/// What the dead-letter stream itself bounds is not known before it is tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_stream_of_small_messages_gets_the_headers_alone() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "small", "50").await;
    let config = async_nats::jetstream::stream::Config {
        name: format!("{}-dead", stage.stream),
        subjects: vec![format!("jetgate.dead.{}.>", stage.stream)],
        max_message_size: 2048,
        ..Default::default()
    };
    stage.jetstream().create_stream(config).await.unwrap();
    let sensor = stage.start().await;
    let large = vec![b'x'; 4096];
    let subject = format!("{}.order", stage.stream);
    stage.jetstream().publish(subject, large.into()).await.unwrap().await.unwrap();
    let stored = wait::until_true("the dead letter", LONG, || async { stage.dead_letters().await == 1 }).await;
    stored.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
    stage.until_drained().await;
    let letters = letters(&stage).await;
    assert_eq!((word(&letters[0].0, "Jetgate-Truncated"), letters[0].1.len()), ("4096", 0));
    assert_eq!(sensor.stop().await, Some(0));
}

//! What the metrics say, and when.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jetgate::telemetry::TABLE;
use testbed::{ControlPlane, Finisher, Nats, Pace, Resource, wait};

use crate::support::{LONG, Sensor, Stage};

/// The names of all families, and of all series with their labels.
async fn scrape(sensor: &Sensor) -> (BTreeSet<String>, Vec<String>) {
    let (code, text) = sensor.get("/metrics").await.unwrap();
    assert_eq!(code, 200);
    let families =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).map(str::to_owned).collect();
    let series = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    (families, series)
}

/// By an event, and not by the next report, every 20 s there, or the next reading of the quota, every 30 s.
const BY_AN_EVENT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn the_gauge_is_there_from_the_start_and_right_before_the_next_message_and_release() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "gauge", "3").await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", "1").set("METRICS_PREFIX", "argo_events_");
    stage.set("BACKPRESSURE_SIGNAL_MAX_AGE", "60s");
    nats.process().kill().await.unwrap();
    let sensor = stage.spawn();
    let labels = format!(
        "{{namespace=\"{}\",sensor_name=\"{}\",trigger_name=\"create-workflow\"}}",
        stage.namespace, stage.sensor
    );
    let gauge = async |sensor: &Sensor| -> f64 {
        let (_, series) = scrape(sensor).await;
        let value = |name: &str| {
            let begin = format!("{name}{labels} ");
            let line = series.iter().find(|line| line.starts_with(&begin));
            line.unwrap_or_else(|| panic!("no {begin} in {series:#?}"))[begin.len()..].parse::<f64>().unwrap()
        };
        let (own, copy) = (value("sensor_quota_blocked"), value("argo_events_sensor_quota_blocked"));
        assert!((own - copy).abs() < f64::EPSILON, "the copy is another value");
        own
    };
    assert_eq!(gauge(&sensor).await, 1.0, "before NATS is there and anything is granted");
    let copies: Vec<String> = scrape(&sensor).await.0.into_iter().filter(|name| name.starts_with("argo_")).collect();
    assert_eq!(copies, ["argo_events_sensor_quota_blocked"], "of this gauge alone");
    nats.process().start_again().await.unwrap();
    sensor.until_ready().await;
    sensor.until_reason(None).await;
    assert_eq!(gauge(&sensor).await, 0.0, "open");
    let referee = stage.referee().await;
    for round in 0..3 {
        // The last slot goes.
        let alive = referee.tally().alive();
        stage.publish(round * 10..round * 10 + 3 - alive).await;
        stage.until_drained().await;
        referee.until_alive(3, LONG).await.unwrap();
        wait::until_true("the gauge is 1", BY_AN_EVENT, || async { gauge(&sensor).await == 1.0 }).await.unwrap();
        // And stays 1 when the next message comes, which nothing is tried for.
        stage.publish(round * 10 + 5..round * 10 + 6).await;
        wait::until_true("the message waits", LONG, || async { stage.waiting().await.0 == 1 }).await.unwrap();
        assert_eq!(gauge(&sensor).await, 1.0);
        assert_eq!(referee.tally().alive(), 3);
        // Two go: one slot for the message that waits, one stays free, and so the gauge is 0 before a third goes.
        let names = plane.names(&Resource::workflows(), &stage.namespace).await.unwrap();
        for name in &names[..2] {
            plane.delete(&Resource::workflows(), &stage.namespace, name).await.unwrap();
        }
        stage.until_drained().await;
        wait::until_true("the gauge is 0", BY_AN_EVENT, || async { gauge(&sensor).await == 0.0 }).await.unwrap();
        referee.until_alive(2, LONG).await.unwrap();
    }
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seconds_sum_to_wall_time() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "seconds", "5").await;
    let sensor = stage.start().await;
    let total = async || sensor.metric("sensor_time_seconds_total", &[]).await.unwrap();
    // What a scrape takes is the error of this clock: it is asked for on both sides of the reading.
    let reading = async || {
        let before = Instant::now();
        let value = total().await;
        (before, value, Instant::now())
    };
    let (first_before, first, first_after) = reading().await;
    stage.publish(0..60).await;
    sensor.until_reason(Some("at_limit")).await;
    let blocked = "sensor_quota_blocked_seconds_total";
    let label = ["reason=\"at_limit\""];
    let begun = sensor.metric(blocked, &label).await.unwrap();
    sensor.until_metric(blocked, &label, |value| value > begun + 1.0).await;
    let finisher =
        Finisher::start(plane, &Resource::workflows(), &stage.namespace, Pace::After(Duration::from_millis(300)))
            .await
            .unwrap();
    stage.until_drained().await;
    sensor.until_metric("sensor_time_seconds_total", &["state=\"idle\""], |value| value > 1.0).await;
    let (last_before, last, last_after) = reading().await;
    let (least, most) = ((last_before - first_after).as_secs_f64(), (last_after - first_before).as_secs_f64());
    let counted = last - first;
    println!("{counted} s counted in {least} to {most} s");
    assert!(counted >= least * 0.99 && counted <= most * 1.01, "{counted} s counted in {least} to {most} s");
    // Blocked seconds and time by state are two sums over the same time.
    let states = sensor.metric("sensor_time_seconds_total", &["state=\"blocked\"", label[0]]).await.unwrap();
    let seconds = sensor.metric(blocked, &label).await.unwrap();
    assert!(states <= seconds + 0.1, "{states} s of {seconds} s");
    drop(finisher);
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_metric_is_served_and_no_other() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "table", "3").await;
    let sensor = stage.start().await;
    stage.publish(0..5).await;
    sensor.until_reason(Some("at_limit")).await;
    sensor.until_metric("sensor_pending_messages", &[], |value| value == 3.0).await;
    sensor.until_metric("sensor_oldest_pending_age_seconds", &[], |value| value > 0.0).await;
    let documented: BTreeSet<String> = TABLE.iter().map(|metric| metric.name.to_owned()).collect();
    let (served, series) = scrape(&sensor).await;
    let missing: Vec<_> = documented.difference(&served).collect();
    assert!(missing.is_empty(), "documented, and not served: {missing:?}");
    let unknown: Vec<_> = served.difference(&documented).collect();
    assert!(unknown.is_empty(), "served, and not documented: {unknown:?}");
    // The labels of each series are those of the table.
    for line in &series {
        let (name, rest) = line.split_once(['{', ' ']).unwrap();
        let metric = TABLE
            .iter()
            .find(|metric| {
                metric.name == name
                    || ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(metric.name))
            })
            .unwrap_or_else(|| panic!("{line}"));
        for spec in metric.labels {
            assert!(rest.contains(&format!("{}=\"", spec.label.as_str())), "{line}");
        }
        let count = rest.rsplit_once('}').map_or(0, |(labels, _)| labels.matches("=\"").count());
        let own = usize::from(name.ends_with("_bucket"));
        assert_eq!(count, metric.labels.len() + own, "{line}");
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
    for name in &served {
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not in the docs");
    }
    let grants = sensor.metric("jetgate_grants_total", &[]).await.unwrap();
    assert_eq!(
        sensor.metric("jetgate_grant_latency_seconds_count", &[]).await,
        Some(grants),
        "each grant has its time"
    );
    // What the last grant told, and a grant comes with each report.
    for (name, expected) in [("hard", 3.0), ("used", 2.0), ("live", 2.0), ("limit", 2.0), ("headroom", 0.0)] {
        sensor.until_metric(&format!("sensor_quota_{name}"), &["quota=\"team\""], |value| value == expected).await;
    }
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_state() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "health", "2").await;
    let sensor = stage.start().await;
    stage.publish(0..3).await;
    sensor.until_reason(Some("at_limit")).await;
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(sensor.get(path).await, Some((200, "ok\n".to_owned())), "{path} while blocked");
    }
    let (code, text) = sensor.get("/readyz?verbose").await.unwrap();
    let ready =
        "[+] nats: stream, consumer and dead letters\n[+] kubernetes: kind of the objects\n[+] not draining\nok\n";
    assert_eq!((code, text.as_str()), (200, ready));
    let (code, text) = sensor.get("/livez?verbose").await.unwrap();
    assert!(code == 200 && text.starts_with("[+] main loop\nlast beat "), "{text}");
    let (code, text) = sensor.get("/nowhere").await.unwrap();
    assert!(code == 404 && text.contains("/debug/state"), "{text}");
    sensor.until_metric("sensor_pending_messages", &[], |value| value == 2.0).await;
    let state = sensor.state().await;
    let keys: BTreeSet<&str> = state.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "ack_pending",
        "consumer_paused",
        "credits",
        "gate",
        "grant",
        "leader",
        "messages_in_hand",
        "namespace",
        "oldest_pending_seconds",
        "pending",
        "pull_outstanding",
        "sensor",
        "time_seconds",
    ];
    assert_eq!(keys, BTreeSet::from(expected), "{state:#}");
    assert_eq!(state["sensor"], stage.sensor.as_str());
    assert_eq!(state["namespace"], stage.namespace.as_str());
    assert_eq!(state["gate"]["state"], "blocked");
    assert_eq!(state["gate"]["reason"], "at_limit");
    assert_eq!(state["pending"], 2);
    assert_eq!(state["credits"]["unused"], 0);
    assert_eq!(state["grant"]["reason"], "at_limit");
    assert_eq!(state["grant"]["readings"][0]["quota"], "team");
    assert_eq!(state["leader"]["leading"], true);
    assert_eq!(state["leader"]["live"]["workflows.argoproj.io"], 1);
    let (_, pretty) = sensor.get("/debug/state?pretty").await.unwrap();
    assert!(pretty.lines().count() > 20, "{pretty}");
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_a_line_for_each_lasting_change_and_none_for_each_message() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let stage = Stage::new(plane, &nats, "lines", "5").await;
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    let gate_lines = || {
        let mut lines = sensor.lines("gate ");
        lines.retain(|line| line["msg"] == "gate blocked" || line["msg"] == "gate open");
        lines.iter().map(|line| line["reason"].as_str().unwrap_or("open").to_owned()).collect::<Vec<_>>()
    };
    let until = async |expected: &[&str]| {
        wait::until_true(&format!("the lines {expected:?}"), LONG, || async {
            let lines = gate_lines();
            // What the start passes through in its first moments is not what this is about.
            lines.len() > expected.len() && lines[lines.len() - expected.len()..] == *expected
        })
        .await
        .unwrap_or_else(|error| panic!("{error}: {:?}", gate_lines()));
    };
    until(&["open"]).await;
    let start = gate_lines().len();
    stage.publish(0..200).await;
    until(&["open", "at_limit"]).await;
    // Two hundred messages through five slots: the gate moves hundreds of times and rests nowhere for long.
    let finisher =
        Finisher::start(plane, &Resource::workflows(), &stage.namespace, Pace::AtRandom { per_second: 40.0, seed: 7 })
            .await
            .unwrap();
    referee.until_created(200, LONG).await.unwrap();
    stage.until_drained().await;
    until(&["open"]).await;
    drop(finisher);
    let lines = gate_lines();
    println!("{lines:?}");
    assert!(lines.len() - start < 20, "a line for each message: {lines:?}");
    for pair in lines.windows(2) {
        assert_ne!(pair[0], pair[1], "a line says what the one before said: {lines:?}");
    }
    let moves: u64 = sensor.lines("gate ").iter().filter_map(|line| line["moves"].as_u64()).sum();
    assert!(moves as usize >= lines.len(), "moves are counted on the lines");
    let first = &sensor.lines("gate blocked")[0];
    assert!(first["freed_by"].is_string() && first["detail"].is_string(), "{first}");
    let stray = sensor.log().lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_err()).count();
    assert_eq!(stray, 0, "every line is JSON");
    assert_eq!(sensor.stop().await, Some(0));
}

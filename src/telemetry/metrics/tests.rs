#![allow(clippy::disallowed_methods)] // any instant will do as the start of the test's time

use super::*;
use std::sync::Arc;

const OWN: &str = r#"namespace="jobs",sensor_name="orders",trigger_name="create""#;

fn identity() -> SensorIdentity {
    SensorIdentity { namespace: "jobs".into(), sensor: "orders".into(), trigger: "create".into() }
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')).map(|value| value.parse().unwrap())
}

#[test]
fn blocked_is_there_from_the_start_and_one() {
    let metrics = Metrics::new("").unwrap();
    let sensor = metrics.sensor(identity(), ["at_limit"]);
    let series = format!("sensor_quota_blocked{{{OWN}}}");
    let text = metrics.render(Instant::now()).unwrap();
    assert_eq!(value(&text, &series), Some(1.0));
    assert_eq!(text.matches("quota_blocked{").count(), 1);
    let seconds = r#"sensor_quota_blocked_seconds_total{namespace="jobs",reason="at_limit","#;
    assert!(text.contains(seconds));
    sensor.blocked.set(false);
    assert_eq!(value(&metrics.render(Instant::now()).unwrap(), &series), Some(0.0));
}

#[test]
fn the_prefix_copies_that_gauge_alone() {
    let metrics = Metrics::new("argo_events_").unwrap();
    let sensor = metrics.sensor(identity(), []);
    sensor.blocked.set(false);
    let text = metrics.render(Instant::now()).unwrap();
    assert_eq!(value(&text, &format!("sensor_quota_blocked{{{OWN}}}")), Some(0.0));
    assert_eq!(value(&text, &format!("argo_events_sensor_quota_blocked{{{OWN}}}")), Some(0.0));
    assert_eq!(text.matches("# TYPE argo_events_").count(), 1);
}

#[test]
fn a_bad_prefix_is_named() {
    for bad in ["1a_", "a-b", "a b", &"x".repeat(65)] {
        let error = Metrics::new(bad).unwrap_err().to_string();
        assert!(error.contains("METRICS_PREFIX") && error.contains(bad), "{error}");
    }
}

#[test]
fn open_episodes_advance_at_each_scrape_and_never_fall() {
    let metrics = Metrics::new("").unwrap();
    let sensor = metrics.sensor(identity(), []);
    let t0 = Instant::now();
    metrics.on_scrape(move |now| {
        let total = now.saturating_duration_since(t0);
        sensor.blocked_seconds("at_limit", total);
        sensor.time_seconds(TimeState::Blocked, "at_limit", total);
    });
    let series = r#"sensor_time_seconds_total{reason="at_limit",state="blocked"}"#;
    let at = |after| metrics.render(t0 + Duration::from_millis(after)).unwrap();
    assert_eq!(value(&at(1_500), series), Some(1.5));
    assert_eq!(value(&at(4_000), series), Some(4.0));
    assert_eq!(value(&at(3_000), series), Some(4.0));
}

#[test]
fn scrapes_beside_each_other_add_nothing_twice() {
    let metrics = Arc::new(Metrics::new("").unwrap());
    let sensor = metrics.sensor(identity(), []);
    metrics.on_scrape(move |_| sensor.time_seconds(TimeState::Idle, "", Duration::from_secs(7)));
    let now = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| metrics.render(now).unwrap());
        }
    });
    let text = metrics.render(now).unwrap();
    assert_eq!(value(&text, r#"sensor_time_seconds_total{reason="",state="idle"}"#), Some(7.0));
}

#[test]
fn what_is_unknown_or_gone_has_no_series() {
    let metrics = Metrics::new("").unwrap();
    let sensor = metrics.sensor(identity(), []);
    let known = QuotaSample {
        namespace: "jobs".into(),
        quota: "compute".into(),
        resource: "count/workflows.argoproj.io".into(),
        hard: Some(75.0),
        limit: Some(71.0),
        ..QuotaSample::default()
    };
    sensor.quotas(std::slice::from_ref(&known));
    sensor.grant_age.set(Some(0.25));
    let text = metrics.render(Instant::now()).unwrap();
    assert!(text.contains("sensor_quota_limit{") && !text.contains("sensor_quota_used{"));
    assert_eq!(value(&text, "sensor_grant_age_seconds"), Some(0.25));
    assert_eq!(value(&text, "sensor_pending_messages"), None);
    sensor.quotas(&[]);
    sensor.grant_age.set(None);
    let text = metrics.render(Instant::now()).unwrap();
    assert!(!text.contains("sensor_quota_limit{") && !text.contains("sensor_grant_age_seconds "));
}

#[test]
fn a_leader_says_where_it_cannot_watch() {
    let metrics = Metrics::new("").unwrap();
    let nothing = metrics.render(Instant::now()).unwrap();
    assert!(!nothing.contains("jetgate_grants_total"), "no leader, no series");
    let leader = metrics.leader();
    leader.leading("jobs", true);
    leader.watches(&[WatchSample { namespace: "jobs".into(), resource: "pods".into(), objects: None }]);
    leader.watch_restarts.inc(WatchKind::Objects);
    let text = metrics.render(Instant::now()).unwrap();
    assert_eq!(value(&text, r#"jetgate_leader{namespace="jobs"}"#), Some(1.0));
    assert_eq!(value(&text, r#"jetgate_live_watch{namespace="jobs",resource="pods"}"#), Some(0.0));
    assert_eq!(value(&text, r#"jetgate_watch_restarts_total{watch="objects"}"#), Some(1.0));
    assert_eq!(value(&text, r#"jetgate_watch_restarts_total{watch="quotas"}"#), Some(0.0));
    assert_eq!(value(&text, "jetgate_grants_total"), Some(0.0));
}

#[test]
fn two_instances_share_nothing() {
    let (one, two) = (Metrics::new("").unwrap(), Metrics::new("").unwrap());
    one.sensor(identity(), []).messages.inc(Outcome::Done);
    let sensor = two.sensor(identity(), []);
    assert_eq!(sensor.messages.get(Outcome::Done), 0);
}

#[test]
fn every_metric_of_the_table_can_be_shown() {
    let metrics = Metrics::new("").unwrap();
    let sensor = metrics.sensor(identity(), ["at_limit"]);
    let leader = metrics.leader();
    sensor.quotas(&[QuotaSample {
        hard: Some(1.0),
        used: Some(1.0),
        live: Some(1.0),
        limit: Some(1.0),
        headroom: Some(0.0),
        ..QuotaSample::default()
    }]);
    for gauge in [
        &sensor.grant_age,
        &sensor.pending,
        &sensor.ack_pending,
        &sensor.oldest_pending_age,
        &sensor.record_version,
        &sensor.record_lag,
        &sensor.record_ranges,
    ] {
        gauge.set(Some(1.0));
    }
    leader.leading("jobs", true);
    leader.watches(&[WatchSample { namespace: "jobs".into(), resource: "pods".into(), objects: Some(3.0) }]);
    let text = metrics.render(Instant::now()).unwrap();
    for metric in super::super::TABLE {
        let line = format!("# TYPE {} {}", metric.name, metric.kind.as_str());
        assert!(text.contains(&line), "{line}");
    }
}

//! The burst: many messages at once on a quota that has room for few.

use testbed::{ControlPlane, Finisher, Nats, Pace, Resource};

use crate::support::{LONG, Stage};

/// Publishes `messages` at once; nothing is freed before the limit is reached, then objects finish as they come.
async fn burst(name: &str, hard: u64, ratio: &str, limit: usize, messages: usize) {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, name, &hard.to_string()).await;
    stage.set("BACKPRESSURE_CAPACITY_RATIO", ratio);
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    stage.publish(0..messages).await;
    let first = limit.min(messages);
    referee
        .until_created(first, LONG)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    if messages > limit {
        sensor.until_reason(Some("at_limit")).await;
        assert_eq!(referee.tally().alive(), limit, "the limit is used in full, and no more");
        assert_eq!(sensor.metric("sensor_quota_blocked", &[]).await, Some(1.0));
    }
    let finisher =
        Finisher::start(plane, &Resource::workflows(), &stage.namespace, Pace::AtRandom { per_second: 100.0, seed: 1 })
            .await
            .unwrap();
    referee
        .until_created(messages, LONG)
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    stage.until_drained().await;
    let verdict = stage.verdict(&referee, messages).await;
    assert!(verdict.is_clean(), "{verdict}");
    assert!(verdict.most_alive <= limit, "{verdict}, limit {limit}");
    assert_eq!(stage.dead_letters().await, 0);
    assert_eq!(sensor.stop().await, Some(0), "{}", sensor.process.last_log_lines(20));
    drop(finisher);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_80_messages_under_a_quota_of_75() {
    burst("burst75", 75, "0.95", 71, 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_40_messages_under_a_quota_of_5() {
    burst("burst5", 5, "0.97", 4, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_10_messages_under_a_quota_of_1() {
    burst("burst1", 1, "0.95", 1, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_600_messages_under_a_quota_of_150() {
    burst("burst150", 150, "0.95", 142, 600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_300_messages_under_half_a_quota_of_100() {
    burst("burst100", 100, "0.5", 50, 300).await;
}

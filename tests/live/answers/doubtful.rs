//! Answers after which the object may be there, or may still come: it is looked up before it is made again.

use http::StatusCode;
use jetgate::gate::Reason;
use serde_json::json;
use testbed::http_proxy::{Action, Reply};
use testbed::{ControlPlane, HttpFaultProxy, Nats};

use super::*;
use crate::reasons::{blocked, detail, open};

/// What is answered to the first POSTs of one message.
struct Row {
    answer: Action,
    times: usize,
    /// Whether the object is there all the same.
    made: bool,
    /// Whether it is counted as a refusal; what is no answer at all is not.
    counted: bool,
}

fn not_made(answer: Action, times: usize) -> Row {
    Row { answer, times, made: false, counted: true }
}

fn made(answer: Action) -> Row {
    Row { answer, times: 1, made: true, counted: true }
}

fn silent(row: Row) -> Row {
    Row { counted: false, ..row }
}

fn rows() -> Vec<Row> {
    let timed_out = || {
        let text = "Internal error occurred: resource quota evaluation timed out";
        Reply::status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", text)
    };
    let late = || {
        let text = "Timeout: request did not complete within requested timeout - context deadline exceeded";
        Reply::status(StatusCode::GATEWAY_TIMEOUT, "Timeout", text)
    };
    let unavailable = Reply::status(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "not now");
    let negative = about_a_workflow(StatusCode::FORBIDDEN, "Forbidden", "quota usage is negative for resource(s): x");
    let no_object = Reply { status: StatusCode::OK, headers: Vec::new(), body: json!({"status": "Success"}) };
    vec![
        not_made(Action::Answer(timed_out()), 2),
        made(Action::AnswerAfter(timed_out())),
        not_made(Action::Answer(unavailable.clone()), 2),
        made(Action::AnswerAfter(unavailable)),
        not_made(Action::Answer(late()), 2),
        made(Action::AnswerAfter(late())),
        not_made(Action::Answer(negative), 1),
        not_made(Action::Answer(Reply::page(StatusCode::BAD_GATEWAY, "<html>502 Bad Gateway</html>")), 1),
        not_made(Action::Answer(Reply::page(StatusCode::REQUEST_TIMEOUT, "<html>408</html>")), 1),
        silent(not_made(Action::Answer(Reply::page(StatusCode::OK, "<html>Please log in</html>")), 1)),
        silent(not_made(Action::Answer(no_object), 1)),
        silent(not_made(Action::Cut, 1)),
        silent(made(Action::DropReply)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_made_is_looked_up_and_made_exactly_once() {
    let plane = ControlPlane::shared().await.unwrap();
    let proxy = HttpFaultProxy::start(plane).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "doubtful", "40").await;
    stage.behind(&proxy).await;
    let book = Book::open(&proxy, &stage);
    let rows = rows();
    let rules: Vec<_> = (rows.iter().enumerate())
        .map(|(id, row)| proxy.rule(post_of(&stage, id).times(row.times as u64), row.answer.clone()))
        .collect();
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    stage.publish(0..rows.len()).await;
    let verdict = stage.until_exact(&referee, &sensor, rows.len()).await;
    println!("{verdict}");
    let tried = stage.posts(&verdict, rows.len());
    assert_eq!((tried.refused, tried.conflicts), (0, 0));
    let calls = book.calls();
    for (id, row) in rows.iter().enumerate() {
        let calls = &calls[&id];
        // None where it was found, one more where it was not.
        let posts = row.times + usize::from(!row.made);
        assert_eq!(post_times(calls).len(), posts, "row {id}: {calls:?}");
        assert_eq!(rules[id].hits(), row.times as u64, "row {id}");
        // The POST is sent in the first half of P, and the lookup proves something P after it was ordered.
        looked_up_before_each_further_create(calls, P / 2);
        assert!(matches!(calls.last(), Some(Call::Get(_))) || !row.made, "row {id}: found by a lookup: {calls:?}");
    }
    sensor.until_metric("sensor_messages_total", &["outcome=\"done\""], |done| done == rows.len() as f64).await;
    let all: usize = rows.iter().map(|row| row.times).sum();
    let counted = rows.iter().filter(|row| row.counted).map(|row| row.times).sum();
    sensor.only_refusals(&[("unavailable", counted)]).await;
    assert_eq!(sensor.effects("doubtful").await, all);
    assert_eq!(sensor.effects("done").await, rows.iter().filter(|row| !row.made).count());
    assert_eq!(sensor.effects("refused").await, 0);
    assert_eq!(sensor.metric("sensor_possible_duplicates_total", &[]).await.unwrap_or_default(), 0.0);
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

/// The answer of a server that has too much to do, with or without the time for which it wants to be left alone.
fn slow_down(after: Option<Duration>) -> Action {
    let reply = Reply::status(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", "too many requests, try again later");
    Action::Answer(match after {
        Some(after) => reply.header("Retry-After", &after.as_secs().to_string()),
        None => reply,
    })
}

/// Each POST is counted once, as what it came to. Where the machine stands still for P/2 an answer comes too late, and its
/// POST is doubtful beside those of which nothing is known anyhow.
async fn each_post_is_counted(sensor: &Sensor, posts: usize, doubtful: usize) {
    let (unknown, done) = (sensor.effects("doubtful").await, sensor.effects("done").await);
    assert!(unknown + done == posts && unknown >= doubtful, "{unknown} of {posts} POSTs doubtful, {done} done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_fewer_requests_is_left_alone_for_as_long_as_it_says() {
    const ASKED: Duration = Duration::from_secs(20);
    let plane = ControlPlane::shared().await.unwrap();
    let proxy = HttpFaultProxy::start(plane).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "throttled", "20").await;
    stage.behind(&proxy).await;
    let book = Book::open(&proxy, &stage);
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;

    let busy = proxy.rule(posts(&stage).once(), slow_down(Some(ASKED)));
    stage.publish(0..1).await;
    busy.until_hits(1, LONG).await.unwrap();
    detail(&sensor, "the API server wants fewer requests").await;
    // A pull that was sent before may still bring these.
    stage.publish(1..6).await;
    blocked(&sensor, Reason::ApiThrottled).await;
    stage.until_exact(&referee, &sensor, 6).await;
    let all = book.posts();
    assert_eq!(all.len(), 7);
    assert!(all[1].0 - all[0].0 >= ASKED, "again after {:?}", all[1].0 - all[0].0);
    sensor.only_refusals(&[("throttled", 1)]).await;
    each_post_is_counted(&sensor, 7, 1).await;
    open(&sensor).await;

    // It does not say for how long: pauses of our own, and a lookup before the create.
    let busy = proxy.rule(posts(&stage).times(4), slow_down(None));
    stage.publish(6..7).await;
    busy.until_hits(1, LONG).await.unwrap();
    detail(&sensor, "the API server wants fewer requests").await;
    stage.publish(7..10).await;
    stage.until_exact(&referee, &sensor, 10).await;
    assert_eq!(busy.hits(), 4);
    let all = book.posts();
    assert_eq!(all.len(), 15);
    assert!(all[8].0 - all[7].0 >= P / 2, "again after {:?}", all[8].0 - all[7].0);
    for calls in book.calls().values() {
        looked_up_before_each_further_create(calls, P / 2);
    }
    sensor.only_refusals(&[("throttled", 5)]).await;
    each_post_is_counted(&sensor, 15, 5).await;
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

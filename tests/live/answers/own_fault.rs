//! Answers that say that it is the message's own fault: the one way into the dead letters.

use http::StatusCode;
use testbed::http_proxy::{Action, Reply};
use testbed::{ControlPlane, HttpFaultProxy, Nats};

use super::*;

/// 400 and 422 are the API server's own in `triggers`; what is larger than its limits no template gives.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_servers_own_word_on_the_object_buries_its_message() {
    let plane = ControlPlane::shared().await.unwrap();
    let proxy = HttpFaultProxy::start(plane).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "own-fault", "20").await;
    stage.behind(&proxy).await;
    let book = Book::open(&proxy, &stage);
    let rows = [
        (StatusCode::BAD_REQUEST, "BadRequest", "the object provided is unrecognized", "invalid_object"),
        (StatusCode::UNPROCESSABLE_ENTITY, "Invalid", "Workflow \"x\" is invalid: spec: no", "invalid_object"),
        (StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", "limit is 3145728", "too_large"),
        (StatusCode::INTERNAL_SERVER_ERROR, "", "etcdserver: request is too large", "too_large"),
    ];
    let dead = rows.len();
    let refusal = |(id, (code, reason, text, _)): (usize, &(StatusCode, &str, &str, &str))| {
        proxy.rule(post_of(&stage, id), Action::Answer(Reply::status(*code, reason, text)))
    };
    let _rules: Vec<_> = rows.iter().enumerate().map(refusal).collect();
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    stage.publish(0..dead + 3).await;
    referee.until_created(3, LONG).await.unwrap();
    stage.until_drained().await;
    let letters = stage.letters().await;
    assert_eq!(letters.keys().copied().collect::<Vec<_>>(), (0..dead).collect::<Vec<_>>());
    for (id, (_, _, text, reason)) in rows.iter().enumerate() {
        assert_eq!(letters[&id], ((*reason).to_owned(), (*text).to_owned()));
        let label = format!("reason=\"{reason}\"");
        sensor.until_metric("sensor_dead_letters_total", &[&label], |count| count == 2.0).await;
    }
    for calls in book.calls().values() {
        assert_eq!(post_times(calls).len(), 1, "{calls:?}");
    }
    referee.until("each of the others created", LONG, |tally| tally.created() == 3).await.unwrap();
    sensor.only_refusals(&[("message_refused", dead)]).await;
    assert_eq!((sensor.effects("refused").await, sensor.effects("done").await), (dead, 3));
    assert_eq!((sensor.messages("dead").await, sensor.messages("done").await), (dead, 3));
    assert_eq!(sensor.reason().await, None, "no fault of a message blocks the gate");
    assert_eq!(sensor.stop().await, Some(0));
}

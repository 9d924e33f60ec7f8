//! Answers that say neither that it is the message's fault nor that it is the target's: tried again after growing pauses.

use http::StatusCode;
use jetgate::message::retry;
use testbed::http_proxy::{Action, Reply};
use testbed::{ControlPlane, HttpFaultProxy, Nats};

use super::*;
use crate::reasons::open;

/// An answer, its class, and the rule of its delay.
type Row = (Reply, &'static str, fn(u64, u64) -> Duration);

fn rows() -> Vec<Row> {
    let page = |code| Reply::page(code, "<html><body>The proxy does not like this</body></html>");
    let webhook = "admission webhook \"w.example.com\" denied the request: workflows.argoproj.io \"x\" is forbidden: \
        exceeded quota: team, requested: count/workflows.argoproj.io=1, used: count/workflows.argoproj.io=20, limited: \
        count/workflows.argoproj.io=20";
    let conflict = Reply::status(StatusCode::CONFLICT, "Conflict", "Operation cannot be fulfilled on workflows \"x\"")
        .details("argoproj.io", "workflows", "x");
    let plugin = about_a_workflow(StatusCode::FORBIDDEN, "Forbidden", "violates PodSecurity \"restricted:latest\"");
    let unknown = "status unknown for quota: team, resources: count/workflows.argoproj.io";
    let unknown = about_a_workflow(StatusCode::FORBIDDEN, "Forbidden", unknown);
    // The leader looks for itself, and finds a quota that has room.
    let never = "exceeded quota: team, requested: count/workflows.argoproj.io=2, used: count/workflows.argoproj.io=0, \
        limited: count/workflows.argoproj.io=1";
    let never = about_a_workflow(StatusCode::FORBIDDEN, "Forbidden", never);
    vec![
        (page(StatusCode::BAD_REQUEST), "other", retry::delay),
        (page(StatusCode::PAYLOAD_TOO_LARGE), "other", retry::delay),
        (page(StatusCode::UNPROCESSABLE_ENTITY), "other", retry::delay),
        (page(StatusCode::FORBIDDEN), "other", retry::delay),
        (Reply::status(StatusCode::BAD_REQUEST, "BadRequest", webhook), "other", retry::delay),
        (Reply::status(StatusCode::FORBIDDEN, "Forbidden", webhook), "other", retry::delay),
        (plugin, "other", retry::delay),
        (conflict, "other", retry::delay),
        (unknown, "status_unknown", retry::refused),
        (never, "never_fits", retry::delay),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_nobodys_fault_comes_back_later_and_later_and_is_made_once() {
    const TIMES: usize = 2;
    let plane = ControlPlane::shared().await.unwrap();
    let proxy = HttpFaultProxy::start(plane).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "returned", "40").await;
    stage.behind(&proxy).await;
    let book = Book::open(&proxy, &stage);
    let rows = rows();
    let refusal =
        |(id, row): (usize, &Row)| proxy.rule(post_of(&stage, id).times(TIMES as u64), Action::Answer(row.0.clone()));
    let rules: Vec<_> = rows.iter().enumerate().map(refusal).collect();
    let referee = stage.referee().await;
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    stage.publish(0..rows.len()).await;
    let verdict = stage.until_exact(&referee, &sensor, rows.len()).await;
    println!("{verdict}");
    let tried = stage.posts(&verdict, rows.len());
    assert_eq!((tried.refused, tried.conflicts), (0, 0));
    let (calls, ids) = (book.calls(), stage.message_ids().await);
    for (id, (_, _, delay)) in rows.iter().enumerate() {
        let calls = &calls[&id];
        assert_eq!(rules[id].hits(), TIMES as u64);
        assert_eq!(post_times(calls).len(), TIMES + 1, "row {id}: {calls:?}");
        came_back_later_and_later(calls, &ids[&id], *delay);
        // What comes back is looked up: a name that is taken must not be charged to the quota again.
        looked_up_before_each_further_create(calls, Duration::ZERO);
    }
    delays_differ(&ids, 0..rows.len());
    let of = |class| TIMES * rows.iter().filter(|row| row.1 == class).count();
    let classes = ["other", "status_unknown", "never_fits"];
    sensor.only_refusals(&classes.map(|class| (class, of(class)))).await;
    assert_eq!((sensor.effects("refused").await, sensor.effects("done").await), (TIMES * rows.len(), rows.len()));
    assert_eq!(sensor.effects("doubtful").await, 0);
    assert!(sensor.messages("again").await >= TIMES * rows.len());
    assert_eq!(stage.dead_letters().await, 0, "a proxy's page buries nothing");
    open(&sensor).await;
    assert_eq!(sensor.stop().await, Some(0));
}

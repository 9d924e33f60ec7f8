//! Answers that a real server gives rarely or never.
#![allow(clippy::disallowed_methods)]

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use http::Response;
use kube::client::Body;
use serde_json::{Value, json};

use super::{
    mock::{Mock, Reply, json as answer, text, widgets},
    *,
};
use crate::message::{CREDIT_ANNOTATION, MESSAGE_ANNOTATION};

const SOON: Duration = Duration::from_millis(200);

fn object(name: &str, version: u64) -> Value {
    json!({"metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string()}})
}

fn status(code: u16, reason: &str, name: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no", "reason": reason,
        "details": {"name": name, "group": "example.com", "kind": "widgets"}, "code": code,
    })
}

fn to_create() -> Value {
    json!({"metadata": {"name": "w", "annotations": {MESSAGE_ANNOTATION: "m", CREDIT_ANNOTATION: "h/1"}}})
}

async fn create(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> (Result<Sight, CallError>, Vec<String>) {
    let mock = Mock::new(reply);
    let outcome = mock.cluster.create(&widgets(), "ns", &to_create(), Duration::from_millis(2_900)).await;
    (outcome, mock.asked())
}

#[tokio::test]
async fn a_create_says_who_asks_and_for_how_long() {
    let (outcome, asked) = create(|_| answer(201, object("w", 7))).await;
    assert_eq!(outcome.unwrap().resource_version, 7);
    assert_eq!(asked, ["POST /apis/example.com/v1/namespaces/ns/widgets?fieldManager=jetgate&timeout=2s"]);
}

#[tokio::test]
async fn created_is_created_whatever_the_body_says() {
    for body in ["", "<html>", "{\"metadata\":{}}"] {
        let (outcome, _) = create(move |_| text(201, body)).await;
        let sight = outcome.unwrap();
        assert_eq!((sight.name.as_str(), sight.uid.as_str(), sight.resource_version), ("w", "", 0));
        assert_eq!((sight.message.as_deref(), sight.credit.as_deref()), (Some("m"), Some("h/1")));
    }
}

#[tokio::test]
async fn another_success_without_an_object_is_no_create() {
    let (outcome, _) = create(|_| text(200, "<html>Welcome</html>")).await;
    assert!(matches!(outcome, Err(CallError::Decode(DecodeError::NotCreated(200)))), "{outcome:?}");
}

#[tokio::test]
async fn a_refusal_is_kept_whole() {
    let (outcome, asked) = create(|_| {
        let mut status = status(422, "Invalid", "w");
        status["details"]["causes"] = json!([{"reason": "FieldValueInvalid", "message": "bad", "field": "spec.size"}]);
        status["details"]["retryAfterSeconds"] = json!(3);
        answer(422, status)
    })
    .await;
    let Err(CallError::Refused(status)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((status.code, status.reason.as_str(), status.message.as_str()), (422, "Invalid", "no"));
    assert_eq!((status.kind.as_str(), status.group.as_str(), status.name.as_str()), ("widgets", "example.com", "w"));
    assert_eq!(status.causes.first().map(|cause| cause.field.as_str()), Some("spec.size"));
    assert_eq!(status.retry_after, Some(Duration::from_secs(3)));
    assert_eq!(asked.len(), 1, "nothing is sent twice");
}

#[tokio::test]
async fn a_page_of_somebody_else_is_a_refusal_too() {
    let (outcome, asked) = create(|_| {
        let response = Response::builder().status(503).header("Retry-After", "7").body(Body::from(b"busy\n".to_vec()));
        Reply::Answer(response.unwrap())
    })
    .await;
    let Err(CallError::Refused(status)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((status.code, status.reason.as_str(), status.message.as_str()), (503, "", "busy"));
    assert_eq!(status.retry_after, Some(Duration::from_secs(7)));
    assert_eq!(asked.len(), 1, "nothing is sent twice");
}

#[tokio::test]
async fn a_long_page_is_shortened() {
    let (outcome, _) = create(|_| text(502, "ä".repeat(10_000))).await;
    assert_eq!(outcome.unwrap_err().status().unwrap().message.chars().count(), 512);
}

#[tokio::test]
async fn silence_ends_with_the_time_out() {
    let mock = Mock::new(|_| Reply::Silence);
    let outcome = mock.cluster.create(&widgets(), "ns", &to_create(), Duration::from_millis(30)).await;
    assert!(matches!(outcome, Err(CallError::Timeout(_))), "{outcome:?}");
    assert_eq!(mock.asked().len(), 1);
    assert!(mock.asked()[0].ends_with("timeout=1s"), "at least a second: {:?}", mock.asked());
}

#[tokio::test]
async fn only_this_very_object_is_absent() {
    let find = async |reply: fn() -> Reply| {
        let mock = Mock::new(move |_| reply());
        mock.cluster.find(&widgets(), "ns", "w", SOON).await
    };
    assert_eq!(find(|| answer(404, status(404, "NotFound", "w"))).await.unwrap(), None);
    assert_eq!(find(|| answer(200, object("w", 3))).await.unwrap().unwrap().resource_version, 3);
    for reply in [
        || text(404, "404 page not found\n"),
        || answer(404, status(404, "NotFound", "")),
        || answer(404, status(404, "NotFound", "ns")),
        || answer(403, status(403, "Forbidden", "w")),
    ] {
        let found = find(reply).await;
        assert!(matches!(found, Err(CallError::Refused(_))), "{found:?}");
    }
}

#[tokio::test]
async fn names_cannot_leave_their_place() {
    let mock = Mock::new(|_| answer(200, object("w", 3)));
    mock.cluster.find(&widgets(), "n/s", "../w?x=%", SOON).await.unwrap();
    assert_eq!(mock.asked(), ["GET /apis/example.com/v1/namespaces/n%2Fs/widgets/..%2Fw%3Fx%3D%25"]);
}

fn page(items: &[Value], next: &str) -> Value {
    json!({"metadata": {"resourceVersion": "50", "continue": next}, "items": items})
}

#[tokio::test]
async fn a_list_begins_anew_when_its_pages_expire() {
    let expired = AtomicUsize::new(0);
    let mock = Mock::new(move |asked| {
        if !asked.contains("continue=") {
            answer(200, page(&[object("a", 1)], "n/1"))
        } else if expired.fetch_add(1, Ordering::Relaxed) == 0 {
            answer(410, status(410, "Expired", ""))
        } else {
            answer(200, page(&[object("b", 2)], ""))
        }
    });
    let (objects, version) = mock.cluster.list(&widgets(), "ns").await.unwrap();
    let names: Vec<_> = objects.iter().map(|object| object.name.as_str()).collect();
    assert_eq!((names, version), (vec!["a", "b"], 50));
    assert_eq!(mock.asked().len(), 4);
    assert!(mock.asked()[1].ends_with("limit=1000&continue=n%2F1"), "{:?}", mock.asked());
}

#[tokio::test]
async fn a_list_does_not_begin_anew_for_ever() {
    let mock = Mock::new(|asked| {
        if asked.contains("continue=") {
            answer(410, status(410, "Expired", ""))
        } else {
            answer(200, page(&[object("a", 1)], "n"))
        }
    });
    assert!(matches!(mock.cluster.list(&widgets(), "ns").await, Err(CallError::Expired)));
    assert_eq!(mock.asked().len(), 6);
}

#[tokio::test]
async fn a_version_that_is_no_number_is_said() {
    let mock = Mock::new(|_| answer(200, json!({"metadata": {"resourceVersion": "abc"}, "items": null})));
    let error = mock.cluster.version(&widgets(), "ns", SOON).await.unwrap_err();
    assert!(matches!(error, CallError::Decode(DecodeError::Version(_))), "{error:?}");
}

fn quota(name: &str, hard: &str, spec: Value) -> Value {
    let mut quota = object(name, 9);
    quota["spec"] = spec;
    quota["spec"]["hard"] = json!({"count/widgets.example.com": hard});
    quota["status"] = json!({"hard": {"count/widgets.example.com": hard}, "used": {"count/widgets.example.com": "1"}});
    quota
}

#[tokio::test]
async fn a_bad_quota_does_not_hide_the_others() {
    let mock = Mock::new(|asked| {
        if asked.contains("limit=") {
            let bad = quota("bad", "many", json!({}));
            let scoped = quota("scoped", "5", json!({"scopes": ["Terminating"]}));
            let open = quota("open", "5", json!({"scopeSelector": {"matchExpressions": []}}));
            answer(200, page(&[bad, scoped, open], ""))
        } else {
            answer(200, quota("bad", "many", json!({})))
        }
    });
    let (quotas, version) = mock.cluster.list_quotas("ns").await.unwrap();
    assert_eq!(version, 50);
    let scoped: Vec<_> = quotas.iter().flatten().map(|quota| (quota.name.as_str(), quota.scoped)).collect();
    assert_eq!(scoped, [("scoped", true), ("open", false)]);
    let fault = quotas[0].as_ref().unwrap_err();
    assert_eq!(fault.name, "bad");
    assert!(fault.source.to_string().contains("count/widgets.example.com"), "{}", fault.source);
}

async fn watch(body: &'static str) -> Vec<Result<ObjectEvent, CallError>> {
    let mock = Mock::new(move |_| text(200, body));
    let events = mock.cluster.watch(&widgets(), "ns", 5, Duration::from_secs(5)).await.unwrap();
    let asked = mock.asked();
    assert_eq!(
        asked,
        [
            "GET /apis/example.com/v1/namespaces/ns/widgets?watch=true&allowWatchBookmarks=true&timeoutSeconds=5&resourceVersion=5"
        ]
    );
    events.collect().await
}

#[tokio::test]
async fn a_watch_tells_what_happened_and_ends() {
    let events = watch(concat!(
        r#"{"type":"ADDED","object":{"metadata":{"name":"a","uid":"u","resourceVersion":"6","managedFields":[{}]}}}"#,
        "\n\n",
        r#"{"object":{"metadata":{"name":"a","uid":"u","resourceVersion":"7"}},"type":"DELETED"}"#,
        "\n",
        r#"{"type":"BOOKMARK","object":{"kind":"Widget","metadata":{"resourceVersion":"9"}}}"#,
        "\n",
    ))
    .await;
    let events: Vec<_> = events.into_iter().map(Result::unwrap).collect();
    let sight =
        |resource_version| Sight { name: "a".to_owned(), uid: "u".to_owned(), resource_version, ..Sight::default() };
    assert_eq!(events, [ObjectEvent::Applied(sight(6)), ObjectEvent::Deleted(sight(7)), ObjectEvent::Bookmark(9)]);
}

#[tokio::test]
async fn a_watch_ends_with_its_first_error() {
    let expired =
        watch("{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\"}}\n{}\n").await;
    assert!(matches!(expired.as_slice(), [Err(CallError::Expired)]), "{expired:?}");
    let refused =
        watch("{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":500,\"reason\":\"InternalError\"}}\n")
            .await;
    assert!(matches!(refused.as_slice(), [Err(CallError::Refused(_))]), "{refused:?}");
    let unknown = watch("{\"type\":\"NEW\",\"object\":{}}\n{}\n").await;
    assert!(matches!(unknown.as_slice(), [Err(CallError::Decode(DecodeError::EventType(_)))]), "{unknown:?}");
    let garbage = watch("garbage\n").await;
    assert!(matches!(garbage.as_slice(), [Err(CallError::Decode(DecodeError::Json(_)))]), "{garbage:?}");
    let cut = watch("{\"type\":\"ADDED\",\"obj").await;
    assert!(matches!(cut.as_slice(), [Err(CallError::Connection(_))]), "{cut:?}");
}

#[tokio::test]
async fn a_watch_may_be_refused() {
    let mock = Mock::new(|_| answer(410, status(410, "Expired", "")));
    let outcome = mock.cluster.watch_quotas("ns", 5, SOON).await.map(|_| ());
    assert!(matches!(outcome, Err(CallError::Expired)), "{outcome:?}");
    let mock = Mock::new(|_| Reply::Silence);
    let outcome = mock.cluster.watch_quotas("ns", 0, SOON).await.map(|_| ());
    assert!(matches!(outcome, Err(CallError::Timeout(_))), "{outcome:?}");
    assert!(!mock.asked()[0].contains("resourceVersion"), "{:?}", mock.asked());
}

#[tokio::test]
async fn a_watch_of_quotas_tells_bad_ones_by_name() {
    let mock = Mock::new(|_| {
        let bad = json!({"type": "MODIFIED", "object": quota("bad", "many", json!({}))});
        let gone = json!({"type": "DELETED", "object": quota("bad", "many", json!({}))});
        text(200, format!("{bad}\n{gone}\n"))
    });
    let events: Vec<_> = mock.cluster.watch_quotas("ns", 1, SOON).await.unwrap().try_collect().await.unwrap();
    assert!(matches!(&events[0], QuotaEvent::Applied(Err(fault)) if fault.name == "bad"), "{events:?}");
    assert!(matches!(&events[1], QuotaEvent::Deleted { name, resource_version: 9, .. } if name == "bad"), "{events:?}");
}

fn claim(holder: &str) -> LeaseClaim {
    LeaseClaim { holder: holder.to_owned(), duration: Duration::from_secs(6), transitions: 1, acquired: None }
}

#[tokio::test]
async fn a_lease_that_changed_is_a_conflict_and_a_missing_namespace_is_not() {
    let mock = Mock::new(|asked| match asked.split_once(' ') {
        Some(("PUT", _)) => answer(404, status(404, "NotFound", "l")),
        _ => answer(404, status(404, "NotFound", "ns")),
    });
    let replaced = mock.cluster.replace_lease("ns", "l", 4, &claim("me"), SOON).await.unwrap();
    assert_eq!(replaced, LeaseWrite::Conflict);
    let created = mock.cluster.create_lease("ns", "l", &claim("me"), SOON).await;
    assert!(matches!(created, Err(CallError::Refused(_))), "{created:?}");

    let mock = Mock::new(|_| answer(409, status(409, "Conflict", "l")));
    assert_eq!(mock.cluster.replace_lease("ns", "l", 4, &claim("me"), SOON).await.unwrap(), LeaseWrite::Conflict);
    assert_eq!(mock.cluster.create_lease("ns", "l", &claim("me"), SOON).await.unwrap(), LeaseWrite::Conflict);
}

#[test]
fn who_is_not_known_is_cut_off_like_who_is_not_answered() {
    let is_outage = |code| CallError::refused(code, b"", None).is_outage();
    assert_eq!([401, 500, 503].map(is_outage), [true; 3]);
    assert_eq!([400, 403, 404, 409, 429].map(is_outage), [false; 5]);
}

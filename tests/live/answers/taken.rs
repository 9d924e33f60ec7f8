//! The name is taken: by the message's own object, or by one that was not made for it.

use serde_json::json;
use testbed::http_proxy::Action;
use testbed::{ControlPlane, HttpFaultProxy, Nats};

use super::*;
use crate::reasons::open;

/// What somebody else puts under the name before the create arrives.
fn as_if_by_another(mut object: Value, change: impl FnOnce(&mut Value)) -> Value {
    change(&mut object["metadata"]["annotations"]);
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_is_done_only_where_the_object_is_the_messages_own() {
    const MESSAGES: usize = 4;
    let plane = ControlPlane::shared().await.unwrap();
    let proxy = HttpFaultProxy::start(plane).await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let mut stage = Stage::new(plane, &nats, "taken", "20").await;
    // The POSTs wait for the test to be faster.
    stage.set("CREATE_TIMEOUT", "20s").set("ACK_WAIT", "60s").behind(&proxy).await;
    let book = Book::open(&proxy, &stage);
    let held = proxy.rule(posts(&stage).times(MESSAGES as u64), Action::HoldBefore);
    let sensor = stage.start().await;
    sensor.until_reason(None).await;
    stage.publish(0..MESSAGES).await;
    held.until_hits(MESSAGES as u64, LONG).await.unwrap();
    let workflows = Resource::workflows();
    let objects: BTreeMap<usize, Value> =
        book.posts().into_iter().map(|(_, object)| (id(&object).unwrap(), object)).collect();
    let message = "jetgate.dev/message";
    let others = objects[&3]["metadata"]["annotations"][message].clone();
    let before = [
        // An earlier create of this very message, under this number and under another one.
        objects[&0].clone(),
        as_if_by_another(objects[&1].clone(), |notes| notes["jetgate.dev/credit"] = json!("gone/1")),
        // A stranger's, and that of another message.
        as_if_by_another(objects[&2].clone(), |notes| *notes = json!({"by": "hand"})),
        as_if_by_another(objects[&3].clone(), |notes| {
            notes[message] = json!(others.as_str().unwrap().replace("create-workflow", "another"));
        }),
    ];
    for object in &before {
        plane.create(&workflows, &stage.namespace, object).await.unwrap();
    }
    held.release();
    stage.until_drained().await;
    let audit = plane.audit(&stage.namespace).unwrap();
    assert_eq!(audit.post_codes(&workflows, &stage.namespace), BTreeMap::from([(201, MESSAGES), (409, MESSAGES)]));
    for (id, calls) in book.calls() {
        assert!(matches!(calls[..], [Call::Post(_), Call::Get(_)]), "{id}: one POST, one lookup: {calls:?}");
    }
    let letters = stage.letters().await;
    assert_eq!(letters.keys().collect::<Vec<_>>(), [&2, &3]);
    for (id, whose) in [(2, "none"), (3, "another")] {
        let (reason, detail) = &letters[&id];
        assert_eq!(reason, "foreign_object");
        assert!(detail.starts_with("the name is taken by an object") && detail.contains(whose), "{detail}");
    }
    assert_eq!(alive(&stage, &workflows).await, MESSAGES, "nothing was made beside them, and nothing changed");
    sensor.until_metric("sensor_messages_total", &["outcome=\"done\""], |done| done == 2.0).await;
    sensor.until_metric("sensor_dead_letters_total", &["reason=\"foreign_object\""], |dead| dead == 2.0).await;
    assert_eq!(sensor.messages("dead").await, 2);
    sensor.only_refusals(&[("already_exists", MESSAGES)]).await;
    assert_eq!((sensor.effects("exists").await, sensor.effects("done").await), (MESSAGES, 0));
    open(&sensor).await;
    // Numbers and names are in order after it.
    stage.publish(MESSAGES..MESSAGES + 1).await;
    stage.until_drained().await;
    assert_eq!(alive(&stage, &workflows).await, MESSAGES + 1);
    assert_eq!(sensor.stop().await, Some(0));
}

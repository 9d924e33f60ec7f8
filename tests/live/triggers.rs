//! What messages become: objects of any kind, dead letters.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use jetgate::message::{DeadReason, MESSAGE_ANNOTATION};
use kube::api::{DynamicObject, ListParams};
use serde_json::{Value, json};
use testbed::control_plane::Resource;
use testbed::{ControlPlane, Nats, wait};

use crate::support::{LONG, Sensor, Stage};

/// A sensor file around an object.
fn file(stage: &Stage<'_>, object: &Value) -> String {
    json!({
        "name": stage.sensor,
        "stream": stage.stream,
        "subject": format!("{}.>", stage.stream),
        "trigger": {"name": "create", "kubernetes": {"object": object}},
    })
    .to_string()
}

async fn publish(stage: &Stage<'_>, headers: &[(&str, &str)], payload: impl Into<Vec<u8>>) -> u64 {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, *value);
    }
    let payload: Vec<u8> = payload.into();
    let js = stage.jetstream();
    js.publish_with_headers(format!("{}.order", stage.stream), map, payload.into())
        .await
        .unwrap()
        .await
        .unwrap()
        .sequence
}

/// The objects by the sequence of their message.
async fn objects(stage: &Stage<'_>, resource: &Resource) -> BTreeMap<u64, DynamicObject> {
    let api = stage.plane.objects(resource, &stage.namespace).await.unwrap();
    let sequence = |object: &DynamicObject| {
        let id = object.metadata.annotations.as_ref()?.get(MESSAGE_ANNOTATION)?;
        id.rsplit('/').nth(1)?.parse().ok()
    };
    let list = api.list(&ListParams::default()).await.unwrap();
    list.items.into_iter().filter_map(|object| Some((sequence(&object)?, object))).collect()
}

struct Letter {
    headers: BTreeMap<String, String>,
    payload: Vec<u8>,
}

/// The dead letters by the sequence of their message.
async fn letters(stage: &Stage<'_>) -> BTreeMap<u64, Letter> {
    let stream = stage.jetstream().get_stream(format!("{}-dead", stage.stream)).await.unwrap();
    let state = stream.cached_info().state.clone();
    let mut found = BTreeMap::new();
    for sequence in state.first_sequence..=state.last_sequence {
        let Ok(message) = stream.get_raw_message(sequence).await else { continue };
        let headers: BTreeMap<String, String> =
            message.headers.iter().map(|(name, values)| (name.to_string(), values[0].to_string())).collect();
        let of = headers["Jetgate-Sequence"].parse().unwrap();
        assert!(found.insert(of, Letter { headers, payload: message.payload.to_vec() }).is_none(), "two dead letters");
    }
    found
}

/// A stage for objects of this kind, with a quota on them.
async fn stage_of<'p>(plane: &'p ControlPlane, nats: &Nats, name: &str, resource: &Resource) -> Stage<'p> {
    let mut stage = Stage::without_quota(plane, nats, name).await;
    plane.quota(&stage.namespace, "team", &[(&resource.quota_key(), "50")]).await.unwrap();
    stage.set("BACKPRESSURE_RESOURCE_NAME", &resource.quota_key());
    stage
}

pub(crate) async fn until_drained(stage: &Stage<'_>, sensor: &Sensor) {
    let drained = wait::until_true("every message acknowledged", LONG, || async { stage.waiting().await == (0, 0) });
    drained.await.unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
}

const HOSTILE: &str = "\"}, evil: true\n- ${{ event.data.size }}\r\n{{x}} ${X} # '\\u0000 \u{202e} ---\n&a *a !!str";

#[tokio::test(flavor = "multi_thread")]
async fn values_keep_their_types_and_stay_in_their_slots() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let widgets = Resource::widgets();
    let mut stage = stage_of(plane, &nats, "typed", &widgets).await;
    let file = file(
        &stage,
        &json!({
            "apiVersion": "example.com/v1",
            "kind": "Widget",
            "metadata": {"generateName": "widget-", "annotations": {"note": "${{ event.data.text }}"}},
            "spec": {
                "size": "${{ event.data.size }}",
                "yes": "${{ event.data.size > 2 }}",
                "list": "${{ event.data.list }}",
                "map": "${{ event.data.map }}",
                "text": "${{ event.data.text }}",
                "joined": "size ${{ event.data.size }} of ${{ event.data.?none.orValue('nobody') }}",
                "subject": "${{ event.subject.split('.')[1] }}",
                "sequence": "${{ event.sequence }}",
                "stream": "${{ event.stream }}",
                "header": "${{ event.headers['X-Odd'] }}",
                "literal": "$${{ x }} ${HOME} {{inputs.parameters.x}}",
                "constant": [1, 1.5, true, null, "text"],
            },
        }),
    );
    stage.file(&file);
    let sensor = stage.start().await;
    let odd = [("X-Odd", "a: {b}"), ("X-Odd", "second"), ("X-Empty", ""), ("x-quote\"", "é \" ' \\")];
    let data = json!({"size": 3, "list": [1, "two", null], "map": {"b": 1, "a": {"c": [true]}}, "text": HOSTILE});
    let sequence = publish(&stage, &odd, data.to_string()).await;
    until_drained(&stage, &sensor).await;
    let objects = objects(&stage, &widgets).await;
    let object = &objects[&sequence];
    let expected = json!({
        "size": 3,
        "yes": true,
        "list": [1, "two", null],
        "map": {"b": 1, "a": {"c": [true]}},
        "text": HOSTILE,
        "joined": "size 3 of nobody",
        "subject": "order",
        "sequence": sequence,
        "stream": stage.stream,
        "header": "a: {b}, second",
        "literal": "${{ x }} ${HOME} {{inputs.parameters.x}}",
        "constant": [1, 1.5, true, null, "text"],
    });
    assert_eq!(object.data["spec"], expected);
    let annotations = object.metadata.annotations.clone().unwrap();
    assert_eq!(annotations["note"], HOSTILE);
    assert_eq!(annotations.len(), 3, "the note, and the two of jetgate: {annotations:?}");
    assert!(object.metadata.labels.is_none() && object.metadata.owner_references.is_none());
    assert!(object.metadata.name.clone().unwrap().starts_with("widget-"));
    assert_eq!(object.data.as_object().unwrap().keys().collect::<Vec<_>>(), ["spec"], "no other field");
    assert_eq!(stage.dead_letters().await, 0);
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_form() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let maps = Resource::new("", "v1", "ConfigMap", "configmaps");
    let mut stage = stage_of(plane, &nats, "forms", &maps).await;
    let file = file(
        &stage,
        &json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "data": {
                "data": "=${{ event.data }}",
                "type": "${{ has(event.cloudevent) ? event.cloudevent.type : 'none' }}",
                "extension": "${{ has(event.cloudevent) ? event.cloudevent.?region.orValue('none') : 'none' }}",
            },
        }),
    );
    stage.file(&file);
    let sensor = stage.start().await;
    // As Argo Events publishes on its event bus.
    let argo = json!({
        "specversion": "1.0", "id": "7", "source": "webhook", "type": "webhook", "subject": "example",
        "datacontenttype": "application/json", "time": "2026-01-01T00:00:00Z", "data_base64": "eyJhIjoxfQ==",
    });
    let structured = json!({
        "specversion": "1.0", "id": "8", "source": "s", "type": "order.made", "region": "eu", "data": {"a": [1, "b"]},
    });
    let cloud = [("content-type", "application/cloudevents+json; charset=utf-8")];
    let binary = [
        ("ce-specversion", "1.0"),
        ("ce-id", "9"),
        ("ce-source", "s"),
        ("ce-type", "order.paid"),
        ("ce-region", "Z%C3%BCrich"),
        ("content-type", "application/json"),
    ];
    let table: Vec<(u64, &str, &str, &str)> = vec![
        (publish(&stage, &[("Nats-Msg-Id", "7")], argo.to_string()).await, "={\"a\":1}", "webhook", "none"),
        (publish(&stage, &cloud, structured.to_string()).await, "={\"a\":[1,\"b\"]}", "order.made", "eu"),
        (publish(&stage, &binary, r#"{"paid":true}"#).await, "={\"paid\":true}", "order.paid", "Zürich"),
        (publish(&stage, &[], r#"{"b":1,"a":2}"#).await, "={\"b\":1,\"a\":2}", "none", "none"),
        (publish(&stage, &[], "plain: {text}\n").await, "=plain: {text}\n", "none", "none"),
        (publish(&stage, &[("content-type", "text/plain")], "12").await, "=12", "none", "none"),
        (publish(&stage, &[], vec![0xff, 0x00, 0xfe]).await, "=/wD+", "none", "none"),
        (publish(&stage, &[], "").await, "=", "none", "none"),
    ];
    until_drained(&stage, &sensor).await;
    let objects = objects(&stage, &maps).await;
    for (sequence, data, kind, extension) in &table {
        let object = objects.get(sequence).unwrap_or_else(|| panic!("no object for {data}"));
        let expected = json!({"data": data, "type": kind, "extension": extension});
        assert_eq!(object.data["data"], expected);
        assert!(object.metadata.name.clone().unwrap().starts_with(&format!("{}-", stage.sensor)));
    }
    assert_eq!(objects.len(), table.len());
    assert_eq!(stage.dead_letters().await, 0);
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let jobs = Resource::new("batch", "v1", "Job", "jobs");
    let mut stage = stage_of(plane, &nats, "job", &jobs).await;
    let file = file(
        &stage,
        &json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"generateName": "job-"},
            "spec": {
                "parallelism": "${{ event.data.parallel }}",
                "template": {"spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "c", "image": "busybox", "args": "${{ event.data.args }}"}],
                }},
            },
        }),
    );
    stage.file(&file);
    let sensor = stage.start().await;
    let good = publish(&stage, &[], r#"{"parallel":2,"args":["echo","a b"]}"#).await;
    // A text where the API server wants a number is the message's own fault.
    let bad = publish(&stage, &[], r#"{"parallel":"two","args":[]}"#).await;
    until_drained(&stage, &sensor).await;
    let objects = objects(&stage, &jobs).await;
    assert_eq!(objects[&good].data["spec"]["parallelism"], 2);
    let container = &objects[&good].data["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["echo", "a b"]));
    assert_eq!(objects.len(), 1);
    assert_eq!(letters(&stage).await[&bad].headers["Jetgate-Reason"], "invalid_object");
    sensor.until_metric("sensor_quota_used", &[], |value| value == 1.0).await;
    assert_eq!(sensor.stop().await, Some(0));
}

fn widget_by_size(stage: &Stage<'_>) -> String {
    file(
        stage,
        &json!({
            "apiVersion": "example.com/v1",
            "kind": "Widget",
            "spec": {
                "size": "${{ event.data.size }}",
                "note": "${{ event.data.?note.orValue('') }}",
                "again": "${{ event.data.?note.orValue('') }}",
            },
        }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_can_never_succeed_go_to_the_dead_letters_and_the_next_ones_on() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let widgets = Resource::widgets();
    let mut stage = stage_of(plane, &nats, "dead", &widgets).await;
    let file = widget_by_size(&stage);
    stage.file(&file);
    let sensor = stage.start().await;
    let large = json!({"size": 1, "note": "x".repeat(600_000)}).to_string();
    let odd = [("X-Kept", "a: {b}\t"), ("Nats-Msg-Id", "once"), ("Jetgate-Reason", "mine")];
    let table = [
        (publish(&stage, &odd, "not JSON").await, b"not JSON".to_vec(), DeadReason::Template, "spec.size"),
        (publish(&stage, &[], "{}").await, b"{}".to_vec(), DeadReason::Template, "no such key: `size`"),
        (
            publish(&stage, &[("content-type", "application/cloudevents+json")], "[1]").await,
            b"[1]".to_vec(),
            DeadReason::Payload,
            "says CloudEvent, but the payload is not a JSON object",
        ),
        (
            publish(&stage, &[], r#"{"size":-1}"#).await,
            br#"{"size":-1}"#.to_vec(),
            DeadReason::InvalidObject,
            "should be greater than or equal to 0",
        ),
        (
            publish(&stage, &[], r#"{"size":"1\n- x: {}"}"#).await,
            br#"{"size":"1\n- x: {}"}"#.to_vec(),
            DeadReason::InvalidObject,
            "must be of type integer",
        ),
        (
            publish(&stage, &[], large.clone()).await,
            large.into_bytes(),
            DeadReason::Template,
            "the rendered document would be larger than 1048576 bytes",
        ),
    ];
    let mut good = Vec::new();
    for size in 0..5 {
        good.push(publish(&stage, &[], json!({"size": size}).to_string()).await);
    }
    until_drained(&stage, &sensor).await;
    let objects = objects(&stage, &widgets).await;
    assert_eq!(objects.keys().copied().collect::<Vec<_>>(), good);
    let letters = letters(&stage).await;
    assert_eq!(letters.len(), table.len());
    for (sequence, payload, reason, detail) in &table {
        let Letter { headers, payload: kept } = &letters[sequence];
        assert_eq!(kept, payload, "the payload is the original one");
        assert_eq!(headers["Jetgate-Reason"], reason.as_str(), "{headers:?}");
        assert!(headers["Jetgate-Detail"].contains(detail), "{headers:?}");
        assert_eq!(headers["Jetgate-Sensor"], stage.sensor);
        assert_eq!(headers["Jetgate-Trigger"], "create");
        assert_eq!(headers["Jetgate-Stream"], stage.stream);
        assert_eq!(headers["Jetgate-Subject"], format!("{}.order", stage.stream));
        assert_eq!(headers["Jetgate-Deliveries"], "1");
        assert!(headers["Jetgate-Message"].starts_with(&format!("{}/{}/create/", stage.namespace, stage.sensor)));
        let label = format!("reason=\"{}\"", reason.as_str());
        let expected = table.iter().filter(|row| row.2 == *reason).count();
        sensor.until_metric("sensor_dead_letters_total", &[&label], |value| value == expected as f64).await;
    }
    let first = &letters[&table[0].0].headers;
    assert_eq!(first["X-Kept"].trim(), "a: {b}", "{first:?}");
    assert_ne!(first["Nats-Msg-Id"], "once", "an instruction to the first stream");
    assert_eq!(sensor.lines("dead letter").len(), table.len());
    assert_eq!(sensor.reason().await, None, "no fault of a message blocks the gate");
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_stays_until_its_dead_letter_is_stored() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let widgets = Resource::widgets();
    let mut stage = stage_of(plane, &nats, "stays", &widgets).await;
    let file = widget_by_size(&stage);
    stage.file(&file);
    let dead = format!("{}-dead", stage.stream);
    let config = Config {
        name: dead.clone(),
        subjects: vec![format!("jetgate.dead.{}.>", stage.stream)],
        max_messages: 1,
        discard: DiscardPolicy::New,
        ..Config::default()
    };
    let js = stage.jetstream();
    js.create_stream(config.clone()).await.unwrap();
    let sensor = stage.start().await;
    let first = publish(&stage, &[], "first").await;
    until_drained(&stage, &sensor).await;
    // It is full.
    let second = publish(&stage, &[], "second").await;
    let good = publish(&stage, &[], r#"{"size":1}"#).await;
    let refused = "the dead letter is not stored";
    wait::until_true("the dead letter is refused", LONG, || async { sensor.lines(refused).len() > 1 }).await.unwrap();
    wait::until_true("the next message goes on", LONG, || async {
        objects(&stage, &widgets).await.keys().copied().eq([good])
    })
    .await
    .unwrap();
    assert_eq!(stage.waiting().await, (0, 1), "the message stays in its stream");
    assert_eq!(letters(&stage).await.keys().copied().collect::<Vec<_>>(), [first]);
    js.update_stream(Config { max_messages: 10, ..config.clone() }).await.unwrap();
    until_drained(&stage, &sensor).await;
    assert_eq!(letters(&stage).await[&second].payload, b"second");
    // It is gone.
    js.delete_stream(&dead).await.unwrap();
    let said = sensor.lines(refused).len();
    let third = publish(&stage, &[], "third").await;
    wait::until_true("the dead letter is not taken", LONG, || async { sensor.lines(refused).len() > said })
        .await
        .unwrap();
    assert_eq!(stage.waiting().await, (0, 1), "the message stays in its stream");
    js.create_stream(Config { max_messages: -1, ..config }).await.unwrap();
    until_drained(&stage, &sensor).await;
    let letters = letters(&stage).await;
    assert_eq!(letters.keys().copied().collect::<Vec<_>>(), [third], "stored once");
    assert_eq!(sensor.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_leaves_no_room_for_its_dead_letter_is_cut_and_blocks_nobody() {
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let widgets = Resource::widgets();
    let mut stage = stage_of(plane, &nats, "large", &widgets).await;
    let file = widget_by_size(&stage);
    stage.file(&file);
    let sensor = stage.start().await;
    let most = stage.nats.server_info().max_payload;
    let large = publish(&stage, &[], vec![b'x'; most]).await;
    let good = publish(&stage, &[], r#"{"size":1}"#).await;
    wait::until_true("the next message goes on", LONG, || async {
        objects(&stage, &widgets).await.keys().copied().eq([good])
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(20)));
    until_drained(&stage, &sensor).await;
    assert_eq!(letters(&stage).await.keys().copied().collect::<Vec<_>>(), [large]);
    assert_eq!(sensor.stop().await, Some(0));
}

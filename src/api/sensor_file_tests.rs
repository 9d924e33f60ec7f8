//! The sentences that people read, whole.

use proptest::prelude::*;
use serde_json::json;

use crate::template::Event;

use super::*;

const WORKFLOW: &str = r#"
name: orders
stream: EVENTS
subject: orders.>
trigger:
  name: create-workflow
  kubernetes:
    object:
      apiVersion: argoproj.io/v1alpha1
      kind: Workflow
      metadata:
        generateName: order-
        labels: {id: "${{ event.data.id }}", fixed: "1"}
      spec:
        entrypoint: main
        mode: 0644
        yes: yes
        arguments: {parameters: [{name: id, value: "${{ event.data.id }}"}]}
"#;

fn parse(text: &str) -> Result<Sensor, SensorFileError> {
    Sensor::parse(text, &SensorFileContext { sensor_name: None, namespace: Some("work") })
}

fn sentence(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// The workflow with one text for another.
fn with(from: &str, to: &str) -> String {
    assert!(WORKFLOW.contains(from), "{from}");
    WORKFLOW.replacen(from, to, 1)
}

#[test]
fn a_workflow() {
    let sensor = parse(WORKFLOW).unwrap();
    assert_eq!(
        (sensor.name.as_str(), sensor.stream.as_str(), sensor.subject.as_str()),
        ("orders", "EVENTS", "orders.>")
    );
    assert_eq!(sensor.trigger_name, "create-workflow");
    let Trigger::Kubernetes(trigger) = sensor.trigger else { panic!("{:?}", sensor.trigger) };
    assert_eq!((trigger.api_version.as_str(), trigger.kind.as_str()), ("argoproj.io/v1alpha1", "Workflow"));
    assert_eq!(trigger.prefix, "order-");
    let event = Event::decode("orders.a", &[], br#"{"id": 7}"#, "EVENTS", 1, 0, 1).unwrap();
    let expected = json!({
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"labels": {"id": "7", "fixed": "1"}},
        "spec": {
            "entrypoint": "main", "mode": 420, "yes": true,
            "arguments": {"parameters": [{"name": "id", "value": 7}]},
        },
    });
    assert_eq!(trigger.template.render(&event).unwrap(), expected);
}

#[test]
fn a_log_trigger() {
    for (log, expected) in [
        ("log: {}", LogTrigger { silent: false, level: LogLevel::Info }),
        ("log:", LogTrigger { silent: false, level: LogLevel::Info }),
        ("log: {silent: true, level: debug}", LogTrigger { silent: true, level: LogLevel::Debug }),
    ] {
        let text = format!("name: a\nstream: S\nsubject: '>'\ntrigger:\n  name: t\n  {log}\n");
        let Trigger::Log(trigger) = parse(&text).unwrap().trigger else { panic!("{log}") };
        assert_eq!(trigger, expected);
    }
}

#[test]
fn names_and_prefixes() {
    let unnamed = with("name: orders\n", "");
    let context = SensorFileContext { sensor_name: Some("other"), namespace: None };
    assert_eq!(Sensor::parse(&unnamed, &context).unwrap().name, "other");
    assert_eq!(sentence(&unnamed), "sensor file: name: it is missing; give it there or as SENSOR_NAME");
    assert_eq!(
        Sensor::parse(WORKFLOW, &context).unwrap_err().to_string(),
        "sensor file: name: it is `orders`, but SENSOR_NAME is `other`; give one of the two, or the same"
    );
    let prefix = |text: &str| match parse(text).unwrap().trigger {
        Trigger::Kubernetes(trigger) => trigger.prefix,
        Trigger::Log(_) => panic!(),
    };
    assert_eq!(prefix(&with("        generateName: order-\n", "")), "orders-");
    let long =
        with("        generateName: order-\n", "").replacen("name: orders", &format!("name: {}", "x".repeat(63)), 1);
    assert_eq!(prefix(&long), format!("{}-", "x".repeat(36)));
    assert_eq!(prefix(&with("generateName: order-", "namespace: work")), "orders-");
}

#[test]
fn each_mistake_has_its_sentence() {
    let label = "is not a DNS label: 1 to 63 lower-case letters, digits and `-` are allowed, with a letter or digit at both ends";
    let table = [
        (with("subject: ", "subjekt: "), "line 4, column 1: unknown field `subjekt`, did you mean `subject`?; allowed: name, stream, subject, trigger".to_owned()),
        (with("  kubernetes:", "  kubernets:"), "line 7, column 3: unknown field `kubernets`, did you mean `kubernetes`?; allowed: name, kubernetes, log".to_owned()),
        (with("stream: EVENTS\n", ""), "line 4, column 1: the field `stream` is missing".to_owned()),
        (with("stream: EVENTS\n", "stream: EVENTS\nstream: X\n"), "line 4, column 1: the key `stream` is there twice".to_owned()),
        (with("entrypoint: main", "entrypoint: main\n        entrypoint: other"), "line 16, column 9: the key `entrypoint` is there twice".to_owned()),
        (with("name: orders", "name: Orders"), format!("name: `Orders` {label}")),
        (with("name: create-workflow", "name: a/b"), format!("trigger.name: `a/b` {label}")),
        (with("EVENTS", "EVENTS.*"), "stream: `EVENTS.*` is not a stream name: 1 to 255 printable characters are allowed, without spaces and without any of `.*>/\\`".to_owned()),
        (with("orders.>", "orders.>.x"), "subject: `orders.>.x` is not a subject: `>` is only allowed as the last part".to_owned()),
        (with("    object:", "    object: {}\n    objekt:"), "line 9, column 5: unknown field `objekt`, did you mean `object`?; allowed: object".to_owned()),
        (with("  kubernetes:", "  log: {}\n  kubernetes:"), "trigger: it says two things to do; exactly one of `kubernetes` and `log` is allowed".to_owned()),
        (with("      kind: Workflow\n", ""), "trigger.kubernetes.object.kind: it is missing; give a text such as Workflow".to_owned()),
        (with("kind: Workflow", "kind: \"${{ event.data.kind }}\""), "trigger.kubernetes.object.kind: it can't be an expression: rights and the quota are those of one kind".to_owned()),
        (with("argoproj.io/v1alpha1", "a/b/c"), "trigger.kubernetes.object.apiVersion: `a/b/c` is not allowed; allowed is a version, or a group and a version, such as v1 or argoproj.io/v1alpha1".to_owned()),
        (with("generateName: order-", "name: order"), "trigger.kubernetes.object.metadata.name: a fixed name would allow one object only; give `generateName`, it is the prefix of a name that is derived from the message".to_owned()),
        (with("generateName: order-", "generateName: order_"), "trigger.kubernetes.object.metadata.generateName: `order_` cannot begin the names of objects: at most 37 lower-case letters, digits and `-` are allowed, beginning with a letter or digit".to_owned()),
        (with("generateName: order-", "generateName: \"${{ event.data.id }}\""), "trigger.kubernetes.object.metadata.generateName: it can't be an expression: a message has one name, whatever it says; put values into labels or annotations".to_owned()),
        (with("generateName: order-", "namespace: elsewhere"), "trigger.kubernetes.object.metadata.namespace: \"elsewhere\" is refused: objects are created in the quota's namespace, `work`; leave it out".to_owned()),
        (with("labels: {id", "labels: {jetgate.dev/message: x, id"), "trigger.kubernetes.object.metadata.labels: the key `jetgate.dev/message` is refused: keys of jetgate.dev carry the identity of the message".to_owned()),
        (with("fixed: \"1\"", "fixed: 1"), "trigger.kubernetes.object.metadata.labels: the value of `fixed` must be a text; write it in quotes".to_owned()),
        (with("generateName: order-", "annotations: \"${{ event.data }}\""), "trigger.kubernetes.object.metadata.annotations: it must be a map of texts; values may be expressions, the map itself may not".to_owned()),
        (with("generateName: order-", "uid: x"), "trigger.kubernetes.object.metadata.uid: only the API server sets it".to_owned()),
        (with("value: \"${{ event.data.id }}\"", "value: \"${{ evnt.data.id }}\""), "trigger.kubernetes.object: spec.arguments.parameters[0].value: `${{ evnt.data.id }}`: unknown variable `evnt`, did you mean `event`?; the only variable is `event`".to_owned()),
        ("name: a\nstream: S\nsubject: a\ntrigger: {name: t}\n".to_owned(), "trigger: it says nothing to do; exactly one of `kubernetes` and `log` is allowed".to_owned()),
        ("name: a\nstream: S\nsubject: a\ntrigger: {name: t, kubernetes: {object: [1]}}\n".to_owned(), "trigger.kubernetes.object: it must be a map: the object to create".to_owned()),
        ("name: a\nstream: S\nsubject: a\ntrigger: {name: t, log: {level: loud}}\n".to_owned(), "line 4, column 33: `loud` is not allowed; allowed: error, warn, info, debug, trace".to_owned()),
        (format!("{WORKFLOW}---\nname: b\n"), "line 20, column 1: a second document; a file holds one".to_owned()),
        ("name: [a\n".to_owned(), "line 1, column 7: a text is expected here".to_owned()),
        (String::new(), "it is empty".to_owned()),
        ("just text".to_owned(), "line 1, column 1: a map is expected here".to_owned()),
        ("x".repeat(600_000), "the file has 600000 bytes; at most 524288 are allowed".to_owned()),
    ];
    for (text, expected) in table {
        assert_eq!(sentence(&text), format!("sensor file: {expected}"));
    }
}

#[test]
fn bombs_are_refused() {
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (name, before) in ["b", "c", "d", "e", "f", "g"].iter().zip(["a", "b", "c", "d", "e", "f"]) {
        bomb.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 10].join(", ")));
    }
    let object = bomb.lines().map(|line| format!("      {line}\n")).collect::<String>();
    let text = format!("name: a\nstream: S\nsubject: a\ntrigger:\n  name: t\n  kubernetes:\n    object:\n{object}");
    let refused = |text: &str, place: &str| {
        let problem = "too large or too deeply nested for a sensor file, aliases counted where they are used";
        assert_eq!(sentence(text), format!("sensor file: {place}: {problem}"));
    };
    refused(&text, "line 8, column 32");
    let nested =
        |depth: usize| with("entrypoint: main", &format!("entrypoint: {}{}", "[".repeat(depth), "]".repeat(depth)));
    refused(&nested(50_000), "line 15, column 276");
    assert!(parse(&nested(80)).is_ok());
    let wide = format!(
        "name: a\nstream: S\nsubject: a\ntrigger: {{name: t, kubernetes: {{object: [{}]}}}}",
        "1,".repeat(100_000)
    );
    refused(&wide, "line 4, column 100012");
    // An anchor that is used a few times is fine.
    let anchored = with("spec:", "x: &x {a: 1}\n      y: *x\n      spec:");
    assert!(parse(&anchored).is_ok());
}

proptest! {
    #[test]
    fn no_text_panics(text in "(name|stream|subject|trigger|log|kubernetes|object|: |\n|  |- |a|\\{|\\}|\\[|\\]|\"|&a|\\*a|<<|!!x|\\||>|\\$\\{\\{|.){0,60}") {
        drop(parse(&text).map_err(|error| error.to_string()));
    }

    #[test]
    fn no_change_panics(at in 0..WORKFLOW.len(), with in ".{0,3}") {
        let mut text = WORKFLOW.to_owned();
        text.replace_range(at..=at, &with);
        drop(parse(&text).map_err(|error| error.to_string()));
    }
}

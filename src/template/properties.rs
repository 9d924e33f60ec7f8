//! Whatever comes, nothing panics, and a message stays in its slot.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::expression::{Expression, Scope};
use super::tests::event;
use super::values::Budget;
use super::{Event, Template};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        r"(\$\{\{|\}\}|\$|event|\n|: |- |[a-z]){0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec(("[a-c]|.{0,6}", inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Texts that look like CEL often enough to get past the parser.
fn any_expression() -> impl Strategy<Value = String> {
    let tokens = [
        "event",
        ".data",
        ".a",
        ".b",
        ".?c",
        "[0]",
        "['a']",
        " + ",
        " - ",
        " / ",
        " ? ",
        " : ",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "1",
        "-1",
        "2u",
        "1.5",
        "'x'",
        "\"y\"",
        "b'z'",
        "null",
        "true",
        " && ",
        " == ",
        " in ",
        "!",
        "size(",
        ".map(x, ",
        ".filter(x, ",
        "x",
        "has(",
        "string(",
        "int(",
        "timestamp(",
        "duration(",
        ".matches('a')",
        ".split('')",
        ".substring(1, 0)",
        ".charAt(99)",
        "'%d%.999999999f'.format([",
        "]",
        "9223372036854775807",
        "r'",
        ".indexOf('a', -5)",
        ".orValue(",
        "optional.of(",
        ".sort()",
        ".slice(-1, 5)",
        ".flatten(-1)",
        "\\",
        "é",
        "`",
    ];
    prop_oneof![
        prop::collection::vec(prop::sample::select(tokens.to_vec()), 0..12).prop_map(|parts| parts.concat()),
        ".{0,40}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_document_and_any_payload(text in ".{0,60}", expression in any_expression(), payload in any_json()) {
        let document = json!({"a": text, "b": [format!("x ${{{{ {expression} }}}}")], "c": format!("${{{{ {expression} }}}}")});
        if let Ok(template) = Template::compile(&document) {
            drop(template.render(&event(payload.to_string().as_bytes())));
        }
    }

    #[test]
    fn any_bytes(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        content_type in prop::sample::select(vec!["", "application/cloudevents+json", "text/plain", "application/cloudevents"]),
        names in prop::collection::vec(("ce-[a-z]{0,3}|ce-specversion|.{0,5}", ".{0,9}"), 0..4),
    ) {
        let mut headers = names;
        headers.push(("content-type".to_owned(), content_type.to_owned()));
        if let Ok(event) = Event::decode("a", &headers, &payload, "S", 1, i64::MIN, u64::MAX) {
            let template = Template::compile(&json!(["${{ event }}", "${{ event.data }}", "${{ event.time }}"])).unwrap();
            template.render(&event).unwrap();
        }
    }

    /// The document keeps its shape and everything outside of the slots; each slot holds the value, unchanged.
    #[test]
    fn a_message_stays_in_its_slot(payload in any_json()) {
        let document = json!({
            "fixed": ["a", {"b": "{{x}}"}],
            "typed": "${{ event.data }}",
            "computed": "${{ [event.data][0] }}",
            "text": "<${{ event.data }}>",
            "after": 7,
        });
        let cloudevent = ["specversion", "id", "source", "type"].iter().all(|name| payload[name].is_string());
        prop_assume!(!cloudevent);
        let bytes = payload.to_string();
        let payload: Value = serde_json::from_str(&bytes).unwrap();
        let rendered = Template::compile(&document).unwrap().render(&event(bytes.as_bytes())).unwrap();
        let text = match &payload {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => payload.to_string(),
        };
        let expected = json!({
            "fixed": ["a", {"b": "{{x}}"}], "typed": payload, "computed": payload, "text": format!("<{text}>"), "after": 7,
        });
        prop_assert_eq!(&rendered, &expected);
        // serde_json compares maps without their order.
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        prop_assert_eq!(keys(&rendered), keys(&document));
    }

    /// The short way for paths and the evaluator agree.
    #[test]
    fn paths_give_what_the_evaluator_gives(
        payload in any_json(),
        path in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..4),
        field in prop::sample::select(vec!["data", "headers", "subject", "time", "sequence", "cloudevent"]),
    ) {
        let source = ["event", field].into_iter().chain(path).collect::<Vec<_>>().join(".");
        let bytes = payload.to_string();
        let event = event(bytes.as_bytes());
        let evaluate = |expression: &Expression| {
            let result = expression.evaluate(&mut Scope::new(&event), &mut Budget::after(0));
            result.map_err(|cause| cause.at("", "").kind())
        };
        let short = evaluate(&Expression::compile(&source).unwrap());
        prop_assert_eq!(short, evaluate(&Expression::by_program(&source)));
    }

    #[test]
    fn json_is_read_as_serde_reads_it(value in any_json()) {
        let text = value.to_string();
        prop_assert_eq!(super::json::parse(text.as_bytes()), serde_json::from_str(&text).ok());
    }
}

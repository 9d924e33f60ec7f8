//! What users see: values, texts, errors.

use serde_json::{Value, json};

use super::functions::FUNCTIONS;
use super::{Event, RenderError, RenderErrorKind, Template, TemplateError};

const STORED: i64 = 1_767_323_045_678_000_000;

pub(super) fn event(payload: &[u8]) -> Event<'_> {
    Event::decode("orders.eu.17", &[], payload, "EVENTS", 41, STORED, 2).unwrap()
}

fn compile(document: &Value) -> Result<Template, TemplateError> {
    Template::compile(document)
}

fn render(document: &Value, payload: &[u8]) -> Result<Value, RenderError> {
    compile(document).unwrap().render(&event(payload))
}

fn one(expression: &str, payload: &[u8]) -> Result<Value, RenderError> {
    let document = json!({ "x": format!("${{{{ {expression} }}}}") });
    render(&document, payload).map(|mut rendered| rendered["x"].take())
}

#[test]
fn a_workflow() {
    let document = json!({
        "apiVersion": "argoproj.io/v1alpha1",
        "metadata": {"labels": {"region": "${{ event.subject.split('.')[1] }}"}},
        "spec": {
            "arguments": {"parameters": [
                {"name": "id", "value": "${{ event.data.id }}"},
                {"name": "text", "value": "order ${{ event.data.id }} of ${{ event.data.who }}, ${{ event.data.none }}."},
                {"name": "all", "value": "${{ event.data }}"},
            ]},
            "templates": [{"args": ["{{inputs.parameters.id}} ${HOME} $${{ literal }}"]}],
        },
    });
    let rendered = render(&document, br#"{"id": 9007199254740993, "who": "ann", "none": null, "z": [1.5, true]}"#);
    let expected = json!({
        "apiVersion": "argoproj.io/v1alpha1",
        "metadata": {"labels": {"region": "eu"}},
        "spec": {
            "arguments": {"parameters": [
                {"name": "id", "value": 9_007_199_254_740_993_u64},
                {"name": "text", "value": "order 9007199254740993 of ann, ."},
                {"name": "all", "value": {"id": 9_007_199_254_740_993_u64, "who": "ann", "none": null, "z": [1.5, true]}},
            ]},
            "templates": [{"args": ["{{inputs.parameters.id}} ${HOME} ${{ literal }}"]}],
        },
    });
    assert_eq!(rendered.unwrap(), expected);
}

#[test]
fn every_documented_function_gives_what_is_documented() {
    for function in FUNCTIONS {
        let expected: Value = serde_json::from_str(function.result).unwrap();
        let result = one(function.example, b"{}").unwrap_or_else(|error| panic!("{}: {error}", function.name));
        assert_eq!(result, expected, "{}", function.name);
        assert!(function.example.contains(function.name.rsplit('.').next().unwrap()), "{}", function.name);
    }
}

#[test]
fn types_are_kept() {
    let payload =
        br#"{"int":-3,"uint":18446744073709551615,"double":42.0,"exp":1e3,"wide":123456789012345678901234567890,
        "list":[1,{"b":1,"a":2}],"none":null,"yes":true,"text":"1"}"#;
    for name in ["int", "uint", "double", "exp", "wide", "list", "none", "yes", "text"] {
        let data: Value = super::json::parse(payload).unwrap();
        assert_eq!(one(&format!("event.data.{name}"), payload).unwrap(), data[name], "{name}");
        assert_eq!(one(&format!("dyn(event.data.{name})"), payload).unwrap(), data[name], "{name}");
    }
    assert_eq!(one("event.data.double", payload).unwrap().to_string(), "42.0");
    assert_eq!(one("event.data.int + 1", payload).unwrap(), json!(-2));
    assert_eq!(one("event.data.uint - 1u", payload).unwrap(), json!(u64::MAX - 1));
    assert_eq!(one("event.data.list.map(x, x)", payload).unwrap().to_string(), r#"[1,{"a":2,"b":1}]"#);
    assert_eq!(one("event.sequence", payload).unwrap(), json!(41));
    assert_eq!(one("event.deliveries > 1 ? 'again' : 'first'", payload).unwrap(), json!("again"));
    assert_eq!(one("event.time", payload).unwrap(), json!("2026-01-02T03:04:05.678Z"));
    assert_eq!(one("event.time + duration('24h')", payload).unwrap(), json!("2026-01-03T03:04:05.678Z"));
    assert_eq!(one("event.time - timestamp('2026-01-02T00:00:00Z')", payload).unwrap(), json!("3h4m5.678s"));
    assert_eq!(one("event.time.getFullYear()", payload).unwrap(), json!(2026));
    assert_eq!(one("event.data", b"\xff\x00").unwrap(), json!("/wA="));
    assert_eq!(one("size(event.data)", b"\xff\x00").unwrap(), json!(2));
    assert_eq!(one("event.data", b"just text").unwrap(), json!("just text"));
    assert_eq!(one("event.data.?missing", b"{}").unwrap(), Value::Null);
    assert_eq!(one("has(event.cloudevent)", b"{}").unwrap(), json!(false));
}

#[test]
fn texts_are_joined() {
    let document =
        json!("${{ event.data.a }}|${{ event.data.b }}|${{ event.data.c }}|${{ event.data.d }}|${{ event.data.e }}");
    let rendered = render(&document, br#"{"a":"x\"y","b":null,"c":[1,"z"],"d":1.0,"e":true}"#).unwrap();
    assert_eq!(rendered, json!(r#"x"y||[1,"z"]|1.0|true"#));
}

#[test]
fn headers_and_cloudevents() {
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "7"),
        ("ce-type", "order.created"),
        ("X-Tenant", "blue"),
        ("X-Tenant", "red"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let event = Event::decode("a", &headers, b"{\"n\":1}", "S", 1, STORED, 1).unwrap();
    let document = json!({
        "type": "${{ event.cloudevent.type }}", "id": "${{ event.cloudevent['id'] }}",
        "tenant": "${{ event.headers['X-Tenant'] }}", "n": "${{ event.data.n + 1 }}",
        "headers": "${{ event.headers }}",
    });
    let rendered = compile(&document).unwrap().render(&event).unwrap();
    assert_eq!(rendered["type"], json!("order.created"));
    assert_eq!(rendered["id"], json!("7"));
    assert_eq!(rendered["tenant"], json!("blue, red"));
    assert_eq!(rendered["n"], json!(2));
    assert_eq!(rendered["headers"]["ce-id"], json!("7"));
}

#[test]
fn a_template_without_data_does_not_read_it() {
    // As a CloudEvent without the content type: found to be broken when the data is read.
    let broken = br#"{"specversion":"1.0","id":"7","source":"s","type":"t","data_base64":"%"}"#;
    assert_eq!(one("event.subject + '!'", broken).unwrap(), json!("orders.eu.17!"));
    let error = one("event.data.x", broken).unwrap_err();
    assert_eq!(error.kind(), RenderErrorKind::Decode);
    assert_eq!(
        error.to_string(),
        "x: `${{ event.data.x }}`: `data_base64` of the CloudEvent is not base64: Invalid symbol 37, offset 0."
    );
    assert_eq!(one("event.data.x + 1", broken).unwrap_err().kind(), RenderErrorKind::Decode);
}

#[test]
fn mistakes_in_a_template() {
    let long = "x".repeat(2050);
    let table = [
        (
            "event.data.x +",
            "x: `${{ event.data.x + }}`: not a CEL expression: line 1, column 15: mismatched input '<EOF>'",
        ),
        ("", "x: the expression is empty"),
        (
            "evnt.data.x",
            "x: `${{ evnt.data.x }}`: unknown variable `evnt`, did you mean `event`?; the only variable is `event`",
        ),
        ("env.HOME", "x: `${{ env.HOME }}`: unknown variable `env`; the only variable is `event`"),
        (
            "event.dta.x",
            "x: `${{ event.dta.x }}`: `event` has no field `dta`, did you mean `data`?; it has data, subject, headers, \
             time, stream, sequence, deliveries, cloudevent",
        ),
        (
            "event.subject.lower()",
            "x: `${{ event.subject.lower() }}`: unknown function `lower`; docs/templates.md lists the functions",
        ),
        (
            "event.subject.startswith('a')",
            "x: `${{ event.subject.startswith('a') }}`: unknown function `startswith`, did you mean `startsWith`?; \
             docs/templates.md lists the functions",
        ),
        (
            "event.subject.matches('(')",
            "x: `${{ event.subject.matches('(') }}`: fails for every message: Error executing function 'matches': '(' not \
             a valid regex:\nregex parse error:\n    (\n    ^\nerror: unclosed group",
        ),
        (
            "timestamp('yesterday') < event.time",
            "x: `${{ timestamp('yesterday') < event.time }}`: fails for every message: Error executing function \
             'timestamp': premature end of input",
        ),
        (
            "event.subject.replace('a', event.data.b)",
            "x: `${{ event.subject.replace('a', event.data.b) }}`: the new text of `replace` must be a text in quotes, so \
             that a message can't choose it",
        ),
        (long.as_str(), "the expression has 2050 bytes, at most 2048 are allowed"),
        ("[1].map(y, y) + y", "x: `${{ [1].map(y, y) + y }}`: unknown variable `y`; the only variable is `event`"),
        ("Foo{a: 1}", "x: `${{ Foo{a: 1} }}`: unknown function `Foo`; docs/templates.md lists the functions"),
    ];
    for (expression, expected) in table {
        let document = json!({ "x": format!("${{{{ {expression} }}}}") });
        let error = compile(&document).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}\n  instead of\n{expected}");
    }
    let error = compile(&json!({"spec": {"args": [{"v": 1}, {"v": "a ${{ b"}]}})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "spec.args[1].v: `${{ b`: `${{` is not closed by `}}`; write `$${{` for the text itself"
    );
    let nested = (0..200).fold(json!(1), |inner, _| json!([inner]));
    let error = compile(&nested).unwrap_err().to_string();
    assert!(error.ends_with(": the document is nested too deeply, at most 96 levels are allowed"), "{error}");
    let many: Vec<Value> = (0..600).map(|_| json!("${{ event.data }}")).collect();
    let error = compile(&json!(many)).unwrap_err().to_string();
    assert!(error.ends_with(": the document has too many expressions, at most 512 are allowed"), "{error}");
}

#[test]
fn messages_that_do_not_fit() {
    use RenderErrorKind as Kind;
    let table: [(&str, &[u8], Kind, &str); 8] = [
        ("event.data.id", b"{}", Kind::MissingKey, "x: `${{ event.data.id }}`: no such key: `id`"),
        ("event.data.id + 1", b"{}", Kind::MissingKey, "x: `${{ event.data.id + 1 }}`: no such key: `id`"),
        (
            "event.data.id",
            b"text",
            Kind::WrongType,
            "x: `${{ event.data.id }}`: wrong type: there is no `id` in a text",
        ),
        (
            "event.data.id + 1",
            br#"{"id":"a"}"#,
            Kind::WrongType,
            "x: `${{ event.data.id + 1 }}`: wrong type: Unsupported binary operator 'add': String(\"a\"), Int(1)",
        ),
        (
            "event.data.id + 1",
            br#"{"id":9223372036854775807}"#,
            Kind::Evaluation,
            "x: `${{ event.data.id + 1 }}`: Overflow from binary operator 'add': Int(9223372036854775807), Int(1)",
        ),
        (
            "1 / event.data.id",
            br#"{"id":0}"#,
            Kind::Evaluation,
            "x: `${{ 1 / event.data.id }}`: Division by zero of Int(1)",
        ),
        (
            "event.data.items[3]",
            br#"{"items":[]}"#,
            Kind::Evaluation,
            "x: `${{ event.data.items[3] }}`: Index out of bounds: Int(3)",
        ),
        (
            "double(event.data)",
            b"\"NaN\"",
            Kind::WrongType,
            "x: `${{ double(event.data) }}`: the result has no JSON form: a double that is no number or infinite",
        ),
    ];
    for (expression, payload, kind, expected) in table {
        let error = one(expression, payload).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, expected));
    }
}

#[test]
fn a_message_cannot_take_all_memory_or_time() {
    let large = json!({"blob": "x".repeat(600_000), "items": (0..100_000).collect::<Vec<_>>()}).to_string();
    let refused = |expression: &str| {
        let error = one(expression, large.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), RenderErrorKind::TooLarge, "{error}");
        error.to_string()
    };
    assert_eq!(
        refused("event.data.blob + event.data.blob"),
        "x: `${{ event.data.blob + event.data.blob }}`: the rendered document would be larger than 1048576 bytes"
    );
    assert_eq!(
        refused("event.data.items.map(i, event.data.items.map(j, i * j)).size()"),
        "x: `${{ event.data.items.map(i, event.data.items.map(j, i * j)).size() }}`: the loops could make 10000000000 \
         rounds over a message whose longest list has 100000 items, at most 1000000 are allowed"
    );
    assert_eq!(
        refused("event.data.items.map(i, event.data.blob + string(i)).size()"),
        "x: `${{ event.data.items.map(i, event.data.blob + string(i)).size() }}`: the loops could copy more than 67108864 \
         bytes of this message"
    );
    refused("event.data.items.map(i, event).size()");
    refused("event.data.blob.split('').map(i, event.data.blob).size()");
    assert_eq!(one("event.data.items.filter(i, i < 10).map(i, i * 2)", large.as_bytes()).unwrap()[9], json!(18));
    assert_eq!(one("event.data.items.exists(i, string(i) == event.subject)", large.as_bytes()).unwrap(), json!(false));
    let sum = "${{ event.data.blob }}";
    assert!(render(&json!([sum]), large.as_bytes()).is_ok());
    let error = render(&json!([sum, {"y": sum}]), large.as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "[1].y: `${{ event.data.blob }}`: the rendered document would be larger than 1048576 bytes"
    );
}

/// On the 2 MiB stack of a test thread, as on that of a worker.
#[test]
fn deep_expressions_do_not_overflow_the_stack() {
    let shapes: [(&str, &str, &str); 12] = [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{'a':", "1", "}"),
        ("size(", "1", ")"),
        ("[1].map(x,", "1", ")"),
        ("!", "true", ""),
        ("-", "1", ""),
        ("true?1:", "1", ""),
        ("", "1", "+1"),
        ("", "event", ".data"),
        ("", "event.data", "[0]"),
        ("", "true", "&&true"),
    ];
    for (before, middle, after) in shapes {
        for count in [5, 20, 60, 90, 120, 2000] {
            let count = count.min(2040 / (before.len() + after.len()));
            let expression = format!("{}{middle}{}", before.repeat(count), after.repeat(count));
            let document = json!(format!("${{{{ {expression} }}}}"));
            if let Ok(template) = compile(&document) {
                // Whether it can be evaluated does not matter here.
                drop(template.render(&event(b"{}")));
            }
        }
    }
}

#[test]
fn templates_can_be_shared() {
    fn shared<T: Send + Sync>() {}
    shared::<Template>();
    shared::<Event<'_>>();
}

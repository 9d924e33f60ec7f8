//! What an expression sees of a message.

use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::cloudevent::{self, Claim};
use super::json;

/// Why a message could not be read as what it says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The content type is a CloudEvent's, the payload is no JSON object.
    #[error("content-type `{0}` says CloudEvent, but the payload is not a JSON object")]
    NotAnObject(String),
    /// A CloudEvents format other than JSON.
    #[error("content-type `{0}` is a CloudEvents format that is not supported; use application/cloudevents+json")]
    Format(String),
    /// Several events in one message.
    #[error("content-type `{0}` is a batch: one message is one effect, so publish each event as its own message")]
    Batch(String),
    /// The content type is a CloudEvent's, a required attribute is missing or no text.
    #[error("the CloudEvent has no attribute `{0}` with a text")]
    Attribute(&'static str),
    /// The data of a CloudEvent is not the base64 text that it says it is.
    #[error("`{field}` of the CloudEvent is not base64: {source}")]
    Base64 {
        /// The member that was read.
        field: &'static str,
        /// What base64 said.
        source: base64::DecodeError,
    },
    /// The member that must hold base64 text holds something else.
    #[error("`{0}` of the CloudEvent is no text")]
    Base64Type(&'static str),
}

/// The data of an event, as it was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Json(Value),
    Text(String),
    Bytes(Vec<u8>),
}

impl Data {
    /// JSON where it parses and no type `text/...` was declared, else text where it is UTF-8, else bytes.
    pub(super) fn read(bytes: &[u8], content_type: Option<&str>) -> Self {
        if !content_type.is_some_and(is_text)
            && let Some(value) = json::parse(bytes)
        {
            return Self::Json(value);
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes.to_vec()),
        }
    }
}

fn is_text(content_type: &str) -> bool {
    let lower = content_type.trim().to_ascii_lowercase();
    lower.starts_with("text/") && !lower.starts_with("text/json")
}

/// Data, and the attributes where the message is a CloudEvent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Content {
    pub(super) data: Data,
    pub(super) cloudevent: Option<Map<String, Value>>,
}

/// A message as expressions see it: the variable `event`.
///
/// Headers, subject and numbers are there at once. The payload is parsed when an expression first asks for `data` or
/// `cloudevent`, so a template that uses neither works on any bytes and pays for none.
#[derive(Debug)]
pub struct Event<'m> {
    subject: &'m str,
    headers: &'m [(String, String)],
    payload: &'m [u8],
    stream: &'m str,
    sequence: u64,
    store_time_ns: i64,
    deliveries: u64,
    claim: Claim,
    content: OnceLock<Result<Content, DecodeError>>,
}

impl<'m> Event<'m> {
    /// Reads a message.
    ///
    /// # Errors
    /// Where the content type says CloudEvent and the payload is none: no template can make that message right.
    pub fn decode(
        subject: &'m str,
        headers: &'m [(String, String)],
        payload: &'m [u8],
        stream: &'m str,
        sequence: u64,
        store_time_ns: i64,
        deliveries: u64,
    ) -> Result<Self, DecodeError> {
        let claim = Claim::of(headers)?;
        let eager = matches!(claim, Claim::Structured(_));
        let content = OnceLock::new();
        let event = Self { subject, headers, payload, stream, sequence, store_time_ns, deliveries, claim, content };
        if eager {
            event.content()?;
        }
        Ok(event)
    }

    pub(super) fn content(&self) -> Result<&Content, DecodeError> {
        let read = || cloudevent::read(&self.claim, self.headers, self.payload);
        self.content.get_or_init(read).as_ref().map_err(Clone::clone)
    }

    pub(super) const fn subject(&self) -> &'m str {
        self.subject
    }

    pub(super) const fn stream(&self) -> &'m str {
        self.stream
    }

    pub(super) const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(super) const fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// When the stream stored the message, in RFC 3339.
    pub(super) fn time(&self) -> String {
        let time = jiff::Timestamp::from_nanosecond(i128::from(self.store_time_ns));
        time.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
    }

    /// Name as it was sent, values of one name joined by `, ` in their order.
    pub(super) fn headers(&self) -> Vec<(&'m str, String)> {
        let mut joined: Vec<(&str, String)> = Vec::with_capacity(self.headers.len());
        for (name, value) in self.headers {
            match joined.iter_mut().find(|(seen, _)| seen == name) {
                Some((_, values)) => {
                    values.push_str(", ");
                    values.push_str(value);
                }
                None => joined.push((name, value.clone())),
            }
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn content(pairs: &[(&str, &str)], payload: &[u8]) -> Result<Content, DecodeError> {
        let headers = headers(pairs);
        let event = Event::decode("a.b", &headers, payload, "S", 1, 0, 1)?;
        event.content().cloned()
    }

    #[test]
    fn data_is_json_text_or_bytes() {
        assert_eq!(content(&[], br#"{"a":1}"#).unwrap().data, Data::Json(json!({"a":1})));
        assert_eq!(content(&[], b"12").unwrap().data, Data::Json(json!(12)));
        assert_eq!(content(&[("Content-Type", "text/plain")], b"12").unwrap().data, Data::Text("12".to_owned()));
        assert_eq!(content(&[("content-type", "application/json")], b"{x").unwrap().data, Data::Text("{x".to_owned()));
        assert_eq!(content(&[], b"").unwrap().data, Data::Text(String::new()));
        assert_eq!(content(&[], b"\xff\x00").unwrap().data, Data::Bytes(vec![255, 0]));
        let deep = "[".repeat(200_000);
        assert_eq!(content(&[], deep.as_bytes()).unwrap().data, Data::Text(deep));
    }

    #[test]
    fn structured_cloudevents() {
        let plain = br#"{"specversion":"1.0","id":"7","source":"/s","type":"t","subject":"x","ext":3,"data":{"a":1}}"#;
        for pairs in [&[][..], &[("Content-Type", "application/cloudevents+json; charset=utf-8")]] {
            let content = content(pairs, plain).unwrap();
            assert_eq!(content.data, Data::Json(json!({"a":1})));
            let expected = json!({"specversion":"1.0","id":"7","source":"/s","type":"t","subject":"x","ext":3});
            assert_eq!(Value::Object(content.cloudevent.unwrap()), expected);
        }
        // The form that an Argo Events event source publishes: no content type, data as bytes.
        let argo = br#"{"specversion":"1.0","id":"7","source":"webhook","type":"webhook","subject":"example",
            "datacontenttype":"application/json","time":"2026-01-01T00:00:00Z","data_base64":"eyJhIjoxfQ=="}"#;
        assert_eq!(content(&[("Nats-Msg-Id", "7")], argo).unwrap().data, Data::Json(json!({"a":1})));
        let old = br#"{"specversion":"0.3","id":"7","source":"s","type":"t","datacontentencoding":"base64","data":"eyJhIjoxfQ=="}"#;
        assert_eq!(content(&[], old).unwrap().data, Data::Json(json!({"a":1})));
        let empty = br#"{"specversion":"1.0","id":"7","source":"s","type":"t"}"#;
        assert_eq!(content(&[], empty).unwrap().data, Data::Json(Value::Null));
        let text = br#"{"specversion":"1.0","id":"7","source":"s","type":"t","datacontenttype":"text/plain","data_base64":"MTI="}"#;
        assert_eq!(content(&[], text).unwrap().data, Data::Text("12".to_owned()));
        // Not a CloudEvent: one of the four is missing, or no text.
        let other = br#"{"specversion":"1.0","id":7,"source":"s","type":"t","data":1}"#;
        assert_eq!(content(&[], other).unwrap().cloudevent, None);
    }

    #[test]
    fn binary_cloudevents() {
        let pairs = [
            ("ce-specversion", "1.0"),
            ("ce-id", "7"),
            ("Ce-Source", "/s%20x"),
            ("ce-type", "t"),
            ("ce-Tenant", "blue"),
            ("content-type", "application/json"),
            ("other", "x"),
        ];
        let content = content(&pairs, br#"{"a":1}"#).unwrap();
        assert_eq!(content.data, Data::Json(json!({"a":1})));
        let expected = json!({"specversion":"1.0","id":"7","source":"/s x","type":"t","tenant":"blue",
            "datacontenttype":"application/json"});
        assert_eq!(Value::Object(content.cloudevent.unwrap()), expected);
        let underscores = [("ce_specversion", "1.0"), ("ce_id", "7"), ("ce_datacontenttype", "text/plain")];
        let content = super::tests::content(&underscores, b"12").unwrap();
        assert_eq!(content.data, Data::Text("12".to_owned()));
    }

    #[test]
    fn what_claims_to_be_a_cloudevent_and_is_none_is_refused() {
        const CLAIM: [(&str, &str); 1] = [("Content-Type", "application/cloudevents+json")];
        type Row = (&'static [(&'static str, &'static str)], &'static [u8], &'static str);
        let table: [Row; 8] = [
            (
                &CLAIM,
                b"\xff",
                "content-type `application/cloudevents+json` says CloudEvent, but the payload is not a JSON object",
            ),
            (
                &CLAIM,
                b"[]",
                "content-type `application/cloudevents+json` says CloudEvent, but the payload is not a JSON object",
            ),
            (&CLAIM, br#"{"id":"7"}"#, "the CloudEvent has no attribute `specversion` with a text"),
            (
                &CLAIM,
                br#"{"specversion":"1.0","id":7,"source":"s","type":"t"}"#,
                "the CloudEvent has no attribute `id` with a text",
            ),
            (
                &CLAIM,
                br#"{"specversion":"1.0","id":"7","source":"s","type":"t","data_base64":"%"}"#,
                "`data_base64` of the CloudEvent is not base64: Invalid symbol 37, offset 0.",
            ),
            (
                &CLAIM,
                br#"{"specversion":"1.0","id":"7","source":"s","type":"t","data_base64":1}"#,
                "`data_base64` of the CloudEvent is no text",
            ),
            (
                &[("content-type", "application/cloudevents+avro")],
                b"",
                "content-type `application/cloudevents+avro` is a CloudEvents format that is not supported; \
                 use application/cloudevents+json",
            ),
            (
                &[("content-type", "application/cloudevents-batch+json")],
                b"[]",
                "content-type `application/cloudevents-batch+json` is a batch: one message is one effect, so publish \
                 each event as its own message",
            ),
        ];
        for (pairs, payload, expected) in table {
            let headers = headers(pairs);
            let error = Event::decode("a", &headers, payload, "S", 1, 0, 1).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn headers_and_time() {
        let headers = headers(&[("X", "1"), ("Y", "2"), ("X", "3"), ("x", "4")]);
        let event = Event::decode("a", &headers, b"\xff", "S", 1, 1_767_225_600_123_456_789, 1).unwrap();
        let expected = [("X", "1, 3".to_owned()), ("Y", "2".to_owned()), ("x", "4".to_owned())];
        assert_eq!(event.headers(), expected);
        assert_eq!(event.time(), "2026-01-01T00:00:00.123456789Z");
    }
}

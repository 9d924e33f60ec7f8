//! CloudEvents in a NATS message: structured JSON, or binary by headers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::event::{Content, Data, DecodeError};
use super::json;

const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// What the headers say a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nothing; a JSON object with the four required attributes is a CloudEvent all the same.
    Nothing,
    /// A CloudEvent in the payload, by this content type.
    Structured(String),
    /// A CloudEvent whose attributes are headers.
    Binary,
}

impl Claim {
    pub(super) fn of(headers: &[(String, String)]) -> Result<Self, DecodeError> {
        if let Some(content_type) = content_type(headers) {
            let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            if media_type.starts_with("application/cloudevents-batch") {
                return Err(DecodeError::Batch(content_type.to_owned()));
            }
            if let Some(format) = media_type.strip_prefix("application/cloudevents") {
                return match format {
                    "" | "+json" => Ok(Self::Structured(content_type.to_owned())),
                    _ => Err(DecodeError::Format(content_type.to_owned())),
                };
            }
        }
        let binary = headers.iter().any(|(name, _)| attribute(name).as_deref() == Some("specversion"));
        Ok(if binary { Self::Binary } else { Self::Nothing })
    }
}

fn content_type(headers: &[(String, String)]) -> Option<&str> {
    headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type")).map(|(_, value)| value.as_str())
}

/// The attribute that a header `ce-...` or `ce_...` carries; attribute names are lower case.
fn attribute(header: &str) -> Option<String> {
    let (prefix, name) = header.split_at_checked(3)?;
    let ours = prefix.eq_ignore_ascii_case("ce-") || prefix.eq_ignore_ascii_case("ce_");
    (ours && !name.is_empty()).then(|| name.to_ascii_lowercase())
}

pub(super) fn read(claim: &Claim, headers: &[(String, String)], payload: &[u8]) -> Result<Content, DecodeError> {
    match claim {
        Claim::Binary => Ok(binary(headers, payload)),
        Claim::Structured(content_type) => match json::parse(payload) {
            Some(Value::Object(members)) => match REQUIRED.iter().find(|name| !is_text(&members, name)) {
                Some(name) => Err(DecodeError::Attribute(name)),
                None => structured(members),
            },
            _ => Err(DecodeError::NotAnObject(content_type.clone())),
        },
        Claim::Nothing => match Data::read(payload, content_type(headers)) {
            Data::Json(Value::Object(members)) if REQUIRED.iter().all(|name| is_text(&members, name)) => {
                structured(members)
            }
            data @ (Data::Json(_) | Data::Text(_) | Data::Bytes(_)) => Ok(Content { data, cloudevent: None }),
        },
    }
}

fn is_text(members: &Map<String, Value>, name: &str) -> bool {
    members.get(name).is_some_and(Value::is_string)
}

fn structured(mut members: Map<String, Value>) -> Result<Content, DecodeError> {
    let base64 = members.shift_remove("data_base64");
    let data = members.shift_remove("data");
    // The form of version 0.3, where `data` itself holds base64 text.
    let encoding = members.shift_remove("datacontentencoding");
    let old = encoding.as_ref().and_then(Value::as_str).is_some_and(|name| name.eq_ignore_ascii_case("base64"));
    let content_type = members.get("datacontenttype").and_then(Value::as_str);
    let data = match (base64, data) {
        (Some(text), _) => decoded("data_base64", &text, content_type)?,
        (None, Some(text)) if old => decoded("data", &text, content_type)?,
        (None, Some(value)) => Data::Json(value),
        (None, None) => Data::Json(Value::Null),
    };
    Ok(Content { data, cloudevent: Some(members) })
}

fn decoded(field: &'static str, text: &Value, content_type: Option<&str>) -> Result<Data, DecodeError> {
    let text = text.as_str().ok_or(DecodeError::Base64Type(field))?;
    let bytes = STANDARD.decode(text).map_err(|source| DecodeError::Base64 { field, source })?;
    Ok(Data::read(&bytes, content_type))
}

fn binary(headers: &[(String, String)], payload: &[u8]) -> Content {
    let mut attributes = Map::new();
    for (header, value) in headers {
        if let Some(name) = attribute(header) {
            attributes.entry(name).or_insert_with(|| Value::String(percent_decoded(value)));
        }
    }
    if let Some(declared) = content_type(headers)
        && !attributes.contains_key("datacontenttype")
    {
        attributes.insert("datacontenttype".to_owned(), Value::String(declared.to_owned()));
    }
    let declared = attributes.get("datacontenttype").and_then(Value::as_str);
    Content { data: Data::read(payload, declared), cloudevent: Some(attributes) }
}

/// Header values are percent-encoded by the binding; one that does not decode to UTF-8 is taken as it is.
fn percent_decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent() {
        for (input, expected) in
            [("a%20b", "a b"), ("100%", "100%"), ("%zz", "%zz"), ("%ff", "%ff"), ("%E2%82%AC", "€"), ("%+1", "%+1")]
        {
            assert_eq!(percent_decoded(input), expected);
        }
    }
}

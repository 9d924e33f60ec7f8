//! What is kept of an object: five fields. Managed fields, labels and the rest are skipped while reading, because a
//! namespace may hold ten thousand objects.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::error::DecodeError;
use crate::message::{CREDIT_ANNOTATION, MESSAGE_ANNOTATION};

/// An object as the ledger and the record see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sight {
    /// Its name.
    pub name: String,
    /// Its uid; empty only where a create was answered 201 with an unreadable body.
    pub uid: String,
    /// Version of this state; of a deleted object, of its deletion. 0 only as with `uid`.
    pub resource_version: u64,
    /// The identity of the message that it is the effect of.
    pub message: Option<String>,
    /// The credit that it was made on.
    pub credit: Option<String>,
}

/// Metadata of an object, or of a list, on the wire.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) name: Option<String>,
    pub(super) uid: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) r#continue: Option<String>,
    annotations: Option<Annotations>,
}

/// Any object, as far as we read it.
#[derive(Debug, Deserialize)]
pub(super) struct WireObject {
    #[serde(default)]
    pub(super) metadata: Metadata,
}

impl Metadata {
    pub(super) fn version(&self) -> Result<u64, DecodeError> {
        let text = self.resource_version.as_deref().ok_or(DecodeError::Missing("metadata.resourceVersion"))?;
        text.parse().map_err(|_| DecodeError::Version(text.to_owned()))
    }

    pub(super) fn sight(self) -> Result<Sight, DecodeError> {
        let resource_version = self.version()?;
        let annotations = self.annotations.unwrap_or_default();
        Ok(Sight {
            name: self.name.filter(|name| !name.is_empty()).ok_or(DecodeError::Missing("metadata.name"))?,
            uid: self.uid.ok_or(DecodeError::Missing("metadata.uid"))?,
            resource_version,
            message: annotations.message,
            credit: annotations.credit,
        })
    }
}

impl Sight {
    /// The object as it was sent, for an answer that says "created" and no more.
    pub(super) fn of_request(object: &serde_json::Value) -> Self {
        let metadata = object.get("metadata");
        let text = |value: Option<&serde_json::Value>| value.and_then(serde_json::Value::as_str).map(str::to_owned);
        let annotation = |key: &str| text(metadata.and_then(|metadata| metadata.get("annotations")?.get(key)));
        Self {
            name: text(metadata.and_then(|metadata| metadata.get("name"))).unwrap_or_default(),
            uid: String::new(),
            resource_version: 0,
            message: annotation(MESSAGE_ANNOTATION),
            credit: annotation(CREDIT_ANNOTATION),
        }
    }
}

#[derive(Debug, Default)]
struct Annotations {
    message: Option<String>,
    credit: Option<String>,
}

enum Key {
    Message,
    Credit,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl Visitor<'_> for Keys {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the key of an annotation")
            }

            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(match key {
                    MESSAGE_ANNOTATION => Key::Message,
                    CREDIT_ANNOTATION => Key::Credit,
                    _ => Key::Other,
                })
            }
        }
        deserializer.deserialize_identifier(Keys)
    }
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ours;
        impl<'de> Visitor<'de> for Ours {
            type Value = Annotations;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
                let mut kept = Annotations::default();
                while let Some(key) = map.next_key::<Key>()? {
                    match key {
                        Key::Message => kept.message = Some(map.next_value()?),
                        Key::Credit => kept.credit = Some(map.next_value()?),
                        Key::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(kept)
            }
        }
        deserializer.deserialize_map(Ours)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sight(object: serde_json::Value) -> Result<Sight, DecodeError> {
        serde_json::from_value::<WireObject>(object).unwrap().metadata.sight()
    }

    #[test]
    fn keeps_two_annotations_and_nothing_else() {
        let seen = sight(json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {
                "name": "order-1", "uid": "u", "resourceVersion": "42", "managedFields": [{"manager": "x"}],
                "annotations": {"other": "no", MESSAGE_ANNOTATION: "m", CREDIT_ANNOTATION: "h/1"},
            }
        }))
        .unwrap();
        let expected = Sight {
            name: "order-1".to_owned(),
            uid: "u".to_owned(),
            resource_version: 42,
            message: Some("m".to_owned()),
            credit: Some("h/1".to_owned()),
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn annotations_may_be_missing_or_null() {
        for annotations in [json!(null), json!({})] {
            let seen = sight(json!({
                "metadata": {"name": "a", "uid": "u", "resourceVersion": "1", "annotations": annotations}
            }))
            .unwrap();
            assert_eq!((seen.message, seen.credit), (None, None));
        }
    }

    #[test]
    fn says_what_is_missing() {
        let error = sight(json!({"metadata": {"name": "a", "uid": "u"}})).unwrap_err();
        assert_eq!(error.to_string(), "metadata.resourceVersion is missing");
        let error = sight(json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "x1"}})).unwrap_err();
        assert_eq!(error.to_string(), "resourceVersion \"x1\" is no number");
        let error = sight(json!({"metadata": {"uid": "u", "resourceVersion": "1"}})).unwrap_err();
        assert_eq!(error.to_string(), "metadata.name is missing");
    }
}

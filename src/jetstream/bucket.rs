//! A key-value bucket, read from the stream's leader and written by compare-and-set.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::{HeaderMap, Subject};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::call::ApiError;
use super::connection::Connection;
use super::publish::{PublishError, send};
use super::stream::{Finding, ManageError, api, check_name, find_or_make};
use super::watch::Watch;

/// How a bucket is opened.
#[derive(Clone, Copy, Debug)]
pub struct BucketOptions {
    /// Whether it may be made.
    pub create: bool,
    /// Its replicas where it is made here.
    pub replicas: usize,
}

/// Why a bucket cannot be read.
pub type BucketError = ManageError;

/// Why a value was not written.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The key has another revision than expected. Nothing was written, unless an earlier try of ours whose answer
    /// was lost.
    #[error("the key {key:?} has another revision than expected")]
    Conflict {
        /// The key.
        key: String,
        /// The server's words.
        source: ApiError,
    },
    /// It is not known whether it was written: read before trying again.
    #[error("the key {key:?} is not known to be written")]
    Unknown {
        /// The key.
        key: String,
        /// Why.
        source: PublishError,
    },
    /// The stream refused it.
    #[error("the key {key:?} cannot be written")]
    Refused {
        /// The key.
        key: String,
        /// Why.
        source: PublishError,
    },
    /// The value that is there could not be read.
    #[error(transparent)]
    Read(BucketError),
    /// The key cannot be one.
    #[error("{key:?} is no key: letters, digits and -/_=. are allowed, no dot at an end")]
    Key {
        /// The key.
        key: String,
    },
}

/// A bucket. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Bucket {
    connection: Connection,
    name: String,
    /// As many servers had it when it was opened.
    replicas: usize,
    warnings: Vec<Finding>,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) value: Option<Bytes>,
    /// 0: never written.
    pub(crate) revision: u64,
}

impl Bucket {
    /// Looks the bucket up, or makes it where that is allowed. One that forgets its values is refused.
    pub async fn open(connection: Connection, name: &str, options: BucketOptions) -> Result<Self, BucketError> {
        check_name("bucket", name)?;
        let config = Config {
            name: format!("KV_{name}"),
            subjects: vec![format!("$KV.{name}.>")],
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            max_messages_per_subject: 1,
            max_messages: -1,
            max_bytes: -1,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            num_replicas: options.replicas.max(1),
            ..Config::default()
        };
        let (info, _) = find_or_make(&connection, config, options.create).await?;
        let mut findings = Vec::new();
        if info.config.storage != StorageType::File {
            let allowed = String::from("must be file: a restart of the server loses what is in memory");
            findings.push(Finding { setting: "storage", value: String::from("memory"), allowed });
        }
        if info.config.max_age > Duration::ZERO {
            let allowed = String::from("must be 0: values would vanish");
            findings.push(Finding { setting: "max_age", value: format!("{:?}", info.config.max_age), allowed });
        }
        if findings.is_empty() {
            let replicas = info.config.num_replicas;
            let mut warnings = Vec::new();
            if replicas < options.replicas {
                let allowed = format!("wanted are {}; raise them with the nats command", options.replicas);
                warnings.push(Finding { setting: "num_replicas", value: replicas.to_string(), allowed });
            }
            return Ok(Self { connection, name: name.to_owned(), replicas, warnings });
        }
        Err(ManageError::Unsuitable { what: format!("the bucket {name:?}"), findings })
    }

    /// What a person should know about its settings.
    #[must_use]
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// Makes the bucket again where somebody deleted it, with no fewer replicas than it had; true where that happened.
    /// Only the server's own word counts: a write to a bucket without a leader is not answered either.
    pub async fn remake_if_deleted(&self, options: BucketOptions) -> bool {
        let what = || format!("look up the bucket {:?}", self.name);
        let subject = format!("$JS.API.STREAM.INFO.{}", self.stream());
        let looked: Result<serde_json::Value, _> = api(&self.connection, what, subject, &json!({})).await;
        let deleted = looked.is_err_and(|error| error.err_code() == Some(ApiError::STREAM_NOT_FOUND));
        let options = BucketOptions { replicas: options.replicas.max(self.replicas), ..options };
        deleted && Self::open(self.connection.clone(), &self.name, options).await.is_ok()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn stream(&self) -> String {
        format!("KV_{}", self.name)
    }

    pub(crate) fn subject(&self, key: &str) -> Subject {
        format!("$KV.{}.{key}", self.name).into()
    }

    /// The value of a key and its revision, from the leader: never older than what was written before.
    pub async fn get(&self, key: &str) -> Result<Option<(Bytes, u64)>, BucketError> {
        let Found { value, revision } = self.find(key).await?;
        Ok(value.map(|value| (value, revision)))
    }

    pub(crate) async fn find(&self, key: &str) -> Result<Found, BucketError> {
        #[derive(Deserialize)]
        struct Answer {
            message: Stored,
        }
        #[derive(Deserialize)]
        struct Stored {
            seq: u64,
            #[serde(default)]
            data: String,
            #[serde(default)]
            hdrs: String,
        }
        if !valid_key(key) {
            return Err(ManageError::Name { what: "key", name: key.to_owned() });
        }
        let what = || format!("read the key {key:?} of bucket {:?}", self.name);
        let subject = format!("$JS.API.STREAM.MSG.GET.{}", self.stream());
        let body = json!({"last_by_subj": self.subject(key).as_str()});
        let answer: Answer = match api(&self.connection, what, subject, &body).await {
            Ok(answer) => answer,
            Err(error) if error.err_code() == Some(ApiError::NO_MESSAGE_FOUND) => {
                return Ok(Found { value: None, revision: 0 });
            }
            Err(error) => return Err(error),
        };
        let decode = |text: &str| {
            STANDARD
                .decode(text)
                .map_err(|error| ManageError::Decode { what: what(), source: serde::de::Error::custom(error) })
        };
        let headers = decode(&answer.message.hdrs)?;
        let value = if removes(&headers) { None } else { Some(Bytes::from(decode(&answer.message.data)?)) };
        Ok(Found { value, revision: answer.message.seq })
    }

    /// Writes a value where the key has the expected revision; with none, where the key does not exist or was
    /// deleted. Returns the new revision.
    pub async fn put(&self, key: &str, value: Bytes, expected_revision: Option<u64>) -> Result<u64, PutError> {
        match expected_revision {
            Some(revision) => self.write(key, value, HeaderMap::new(), Some(revision)).await,
            None => match self.write(key, value.clone(), HeaderMap::new(), Some(0)).await {
                Err(PutError::Conflict { key: name, source }) => {
                    let found = self.find(key).await.map_err(PutError::Read)?;
                    if found.value.is_some() {
                        return Err(PutError::Conflict { key: name, source });
                    }
                    // What was deleted keeps a revision.
                    self.write(key, value, HeaderMap::new(), Some(found.revision)).await
                }
                other => other,
            },
        }
    }

    /// Deletes a key, where it has the expected revision if one is given. Returns the revision of the deletion.
    pub async fn delete(&self, key: &str, expected_revision: Option<u64>) -> Result<u64, PutError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        self.write(key, Bytes::new(), headers, expected_revision).await
    }

    async fn write(
        &self,
        key: &str,
        value: Bytes,
        mut headers: HeaderMap,
        expected: Option<u64>,
    ) -> Result<u64, PutError> {
        if !valid_key(key) {
            return Err(PutError::Key { key: key.to_owned() });
        }
        if let Some(revision) = expected {
            headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string());
        }
        let timeout = self.connection.request_timeout();
        let key = || key.to_owned();
        match send(&self.connection, self.subject(&key()), headers, value, timeout).await {
            Ok(published) => Ok(published.sequence),
            Err(PublishError::Refused(source))
                if matches!(
                    source.err_code,
                    ApiError::WRONG_LAST_SEQUENCE | ApiError::WRONG_LAST_SEQUENCE_CONSTANT
                ) =>
            {
                Err(PutError::Conflict { key: key(), source })
            }
            Err(source @ (PublishError::Call(_) | PublishError::Decode(_))) => {
                Err(PutError::Unknown { key: key(), source })
            }
            Err(source @ (PublishError::Refused(_) | PublishError::Header { .. })) => {
                Err(PutError::Refused { key: key(), source })
            }
        }
    }

    /// Watches a key for ever. Nothing is asked before the first `next`.
    #[must_use]
    pub fn watch(&self, key: &str) -> Watch {
        Watch::new(self.clone(), key.to_owned())
    }
}

pub(crate) fn valid_key(key: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '_' | '=' | '.');
    !key.is_empty() && !key.starts_with('.') && !key.ends_with('.') && !key.contains("..") && key.chars().all(good)
}

/// Whether these raw headers belong to a marker that stands for a removed value.
fn removes(raw: &[u8]) -> bool {
    String::from_utf8_lossy(raw).lines().any(|line| {
        let Some((name, value)) = line.split_once(':') else { return false };
        removal(name.trim(), value.trim())
    })
}

/// Whether a header says that the message stands for a removed value.
pub(crate) fn removal(name: &str, value: &str) -> bool {
    (name == "KV-Operation" && matches!(value, "DEL" | "PURGE")) || name == "Nats-Marker-Reason"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_no_values() {
        assert!(removes(b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n"));
        assert!(removes(b"NATS/1.0\r\nKV-Operation:PURGE\r\n\r\n"));
        assert!(removes(b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n\r\n"));
        assert!(!removes(b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 4\r\n\r\n"));
        assert!(!removes(b""));
    }

    #[test]
    fn keys_are_checked() {
        for key in ["a", "ns.count/pods", "a-b_c=d"] {
            assert!(valid_key(key), "{key}");
        }
        for key in ["", ".a", "a.", "a..b", "a b", "a*", ">"] {
            assert!(!valid_key(key), "{key:?}");
        }
    }
}

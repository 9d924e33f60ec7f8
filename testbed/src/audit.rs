//! The audit log of the API servers: who asked for what, when, and what was answered.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Deserialize;

use crate::control_plane::Resource;
use crate::error::{Error, Result};

/// One answered request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// `create`, `get`, `watch`, ...
    pub verb: String,
    /// Who asked.
    pub user: String,
    /// Namespace, empty for none.
    pub namespace: String,
    /// API group, empty for the core.
    pub group: String,
    /// Plural of the kind.
    pub resource: String,
    /// Subresource, empty for none.
    pub subresource: String,
    /// Name of the object, where it was known.
    pub name: String,
    /// The status code of the answer; 0 where there was none.
    pub code: u16,
    /// The reason of an answer that is no success, such as `AlreadyExists`; else empty.
    pub reason: String,
    /// When the API server had the request.
    pub received: Timestamp,
    /// When the answer was ready (of a watch: when it began).
    pub answered: Timestamp,
    /// Path and query.
    pub uri: String,
    /// The client's name for itself.
    pub user_agent: String,
}

/// All of them, in order of time.
#[derive(Clone, Debug, Default)]
pub struct Audit(Vec<Request>);

impl Audit {
    /// Reads what the logs of one or more API servers tell of a namespace. Of the rest, which is most of a log that many
    /// tests share, nothing is parsed.
    pub fn read(logs: &[PathBuf], namespace: &str) -> Result<Self> {
        let named = format!("\"namespace\":{}", serde_json::Value::from(namespace));
        let mut requests = Vec::new();
        for log in logs {
            let text = match std::fs::read_to_string(log) {
                Ok(text) => text,
                // A server that is still starting.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(Error::doing(format!("read {}", log.display()))(error));
                }
            };
            // A killed server may leave a half line, anywhere, since it goes on in the same file.
            let lines = text.lines().filter(|line| line.contains(&named));
            let told = lines.filter_map(|line| serde_json::from_str::<Line>(line).ok()).map(Request::from);
            requests.extend(told.filter(|request| request.namespace == namespace));
        }
        requests.sort_by_key(|request| request.received);
        Ok(Self(requests))
    }

    /// Every request.
    pub fn requests(&self) -> &[Request] {
        &self.0
    }

    /// The POSTs of one kind in one namespace.
    pub fn posts<'a>(&'a self, resource: &'a Resource, namespace: &'a str) -> impl Iterator<Item = &'a Request> {
        self.0.iter().filter(move |request| {
            request.verb == "create"
                && request.subresource.is_empty()
                && request.namespace == namespace
                && request.group == resource.group
                && request.resource == resource.plural
        })
    }

    /// How many POSTs had which answer.
    pub fn post_codes(&self, resource: &Resource, namespace: &str) -> BTreeMap<u16, usize> {
        let mut codes = BTreeMap::new();
        for post in self.posts(resource, namespace) {
            *codes.entry(post.code).or_default() += 1;
        }
        codes
    }

    /// How often each name was answered with 201.
    pub fn created(&self, resource: &Resource, namespace: &str) -> BTreeMap<String, usize> {
        let mut names = BTreeMap::new();
        for post in self.posts(resource, namespace) {
            if post.code == 201 {
                *names.entry(post.name.clone()).or_default() += 1;
            }
        }
        names
    }

    /// How many POSTs were answered with this code.
    pub fn posts_with(&self, resource: &Resource, namespace: &str, code: u16) -> usize {
        self.posts(resource, namespace).filter(|post| post.code == code).count()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    verb: String,
    #[serde(default)]
    user: User,
    #[serde(default)]
    object_ref: Object,
    #[serde(default)]
    response_status: Answer,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
    #[serde(rename = "requestURI", default)]
    uri: String,
    #[serde(default)]
    user_agent: String,
}

#[derive(Default, Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    namespace: String,
    api_group: String,
    resource: String,
    subresource: String,
    name: String,
}

#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    reason: String,
}

impl From<Line> for Request {
    fn from(line: Line) -> Self {
        Self {
            verb: line.verb,
            user: line.user.username,
            namespace: line.object_ref.namespace,
            group: line.object_ref.api_group,
            resource: line.object_ref.resource,
            subresource: line.object_ref.subresource,
            name: line.object_ref.name,
            code: line.response_status.code,
            reason: line.response_status.reason,
            received: line.request_received_timestamp,
            answered: line.stage_timestamp,
            uri: line.uri,
            user_agent: line.user_agent,
        }
    }
}

//! The triggers: what a message causes.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::api::LogLevel;
use crate::jetstream::Delivery;
use crate::k8s::{CallError, Cluster, Kind, Sight};
use crate::message::{
    Answer, ApiStatus, CREDIT_ANNOTATION, CreateTarget, CreditId, DeadReason, Found, Looked, MESSAGE_ANNOTATION,
    MessageId, classify,
};
use crate::template::{Event, Template};

/// How long a read of the API server may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of a payload the log trigger shows, in bytes.
const LINE: usize = 256;

/// What a message causes.
pub(super) enum Trigger {
    /// An object in the quota's namespace.
    Kubernetes(Box<KubernetesTrigger>),
    /// A line in the log, or nothing at all where it is silent.
    Log {
        /// Says nothing: for benchmarks.
        silent: bool,
        /// The level of the line.
        level: LogLevel,
    },
}

/// Creates objects.
pub(super) struct KubernetesTrigger {
    pub(super) cluster: Cluster,
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) prefix: String,
    pub(super) template: Template,
}

/// What came of a create.
pub(super) enum Created {
    /// The object is stored.
    Stored,
    /// A definite refusal, or one that is as good as no answer: the class says.
    Refused(Answer),
    /// No answer.
    Unanswered,
}

impl KubernetesTrigger {
    /// The message's object, complete with name and annotations.
    pub(super) fn render(
        &self,
        delivery: &Delivery,
        id: &MessageId,
        credit: &CreditId,
    ) -> Result<Value, (DeadReason, String)> {
        let event = decode(delivery)?;
        let mut object = self.template.render(&event).map_err(|error| (DeadReason::Template, chain(&error)))?;
        let invalid = || (DeadReason::Template, "the template gives no object with metadata".to_owned());
        let root = object.as_object_mut().ok_or_else(invalid)?;
        let metadata =
            root.entry("metadata").or_insert_with(|| Value::Object(Map::new())).as_object_mut().ok_or_else(invalid)?;
        metadata.remove("generateName");
        metadata.insert("name".to_owned(), json!(id.object_name(&self.prefix)));
        metadata.insert("namespace".to_owned(), json!(self.namespace));
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        if annotations.is_null() {
            *annotations = Value::Object(Map::new());
        }
        let annotations = annotations
            .as_object_mut()
            .ok_or_else(|| (DeadReason::Template, "metadata.annotations is no map".to_owned()))?;
        annotations.insert(MESSAGE_ANNOTATION.to_owned(), json!(id.annotation()));
        annotations.insert(CREDIT_ANNOTATION.to_owned(), json!(credit.annotation()));
        Ok(object)
    }

    /// POSTs the object, for `limit` at most: what is left of the half of P in which it may be sent. The server has as
    /// long again, so whatever lands, lands within P of the check.
    pub(super) async fn create(&self, object: &Value, limit: Duration) -> Created {
        match self.cluster.create(&self.kind, &self.namespace, object, limit).await {
            Ok(_) => Created::Stored,
            Err(CallError::Refused(status)) => Created::Refused(self.classify(&status)),
            Err(
                CallError::Expired
                | CallError::Timeout(_)
                | CallError::Connection(_)
                | CallError::Decode(_)
                | CallError::Auth(_),
            ) => Created::Unanswered,
        }
    }

    fn classify(&self, status: &ApiStatus) -> Answer {
        let target = CreateTarget {
            group: self.kind.group.clone(),
            plural: self.kind.plural.clone(),
            kind: self.kind.kind.clone(),
        };
        classify(status, &target)
    }

    /// Looks the object up by its name.
    pub(super) async fn look_up(&self, id: &MessageId) -> Looked {
        let name = id.object_name(&self.prefix);
        match self.cluster.find(&self.kind, &self.namespace, &name, READ_TIMEOUT).await {
            Ok(Some(Sight { name: _, uid: _, resource_version: _, message, credit })) => {
                Looked::Found(Found { message, credit })
            }
            Ok(None) => Looked::Absent,
            Err(_) => Looked::Failed,
        }
    }

    /// A resourceVersion that every object made before this call is below.
    pub(super) async fn version(&self) -> Option<u64> {
        self.cluster.version(&self.kind, &self.namespace, READ_TIMEOUT).await.ok()
    }
}

fn decode(delivery: &Delivery) -> Result<Event<'_>, (DeadReason, String)> {
    Event::decode(
        delivery.subject.as_str(),
        &delivery.headers,
        &delivery.payload,
        &delivery.stream,
        delivery.sequence,
        delivery.store_time_ns,
        delivery.delivered,
    )
    .map_err(|error| (DeadReason::Payload, chain(&error)))
}

/// The error with its sources, for a dead letter that a person reads.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The line of the log trigger.
pub(super) fn log_line(delivery: &Delivery, level: LogLevel) {
    let shown = delivery.payload.get(..LINE).unwrap_or(&delivery.payload);
    let payload = String::from_utf8_lossy(shown);
    let (subject, sequence, bytes) = (delivery.subject.as_str(), delivery.sequence, delivery.payload.len());
    let payload = payload.as_ref();
    match level {
        LogLevel::Error => tracing::error!(subject, sequence, bytes, payload, "event"),
        LogLevel::Warn => tracing::warn!(subject, sequence, bytes, payload, "event"),
        LogLevel::Info => tracing::info!(subject, sequence, bytes, payload, "event"),
        LogLevel::Debug => tracing::debug!(subject, sequence, bytes, payload, "event"),
        LogLevel::Trace => tracing::trace!(subject, sequence, bytes, payload, "event"),
    }
}

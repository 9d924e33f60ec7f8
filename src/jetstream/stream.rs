//! Streams: looked up, checked, and made where they are missing and that is allowed.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::call::{ApiError, CallError, ReplyFault, read_reply};
use super::connection::Connection;

/// A setting that does not suit, or that a person should know of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The setting, in the server's words.
    pub setting: &'static str,
    /// Its value.
    pub value: String,
    /// What it must be, and why.
    pub allowed: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}: {}", self.setting, self.value, self.allowed)
    }
}

/// Why a stream, consumer or bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    /// The request has no answer.
    #[error("cannot {what}")]
    Call {
        /// What was tried.
        what: String,
        /// Why not.
        source: CallError,
    },
    /// The server refused.
    #[error("cannot {what}")]
    Refused {
        /// What was tried.
        what: String,
        /// The server's words.
        source: ApiError,
    },
    /// The answer cannot be read.
    #[error("cannot {what}: the answer of NATS cannot be read")]
    Decode {
        /// What was tried.
        what: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// The stream is missing and is not ours to make.
    #[error("the stream {stream:?} does not exist, and jetgate may not make it: create it, or allow it")]
    StreamMissing {
        /// The stream.
        stream: String,
    },
    /// Another stream of this name was made while its consumer was looked for.
    #[error("the stream {stream:?} was made anew just now")]
    StreamChanged {
        /// The stream.
        stream: String,
    },
    /// The consumer is missing and is not ours to make.
    #[error(
        "the consumer {consumer:?} of stream {stream:?} does not exist, and jetgate may not make it: create it, or allow it"
    )]
    ConsumerMissing {
        /// The stream.
        stream: String,
        /// The consumer.
        consumer: String,
    },
    /// It is there, but its settings would break a promise.
    #[error("{what} cannot be used: {}", list(findings))]
    Unsuitable {
        /// What it is.
        what: String,
        /// What is wrong with it.
        findings: Vec<Finding>,
    },
    /// A name that cannot be part of a subject.
    #[error("{name:?} is no name of a {what}: letters, digits, - and _ are allowed")]
    Name {
        /// What it should name.
        what: &'static str,
        /// The name.
        name: String,
    },
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl ManageError {
    /// Whether the permissions of our NATS user forbid it.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Call { source: CallError::Denied { .. }, .. })
    }

    /// Whether it may go away by itself: no answer, no connection, no leader. Anything else needs a person.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Call { source, .. } => match source {
                CallError::Disconnected
                | CallError::TimedOut { .. }
                | CallError::NoResponders { .. }
                | CallError::Failed(_) => true,
                CallError::Denied { .. } | CallError::TooLarge(_) => false,
            },
            // 503: no leader, no resources, shutting down.
            Self::Refused { source, .. } => source.code >= 500,
            Self::StreamChanged { .. } => true,
            Self::Decode { .. }
            | Self::StreamMissing { .. }
            | Self::ConsumerMissing { .. }
            | Self::Unsuitable { .. }
            | Self::Name { .. } => false,
        }
    }

    pub(crate) fn err_code(&self) -> Option<u32> {
        match self {
            Self::Refused { source, .. } => Some(source.err_code),
            Self::Call { .. }
            | Self::Decode { .. }
            | Self::StreamMissing { .. }
            | Self::StreamChanged { .. }
            | Self::ConsumerMissing { .. }
            | Self::Unsuitable { .. }
            | Self::Name { .. } => None,
        }
    }
}

/// How a stream lets go of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// By its limits.
    Limits,
    /// When every consumer has acknowledged.
    Interest,
    /// When one consumer has acknowledged.
    WorkQueue,
}

/// What is known about a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamFacts {
    /// When it was created, in nanoseconds since 1970: another value is another stream of the same name.
    pub created_ns: i64,
    /// The first sequence it still has.
    pub first_sequence: u64,
    /// The last sequence it has given.
    pub last_sequence: u64,
    /// When that was stored, in nanoseconds since 1970; none where the server does not know it.
    pub last_stored_ns: Option<i64>,
    /// How many messages it has.
    pub messages: u64,
    /// How it lets go of them.
    pub retention: Retention,
    /// The subjects it takes.
    pub subjects: Vec<String>,
    /// How many servers have it.
    pub replicas: usize,
    /// Whether this call made it.
    pub made: bool,
    /// What a person should know about its settings.
    pub warnings: Vec<Finding>,
}

/// The stream that a sensor reads.
#[derive(Clone, Debug)]
pub struct StreamSpec {
    /// Its name.
    pub name: String,
    /// The subject to take where it is made here.
    pub subject: String,
    /// Whether it may be made.
    pub create: bool,
    /// Its replicas where it is made here.
    pub replicas: usize,
}

/// The stream of messages that can never succeed.
#[derive(Clone, Debug)]
pub struct DeadLetterSpec {
    /// Its name.
    pub name: String,
    /// The stream whose dead letters it takes.
    pub source: String,
    /// What tells two clusters on one NATS account apart; may be empty.
    pub instance: String,
    /// Whether it may be made.
    pub create: bool,
    /// Its replicas where it is made here.
    pub replicas: usize,
}

/// The subject under which a sensor publishes the dead letters of a stream.
#[must_use]
pub fn dead_letter_subject(instance: &str, source: &str, sensor: &str) -> String {
    let dash = if instance.is_empty() { "" } else { "-" };
    format!("jetgate.dead{dash}{instance}.{source}.{sensor}")
}

/// How long ids of dead letters are remembered: a repeat comes after an ack wait, or a restart.
const DEAD_LETTER_WINDOW: Duration = Duration::from_secs(600);

pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), ManageError> {
    let good = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '.' | '*' | '>' | '/' | '\\');
    if !name.is_empty() && name.chars().all(good) {
        return Ok(());
    }
    Err(ManageError::Name { what, name: name.to_owned() })
}

/// One request to JetStream's API. `what` completes "cannot ...".
pub(crate) async fn api<T: DeserializeOwned>(
    connection: &Connection,
    what: impl Fn() -> String,
    subject: String,
    body: &impl Serialize,
) -> Result<T, ManageError> {
    let body = serde_json::to_vec(body).map_err(|source| ManageError::Decode { what: what(), source })?;
    let answer = connection
        .call(subject.into(), None, Bytes::from(body), connection.request_timeout())
        .await
        .map_err(|source| ManageError::Call { what: what(), source })?;
    read_reply(&answer.payload).map_err(|fault| match fault {
        ReplyFault::Api(source) => ManageError::Refused { what: what(), source },
        ReplyFault::Decode(source) => ManageError::Decode { what: what(), source },
    })
}

/// The stream as it is; none where it does not exist.
pub(crate) async fn stream_info(connection: &Connection, name: &str) -> Result<Option<Info>, ManageError> {
    check_name("stream", name)?;
    let what = || format!("look up the stream {name:?}");
    match api(connection, what, format!("$JS.API.STREAM.INFO.{name}"), &serde_json::json!({})).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.err_code() == Some(ApiError::STREAM_NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Looks a stream up, or makes it. Somebody else may make it at the same moment: then theirs is taken.
pub(crate) async fn find_or_make(
    connection: &Connection,
    config: Config,
    create: bool,
) -> Result<(Info, bool), ManageError> {
    let name = config.name.clone();
    if let Some(info) = stream_info(connection, &name).await? {
        return Ok((info, false));
    }
    if !create {
        return Err(ManageError::StreamMissing { stream: name });
    }
    let what = || format!("make the stream {name:?}, which does not exist");
    match api(connection, what, format!("$JS.API.STREAM.CREATE.{name}"), &config).await {
        Ok(info) => Ok((info, true)),
        Err(error) if error.err_code() == Some(ApiError::STREAM_NAME_IN_USE) => {
            let info = stream_info(connection, &name).await?;
            info.map(|info| (info, false)).ok_or(ManageError::StreamMissing { stream: name })
        }
        Err(error) => Err(error),
    }
}

pub(crate) fn facts(info: &Info, made: bool, warnings: Vec<Finding>) -> StreamFacts {
    StreamFacts {
        created_ns: nanoseconds(info.created),
        first_sequence: info.state.first_sequence,
        last_sequence: info.state.last_sequence,
        // The server's zero time is one of the year 1.
        last_stored_ns: Some(nanoseconds(info.state.last_timestamp)).filter(|stored| *stored > 0),
        messages: info.state.messages,
        retention: match info.config.retention {
            RetentionPolicy::Limits => Retention::Limits,
            RetentionPolicy::Interest => Retention::Interest,
            RetentionPolicy::WorkQueue => Retention::WorkQueue,
        },
        subjects: info.config.subjects.clone(),
        replicas: info.config.num_replicas,
        made,
        warnings,
    }
}

pub(crate) fn nanoseconds(time: async_nats::datetime::DateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// What is known about a stream.
pub async fn stream_facts(connection: &Connection, stream: &str) -> Result<StreamFacts, ManageError> {
    let info = stream_info(connection, stream).await?;
    let info = info.ok_or_else(|| ManageError::StreamMissing { stream: stream.to_owned() })?;
    Ok(facts(&info, false, Vec::new()))
}

/// When the first message from `sequence` on, of these subjects, was stored, in nanoseconds since 1970; none where there
/// is no such message.
pub async fn oldest_pending(
    connection: &Connection,
    stream: &str,
    subject: &str,
    sequence: u64,
) -> Result<Option<i64>, ManageError> {
    #[derive(Deserialize)]
    struct Answer {
        message: Stored,
    }
    #[derive(Deserialize)]
    struct Stored {
        time: String,
    }
    check_name("stream", stream)?;
    let what = || format!("read the oldest message of stream {stream:?}");
    let body = json!({"seq": sequence, "next_by_subj": subject});
    match api::<Answer>(connection, what, format!("$JS.API.STREAM.MSG.GET.{stream}"), &body).await {
        Ok(answer) => {
            let time: jiff::Timestamp = answer
                .message
                .time
                .parse()
                .map_err(|error| ManageError::Decode { what: what(), source: serde::de::Error::custom(error) })?;
            Ok(i64::try_from(time.as_nanosecond()).ok())
        }
        Err(error) if error.err_code() == Some(ApiError::NO_MESSAGE_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Looks up the stream that a sensor reads, or makes it where that is allowed.
pub async fn ensure_stream(connection: &Connection, spec: &StreamSpec) -> Result<StreamFacts, ManageError> {
    let config = Config {
        name: spec.name.clone(),
        subjects: vec![spec.subject.clone()],
        storage: StorageType::File,
        num_replicas: spec.replicas.max(1),
        allow_direct: true,
        ..Config::default()
    };
    let (info, made) = find_or_make(connection, config, spec.create).await?;
    let warnings = volatile(&info.config).into_iter().collect();
    Ok(facts(&info, made, warnings))
}

fn volatile(config: &Config) -> Option<Finding> {
    (config.storage != StorageType::File).then(|| Finding {
        setting: "storage",
        value: String::from("memory"),
        allowed: String::from("a restart of the server loses what is in it, file keeps it"),
    })
}

/// Looks up the stream of dead letters, or makes it where that is allowed. One that would lose them is refused.
pub async fn ensure_dead_letter(connection: &Connection, spec: &DeadLetterSpec) -> Result<StreamFacts, ManageError> {
    check_name("stream", &spec.source)?;
    let subject = dead_letter_subject(&spec.instance, &spec.source, ">");
    let config = Config {
        name: spec.name.clone(),
        subjects: vec![subject.clone()],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        duplicate_window: DEAD_LETTER_WINDOW,
        num_replicas: spec.replicas.max(1),
        allow_direct: true,
        ..Config::default()
    };
    let (info, made) = find_or_make(connection, config, spec.create).await?;
    let (findings, warnings) = check_dead_letter(&info.config, &subject);
    if findings.is_empty() {
        return Ok(facts(&info, made, warnings));
    }
    Err(ManageError::Unsuitable { what: format!("the dead-letter stream {:?}", spec.name), findings })
}

fn check_dead_letter(config: &Config, subject: &str) -> (Vec<Finding>, Vec<Finding>) {
    let finding = |setting, value: String, allowed: &str| Finding { setting, value, allowed: allowed.to_owned() };
    let mut findings: Vec<Finding> = volatile(config).into_iter().collect();
    if !config.subjects.iter().any(|pattern| covers(pattern, subject)) {
        let value = format!("{:?}", config.subjects);
        findings.push(finding("subjects", value, &format!("must take {subject}")));
    }
    if config.no_ack {
        findings.push(finding(
            "no_ack",
            String::from("true"),
            "must be false: a dead letter counts when it is confirmed",
        ));
    }
    if config.sealed {
        findings.push(finding("sealed", String::from("true"), "must be false: it takes nothing more"));
    }
    if config.retention == RetentionPolicy::Interest {
        findings.push(finding("retention", String::from("interest"), "must be limits: it drops what nobody consumes"));
    }
    let mut warnings = Vec::new();
    let limited = config.max_messages > 0 || config.max_bytes > 0 || config.max_messages_per_subject > 0;
    if limited && config.discard == DiscardPolicy::Old {
        warnings.push(finding(
            "discard",
            String::from("old"),
            "at its limit it drops the oldest dead letters, new refuses",
        ));
    }
    if !config.max_age.is_zero() {
        warnings.push(finding("max_age", format!("{:?}", config.max_age), "dead letters older than that are dropped"));
    }
    (findings, warnings)
}

/// Whether every subject that matches `subject` matches `pattern` too.
pub(crate) fn covers(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (None, Some(_)) | (Some(_), None | Some(">")) => return false,
            (Some("*"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            (Some(_), Some(_)) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover() {
        for (pattern, subject, expected) in [
            ("a.>", "a.b", true),
            ("a.>", "a.b.>", true),
            ("a.>", "a", false),
            (">", "a.>", true),
            ("a.*", "a.b", true),
            ("a.*", "a.>", false),
            ("a.b", "a.*", false),
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
        ] {
            assert_eq!(covers(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn names_that_would_change_a_subject_are_refused() {
        for name in ["", "a.b", "a b", "a*", ">", "a\n"] {
            assert!(check_name("stream", name).is_err(), "{name:?}");
        }
        assert!(check_name("stream", "EVENTS-1_x").is_ok());
    }

    #[test]
    fn a_dead_letter_stream_that_loses_is_refused() {
        let good = Config { subjects: vec!["jetgate.dead.>".into()], ..Config::default() };
        let subject = dead_letter_subject("", "EVENTS", ">");
        assert_eq!(check_dead_letter(&good, &subject), (vec![], vec![]));
        let bad = Config {
            subjects: vec!["other".into()],
            no_ack: true,
            sealed: true,
            storage: StorageType::Memory,
            retention: RetentionPolicy::Interest,
            ..Config::default()
        };
        let named: Vec<_> = check_dead_letter(&bad, &subject).0.iter().map(|finding| finding.setting).collect();
        assert_eq!(named, ["storage", "subjects", "no_ack", "sealed", "retention"]);
        let odd = Config { max_messages: 5, max_age: Duration::from_secs(1), ..good };
        let named: Vec<_> = check_dead_letter(&odd, &subject).1.iter().map(|finding| finding.setting).collect();
        assert_eq!(named, ["discard", "max_age"]);
    }
}

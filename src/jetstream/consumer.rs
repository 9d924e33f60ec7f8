//! The durable consumer of a sensor: looked up, checked, and made where it is missing and that is allowed.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info, PriorityPolicy, ReplayPolicy};
use serde_json::json;

use super::call::ApiError;
use super::connection::Connection;
pub use super::stream::Finding;
use super::stream::{ManageError, Retention, api, check_name, facts, nanoseconds, stream_info};

/// Where a consumer that is made here begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the first message the stream has.
    All,
    /// With the next message.
    New,
    /// With this sequence: for one that vanished, what lies above the floor of the record.
    Sequence(u64),
}

/// The consumer a sensor needs.
#[derive(Clone, Debug)]
pub struct ConsumerSpec {
    /// Its stream.
    pub stream: String,
    /// Its durable name.
    pub durable: String,
    /// The subjects it delivers.
    pub filter_subject: String,
    /// Its ack wait where it is made here.
    pub ack_wait: Duration,
    /// The least ack wait that keeps the promises.
    pub ack_wait_min: Duration,
    /// What its pulls ask for at most, in messages and in time: it must allow that. None before any pull.
    pub pulls_min: Option<(u64, Duration)>,
    /// The most messages in hand where it is made here.
    pub max_ack_pending: i64,
    /// Where it begins where it is made here. A work queue allows only `All`, which is used there.
    pub start: Start,
    /// When the stream was created that this start is of, in nanoseconds since 1970; none where it suits any.
    pub start_of_ns: Option<i64>,
    /// Whether it may be made.
    pub create: bool,
}

/// What a consumer says about its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerFacts {
    /// When it was created, in nanoseconds since 1970.
    pub created_ns: i64,
    /// Messages not delivered yet.
    pub num_pending: u64,
    /// Messages delivered and not acknowledged.
    pub num_ack_pending: u64,
    /// Of those, delivered more than once.
    pub num_redelivered: u64,
    /// Pulls that wait.
    pub num_waiting: u64,
    /// Below and at this stream sequence everything is acknowledged.
    pub ack_floor_stream_sequence: u64,
    /// The last stream sequence delivered.
    pub delivered_stream_sequence: u64,
    /// How many deliveries there were, repeated ones too.
    pub delivered_consumer_sequence: u64,
    /// Somebody has paused it.
    pub paused: bool,
    /// Another number where it is another consumer of the same name, or has another leader: either may have forgotten
    /// deliveries and acks.
    pub reign: u64,
}

/// The consumer as it is: what holds for the sensor that uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerTerms {
    /// Its ack wait.
    pub ack_wait: Duration,
    /// The most messages in hand.
    pub max_ack_pending: i64,
    /// The largest batch it allows, if it limits that.
    pub max_batch: Option<u64>,
    /// The longest expiry it allows, if it limits that.
    pub max_expires: Option<Duration>,
    /// How its stream lets go of messages.
    pub retention: Retention,
    /// When its stream was created, in nanoseconds since 1970.
    pub stream_created_ns: i64,
    /// Whether this call made it.
    pub made: bool,
    /// What a person should know about its settings.
    pub warnings: Vec<Finding>,
    /// Its progress.
    pub facts: ConsumerFacts,
}

impl ConsumerTerms {
    /// The most messages that one pull may ask for.
    #[must_use]
    pub fn batch_bound(&self) -> u64 {
        self.max_batch.unwrap_or(u64::MAX)
    }

    /// The longest that one pull may wait.
    #[must_use]
    pub fn expires_bound(&self) -> Duration {
        self.max_expires.unwrap_or(Duration::MAX)
    }
}

fn max_batch(config: &Config) -> Option<u64> {
    u64::try_from(config.max_batch).ok().filter(|max| *max > 0)
}

fn max_expires(config: &Config) -> Option<Duration> {
    Some(config.max_expires).filter(|max| !max.is_zero())
}

fn progress(info: &Info) -> ConsumerFacts {
    let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    ConsumerFacts {
        created_ns: nanoseconds(info.created),
        num_pending: info.num_pending,
        num_ack_pending: wide(info.num_ack_pending),
        num_redelivered: wide(info.num_redelivered),
        num_waiting: wide(info.num_waiting),
        ack_floor_stream_sequence: info.ack_floor.stream_sequence,
        delivered_stream_sequence: info.delivered.stream_sequence,
        delivered_consumer_sequence: info.delivered.consumer_sequence,
        paused: info.paused,
        reign: reign(info),
    }
}

fn reign(info: &Info) -> u64 {
    let mut hasher = DefaultHasher::new();
    nanoseconds(info.created).hash(&mut hasher);
    info.cluster.as_ref().and_then(|cluster| cluster.leader.as_deref()).hash(&mut hasher);
    hasher.finish()
}

async fn consumer_info(connection: &Connection, stream: &str, consumer: &str) -> Result<Option<Info>, ManageError> {
    check_name("stream", stream)?;
    check_name("consumer", consumer)?;
    let what = || format!("look up the consumer {consumer:?} of stream {stream:?}");
    match api(connection, what, format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"), &json!({})).await {
        Ok(info) => Ok(Some(info)),
        Err(error) => match error.err_code() {
            Some(ApiError::CONSUMER_NOT_FOUND) => Ok(None),
            Some(ApiError::STREAM_NOT_FOUND) => Err(ManageError::StreamMissing { stream: stream.to_owned() }),
            _ => Err(error),
        },
    }
}

/// What a consumer says about its progress.
pub async fn consumer_facts(
    connection: &Connection,
    stream: &str,
    consumer: &str,
) -> Result<ConsumerFacts, ManageError> {
    let info = consumer_info(connection, stream, consumer).await?;
    info.as_ref()
        .map(progress)
        .ok_or_else(|| ManageError::ConsumerMissing { stream: stream.to_owned(), consumer: consumer.to_owned() })
}

/// Looks up the consumer and checks that it keeps the promises, or makes it where it is missing and that is allowed.
pub async fn ensure_consumer(connection: &Connection, spec: &ConsumerSpec) -> Result<ConsumerTerms, ManageError> {
    let ConsumerSpec { stream, durable, .. } = spec;
    let missing = || ManageError::StreamMissing { stream: stream.clone() };
    let (info, made) = match consumer_info(connection, stream, durable).await? {
        Some(info) => (info, false),
        None if !spec.create => {
            return Err(ManageError::ConsumerMissing { stream: stream.clone(), consumer: durable.clone() });
        }
        None => {
            let stream_facts = facts(&stream_info(connection, stream).await?.ok_or_else(missing)?, false, Vec::new());
            if spec.start_of_ns.is_some_and(|created_ns| created_ns != stream_facts.created_ns) {
                return Err(ManageError::StreamChanged { stream: stream.clone() });
            }
            make(connection, spec, stream_facts.retention).await?
        }
    };
    // Asked after the consumer: should both be made anew in between, the consumer is the one that is seen to change.
    let stream_facts = facts(&stream_info(connection, stream).await?.ok_or_else(missing)?, false, Vec::new());
    if made && spec.start_of_ns.is_some_and(|created_ns| created_ns != stream_facts.created_ns) {
        // It begins where the stream before was to go on, and would pass over what this one has below that. In a work
        // queue it begins with what there is.
        if stream_facts.retention != Retention::WorkQueue && matches!(spec.start, Start::Sequence(_)) {
            delete(connection, stream, durable, &info).await?;
        }
        return Err(ManageError::StreamChanged { stream: stream.clone() });
    }
    let (findings, warnings) = check(&info.config, spec, &stream_facts.subjects);
    if !findings.is_empty() {
        return Err(ManageError::Unsuitable {
            what: format!("the consumer {durable:?} of stream {stream:?}"),
            findings,
        });
    }
    Ok(ConsumerTerms {
        ack_wait: info.config.ack_wait,
        max_ack_pending: info.config.max_ack_pending,
        max_batch: max_batch(&info.config),
        max_expires: max_expires(&info.config),
        retention: stream_facts.retention,
        stream_created_ns: stream_facts.created_ns,
        made,
        warnings,
        facts: progress(&info),
    })
}

/// Makes the consumer. Somebody else may make it at the same moment: then theirs is taken.
async fn make(connection: &Connection, spec: &ConsumerSpec, retention: Retention) -> Result<(Info, bool), ManageError> {
    let ConsumerSpec { stream, durable, .. } = spec;
    let filter = if spec.filter_subject == ">" { "" } else { spec.filter_subject.as_str() };
    let config = Config {
        durable_name: Some(durable.clone()),
        name: Some(durable.clone()),
        deliver_policy: match (retention, spec.start) {
            (Retention::WorkQueue, _) | (_, Start::All) => DeliverPolicy::All,
            (_, Start::New) => DeliverPolicy::New,
            // Sequences begin with 1.
            (_, Start::Sequence(first)) => DeliverPolicy::ByStartSequence { start_sequence: first.max(1) },
        },
        ack_policy: AckPolicy::Explicit,
        ack_wait: spec.ack_wait,
        max_deliver: -1,
        filter_subject: filter.to_owned(),
        max_ack_pending: spec.max_ack_pending,
        replay_policy: ReplayPolicy::Instant,
        ..Config::default()
    };
    let mut subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}");
    if !filter.is_empty() {
        subject.push('.');
        subject.push_str(filter);
    }
    let what = || format!("make the consumer {durable:?} of stream {stream:?}, which does not exist");
    let body = json!({"stream_name": stream, "config": config, "action": "create"});
    match api(connection, what, subject, &body).await {
        Ok(info) => Ok((info, true)),
        Err(error) if matches!(error.err_code(), Some(ApiError::CONSUMER_NAME_IN_USE | ApiError::CONSUMER_EXISTS)) => {
            match consumer_info(connection, stream, durable).await? {
                Some(info) => Ok((info, false)),
                None => Err(error),
            }
        }
        Err(error) if error.err_code() == Some(ApiError::STREAM_NOT_FOUND) => {
            Err(ManageError::StreamMissing { stream: stream.clone() })
        }
        Err(error) => Err(error),
    }
}

/// Deletes the consumer that this is said of, and no other one of its name.
async fn delete(connection: &Connection, stream: &str, consumer: &str, info: &Info) -> Result<(), ManageError> {
    if consumer_info(connection, stream, consumer).await?.is_none_or(|now| now.created != info.created) {
        return Ok(());
    }
    let what = || format!("delete the consumer {consumer:?}, which was made for the stream {stream:?} before this one");
    let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{consumer}");
    match api::<serde_json::Value>(connection, what, subject, &json!({})).await {
        Ok(_) => Ok(()),
        Err(error) => match error.err_code() {
            Some(ApiError::CONSUMER_NOT_FOUND | ApiError::STREAM_NOT_FOUND) => Ok(()),
            _ => Err(error),
        },
    }
}

/// What would break a promise, and what a person should know.
fn check(config: &Config, spec: &ConsumerSpec, stream_subjects: &[String]) -> (Vec<Finding>, Vec<Finding>) {
    let finding = |setting, value: String, allowed: &str| Finding { setting, value, allowed: allowed.to_owned() };
    let mut findings = Vec::new();
    if let Some(subject) = &config.deliver_subject {
        findings.push(finding(
            "deliver_subject",
            subject.clone(),
            "must not be set: a push consumer prefetches without credits",
        ));
    }
    let ack_policy = match config.ack_policy {
        AckPolicy::Explicit => None,
        AckPolicy::None => Some("none"),
        AckPolicy::All => Some("all"),
        AckPolicy::FlowControl => Some("flow_control"),
    };
    if let Some(policy) = ack_policy {
        findings.push(finding(
            "ack_policy",
            policy.to_owned(),
            "must be explicit: each message is acknowledged by itself",
        ));
    }
    if config.max_deliver > 0 {
        let allowed = "must be -1: a message that is returned while there is no room would be given up";
        findings.push(finding("max_deliver", config.max_deliver.to_string(), allowed));
    }
    if config.ack_wait < spec.ack_wait_min {
        let allowed = format!(
            "must be at least {:?}: a message must not be delivered again while its effect is under way",
            spec.ack_wait_min
        );
        findings.push(finding("ack_wait", format!("{:?}", config.ack_wait), &allowed));
    }
    let (batch, expires) = spec.pulls_min.unwrap_or((0, Duration::ZERO));
    let lowered = "must not be lowered while a sensor pulls: the next start goes by it";
    if let Some(max) = max_batch(config).filter(|max| *max < batch) {
        findings.push(finding("max_batch", max.to_string(), lowered));
    }
    if let Some(max) = max_expires(config).filter(|max| *max < expires) {
        findings.push(finding("max_expires", format!("{max:?}"), lowered));
    }
    if !same_filter(config, &spec.filter_subject, stream_subjects) {
        let value = if config.filter_subjects.is_empty() {
            format!("{:?}", config.filter_subject)
        } else {
            format!("{:?}", config.filter_subjects)
        };
        let allowed = format!("must be the sensor's subject {:?}", spec.filter_subject);
        findings.push(finding("filter_subject", value, &allowed));
    }
    if config.max_ack_pending < 1 {
        let allowed = "must be at least 1: it is the second bound on messages in hand";
        findings.push(finding("max_ack_pending", config.max_ack_pending.to_string(), allowed));
    }
    if config.headers_only {
        findings.push(finding("headers_only", String::from("true"), "must be false: the payload is needed"));
    }
    if !config.backoff.is_empty() {
        let allowed = "must be empty: it replaces ack_wait by its own times";
        findings.push(finding("backoff", format!("{:?}", config.backoff), allowed));
    }
    if config.priority_policy != PriorityPolicy::None {
        let allowed = "must be none: pulls without a group are refused";
        findings.push(finding("priority_policy", format!("{:?}", config.priority_policy).to_lowercase(), allowed));
    }
    if config.memory_storage {
        let allowed = "must be false: a restart of the server would forget what was delivered";
        findings.push(finding("mem_storage", String::from("true"), allowed));
    }
    let mut warnings = Vec::new();
    if config.replay_policy == ReplayPolicy::Original {
        let allowed = "the server delivers with the pauses of the publisher, instant is faster";
        warnings.push(finding("replay_policy", String::from("original"), allowed));
    }
    if !config.inactive_threshold.is_zero() {
        let allowed = "the server deletes the consumer when nobody pulls for that long; jetgate makes it again at the record's floor";
        warnings.push(finding("inactive_threshold", format!("{:?}", config.inactive_threshold), allowed));
    }
    (findings, warnings)
}

fn same_filter(config: &Config, wanted: &str, stream_subjects: &[String]) -> bool {
    let everything =
        |subject: &str| subject.is_empty() || subject == ">" || matches!(stream_subjects, [only] if only == subject);
    match config.filter_subjects.as_slice() {
        [] => {
            let has = config.filter_subject.as_str();
            has == wanted || (everything(has) && everything(wanted))
        }
        [only] => only == wanted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ConsumerSpec {
        ConsumerSpec {
            stream: "EVENTS".into(),
            durable: "orders".into(),
            filter_subject: "orders.>".into(),
            ack_wait: Duration::from_secs(30),
            ack_wait_min: Duration::from_secs(20),
            pulls_min: None,
            max_ack_pending: 1024,
            start: Start::New,
            start_of_ns: None,
            create: true,
        }
    }

    fn good() -> Config {
        Config {
            ack_wait: Duration::from_secs(20),
            max_deliver: -1,
            filter_subject: "orders.>".into(),
            max_ack_pending: 1,
            ..Config::default()
        }
    }

    #[test]
    fn each_bad_setting_is_named_with_its_value() {
        let streams = ["orders.>".to_owned(), "other".to_owned()];
        assert_eq!(check(&good(), &spec(), &streams), (vec![], vec![]));
        let bad: [(Config, &str); 13] = [
            (Config { ack_policy: AckPolicy::None, ..good() }, "ack_policy is none: must be explicit"),
            (Config { ack_policy: AckPolicy::All, ..good() }, "ack_policy is all: must be explicit"),
            (Config { max_deliver: 5, ..good() }, "max_deliver is 5: must be -1"),
            (Config { ack_wait: Duration::from_secs(19), ..good() }, "ack_wait is 19s: must be at least 20s"),
            (Config { filter_subject: "x".into(), ..good() }, "filter_subject is \"x\": must be the sensor's subject"),
            (
                Config { filter_subject: String::new(), ..good() },
                "filter_subject is \"\": must be the sensor's subject",
            ),
            (
                Config {
                    filter_subject: String::new(),
                    filter_subjects: vec!["orders.>".into(), "b".into()],
                    ..good()
                },
                "filter_subject is [\"orders.>\", \"b\"]",
            ),
            (Config { deliver_subject: Some("d".into()), ..good() }, "deliver_subject is d: must not be set"),
            (Config { max_ack_pending: 0, ..good() }, "max_ack_pending is 0: must be at least 1"),
            (Config { headers_only: true, ..good() }, "headers_only is true: must be false"),
            (Config { backoff: vec![Duration::from_secs(1)], ..good() }, "backoff is [1s]: must be empty"),
            (
                Config { priority_policy: PriorityPolicy::Overflow, ..good() },
                "priority_policy is overflow: must be none",
            ),
            (Config { memory_storage: true, ..good() }, "mem_storage is true: must be false"),
        ];
        for (config, begin) in bad {
            let (findings, _) = check(&config, &spec(), &streams);
            assert_eq!(findings.len(), 1, "{begin}: {findings:?}");
            assert!(findings[0].to_string().starts_with(begin), "{} / {begin}", findings[0]);
        }
    }

    #[test]
    fn pulls_are_no_longer_refused_than_until_the_next_start() {
        let lowered = Config { max_batch: 7, max_expires: Duration::from_secs(1), ..good() };
        assert_eq!(check(&lowered, &spec(), &[]).0, []);
        let pulls = ConsumerSpec { pulls_min: Some((7, Duration::from_secs(1))), ..spec() };
        assert_eq!(check(&lowered, &pulls, &[]).0, []);
        assert_eq!(check(&good(), &pulls, &[]).0, []);
        let pulls = ConsumerSpec { pulls_min: Some((u64::MAX, Duration::MAX)), ..spec() };
        let named: Vec<_> = check(&lowered, &pulls, &[]).0.iter().map(|finding| finding.setting).collect();
        assert_eq!(named, ["max_batch", "max_expires"]);
    }

    #[test]
    fn odd_settings_are_said_and_taken() {
        let odd =
            Config { replay_policy: ReplayPolicy::Original, inactive_threshold: Duration::from_secs(60), ..good() };
        let (findings, warnings) = check(&odd, &spec(), &[]);
        assert_eq!(findings, []);
        let named: Vec<_> = warnings.iter().map(|finding| finding.setting).collect();
        assert_eq!(named, ["replay_policy", "inactive_threshold"]);
    }

    #[test]
    fn no_filter_is_the_filter_for_everything() {
        let none = Config { filter_subject: String::new(), ..good() };
        assert!(same_filter(&none, "orders.>", &["orders.>".to_owned()]));
        assert!(same_filter(&none, ">", &["a".to_owned(), "b".to_owned()]));
        assert!(!same_filter(&none, "a", &["a".to_owned(), "b".to_owned()]));
        let listed = Config { filter_subject: String::new(), filter_subjects: vec!["a".into()], ..good() };
        assert!(same_filter(&listed, "a", &[]));
    }
}

//! Every answer of the API server to a create, on the real parts: what becomes of the message, of the gate, and of the
//! counters. Where the API server can be brought to give the answer it gives it; else a proxy does.

mod blocking;
mod doubtful;
mod own_fault;
mod policies;
mod returned;
mod taken;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use http::StatusCode;
use jetgate::message::MessageId;
use serde_json::Value;
use testbed::http_proxy::{Action, Kept, Matching, Reply, Rule};
use testbed::referee::stream_messages;
use testbed::{HttpFaultProxy, Resource, wait};

use crate::support::{LONG, Sensor, Stage};

/// P of a [`Stage`].
const P: Duration = Duration::from_secs(2);

/// POSTs of workflows of this stage.
fn posts(stage: &Stage<'_>) -> Matching {
    Matching::post(&format!("/namespaces/{}/workflows", stage.namespace))
}

/// The POST of the object for the message with this id.
fn post_of(stage: &Stage<'_>, id: usize) -> Matching {
    posts(stage).body(&format!("\"value\":\"{id}\""))
}

/// A refusal that concerns a workflow, as the API server words it.
fn about_a_workflow(status: StatusCode, reason: &str, words: &str) -> Reply {
    let text = format!("workflows.argoproj.io \"order-x\" is forbidden: {words}");
    Reply::status(status, reason, &text).details("argoproj.io", "workflows", "order-x")
}

/// A call for the object of one message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Call {
    Post(Instant),
    Get(Instant),
}

/// What the sensor asks for, as it comes to the proxy.
struct Book(Rule);

impl Book {
    fn open(proxy: &HttpFaultProxy, stage: &Stage<'_>) -> Self {
        Self(proxy.rule(Matching::any().target(&format!("/namespaces/{}/", stage.namespace)), Action::Keep))
    }

    /// The POSTs, in order, with their objects.
    fn posts(&self) -> Vec<(Instant, Value)> {
        let posts = self.0.kept().into_iter().filter(|kept| kept.method == http::Method::POST);
        posts.filter_map(|kept| Some((kept.at, object(&kept)?))).collect()
    }

    /// The calls for the object of each message, by its id, in order.
    fn calls(&self) -> BTreeMap<usize, Vec<Call>> {
        let kept = self.0.kept();
        let ids: BTreeMap<String, usize> =
            kept.iter().filter_map(object).filter_map(|object| Some((name(&object)?, id(&object)?))).collect();
        let mut calls: BTreeMap<usize, Vec<Call>> = BTreeMap::new();
        for kept in &kept {
            let (name, call) = match object(kept) {
                Some(object) => (name(&object).unwrap(), Call::Post(kept.at)),
                None => {
                    let path = kept.target.split('?').next().unwrap();
                    (path.rsplit('/').next().unwrap().to_owned(), Call::Get(kept.at))
                }
            };
            // Leases, lists and watches are no message's.
            if let Some(id) = ids.get(&name) {
                calls.entry(*id).or_default().push(call);
            }
        }
        calls
    }
}

/// The workflow that a POST carries.
fn object(kept: &Kept) -> Option<Value> {
    let posted = kept.method == http::Method::POST && kept.target.contains("/workflows");
    posted.then(|| serde_json::from_slice(&kept.body).unwrap())
}

fn name(object: &Value) -> Option<String> {
    object["metadata"]["name"].as_str().map(str::to_owned)
}

fn id(object: &Value) -> Option<usize> {
    object["spec"]["arguments"]["parameters"][0]["value"].as_str()?.parse().ok()
}

fn post_times(calls: &[Call]) -> Vec<Instant> {
    let post = |call: &Call| match call {
        Call::Post(at) => Some(*at),
        Call::Get(_) => None,
    };
    calls.iter().filter_map(post).collect()
}

/// Before each further POST the object was looked up, no sooner than `least` after the POST before.
fn looked_up_before_each_further_create(calls: &[Call], least: Duration) {
    let mut posted: Option<Instant> = None;
    let mut looked_up = false;
    for call in calls {
        match call {
            Call::Post(at) => {
                assert!(posted.is_none() || looked_up, "a second POST without a lookup: {calls:?}");
                (posted, looked_up) = (Some(*at), false);
            }
            Call::Get(at) => looked_up |= posted.is_some_and(|posted| *at >= posted + least),
        }
    }
}

/// Each POST came no sooner after the one before it than the rule of `delay` says for this very message.
fn came_back_later_and_later(calls: &[Call], id: &MessageId, delay: fn(u64, u64) -> Duration) {
    for (before, pair) in post_times(calls).windows(2).enumerate() {
        let (gap, least) = (pair[1] - pair[0], delay(before as u64 + 1, id.seed()));
        assert!(gap >= least, "POST {} came after {gap:?} and not after {least:?}: {calls:?}", before + 2);
    }
}

/// Messages that failed together are not tried again together: the rule gives each a delay of its own.
fn delays_differ(ids: &BTreeMap<usize, MessageId>, of: impl IntoIterator<Item = usize>) {
    let of: Vec<usize> = of.into_iter().collect();
    let delays: BTreeSet<Duration> =
        of.iter().map(|message| jetgate::message::retry::delay(1, ids[message].seed())).collect();
    assert_eq!(delays.len(), of.len());
}

impl Stage<'_> {
    /// The identities of the messages in the stream, by the id in their payload.
    async fn message_ids(&self) -> BTreeMap<usize, MessageId> {
        let messages = stream_messages(&self.jetstream(), &self.stream).await.unwrap();
        let of = |message: &testbed::referee::StreamMessage| {
            let payload: Value = serde_json::from_slice(&message.payload).unwrap();
            let identity = MessageId {
                namespace: self.namespace.as_str().into(),
                sensor: self.sensor.as_str().into(),
                trigger: "create-workflow".into(),
                stream: self.stream.as_str().into(),
                sequence: message.sequence,
                store_time_ns: i64::try_from(message.time_ns).unwrap(),
            };
            (payload["id"].as_str().unwrap().parse().unwrap(), identity)
        };
        messages.iter().map(of).collect()
    }

    /// Reason and detail of the dead letters, by the id in their payload.
    async fn letters(&self) -> BTreeMap<usize, (String, String)> {
        if self.dead_letters().await == 0 {
            return BTreeMap::new();
        }
        let letters = stream_messages(&self.jetstream(), &format!("{}-dead", self.stream)).await.unwrap();
        let mut found = BTreeMap::new();
        for letter in letters {
            let payload: Value = serde_json::from_slice(&letter.payload).unwrap();
            let header = |wanted: &str| letter.headers.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
            let id = payload["id"].as_str().unwrap().parse().unwrap();
            assert!(found.insert(id, (header("Jetgate-Reason"), header("Jetgate-Detail"))).is_none(), "two letters");
        }
        found
    }

    /// Every message is still in the stream's care, and none is dead.
    async fn keeps(&self, messages: u64) {
        let (pending, unacknowledged) = self.waiting().await;
        assert_eq!(pending + unacknowledged, messages, "the stream is not emptied");
        assert_eq!(self.dead_letters().await, 0);
    }
}

impl Sensor {
    /// How many refusals of this class were counted.
    async fn refusals(&self, class: &str) -> usize {
        self.counted("sensor_refusals_total", &format!("class=\"{class}\"")).await
    }

    /// How many effects had this outcome.
    async fn effects(&self, outcome: &str) -> usize {
        self.counted("sensor_trigger_total", &format!("outcome=\"{outcome}\"")).await
    }

    /// How many messages had this outcome.
    async fn messages(&self, outcome: &str) -> usize {
        self.counted("sensor_messages_total", &format!("outcome=\"{outcome}\"")).await
    }

    async fn counted(&self, metric: &str, label: &str) -> usize {
        self.metric(metric, &[label]).await.unwrap_or_default() as usize
    }

    /// All refusals are of these classes, and so many.
    async fn only_refusals(&self, classes: &[(&str, usize)]) {
        for (class, count) in classes {
            assert_eq!(self.refusals(class).await, *count, "{class}");
        }
        let all = self.metric("sensor_refusals_total", &[]).await.unwrap_or_default() as usize;
        assert_eq!(all, classes.iter().map(|(_, count)| count).sum::<usize>(), "and no other class");
    }

    /// Waits until a condition holds; else shows the end of the log.
    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let held = wait::until_true(what, LONG, || async { holds().await }).await;
        held.unwrap_or_else(|error| panic!("{error}\n{}", self.process.last_log_lines(30)));
    }
}

/// How many objects there are.
async fn alive(stage: &Stage<'_>, resource: &Resource) -> usize {
    stage.plane.names(resource, &stage.namespace).await.unwrap().len()
}

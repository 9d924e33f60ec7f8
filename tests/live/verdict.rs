//! What must have become of the messages of a stage's stream: one object each, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use testbed::referee::{StreamMessage, stream_messages};
use testbed::{Referee, Resource, Verdict, wait};

use crate::support::{LONG, Sensor, Stage};

/// The name of the trigger in the sensor file of most tests.
const TRIGGER: &str = "create-workflow";

/// What the API server's quota did to POSTs of messages that all have their object in the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TriedAgain {
    /// Answered with 403.
    pub(crate) refused: usize,
    /// Lost the race for the quota's status: 409, `Conflict`.
    pub(crate) conflicts: usize,
}

impl Stage<'_> {
    /// The identity that the object of a message must bear, as the protocol writes it.
    fn identity(&self, message: &StreamMessage) -> String {
        let Self { namespace, sensor, stream, .. } = self;
        format!("{namespace}/{sensor}/{TRIGGER}/{stream}/{}/{}", message.sequence, message.time_ns)
    }

    /// The identities of the messages that are in the stream now, in order.
    async fn identities(&self) -> Vec<String> {
        // A server that starts, or chooses a leader, answers for a moment that it is not available.
        let messages = wait::until("the stream is read", LONG, || async {
            stream_messages(&self.jetstream(), &self.stream).await.ok()
        });
        messages.await.unwrap().iter().map(|message| self.identity(message)).collect()
    }

    /// Before the stream is emptied: its first messages have had, or will have, their objects.
    pub(crate) async fn remember(&mut self, first: usize) {
        let known = self.identities().await;
        self.gone.extend(known.into_iter().take(first));
    }

    /// The referee's judgement by the stream: each of its `messages` has exactly one object, and there is no other.
    pub(crate) async fn verdict(&self, referee: &Referee, messages: usize) -> Verdict {
        let mut expected: BTreeSet<String> = self.identities().await.into_iter().collect();
        expected.extend(self.gone.iter().cloned());
        assert_eq!(expected.len(), messages, "what the stream holds, and what was published");
        referee.verdict(&self.plane.audit(&self.namespace).unwrap(), "jetgate.dev/message", expected)
    }

    /// The POSTs of this many messages, by the audit log: one for each that ended in 201, after those that the quota
    /// refused or that raced for it, and no other. None ended in `AlreadyExists`, which costs the quota a slot.
    pub(crate) fn posts(&self, verdict: &Verdict, messages: usize) -> TriedAgain {
        let audit = self.plane.audit(&self.namespace).unwrap();
        let mut by_name: BTreeMap<&str, Vec<(u16, &str)>> = BTreeMap::new();
        let resource = Resource::workflows();
        for post in audit.posts(&resource, &self.namespace).filter(|post| post.name.starts_with("order-")) {
            by_name.entry(&post.name).or_default().push((post.code, &post.reason));
        }
        assert_eq!(by_name.len(), messages, "names that were tried");
        let mut again = TriedAgain { refused: 0, conflicts: 0 };
        for (name, answers) in &by_name {
            let (last, before) = answers.split_last().unwrap();
            assert_eq!(last.0, 201, "the last of {answers:?} for {name}");
            for answer in before {
                match answer {
                    (403, "Forbidden") => again.refused += 1,
                    (409, "Conflict") => again.conflicts += 1,
                    _ => panic!("{answers:?} for {name}"),
                }
            }
        }
        println!("{again:?}");
        let TriedAgain { refused, conflicts } = again;
        assert_eq!(verdict.posts, messages + refused + conflicts + verdict.foreign, "{again:?}, {verdict}");
        again
    }

    /// Created in the end and acknowledged, each once, nothing dead.
    pub(crate) async fn until_exact(&self, referee: &Referee, sensor: &Sensor, messages: usize) -> Verdict {
        referee
            .until_created(messages, LONG)
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", sensor.process.last_log_lines(30)));
        self.until_drained().await;
        let verdict = self.verdict(referee, messages).await;
        assert!(verdict.is_clean(), "{verdict}\n{}", sensor.process.last_log_lines(30));
        assert_eq!(self.dead_letters().await, 0);
        verdict
    }

    /// The same, with never more alive than the limit.
    pub(crate) async fn until_exact_under(&self, limit: usize, referee: &Referee, sensor: &Sensor, messages: usize) {
        let verdict = self.until_exact(referee, sensor, messages).await;
        println!("{verdict}");
        assert!(verdict.most_alive <= limit, "{verdict}");
    }
}

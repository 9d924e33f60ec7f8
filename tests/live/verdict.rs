//! What must have become of the messages of a stage's stream: one object each, and nothing else.

use std::collections::BTreeSet;

use testbed::referee::{StreamMessage, stream_messages};
use testbed::{Referee, Verdict, wait};

use crate::support::{LONG, Sensor, Stage};

/// The name of the trigger in the sensor file of most tests.
const TRIGGER: &str = "create-workflow";

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
        referee.verdict(&self.plane.audit().unwrap(), "jetgate.dev/message", expected)
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

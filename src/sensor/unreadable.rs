//! Messages that the client cannot read. Each would cut the connection that brings it, for ever: after a cut they are
//! looked for among what was handed out and not acknowledged, and become dead letters.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::dead_letter;
use super::shared::Shared;
use crate::clock;
use crate::jetstream::{Ack, ConsumerFacts, Stored, Unreadable, stored_from, stored_reply};
use crate::message::{Confirmed, DeadLetter, DeadReason};
use crate::telemetry::Outcome;

/// How long one look may take; the next one goes on where it stopped.
const BUDGET: Duration = Duration::from_millis(250);

/// The search for them.
pub(super) struct Search {
    shared: Arc<Shared>,
    consumer: String,
    subject: String,
    /// Connections after the first, when the search last began; none before the first look, because what cut them may
    /// have ended the process before this one.
    reconnects: Option<u64>,
    denied_said: bool,
    /// What is still to be looked at, both ends included; none where a search is ended.
    rest: Option<(u64, u64)>,
    /// What has its dead letter and is above the ack floor.
    buried: BTreeSet<u64>,
    /// When the consumer was created whose sequences these are.
    created_ns: Option<i64>,
}

impl Search {
    pub(super) fn new(shared: Arc<Shared>, consumer: &str, subject: &str) -> Self {
        let (consumer, subject) = (consumer.to_owned(), subject.to_owned());
        let buried = BTreeSet::new();
        Self { shared, consumer, subject, reconnects: None, denied_said: false, rest: None, buried, created_ns: None }
    }

    /// Looks on. Whatever cut a connection was handed out before, and is above the floor until it is acknowledged.
    pub(super) async fn look(&mut self, facts: &ConsumerFacts) {
        let floor = facts.ack_floor_stream_sequence.saturating_add(1);
        if self.created_ns.replace(facts.created_ns) != Some(facts.created_ns) {
            // Its stream may be another one, too, with other messages of these sequences.
            self.buried.clear();
            self.rest = None;
            self.reconnects = None;
        }
        self.buried = self.buried.split_off(&floor);
        let reconnects = Some(self.shared.connection_state.borrow().reconnects);
        // One search is ended before the next begins: cuts come faster than a long one goes.
        if self.reconnects != reconnects && self.rest.is_none() {
            self.reconnects = reconnects;
            self.rest = span(floor, facts.delivered_stream_sequence);
        }
        let until = clock::now() + BUDGET;
        while let Some((next, last)) = self.rest
            && clock::now() < until
        {
            let (connection, stream) = (&self.shared.connection, &self.shared.identity.stream);
            match stored_from(connection, stream, &self.subject, next).await {
                Ok(Some(stored)) if stored.sequence <= last => {
                    if let Some(why) = stored.unreadable
                        && !self.buried.contains(&stored.sequence)
                        && !self.bury(&stored, why).await
                    {
                        return;
                    }
                    self.rest = span(stored.sequence.saturating_add(1), last);
                }
                Ok(Some(_) | None) => self.rest = None,
                Err(error) if error.is_denied() && !self.denied_said => {
                    self.denied_said = true;
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "messages that no client can read would not be found: give the right to read stored messages"
                    );
                    return;
                }
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a stored message cannot be read now");
                    return;
                }
            }
        }
    }

    /// Says whether its dead letter is stored and the consumer has let go of it.
    async fn bury(&mut self, stored: &Stored, why: Unreadable) -> bool {
        let shared = &self.shared;
        let (reason, detail) = (DeadReason::Unreadable, why.to_string());
        tracing::warn!(
            stream = &*shared.identity.stream,
            sequence = stored.sequence,
            subject = stored.subject,
            reason = reason.as_str(),
            detail,
            "dead letter: no client can read this message, and it cuts the connection that brings it"
        );
        let id = shared.message_id(stored.sequence, stored.store_time_ns);
        let letter = DeadLetter { id: &id, subject: &stored.subject, deliveries: None, reason, detail: &detail };
        let headers = ("Jetgate-Headers-Base64".to_owned(), STANDARD.encode(&stored.headers));
        let letter = letter.pack(vec![headers], stored.payload.len());
        match dead_letter::store(shared, &letter, &stored.payload).await {
            Confirmed::Yes => {}
            Confirmed::No => return false,
        }
        let reply = stored_reply(&shared.identity.stream, &self.consumer, stored);
        if let Err(error) = shared.acker.ack(&reply, Ack::Term(reason.as_str())).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "an unreadable message is not let go of yet");
            return false;
        }
        shared.metrics.dead_letters.inc(reason);
        shared.metrics.messages.inc(Outcome::Dead);
        self.buried.insert(stored.sequence);
        true
    }
}

/// Both ends, where there is something between them.
fn span(first: u64, last: u64) -> Option<(u64, u64)> {
    (first <= last).then_some((first, last))
}

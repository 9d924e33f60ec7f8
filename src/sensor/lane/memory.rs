//! What the lane makes of news that are bad for all messages: refusals of the target, and servers that forget.

use std::time::{Duration, Instant};

use super::{Lane, Reign};
use crate::clock;
use crate::jetstream::{ConnectionState, Delivery, ManageError, PullEnd, PullEvent, StreamFacts, with_sources};
use crate::message::{Arrival, Block, CreditId};
use crate::sensor::block::LocalBlock;

/// The pause after the stream's end could not be read: it may be gone for long.
const STREAM_PAUSE: Duration = Duration::from_millis(500);

/// What was known of NATS when the consumer was found or made. What changed since then may have been forgotten.
#[derive(Debug, Clone)]
pub(in crate::sensor) struct Baseline {
    pub(in crate::sensor) connection: ConnectionState,
    pub(in crate::sensor) reign: Reign,
}

/// The stream's end could not be read.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) why: String,
    pub(super) again_at: Instant,
}

impl Lane {
    pub(super) fn blocked(&mut self, credit: &CreditId, block: Block, now: Instant) {
        let reason = block.reason();
        let (detail, after) = match block {
            // The leader judges these: it re-reads the quota, and no other credit is spent until then.
            Block::QuotaRefused(refusal) | Block::NeverFits(refusal) => {
                self.credits.refused(&refusal.quota);
                if self.is_judged_by_leader(&refusal.quota) {
                    return;
                }
                let wanted: Vec<String> =
                    refusal.requested.iter().map(|(resource, amount)| format!("{resource}={amount}")).collect();
                (format!("quota {} has no room for {}", refusal.quota, wanted.join(",")), None)
            }
            Block::StatusUnknown { quota, resources: _ } => {
                self.credits.refused(&quota);
                return;
            }
            Block::TargetRefused { what, text } => (format!("{}: {text}", what.as_str()), None),
            Block::Throttled { after } => ("the API server wants fewer requests".to_owned(), after),
            Block::Unauthorized => ("the API server does not know who asks (401)".to_owned(), None),
        };
        match &mut self.block {
            Some(known) => known.refused(reason, detail, after, credit.number, now),
            None => self.block = Some(LocalBlock::new(reason, detail, after, now)),
        }
        // One is kept to try with.
        self.credits.give_back(1);
    }

    /// Whether the leader counts a quota, so that it judges its refusals. One that it does not count, because it has
    /// scopes or bounds something that the costs do not name, would be refused again by every further message.
    fn is_judged_by_leader(&self, quota: &str) -> bool {
        let readings = self.credits.last_grant().map(|grant| grant.readings.as_slice()).unwrap_or_default();
        readings.is_empty() || readings.iter().any(|reading| reading.quota == quota)
    }

    pub(super) fn connection_changed(&mut self) {
        let state = self.connection.borrow_and_update().clone();
        let (was, forgetful) = (self.known_connection.up, self.known_connection.forgetful_epoch);
        if state.up && !was {
            tracing::info!(epoch = state.epoch, reconnects = state.reconnects, "connected to NATS");
        } else if !state.up && was {
            tracing::warn!(error = state.last_error.as_deref(), "the connection to NATS is lost");
        }
        if state.forgetful_epoch > forgetful {
            let from = state.connected_at.unwrap_or_else(clock::now);
            self.doubts(from);
        }
        let reconnects = state.reconnects.saturating_sub(self.known_connection.reconnects);
        self.shared.metrics.nats_reconnects.inc_by(reconnects);
        self.shared.metrics.nats_connected.set(f64::from(u8::from(state.up)));
        let connection = (state.epoch, state.up);
        self.known_connection = state;
        self.alert(|alert| alert.connection = connection);
    }

    /// Whether a message came by the connection whose memory was judged. Its state may be told later than its messages.
    pub(super) fn knows_connection(&mut self, epoch: u64) -> bool {
        if epoch != self.known_connection.epoch {
            self.connection_changed();
        }
        epoch == self.known_connection.epoch
    }

    /// Who the consumer is and who leads it, read once a second: a change may have had no pull of ours to end.
    pub(super) fn reigned_by(&mut self, reign: Option<Reign>) {
        let Some(reign) = reign else { return };
        if std::mem::replace(&mut self.known_reign, reign) != reign {
            tracing::info!(
                consumer = self.settings.consumer,
                "the consumer is another one, has another leader, or is gone"
            );
            self.forgotten(clock::now());
        }
    }

    /// The consumer may not know any more what it handed out and what was acknowledged.
    pub(super) fn forgotten(&mut self, now: Instant) {
        self.forgotten_at = Some(now);
        self.doubts(now);
        self.alert(|alert| alert.forgotten += 1);
    }

    /// Neither what was handed out is known, nor whether the record is one of this stream.
    fn doubts(&mut self, from: Instant) {
        self.freshness.forgotten(self.pause_from(from));
        self.shared.publish_stream(None);
    }

    /// Whether the consumer may have forgotten this delivery since its pull was sent.
    pub(super) fn has_forgotten(&self, delivery: &Delivery) -> bool {
        delivery.epoch < self.known_connection.forgetful_epoch
            || self.forgotten_at.is_some_and(|at| delivery.pull_sent <= at)
    }

    /// What a delivery is to the messages in hand, and what it shows of the consumer's memory.
    pub(super) fn arrives(&mut self, delivery: &Delivery, now: Instant) -> Arrival {
        // What comes by a pull that is over or by an older connection comes late.
        let late = delivery.above_credit || delivery.epoch < self.known_connection.epoch;
        let arrival = self.in_hand.arrives(delivery.sequence, delivery.store_time_ns, late);
        let fell = !delivery.above_credit && self.freshness.count_fell(delivery.consumer_sequence);
        let anew = match arrival {
            Arrival::New | Arrival::Copy | Arrival::Known => false,
            Arrival::Displaced | Arrival::Displacing => {
                let displaced = self.in_hand.displaced().clone();
                self.alert(|alert| alert.displaced = displaced);
                true
            }
        };
        if fell || anew {
            tracing::info!(
                sequence = delivery.sequence,
                delivery = delivery.consumer_sequence,
                "the consumer counts anew, or the stream gives a sequence again"
            );
            // What else comes by the same pulls tells nothing new of the others.
            if fell || !self.has_forgotten(delivery) {
                self.forgotten(now);
            }
        }
        arrival
    }

    /// What comes of a pull tells of our rights and of the consumer.
    pub(super) fn heard_of_a_pull(&mut self, event: &PullEvent, now: Instant) {
        match event {
            // Of what comes late, by a pull that is over, nothing follows for those that are out.
            PullEvent::Message(delivery) if delivery.above_credit => {}
            PullEvent::Message(_) | PullEvent::GivenBack(_) => self.pulls.served(),
            // An inbox that nothing was out for.
            PullEvent::AllDead { credits: 0, why: _ } => {}
            PullEvent::Refused { credits: _, why } | PullEvent::AllDead { credits: _, why } => match why {
                PullEnd::Denied(_) => self.pulls.denied(now),
                PullEnd::ConnectionChanged
                | PullEnd::SubscriptionEnded
                | PullEnd::TooManyPulls
                | PullEnd::LimitExceeded(_) => self.pulls.ended(),
                PullEnd::LeadershipChange
                | PullEnd::ServerShutdown
                | PullEnd::ConsumerDeleted
                | PullEnd::NoConsumer
                | PullEnd::Silent
                | PullEnd::Other { .. } => self.pulls.failed(),
            },
        }
    }

    /// A message is in hand no more.
    pub(super) fn in_hand_ended(&mut self, sequence: u64, store_time_ns: i64) {
        if self.in_hand.ended(sequence, store_time_ns) {
            // Nobody is left who would have to hear of it.
            let displaced = self.in_hand.displaced().clone();
            self.shared.alerts.send_if_modified(|alert| {
                alert.displaced = displaced;
                false
            });
        }
    }

    /// The question for the stream's end that is to be asked now.
    pub(super) fn stream_question(&self, now: Instant) -> Option<u64> {
        let may_ask =
            self.known_connection.up && self.stream_unread.as_ref().is_none_or(|unread| unread.again_at <= now);
        self.freshness.wants_stream_end().filter(|_| may_ask)
    }

    /// When that question is to be asked again.
    pub(super) fn asks_stream_at(&self) -> Option<Instant> {
        let asks = self.known_connection.up && self.freshness.wants_stream_end().is_some();
        self.stream_unread.as_ref().filter(|_| asks).map(|unread| unread.again_at)
    }

    pub(super) fn stream_answered(&mut self, question: u64, facts: Result<StreamFacts, ManageError>) {
        match facts {
            Ok(facts) => {
                self.stream_unread = None;
                if self.freshness.stream_ends_at(question, facts.last_sequence) {
                    self.shared.publish_stream(Some(facts.created_ns));
                }
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "the stream's end cannot be read now");
                self.stream_unread = Some(Unread {
                    why: format!("the stream cannot be read: {}", with_sources(&error)),
                    again_at: clock::now() + STREAM_PAUSE,
                });
            }
        }
    }

    pub(super) fn pause_from(&self, from: Instant) -> Option<Instant> {
        self.settings.redelivery_pause.map(|pause: Duration| from + pause)
    }
}

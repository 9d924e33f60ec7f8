//! How what the machine orders is done: calls to the API server and to NATS, each with a time-out, whose end is an event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Call, Hand, Ordered};
use crate::clock;
use crate::jetstream::{Ack, AckError, CallErrorKind};
use crate::message::{Answer, Confirmed, DeadLetter, DeadReason, Event, Looked, keeps_header};
use crate::sensor::dead_letter;
use crate::sensor::shared::Shared;
use crate::sensor::trigger::{Created, Trigger, log_line};
use crate::telemetry::{AckResult, RefusalClass, TriggerOutcome};

#[derive(Clone, Copy)]
pub(super) enum Settle {
    Ack,
    Term(DeadReason),
    Nak(Duration),
    Progress,
}

impl Hand {
    pub(super) fn look_up(&self) -> Call {
        let (shared, id) = (Arc::clone(&self.shared), self.id.clone());
        Box::pin(async move {
            match &shared.trigger {
                Trigger::Kubernetes(trigger) => Event::Looked(trigger.look_up(&id).await),
                Trigger::Log { .. } => Event::Looked(Looked::Absent),
            }
        })
    }

    pub(super) fn read_version(&self) -> Call {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            match &shared.trigger {
                Trigger::Kubernetes(trigger) => Event::Version(trigger.version().await),
                Trigger::Log { .. } => Event::Version(None),
            }
        })
    }

    pub(super) fn render(&mut self) -> Event {
        match &self.shared.trigger {
            Trigger::Kubernetes(trigger) => match trigger.render(&self.delivery, &self.id, &self.credit) {
                Ok(object) => {
                    self.object = Some(Arc::new(object));
                    Event::Rendered(Ok(()))
                }
                Err(dead) => Event::Rendered(Err(dead)),
            },
            Trigger::Log { .. } => Event::Rendered(Ok(())),
        }
    }

    /// Mostly there is a place at once.
    pub(super) fn arrive(&mut self) -> Ordered {
        self.place = self.shared.limiter.try_acquire();
        if self.place.is_some() {
            return Ordered::Done(Event::Placed);
        }
        Ordered::Place(Box::pin(self.shared.limiter.clone().acquire()))
    }

    pub(super) fn create(&mut self, send_by: Instant) -> Ordered {
        let place = self.place.take();
        match &self.shared.trigger {
            Trigger::Log { silent, level } => {
                if !silent {
                    log_line(&self.delivery, *level);
                }
                self.shared.metrics.triggers.inc(TriggerOutcome::Done);
                Ordered::Done(Event::Created)
            }
            Trigger::Kubernetes(_) => {
                let Some(object) = self.object.clone() else {
                    return Ordered::Done(Event::NotSent);
                };
                let shared = Arc::clone(&self.shared);
                Ordered::Call(Box::pin(async move {
                    let event = create(&shared, &object, send_by).await;
                    drop(place);
                    event
                }))
            }
        }
    }

    pub(super) fn publish_dead(&self, reason: DeadReason, text: &str) -> Call {
        let letter = DeadLetter {
            id: &self.id,
            subject: self.delivery.subject.as_str(),
            deliveries: Some(self.delivery.delivered),
            reason,
            detail: text,
        };
        let own = self.delivery.headers.iter().filter(|(name, _)| keeps_header(name)).cloned().collect();
        let letter = letter.pack(own, self.delivery.payload.len());
        tracing::warn!(
            sequence = self.delivery.sequence,
            subject = self.delivery.subject.as_str(),
            reason = reason.as_str(),
            detail = text,
            "dead letter"
        );
        let (shared, payload) = (Arc::clone(&self.shared), self.delivery.payload.clone());
        Box::pin(async move { Event::DeadStored(dead_letter::store(&shared, &letter, &payload).await) })
    }

    pub(super) fn settle(&self, how: Settle) -> Call {
        let (shared, delivery) = (Arc::clone(&self.shared), Arc::clone(&self.delivery));
        Box::pin(async move {
            let reply = &delivery.reply;
            let result = match how {
                Settle::Ack => shared.acker.ack(reply, Ack::Ack).await,
                Settle::Term(reason) => shared.acker.ack(reply, Ack::Term(reason.as_str())).await,
                Settle::Nak(delay) => shared.acker.ack(reply, Ack::Nak(delay)).await,
                Settle::Progress => shared.acker.ack(reply, Ack::Progress).await,
            };
            if matches!(how, Settle::Ack) {
                shared.metrics.acks.inc(ack_result(&result));
            }
            match (how, result) {
                (Settle::Progress, Ok(())) => Event::ProgressConfirmed,
                (Settle::Progress, Err(_)) => Event::ProgressFailed,
                (Settle::Ack | Settle::Term(_) | Settle::Nak(_), Ok(())) => Event::Acked(Confirmed::Yes),
                (Settle::Ack | Settle::Term(_) | Settle::Nak(_), Err(_)) => Event::Acked(Confirmed::No),
            }
        })
    }
}

fn ack_result(result: &Result<(), AckError>) -> AckResult {
    match result.as_ref().map_err(AckError::kind) {
        Ok(()) => AckResult::Confirmed,
        Err(CallErrorKind::TimedOut) => AckResult::TimedOut,
        Err(CallErrorKind::NoResponders) => AckResult::NoResponders,
        Err(CallErrorKind::Disconnected | CallErrorKind::Denied | CallErrorKind::TooLarge | CallErrorKind::Failed) => {
            AckResult::Failed
        }
    }
}

async fn create(shared: &Shared, object: &Value, send_by: Instant) -> Event {
    let Trigger::Kubernetes(trigger) = &shared.trigger else { return Event::NotSent };
    let sent = clock::now();
    let limit = send_by.saturating_duration_since(sent);
    if limit.is_zero() {
        return Event::NotSent;
    }
    let created = trigger.create(object, limit).await;
    let took = clock::now().saturating_duration_since(sent);
    shared.metrics.trigger_duration.observe(took.as_secs_f64());
    match created {
        Created::Stored => {
            shared.limiter.answered(took);
            shared.metrics.triggers.inc(TriggerOutcome::Done);
            Event::Created
        }
        Created::Refused(answer) => {
            let class = refusal_class(&answer);
            shared.metrics.refusals.inc(class);
            if matches!(class, RefusalClass::Throttled | RefusalClass::Unavailable) {
                shared.limiter.overloaded();
            }
            let outcome = match class {
                RefusalClass::AlreadyExists => TriggerOutcome::Exists,
                RefusalClass::Throttled | RefusalClass::Unavailable => TriggerOutcome::Doubtful,
                RefusalClass::QuotaConflict => TriggerOutcome::Conflict,
                RefusalClass::QuotaExceeded
                | RefusalClass::StatusUnknown
                | RefusalClass::NeverFits
                | RefusalClass::TargetRefused
                | RefusalClass::MessageRefused
                | RefusalClass::Unauthorized
                | RefusalClass::Other => TriggerOutcome::Refused,
            };
            shared.metrics.triggers.inc(outcome);
            Event::Refused(answer)
        }
        Created::Unanswered => {
            shared.limiter.overloaded();
            shared.metrics.triggers.inc(TriggerOutcome::Doubtful);
            Event::NoAnswer
        }
    }
}

/// The word for a class of refusal.
fn refusal_class(answer: &Answer) -> RefusalClass {
    match answer {
        Answer::AlreadyExists => RefusalClass::AlreadyExists,
        Answer::QuotaExceeded(_) => RefusalClass::QuotaExceeded,
        Answer::NeverFits(_) => RefusalClass::NeverFits,
        Answer::StatusUnknown { .. } => RefusalClass::StatusUnknown,
        Answer::QuotaConflict => RefusalClass::QuotaConflict,
        Answer::Poison(..) => RefusalClass::MessageRefused,
        Answer::TargetRefused { .. } => RefusalClass::TargetRefused,
        Answer::Unauthorized => RefusalClass::Unauthorized,
        Answer::Throttled { .. } => RefusalClass::Throttled,
        Answer::Unknown { .. } => RefusalClass::Unavailable,
        Answer::Again { .. } => RefusalClass::Other,
    }
}

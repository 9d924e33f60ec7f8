//! The closed sets of label values. A label never carries a message id or an error's text: each of its values is here, is
//! a reason of the gate, or is the name of a Kubernetes resource.

use crate::message::{self, DeadReason, How, Why};

/// One value out of a closed set that may stand in a label.
pub trait LabelValue: Copy + 'static {
    /// Every value, in the order of [`LabelValue::index`].
    const ALL: &'static [Self];
    /// The value as it stands in the label.
    fn as_str(self) -> &'static str;
    /// What it means, for the docs.
    fn meaning(self) -> &'static str;
    /// Its place in [`LabelValue::ALL`].
    fn index(self) -> usize;
}

macro_rules! label_values {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal: $meaning:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $meaning] $variant,)+
        }

        impl LabelValue for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    )+};
}

label_values! {
    /// How the handling of a delivered message ended.
    Outcome {
        Done = "done": "the effect is durable and the acknowledgement confirmed",
        AckUnconfirmed = "ack_unconfirmed": "the effect is durable and the acknowledgement is not confirmed: should the message come again, the record or the object answers it",
        Recorded = "recorded": "acknowledged without an effect, because it had one already",
        Again = "again": "returned to the stream with a delay, or left to come again when its ack wait is over",
        GivenBack = "given_back": "returned untried, because the gate closed or the process stops",
        Dead = "dead": "moved to the dead letters",
    }

    /// How one run of the trigger ended.
    TriggerOutcome {
        Done = "done": "a definite success",
        Exists = "exists": "the effect was there already",
        Refused = "refused": "a definite refusal",
        Conflict = "conflict": "nothing was made, because the charge to the quota lost a race (409); tried again at once, a few times",
        Doubtful = "doubtful": "no definite answer: timeout, lost connection, server error",
    }

    /// Why the target refused an effect.
    RefusalClass {
        QuotaExceeded = "quota_exceeded": "403 exceeded quota",
        QuotaConflict = "quota_conflict": "409 on the quota object itself: Operation cannot be fulfilled on resourcequotas",
        StatusUnknown = "status_unknown": "403 status unknown for quota",
        AlreadyExists = "already_exists": "409 AlreadyExists",
        NeverFits = "never_fits": "the effect costs more than the whole quota",
        TargetRefused = "target_refused": "rights, kind or namespace: refused whatever the message",
        MessageRefused = "message_refused": "400, 413 or 422 in the API server's own words: the message's own fault",
        Unauthorized = "unauthorized": "401",
        Throttled = "throttled": "429",
        Unavailable = "unavailable": "5xx, 408, a negative usage: whether it was made is not known",
        Other = "other": "an answer that no rule names",
    }

    /// Where a credit is in its life.
    CreditState {
        Unused = "unused": "granted and without a message",
        InHand = "in_hand": "with a message, the effect not started",
        Open = "open": "unused, in hand or without a definite answer",
        Made = "made": "answered, the object not yet seen by the leader",
        Top = "top": "the highest number granted so far",
    }

    /// What the time of a sensor was spent on.
    TimeState {
        Working = "working": "messages in hand",
        Idle = "idle": "open, and nothing to do",
        Blocked = "blocked": "the gate is blocked, for the reason in the label",
    }

    /// How an acknowledgement ended.
    AckResult {
        Confirmed = "confirmed": "the server confirmed it",
        TimedOut = "timed_out": "no confirmation in time",
        NoResponders = "no_responders": "nobody there to hear it: the consumer is gone",
        Failed = "failed": "it could not be sent",
    }

    /// How a write with an expected revision ended.
    WriteResult {
        Stored = "stored": "stored",
        Conflict = "conflict": "another writer was first",
        Failed = "failed": "no definite answer",
    }

    /// A watch that the leader keeps.
    WatchKind {
        Quotas = "quotas": "ResourceQuota objects",
        Objects = "objects": "metadata of the counted kind",
    }
}

impl From<message::Outcome> for Outcome {
    fn from(outcome: message::Outcome) -> Self {
        match outcome {
            message::Outcome::Done(How::Made | How::Found) => Self::Done,
            message::Outcome::Done(How::Recorded) => Self::Recorded,
            message::Outcome::AckUnconfirmed(How::Made | How::Found | How::Recorded) => Self::AckUnconfirmed,
            // The dead letter is stored; should the message come again, it is a duplicate there.
            message::Outcome::Dead(_) | message::Outcome::TermUnconfirmed(_) => Self::Dead,
            message::Outcome::Again(
                Why::Shutdown | Why::LeaseOver | Why::HolderDead | Why::HoldOver | Why::ConnectionLost,
            ) => Self::GivenBack,
            message::Outcome::Again(_) | message::Outcome::Abandoned(_) => Self::Again,
        }
    }
}

impl LabelValue for DeadReason {
    const ALL: &'static [Self] = &Self::ALL;

    fn as_str(self) -> &'static str {
        Self::as_str(self)
    }

    fn meaning(self) -> &'static str {
        self.sentence()
    }

    fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<L: LabelValue + std::fmt::Debug>() {
        let mut seen = std::collections::BTreeSet::new();
        for (place, value) in L::ALL.iter().enumerate() {
            assert_eq!(value.index(), place, "{value:?}");
            assert!(seen.insert(value.as_str()), "{value:?} twice");
            assert!(value.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{value:?}");
            assert!(!value.meaning().is_empty());
        }
    }

    #[test]
    fn an_ack_that_nobody_confirmed_is_not_counted_as_done() {
        for how in [How::Made, How::Found, How::Recorded] {
            assert_eq!(Outcome::from(message::Outcome::AckUnconfirmed(how)), Outcome::AckUnconfirmed);
        }
        assert_eq!(Outcome::from(message::Outcome::Done(How::Made)), Outcome::Done);
        assert_eq!(Outcome::from(message::Outcome::Done(How::Recorded)), Outcome::Recorded);
        let dead = DeadReason::InvalidObject;
        assert_eq!(Outcome::from(message::Outcome::TermUnconfirmed(dead)), Outcome::Dead);
        assert_eq!(Outcome::from(message::Outcome::Again(Why::LeaseOver)), Outcome::GivenBack);
        assert_eq!(Outcome::from(message::Outcome::Again(Why::QuotaRefused)), Outcome::Again);
    }

    #[test]
    fn values_are_distinct_snake_case_and_in_order() {
        check::<Outcome>();
        check::<TriggerOutcome>();
        check::<RefusalClass>();
        check::<DeadReason>();
        check::<CreditState>();
        check::<TimeState>();
        check::<AckResult>();
        check::<WriteResult>();
        check::<WatchKind>();
    }
}

//! What goes into the machine of one message and what comes out.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::gate::Reason;
use crate::message::{Answer, DeadReason, QuotaRefusal, RefusedWhat, Says};

/// What is the same for all messages of a sensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// P: the longest a create may live from the step that orders it. It is sent within the first half of it or not
    /// at all, and the server has the other half.
    pub create_timeout: Duration,
    /// How long the stream's server waits for a sign before it delivers again; at least 2 P.
    pub ack_wait: Duration,
    /// What to do where nobody can know whether the object was made.
    pub on_doubt: OnDoubt,
}

impl Terms {
    /// Whether a nak surely concerns our own delivery, which was kept from `kept_from` on: the server asks neither who
    /// sends it nor for which delivery. `forgotten`: it may not know any more that it delivered the message.
    #[must_use]
    pub fn may_nak(&self, kept_from: Instant, forgotten: bool, now: Instant) -> bool {
        !forgotten && now < self.nak_end(kept_from)
    }

    /// Until when a nak may be sent: it needs some time to arrive.
    pub(super) fn nak_end(&self, kept_from: Instant) -> Instant {
        super::after(kept_from, self.ack_wait - self.ack_wait / 10)
    }
}

/// What to do with a message whose object may have come and gone in a gap of the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDoubt {
    /// Create, and count a possible duplicate: nothing is lost.
    #[default]
    Create,
    /// Send to the dead letters: nothing is doubled.
    Dead,
}

/// What kind of effect the trigger has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// An object, which can be looked up by its name.
    Object,
    /// Local and at once (the log trigger): nothing to look up, nothing in doubt.
    Instant,
}

/// How the message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// How often the server says that it was delivered. It starts anew when a server was killed, so it sets delays only.
    pub delivered: u64,
    /// When the pull that brought it was sent.
    pub pull_sent: Instant,
    /// The epoch of the connection that brought it.
    pub connection: u64,
    /// Whether the sequence was never handed out before: first delivery, and no connection since it could have been
    /// handed out may have forgotten that.
    pub fresh: bool,
    /// P after the last connect that may have forgotten deliveries; no lookup before it proves anything.
    pub not_before: Option<Instant>,
    /// The kind of effect.
    pub effect: Effect,
}

/// The newest that the process knows, at each step. `record`, `record_version` and `in_doubt` must be of one and the
/// same value of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What the record says about this message.
    pub record: Says,
    /// The resourceVersion up to which it says so; `None` where no record is kept (the watch is not allowed): then a
    /// lookup that finds nothing is all the proof there is, and a create after it is counted as a possible duplicate.
    pub record_version: Option<u64>,
    /// Whether the record has a gap that may concern this message.
    pub in_doubt: bool,
    /// The end of the holder's own lease; `None` without a grant. Far away where gating is off. A fact and no event,
    /// because a lease that is over may be renewed: what counts is how it is when something is to be done. So a
    /// [`Event::Tick`] is due at the end of it, too.
    pub lease_until: Option<Instant>,
    /// Whether NATS is connected.
    pub connected: bool,
    /// The epoch of the connection, or of the last one.
    pub connection: u64,
    /// The last epoch whose server may have forgotten deliveries of the one before.
    pub forgetful: u64,
    /// Whether the leader's view, newer than the last refusal by the quota, says that there is room.
    pub contradicted: bool,
}

/// What happened. Every call that an action orders is answered once, by one event, also when it runs out of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The message is in hand and has its number.
    Start,
    /// Time has passed, or the facts have changed.
    Tick,
    /// The connection that brought the message is gone.
    ConnectionLost,
    /// The leader counts the holder as dead: it was told to start a new id.
    HolderDead,
    /// The process ends.
    Shutdown,
    /// In progress was confirmed.
    ProgressConfirmed,
    /// In progress was not confirmed.
    ProgressFailed,
    /// The lookup's answer.
    Looked(Looked),
    /// The resourceVersion of a quorum list that began after the order; `None`: the call failed.
    Version(Option<u64>),
    /// The template gave an object, or says why the message has none.
    Rendered(Result<(), (DeadReason, String)>),
    /// There is a place among the creates under way. It is for the create that this step orders, until its answer;
    /// where the step orders none it goes back.
    Placed,
    /// The API server says that the object is stored; or the local effect is done.
    Created,
    /// The API server refused.
    Refused(Answer),
    /// The create has no answer: time, connection, an answer that can't be read.
    NoAnswer,
    /// The create was not sent, because `send_by` had passed.
    NotSent,
    /// Whether the dead letter is stored.
    DeadStored(Confirmed),
    /// Whether the ack, term or nak was confirmed.
    Acked(Confirmed),
}

/// Whether a request had its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It had.
    Yes,
    /// It failed or had none in time.
    No,
}

/// What a quorum GET by the object's name said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// There is an object.
    Found(Found),
    /// There is none.
    Absent,
    /// The call failed.
    Failed,
}

/// The annotations of an object that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its message annotation.
    pub message: Option<String>,
    /// Its credit annotation.
    pub credit: Option<String>,
}

/// What the driver is to do. Of the [calls](Action::is_call) the machine orders one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// GET the object by name, by quorum (no resourceVersion).
    Lookup,
    /// Read a resourceVersion by a quorum list of one.
    ReadVersion,
    /// Make the object of the template.
    Render,
    /// Wait for a place among the creates under way, for as long as
    /// [`wants_place`](super::Machine::wants_place) says so; then `Placed`.
    Place,
    /// POST the object, or do the local effect.
    Create {
        /// Drop it, and say `NotSent`, when it can't be sent before.
        send_by: Instant,
    },
    /// Publish the dead letter and wait for the answer of its stream.
    PublishDead {
        /// Why.
        reason: DeadReason,
        /// What exactly.
        text: String,
    },
    /// Acknowledge, with confirmation.
    Ack,
    /// Terminate, with confirmation.
    Term(DeadReason),
    /// Return to the stream for so long, with confirmation.
    Nak(Duration),
    /// Tell the server that the message is in progress, with confirmation.
    Progress,
    /// The number has its object.
    Made(u64),
    /// The number has none and never will.
    Return(u64),
    /// The gate has a reason to close.
    Block(Block),
    /// Something to count.
    Count(Noted),
    /// The end; no action follows and no event matters.
    Finish(Outcome),
}

impl Action {
    /// Whether it is a call that an event answers, one at a time. `Progress` goes beside it.
    #[must_use]
    pub const fn is_call(&self) -> bool {
        match self {
            Self::Lookup
            | Self::ReadVersion
            | Self::Render
            | Self::Create { .. }
            | Self::PublishDead { .. }
            | Self::Ack
            | Self::Term(_)
            | Self::Nak(_) => true,
            Self::Place
            | Self::Progress
            | Self::Made(_)
            | Self::Return(_)
            | Self::Block(_)
            | Self::Count(_)
            | Self::Finish(_) => false,
        }
    }
}

/// What [`Machine::step`](super::Machine::step) gives; mostly one or two.
pub type Actions = Vec<Action>;

/// Why the gate should close, as the answer to one create showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// The quota refused although there seemed to be room.
    QuotaRefused(QuotaRefusal),
    /// One effect asks for more than the quota allows.
    NeverFits(QuotaRefusal),
    /// The quota has not been calculated.
    StatusUnknown {
        /// The quota.
        quota: String,
        /// The resources it does not know.
        resources: Vec<String>,
    },
    /// The target refuses whatever the message.
    TargetRefused {
        /// What it refuses.
        what: RefusedWhat,
        /// Its words.
        text: String,
    },
    /// The API server wants fewer requests.
    Throttled {
        /// And says for how long.
        after: Option<Duration>,
    },
    /// The API server does not know us; the client must be made anew.
    Unauthorized,
}

impl Block {
    /// The reason of the closed set.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::QuotaRefused(_) => Reason::QuotaRefused,
            Self::NeverFits(_) => Reason::NeverFits,
            Self::StatusUnknown { .. } => Reason::StatusUnknown,
            Self::TargetRefused { .. } => Reason::TargetRefused,
            Self::Throttled { .. } => Reason::ApiThrottled,
            Self::Unauthorized => Reason::ApiDown,
        }
    }
}

/// Things to count that are no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Noted {
    /// A refusal by the quota contradicted a newer view, and is tried again with the number in hand.
    RefusalRetried,
    /// A create is ordered although an earlier object may have come and gone.
    PossibleDuplicate,
}

/// How a message came to have its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    /// It was made now.
    Made,
    /// Its object was found.
    Found,
    /// The record knew.
    Recorded,
}

/// How a message's stay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It has its effect, and the ack is confirmed.
    Done(How),
    /// It has its effect; the ack is not confirmed, or was not sent because it might settle another message. If it
    /// comes again the record or the object answers it.
    AckUnconfirmed(How),
    /// It is a dead letter, and terminated.
    Dead(DeadReason),
    /// It is a dead letter; the term is not confirmed. If it comes again the dead letter is a duplicate.
    TermUnconfirmed(DeadReason),
    /// It is back in the stream and comes after a delay.
    Again(Why),
    /// It comes again when the server's ack wait is over.
    Abandoned(Why),
}

impl Outcome {
    /// The word of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::AckUnconfirmed(_) => "ack_unconfirmed",
            Self::Dead(_) => "dead",
            Self::TermUnconfirmed(_) => "term_unconfirmed",
            Self::Again(_) => "again",
            Self::Abandoned(_) => "abandoned",
        }
    }
}

/// Why a message goes back. A closed set: it is a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// The quota is full.
    QuotaRefused,
    /// One effect is larger than the quota.
    NeverFits,
    /// The quota has not been calculated.
    StatusUnknown,
    /// The target refuses whatever the message.
    TargetRefused,
    /// A webhook, policy or admission plugin refuses.
    Refused,
    /// The API server does not know us.
    Unauthorized,
    /// The charge to the quota lost too many races.
    Conflict,
    /// The API server could not be asked about the object.
    LookupFailed,
    /// The create had no answer, and made nothing.
    NoAnswer,
    /// The create was not sent in time.
    NotSent,
    /// The record has not caught up.
    RecordBehind,
    /// The dead letter could not be stored.
    DeadLetterFailed,
    /// The server may have delivered the message to another by now.
    HoldOver,
    /// The connection that brought the message is gone.
    ConnectionLost,
    /// There is no lease.
    LeaseOver,
    /// The leader counts the holder as dead.
    HolderDead,
    /// The process ends.
    Shutdown,
}

impl Why {
    /// All of them, in the order of the docs.
    pub const ALL: [Self; 17] = [
        Self::QuotaRefused,
        Self::NeverFits,
        Self::StatusUnknown,
        Self::TargetRefused,
        Self::Refused,
        Self::Unauthorized,
        Self::Conflict,
        Self::LookupFailed,
        Self::NoAnswer,
        Self::NotSent,
        Self::RecordBehind,
        Self::DeadLetterFailed,
        Self::HoldOver,
        Self::ConnectionLost,
        Self::LeaseOver,
        Self::HolderDead,
        Self::Shutdown,
    ];

    /// The word of metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QuotaRefused => "quota_refused",
            Self::NeverFits => "never_fits",
            Self::StatusUnknown => "status_unknown",
            Self::TargetRefused => "target_refused",
            Self::Refused => "refused",
            Self::Unauthorized => "unauthorized",
            Self::Conflict => "conflict",
            Self::LookupFailed => "lookup_failed",
            Self::NoAnswer => "no_answer",
            Self::NotSent => "not_sent",
            Self::RecordBehind => "record_behind",
            Self::DeadLetterFailed => "dead_letter_failed",
            Self::HoldOver => "hold_over",
            Self::ConnectionLost => "connection_lost",
            Self::LeaseOver => "lease_over",
            Self::HolderDead => "holder_dead",
            Self::Shutdown => "shutdown",
        }
    }
}

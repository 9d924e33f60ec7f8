//! One message: identity, record, outcome classes, retry and its machine; pure.
//!
//! [`Machine`] decides what happens to one message from its delivery to its end. What it needs beside it are the
//! name of the message's object ([`MessageId`]), the classes of what an API server answers ([`classify`]), the
//! [`Record`] of what has had its object, the delays of [`retry`] and the reasons of [`DeadReason`].
//! [`InHand`] tells the messages in hand from others, and [`Concurrency`] says how many creates may be under way at once.

mod concurrency;
mod dead;
mod identity;
mod in_hand;
mod machine;
mod outcome;
mod ranges;
mod record;
pub mod retry;

pub use concurrency::Concurrency;
pub use dead::{DeadLetter, DeadReason, MAX_DETAIL_BYTES, Packed, keeps_header};
pub use identity::{CREDIT_ANNOTATION, CreditId, HolderId, MESSAGE_ANNOTATION, MessageId, NAME_HASH_CHARS, owns};
pub use in_hand::{Arrival, Displaced, InHand};
pub use machine::{
    Action, Actions, Block, Confirmed, Effect, Event, Facts, Found, Handed, How, Looked, Machine, Noted, OnDoubt,
    Outcome, Terms, Why,
};
pub use outcome::{Answer, ApiStatus, Cause, CreateTarget, QuotaRefusal, RefusedWhat, classify, denied};
pub use record::{MAX_ENCODED_BYTES, MAX_RANGES, Record, RecordError, Saw, Says};

//! Who may start how many: numbers, holders, the leader's books; pure.
//!
//! A [`Holder`] is one lane of one sensor process; the [`Ledger`] is the leader's side of one namespace. They
//! talk by [`Report`](crate::wire::Report) and [`Grant`](crate::wire::Grant). `docs/protocol.md` has the rules.

mod account;
mod ask;
mod count;
mod distribute;
pub mod election;
mod holder;
mod holds;
mod live;
mod objects;
#[path = "ledger.rs"]
mod owner;
mod quotas;
mod refusal;
#[cfg(test)]
mod scenarios;
mod settle;

pub use account::Phase;
pub use holder::{GrantEffect, Holder};
pub use live::{LiveState, SeenObject};
pub use owner::{Action, Ledger, LedgerOptions, QuotaUpdate, Standing};
pub use refusal::{BELIEVED_AFTER, Lack, Lacking, Refusal};

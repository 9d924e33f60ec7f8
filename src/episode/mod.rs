//! Blocked time and time accounting; pure.
//!
//! [`TimeAccount`] splits the wall time of one lane without a rest; [`Episodes`] counts how often, and how long, each
//! reason held. Both advance while a state lasts, so that a stall shows while it is one, and both end what is open
//! when the process does.

mod account;
mod episodes;

pub use account::{Activity, TimeAccount};
pub use episodes::{Ended, EpisodeCount, Episodes, Outcome};

//! May we pull: quantities, limits, quota readings, reasons; pure.
//!
//! From the bottom up: [`Quantity`] and [`Ratio`] are exact decimals, [`limit()`] makes of them what a quota lets us
//! use, [`QuotaView`] and [`bounds()`] read it off one or several quotas, [`Reason`] names why not, and [`Gate`] is
//! the state of one lane. Nothing here knows a clock, a connection, or how credits are counted.

mod bounds;
mod lane;
mod limit;
mod quantity;
#[cfg(test)]
mod quantity_properties;
mod quota;
mod ratio;
mod reason;
mod reasons;
#[cfg(test)]
mod reference;
mod resource;

pub use bounds::{Blocked, Bound, bounds};
pub use lane::{Candidacy, Gate, GateFacts, GateState, Heard, Reminded, Reminder, Transition};
pub use limit::limit;
pub use quantity::{Quantity, QuantityError};
pub use quota::{QuotaError, QuotaView, Reading};
pub use ratio::{Ratio, RatioError};
pub use reason::Reason;
pub use reasons::Reasons;
pub use resource::{Counted, ResourceName, ResourceNameError};

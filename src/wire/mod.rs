//! What crosses a process boundary: reports, grants, the books and the capacity signal; versioned; pure.

mod credits;
mod numbers;
mod signal;

pub use credits::{Book, Books, Cost, Grant, Reading, Refusal, Report, Terms, VERSION, WireError};
pub use numbers::NumberSet;
pub use signal::{ResourceSignal, Signal};

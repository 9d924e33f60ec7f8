//! What can go wrong in the harness, said so that a failed test explains itself.

use std::fmt;
use std::time::Duration;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// A failure of the test bed. Its `Debug` form is the readable one, because `unwrap` prints that.
#[derive(thiserror::Error)]
pub enum Error {
    /// The programs could not be found or built.
    #[error("{0}")]
    Binaries(String),
    /// An operation of the harness failed.
    #[error("{what}: {}", chain(source.as_ref()))]
    Failed {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: Source,
    },
    /// A process ended although it was needed.
    #[error("{program} ended ({status}); its last lines:\n{log}")]
    Died {
        /// The name of the process.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// A process runs but does not get ready.
    #[error("{program} was not ready within {limit:?}: {why}; its last lines:\n{log}")]
    NotReady {
        /// The name of the process.
        program: String,
        /// How long it was waited for.
        limit: Duration,
        /// What the last probe said.
        why: String,
        /// The end of its log.
        log: String,
    },
    /// A condition did not come true in time.
    #[error("waited {limit:?} in vain for {what}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
}

impl Error {
    /// For `map_err`: keeps the source and says what was being done.
    pub(crate) fn doing<E: Into<Source>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Failed { what, source: source.into() }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An error with its causes, since many clients hide the cause that matters.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

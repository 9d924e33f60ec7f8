//! What is wrong with the settings, in sentences for the person who wrote them.

use std::time::Duration;

use crate::gate::{QuantityError, RatioError, ResourceNameError};

use super::names::NameError;
use super::read::duration_text;

/// Everything that is wrong, one line for each: a person should not have to start again for each mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// In the order of the table.
    pub problems: Vec<Problem>,
}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}

/// One wrong setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {kind}")]
pub struct Problem {
    /// The variable, or flag and variable where it was given as a flag.
    pub setting: String,
    /// What is wrong with it.
    pub kind: ProblemKind,
}

/// What is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    /// Not of the form that the setting has.
    #[error("`{value}` is not allowed; allowed is {allowed}")]
    Form {
        /// As it was given.
        value: String,
        /// What would be right.
        allowed: String,
    },
    /// A duration outside its bounds.
    #[error("`{value}` is out of range; allowed is {} to {}", duration_text(*least), duration_text(*most))]
    Range {
        /// As it was given.
        value: String,
        /// The smallest allowed.
        least: Duration,
        /// The largest allowed.
        most: Duration,
    },
    /// A secret of a wrong form, not shown.
    #[error("the value, which is not shown, is not allowed; allowed is {allowed}")]
    SecretForm {
        /// What would be right.
        allowed: &'static str,
    },
    /// A ratio.
    #[error(transparent)]
    Ratio(#[from] RatioError),
    /// A resource.
    #[error(transparent)]
    Resource(#[from] ResourceNameError),
    /// A cost.
    #[error("cost of {resource}: {source}")]
    Cost {
        /// Of this resource.
        resource: String,
        /// Why it is no quantity.
        source: QuantityError,
    },
    /// A cost that no effect can have.
    #[error("cost of {resource}: `{cost}` is not allowed; allowed is {allowed}")]
    CostValue {
        /// Of this resource.
        resource: String,
        /// As it was given.
        cost: String,
        /// What would be right.
        allowed: &'static str,
    },
    /// A resource without a cost that has no natural one.
    #[error("{0} needs the cost of one effect, such as {0}=500m")]
    CostMissing(String),
    /// The same twice.
    #[error("`{0}` is given twice")]
    Twice(String),
    /// A name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Two settings that contradict each other, or one that needs another.
    #[error("{0}")]
    Together(String),
    /// A variable's value, not shown.
    #[error("the value is not UTF-8; allowed is {allowed}")]
    NotUtf8 {
        /// What would be right.
        allowed: &'static str,
    },
    /// No such variable.
    #[error("unknown variable{}", nearest.as_ref().map_or_else(String::new, |name| format!(", did you mean {name}?")))]
    Unknown {
        /// What may have been meant.
        nearest: Option<&'static str>,
    },
}

//! What is wrong with a template, or with a message for it.

use super::event::DecodeError;
use super::stack::Panicked;
use super::{
    MAX_DOCUMENT_DEPTH, MAX_EXPRESSION_BYTES, MAX_EXPRESSION_DEPTH, MAX_EXPRESSIONS, MAX_LOOP_ROUNDS,
    MAX_LOOP_TEXT_BYTES, MAX_RENDERED_BYTES,
};

/// A document that no message could be rendered into.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {}{problem}", written(expression, problem))]
pub struct TemplateError {
    /// Where in the document, such as `spec.arguments.parameters[0].value`.
    pub path: String,
    /// The expression, or nothing where the problem is none of an expression.
    pub expression: String,
    /// What is wrong.
    pub problem: TemplateProblem,
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateProblem {
    /// No `}}`.
    #[error("`${{{{` is not closed by `}}}}`; write `$${{{{` for the text itself")]
    Unclosed,
    /// Nothing between the brackets.
    #[error("the expression is empty")]
    Empty,
    /// Longer than [`MAX_EXPRESSION_BYTES`].
    #[error("the expression has {0} bytes, at most {MAX_EXPRESSION_BYTES} are allowed")]
    TooLong(usize),
    /// Deeper than [`MAX_EXPRESSION_DEPTH`].
    #[error("the expression is nested too deeply, at most {MAX_EXPRESSION_DEPTH} levels are allowed")]
    TooDeep,
    /// More than [`MAX_EXPRESSIONS`].
    #[error("the document has too many expressions, at most {MAX_EXPRESSIONS} are allowed")]
    TooMany,
    /// Deeper than [`MAX_DOCUMENT_DEPTH`].
    #[error("the document is nested too deeply, at most {MAX_DOCUMENT_DEPTH} levels are allowed")]
    DocumentTooDeep,
    /// Larger than [`MAX_RENDERED_BYTES`] before anything is filled in.
    #[error("the document is too large, at most {MAX_RENDERED_BYTES} bytes are allowed")]
    DocumentTooLarge,
    /// Not CEL.
    #[error("not a CEL expression: line {line}, column {column}: {message}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// A variable other than `event`.
    #[error("unknown variable `{name}`{}; the only variable is `event`", hint(nearest.as_deref()))]
    Variable {
        /// As it was written.
        name: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// A field that `event` does not have.
    #[error("`event` has no field `{name}`{}; it has {}", hint(nearest.as_deref()), super::functions::field_names())]
    Field {
        /// As it was written.
        name: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// A function that does not exist.
    #[error("unknown function `{name}`{}; docs/templates.md lists the functions", hint(nearest.as_deref()))]
    Function {
        /// As it was written.
        name: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// A message could make the text grow without a bound.
    #[error("the {argument} of `{function}` must be a text in quotes, so that a message can't choose it")]
    NotLiteral {
        /// The function.
        function: &'static str,
        /// Its argument.
        argument: &'static str,
    },
    /// A part made of constants alone fails, so every message would.
    #[error("fails for every message: {0}")]
    AlwaysFails(String),
    /// A bug of the parser.
    #[error("the CEL parser failed: {0}")]
    Panicked(String),
}

/// A message that does not fit a template. It will never fit, so it belongs to the dead letters.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {}{cause}", quoted(expression))]
pub struct RenderError {
    /// Where in the document.
    pub path: String,
    /// The expression, or nothing where the document as a whole is too large.
    pub expression: String,
    pub(super) cause: Cause,
}

impl RenderError {
    /// What kind of misfit it is.
    #[must_use]
    pub const fn kind(&self) -> RenderErrorKind {
        match self.cause {
            Cause::MissingKey(_) => RenderErrorKind::MissingKey,
            Cause::WrongType(_) | Cause::NotJson(_) => RenderErrorKind::WrongType,
            Cause::Decode(_) => RenderErrorKind::Decode,
            Cause::TooLarge | Cause::TooManyRounds { .. } | Cause::TooMuchText => RenderErrorKind::TooLarge,
            Cause::Evaluation(_) | Cause::Panicked(_) => RenderErrorKind::Evaluation,
        }
    }
}

/// The kinds of [`RenderError`], a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RenderErrorKind {
    /// The message lacks something.
    MissingKey,
    /// Something has another type than the expression needs.
    WrongType,
    /// The message is not what it says it is.
    Decode,
    /// The result, or the work for it, is over a limit.
    TooLarge,
    /// Anything else that CEL refuses: a division by zero, a text that is no timestamp.
    Evaluation,
}

impl RenderErrorKind {
    /// The word for logs and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingKey => "missing_key",
            Self::WrongType => "wrong_type",
            Self::Decode => "decode",
            Self::TooLarge => "too_large",
            Self::Evaluation => "evaluation",
        }
    }
}

/// Why a message does not fit. Texts of the evaluator may quote values of the message, so they are cut.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Cause {
    #[error("no such key: `{0}`")]
    MissingKey(String),
    #[error("wrong type: {0}")]
    WrongType(String),
    #[error("the result has no JSON form: {0}")]
    NotJson(&'static str),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the rendered document would be larger than {MAX_RENDERED_BYTES} bytes")]
    TooLarge,
    #[error(
        "the loops could make {rounds} rounds over a message whose longest list has {longest} items, at most {MAX_LOOP_ROUNDS} are allowed"
    )]
    TooManyRounds { longest: usize, rounds: usize },
    #[error("the loops could copy more than {MAX_LOOP_TEXT_BYTES} bytes of this message")]
    TooMuchText,
    #[error("{0}")]
    Evaluation(String),
    #[error("the evaluator failed: {0}")]
    Panicked(#[from] Panicked),
}

impl Cause {
    pub(super) fn at(self, path: &str, expression: &str) -> RenderError {
        RenderError { path: path.to_owned(), expression: expression.to_owned(), cause: self }
    }
}

impl From<cel::ExecutionError> for Cause {
    fn from(error: cel::ExecutionError) -> Self {
        use cel::ExecutionError as E;
        #[allow(clippy::wildcard_enum_match_arm, reason = "the enum is non_exhaustive")]
        match &error {
            E::NoSuchKey(name) => Self::MissingKey(shortened(name)),
            E::NoSuchOverload(_)
            | E::InvalidArgumentCount { .. }
            | E::UnsupportedTargetType { .. }
            | E::NotSupportedAsMethod { .. }
            | E::UnsupportedKeyType(_)
            | E::UnexpectedType { .. }
            | E::ValuesNotComparable(..)
            | E::UnsupportedBinaryOperator(..)
            | E::UnsupportedIndex(..) => Self::WrongType(shortened(&error.to_string())),
            _ => Self::Evaluation(shortened(&error.to_string())),
        }
    }
}

/// The first 200 characters.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// As it stands in the document: what is not closed there is not closed here.
fn written(expression: &str, problem: &TemplateProblem) -> String {
    if *problem == TemplateProblem::Unclosed {
        return format!("`${{{{ {}`: ", shortened(expression).trim_end());
    }
    quoted(expression)
}

fn quoted(expression: &str) -> String {
    if expression.is_empty() { String::new() } else { format!("`${{{{ {} }}}}`: ", shortened(expression)) }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(", did you mean `{name}`?"))
}

/// The candidate that a misspelled name is nearest to, where one is near.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_ascii_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&lower, &candidate.to_ascii_lowercase());
    let best = candidates.into_iter().map(|candidate| (distance(candidate), candidate)).min_by_key(|(d, _)| *d);
    let near = 1.max(name.chars().count() / 3);
    best.filter(|(distance, _)| *distance <= near).map(|(_, candidate)| candidate)
}

//! YAML that a person wrote, strictly and within bounds.

use serde::de::DeserializeOwned;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Error, Options};

use crate::template::nearest;

/// A sensor file is a page or two.
pub(super) const MAX_FILE_BYTES: usize = 512 * 1024;

const TOO_MUCH: &str = "too large or too deeply nested for a sensor file, aliases counted where they are used";

/// Why a text is not the document that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// The file is too large to be meant.
    #[error("the file has {0} bytes; at most {MAX_FILE_BYTES} are allowed")]
    TooLarge(usize),
    /// A place in the file and what is wrong there.
    #[error("line {line}, column {column}: {message}")]
    At {
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
        /// What is wrong.
        message: String,
    },
    /// Wrong as a whole.
    #[error("{0}")]
    Document(String),
}

/// Reads one document.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    if text.len() > MAX_FILE_BYTES {
        return Err(YamlError::TooLarge(text.len()));
    }
    if text.trim().is_empty() {
        return Err(YamlError::Document("it is empty".to_owned()));
    }
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| describe(&error))
}

/// Booleans and octal numbers are read as kubectl reads them, so `yes` is true and `0644` is 420.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 96,
            max_nodes: 50_000,
            max_events: 200_000,
            max_anchors: 256,
            max_aliases: 1_024,
            max_documents: 2,
            max_merge_keys: 256,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 50_000,
            max_replay_stack_depth: 16,
            max_alias_expansions_per_anchor: 1_024,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Merge,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

fn describe(error: &Error) -> YamlError {
    let error = error.without_snippet();
    #[allow(clippy::wildcard_enum_match_arm, reason = "the rest is said in the words of the parser")]
    let message = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            let hint = nearest(field, expected.iter().copied());
            let hint = hint.map_or_else(String::new, |name| format!(", did you mean `{name}`?"));
            format!("unknown field `{field}`{hint}; allowed: {}", expected.join(", "))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("`{variant}` is not allowed; allowed: {}", expected.join(", "))
        }
        Error::SerdeMissingField { field, .. } => format!("the field `{field}` is missing"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key `{key}` is there twice")
        }
        Error::MultipleDocuments { .. } => "a second document; a file holds one".to_owned(),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => TOO_MUCH.to_owned(),
        Error::Unexpected { expected: "mapping start", .. } => "a map is expected here".to_owned(),
        Error::Unexpected { expected: "string scalar", .. } => "a text is expected here".to_owned(),
        Error::AliasError { error, .. } => return describe(error),
        other => match other.to_string() {
            // The scanner has a limit of its own, below ours for brackets.
            text if text.contains("recursion limit") => TOO_MUCH.to_owned(),
            text => text,
        },
    };
    match error.location().filter(|location| location.line() > 0) {
        Some(location) => YamlError::At { line: location.line(), column: location.column(), message: bare(message) },
        None => YamlError::Document(bare(message)),
    }
}

/// Without the place that the parser appends itself.
fn bare(message: String) -> String {
    match message.rfind(" at line ") {
        Some(end) => message.get(..end).map_or_else(|| message.clone(), str::to_owned),
        None => message,
    }
}

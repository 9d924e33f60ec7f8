//! CEL expressions put into parsed documents; pure.
//!
//! A document is compiled once, when the sensor starts, and rendered once per message. Values go into the parsed
//! document, never into its text, so what a message carries can fill a slot and cannot add one. What can be written
//! in an expression is listed in [`functions::FUNCTIONS`], which also makes `docs/templates.md`.
//!
//! The parser and the evaluator of the `cel` crate recurse without a limit of their own and need tens of kilobytes
//! of stack per level, and an overflow of the stack can't be caught. So both run under limits: on length and on depth
//! of an expression when it is compiled, and on a thread with a stack that is large enough where the depth asks for it.

mod checks;
mod cloudevent;
mod document;
mod error;
mod event;
mod expression;
pub mod functions;
mod json;
mod parts;
#[cfg(test)]
mod properties;
mod stack;
#[cfg(test)]
mod tests;
mod values;

pub use document::Template;
pub(crate) use error::nearest;
pub use error::{RenderError, RenderErrorKind, TemplateError, TemplateProblem};
pub use event::{DecodeError, Event};

/// Bytes of one expression between `${{` and `}}`, at most.
pub const MAX_EXPRESSION_BYTES: usize = 2048;
/// Levels of calls, operators, selections and literals inside each other in one expression, macros expanded.
pub const MAX_EXPRESSION_DEPTH: usize = 128;
/// Expressions in one document.
pub const MAX_EXPRESSIONS: usize = 512;
/// Levels of lists and maps inside each other in a document.
pub const MAX_DOCUMENT_DEPTH: usize = 96;
/// Size of a rendered document: what etcd takes in one request is 1.5 MiB.
pub const MAX_RENDERED_BYTES: usize = 1024 * 1024;
/// Rounds that the loops (`map`, `filter`, `all`, `exists`...) of one expression may make together on one message.
pub const MAX_LOOP_ROUNDS: usize = 1_000_000;
/// What the loops of one expression could copy on one message, in the worst case.
pub const MAX_LOOP_TEXT_BYTES: usize = 64 * 1024 * 1024;

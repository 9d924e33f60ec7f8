//! Room to recurse in.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What an unwinding panic said, where it said anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Panicked(String);

/// An ANTLR parser takes about 100 KiB of stack for each bracket in a debug build; its own limit is 96 brackets, and
/// [`super::MAX_EXPRESSION_BYTES`] bounds the chains (`1+1+...`) that this limit does not count. Only the pages that are
/// touched become memory, and they are given back when the template is compiled.
const PARSER_STACK: usize = 128 * 1024 * 1024;
/// Up to 50 KiB for each level in a debug build, for [`super::MAX_EXPRESSION_DEPTH`] levels and as much again.
const EVALUATOR_STACK: usize = 16 * 1024 * 1024;
/// Levels that fit the 2 MiB stack of a tokio worker beside what is on it already.
const SHALLOW: usize = 12;

/// Runs the parser on a stack that is large enough for everything within the limits.
pub(super) fn parsing<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Panicked> {
    on_thread(PARSER_STACK, work)
}

/// Runs an evaluation of this depth: in place, or on a thread with a larger stack.
pub(super) fn evaluating<T: Send>(depth: usize, work: impl FnOnce() -> T + Send) -> Result<T, Panicked> {
    if depth <= SHALLOW {
        return catch_unwind(AssertUnwindSafe(work)).map_err(|payload| describe(payload.as_ref()));
    }
    on_thread(EVALUATOR_STACK, work)
}

fn on_thread<T: Send>(stack: usize, work: impl FnOnce() -> T + Send) -> Result<T, Panicked> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".to_owned()).stack_size(stack);
        let handle =
            thread.spawn_scoped(scope, work).map_err(|error| Panicked(format!("no thread for it: {error}")))?;
        handle.join().map_err(|payload| describe(payload.as_ref()))
    })
}

fn describe(payload: &(dyn std::any::Any + Send)) -> Panicked {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    Panicked(text.unwrap_or("no message").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_value() {
        for depth in [1, 100] {
            let panicked = evaluating(depth, || -> () { panic!("at {depth}") }).unwrap_err();
            assert_eq!(panicked.to_string(), format!("at {depth}"));
        }
        assert_eq!(parsing(|| 7), Ok(7));
    }
}

//! How fast jetgate is, each figure beside the bare client in the same run: `cargo bench --bench jetgate [-- NAME...]`.
//!
//! Absolute times of a shared machine say nothing, so everything is a ratio of interleaved pairs. What the figures mean
//! and where they stand is in `docs/performance.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    dead_code
)]

mod bare;
mod creates;
mod figures;
mod makespan;
mod messages;
mod release;
mod size;
#[path = "../../tests/live/support.rs"]
mod support;

/// Names and what they measure, in the order of a run without names.
const NAMES: [&str; 6] = ["size", "messages-1024", "messages-256", "creates", "release", "makespan"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // The bare clients are processes of their own: this program, started again.
    if let Some((first, rest)) = arguments.split_first()
        && first == bare::CHILD
    {
        bare::run(rest);
        return;
    }
    let names: Vec<&str> =
        if arguments.is_empty() { NAMES.to_vec() } else { arguments.iter().map(String::as_str).collect() };
    for name in names {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        match name {
            "size" => runtime.block_on(size::run()),
            "messages-1024" => runtime.block_on(messages::run(1024)),
            "messages-256" => runtime.block_on(messages::run(256)),
            "creates" => runtime.block_on(creates::run()),
            "release" => runtime.block_on(release::run()),
            "makespan" => runtime.block_on(makespan::run()),
            other => panic!("no benchmark {other}; there are {}", NAMES.join(", ")),
        }
    }
}

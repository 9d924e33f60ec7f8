//! The code map of the design, kept by force: reads the sources and fails when an import breaks it.
//!
//! What the rules are about is what ships: comments, texts and test modules do not count.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "architecture/source.rs"]
mod source;

use source::{Source, read_tree};
use std::path::Path;

/// No file of `src` may be longer.
const MOST_LINES: usize = 600;

/// What one module at the root may know.
struct Rule {
    module: &'static str,
    /// Other modules of the crate.
    may_use: &'static [&'static str],
    /// Crates and parts of `std` that are not for it.
    must_not_use: &'static [&'static str],
}

/// I/O, clocks, runtimes: nothing of it in what decides.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "async_nats",
    "kube",
    "k8s_openapi",
    "axum",
    "hyper",
    "http",
    "rustls",
    "prometheus",
    "tracing",
    "tracing_subscriber",
    "clap",
    "std::fs",
    "std::net",
    "std::env",
    "std::io",
    "std::process",
    "std::sync::mpsc",
    // Last, for the rule below.
    "std::thread",
];

/// Expressions are parsed on a thread of their own, for its larger stack alone: the result is as pure.
const IMPURE_BUT_THREADS: &[&str] = IMPURE.split_at(IMPURE.len() - 1).0;

/// What roles and commands know: each of the last two all that is before it.
const IN_ORDER: &[&str] = &[
    "gate",
    "template",
    "message",
    "episode",
    "wire",
    "ledger",
    "api",
    "clock",
    "runtime",
    "telemetry",
    "k8s",
    "jetstream",
    "leader",
    "sensor",
];

const RULES: &[Rule] = &[
    // Pure; each knows only those above it.
    Rule { module: "gate", may_use: &[], must_not_use: IMPURE },
    Rule { module: "template", may_use: &[], must_not_use: IMPURE_BUT_THREADS },
    Rule { module: "message", may_use: &["gate"], must_not_use: IMPURE },
    Rule { module: "episode", may_use: &["gate"], must_not_use: IMPURE },
    Rule { module: "wire", may_use: &["gate", "message"], must_not_use: IMPURE },
    Rule { module: "ledger", may_use: &["gate", "message", "wire"], must_not_use: IMPURE },
    // What users write, validated into the pure types.
    Rule {
        module: "api",
        may_use: &["gate", "template", "message", "episode", "wire", "ledger"],
        must_not_use: &["tokio", "async_nats", "axum", "prometheus"],
    },
    // The only reader of clocks, the only place that spawns.
    Rule { module: "clock", may_use: &[], must_not_use: &["tokio", "async_nats", "kube", "axum", "prometheus"] },
    Rule { module: "runtime", may_use: &["clock"], must_not_use: &["async_nats", "kube", "axum", "prometheus"] },
    Rule {
        module: "telemetry",
        may_use: &["gate", "message", "episode", "clock", "runtime"],
        must_not_use: &["async_nats", "kube", "k8s_openapi"],
    },
    // Adapters know neither roles nor each other.
    Rule {
        module: "k8s",
        may_use: &["gate", "message", "wire", "ledger", "clock", "runtime"],
        must_not_use: &["async_nats", "axum", "prometheus"],
    },
    Rule {
        module: "jetstream",
        may_use: &["gate", "message", "wire", "ledger", "clock", "runtime"],
        must_not_use: &["kube", "k8s_openapi", "axum", "prometheus"],
    },
    // Roles. The leader runs inside the sensor, which may therefore use it; never the other way round.
    Rule { module: "leader", may_use: IN_ORDER.split_at(IN_ORDER.len() - 2).0, must_not_use: &["axum", "prometheus"] },
    Rule { module: "sensor", may_use: IN_ORDER.split_at(IN_ORDER.len() - 1).0, must_not_use: &["axum", "prometheus"] },
    Rule { module: "cli", may_use: IN_ORDER, must_not_use: &["prometheus"] },
    // The program only calls the library.
    Rule { module: "lib", may_use: &[], must_not_use: &[] },
    Rule { module: "main", may_use: &["telemetry", "runtime", "cli"], must_not_use: &[] },
];

/// Everything that is wrong with the sources, one line each.
fn violations(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let root = source.module.first().map_or("lib", String::as_str);
        if source.lines > MOST_LINES {
            found.push(format!("{}: {} lines, more than {MOST_LINES}", source.path, source.lines));
        }
        match RULES.iter().find(|rule| rule.module == root) {
            Some(rule) => check_imports(source, rule, &mut found),
            None => found.push(format!("{}: module {root} is not in the code map", source.path)),
        }
        check_calls(source, root, &mut found);
        if root == "ledger" || source.path.starts_with("src/message/machine") {
            for line in source.wildcard_arms() {
                found.push(format!("{}:{line}: a `_ =>` arm hides cases in a step function", source.path));
            }
        }
    }
    found
}

fn check_imports(source: &Source, rule: &Rule, found: &mut Vec<String>) {
    for (line, path) in source.paths() {
        let text = path.join("::");
        let mut say = |what: String| found.push(format!("{}:{line}: {} {what}", source.path, rule.module));
        let inside = if path[0] == "crate" || path[0] == "jetgate" { path.get(1).map(String::as_str) } else { None };
        if let Some(to) = inside {
            let known = RULES.iter().any(|rule| rule.module == to);
            if to == "*" || to == "self" {
                say(format!("must name what it imports instead of {text}"));
            } else if known && to != rule.module && !rule.may_use.contains(&to) {
                say(format!("must not know {text}"));
            }
            continue;
        }
        let hits = |barred: &&&str| text == **barred || text.starts_with(&format!("{barred}::"));
        if let Some(barred) = rule.must_not_use.iter().find(hits) {
            say(format!("must not use {barred} ({text})"));
        }
        // A renamed crate or a wholly imported `std` would hide what is used of it.
        if ["std", "std::*", "crate"].contains(&text.as_str()) {
            say(format!("must name what it imports instead of {text}"));
        }
    }
}

fn check_calls(source: &Source, root: &str, found: &mut Vec<String>) {
    for (line, path) in source.paths() {
        let text = path.join("::");
        let ends = |end: &str| text == end || text.ends_with(&format!("::{end}"));
        let clock = ends("Instant::now") || ends("SystemTime::now") || ends("Timestamp::now") || ends("Zoned::now");
        if clock && root != "clock" {
            found.push(format!("{}:{line}: {text}: only src/clock.rs reads clocks", source.path));
        }
        let spawn = ["tokio::spawn", "tokio::task::spawn", "task::spawn", "std::thread::spawn", "thread::spawn"];
        if spawn.into_iter().any(ends) && root != "runtime" {
            found.push(format!("{}:{line}: {text}: only src/runtime.rs spawns", source.path));
        }
    }
}

#[test]
fn the_sources_keep_to_the_code_map() {
    let sources = read_tree(Path::new(env!("CARGO_MANIFEST_DIR")), "src");
    assert!(sources.len() > 15, "the sources were found");
    let found = violations(&sources);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn the_map_has_no_circle() {
    for (place, rule) in RULES.iter().enumerate() {
        for used in rule.may_use {
            let other = RULES.iter().position(|rule| rule.module == *used).expect("a known module");
            assert!(other < place, "{} may use {used}, which stands below it", rule.module);
        }
    }
}

/// What a planted file is reproached with.
fn reproaches(path: &str, text: &str) -> Vec<String> {
    violations(&[Source::new(path, text)])
}

#[track_caller]
fn caught(path: &str, text: &str) {
    let found = reproaches(path, text);
    assert_eq!(found.len(), 1, "{path}: {text}\n{found:?}");
}

#[track_caller]
fn fine(path: &str, text: &str) {
    assert_eq!(reproaches(path, text), [] as [&str; 0], "{path}: {text}");
}

#[test]
fn planted_violations_are_caught() {
    caught("src/gate/mod.rs", "use tokio::sync::watch;");
    caught("src/gate/mod.rs", "pub(crate) use ::tokio;");
    caught("src/gate/limit.rs", "use std::{collections::BTreeMap, fs::File};");
    caught("src/gate/limit.rs", "use std::{fs::{self as files}, fmt};");
    caught("src/gate/limit.rs", "use std as s;");
    caught("src/gate/limit.rs", "fn f() { let x = std::env::var(\"A\"); }");
    caught("src/ledger/mod.rs", "fn f() { tracing::info!(\"x\"); }");
    caught("src/message/mod.rs", "#[tokio::main] async fn f() {}");
    caught("src/message/mod.rs", "use std::time::Instant; fn f() { let x = Instant::now(); }");
    caught("src/message/mod.rs", "extern crate kube;");
    let wire = "use crate::{gate::Reason, ledger::{Ledger, Top}, message::MessageId};\nuse crate::ledger;";
    assert_eq!(reproaches("src/wire/mod.rs", wire).len(), 3);
}

#[test]
fn planted_breaches_of_the_order_are_caught() {
    caught("src/gate/mod.rs", "use crate::message::MessageId;");
    caught("src/gate/deep/inner.rs", "use super::super::super::ledger::Ledger;");
    caught("src/gate/mod.rs", "use super::k8s::Cluster;");
    caught("src/message/mod.rs", "use crate as root;");
    caught("src/message/mod.rs", "use crate::*;");
    caught("src/message/mod.rs", "fn f(_: crate::clock::Wall) {}");
    caught("src/template/mod.rs", "use crate::gate::Reason;");
    caught("src/api/mod.rs", "use crate::telemetry::logs::Format;");
    caught("src/k8s/mod.rs", "use crate::jetstream::Connection;");
    caught("src/jetstream/mod.rs", "use crate::sensor::Lane;");
    caught("src/jetstream/mod.rs", "use kube::Client;");
    caught("src/leader/books.rs", "use crate::sensor::Lane;");
    caught("src/telemetry/mod.rs", "use crate::cli::Args;");
    caught("src/common/mod.rs", "fn f() {}");
}

#[test]
fn planted_calls_arms_and_sizes_are_caught() {
    caught("src/sensor/mod.rs", "fn f() { tokio::spawn(g()); }");
    caught("src/sensor/mod.rs", "use tokio::{select, spawn};");
    caught("src/sensor/mod.rs", "fn f() { std::time::SystemTime::now(); }");
    caught("src/ledger/step.rs", "fn f(x: E) { match x { E::A => 1, _ => 2 } }");
    caught("src/message/machine.rs", "fn f(x: E) { match x { E::A => 1, _\n => 2 } }");
    caught("src/message/machine/step.rs", "fn f(x: E) { match x { E::A => 1, E::B | _ => 2 } }");
    caught("src/sensor/mod.rs", &"\n".repeat(MOST_LINES + 1));
}

#[test]
fn what_is_allowed_is_not_caught() {
    fine("src/gate/mod.rs", "use std::collections::BTreeMap;\nuse self::limit::limit;\nuse super::gate::Reason;");
    fine("src/gate/mod.rs", "// use tokio::spawn;\n/* a /* nested */ use kube::Client; */\nfn f() {}");
    fine(
        "src/gate/mod.rs",
        "const A: &str = \"tokio::spawn\"; const B: &str = r#\"\"kube::x\"#; const C: char = '\"';",
    );
    fine("src/gate/mod.rs", "fn f<'a>(x: &'a str, tokio: u8) -> u8 { x.http(); tokio }");
    fine("src/gate/mod.rs", "fn f() -> Outcome::tokio::X { my::kube::y() }");
    fine("src/gate/mod.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::clock; fn g() { tokio::spawn(x); } }");
    fine(
        "src/gate/mod.rs",
        "#[cfg(test)]\n#[allow(x)]\nuse std::fs;\n#[cfg(test)] fn f() -> [u8; 2] { std::env::a(); }",
    );
    fine("src/gate/tests.rs", "use std::fs;");
    fine("src/ledger/tests/schedules.rs", "use std::fs;");
    fine("src/ledger/mod.rs", "use crate::{gate::Reason, message, wire};");
    fine("src/ledger/mod.rs", "fn f(x: T) { match x { (_, E::A) => 1, E::B(_) => 2, other_ => 3 } }");
    fine("src/message/retry.rs", "fn f(x: u8) { match x { 0 => 1, _ => 2 } }");
    fine("src/sensor/mod.rs", "use crate::{k8s, leader::Leader, telemetry::Metrics};");
    fine("src/clock.rs", "fn f() { Instant::now(); }");
    fine("src/runtime.rs", "fn f() { tokio::spawn(g()); }");
    fine("src/sensor/mod.rs", &"\n".repeat(MOST_LINES));
}

#[test]
fn a_breach_after_a_test_module_is_still_seen() {
    caught("src/gate/mod.rs", "#[cfg(test)] mod tests { fn f() {} }\nuse tokio::time;");
    caught("src/gate/mod.rs", "#[cfg(test)] mod tests;\nuse tokio::time;");
    caught("src/gate/mod.rs", "#[cfg(not(test))] mod real { use tokio::time; }");
}

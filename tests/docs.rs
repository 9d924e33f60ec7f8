//! The pages of `docs/` that are made from tables in the code say what the code says. `make docs` writes them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;

/// Everything above this line of a page is written by people.
const MARK: &str = "<!-- The rest is written by `make docs`. -->\n\n";

/// Compares a page with what it must be, or writes it where that is asked for.
fn page(name: &str, expected: impl FnOnce(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let expected = expected(&found);
    if std::env::var_os("JETGATE_WRITE_DOCS").is_some() {
        std::fs::write(&path, expected).unwrap();
        return;
    }
    let differs = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "docs/{name} is out of date (first at line {}): run `make docs`",
        differs.map_or_else(|| "its end".to_owned(), |line| (line + 1).to_string())
    );
}

/// What people wrote, and then the table.
fn below_the_mark(found: &str, table: &str) -> String {
    let (head, _) = found.split_once(MARK).expect("the page has the line below which the table stands");
    format!("{head}{MARK}{table}")
}

#[test]
fn settings() {
    page("settings.md", |found| below_the_mark(found, &jetgate::api::markdown()));
}

/// What the code asks the environment for stands in the table.
#[test]
fn every_variable_that_is_read_is_a_documented_one() {
    fn read(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, found);
            } else if !path.ends_with("tests.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for call in ["env::var(\"", "env::var_os(\""] {
                    let names = text.split(call).skip(1).filter_map(|rest| rest.split('"').next());
                    found.extend(names.map(str::to_owned));
                }
            }
        }
    }
    let mut names = Vec::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
    // Those are for tests alone.
    names.retain(|name| !name.starts_with("JETGATE_"));
    assert!(names.len() >= 5, "{names:?}");
    let table = jetgate::api::markdown();
    for name in names {
        assert!(table.contains(&format!("| `{name}` |")), "{name} is read and not documented");
    }
}

#[test]
fn templates() {
    page("templates.md", |found| below_the_mark(found, &jetgate::template::functions::markdown()));
}

#[test]
fn metrics() {
    page("metrics.md", |_| jetgate::telemetry::markdown());
}

#[test]
fn reasons() {
    page("reasons.md", |_| jetgate::gate::Reason::markdown());
}

/// Sources below a folder, by their path without the ending.
fn sources(folder: &Path, into: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            into.push((path.with_extension("").to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn every_promise_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, promises) = text.split_once("## Promises").unwrap();
    let (promises, _) = promises.split_once("\n## ").unwrap();
    let rows = promises.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"));
    let mut all = Vec::new();
    sources(&root.join("src"), &mut all);
    sources(&root.join("tests"), &mut all);
    let mut promised = 0;
    for row in rows {
        promised += 1;
        let shown_by = row.trim_end_matches(" |").rsplit_once(" | ").unwrap().1;
        let tests: Vec<(&str, &str)> =
            shown_by.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")).collect();
        assert!(!tests.is_empty(), "no test is named: {row}");
        for (file, test) in tests {
            let there = all
                .iter()
                .any(|(path, source)| path.ends_with(&format!("/{file}")) && source.contains(&format!("fn {test}()")));
            assert!(there, "ARCHITECTURE.md names the test {file}::{test}, which is not there");
        }
    }
    assert_eq!(promised, 7);
}

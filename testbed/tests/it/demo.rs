//! `make demo` as a person runs it, smaller: what it says in the end, and its exit code.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// Far above what it takes, also beside other tests.
const LONG: Duration = Duration::from_secs(300);

/// The program under test, built beside the demo by any command for the whole workspace.
fn sensor() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_demo")).with_file_name("jetgate");
    assert!(path.exists(), "{} is missing: `cargo build` makes it", path.display());
    path
}

/// A row of the table.
#[derive(Debug)]
struct Row {
    live: u64,
    limit: String,
    gate: String,
    waiting: String,
    created: u64,
}

/// Every row, in order; what is told between them is no row.
fn rows(told: &str) -> Vec<Row> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [time, used, live, limit, gate @ .., waiting, created] = words.as_slice() else { return None };
        let number = |word: &str| word.parse::<u64>().ok();
        time.strip_suffix('s')?.parse::<f64>().ok()?;
        number(used).or_else(|| (*used == "-").then_some(0))?;
        Some(Row {
            live: number(live)?,
            limit: (*limit).to_owned(),
            gate: gate.join(" "),
            waiting: (*waiting).to_owned(),
            created: number(created)?,
        })
    };
    told.lines().filter_map(row).collect()
}

async fn demo(sensor: &Path, options: &[&str]) -> Output {
    let run = tokio::process::Command::new(env!("CARGO_BIN_EXE_demo"))
        .arg("--sensor")
        .arg(sensor)
        .args(options)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(LONG, run).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_every_promise_with_all_faults() {
    let options = ["--json", "--messages", "24", "--hard", "20", "--job-seconds", "2"];
    let output = demo(&sensor(), &options).await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    for fault in ["API server", "NATS", "sensor"] {
        assert!(told.contains(&format!("FAULT      {fault}: ")), "{fault}\n{told}");
        assert!(told.contains(&format!("RECOVERED  {fault}: ")), "{fault}\n{told}");
    }
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (key, value) in [("created", json!(24)), ("lost", json!([])), ("doubled", json!([])), ("most_alive", json!(19))]
    {
        assert_eq!(summary[key], value, "{key}\n{summary:#}\n{told}");
    }
    // The summary's other half: the sensor was held up by the limit, and refused as often as the log of requests says.
    assert!(summary["blocked_seconds"]["at_limit"].as_f64().unwrap() > 0.0, "{summary:#}\n{told}");
    let refused = summary["posts"].get("403").cloned().unwrap_or_else(|| json!(0));
    assert_eq!(summary["refusals"], refused, "{summary:#}\n{told}");
    assert!(summary["seconds_to_first_message"].as_f64().unwrap() > 0.0, "{summary:#}\n{told}");
    let said =
        told.split_once("\nreferee: 24 created, 0 lost, 0 doubled, most alive at once 19, blocked for ").unwrap().1;
    assert!(said.contains(&format!(" s, {refused} refusals\n  messages   24 published, the first one ")), "{told}");
    // The table, as things change: from nothing, over the limit, to the end.
    let heading = "  time   used   live  limit  gate                       waiting  created\n";
    let (_, table) = told.split_once(heading).unwrap();
    let rows = rows(table);
    let is_full = |row: &Row| row.gate == "blocked: at_limit" && (row.live, row.limit.as_str()) == (19, "19");
    assert!(rows.iter().any(|row| is_full(row) && row.created == 19), "{told}");
    assert!(rows.is_sorted_by_key(|row| row.created), "{told}");
    assert!(rows.iter().any(|row| row.gate == "open"), "{told}");
    let last = rows.last().unwrap();
    assert_eq!((last.created, last.waiting.as_str()), (24, "0"), "{told}");
}

/// The same sensor, told by its environment to use more of the quota than the demo allows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_promise_ends_with_its_own_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let greedy = folder.path().join("greedy");
    let script = format!("#!/bin/sh\nBACKPRESSURE_CAPACITY_RATIO=1 exec '{}' \"$@\"\n", sensor().display());
    std::fs::write(&greedy, script).unwrap();
    std::fs::set_permissions(&greedy, Permissions::from_mode(0o755)).unwrap();
    let options = ["--no-faults", "--messages", "12", "--hard", "10", "--ratio", "0.5", "--job-seconds", "1"];
    let output = demo(&greedy, &options).await;
    let told = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("most alive at once 10"), "{told}");
    assert!(told.contains("broken promise"), "{told}");
}

#[tokio::test]
async fn what_is_no_sensor_is_said_before_anything_starts() {
    let output = demo(Path::new("/bin/false"), &[]).await;
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("is no jetgate that works"), "{told}");
}

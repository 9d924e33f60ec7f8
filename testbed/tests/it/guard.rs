//! Nothing is left behind, however the process that started it ends.
//!
//! Each test starts this test binary again for one of the ignored tests below, which starts processes, writes their
//! numbers and ends in its own way.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use testbed::{Nats, wait};
use tokio::sync::OnceCell;

use crate::SOON;

const REPORT: &str = "TESTBED_GUARD_REPORT";

static KEPT: OnceCell<Nats> = OnceCell::const_new();

#[tokio::test]
async fn nothing_is_left_after_a_panic() {
    nothing_is_left("guard::child_panics", None).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_static_after_a_plain_exit() {
    nothing_is_left("guard::child_keeps_it_in_a_static", None).await;
}

#[tokio::test]
async fn nothing_is_left_after_sigkill() {
    nothing_is_left("guard::child_waits", Some(Signal::KILL)).await;
}

#[tokio::test]
async fn nothing_is_left_after_ctrl_c() {
    nothing_is_left("guard::child_waits", Some(Signal::INT)).await;
}

#[tokio::test]
async fn a_stopped_process_goes_with_its_owner() {
    let nats = Nats::start_plain().await.unwrap();
    let pid = nats.process().pid();
    nats.process().stop().unwrap();
    drop(nats);
    assert!(!runs(pid));
}

async fn nothing_is_left(child: &str, signal: Option<Signal>) {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    // Who starts the tests in the background from a script has them ignore Ctrl-C, and so would the child.
    let mut process = Command::new("env")
        .arg("--default-signal=INT")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", child, "--ignored", "--nocapture"])
        .env(REPORT, &report)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (server, store) = wait::until("the child's report", SOON, || {
        let report = read(&report);
        async { report }
    })
    .await
    .unwrap();
    if let Some(signal) = signal {
        assert!(runs(server));
        assert!(store.exists());
        kill_process(Pid::from_child(&process), signal).unwrap();
    }
    process.wait().unwrap();
    wait::until_true("the end of the child's server", SOON, || async { !runs(server) }).await.unwrap();
    wait::until_true("the end of its folder", SOON, || async { !store.exists() }).await.unwrap();
}

#[tokio::test]
#[ignore = "a child of the tests above"]
async fn child_panics() {
    let nats = Nats::start_plain().await.unwrap();
    tell(&nats);
    panic!("on purpose");
}

#[tokio::test]
#[ignore = "a child of the tests above"]
async fn child_keeps_it_in_a_static() {
    tell(KEPT.get_or_try_init(Nats::start_plain).await.unwrap());
}

#[tokio::test]
#[ignore = "a child of the tests above"]
async fn child_waits() {
    let nats = Nats::start_plain().await.unwrap();
    tell(&nats);
    std::future::pending::<()>().await;
}

/// Writes what is to be gone; whole or not at all.
fn tell(nats: &Nats) {
    let Some(report) = std::env::var_os(REPORT).map(PathBuf::from) else {
        return;
    };
    let folder = nats.process().log().parent().unwrap();
    let half = report.with_extension("half");
    std::fs::write(&half, format!("{}\n{}", nats.process().pid(), folder.display())).unwrap();
    std::fs::rename(half, report).unwrap();
}

fn read(report: &Path) -> Option<(i32, PathBuf)> {
    let text = std::fs::read_to_string(report).ok()?;
    let (pid, folder) = text.split_once('\n')?;
    Some((pid.parse().ok()?, PathBuf::from(folder)))
}

/// A zombie whose parent is gone does not run, whether or not this machine's init reaps it.
fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with('Z')))
        .is_some_and(|zombie| !zombie)
}

//! The size of the program, on disk and in memory.

use std::path::Path;
use std::time::Duration;

use testbed::{ControlPlane, Nats};

use crate::bare;
use crate::figures::{Samples, Usage};
use crate::support::Stage;

fn megabytes(path: &Path) -> f64 {
    std::fs::metadata(path).unwrap().len() as f64 / 1e6
}

pub(crate) async fn run() {
    let program = Path::new(env!("CARGO_BIN_EXE_jetgate"));
    let folder = tempfile::tempdir().unwrap();
    let stripped = folder.path().join("jetgate");
    println!("size:");
    println!("  {:<52} {:.1} MB", "program as built (with line tables)", megabytes(program));
    let strip = std::process::Command::new("strip").arg("-o").arg(&stripped).arg(program).status();
    if strip.is_ok_and(|status| status.success()) {
        println!("  {:<52} {:.1} MB  (aim 15)", "program stripped", megabytes(&stripped));
    } else {
        println!("  no `strip` here, so the size without symbols is not known");
    }
    let plane = ControlPlane::shared().await.unwrap();
    let nats = Nats::start_plain().await.unwrap();
    let (mut rest, mut beside) = (Samples::default(), Samples::default());
    for _ in 0..3 {
        let mut stage = Stage::new(plane, &nats, "rest", "75").await;
        stage.unset("BACKPRESSURE_SIGNAL_MAX_AGE").unset("CREATE_TIMEOUT").unset("ACK_WAIT");
        let sensor = stage.start().await;
        let usage = at_rest("jetgate", sensor.process.pid()).await;
        let kubeconfig = plane.kubeconfig_admin().unwrap();
        let kubeconfig = kubeconfig.to_str().unwrap();
        let arguments = ["rest", kubeconfig, &stage.namespace, &stage.nats_url, &stage.stream, &stage.sensor];
        let bare = bare::start(&arguments, folder.path());
        let least = at_rest("bare client", bare.pid()).await;
        assert!(bare.is_alive(), "{}", bare.last_log_lines(20));
        bare.kill().await.unwrap();
        rest.push(usage.resident_mib);
        beside.push(usage.resident_mib / least.resident_mib);
        sensor.stop().await;
    }
    rest.print("RSS at rest, MiB", "15");
    beside.print("RSS at rest beside a bare client that waits", "");
}

async fn at_rest(name: &str, pid: i32) -> Usage {
    // Past the start: what it allocated then has had time to go, and watches have been renewed.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let before = Usage::of(pid);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let usage = Usage::of(pid);
    println!(
        "    {name} at rest: RSS {:.1} MiB, peak {:.1} MiB, {} threads, CPU {:.1} ms a second",
        usage.resident_mib,
        usage.peak_mib,
        usage.threads,
        usage.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e3 / 5.0
    );
    usage
}

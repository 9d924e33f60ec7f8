//! The size of the program, on disk and in memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use testbed::process::{Process, Spec};
use testbed::{ControlPlane, Nats};

use crate::figures::{Samples, Usage};
use crate::support::Stage;

fn megabytes(path: &Path) -> f64 {
    std::fs::metadata(path).unwrap().len() as f64 / 1e6
}

/// Without symbols, where there is `strip`.
fn stripped(program: &Path, folder: &Path) -> Option<f64> {
    let stripped = folder.join("stripped");
    let strip = std::process::Command::new("strip").arg("-o").arg(&stripped).arg(program).status();
    strip.is_ok_and(|status| status.success()).then(|| megabytes(&stripped))
}

/// The newest build of the bare client, which lies beside this program.
fn bare_client() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let built = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("waiting-") && path.extension().is_none()
    });
    let newest = built.max_by_key(|path| path.metadata().unwrap().modified().unwrap());
    newest.expect("the bare client is built by `cargo bench --no-run`")
}

pub(crate) async fn run() {
    let program = Path::new(env!("CARGO_BIN_EXE_jetgate"));
    let bare = bare_client();
    let folder = tempfile::tempdir().unwrap();
    println!("size:");
    println!("  {:<52} {:.1} MB", "program as built (with line tables)", megabytes(program));
    match (stripped(program, folder.path()), stripped(&bare, folder.path())) {
        (Some(size), Some(least)) => {
            println!("  {:<52} {size:.1} MB  (aim 15)", "program stripped");
            println!("  {:<52} {least:.1} MB, ratio {:.2}", "bare client that waits, stripped", size / least);
        }
        _ => println!("  no `strip` here, so the size without symbols is not known"),
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
        let arguments = [kubeconfig, &stage.namespace, &stage.nats_url, &stage.stream, &stage.sensor];
        let log = folder.path().join("bare.log");
        let bare = Process::spawn(Spec::new("bare client", bare.clone(), arguments, log)).unwrap();
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

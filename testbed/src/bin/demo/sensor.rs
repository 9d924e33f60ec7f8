//! The sensor under test: a process, and what it says about itself over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use testbed::http_client;
use testbed::ports::Port;
use testbed::process::{Process, Spec};

use crate::failure::{Failure, Result};

const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// Above the sensor's own grace period.
const STOPS_WITHIN: Duration = Duration::from_secs(40);

pub(crate) struct Sensor {
    process: Process,
    port: Port,
    // While a fault has it down.
    may_be_down: AtomicBool,
}

/// What it says about itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saying {
    /// The reason of its gate; `None` where it is open.
    pub(crate) reason: Option<String>,
    pub(crate) limit: Option<u64>,
    pub(crate) blocked_seconds: BTreeMap<String, f64>,
    pub(crate) nats_connected: bool,
    pub(crate) nats_reconnects: u64,
}

/// The program, and what it calls itself.
pub(crate) async fn program(given: Option<&Path>) -> Result<(PathBuf, String)> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("jetgate"),
    };
    let shown = path.display();
    let output = tokio::process::Command::new(&path).arg("--version").output().await.map_err(|error| {
        Failure::new(format!("{shown}: {error}; `cargo build` makes the program, --sensor PATH names another one"))
    })?;
    if !output.status.success() {
        return Err(Failure::new(format!(
            "{shown} is no jetgate that works: `{shown} --version` ended with {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        )));
    }
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    // It is started in another folder than ours.
    Ok((path.canonicalize()?, version))
}

impl Sensor {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(spec: Spec, port: Port) -> Result<Self> {
        let address = port.address();
        let spec = spec.ready(move || async move { http_client::probe(address, "/readyz").await });
        let process = Process::start(spec).await?;
        Ok(Self { process, port, may_be_down: AtomicBool::new(false) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub(crate) fn last_lines(&self, lines: usize) -> String {
        self.process.last_log_lines(lines)
    }

    pub(crate) fn log(&self) -> &Path {
        self.process.log()
    }

    /// An error where it has ended by itself.
    pub(crate) fn must_run(&self) -> Result<()> {
        if self.process.is_alive() || self.may_be_down.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Failure::new(format!(
            "the sensor ended although nobody stopped it; its last lines:\n{}",
            self.process.last_log_lines(20)
        )))
    }

    /// SIGKILL.
    pub(crate) async fn kill(&self) -> Result<()> {
        self.may_be_down.store(true, Ordering::Relaxed);
        self.process.kill().await?;
        Ok(())
    }

    /// Starts it again and waits until it is ready.
    pub(crate) async fn start_again(&self) -> Result<()> {
        self.process.start_again().await?;
        self.may_be_down.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// SIGTERM; in words how it ended, as an error where that was not with exit code 0 in time.
    pub(crate) async fn stop(&self) -> Result<(), String> {
        self.may_be_down.store(true, Ordering::Relaxed);
        self.process.terminate().map_err(|error| error.to_string())?;
        let ended = self.process.wait_exit(STOPS_WITHIN).await;
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("the sensor ended with {status} on SIGTERM")),
            Err(_timeout) => Err(format!("the sensor still ran {} s after SIGTERM", STOPS_WITHIN.as_secs())),
        }
    }

    /// What it says now; `None` where it does not answer.
    pub(crate) async fn ask(&self) -> Option<Saying> {
        let (state, metrics) = tokio::join!(self.get("/debug/state"), self.get("/metrics"));
        let state: Value = serde_json::from_str(&state?).ok()?;
        let metrics = metrics?;
        let one = |name: &str| series(&metrics, name).map(|(_, value)| value).next();
        let mut blocked_seconds = BTreeMap::new();
        for (labels, value) in series(&metrics, "sensor_quota_blocked_seconds_total") {
            if let Some(reason) = label(labels, "reason") {
                *blocked_seconds.entry(reason.to_owned()).or_default() += value;
            }
        }
        // Behind our back somebody else may have taken its port.
        let gate = state.pointer("/gate/state").and_then(Value::as_str)?;
        let reason = state.pointer("/gate/reason").and_then(Value::as_str);
        Some(Saying {
            reason: (gate != "open").then(|| reason.unwrap_or("?").to_owned()),
            limit: one("sensor_quota_limit").and_then(whole),
            blocked_seconds,
            nats_connected: one("sensor_nats_connected").is_some_and(|value| value > 0.0),
            nats_reconnects: one("sensor_nats_reconnects_total").and_then(whole).unwrap_or(0),
        })
    }

    async fn get(&self, path: &str) -> Option<String> {
        http_client::get(self.address(), path, ANSWERS_WITHIN).await.ok()
    }
}

/// The labels and values of a metric in Prometheus' text form.
fn series<'t>(text: &'t str, name: &str) -> impl Iterator<Item = (&'t str, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        if !labels.is_empty() && !labels.starts_with('{') {
            return None;
        }
        Some((labels, value.parse().ok()?))
    })
}

fn label<'t>(labels: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

fn whole(value: f64) -> Option<u64> {
    format!("{value:.0}").parse().ok()
}

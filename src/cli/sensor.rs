//! `jetgate sensor` and `jetgate check`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use super::{BAD_INPUT, chain, nats, outside, place};
use crate::api::{LogFormat, Origin, Sensor, SensorFileContext, Settings, SettingsArgs, Trigger};
use crate::gate::Reminder;
use crate::ledger::LedgerOptions;
use crate::runtime::{self, Ending, Failures};
use crate::sensor::{self, Config};
use crate::telemetry::logs;

/// Tests alone: leaves the live side out of the count, to show what a gate on `used` lets through.
#[cfg(feature = "testing")]
const WITHOUT_LIVE_SIDE: &str = "JETGATE_TEST_WITHOUT_LIVE_SIDE";
/// Tests alone: the milliseconds after which a gate that is still blocked is said again.
#[cfg(feature = "testing")]
const REMIND_EVERY: &str = "JETGATE_TEST_REMIND_EVERY_MS";

/// Runs a sensor until it is told to stop.
pub(super) fn run(args: &SettingsArgs) -> ExitCode {
    let config = match read(args) {
        Ok(config) => config,
        Err(sentences) => return refuse(&sentences),
    };
    let settings = &config.settings;
    let format = match settings.log_format {
        LogFormat::Json => logs::Format::Json,
        LogFormat::Plain => logs::Format::Plain,
    };
    let rust_log = match rust_log(log_level(settings), std::env::var_os("RUST_LOG")) {
        Ok(rust_log) => rust_log,
        Err(sentence) => return refuse(&[sentence]),
    };
    if let Err(error) = logs::init(format, log_level(settings), rust_log.as_deref()) {
        return refuse(&[chain(&error)]);
    }
    say_settings(&config);
    let grace = settings.shutdown_grace;
    let ending = runtime::run(grace, move |tasks| sensor::start(config, tasks));
    say_ending(&ending, grace);
    ending.into()
}

/// Says whether a sensor would start.
pub(super) fn check(args: &SettingsArgs) -> ExitCode {
    match read(args) {
        Ok(config) => {
            for warning in &config.settings.warnings {
                eprintln!("warning: {warning}");
            }
            let what = match &config.sensor.trigger {
                Trigger::Kubernetes(trigger) => format!("creates {} {}", trigger.api_version, trigger.kind),
                Trigger::Log(_) => "writes to the log".to_owned(),
            };
            println!(
                "sensor {} in namespace {}: stream {}, subject {}, trigger {} {what}",
                config.sensor.name,
                config.namespace,
                config.sensor.stream,
                config.sensor.subject,
                config.sensor.trigger_name
            );
            ExitCode::SUCCESS
        }
        Err(sentences) => refuse(&sentences),
    }
}

/// `LOG_LEVEL` where it is given: the default gives way to `RUST_LOG`.
fn log_level(settings: &Settings) -> Option<&str> {
    let is_set = settings.effective().iter().any(|row| row.name == "LOG_LEVEL" && row.origin != Origin::Default);
    Some(settings.log_level.as_str()).filter(|_| is_set)
}

/// `RUST_LOG` counts only where `LOG_LEVEL` is not given.
fn rust_log(log_level: Option<&str>, given: Option<OsString>) -> Result<Option<String>, String> {
    let counts = given.filter(|_| log_level.is_none());
    let text = counts.map(OsString::into_string).transpose();
    text.map_err(|_| "RUST_LOG: the value is not UTF-8; allowed is a log filter".to_owned())
}

fn refuse(sentences: &[String]) -> ExitCode {
    for sentence in sentences {
        eprintln!("jetgate: {sentence}");
    }
    ExitCode::from(BAD_INPUT)
}

/// Settings, sensor file and what is around the process; or every sentence about what is wrong.
fn read(args: &SettingsArgs) -> Result<Config, Vec<String>> {
    let settings = Settings::resolve(args, std::env::vars_os())
        .map_err(|error| error.problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let rust_log = rust_log(log_level(&settings), std::env::var_os("RUST_LOG")).map_err(|sentence| vec![sentence])?;
    if let Err(error) = logs::filter(log_level(&settings), rust_log.as_deref()) {
        return Err(vec![chain(&error)]);
    }
    let faults = outside::nats_faults(&settings);
    if !faults.is_empty() {
        return Err(faults);
    }
    let kubeconfig_faults = outside::kubeconfig_faults(&settings);
    let namespace = place::namespace(&settings).map_err(|problem| vec![problem.to_string()])?.ok_or_else(|| {
        if !kubeconfig_faults.is_empty() {
            return kubeconfig_faults.clone();
        }
        vec![
            "BACKPRESSURE_QUOTA_NAMESPACE: it is needed, because this process is no pod that knows its namespace \
             (POD_NAMESPACE, a service account, or a kubeconfig whose context has one)"
                .to_owned(),
        ]
    })?;
    let path = &settings.sensor_file;
    let text = std::fs::read_to_string(path).map_err(|error| {
        vec![format!(
            "SENSOR_FILE: cannot read {}: {error}; allowed is the path of a YAML file in UTF-8",
            path.display()
        )]
    })?;
    let context =
        SensorFileContext { sensor_name: settings.sensor_name.as_deref(), namespace: Some(namespace.as_str()) };
    let sensor =
        Sensor::parse(&text, &context).map_err(|error| vec![format!("{}: {}", path.display(), chain(&error))])?;
    // What nobody uses may be as it is: a shell has its own.
    if sensor::needs_cluster(&settings, &sensor) && !kubeconfig_faults.is_empty() {
        return Err(kubeconfig_faults);
    }
    let nats = nats::options(&settings.nats, &format!("jetgate sensor {}", sensor.name))
        .map_err(|error| vec![chain(&error)])?;
    let identity = place::identity(&sensor.name);
    let (ledger, remind_every) = (ledger_options(), remind_every());
    Ok(Config { namespace, identity, nats, ledger, remind_every, sensor, settings })
}

#[cfg(feature = "testing")]
fn ledger_options() -> LedgerOptions {
    LedgerOptions { live_side: std::env::var_os(WITHOUT_LIVE_SIDE).is_none(), ..LedgerOptions::default() }
}

#[cfg(not(feature = "testing"))]
fn ledger_options() -> LedgerOptions {
    LedgerOptions::default()
}

#[cfg(feature = "testing")]
fn remind_every() -> Duration {
    let asked = std::env::var(REMIND_EVERY).ok().and_then(|millis| millis.parse().ok());
    asked.map_or(Reminder::EVERY, Duration::from_millis)
}

#[cfg(not(feature = "testing"))]
const fn remind_every() -> Duration {
    Reminder::EVERY
}

/// The effective settings, once and without secrets.
fn say_settings(config: &Config) {
    let settings: serde_json::Map<String, serde_json::Value> =
        config.settings.effective().iter().map(|row| (row.name.to_owned(), row.value.clone().into())).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        sensor = config.sensor.name,
        namespace = config.namespace,
        settings = %serde_json::Value::Object(settings),
        "starting"
    );
    for warning in &config.settings.warnings {
        tracing::warn!("{warning}");
    }
}

fn say_ending(ending: &Ending, grace: Duration) {
    match ending {
        Ending::Done => tracing::info!("stopped"),
        Ending::Failed(failures) => say_failures(failures, grace),
        Ending::Aborted(signal) => tracing::warn!(signal = ?signal, "aborted by a second signal"),
        Ending::NotStarted(error) => tracing::error!(error = %error, "not started"),
    }
}

fn say_failures(failures: &Failures, grace: Duration) {
    tracing::error!(error = %failures, grace_seconds = grace.as_secs_f64(), "failed");
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn rust_log_counts_where_there_is_no_level() {
        let bytes = || Some(OsString::from_vec(vec![b'q', 0xff]));
        let sentence = "RUST_LOG: the value is not UTF-8; allowed is a log filter";
        assert_eq!(rust_log(None, bytes()), Err(sentence.to_owned()));
        assert_eq!(rust_log(Some("info"), bytes()), Ok(None));
        assert_eq!(rust_log(None, Some("debug".into())), Ok(Some("debug".to_owned())));
        assert_eq!(rust_log(None, None), Ok(None));
    }
}

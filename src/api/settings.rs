//! Variables and flags into settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, FromArgMatches};

use crate::gate::{Quantity, Ratio, ResourceName};

use super::names;
use super::nats::NatsSettings;
use super::problem::{Problem, SettingsError};
use super::reader::Reader;
use super::table::{self, SETTINGS, Setting};

/// What a sensor was told.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The quota to respect; none: gating is off.
    pub quota: Option<QuotaSettings>,
    /// Where the quota is and objects are created, as configured; see [`Settings::resolve_namespace`].
    pub namespace: Option<String>,
    /// Name of the sensor, where the sensor file does not give it.
    pub sensor_name: Option<String>,
    /// Path of the sensor file.
    pub sensor_file: PathBuf,
    /// Where a new durable begins; none: by the stream's retention.
    pub deliver_policy: Option<DeliverPolicy>,
    /// Before the server delivers again.
    pub ack_wait: Duration,
    /// The longest that a create may live: P of the protocol.
    pub create_timeout: Duration,
    /// Whether messages wait after the server may have forgotten deliveries.
    pub redelivery_pause: bool,
    /// Messages in hand.
    pub max_in_flight: u32,
    /// Stream of dead letters; none: `<stream>-dead`, with the instance behind it where one is set.
    pub dead_letter_stream: Option<String>,
    /// What happens to a message in doubt.
    pub on_doubt: OnDoubt,
    /// Part of bucket names and subjects; may be empty.
    pub instance: String,
    /// Servers that keep what is made here; none: as many as keep the stream.
    pub replicas: Option<u32>,
    /// Port for metrics and health; 0: any.
    pub metrics_port: u16,
    /// Prefix of the copied gauge; may be empty.
    pub metrics_prefix: String,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Level or filter directives, not read any further here.
    pub log_level: String,
    /// How long a stop may take.
    pub shutdown_grace: Duration,
    /// NATS.
    pub nats: NatsSettings,
    /// Kubeconfig, where it is not the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// What to say in the log: settings that have no effect.
    pub warnings: Vec<String>,
    pub(super) effective: Vec<Effective>,
}

/// How a quota is respected.
#[derive(Debug, Clone, PartialEq)]
pub struct QuotaSettings {
    /// One or more names.
    pub names: Vec<String>,
    /// What one effect costs, of each resource.
    pub resources: Vec<(ResourceName, Quantity)>,
    /// Share of hard.
    pub ratio: Ratio,
    /// The leader's re-read.
    pub poll_interval: Duration,
    /// L of the protocol: the credit lease.
    pub signal_max_age: Duration,
    /// How long an effect counts that cannot be watched.
    pub settle_time: Duration,
    /// Who leads.
    pub source: Source,
}

/// Who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The controller.
    Controller,
    /// The sensors among themselves.
    Apiserver,
}

/// Where a new durable begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliverPolicy {
    /// With what comes from now on.
    New,
    /// With the first message of the stream.
    All,
    /// With the last message.
    Last,
}

/// What happens to a message whose object may have existed in a gap of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnDoubt {
    /// Its object is created, perhaps for the second time.
    Create,
    /// It goes to the dead letters.
    Dead,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Plain,
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The table.
    Default,
    /// The environment.
    Variable,
    /// The command line, which wins.
    Flag,
}

/// A setting as it is in effect, fit for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The variable.
    pub name: &'static str,
    /// The value; a secret is `(not shown)`, nothing is empty.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// The flags as they were given. Flatten it into a command: it brings one argument per row of the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingsArgs(BTreeMap<&'static str, String>);

impl SettingsArgs {
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static str, &String)> {
        self.0.iter().map(|(variable, value)| (*variable, value))
    }
}

impl clap::Args for SettingsArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        SETTINGS.iter().fold(command, |command, setting| command.arg(argument(setting)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in SETTINGS {
            if let Some(value) = matches.get_one::<String>(setting.variable) {
                self.0.insert(setting.variable, value.clone());
            }
        }
        Ok(())
    }
}

fn argument(setting: &Setting) -> clap::Arg {
    let default = match setting.default_shown() {
        "" => String::new(),
        default => format!(", default: {default}"),
    };
    let help = format!("{} [{}{default}; env: {}]", setting.meaning, setting.form, setting.variable);
    let argument = clap::Arg::new(setting.variable).long(setting.flag).help(help).value_name("VALUE");
    match setting.variable {
        // `--nats-tls-first` alone means true.
        table::NATS_TLS_FIRST => argument.num_args(0..=1).default_missing_value("true").require_equals(true),
        _ => argument.allow_hyphen_values(true),
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// The command line itself; also `--help`.
    #[error(transparent)]
    Flags(#[from] clap::Error),
    /// Values.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

impl Settings {
    /// Reads a command line (with the program's name first) and an environment.
    ///
    /// # Errors
    /// Where a flag is unknown, or with everything that is wrong with the values.
    pub fn from_args_and_env(
        args: impl Iterator<Item = OsString>,
        env: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ArgsError> {
        let command = <SettingsArgs as clap::Args>::augment_args(clap::Command::new("jetgate"));
        let matches = command.try_get_matches_from(args)?;
        Ok(Self::resolve(&SettingsArgs::from_arg_matches(&matches)?, env)?)
    }

    /// Flags win over variables, variables over defaults; an empty one counts as not given.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn resolve(
        args: &SettingsArgs,
        env: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let mut reader = Reader::new(args, env);
        let settings = reader.settings();
        match settings {
            Some(settings) if reader.problems.is_empty() => Ok(settings),
            _ => Err(SettingsError { problems: reader.problems }),
        }
    }

    /// Every setting, its value without secrets and where it came from, for the one line of the log.
    #[must_use]
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }

    /// The namespace of the quota and of the objects: as configured, else as the first of those says that has it, each
    /// with its name in a sentence. Reading them belongs to the caller.
    ///
    /// # Errors
    /// Where the first that says something says what is no namespace.
    pub fn resolve_namespace<'a>(
        &self,
        around: impl IntoIterator<Item = (&'a str, Option<String>)>,
    ) -> Result<Option<String>, Problem> {
        if let Some(configured) = &self.namespace {
            return Ok(Some(configured.clone()));
        }
        for (place, said) in around {
            let Some(namespace) = said.as_deref().map(str::trim).filter(|namespace| !namespace.is_empty()) else {
                continue;
            };
            return match names::dns_label(namespace) {
                Ok(()) => Ok(Some(namespace.to_owned())),
                Err(error) => Err(Problem { setting: place.to_owned(), kind: error.into() }),
            };
        }
        Ok(None)
    }
}

//! What can be asked of the demo.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// A burst of messages on a ResourceQuota that has no room for all of them: real API server, etcd, quota controller and
/// nats-server, the jetgate sensor in front of them, and faults. A referee with its own eyes judges at the end.
///
/// Exit code: 0 every promise was kept, 1 one was broken, 2 the demo could not run, 130 interrupted.
#[derive(Clone, Debug, Parser)]
#[command(name = "demo", version)]
pub(crate) struct Options {
    /// The jetgate program [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) sensor: Option<PathBuf>,
    /// How many messages are published at once
    #[arg(long, value_name = "COUNT", default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) messages: u32,
    /// The hard limit of the quota on count/workflows.argoproj.io
    #[arg(long, value_name = "COUNT", default_value_t = 75, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) hard: u32,
    /// The share of it that the sensor may use, above 0 and at most 1
    #[arg(long, default_value = "0.95")]
    pub(crate) ratio: Ratio,
    /// How long a Workflow runs on average once the burst is over
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) job_seconds: Duration,
    /// Which faults happen
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [Fault::Api, Fault::Nats, Fault::Sensor])]
    pub(crate) faults: Vec<Fault>,
    /// No faults
    #[arg(long, conflicts_with = "faults")]
    pub(crate) no_faults: bool,
    /// When the faults happen and which Workflows finish first is drawn from this
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) seed: u64,
    /// The summary as JSON on standard output; everything else goes to standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// Keep the folders with data and logs
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Something that breaks, once.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Fault {
    /// The sensor's connections to the API server are cut in the middle of the burst
    Api,
    /// nats-server is killed and restarted while the messages wait in it
    Nats,
    /// The sensor is killed and restarted while the rest is being created
    Sensor,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Api => "api",
            Self::Nats => "nats",
            Self::Sensor => "sensor",
        })
    }
}

impl Options {
    pub(crate) fn breaks(&self, fault: Fault) -> bool {
        !self.no_faults && self.faults.contains(&fault)
    }

    pub(crate) fn count(&self) -> usize {
        self.messages.try_into().unwrap_or(usize::MAX)
    }

    /// How many objects may be alive at once, computed here and not asked of the sensor.
    pub(crate) fn limit(&self) -> usize {
        let most = u64::from(self.hard) * self.ratio.parts / self.ratio.whole;
        usize::try_from(most).unwrap_or(usize::MAX).max(1)
    }
}

/// An exact decimal in (0, 1].
#[derive(Clone, Debug)]
pub(crate) struct Ratio {
    text: String,
    parts: u64,
    whole: u64,
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no decimal number above 0 and at most 1 with up to nine decimals");
        let (units, decimals) = text.split_once('.').unwrap_or((text, ""));
        let places = u32::try_from(decimals.len()).ok().filter(|places| *places <= 9).ok_or_else(wrong)?;
        let digits = format!("{units}{decimals}");
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let whole = 10_u64.pow(places);
        let parts = digits.parse().ok().filter(|parts| (1..=whole).contains(parts)).ok_or_else(wrong)?;
        Ok(Self { text: text.to_owned(), parts, whole })
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_no_number| format!("'{text}' is no number of seconds"))?;
    if (0.1..=600.0).contains(&number) {
        Ok(Duration::from_secs_f64(number))
    } else {
        Err("0.1 to 600 are possible".to_owned())
    }
}

//! What is the case now, looked at again and again: by our own eyes, and what the sensor says of itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::failure::{Failure, Result};
use crate::screen::Screen;
use crate::sensor::Saying;
use crate::stage::Stage;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The numbers of one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sight {
    /// `status.used` of the quota.
    pub(crate) used: Option<u64>,
    /// Alive, as the referee sees it.
    pub(crate) live: usize,
    /// The sensor's limit.
    pub(crate) limit: Option<u64>,
    pub(crate) gate: Gate,
    /// Which sensor process said so.
    pub(crate) sensor: i32,
    /// Messages in the stream that are not acknowledged yet.
    pub(crate) waiting: Option<u64>,
    /// Ever created, as the referee saw it.
    pub(crate) created: usize,
    pub(crate) nats_connected: bool,
    pub(crate) nats_reconnects: u64,
    /// How long the gate was blocked, by reason, over the restarts of the sensor.
    pub(crate) blocked: Blocked,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Gate {
    Open,
    Blocked(String),
    /// The sensor does not answer.
    #[default]
    Unknown,
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Blocked(reason) => write!(f, "blocked: {reason}"),
            Self::Unknown => f.write_str("(no sensor)"),
        }
    }
}

impl Sight {
    /// Whether a row would show the same.
    pub(crate) fn looks_like(&self, other: &Self) -> bool {
        let row = |sight: &Self| (sight.used, sight.live, sight.limit, sight.waiting, sight.created);
        row(self) == row(other) && self.gate == other.gate
    }

    pub(crate) fn is_blocked_by(&self, reason: &str) -> bool {
        matches!(&self.gate, Gate::Blocked(why) if why == reason)
    }
}

/// A counter for each reason that begins at zero again when the sensor does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocked {
    before: BTreeMap<String, f64>,
    now: BTreeMap<String, f64>,
}

impl Blocked {
    fn read(&mut self, seconds: BTreeMap<String, f64>) {
        let total = |map: &BTreeMap<String, f64>| map.values().sum::<f64>();
        if total(&seconds) < total(&self.now) {
            self.before = self.by_reason();
        }
        self.now = seconds;
    }

    pub(crate) fn by_reason(&self) -> BTreeMap<String, f64> {
        let mut sum = self.before.clone();
        for (reason, seconds) in &self.now {
            *sum.entry(reason.clone()).or_default() += seconds;
        }
        sum
    }
}

/// Looks and shows until something is wrong that nobody else would notice.
pub(crate) async fn look(stage: &Stage, screen: &Screen, sights: &watch::Sender<Sight>) -> Result<()> {
    let patience = stage.patience();
    let mut moved = (Instant::now(), None);
    loop {
        let sight = once(stage, sights.borrow().clone()).await;
        screen.row(&sight, false);
        let place = Some((sight.created, sight.live, sight.waiting));
        if moved.1 != place {
            moved = (Instant::now(), place);
        } else if moved.0.elapsed() > patience {
            return Err(Failure::new(format!(
                "nothing moved for {} s: {} created, {} waiting, gate {}; the sensor's last lines:\n{}",
                patience.as_secs(),
                sight.created,
                sight.waiting.map_or_else(|| "an unknown number".to_owned(), |count| count.to_string()),
                sight.gate,
                stage.sensor.last_lines(12)
            )));
        }
        sights.send_replace(sight);
        stage.sensor.must_run()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One look at everything.
pub(crate) async fn once(stage: &Stage, before: Sight) -> Sight {
    let sensor = stage.sensor.pid();
    let (used, waiting, saying) = tokio::join!(stage.used(), stage.waiting(), stage.sensor.ask());
    let tally = stage.referee.tally();
    let mut sight = Sight { used, waiting, sensor, live: tally.alive(), created: tally.created(), ..before };
    match saying {
        Some(Saying { reason, limit, blocked_seconds, nats_connected, nats_reconnects }) => {
            sight.gate = reason.map_or(Gate::Open, Gate::Blocked);
            sight.limit = limit;
            sight.blocked.read(blocked_seconds);
            sight.nats_connected = nats_connected;
            sight.nats_reconnects = nats_reconnects;
        }
        None => {
            sight.gate = Gate::Unknown;
            sight.limit = None;
            sight.nats_connected = false;
        }
    }
    sight
}

//! The metrics of one process, in a registry of its own.
//!
//! What happens per message is counted through handles that were resolved once. What is a level, an age or a running time
//! is filled in when somebody asks: [`Metrics::on_scrape`].

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use prometheus::{Encoder, Gauge, GaugeVec, Histogram, IntCounter, Opts, Registry, TextEncoder};

use super::labels::{
    AckResult, CreditState, LabelValue, Outcome, RefusalClass, TimeState, TriggerOutcome, WatchKind, WriteResult,
};
use super::series::{BlockedGauge, Counters, Gauges, MaybeGauge, NO_LABELS, raise_child};
use super::table::Families;
use super::{Label, process};
use crate::message::DeadReason;

/// Why metrics could not be made or rendered.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The prefix makes no metric name.
    #[error(
        "METRICS_PREFIX={value:?}: not the beginning of a metric name; allowed are letters, digits and `_`, not beginning \
         with a digit, at most 64"
    )]
    Prefix {
        /// What was set.
        value: String,
    },
    /// The library refused.
    #[error("the metrics cannot be registered or written")]
    Library(#[from] prometheus::Error),
}

type Fill = Box<dyn Fn(Instant) + Send + Sync>;

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    families: Families,
    prefixed_blocked: Option<GaugeVec>,
    // Held during a scrape: two at once would add the same seconds twice.
    fills: Mutex<Vec<Fill>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Registers the whole table. `prefix` is `METRICS_PREFIX`; empty means no copy of the gauge.
    ///
    /// # Errors
    /// A prefix that makes no metric name.
    pub fn new(prefix: &str) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let families = Families::register(&registry)?;
        let prefixed_blocked = if prefix.is_empty() { None } else { Some(prefixed_blocked(prefix, &registry)?) };
        families.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        families.process_start.with_label_values(NO_LABELS).set(crate::clock::wall().as_duration().as_secs_f64());
        Ok(Self { registry, families, prefixed_blocked, fills: Mutex::new(Vec::new()) })
    }

    /// The handles of a sensor; its series exist from here on, with the gauge at 1. `reasons` are those of the gate, whose
    /// seconds begin at 0.
    pub fn sensor(&self, identity: SensorIdentity, reasons: impl IntoIterator<Item = &'static str>) -> SensorMetrics {
        let all = &self.families;
        let own = identity.labels();
        for reason in reasons {
            let [namespace, sensor, trigger] = own;
            all.blocked_seconds.with_label_values(&[namespace, sensor, trigger, reason]);
            all.time.with_label_values(&[TimeState::Blocked.as_str(), reason]);
        }
        for state in [TimeState::Working, TimeState::Idle] {
            all.time.with_label_values(&[state.as_str(), ""]);
        }
        SensorMetrics {
            blocked: BlockedGauge::new(
                all.blocked.with_label_values(&own),
                self.prefixed_blocked.as_ref().map(|family| family.with_label_values(&own)),
            ),
            credits: Gauges::new(&all.credits),
            grant_age: MaybeGauge::new(&all.grant_age),
            inflight: all.inflight.with_label_values(NO_LABELS),
            messages: Counters::new(&all.messages),
            trigger_duration: all.trigger_duration.with_label_values(NO_LABELS),
            triggers: Counters::new(&all.triggers),
            refusals: Counters::new(&all.refusals),
            quota_retries: all.quota_retries.with_label_values(NO_LABELS),
            event_age: all.event_age.with_label_values(NO_LABELS),
            pending: MaybeGauge::new(&all.pending),
            ack_pending: MaybeGauge::new(&all.ack_pending),
            oldest_pending_age: MaybeGauge::new(&all.oldest_pending_age),
            nats_reconnects: all.nats_reconnects.with_label_values(NO_LABELS),
            nats_connected: all.nats_connected.with_label_values(NO_LABELS),
            possible_duplicates: all.possible_duplicates.with_label_values(NO_LABELS),
            record_gaps: all.record_gaps.with_label_values(NO_LABELS),
            record_version: MaybeGauge::new(&all.record_version),
            record_lag: MaybeGauge::new(&all.record_lag),
            record_ranges: MaybeGauge::new(&all.record_ranges),
            dead_letters: Counters::new(&all.dead_letters),
            acks: Counters::new(&all.acks),
            concurrency_limit: all.concurrency_limit.with_label_values(NO_LABELS),
            identity,
            families: all.clone(),
        }
    }

    /// The handles of a leader; its series exist from here on.
    pub fn leader(&self) -> LeaderMetrics {
        let all = &self.families;
        LeaderMetrics {
            quotas_watched: all.quotas_watched.with_label_values(NO_LABELS),
            signals_published: all.signals_published.with_label_values(NO_LABELS),
            watch_restarts: Counters::new(&all.watch_restarts),
            grants: all.grants.with_label_values(NO_LABELS),
            books_writes: Counters::new(&all.books_writes),
            grant_latency: all.grant_latency.with_label_values(NO_LABELS),
            families: all.clone(),
        }
    }

    /// Runs `fill` before each answer to a scrape, one at a time. It must not block, and must not call
    /// [`Metrics::render`] or this.
    pub fn on_scrape(&self, fill: impl Fn(Instant) + Send + Sync + 'static) {
        lock(&self.fills).push(Box::new(fill));
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// Where the library cannot write it.
    pub fn render(&self, now: Instant) -> Result<String, MetricsError> {
        let fills = lock(&self.fills);
        for fill in fills.iter() {
            fill(now);
        }
        MaybeGauge::new(&self.families.process_memory).set(process::resident_bytes());
        let families = self.registry.gather();
        drop(fills);
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn prefixed_blocked(prefix: &str, registry: &Registry) -> Result<GaugeVec, MetricsError> {
    let fits = prefix.len() <= 64
        && !prefix.starts_with(|c: char| c.is_ascii_digit())
        && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !fits {
        return Err(MetricsError::Prefix { value: prefix.to_owned() });
    }
    let labels = [Label::Namespace, Label::SensorName, Label::TriggerName].map(Label::as_str);
    let family = GaugeVec::new(
        Opts::new(format!("{prefix}sensor_quota_blocked"), "The same as sensor_quota_blocked, for existing alerts."),
        &labels,
    )?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

/// A fill that panicked has left whole numbers behind, so the lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whose metrics they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SensorIdentity {
    /// The sensor's namespace.
    pub namespace: String,
    /// `SENSOR_NAME`.
    pub sensor: String,
    /// The trigger's name.
    pub trigger: String,
}

impl SensorIdentity {
    fn labels(&self) -> [&str; 3] {
        [&self.namespace, &self.sensor, &self.trigger]
    }
}

/// One resource of one quota, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuotaSample {
    /// The quota's namespace.
    pub namespace: String,
    /// The quota's name.
    pub quota: String,
    /// A key of its hard list.
    pub resource: String,
    /// What the quota allows.
    pub hard: Option<f64>,
    /// What it says is used.
    pub used: Option<f64>,
    /// Objects that exist.
    pub live: Option<f64>,
    /// Up to where work is started.
    pub limit: Option<f64>,
    /// What is free below the limit.
    pub headroom: Option<f64>,
}

/// What a sensor counts. Cloning shares the series.
#[derive(Clone)]
pub struct SensorMetrics {
    /// The gate's gauge.
    pub blocked: BlockedGauge,
    /// Credits by state.
    pub credits: Gauges<CreditState>,
    /// Age of the last grant.
    pub grant_age: MaybeGauge,
    /// Messages in hand.
    pub inflight: Gauge,
    /// Messages by outcome.
    pub messages: Counters<Outcome>,
    /// How long the trigger took, in seconds.
    pub trigger_duration: Histogram,
    /// Runs of the trigger by outcome.
    pub triggers: Counters<TriggerOutcome>,
    /// Refusals by class.
    pub refusals: Counters<RefusalClass>,
    /// Refusals that a newer view contradicted.
    pub quota_retries: IntCounter,
    /// Age at the first attempt, in seconds.
    pub event_age: Histogram,
    /// Messages that wait.
    pub pending: MaybeGauge,
    /// Messages delivered and not acknowledged.
    pub ack_pending: MaybeGauge,
    /// Age of the oldest that waits.
    pub oldest_pending_age: MaybeGauge,
    /// Connections to NATS made anew.
    pub nats_reconnects: IntCounter,
    /// 1 while connected to NATS.
    pub nats_connected: Gauge,
    /// Effects made in doubt.
    pub possible_duplicates: IntCounter,
    /// Gaps in the record.
    pub record_gaps: IntCounter,
    /// What the record's copy has reached.
    pub record_version: MaybeGauge,
    /// Time since it moved.
    pub record_lag: MaybeGauge,
    /// Its size.
    pub record_ranges: MaybeGauge,
    /// Dead letters by reason.
    pub dead_letters: Counters<DeadReason>,
    /// Acknowledgements by result.
    pub acks: Counters<AckResult>,
    /// Effects that may be under way at once.
    pub concurrency_limit: Gauge,
    identity: SensorIdentity,
    families: Families,
}

impl fmt::Debug for SensorMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SensorMetrics").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl SensorMetrics {
    /// Brings the blocked time of a reason to its total. For a scrape alone.
    pub fn blocked_seconds(&self, reason: &'static str, total: Duration) {
        let [namespace, sensor, trigger] = self.identity.labels();
        raise_child(&self.families.blocked_seconds, &[namespace, sensor, trigger, reason], total);
    }

    /// Brings the time spent in a state to its total; `reason` is empty unless blocked. For a scrape alone.
    pub fn time_seconds(&self, state: TimeState, reason: &'static str, total: Duration) {
        raise_child(&self.families.time, &[state.as_str(), reason], total);
    }

    /// Replaces all quota series: a quota that is gone leaves none behind, and what is unknown has none. For a scrape
    /// alone.
    pub fn quotas(&self, samples: &[QuotaSample]) {
        let all = &self.families;
        for (family, field) in [
            (&all.quota_hard, QuotaField::Hard),
            (&all.quota_used, QuotaField::Used),
            (&all.quota_live, QuotaField::Live),
            (&all.quota_limit, QuotaField::Limit),
            (&all.quota_headroom, QuotaField::Headroom),
        ] {
            family.reset();
            for sample in samples {
                if let Some(value) = field.of(sample) {
                    family.with_label_values(&[&sample.namespace, &sample.quota, &sample.resource]).set(value);
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum QuotaField {
    Hard,
    Used,
    Live,
    Limit,
    Headroom,
}

impl QuotaField {
    fn of(self, sample: &QuotaSample) -> Option<f64> {
        match self {
            Self::Hard => sample.hard,
            Self::Used => sample.used,
            Self::Live => sample.live,
            Self::Limit => sample.limit,
            Self::Headroom => sample.headroom,
        }
    }
}

/// One counted kind in one namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchSample {
    /// The namespace.
    pub namespace: String,
    /// The resource that counts the kind.
    pub resource: String,
    /// Objects in the index; none where they cannot be watched.
    pub objects: Option<f64>,
}

/// What a leader counts. Cloning shares the series.
#[derive(Clone)]
pub struct LeaderMetrics {
    /// Quotas in the index.
    pub quotas_watched: Gauge,
    /// Signals written.
    pub signals_published: IntCounter,
    /// Watches started anew.
    pub watch_restarts: Counters<WatchKind>,
    /// Grants that raised a top.
    pub grants: IntCounter,
    /// Writes of the books.
    pub books_writes: Counters<WriteResult>,
    /// From room to grant, in seconds.
    pub grant_latency: Histogram,
    families: Families,
}

impl fmt::Debug for LeaderMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaderMetrics").finish_non_exhaustive()
    }
}

impl LeaderMetrics {
    /// Whether this process leads a namespace.
    pub fn leading(&self, namespace: &str, leads: bool) {
        self.families.leader.with_label_values(&[namespace]).set(f64::from(u8::from(leads)));
    }

    /// Replaces the series about live objects, `jetgate_objects_watched` and `jetgate_live_watch`. For a scrape alone.
    pub fn watches(&self, samples: &[WatchSample]) {
        let all = &self.families;
        all.objects_watched.reset();
        all.live_watch.reset();
        for sample in samples {
            let labels = [&sample.namespace, &sample.resource];
            all.live_watch.with_label_values(&labels).set(f64::from(u8::from(sample.objects.is_some())));
            if let Some(objects) = sample.objects {
                all.objects_watched.with_label_values(&labels).set(objects);
            }
        }
    }
}

#[cfg(test)]
mod tests;

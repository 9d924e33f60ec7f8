//! The one table of all metrics. Registration, the docs and the checks of the alerts are made from it.

use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::labels::{
    AckResult, CreditState, LabelValue, Outcome, RefusalClass, TimeState, TriggerOutcome, WatchKind, WriteResult,
};
use crate::message::DeadReason;

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by size.
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What a value is measured in; base units alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A count of things, or the resource's own unit.
    One,
    /// 0 or 1.
    Flag,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Always 1; what matters is in the labels.
    Info,
}

impl Unit {
    /// The word for the docs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::One => "1",
            Self::Flag => "0 or 1",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Info => "info",
        }
    }
}

macro_rules! label_names {
    ($($variant:ident = $text:literal: $meaning:literal,)+) => {
        /// The names that labels may have.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Label {
            $(#[doc = $meaning] $variant,)+
        }

        impl Label {
            /// Every label.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name of the label.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// What its values are.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),+ }
            }
        }
    };
}

label_names! {
    Namespace = "namespace": "a Kubernetes namespace",
    SensorName = "sensor_name": "`SENSOR_NAME`",
    TriggerName = "trigger_name": "the trigger's name in the sensor file",
    Quota = "quota": "the name of a ResourceQuota",
    Resource = "resource": "a key of the quota's hard list",
    Reason = "reason": "a reason out of a closed set; those of the gate are in the table of reasons",
    State = "state": "see the values",
    Outcome = "outcome": "see the values",
    Class = "class": "see the values",
    Result = "result": "see the values",
    Watch = "watch": "see the values",
    Version = "version": "the version of the program",
}

/// One label of a metric.
#[derive(Clone, Copy, Debug)]
pub struct LabelSpec {
    /// Its name.
    pub label: Label,
    /// Its values with their meaning, where this metric has a closed set of its own; else empty.
    pub values: fn() -> Vec<(&'static str, &'static str)>,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The whole name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it is measured in.
    pub unit: Unit,
    /// Its labels, in order.
    pub labels: &'static [LabelSpec],
    /// The upper bounds of a histogram's buckets; else empty.
    pub buckets: &'static [f64],
    /// What it says, in a sentence.
    pub help: &'static str,
}

impl Metric {
    fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|spec| spec.label.as_str()).collect()
    }
}

fn open_values() -> Vec<(&'static str, &'static str)> {
    Vec::new()
}

fn closed_values<L: LabelValue>() -> Vec<(&'static str, &'static str)> {
    L::ALL.iter().map(|value| (value.as_str(), value.meaning())).collect()
}

/// A type of family that can be made from a row of the table.
trait Family: Sized + Clone + prometheus::core::Collector + 'static {
    const KIND: Kind;

    fn make(metric: &Metric) -> prometheus::Result<Self>;

    fn register(metric: &Metric, registry: &Registry) -> prometheus::Result<Self> {
        let family = Self::make(metric)?;
        registry.register(Box::new(family.clone()))?;
        Ok(family)
    }
}

macro_rules! simple_family {
    ($($family:ty => $kind:ident),+) => {$(
        impl Family for $family {
            const KIND: Kind = Kind::$kind;

            fn make(metric: &Metric) -> prometheus::Result<Self> {
                Self::new(Opts::new(metric.name, metric.help), &metric.label_names())
            }
        }
    )+};
}

simple_family!(IntCounterVec => Counter, CounterVec => Counter, GaugeVec => Gauge);

impl Family for HistogramVec {
    const KIND: Kind = Kind::Histogram;

    fn make(metric: &Metric) -> prometheus::Result<Self> {
        Self::new(HistogramOpts::new(metric.name, metric.help).buckets(metric.buckets.to_vec()), &metric.label_names())
    }
}

macro_rules! label_spec {
    ($label:ident) => {
        LabelSpec { label: Label::$label, values: open_values }
    };
    ($label:ident, $values:ty) => {
        LabelSpec { label: Label::$label, values: closed_values::<$values> }
    };
}

macro_rules! metrics {
    ($(
        $field:ident: $family:ident $name:literal [$($label:ident $(= $values:ty)?),*] $unit:ident $(($buckets:expr))?
            $help:literal;
    )+) => {
        /// Every metric there is.
        pub const TABLE: &[Metric] = &[$(Metric {
            name: $name,
            kind: <$family as Family>::KIND,
            unit: Unit::$unit,
            labels: &[$(label_spec!($label $(, $values)?)),*],
            buckets: {
                let none: &'static [f64] = &[];
                $(let none: &'static [f64] = { let _ = none; $buckets };)?
                none
            },
            help: $help,
        }),+];

        /// The families of the table, registered.
        #[derive(Clone)]
        pub(super) struct Families {
            $(pub(super) $field: $family,)+
        }

        impl Families {
            pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
                // Rows and fields come from one list, so their order is the same.
                let mut rows = TABLE.iter();
                let mut next = || {
                    rows.next()
                        .ok_or_else(|| prometheus::Error::Msg("the table has fewer rows than fields".into()))
                };
                Ok(Self { $($field: <$family as Family>::register(next()?, registry)?,)+ })
            }
        }
    };
}

/// A POST lives 10 s at most; a healthy one takes milliseconds.
const CALL: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// A message may be milliseconds old, or have waited for a day behind a full quota.
const AGE: &[f64] = &[0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 86_400.0];
/// A grant follows room within milliseconds; only a settling leader takes seconds.
const GRANT: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

metrics! {
    blocked: GaugeVec "sensor_quota_blocked" [Namespace, SensorName, TriggerName] Flag
        "1 while the gate would refuse a credit for a reason that sets the gauge, messages waiting or not; else 0.";
    blocked_seconds: CounterVec "sensor_quota_blocked_seconds_total" [Namespace, SensorName, TriggerName, Reason] Seconds
        "Time the gate was blocked; advances while it is.";
    time: CounterVec "sensor_time_seconds_total" [State = TimeState, Reason] Seconds
        "Wall time by what it was spent on; the reason is empty unless blocked.";
    quota_hard: GaugeVec "sensor_quota_hard" [Namespace, Quota, Resource] One
        "The smaller of the quota's hard in spec and status.";
    quota_used: GaugeVec "sensor_quota_used" [Namespace, Quota, Resource] One
        "What the quota says is used.";
    quota_live: GaugeVec "sensor_quota_live" [Namespace, Quota, Resource] One
        "Objects of the counted kind that exist; absent where they cannot be watched.";
    quota_limit: GaugeVec "sensor_quota_limit" [Namespace, Quota, Resource] One
        "Hard times the capacity ratio: up to here work is started.";
    quota_headroom: GaugeVec "sensor_quota_headroom" [Namespace, Quota, Resource] One
        "What is free below the limit, everything in flight counted as used.";
    credits: GaugeVec "sensor_credits" [State = CreditState] One
        "Credits of this process by state.";
    grant_age: GaugeVec "sensor_grant_age_seconds" [] Seconds
        "Age of the last grant that was heard; absent before the first.";
    inflight: GaugeVec "sensor_inflight" [] One
        "Messages in hand.";
    messages: IntCounterVec "sensor_messages_total" [Outcome = Outcome] One
        "Messages by how their handling ended.";
    trigger_duration: HistogramVec "sensor_trigger_duration_seconds" [] Seconds (CALL)
        "Time from the start of the effect to its answer or its timeout.";
    triggers: IntCounterVec "sensor_trigger_total" [Outcome = TriggerOutcome] One
        "Runs of the trigger by how they ended.";
    refusals: IntCounterVec "sensor_refusals_total" [Class = RefusalClass] One
        "Refusals of the target by class.";
    quota_retries: IntCounterVec "sensor_quota_retries_total" [] One
        "Refusals by quota that a newer view contradicted, so that the effect was tried again at once.";
    event_age: HistogramVec "sensor_event_age_seconds" [] Seconds (AGE)
        "Age of a message at its first attempt, since it was stored.";
    pending: GaugeVec "sensor_pending_messages" [] One
        "Messages that wait in the stream for this consumer; absent while unknown.";
    ack_pending: GaugeVec "sensor_ack_pending_messages" [] One
        "Messages that are delivered and not acknowledged, of all replicas; absent while unknown.";
    oldest_pending_age: GaugeVec "sensor_oldest_pending_age_seconds" [] Seconds
        "Age of the oldest message that waits; 0 when none does, absent while unknown.";
    nats_reconnects: IntCounterVec "sensor_nats_reconnects_total" [] One
        "Connections to NATS that were made anew.";
    nats_connected: GaugeVec "sensor_nats_connected" [] Flag
        "1 while connected to NATS.";
    possible_duplicates: IntCounterVec "sensor_possible_duplicates_total" [] One
        "Effects that were made although an earlier one could not be ruled out.";
    record_gaps: IntCounterVec "sensor_record_gaps_total" [] One
        "Gaps in the record: the object watch could not resume where it had stopped.";
    record_version: GaugeVec "sensor_record_version" [] One
        "The resourceVersion that this process's copy of the record has reached; absent before the first.";
    record_lag: GaugeVec "sensor_record_lag_seconds" [] Seconds
        "Time since this process's copy of the record last moved; absent before the first.";
    record_ranges: GaugeVec "sensor_record_ranges" [] One
        "Ranges of sequences in the record above its floor.";
    dead_letters: IntCounterVec "sensor_dead_letters_total" [Reason = DeadReason] One
        "Messages moved to the dead letters.";
    acks: IntCounterVec "sensor_acks_total" [Result = AckResult] One
        "Acknowledgements of messages that have had their effect, by how they ended.";
    concurrency_limit: GaugeVec "sensor_concurrency_limit" [] One
        "Effects that may be under way at once.";
    leader: GaugeVec "jetgate_leader" [Namespace] Flag
        "1 where this process leads the namespace.";
    quotas_watched: GaugeVec "jetgate_quotas_watched" [] One
        "ResourceQuota objects in the index.";
    objects_watched: GaugeVec "jetgate_objects_watched" [Namespace, Resource] One
        "Objects of the counted kind in the index.";
    live_watch: GaugeVec "jetgate_live_watch" [Namespace, Resource] Flag
        "1 while live objects are watched; 0 where the leader has to fall back to used with a settle time.";
    signals_published: IntCounterVec "jetgate_signals_published_total" [] One
        "Capacity signals that were written.";
    watch_restarts: IntCounterVec "jetgate_watch_restarts_total" [Watch = WatchKind] One
        "Watches that broke and were started anew.";
    grants: IntCounterVec "jetgate_grants_total" [] One
        "Grants that raised a holder's top.";
    books_writes: IntCounterVec "jetgate_books_writes_total" [Result = WriteResult] One
        "Writes of the books by how they ended.";
    grant_latency: HistogramVec "jetgate_grant_latency_seconds" [] Seconds (GRANT)
        "Time from what made a grant possible (room, or somebody who wants it) to the grant, the write of the books included.";
    build_info: GaugeVec "jetgate_build_info" [Version] Info
        "The program that runs.";
    process_start: GaugeVec "process_start_time_seconds" [] Seconds
        "Start of the process in seconds since 1970.";
    process_memory: GaugeVec "process_resident_memory_bytes" [] Bytes
        "Resident memory of the process.";
}

/// The page `docs/metrics.md`.
#[must_use]
pub fn markdown() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         Generated from the table in `src/telemetry/table.rs`. Served on `METRICS_PORT` under `/metrics`.\n\n\
         `METRICS_PREFIX` adds a copy of `sensor_quota_blocked` whose name begins with it, and of nothing else.\n\
         A series whose value is unknown is absent, never 0.\n\n\
         | metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n",
    );
    for metric in TABLE {
        let labels: Vec<String> = metric.labels.iter().map(|spec| format!("`{}`", spec.label.as_str())).collect();
        page.push_str(&format!(
            "| `{}` | {} | {} | {} | {} |\n",
            metric.name,
            metric.kind.as_str(),
            labels.join(", "),
            metric.unit.as_str(),
            metric.help
        ));
    }
    page.push_str("\n## Labels\n\n| label | values |\n|---|---|\n");
    for label in Label::ALL {
        page.push_str(&format!("| `{}` | {} |\n", label.as_str(), label.meaning()));
    }
    page.push_str("\n## Values\n\n| metric | label | value | meaning |\n|---|---|---|---|\n");
    for metric in TABLE {
        for spec in metric.labels {
            for (value, meaning) in (spec.values)() {
                page.push_str(&format!("| `{}` | `{}` | `{value}` | {meaning} |\n", metric.name, spec.label.as_str()));
            }
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_and_end_in_base_units() {
        let mut names = BTreeSet::new();
        for metric in TABLE {
            let name = metric.name;
            assert!(names.insert(name), "{name} twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}: letters and underscores alone");
            assert!(
                ["sensor_", "jetgate_", "process_"].iter().any(|prefix| name.starts_with(prefix)),
                "{name}: prefix"
            );
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}: _total stands on counters alone"
            );
            let stem = name.strip_suffix("_total").unwrap_or(name);
            assert_eq!(stem.ends_with("_seconds"), metric.unit == Unit::Seconds, "{name}: seconds");
            assert_eq!(stem.ends_with("_bytes"), metric.unit == Unit::Bytes, "{name}: bytes");
            assert_eq!(stem.ends_with("_info"), metric.unit == Unit::Info, "{name}: info");
            for unit in ["milli", "micro", "nano", "minute", "hour", "percent", "_ms", "kilo", "mega"] {
                assert!(!name.contains(unit), "{name}: {unit} is no base unit");
            }
            for reserved in ["_count", "_sum", "_bucket"] {
                assert!(!name.ends_with(reserved), "{name}: {reserved} is the histograms' own");
            }
            assert!(metric.help.ends_with('.'), "{name}: help is a sentence");
        }
    }

    #[test]
    fn labels_are_distinct_within_a_metric_and_none_is_idle() {
        let mut used = BTreeSet::new();
        for metric in TABLE {
            let labels: BTreeSet<Label> = metric.labels.iter().map(|spec| spec.label).collect();
            assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
            used.extend(labels);
            for spec in metric.labels {
                if spec.label.meaning() == "see the values" {
                    assert!(!(spec.values)().is_empty(), "{} {:?}", metric.name, spec.label);
                }
            }
        }
        assert_eq!(used, Label::ALL.iter().copied().collect());
    }

    #[test]
    fn buckets_stand_on_histograms_alone_and_grow() {
        for metric in TABLE {
            assert_eq!(!metric.buckets.is_empty(), metric.kind == Kind::Histogram, "{}", metric.name);
            assert!(metric.buckets.is_sorted_by(|a, b| a < b), "{}", metric.name);
        }
    }

    #[test]
    fn every_row_becomes_a_family() {
        let registry = Registry::new();
        let families = Families::register(&registry).unwrap();
        families.inflight.with_label_values(&[] as &[&str]).set(1.0);
        assert_eq!(registry.gather().len(), 1);
        assert!(Families::register(&registry).is_err(), "the same name twice is refused");
    }

    #[test]
    fn the_page_names_every_metric_and_value() {
        let page = markdown();
        for metric in TABLE {
            assert!(page.contains(&format!("| `{}` | {}", metric.name, metric.kind.as_str())));
        }
        assert!(page.contains("| `sensor_messages_total` | `outcome` | `dead` |"));
    }
}

//! Handles on series that were resolved once, so that counting a message looks up no label.

use std::marker::PhantomData;

use prometheus::{Counter, CounterVec, Gauge, GaugeVec, IntCounter, IntCounterVec};

use super::labels::LabelValue;

/// The labels of a family that has none.
pub(super) const NO_LABELS: &[&str] = &[];

/// One counter for each value of a closed set, all present from the start.
#[derive(Clone, Debug)]
pub struct Counters<L> {
    children: Vec<IntCounter>,
    label: PhantomData<L>,
}

impl<L: LabelValue> Counters<L> {
    pub(super) fn new(family: &IntCounterVec) -> Self {
        Self {
            children: L::ALL.iter().map(|value| family.with_label_values(&[value.as_str()])).collect(),
            label: PhantomData,
        }
    }

    /// Counts one.
    pub fn inc(&self, value: L) {
        self.inc_by(value, 1);
    }

    /// Counts `n`.
    pub fn inc_by(&self, value: L, n: u64) {
        if let Some(counter) = self.children.get(value.index()) {
            counter.inc_by(n);
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn get(&self, value: L) -> u64 {
        self.children.get(value.index()).map_or(0, IntCounter::get)
    }
}

/// One gauge for each value of a closed set, all present from the start.
#[derive(Clone, Debug)]
pub struct Gauges<L> {
    children: Vec<Gauge>,
    label: PhantomData<L>,
}

impl<L: LabelValue> Gauges<L> {
    pub(super) fn new(family: &GaugeVec) -> Self {
        Self {
            children: L::ALL.iter().map(|value| family.with_label_values(&[value.as_str()])).collect(),
            label: PhantomData,
        }
    }

    /// Sets the value.
    pub fn set(&self, value: L, to: f64) {
        if let Some(gauge) = self.children.get(value.index()) {
            gauge.set(to);
        }
    }
}

/// A gauge without labels whose value may be unknown. Unknown is not zero: the series is absent then.
#[derive(Clone, Debug)]
pub struct MaybeGauge(GaugeVec);

impl MaybeGauge {
    pub(super) fn new(family: &GaugeVec) -> Self {
        Self(family.clone())
    }

    /// Sets the value, or takes the series away.
    pub fn set(&self, to: Option<f64>) {
        match to {
            Some(value) => self.0.with_label_values(NO_LABELS).set(value),
            None => self.0.reset(),
        }
    }
}

/// `sensor_quota_blocked`, and its prefixed copy where one is asked for: both always say the same.
#[derive(Clone, Debug)]
pub struct BlockedGauge {
    gauge: Gauge,
    prefixed: Option<Gauge>,
}

impl BlockedGauge {
    /// Blocked from the start, because what is unknown is not open.
    pub(super) fn new(gauge: Gauge, prefixed: Option<Gauge>) -> Self {
        let new = Self { gauge, prefixed };
        new.set(true);
        new
    }

    /// 1 while the gate would refuse a credit for a reason that sets the gauge.
    pub fn set(&self, blocked: bool) {
        let value = f64::from(u8::from(blocked));
        self.gauge.set(value);
        if let Some(prefixed) = &self.prefixed {
            prefixed.set(value);
        }
    }
}

/// Brings a counter to a total that is kept elsewhere; a counter never falls. Only a scrape calls this, and scrapes do not
/// run beside each other, so nothing is added twice.
pub(super) fn raise(counter: &Counter, total: f64) {
    let more = total - counter.get();
    if more > 0.0 {
        counter.inc_by(more);
    }
}

/// The child of a family of seconds, raised to a total.
pub(super) fn raise_child(family: &CounterVec, labels: &[&str], total: std::time::Duration) {
    raise(&family.with_label_values(labels), total.as_secs_f64());
}

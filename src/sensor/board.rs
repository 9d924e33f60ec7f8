//! What the lane shows: read by metrics at a scrape, by `/debug/state`, and said in the log at each change of state.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::announce::Announced;
use super::credits::Credits;
use super::lane::Waiting;
use super::limiter::Limiter;
use super::shared::RecordCopy;
use crate::episode::{Activity, TimeAccount};
use crate::gate::{Gate, GateState, Reason};
use crate::ledger::Holder;
use crate::telemetry::{CreditState, QuotaSample, SensorMetrics, TimeState};
use crate::wire::Grant;

/// What the lane shows beside gate and credits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) in_hand: usize,
    pub(super) outstanding: u64,
    pub(super) waiting: Waiting,
    pub(super) detail: &'a str,
}

/// The lane's state as others see it.
#[derive(Debug)]
pub(super) struct Board {
    namespace: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    account: TimeAccount,
    gate: GateState,
    gate_since: Instant,
    detail: String,
    grant: Option<(Grant, Instant)>,
    unused: u64,
    busy: u64,
    made: u64,
    top: u64,
    in_hand: u64,
    outstanding: u64,
    waiting: Waiting,
    record_moved: (u64, Instant),
}

impl Board {
    pub(super) fn new(namespace: &str, now: Instant) -> Self {
        let gate = Gate::new(now).state();
        Self {
            namespace: namespace.to_owned(),
            state: Mutex::new(State {
                account: TimeAccount::new(Activity::of(gate, false), now),
                gate,
                gate_since: now,
                detail: String::new(),
                grant: None,
                unused: 0,
                busy: 0,
                made: 0,
                top: 0,
                in_hand: 0,
                outstanding: 0,
                waiting: Waiting::default(),
                record_moved: (0, now),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers for people: whoever panicked left them whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn granted(&self, grant: &Grant, now: Instant) {
        self.state().grant = Some((grant.clone(), now));
    }

    /// One line in the log for a state of the gate that lasts.
    pub(super) fn say(&self, said: &Announced, detail: &str) {
        let before = said.before.map(|state| state.to_string());
        let before = before.as_deref();
        let (lasted, moves) = (said.before_lasted.as_secs_f64(), said.moves);
        match said.state {
            GateState::Open => tracing::info!(before, before_seconds = lasted, moves, "gate open"),
            GateState::Blocked(reason) => {
                tracing::info!(
                    reason = reason.as_str(),
                    detail,
                    freed_by = reason.freed_by(),
                    before,
                    before_seconds = lasted,
                    moves,
                    "gate blocked"
                );
            }
        }
    }

    pub(super) fn show(&self, gate: &Gate, credits: &Credits, shown: &Shown<'_>, now: Instant) {
        let Shown { in_hand, outstanding, waiting, detail } = *shown;
        let activity = Activity::of(gate.state(), in_hand > 0);
        let mut state = self.state();
        if state.account.doing() != activity {
            state.account.switch(activity, now);
        }
        if state.detail != detail {
            detail.clone_into(&mut state.detail);
        }
        state.gate = gate.state();
        state.gate_since = gate.since();
        state.unused = credits.unused();
        state.busy = credits.busy();
        state.made = credits.holder().map_or(0, Holder::made_count);
        state.top = credits.holder().map_or(0, Holder::top);
        state.in_hand = in_hand as u64;
        state.outstanding = outstanding;
        state.waiting = waiting;
    }

    /// What the sensor waits for before there is a lane.
    pub(super) fn waits(&self, reason: Reason, detail: &str, now: Instant) {
        let gate = GateState::Blocked(reason);
        let mut state = self.state();
        if state.gate != gate {
            state.gate = gate;
            state.gate_since = now;
            state.account.switch(Activity::of(gate, false), now);
        }
        detail.clone_into(&mut state.detail);
    }

    pub(super) fn close(&self, now: Instant) {
        self.state().account.close(now);
    }

    /// Brings the metrics to what is true now.
    #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(super) fn fill(&self, metrics: &SensorMetrics, limiter: &Limiter, record: &RecordCopy, now: Instant) {
        let mut state = self.state();
        let blocked = state.account.blocked(now);
        for reason in Reason::ALL {
            metrics.blocked_seconds(reason.as_str(), blocked.get(&reason).copied().unwrap_or_default());
        }
        for (activity, total) in state.account.read(now) {
            let label = match activity {
                Activity::Working => TimeState::Working,
                Activity::Idle => TimeState::Idle,
                Activity::Blocked(_) => TimeState::Blocked,
            };
            metrics.time_seconds(label, activity.reason().map_or("", Reason::as_str), *total);
        }
        for (label, count) in [
            (CreditState::Unused, state.unused),
            (CreditState::InHand, state.busy),
            (CreditState::Open, state.unused.saturating_add(state.busy)),
            (CreditState::Made, state.made),
            (CreditState::Top, state.top),
        ] {
            metrics.credits.set(label, count as f64);
        }
        metrics.inflight.set(state.in_hand as f64);
        metrics.pending.set(state.waiting.pending.map(|count| count as f64));
        metrics.ack_pending.set(state.waiting.ack_pending.map(|count| count as f64));
        metrics.oldest_pending_age.set(state.waiting.oldest_age(now).map(|age| age.as_secs_f64()));
        metrics.concurrency_limit.set(limiter.limit() as f64);
        let age = state.grant.as_ref().map(|(_, at)| now.saturating_duration_since(*at).as_secs_f64());
        metrics.grant_age.set(age);
        let samples: Vec<QuotaSample> = state
            .grant
            .iter()
            .flat_map(|(grant, _)| &grant.readings)
            .map(|reading| QuotaSample {
                namespace: self.namespace.clone(),
                quota: reading.quota.clone(),
                resource: reading.resource.as_str().to_owned(),
                hard: Some(reading.hard.as_f64()),
                used: Some(reading.used.as_f64()),
                live: reading.live.map(|live| live as f64),
                limit: Some(reading.limit.as_f64()),
                headroom: Some(reading.headroom.as_f64()),
            })
            .collect();
        metrics.quotas(&samples);
        if let RecordCopy::Kept(record) = record {
            if record.version() != state.record_moved.0 {
                state.record_moved = (record.version(), now);
            }
            metrics.record_version.set(Some(record.version() as f64));
            metrics.record_ranges.set(Some(record.ranges() as f64));
            let lag = now.saturating_duration_since(state.record_moved.1);
            metrics.record_lag.set(Some(lag.as_secs_f64()));
            metrics.record_gaps.inc_by(record.gaps().saturating_sub(metrics.record_gaps.get()));
        }
    }

    /// For `/debug/state`.
    pub(super) fn json(&self, now: Instant) -> Value {
        let mut state = self.state();
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs_f64();
        let time: serde_json::Map<String, Value> = state
            .account
            .read(now)
            .iter()
            .filter(|(_, total)| !total.is_zero())
            .map(|(activity, total)| (activity.to_string(), json!(total.as_secs_f64())))
            .collect();
        let grant = state.grant.as_ref().map(|(grant, at)| {
            json!({
                "epoch": grant.epoch,
                "top": grant.top,
                "age_seconds": seconds(*at),
                "reason": grant.reason,
                "detail": grant.detail,
                "readings": grant.readings,
            })
        });
        let reason = match state.gate {
            GateState::Open => None,
            GateState::Blocked(reason) => Some(reason),
        };
        json!({
            "gate": {
                "state": if reason.is_some() { "blocked" } else { "open" },
                "reason": reason,
                "sentence": reason.map(Reason::sentence),
                "freed_by": reason.map(Reason::freed_by),
                "detail": state.detail,
                "for_seconds": seconds(state.gate_since),
            },
            "credits": {
                "unused": state.unused,
                "in_hand": state.busy,
                "made": state.made,
                "top": state.top,
            },
            "messages_in_hand": state.in_hand,
            "pull_outstanding": state.outstanding,
            "pending": state.waiting.pending,
            "ack_pending": state.waiting.ack_pending,
            "oldest_pending_seconds": state.waiting.oldest_age(now).map(|age| age.as_secs_f64()),
            "consumer_paused": state.waiting.paused,
            "time_seconds": time,
            "grant": grant,
        })
    }
}

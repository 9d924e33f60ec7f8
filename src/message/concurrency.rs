//! How many creates may be under way at once, within the credits.
//!
//! The API server charges a quota once for all the creates that wait for it, so more of them at once are faster, up
//! to a point: measured, 245 a second one by one, 1,214 with 32 and 1,459 with 64 at once, 1,343 with 128. Latency
//! rises all the way, so no fixed latency is the right one; what counts is whether it rises less than the number
//! under way. By Little's law that is throughput = number / latency, and this climbs it: a step up while that pays,
//! a step down where it does not. On the way down it is held against the best of late, not against the step before:
//! many steps that each cost little would cost much. Throttling and timeouts halve it.

use std::time::Duration;

/// Where it starts: near the best for one API server, harmless for a small one.
const START: f64 = 32.0;
/// The most for one namespace: beyond it a quota only makes creates wait.
const CAP: f64 = 100.0;
/// How much a step changes the number.
const STEP: f64 = 1.25;
/// How much more throughput a step up must give to be worth its load on the server.
const WORTH: f64 = 1.02;
/// How much of the best throughput is forgotten with each window, because the server's other load changes.
const FORGOTTEN: f64 = 0.02;
/// How many answers a window has at least, for a mean that is not noise.
const WINDOW_MIN: u32 = 48;
/// A window has so many answers for each create that may be under way.
const WINDOW_PER_SLOT: f64 = 4.0;
/// A window says something only where so much of the number was really in use.
const IN_USE: f64 = 0.85;

/// The number of creates that may be under way. It has no clock: it counts answers.
#[derive(Clone, Debug)]
pub struct Concurrency {
    limit: f64,
    rising: bool,
    /// The throughput of the last full window, in creates per second.
    before: Option<f64>,
    /// The best throughput of late.
    best: f64,
    answers: u32,
    latency_sum: f64,
    in_flight_sum: f64,
    /// Outcomes that belong to creates from before the last cut, and so don't cut again.
    forgiven: u32,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self::new()
    }
}

impl Concurrency {
    /// Starts at 32.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            limit: START,
            rising: true,
            before: None,
            best: 0.0,
            answers: 0,
            latency_sum: 0.0,
            in_flight_sum: 0.0,
            forgiven: 0,
        }
    }

    /// How many creates may be under way now: 1 to 100.
    #[must_use]
    pub fn limit(&self) -> usize {
        // The value is within 1 and 100, so the cast is exact.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let limit = self.limit.round().clamp(1.0, CAP) as usize;
        limit
    }

    /// A create was answered well; `in_flight` counts it too. A refusal says nothing here: it is over before the work of
    /// storing begins, so its time is no measure of that.
    pub fn answered(&mut self, latency: Duration, in_flight: usize) {
        self.forgiven = self.forgiven.saturating_sub(1);
        self.answers += 1;
        self.latency_sum += latency.as_secs_f64();
        self.in_flight_sum += f64::from(u32::try_from(in_flight).unwrap_or(u32::MAX));
        if f64::from(self.answers) >= f64::from(WINDOW_MIN).max(WINDOW_PER_SLOT * self.limit) {
            self.judge();
        }
    }

    /// A create was throttled (429), failed at the server (5xx) or had no answer in time.
    ///
    /// The others that were under way fail for the same cause, so one burst cuts once.
    pub fn overloaded(&mut self) {
        if self.forgiven > 0 {
            self.forgiven -= 1;
            return;
        }
        self.forgiven = u32::try_from(self.limit()).unwrap_or(u32::MAX);
        self.limit = (self.limit / 2.0).max(1.0);
        self.rising = true;
        self.forget();
        self.restart();
    }

    fn judge(&mut self) {
        let answers = f64::from(self.answers);
        let in_flight = self.in_flight_sum / answers;
        let latency = (self.latency_sum / answers).max(1e-9);
        self.restart();
        // Where credits or messages are the limit, latency says nothing about this number.
        if in_flight < IN_USE * self.limit {
            self.forget();
            return;
        }
        let throughput = in_flight / latency;
        if let Some(before) = self.before {
            let paid = if self.rising { throughput > before * WORTH } else { throughput * WORTH > self.best };
            if !paid {
                self.rising = !self.rising;
            }
        }
        self.before = Some(throughput);
        self.best = throughput.max(self.best * (1.0 - FORGOTTEN));
        let wanted = if self.rising { self.limit * STEP } else { self.limit / STEP };
        // Less than one whole create more would never be tried.
        let wanted = if self.rising { wanted.max(self.limit + 1.0) } else { wanted.min(self.limit - 1.0) };
        let next = wanted.clamp(1.0, CAP);
        if (next - self.limit).abs() < 0.5 {
            self.rising = !self.rising;
        }
        self.limit = next;
    }

    /// What was measured says nothing about what comes.
    const fn forget(&mut self) {
        self.before = None;
        self.best = 0.0;
    }

    const fn restart(&mut self) {
        self.answers = 0;
        self.latency_sum = 0.0;
        self.in_flight_sum = 0.0;
    }
}

#[cfg(test)]
#[allow(clippy::cast_precision_loss)]
mod tests {
    use rand::{RngExt as _, SeedableRng, rngs::StdRng};

    use super::*;

    /// Creates per second under a quota by the number under way, measured on a real control plane.
    const MEASURED: [(f64, f64); 6] =
        [(1.0, 245.0), (4.0, 509.0), (16.0, 936.0), (32.0, 1_214.0), (64.0, 1_459.0), (128.0, 1_343.0)];

    /// The table, interpolated over the logarithm of the number.
    fn throughput(n: f64, table: &[(f64, f64)]) -> f64 {
        for pair in table.windows(2) {
            let ((a, ta), (b, tb)) = (pair[0], pair[1]);
            if n <= b {
                let part = ((n / a).ln() / (b / a).ln()).clamp(0.0, 1.0);
                return ta + (tb - ta) * part;
            }
        }
        table[table.len() - 1].1
    }

    /// Runs `answers` creates at the full limit; each latency is off by up to `noise`. Gives creates per second over
    /// the second half.
    fn run(control: &mut Concurrency, table: &[(f64, f64)], answers: u32, noise: f64, seed: u64) -> f64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut seconds, mut counted) = (0.0, 0.0);
        for i in 0..answers {
            let n = control.limit();
            let rate = throughput(n as f64, table);
            let latency = n as f64 / rate * (1.0 + rng.random_range(-noise..=noise));
            if i >= answers / 2 {
                seconds += 1.0 / rate;
                counted += 1.0;
            }
            control.answered(Duration::from_secs_f64(latency), n);
        }
        counted / seconds
    }

    #[test]
    fn it_climbs_to_the_best_of_the_measured_table() {
        for seed in 0..6 {
            for noise in [0.0, 0.2, 0.5] {
                let got = run(&mut Concurrency::new(), &MEASURED, 20_000, noise, seed);
                assert!(got > 0.95 * 1_459.0, "seed {seed}, noise {noise}: {got:.0} a second");
            }
        }
    }

    #[test]
    fn it_finds_the_way_up_again_after_a_cut() {
        for seed in 0..4 {
            let mut control = Concurrency::new();
            for _ in 0..10_000 {
                control.overloaded();
            }
            assert_eq!(control.limit(), 1);
            let got = run(&mut control, &MEASURED, 40_000, 0.2, seed);
            assert!(got > 0.95 * 1_459.0, "seed {seed}: {got:.0} a second");
        }
    }

    /// Other load slows all creates of a while alike, which no mean takes out.
    #[test]
    fn it_does_not_slip_down_where_the_servers_pace_varies() {
        for seed in 0..20 {
            let mut control = Concurrency::new();
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut share, mut seconds, mut ideal) = (1.0, 0.0, 0.0);
            for answer in 0..60_000 {
                if answer % 150 == 0 {
                    share = rng.random_range(0.6..1.4);
                }
                let n = control.limit();
                let pace = throughput(n as f64, &MEASURED) * share;
                seconds += 1.0 / pace;
                ideal += 1.0 / (1_459.0 * share);
                control.answered(Duration::from_secs_f64(n as f64 / pace), n);
            }
            let ratio = ideal / seconds;
            assert!(ratio > 0.945, "seed {seed}: {ratio:.3} of the best, at {} in the end", control.limit());
        }
    }

    #[test]
    fn a_server_that_gains_nothing_is_not_loaded() {
        // One at a time is all it does: more only wait.
        let flat = [(1.0, 100.0), (128.0, 100.0)];
        let mut control = Concurrency::new();
        run(&mut control, &flat, 20_000, 0.05, 1);
        assert!(control.limit() <= 4, "{}", control.limit());
    }

    #[test]
    fn a_server_that_scales_gets_the_cap_and_no_more() {
        let steep = [(1.0, 100.0), (1_000.0, 100_000.0)];
        let mut control = Concurrency::new();
        let mut most = 0;
        for _ in 0..20_000 {
            let n = control.limit();
            most = most.max(n);
            control.answered(Duration::from_secs_f64(n as f64 / throughput(n as f64, &steep)), n);
        }
        assert_eq!(most, 100);
        assert!(control.limit() >= 64, "{}", control.limit());
    }

    #[test]
    fn a_burst_of_failures_cuts_once_and_lasting_ones_go_to_one() {
        let mut control = Concurrency::new();
        for _ in 0..32 {
            control.overloaded();
        }
        assert_eq!(control.limit(), 16);
        for _ in 0..200 {
            control.overloaded();
        }
        assert_eq!(control.limit(), 1);
    }

    #[test]
    fn where_credits_are_the_limit_nothing_is_learnt() {
        let mut control = Concurrency::new();
        for i in 0..50_000_u64 {
            control.answered(Duration::from_millis(i % 90), 5);
        }
        assert_eq!(control.limit(), 32);
    }
}

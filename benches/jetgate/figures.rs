//! What is measured, and how it is printed.

use std::time::Duration;

/// Samples of one figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn at(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (part * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// One line: name, min, median, max.
    pub(crate) fn print(&self, name: &str, aim: &str) {
        let (min, median, max) = (self.at(0.0), self.median(), self.at(1.0));
        let aim = if aim.is_empty() { String::new() } else { format!("  (aim {aim})") };
        println!("  {name:<52} min {min:>9.3}  median {median:>9.3}  max {max:>9.3}  n {}{aim}", self.0.len());
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu: Duration,
    pub(crate) resident_mib: f64,
    pub(crate) peak_mib: f64,
    pub(crate) threads: u64,
}

impl Usage {
    pub(crate) fn of(pid: i32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name may hold blanks; what follows its bracket does not.
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect())
            .unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = |name: &str| -> f64 {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse().ok())
                .unwrap_or(0.0)
        };
        Self {
            // Clock ticks, of which Linux shows a hundred a second everywhere.
            cpu: Duration::from_millis(fields.iter().sum::<u64>() * 10),
            resident_mib: number("VmRSS") / 1024.0,
            peak_mib: number("VmHWM") / 1024.0,
            threads: number("Threads") as u64,
        }
    }
}

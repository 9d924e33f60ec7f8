//! What a person sees: plain lines, one per change, in colour on a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::sight::{Gate, Sight};

/// A burst changes the numbers faster than anybody can read.
const ROW_EVERY: Duration = Duration::from_millis(400);
/// A long run is not followed in every detail.
const LATER_ROW_EVERY: Duration = Duration::from_secs(2);
const DETAILED_ROWS: u32 = 60;
const ROWS_PER_HEADING: u32 = 25;

const PLAIN: &str = "";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";

/// `1 message`, `2 messages`.
pub(crate) fn messages(count: impl Into<u64>) -> String {
    let count = count.into();
    format!("{count} message{}", if count == 1 { "" } else { "s" })
}

pub(crate) struct Screen {
    began: Instant,
    to_stderr: bool,
    colour: bool,
    rows: Mutex<Rows>,
}

#[derive(Default)]
struct Rows {
    shown: Option<Sight>,
    at: Option<Instant>,
    count: u32,
}

impl Screen {
    /// `to_stderr` where standard output is kept for a program that reads it.
    pub(crate) fn new(to_stderr: bool) -> Self {
        let terminal = if to_stderr { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { began: Instant::now(), to_stderr, colour: terminal && !refused && !dumb, rows: Mutex::default() }
    }

    /// Since the demo began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn say(&self, text: &str) {
        self.line(PLAIN, text);
    }

    pub(crate) fn good(&self, text: &str) {
        self.line(GREEN, text);
    }

    pub(crate) fn bad(&self, text: &str) {
        self.line(RED, text);
    }

    /// A line between the rows, with the time.
    pub(crate) fn event(&self, text: &str) {
        self.line(BOLD, &format!("{:>5.1}s  {text}", self.elapsed().as_secs_f64()));
    }

    pub(crate) fn fault(&self, text: &str) {
        self.line(RED, &format!("{:>5.1}s  FAULT      {text}", self.elapsed().as_secs_f64()));
    }

    pub(crate) fn recovered(&self, text: &str) {
        self.line(GREEN, &format!("{:>5.1}s  RECOVERED  {text}", self.elapsed().as_secs_f64()));
    }

    /// Shows the numbers where they changed, and not too often.
    pub(crate) fn row(&self, sight: &Sight, at_once: bool) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = rows.shown.as_ref().is_none_or(|shown| !shown.looks_like(sight));
        let every = if rows.count < DETAILED_ROWS { ROW_EVERY } else { LATER_ROW_EVERY };
        let due = at_once || rows.at.is_none_or(|at| at.elapsed() >= every);
        if !changed || !due {
            return;
        }
        if rows.count.is_multiple_of(ROWS_PER_HEADING) {
            self.line(DIM, "  time   used   live  limit  gate                       waiting  created");
        }
        rows.count += 1;
        rows.at = Some(Instant::now());
        rows.shown = Some(sight.clone());
        let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let colour = match sight.gate {
            Gate::Open => PLAIN,
            Gate::Unknown => DIM,
            Gate::Blocked(_) => YELLOW,
        };
        let text = format!(
            "{:>5.1}s  {:>5}  {:>5}  {:>5}  {:<25}  {:>7}  {:>7}",
            self.elapsed().as_secs_f64(),
            number(sight.used),
            sight.live,
            number(sight.limit),
            sight.gate.to_string(),
            number(sight.waiting),
            sight.created
        );
        self.line(colour, &text);
    }

    fn line(&self, colour: &str, text: &str) {
        let line =
            if self.colour && !colour.is_empty() { format!("{colour}{text}\x1b[0m\n") } else { format!("{text}\n") };
        // Whoever stopped reading (`| head`) does not make the demo a failure.
        if self.to_stderr {
            std::io::stderr().write_all(line.as_bytes()).ok();
        } else {
            std::io::stdout().write_all(line.as_bytes()).ok();
        }
    }
}

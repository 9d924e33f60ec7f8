//! Logs: one line per event, as JSON for machines or plain for people.
//!
//! The formatter is our own because the library's JSON has neither `msg` nor a promise of one line per event. The
//! fields of open spans stand on the line as well, an event's own winning.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::sync::Mutex;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// Crates whose chatter below a warning helps nobody; name one in the filter to hear it.
const NOISY: &[&str] =
    &["hyper", "hyper_util", "h2", "rustls", "tower", "async_nats", "kube", "kube_client", "axum", "mio", "tokio_util"];
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// `LOG_FORMAT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// For people.
    Plain,
}

impl FromStr for Format {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "json" => Ok(Self::Json),
            "plain" => Ok(Self::Plain),
            other => Err(LogError::Format { value: other.into() }),
        }
    }
}

/// Why logging cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No such format.
    #[error("LOG_FORMAT={value:?}: allowed are json and plain")]
    Format {
        /// What was set.
        value: String,
    },
    /// Not a level where one must stand.
    #[error(
        "{variable}={value:?}: {part:?} is no level; allowed are off, error, warn, info, debug, trace, also as \
         target=level, separated by commas"
    )]
    Level {
        /// Which setting.
        variable: &'static str,
        /// What was set.
        value: String,
        /// What is wrong in it.
        part: String,
    },
    /// Not a filter.
    #[error(
        "{variable}={value:?}: no log filter; allowed is a level (off, error, warn, info, debug, trace) or target=level, \
         separated by commas"
    )]
    Filter {
        /// Which setting.
        variable: &'static str,
        /// What was set.
        value: String,
        /// What the library says.
        source: ParseError,
    },
    /// Logging was started before.
    #[error("logging was started twice")]
    Twice(#[from] TryInitError),
}

/// Starts logging to standard error, and sends panics there in the same form. `log_level` is `LOG_LEVEL` or its flag where
/// one is set, `rust_log` is `RUST_LOG`, which counts only where the first is not set.
///
/// # Errors
/// A filter that cannot be read, or a second start.
pub fn init(format: Format, log_level: Option<&str>, rust_log: Option<&str>) -> Result<(), LogError> {
    tracing_subscriber::registry()
        .with(filter(log_level, rust_log)?)
        .with(Lines::new(format, std::io::stderr()))
        .try_init()?;
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            location,
            thread = std::thread::current().name().unwrap_or_default(),
            panic = crate::runtime::panic_text(panic.payload()),
            "panicked"
        );
    }));
    Ok(())
}

/// The filter that [`init`] would use; for validating the settings before anything starts.
///
/// # Errors
/// A filter that cannot be read.
pub fn filter(log_level: Option<&str>, rust_log: Option<&str>) -> Result<EnvFilter, LogError> {
    let set = |value: Option<&str>| value.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned);
    let (variable, value) = match (set(log_level), set(rust_log)) {
        (Some(value), _) => ("LOG_LEVEL", value),
        (None, Some(value)) => ("RUST_LOG", value),
        (None, None) => ("LOG_LEVEL", "info".to_owned()),
    };
    let mut base = None;
    for part in value.split(',').map(str::trim) {
        if part.is_empty() || part.contains(['=', '[']) {
            continue;
        }
        if let Ok(level) = part.parse::<LevelFilter>() {
            base = Some(level);
        } else if variable == "LOG_LEVEL" {
            // The library would take a mistyped level for a target, and be silent about all others.
            return Err(LogError::Level { variable, part: part.to_owned(), value });
        }
    }
    let mut whole = String::new();
    if base.is_none() && variable == "LOG_LEVEL" {
        whole.push_str("info,");
        base = Some(LevelFilter::INFO);
    }
    if base.is_some_and(|level| level > LevelFilter::WARN) {
        for name in NOISY {
            whole.push_str(name);
            whole.push_str("=warn,");
        }
    }
    whole.push_str(&value);
    EnvFilter::builder().parse(&whole).map_err(|source| LogError::Filter { variable, value, source })
}

/// The levels that `LOG_LEVEL` allows, for help texts.
#[must_use]
pub fn levels() -> &'static [&'static str] {
    LEVELS
}

/// Writes each event as one line.
struct Lines<W> {
    format: Format,
    to: Mutex<W>,
}

impl<W> Lines<W> {
    fn new(format: Format, to: W) -> Self {
        Self { format, to: Mutex::new(to) }
    }
}

/// The fields of a span, kept with it.
struct SpanFields(Map<String, Value>);

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Write + 'static,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(SpanFields(fields.named));
        }
    }

    fn on_record(&self, id: &span::Id, record: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            record.record(&mut fields);
            if let Some(kept) = span.extensions_mut().get_mut::<SpanFields>() {
                kept.0.extend(fields.named);
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(kept) = span.extensions().get::<SpanFields>() {
                fields.named.extend(kept.0.clone());
            }
        }
        event.record(&mut fields);
        let time = format!("{:.6}", crate::clock::wall());
        let metadata = event.metadata();
        let mut line = match self.format {
            Format::Json => json(&time, metadata, fields),
            Format::Plain => plain(&time, metadata, &fields),
        };
        line.push('\n');
        let mut to = self.to.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A log that cannot be written cannot be told of either.
        to.write_all(line.as_bytes()).ok();
    }
}

fn json(time: &str, metadata: &tracing::Metadata<'_>, fields: Fields) -> String {
    let mut line = Map::new();
    line.insert("time".into(), time.into());
    line.insert("level".into(), metadata.level().as_str().into());
    line.insert("msg".into(), fields.message.into());
    line.insert("target".into(), metadata.target().into());
    for (name, value) in fields.named {
        let taken = matches!(name.as_str(), "time" | "level" | "msg" | "target");
        line.insert(if taken { format!("{name}_") } else { name }, value);
    }
    Value::Object(line).to_string()
}

fn plain(time: &str, metadata: &tracing::Metadata<'_>, fields: &Fields) -> String {
    let mut line = format!("{time} {:>5} {}", metadata.level(), one_line(&fields.message));
    for (name, value) in &fields.named {
        line.push(' ');
        line.push_str(name);
        line.push('=');
        match value.as_str().filter(|text| bare(text)) {
            Some(text) => line.push_str(text),
            // JSON's quotes escape line ends and control characters.
            None => line.push_str(&value.to_string()),
        }
    }
    line
}

fn bare(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '=')
}

/// A message may quote what came from outside; it must not make up lines of its own, nor steer a terminal.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len());
    for c in message.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// Gathers the fields of an event or span.
#[derive(Default)]
struct Fields {
    message: String,
    named: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let value = value.into();
        if field.name() == "message" {
            self.message = match value {
                Value::String(text) => text,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    value.to_string()
                }
            };
        } else {
            let name = field.name();
            self.named.insert(name.strip_prefix("r#").unwrap_or(name).into(), value);
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.put(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests;

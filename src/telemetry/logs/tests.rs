use super::*;
use std::sync::Arc;
use tracing::Dispatch;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines that `body` logs.
fn logged(format: Format, log_level: Option<&str>, rust_log: Option<&str>, body: impl FnOnce()) -> Vec<String> {
    let sink = Sink::default();
    let subscriber = tracing_subscriber::registry()
        .with(filter(log_level, rust_log).unwrap())
        .with(Lines::new(format, sink.clone()));
    tracing::dispatcher::with_default(&Dispatch::new(subscriber), body);
    let bytes = sink.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

#[derive(Debug, thiserror::Error)]
#[error("outer")]
struct Outer(#[source] std::io::Error);

#[test]
fn json_is_flat_and_on_one_line() {
    let error = Outer(std::io::Error::other("inner"));
    let lines = logged(Format::Json, None, None, || {
        let span = tracing::info_span!("lane", lane = "live", seq = 1);
        let _in = span.enter();
        tracing::info!(
            from = "open",
            seq = 7_u64,
            blocked = true,
            level = "x",
            error = &error as &dyn std::error::Error,
            "gate\nblocked"
        );
    });
    assert_eq!(lines.len(), 1);
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["msg"], "gate\nblocked");
    assert_eq!(line["target"], module_path!());
    assert_eq!(line["from"], "open");
    assert_eq!(line["lane"], "live");
    assert_eq!(line["seq"], 7, "the event's own field wins");
    assert_eq!(line["blocked"], true);
    assert_eq!(line["level_"], "x");
    assert_eq!(line["error"], "outer: inner");
    let time = line["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    assert_eq!(time.len(), "2026-01-01T00:00:00.000000Z".len());
}

#[test]
fn plain_is_on_one_line_and_quotes_what_needs_it() {
    let lines = logged(Format::Plain, None, None, || {
        tracing::warn!(reason = "at_limit", text = "a b\nc", n = 3, "gate \u{1b}[31m\nforged line");
    });
    assert_eq!(lines.len(), 1);
    let rest = lines[0].split_once(' ').unwrap().1;
    assert_eq!(rest, " WARN gate \\u{1b}[31m\\nforged line reason=at_limit text=\"a b\\nc\" n=3");
}

fn heard(log_level: Option<&str>, rust_log: Option<&str>) -> Vec<String> {
    logged(Format::Plain, log_level, rust_log, || {
        tracing::debug!("own debug");
        tracing::info!("own info");
        tracing::info!(target: "hyper::proto", "hyper info");
        tracing::warn!(target: "async_nats", "nats warn");
    })
    .iter()
    .map(|line| line.split_whitespace().skip(2).collect::<Vec<_>>().join(" "))
    .collect()
}

#[test]
fn levels_follow_the_settings() {
    assert_eq!(heard(None, None), ["own info", "nats warn"]);
    assert_eq!(heard(Some("debug"), None), ["own debug", "own info", "nats warn"]);
    assert_eq!(heard(Some("error"), None), [] as [&str; 0]);
    assert_eq!(heard(None, Some("warn")), ["nats warn"]);
    assert_eq!(heard(Some("info"), Some("off")), ["own info", "nats warn"], "the flag wins");
    assert_eq!(heard(Some("info,hyper=info"), None), ["own info", "hyper info", "nats warn"]);
    assert_eq!(heard(Some("hyper=info"), None), ["own info", "hyper info", "nats warn"]);
    assert_eq!(heard(Some(" "), Some("hyper=info")), ["hyper info"]);
}

#[test]
fn bad_settings_are_named() {
    let error = filter(Some("inof"), None).unwrap_err().to_string();
    assert!(error.contains("LOG_LEVEL=\"inof\"") && error.contains("trace"), "{error}");
    let error = filter(None, Some("jetgate=loud")).unwrap_err();
    assert!(error.to_string().contains("RUST_LOG=\"jetgate=loud\""), "{error}");
    assert!(std::error::Error::source(&error).is_some());
    let error = "xml".parse::<Format>().unwrap_err().to_string();
    assert!(error.contains("LOG_FORMAT=\"xml\"") && error.contains("plain"), "{error}");
    assert_eq!("plain".parse::<Format>().unwrap(), Format::Plain);
}

//! Texts into values.

use std::time::Duration;

use super::problem::ProblemKind;

/// A duration as Go and Kubernetes write it: numbers with units, such as `500ms`, `10s`, `1h30m`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut total: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = tail.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit)?;
        let nanos: u128 = match unit {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || number.ends_with('.') || whole.len() > 12 || fraction.len() > 9 {
            return None;
        }
        let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let parts: u128 = format!("{whole}{fraction}").parse().ok()?;
        total = total.checked_add(parts.checked_mul(nanos)? / scale)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| u64::try_from(total).ok().map(Duration::from_nanos)).flatten()
}

/// Seconds without a unit, or a duration.
pub(super) fn seconds_or_duration(text: &str) -> Option<Duration> {
    if !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    duration(text)
}

/// A duration as a person writes it.
pub(super) fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        millis if millis % 3_600_000 == 0 => format!("{}h", millis / 3_600_000),
        millis if millis % 60_000 == 0 => format!("{}m", millis / 60_000),
        millis if millis % 1_000 == 0 => format!("{}s", millis / 1_000),
        millis => format!("{millis}ms"),
    }
}

/// A duration within bounds.
pub(super) fn bounded(
    text: &str,
    read: fn(&str) -> Option<Duration>,
    allowed: &str,
    (least, most): (Duration, Duration),
) -> Result<Duration, ProblemKind> {
    let value = read(text).ok_or_else(|| form(text, allowed))?;
    if value < least || value > most {
        return Err(ProblemKind::Range { value: text.to_owned(), least, most });
    }
    Ok(value)
}

/// A whole number within bounds.
pub(super) fn number(text: &str, least: u32, most: u32) -> Result<u32, ProblemKind> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let value = text.parse().ok().filter(|value| digits && (least..=most).contains(value));
    value.ok_or_else(|| form(text, &format!("a whole number from {least} to {most}")))
}

/// One word of a set.
pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, ProblemKind> {
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let (last, rest) = words.split_last().unwrap_or((&"", &[]));
        let joined = if rest.is_empty() { (*last).to_owned() } else { format!("{} or {last}", rest.join(", ")) };
        form(text, &joined)
    })
}

pub(super) fn form(value: &str, allowed: &str) -> ProblemKind {
    ProblemKind::Form { value: value.to_owned(), allowed: allowed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("0s", 0),
            ("0.25h", 900_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        let long = format!("{}s", "9".repeat(12));
        for text in ["", "5", "s", "5 s", "-5s", "5d", "5S", ".5s", "5.s", "1e3s", "5s5", "1.2.3s", &long] {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(seconds_or_duration("30"), Some(Duration::from_secs(30)));
        assert_eq!(seconds_or_duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(seconds_or_duration("-30"), None);
        for (millis, text) in [(0, "0s"), (500, "500ms"), (90_000, "90s"), (120_000, "2m"), (3_600_000, "1h")] {
            assert_eq!(duration_text(Duration::from_millis(millis)), text);
        }
    }
}

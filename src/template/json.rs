//! JSON without rounding.
//!
//! serde_json reads an integer beyond 64 bits as a double. Such an integer is read as text instead, so that an
//! identifier of 30 digits reaches the document with all of its digits.

use serde_json::Value;

/// The value of a JSON text, or nothing where it is not JSON (or nested deeper than 128 levels).
pub(super) fn parse(text: &[u8]) -> Option<Value> {
    if has_long_digits(text) {
        return serde_json::from_slice(&quote_wide_integers(text)).ok();
    }
    serde_json::from_slice(text).ok()
}

/// Nineteen digits in a row are the fewest that may not fit 64 bits.
fn has_long_digits(text: &[u8]) -> bool {
    let mut run = 0;
    for byte in text {
        run = if byte.is_ascii_digit() { run + 1 } else { 0 };
        if run >= 19 {
            return true;
        }
    }
    false
}

fn quote_wide_integers(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let length = match byte {
            b'"' => string_length(rest),
            b'-' | b'0'..=b'9' => rest.iter().take_while(|b| b"+-.eE0123456789".contains(b)).count(),
            _ => 1,
        };
        let (token, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        if is_wide_integer(token) {
            out.push(b'"');
            out.extend_from_slice(token);
            out.push(b'"');
        } else {
            out.extend_from_slice(token);
        }
        rest = if token.is_empty() { tail } else { after };
    }
    out
}

fn string_length(text: &[u8]) -> usize {
    let mut escaped = false;
    for (index, byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

fn is_wide_integer(token: &[u8]) -> bool {
    let digits = token.strip_prefix(b"-").unwrap_or(token);
    let integer = digits.len() >= 19 && digits.iter().all(u8::is_ascii_digit) && digits.first() != Some(&b'0');
    let Ok(text) = std::str::from_utf8(token) else {
        return false;
    };
    integer && text.parse::<i64>().is_err() && text.parse::<u64>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn integers_keep_every_digit() {
        let text =
            br#"{"a":9007199254740993,"b":18446744073709551615,"c":18446744073709551616,"d":-9223372036854775809,
            "e":"\"18446744073709551616","f":[123456789012345678901234567890],"g":12345678901234567890.5,"h":1e30}"#;
        let value = parse(text).unwrap();
        assert_eq!(value["a"], json!(9_007_199_254_740_993_u64));
        assert_eq!(value["b"], json!(u64::MAX));
        assert_eq!(value["c"], json!("18446744073709551616"));
        assert_eq!(value["d"], json!("-9223372036854775809"));
        assert_eq!(value["e"], json!("\"18446744073709551616"));
        assert_eq!(value["f"][0], json!("123456789012345678901234567890"));
        assert_eq!(value["g"], json!(12_345_678_901_234_567_890.5));
        assert_eq!(value["h"], json!(1e30));
    }

    #[test]
    fn what_is_not_json_stays_not_json() {
        for text in [
            "018446744073709551616",
            "18446744073709551616abc",
            "{\"a\" 18446744073709551616}",
            "\"18446744073709551616",
            "--18446744073709551616",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}

//! Values between JSON and CEL, both ways without rounding.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cel::common::types::{
    CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt,
};
use cel::common::value::Val;
use cel::objects::{Key, OptionalValue};
use serde_json::{Map, Number, Value};

use super::MAX_RENDERED_BYTES;
use super::error::Cause;

pub(super) type Cel<'v> = Box<dyn Val + 'v>;

/// A JSON value as CEL sees it: integers stay integers (`int` where they fit, else `uint`), other numbers are doubles.
pub(super) fn to_cel(value: &Value) -> Cel<'_> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(bool) => Box::new(CelBool::from(*bool)),
        Value::Number(number) => number_to_cel(number),
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(items) => Box::new(CelList::from(items.iter().map(to_cel).collect::<Vec<_>>())),
        Value::Object(members) => map_to_cel(members),
    }
}

pub(super) fn map_to_cel(members: &Map<String, Value>) -> Cel<'_> {
    let entries = members.iter().map(|(name, value)| (CelMapKey::from(name.as_str()), to_cel(value)));
    Box::new(CelMap::from(entries.collect::<HashMap<_, _>>()))
}

pub(super) fn bytes_to_cel(bytes: &[u8]) -> Cel<'_> {
    Box::new(CelBytes::from(bytes))
}

pub(super) fn integer_to_cel(integer: u64) -> Cel<'static> {
    match i64::try_from(integer) {
        Ok(int) => Box::new(CelInt::from(int)),
        Err(_) => Box::new(CelUInt::from(integer)),
    }
}

fn number_to_cel(number: &Number) -> Cel<'static> {
    if let Some(int) = number.as_i64() {
        return Box::new(CelInt::from(int));
    }
    match number.as_u64() {
        Some(uint) => Box::new(CelUInt::from(uint)),
        None => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
    }
}

/// What may still be added to a rendered document.
pub(super) struct Budget(usize);

impl Budget {
    pub(super) const fn after(fixed: usize) -> Self {
        Self(MAX_RENDERED_BYTES.saturating_sub(fixed))
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Cause> {
        self.0 = self.0.checked_sub(bytes).ok_or(Cause::TooLarge)?;
        Ok(())
    }

    /// Takes what a value adds, or says that it is too much before the value is copied.
    pub(super) fn take_value(&mut self, value: &Value) -> Result<(), Cause> {
        match value {
            Value::String(text) => self.take(text.len() + 2),
            Value::Array(items) => {
                self.take(2)?;
                items.iter().try_for_each(|item| self.take_value(item))
            }
            Value::Object(members) => {
                self.take(2)?;
                members.iter().try_for_each(|(name, value)| {
                    self.take(name.len() + 3)?;
                    self.take_value(value)
                })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => self.take(8),
        }
    }
}

/// A result as it stands in the document. Maps have no order in CEL; they are written in the order of their keys, so
/// that a message gives the same document each time.
pub(super) fn from_cel(value: &cel::Value, budget: &mut Budget) -> Result<Value, Cause> {
    use cel::Value as V;
    Ok(match value {
        V::Null => scalar(Value::Null, budget)?,
        V::Bool(bool) => scalar(Value::Bool(*bool), budget)?,
        V::Int(int) => scalar(Value::from(*int), budget)?,
        V::UInt(uint) => scalar(Value::from(*uint), budget)?,
        V::Float(double) => {
            let number = Number::from_f64(*double).ok_or(Cause::NotJson("a double that is no number or infinite"))?;
            scalar(Value::Number(number), budget)?
        }
        V::String(text) => {
            budget.take(text.len() + 2)?;
            Value::String(text.as_str().to_owned())
        }
        V::Bytes(bytes) => scalar(Value::String(STANDARD.encode(bytes.as_slice())), budget)?,
        V::Timestamp(time) => {
            let text = time.to_rfc3339();
            scalar(
                Value::String(text.strip_suffix("+00:00").map_or_else(|| text.clone(), |text| format!("{text}Z"))),
                budget,
            )?
        }
        V::Duration(duration) => {
            let nanos = i128::from(duration.num_seconds()) * 1_000_000_000 + i128::from(duration.subsec_nanos());
            scalar(Value::String(go_duration(nanos)), budget)?
        }
        V::List(items) => {
            budget.take(2)?;
            Value::Array(items.iter().map(|item| from_cel(item, budget)).collect::<Result<_, _>>()?)
        }
        V::Map(map) => {
            budget.take(2)?;
            let mut entries: Vec<(String, &cel::Value)> =
                map.map.iter().map(|(key, value)| (name(key), value)).collect();
            entries.sort_by(|(left, _), (right, _)| left.cmp(right));
            let mut members = Map::with_capacity(entries.len());
            for (name, value) in entries {
                budget.take(name.len() + 3)?;
                if members.insert(name, from_cel(value, budget)?).is_some() {
                    return Err(Cause::NotJson("a map with two keys of the same text"));
                }
            }
            Value::Object(members)
        }
        V::Opaque(_) => match <&OptionalValue>::try_from(value) {
            Ok(optional) => match optional.value() {
                Some(value) => from_cel(value, budget)?,
                None => scalar(Value::Null, budget)?,
            },
            Err(_) => return Err(Cause::NotJson("a type")),
        },
        V::Function(..) => return Err(Cause::NotJson("a function")),
        V::Struct(_) => return Err(Cause::NotJson("a message")),
    })
}

fn scalar(value: Value, budget: &mut Budget) -> Result<Value, Cause> {
    budget.take_value(&value)?;
    Ok(value)
}

fn name(key: &Key) -> String {
    match key {
        Key::Int(int) => int.to_string(),
        Key::Uint(uint) => uint.to_string(),
        Key::Bool(bool) => bool.to_string(),
        Key::String(text) => text.as_str().to_owned(),
    }
}

/// A value inside a text: strings as they are, null as nothing, everything else as JSON.
pub(super) fn push_text(text: &mut String, value: &Value) {
    match value {
        Value::Null => {}
        Value::String(string) => text.push_str(string),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => text.push_str(&value.to_string()),
    }
}

/// A duration as Go writes it, and as the fields of Kubernetes objects take it: `1h2m3.5s`, `1.5ms`, `0s`.
fn go_duration(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction = |whole: u128, rest: u128, digits: usize| {
        let rest = format!("{rest:0digits$}");
        let rest = rest.trim_end_matches('0');
        if rest.is_empty() { whole.to_string() } else { format!("{whole}.{rest}") }
    };
    let text = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos / 1_000, nanos % 1_000, 3)),
        1_000_000..1_000_000_000 => {
            format!("{}ms", fraction(nanos / 1_000_000, nanos % 1_000_000, 6))
        }
        _ => {
            let whole = nanos / 1_000_000_000;
            let seconds = fraction(whole % 60, nanos % 1_000_000_000, 9);
            match (whole / 3600, whole / 60 % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    format!("{sign}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (nanos, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (-1_500_000, "-1.5ms"),
            (1_000_000_000, "1s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
        ] {
            assert_eq!(go_duration(nanos), expected);
        }
    }
}

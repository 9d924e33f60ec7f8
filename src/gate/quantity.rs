//! Kubernetes quantities as exact fixed-point numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Nano-units in one unit: the finest step that Kubernetes keeps.
const NANO: i128 = 1_000_000_000;

/// The powers of ten of the nano-unit that have a suffix, the largest first.
const DECIMAL: [(&str, u32); 10] = [
    ("E", 27),
    ("P", 24),
    ("T", 21),
    ("G", 18),
    ("M", 15),
    ("k", 12),
    ("", 9),
    ("m", 6),
    ("u", 3),
    ("n", 0),
];

/// The binary suffixes with their power of 1024.
const BINARY: [(&str, u32); 6] = [
    ("Ki", 1),
    ("Mi", 2),
    ("Gi", 3),
    ("Ti", 4),
    ("Pi", 5),
    ("Ei", 6),
];

/// An amount of a resource, exact to the nano-unit, as Kubernetes keeps it.
///
/// It saturates instead of wrapping: an amount beyond every quota still compares as larger than any hard.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Quantity(i128);

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// There is no number in front of the suffix.
    #[error(
        "`{text}` is not a quantity: a decimal number is allowed, such as 5, 0.5 or 1e3, with one of the suffixes \
         n, u, m, k, M, G, T, P, E, Ki, Mi, Gi, Ti, Pi, Ei or none"
    )]
    Number {
        /// What was read.
        text: String,
    },
    /// The number is followed by something that Kubernetes does not know.
    #[error(
        "`{text}` ends in `{suffix}`, which is not a suffix of a quantity: n, u, m, k, M, G, T, P, E, Ki, Mi, Gi, \
         Ti, Pi, Ei, or an exponent such as e3 are allowed"
    )]
    Suffix {
        /// What was read.
        text: String,
        /// The part that is not known.
        suffix: String,
    },
}

/// What a suffix multiplies by.
enum Scale {
    Ten(i64),
    Binary(u32),
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// More than any quota has.
    pub const MAX: Self = Self(i128::MAX);

    /// Reads every form that Kubernetes reads.
    ///
    /// As there, what is finer than a nano-unit is rounded away from zero, and a binary suffix is capped at
    /// 2^63-1 units.
    ///
    /// # Errors
    /// Where the text is no number, or has a suffix that is none.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let number = || QuantityError::Number {
            text: text.to_owned(),
        };
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, rest) = leading_digits(unsigned);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => leading_digits(rest),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(number());
        }
        let scale = scale_of(suffix).ok_or_else(|| QuantityError::Suffix {
            text: text.to_owned(),
            suffix: suffix.to_owned(),
        })?;
        let mut digits: Vec<u8> = whole
            .bytes()
            .chain(fraction.bytes())
            .map(|byte| byte - b'0')
            .collect();
        let point = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
        let magnitude = match scale {
            Scale::Ten(exponent) => {
                shifted(&digits, exponent.saturating_add(9).saturating_sub(point))
            }
            Scale::Binary(power) => {
                for _ in 0..power {
                    multiply(&mut digits, 1024);
                }
                shifted(&digits, 9_i64.saturating_sub(point)).min(i128::from(i64::MAX) * NANO)
            }
        };
        Ok(Self(if negative { -magnitude } else { magnitude }))
    }

    /// So many whole units.
    #[must_use]
    pub const fn from_whole(units: u64) -> Self {
        // u64::MAX * 10^9 is below 2^94; `From` is not const.
        Self(units as i128 * NANO)
    }

    /// The whole units in it, rounded down; 0 below zero.
    #[must_use]
    pub fn whole_floor(self) -> u64 {
        u64::try_from(self.0.max(0) / NANO).unwrap_or(u64::MAX)
    }

    /// The whole units that hold it, rounded up; 0 below zero.
    #[must_use]
    pub fn whole_ceil(self) -> u64 {
        u64::try_from(self.ceil().0.max(0) / NANO).unwrap_or(u64::MAX)
    }

    /// Rounded down to whole units.
    #[must_use]
    pub const fn floor(self) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(NANO)))
    }

    /// Rounded up to whole units.
    #[must_use]
    pub const fn ceil(self) -> Self {
        match self.0.rem_euclid(NANO) {
            0 => self,
            part => Self(self.0.saturating_add(NANO - part)),
        }
    }

    /// The sum, or [`Quantity::MAX`].
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or zero where that would be negative: room is never less than none.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0).max(0))
    }

    /// So many times this amount, or [`Quantity::MAX`].
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(i128::from(count)))
    }

    /// How many whole costs fit in.
    ///
    /// None where the cost is not above zero: settings refuse such a cost, and what slips through must not open.
    #[must_use]
    pub fn divided_by(self, cost: Self) -> u64 {
        if cost.0 <= 0 || self.0 <= 0 {
            return 0;
        }
        u64::try_from(self.0 / cost.0).unwrap_or(u64::MAX)
    }

    /// Whether it is exactly nothing.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether it is a number of whole units.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        self.0 % NANO == 0
    }

    /// The nearest float, for metrics alone: nothing is decided on it.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        // In two parts, so that whole units up to 2^53 come out exact.
        let whole = self.0 / NANO;
        let part = self.0 % NANO;
        whole as f64 + part as f64 / NANO as f64
    }

    pub(super) const fn nanos(self) -> i128 {
        self.0
    }

    pub(super) const fn from_nanos(nanos: i128) -> Self {
        Self(nanos)
    }
}

/// The canonical decimal form: no fraction, the largest suffix that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0");
        }
        let (suffix, unit) = DECIMAL
            .iter()
            .map(|(suffix, power)| (*suffix, 10_i128.pow(*power)))
            .find(|(_, unit)| self.0 % unit == 0)
            .unwrap_or(("n", 1));
        write!(f, "{}{suffix}", self.0 / unit)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Quantity {
    type Error = QuantityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Quantity> for String {
    fn from(quantity: Quantity) -> Self {
        quantity.to_string()
    }
}

fn leading_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn scale_of(suffix: &str) -> Option<Scale> {
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some(Scale::Ten(i64::from(*power) - 9));
    }
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some(Scale::Binary(*power));
    }
    // `E` alone and `Ei` were taken above: what is left of `e` and `E` is an exponent.
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, exponent.strip_prefix('+').unwrap_or(exponent)),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // An exponent beyond i64 moves every digit out of sight anyway.
    Some(Scale::Ten(sign * digits.parse::<i64>().unwrap_or(i64::MAX)))
}

/// Multiplies decimal digits, the most significant first.
fn multiply(digits: &mut Vec<u8>, factor: u32) {
    let mut carry = 0;
    for digit in digits.iter_mut().rev() {
        let product = u32::from(*digit) * factor + carry;
        *digit = last_digit(product);
        carry = product / 10;
    }
    while carry > 0 {
        digits.insert(0, last_digit(carry));
        carry /= 10;
    }
}

fn last_digit(number: u32) -> u8 {
    u8::try_from(number % 10).unwrap_or(0)
}

/// digits x 10^shift, rounded up, or the largest number.
fn shifted(digits: &[u8], shift: i64) -> i128 {
    let significant = digits.iter().skip_while(|digit| **digit == 0).count();
    let digits = digits.get(digits.len() - significant..).unwrap_or_default();
    if digits.is_empty() {
        return 0;
    }
    let whole = |digits: &[u8]| {
        digits.iter().try_fold(0_i128, |value, digit| {
            value.checked_mul(10)?.checked_add(i128::from(*digit))
        })
    };
    let exact = if shift >= 0 {
        // 10^39 is above i128 already: no more steps are needed to find the overflow.
        (0..shift.min(39)).try_fold(whole(digits), |value, _| Some(value?.checked_mul(10)))
    } else {
        let hidden = usize::try_from(shift.unsigned_abs()).unwrap_or(usize::MAX);
        let (kept, lost) = digits.split_at(digits.len().saturating_sub(hidden));
        let round_up = i128::from(lost.iter().any(|digit| *digit != 0));
        Some(whole(kept).and_then(|value| value.checked_add(round_up)))
    };
    exact.flatten().unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        Quantity::parse(text).unwrap()
    }

    #[test]
    fn every_form_is_read() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("5", 5 * NANO),
            ("+1", NANO),
            ("-1", -NANO),
            ("005", 5 * NANO),
            ("1k", 1_000 * NANO),
            ("1e3", 1_000 * NANO),
            ("1E3", 1_000 * NANO),
            ("1e+3", 1_000 * NANO),
            ("1E-3", NANO / 1_000),
            ("5000m", 5 * NANO),
            ("1M", 1_000_000 * NANO),
            ("1G", 1_000_000_000 * NANO),
            ("1T", 1_000_000_000_000 * NANO),
            ("1P", 1_000_000_000_000_000 * NANO),
            ("1E", 1_000_000_000_000_000_000 * NANO),
            ("1Ki", 1024 * NANO),
            ("1Mi", (1 << 20) * NANO),
            ("1Gi", (1 << 30) * NANO),
            ("1Ti", (1 << 40) * NANO),
            ("1Pi", (1 << 50) * NANO),
            ("1Ei", (1 << 60) * NANO),
            ("1.5Gi", 1536 * (1 << 20) * NANO),
            ("0.5", NANO / 2),
            (".5", NANO / 2),
            ("5.", 5 * NANO),
            ("1.G", 1_000_000_000 * NANO),
            ("1u", 1_000),
            ("1n", 1),
            ("-1500m", -1_500_000_000),
        ] {
            assert_eq!(q(text).0, nanos, "{text}");
        }
    }

    #[test]
    fn below_nano_rounds_away_from_zero() {
        assert_eq!(q("0.9n").0, 1);
        assert_eq!(q("1e-30").0, 1);
        assert_eq!(q("-0.1n").0, -1);
        assert_eq!(q("1.0000000001").0, NANO + 1);
        assert_eq!(q("0.0000000001Ki").0, 103);
        assert_eq!(q("0e-99999999999999999999").0, 0);
        assert_eq!(q("1e-99999999999999999999").0, 1);
    }

    #[test]
    fn too_large_saturates() {
        assert_eq!(q("1e99999999999999999999"), Quantity::MAX);
        assert_eq!(q("1e30"), Quantity::MAX);
        assert_eq!(
            q("99999999999999999999999999999999999999999"),
            Quantity::MAX
        );
        assert_eq!(q("-1e30").0, -i128::MAX);
        assert_eq!(q("0e99"), Quantity::ZERO);
        // As in Kubernetes, only binary suffixes are capped at 2^63-1.
        assert_eq!(q("8Ei").0, i128::from(i64::MAX) * NANO);
        assert_eq!(q("-9Ei").0, -i128::from(i64::MAX) * NANO);
        assert_eq!(q("18446744073709551616").0, (1 << 64) * NANO);
        assert_eq!(Quantity::MAX.saturating_add(q("1")), Quantity::MAX);
        assert_eq!(Quantity::MAX.times(3), Quantity::MAX);
        assert_eq!(Quantity::MAX.whole_ceil(), u64::MAX);
    }

    #[test]
    fn errors_say_what_is_allowed() {
        for text in [
            "", "+", "-", ".", "m", "Ki", "x", " 1", "--1", "e3", "five", "-.",
        ] {
            let error = Quantity::parse(text).unwrap_err();
            assert!(matches!(error, QuantityError::Number { .. }), "{text}");
            assert!(error.to_string().contains("such as 5, 0.5 or 1e3"));
        }
        for text in [
            "1 ", "1K", "1ki", "1g", "1e", "1e+", "1e1.5", "1e3m", "1mm", "1.2.3", "1%", "1_000",
            "1Eii", "1٣",
        ] {
            let error = Quantity::parse(text).unwrap_err();
            assert!(matches!(error, QuantityError::Suffix { .. }), "{text}");
            assert!(error.to_string().contains("Ki, Mi, Gi"), "{text}");
        }
    }

    #[test]
    fn display_is_canonical() {
        for (text, canonical) in [
            ("1000000", "1M"),
            ("1500", "1500"),
            ("1.5", "1500m"),
            ("0.1", "100m"),
            ("1.2345", "1234500u"),
            ("1e-9", "1n"),
            ("-2000", "-2k"),
            ("0k", "0"),
            ("1Ki", "1024"),
            ("1000E", "1000E"),
            ("71", "71"),
        ] {
            assert_eq!(q(text).to_string(), canonical, "{text}");
        }
        assert_eq!(q(&Quantity::MAX.to_string()), Quantity::MAX);
    }

    #[test]
    fn arithmetic_keeps_to_its_bounds() {
        assert_eq!(q("1").saturating_sub(q("2")), Quantity::ZERO);
        assert_eq!(q("1").saturating_sub(q("-2")), q("3"));
        assert_eq!(q("5").divided_by(q("2")), 2);
        assert_eq!(q("1.9").divided_by(q("100m")), 19);
        assert_eq!(q("5").divided_by(Quantity::ZERO), 0);
        assert_eq!(q("5").divided_by(q("-1")), 0);
        assert_eq!(q("-5").divided_by(q("1")), 0);
        assert_eq!(Quantity::MAX.divided_by(q("1n")), u64::MAX);
        assert_eq!((q("1.1").whole_floor(), q("1.1").whole_ceil()), (1, 2));
        assert_eq!((q("-1.1").whole_floor(), q("-1.1").whole_ceil()), (0, 0));
        assert_eq!((q("-1.1").floor(), q("-1.1").ceil()), (q("-2"), q("-1")));
        assert!((q("16Gi").as_f64() - 17_179_869_184.0).abs() < f64::EPSILON);
        assert!((q("1.9").as_f64() - 1.9).abs() < f64::EPSILON);
    }

    #[test]
    fn serde_is_a_string() {
        assert_eq!(serde_json::to_string(&q("5000m")).unwrap(), "\"5\"");
        assert_eq!(
            serde_json::from_str::<Quantity>("\"1k\"").unwrap(),
            q("1000")
        );
        assert!(serde_json::from_str::<Quantity>("\"1K\"").is_err());
    }
}

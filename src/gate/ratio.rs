//! The share of a quota that may be used, as an exact decimal.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Quantity;

/// Digits after the point that are kept: 10^18 fits an i64, and (10^18)^2 an i128.
const MAX_PLACES: usize = 18;

/// A number above 0 and at most 1, exact: 0.29 of 100 is 29, which a float gets wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ratio {
    /// Parts of `10^places`, with no trailing zero, so that equal ratios are equal values.
    parts: i64,
    places: u8,
}

/// Why a text is no ratio.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RatioError {
    /// It is no plain decimal number.
    #[error(
        "`{text}` is not a ratio: a decimal number above 0 and at most 1 is allowed, such as 0.95"
    )]
    Number {
        /// What was read.
        text: String,
    },
    /// It is a number outside (0, 1].
    #[error(
        "`{text}` is out of range: a decimal number above 0 and at most 1 is allowed, such as 0.95"
    )]
    Range {
        /// What was read.
        text: String,
    },
    /// It has more digits than are kept.
    #[error(
        "`{text}` has more than {MAX_PLACES} digits after the point, which is as many as are allowed"
    )]
    Precision {
        /// What was read.
        text: String,
    },
}

impl Ratio {
    /// All of it.
    pub const ONE: Self = Self {
        parts: 1,
        places: 0,
    };

    /// This share of an amount, rounded down to the nano-unit; nothing of a negative amount.
    #[must_use]
    pub fn of(self, amount: Quantity) -> Quantity {
        let amount = amount.nanos().max(0);
        let parts = i128::from(self.parts);
        let unit = 10_i128.pow(u32::from(self.places));
        // In two steps, because amount x parts may not fit: whole units x parts <= amount, and rest x parts < 10^36.
        let whole = (amount / unit) * parts;
        let rest = (amount % unit) * parts / unit;
        Quantity::from_nanos(whole + rest)
    }
}

impl FromStr for Ratio {
    type Err = RatioError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = || RatioError::Number {
            text: text.to_owned(),
        };
        let range = || RatioError::Range {
            text: text.to_owned(),
        };
        // A sign is told apart from garbage, so that -0.5 is answered with the range.
        if let Some(rest) = text.strip_prefix('-') {
            return Err(if plain(rest).is_some() {
                range()
            } else {
                number()
            });
        }
        let (whole, fraction) = plain(text).ok_or_else(number)?;
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        match (whole, fraction) {
            ("1", "") => Ok(Self::ONE),
            ("", "") => Err(range()),
            ("", fraction) if fraction.len() <= MAX_PLACES => Ok(Self {
                parts: fraction.parse().map_err(|_| number())?,
                places: u8::try_from(fraction.len()).map_err(|_| number())?,
            }),
            ("", _) => Err(RatioError::Precision {
                text: text.to_owned(),
            }),
            _ => Err(range()),
        }
    }
}

/// The digits before and after the point, of which there is at least one.
fn plain(text: &str) -> Option<(&str, &str)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    (digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty()))
        .then_some((whole, fraction))
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.places == 0 {
            return write!(f, "{}", self.parts);
        }
        write!(f, "0.{:0>1$}", self.parts, usize::from(self.places))
    }
}

impl TryFrom<String> for Ratio {
    type Error = RatioError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Ratio> for String {
    fn from(ratio: Ratio) -> Self {
        ratio.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reference::Decimal;
    use super::*;

    fn r(text: &str) -> Ratio {
        text.parse().unwrap()
    }

    #[test]
    fn decimals_are_read_exactly() {
        for (text, shown) in [
            ("0.95", "0.95"),
            (".5", "0.5"),
            ("1", "1"),
            ("1.", "1"),
            ("1.0", "1"),
            ("1.000000000000000000000000", "1"),
            ("01", "1"),
            ("0.50", "0.5"),
            ("00.050", "0.05"),
            ("0.000000000000000001", "0.000000000000000001"),
            ("0.999999999999999999", "0.999999999999999999"),
        ] {
            assert_eq!(r(text).to_string(), shown);
        }
        assert_eq!(r("1.0"), Ratio::ONE);
        assert_eq!(serde_json::to_string(&r(".95")).unwrap(), "\"0.95\"");
        assert_eq!(
            serde_json::from_str::<Ratio>("\"0.95\"").unwrap(),
            r("0.95")
        );
    }

    #[test]
    fn errors_say_what_is_allowed() {
        for text in [
            "", ".", "95%", "0,95", "abc", " 0.5", "1e-1", "+0.5", "0.5.", "-", "NaN", "inf",
        ] {
            let error = text.parse::<Ratio>().unwrap_err();
            assert!(matches!(error, RatioError::Number { .. }), "{text}");
            assert!(error.to_string().contains("above 0 and at most 1"));
        }
        for text in [
            "0",
            "0.0",
            "1.01",
            "2",
            "95",
            "-0.5",
            "-1",
            "1.0000000000000000000000001",
        ] {
            let error = text.parse::<Ratio>().unwrap_err();
            assert!(matches!(error, RatioError::Range { .. }), "{text}");
            assert!(error.to_string().contains("above 0 and at most 1"));
        }
        let error = "0.1234567890123456789".parse::<Ratio>().unwrap_err();
        assert!(matches!(error, RatioError::Precision { .. }));
    }

    #[test]
    fn a_share_of_the_largest_amount_does_not_overflow() {
        assert_eq!(Ratio::ONE.of(Quantity::MAX), Quantity::MAX);
        assert!(r("0.999999999999999999").of(Quantity::MAX) < Quantity::MAX);
        assert_eq!(r("0.5").of(Quantity::from_nanos(-5)), Quantity::ZERO);
    }

    proptest! {
        #[test]
        fn agrees_with_the_rational_model(nanos in 0..=i128::MAX, fraction in "[0-9]{0,17}[1-9]") {
            let amount = nanos.to_string();
            let amount = format!("{amount:0>10}");
            let (whole, part) = amount.split_at(amount.len() - 9);
            let expected = Decimal::of(whole, part).times(&Decimal::of("0", &fraction));
            let ratio = r(&format!("0.{fraction}"));
            prop_assert_eq!(ratio.of(Quantity::from_nanos(nanos)).nanos(), expected.nanos_rounded_down());
        }

        #[test]
        fn display_reads_back(fraction in "[0-9]{0,17}[1-9]") {
            let ratio = r(&format!(".{fraction}"));
            prop_assert_eq!(r(&ratio.to_string()), ratio);
        }

        #[test]
        fn a_share_is_at_most_the_whole(nanos in 0..=i128::MAX, fraction in "[0-9]{0,17}[1-9]") {
            let amount = Quantity::from_nanos(nanos);
            let share = r(&format!("0.{fraction}")).of(amount);
            prop_assert!(share <= amount);
        }
    }
}

//! School arithmetic on decimal digits: slow, unbounded, and sharing no line with what it checks.

use std::cmp::Ordering;

/// digits x 10^-places, the least significant digit first.
#[derive(Debug, Clone)]
pub(super) struct Decimal {
    digits: Vec<u32>,
    places: i64,
}

impl Decimal {
    pub(super) fn of(whole: &str, fraction: &str) -> Self {
        let digits = format!("{whole}{fraction}")
            .chars()
            .rev()
            .map(|c| c.to_digit(10).unwrap())
            .collect();
        Self {
            digits,
            places: i64::try_from(fraction.len()).unwrap(),
        }
    }

    pub(super) fn times(&self, other: &Self) -> Self {
        let mut digits = vec![0; self.digits.len() + other.digits.len() + 1];
        for (i, a) in self.digits.iter().enumerate() {
            for (j, b) in other.digits.iter().enumerate() {
                digits[i + j] += a * b;
            }
            for k in 0..digits.len() - 1 {
                digits[k + 1] += digits[k] / 10;
                digits[k] %= 10;
            }
        }
        Self {
            digits,
            places: self.places + other.places,
        }
    }

    pub(super) fn scaled_by_suffix(&self, suffix: &str) -> Self {
        if let Some(power) = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
            .iter()
            .position(|name| *name == suffix)
        {
            let factor = 1_u64 << (10 * (power + 1));
            return self.times(&Self::of(&factor.to_string(), ""));
        }
        let exponent: i64 = match suffix {
            "n" => -9,
            "u" => -6,
            "m" => -3,
            "" => 0,
            "k" => 3,
            "M" => 6,
            "G" => 9,
            "T" => 12,
            "P" => 15,
            "E" => 18,
            exponent => exponent[1..].parse().unwrap(),
        };
        Self {
            digits: self.digits.clone(),
            places: self.places - exponent,
        }
    }

    /// The digit that counts 10^power.
    fn digit(&self, power: i64) -> u32 {
        usize::try_from(power + self.places)
            .ok()
            .and_then(|index| self.digits.get(index))
            .copied()
            .unwrap_or(0)
    }

    fn highest(&self) -> i64 {
        i64::try_from(self.digits.len()).unwrap() - self.places
    }

    pub(super) fn nanos_rounded_up(&self, capped: bool) -> i128 {
        let rest = (-self.places..-9).any(|power| self.digit(power) > 0);
        let exact = self
            .nanos()
            .and_then(|nanos| nanos.checked_add(i128::from(rest)));
        let cap = if capped {
            9_223_372_036_854_775_807_000_000_000
        } else {
            i128::MAX
        };
        exact.map_or(cap, |nanos| nanos.min(cap))
    }

    pub(super) fn nanos_rounded_down(&self) -> i128 {
        self.nanos().unwrap_or(i128::MAX)
    }

    fn nanos(&self) -> Option<i128> {
        let mut nanos = 0_i128;
        for power in (-9..self.highest().max(-8)).rev() {
            nanos = nanos
                .checked_mul(10)?
                .checked_add(i128::from(self.digit(power)))?;
        }
        Some(nanos)
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let high = self.highest().max(other.highest());
        let low = (-self.places).min(-other.places);
        let differs = (low..high)
            .rev()
            .map(|power| self.digit(power).cmp(&other.digit(power)))
            .find(|order| order.is_ne());
        Some(differs.unwrap_or(Ordering::Equal))
    }
}

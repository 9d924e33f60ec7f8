//! Properties of [`Quantity`] against a model that shares no code with it.

use proptest::prelude::*;

use super::Quantity;
use super::reference::Decimal;

fn q(text: &str) -> Quantity {
    Quantity::parse(text).unwrap()
}

prop_compose! {
    fn forms()(
        sign in prop::sample::select(vec!["", "+", "-"]),
        whole in "[0-9]{0,30}",
        point in any::<bool>(),
        fraction in "[0-9]{0,20}",
        suffix in prop_oneof![
            prop::sample::select(vec![
                "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
            ]).prop_map(str::to_owned),
            "[eE][+-]?[0-9]{1,2}",
        ],
    ) -> (String, String, String, String) {
        let fraction = if point { fraction } else { String::new() };
        let (whole, fraction) = if whole.is_empty() && fraction.is_empty() {
            ("7".to_owned(), fraction)
        } else {
            (whole, fraction)
        };
        (sign.to_owned(), whole, fraction, suffix)
    }
}

fn text((sign, whole, fraction, suffix): &(String, String, String, String)) -> String {
    let point = if fraction.is_empty() && !whole.ends_with('0') {
        ""
    } else {
        "."
    };
    format!("{sign}{whole}{point}{fraction}{suffix}")
}

proptest! {
    #[test]
    fn agrees_with_the_rational_model(parts in forms()) {
        let parsed = q(&text(&parts));
        let (sign, whole, fraction, suffix) = parts;
        let model = Decimal::of(&whole, &fraction).scaled_by_suffix(&suffix);
        let expected = model.nanos_rounded_up(suffix.ends_with('i'));
        let expected = if sign == "-" { -expected } else { expected };
        prop_assert_eq!(parsed.nanos(), expected);
    }

    #[test]
    fn display_reads_back(nanos in any::<i128>()) {
        let quantity = Quantity::from_nanos(nanos.max(-i128::MAX));
        prop_assert_eq!(q(&quantity.to_string()), quantity);
    }

    #[test]
    fn display_of_plain_numbers_reads_back(nanos in -1_000_000_000_000_i128..1_000_000_000_000, power in 0_u32..15) {
        let quantity = Quantity::from_nanos(nanos * 10_i128.pow(power));
        let shown = quantity.to_string();
        prop_assert_eq!(q(&shown), quantity);
        let number = shown.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        // Nothing is below nano, nothing has a suffix above E: between them no thousand is left in the number.
        let thousand = number.ends_with("000") && !shown.ends_with('E');
        prop_assert!(!shown.contains('.') && !thousand, "{}", shown);
    }

    #[test]
    fn order_is_that_of_the_model(left in forms(), right in forms()) {
        let magnitude = |parts: &(String, String, String, String)| {
            Decimal::of(&parts.1, &parts.2).scaled_by_suffix(&parts.3)
        };
        let (a, b) = (magnitude(&left), magnitude(&right));
        let unsigned = |mut parts: (String, String, String, String)| {
            parts.0.clear();
            q(&text(&parts))
        };
        let (x, y) = (unsigned(left), unsigned(right));
        // The cap of binary suffixes alone may turn an order around.
        let cap = Quantity::parse("8Ei").unwrap();
        if x != cap && y != cap && x != y {
            prop_assert_eq!(x > y, a > b);
            prop_assert_eq!(x < y, a < b);
        }
    }

    #[test]
    fn whole_costs_fit(have in 0_i128..1_000_000_000_000, cost in 1_i128..10_000_000_000) {
        let (have, cost) = (Quantity::from_nanos(have), Quantity::from_nanos(cost));
        let fit = have.divided_by(cost);
        prop_assert!(cost.times(fit) <= have);
        prop_assert!(cost.times(fit + 1) > have);
    }
}

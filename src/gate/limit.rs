//! How much of a quota may be used.

use super::{Quantity, Ratio, ResourceName};

/// The limit under a hard: hard x ratio, exactly.
///
/// Object counts are rounded down to whole objects. A small quota is never rounded down to nothing: where hard holds
/// one effect, the limit does. Where it does not, the limit is 0.
#[must_use]
pub fn limit(hard: Quantity, ratio: Ratio, cost: Quantity, resource: &ResourceName) -> Quantity {
    let objects = resource.is_object_count();
    let (hard, cost) = if objects {
        (hard.floor(), cost.ceil())
    } else {
        (hard, cost)
    };
    if hard <= Quantity::ZERO || cost > hard {
        return Quantity::ZERO;
    }
    let share = ratio.of(hard);
    let share = if objects { share.floor() } else { share };
    share.max(cost)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COUNT: &str = "count/workflows.argoproj.io";

    fn of(hard: &str, ratio: &str, cost: &str, resource: &str) -> String {
        limit(
            hard.parse().unwrap(),
            ratio.parse().unwrap(),
            cost.parse().unwrap(),
            &resource.parse().unwrap(),
        )
        .to_string()
    }

    #[test]
    fn examples_of_the_design() {
        assert_eq!(of("100", "0.29", "1", COUNT), "29");
        assert_eq!(of("75", "0.95", "1", COUNT), "71");
        assert_eq!(of("1", "0.95", "1", COUNT), "1");
        assert_eq!(of("0", "0.95", "1", COUNT), "0");
        assert_eq!(of("2", "0.95", "100m", "requests.cpu"), "1900m");
        assert_eq!(of("5", "0.97", "1", COUNT), "4");
        assert_eq!(of("150", "0.95", "1", COUNT), "142");
        assert_eq!(of("100", "0.5", "1", "pods"), "50");
        assert_eq!(of("75", "1", "1", COUNT), "75");
    }

    #[test]
    fn one_effect_fits_where_hard_allows_it() {
        assert_eq!(of("3", "0.5", "3", COUNT), "3");
        assert_eq!(of("3", "0.5", "4", COUNT), "0");
        assert_eq!(of("2", "0.5", "1500m", "requests.cpu"), "1500m");
        assert_eq!(of("2", "0.5", "2100m", "requests.cpu"), "0");
        assert_eq!(of("1", "0.000000000000000001", "1", COUNT), "1");
    }

    #[test]
    fn objects_are_whole() {
        assert_eq!(of("1500m", "1", "1", COUNT), "1");
        assert_eq!(of("1500m", "1", "1500m", COUNT), "0");
        assert_eq!(of("-3", "1", "1", COUNT), "0");
    }

    #[test]
    fn floats_lie_and_this_does_not() {
        let mut lies = 0;
        for hundredths in 1..=100_u64 {
            let ratio: Ratio = format!("{}.{:02}", hundredths / 100, hundredths % 100)
                .parse()
                .unwrap();
            for hard in 1..=400_u64 {
                let exact = hard * hundredths / 100;
                let resource = ResourceName::new(COUNT).unwrap();
                let got = limit(
                    Quantity::from_whole(hard),
                    ratio,
                    Quantity::from_whole(1),
                    &resource,
                );
                assert_eq!(got, Quantity::from_whole(exact.max(1)), "{hard} x {ratio}");
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let float = (hard as f64 * ratio.to_string().parse::<f64>().unwrap()) as u64;
                lies += u64::from(float != exact);
            }
        }
        assert!(
            lies > 0,
            "floats agree everywhere, so this test shows nothing"
        );
    }

    proptest! {
        #[test]
        fn stays_between_one_effect_and_hard(
            hard in 0..=i128::MAX, small in 0_i128..10_000_000_000, cost in 1_i128..20_000_000_000,
            fraction in "[0-9]{0,17}[1-9]", tiny in any::<bool>(), objects in any::<bool>(),
        ) {
            let hard = Quantity::from_nanos(if tiny { small } else { hard });
            let cost = Quantity::from_nanos(cost);
            let cost = if objects { cost.ceil() } else { cost };
            let resource = ResourceName::new(if objects { COUNT } else { "requests.cpu" }).unwrap();
            let ratio: Ratio = format!("0.{fraction}").parse().unwrap();
            let got = limit(hard, ratio, cost, &resource);
            let all = limit(hard, Ratio::ONE, cost, &resource);
            prop_assert!(got >= Quantity::ZERO);
            prop_assert!(got <= hard);
            prop_assert!(got <= all);
            let fits = cost <= if objects { hard.floor() } else { hard };
            prop_assert_eq!(got >= cost, fits);
            prop_assert!(fits || got.is_zero());
            prop_assert!(!objects || got.is_whole());
        }

        #[test]
        fn grows_with_hard(
            hard in 0_i128..1_000_000_000_000, more in 0_i128..1_000_000_000_000,
            cost in 1_i128..20_000_000_000, fraction in "[0-9]{0,17}[1-9]", objects in any::<bool>(),
        ) {
            let resource = ResourceName::new(if objects { COUNT } else { "requests.cpu" }).unwrap();
            let ratio: Ratio = format!("0.{fraction}").parse().unwrap();
            let at = |nanos| limit(Quantity::from_nanos(nanos), ratio, Quantity::from_nanos(cost), &resource);
            prop_assert!(at(hard) <= at(hard + more));
        }
    }
}

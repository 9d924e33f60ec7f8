//! What several quotas together say about one resource.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::{Quantity, QuotaView, Ratio, Reading, Reason, Reasons, ResourceName, limit};

/// One quota that bounds a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// The quota's name.
    pub quota: String,
    /// The smaller one of what its spec asks for and what its status enforces.
    pub hard: Quantity,
    /// What is in use.
    pub used: Quantity,
    /// How much of hard may be used: the ratio's share where the quota is named, else all.
    pub limit: Quantity,
    /// Whether the quota's spec is not what is enforced.
    pub spec_differs: bool,
}

/// Why nothing may be started on a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// The reason.
    pub reason: Reason,
    /// The quota that it is about.
    pub quota: Option<String>,
    /// What a person needs to know beyond the reason.
    pub detail: String,
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.sentence(), self.detail)
    }
}

/// The quotas that bound a resource, for a sensor that names some of them.
///
/// `quotas` are all those of the namespace by name. The named ones come first, at the ratio's share, in the order in
/// which they are named; then, by name, the other unscoped ones that track the resource, at their hard, because the
/// API server makes every one of them fit.
///
/// Every named quota must exist, and at least one must name the resource: a sensor whose effect costs several
/// resources may have each of them in a quota of its own, but a resource that no named quota knows would be gated by
/// nothing that the user asked for. A named quota with scopes may bound pods, claims and what is divided among them;
/// it cannot bound other objects, and counts as one that does not name them.
///
/// # Errors
/// Where anything is missing or unknown, or one effect costs more than a hard. Where several things hold, the first
/// one by [`Reason::PRECEDENCE`], and of those the first quota in the order above.
pub fn bounds(
    quotas: &BTreeMap<String, QuotaView>,
    named: &[String],
    ratio: Ratio,
    resource: &ResourceName,
    cost: Quantity,
) -> Result<Vec<Bound>, Blocked> {
    let mut found = Vec::new();
    let mut blocked = Vec::new();
    let mut unnamed = Vec::new();
    let mut seen = BTreeSet::new();
    for name in named.iter().filter(|name| seen.insert(name.as_str())) {
        match quotas.get(name) {
            None => {
                blocked.push(Blocked::new(Reason::QuotaMissing, name, format!("ResourceQuota `{name}` does not exist")))
            }
            Some(quota) if quota.scoped && !resource.may_be_scoped() => unnamed.push(Blocked::new(
                Reason::ResourceMissing,
                name,
                format!("ResourceQuota `{name}` has scopes, and a quota with scopes does not count `{resource}`"),
            )),
            Some(quota) if !quota.names(resource) => {
                unnamed.push(Blocked::new(
                    Reason::ResourceMissing,
                    name,
                    format!("ResourceQuota `{name}` does not name `{resource}`; it has {}", keys(quota)),
                ));
            }
            Some(quota) => push(quota, ratio, resource, cost, &mut found, &mut blocked),
        }
    }
    if found.is_empty() && blocked.is_empty() {
        // Also where no quota is named at all: then there is nothing to gate on, and nothing may open.
        blocked.push(unnamed.into_iter().next().unwrap_or_else(|| Blocked {
            reason: Reason::QuotaMissing,
            quota: None,
            detail: "no ResourceQuota is named".to_owned(),
        }));
    }
    for quota in quotas.values() {
        if !seen.contains(quota.name.as_str()) && quota.tracks(resource) {
            push(quota, Ratio::ONE, resource, cost, &mut found, &mut blocked);
        }
    }
    let first = blocked.iter().map(|blocked| blocked.reason).collect::<Reasons>().first();
    match first.and_then(|first| blocked.into_iter().find(|blocked| blocked.reason == first)) {
        Some(blocked) => Err(blocked),
        None => Ok(found),
    }
}

impl Blocked {
    fn new(reason: Reason, quota: &str, detail: String) -> Self {
        Self { reason, quota: Some(quota.to_owned()), detail }
    }
}

/// Adds what a quota that names the resource says, to the one list or to the other.
fn push(
    quota: &QuotaView,
    ratio: Ratio,
    resource: &ResourceName,
    cost: Quantity,
    found: &mut Vec<Bound>,
    blocked: &mut Vec<Blocked>,
) {
    let name = &quota.name;
    match quota.reading(resource) {
        Err(reason) => blocked.push(Blocked::new(
            reason,
            name,
            format!("the status of ResourceQuota `{name}` does not say hard and used of `{resource}` yet"),
        )),
        Ok(Reading { hard, .. }) if cost > hard => blocked.push(Blocked::new(
            Reason::NeverFits,
            name,
            format!("one effect costs {cost} of `{resource}`, and ResourceQuota `{name}` allows {hard} in all"),
        )),
        Ok(Reading { hard, used, spec_differs }) => found.push(Bound {
            quota: name.clone(),
            hard,
            used,
            limit: limit(hard, ratio, cost, resource),
            spec_differs,
        }),
    }
}

fn keys(quota: &QuotaView) -> String {
    let status = quota.status_hard.iter().flat_map(BTreeMap::keys);
    let keys: BTreeSet<&str> = quota.spec_hard.keys().chain(status).map(ResourceName::as_str).collect();
    if keys.is_empty() {
        return "none".to_owned();
    }
    keys.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COUNT: &str = "count/workflows.argoproj.io";

    fn q(text: &str) -> Quantity {
        text.parse().unwrap()
    }

    /// A quota that is calculated: resource, hard, used.
    fn quota(name: &str, rows: &[(&str, &str, &str)]) -> QuotaView {
        let hard: BTreeMap<_, _> = rows.iter().map(|row| (row.0.parse().unwrap(), q(row.1))).collect();
        QuotaView {
            name: name.to_owned(),
            uid: "u".to_owned(),
            resource_version: 1,
            scoped: false,
            spec_hard: hard.clone(),
            status_hard: Some(hard),
            used: rows.iter().map(|row| (row.0.parse().unwrap(), q(row.2))).collect(),
        }
    }

    fn ask(quotas: &[QuotaView], named: &[&str], resource: &str, cost: &str) -> Result<Vec<Bound>, Blocked> {
        let quotas = quotas.iter().map(|quota| (quota.name.clone(), quota.clone())).collect();
        let named: Vec<_> = named.iter().map(|name| (*name).to_owned()).collect();
        bounds(&quotas, &named, "0.95".parse().unwrap(), &resource.parse().unwrap(), q(cost))
    }

    fn limits(bounds: &[Bound]) -> Vec<(&str, String)> {
        bounds.iter().map(|bound| (bound.quota.as_str(), bound.limit.to_string())).collect()
    }

    #[test]
    fn the_named_at_their_share_and_the_others_at_their_hard() {
        let quotas = [
            quota("a-other", &[(COUNT, "80", "10")]),
            quota("team", &[(COUNT, "75", "10")]),
            quota("unrelated", &[("pods", "1", "1")]),
        ];
        let found = ask(&quotas, &["team"], COUNT, "1").unwrap();
        assert_eq!(limits(&found), [("team", "71".to_owned()), ("a-other", "80".to_owned())]);
    }

    #[test]
    fn a_missing_quota_blocks() {
        let quotas = [quota("team", &[(COUNT, "75", "10")])];
        let blocked = ask(&quotas, &["team", "gone"], COUNT, "1").unwrap_err();
        assert_eq!((blocked.reason, blocked.quota.as_deref()), (Reason::QuotaMissing, Some("gone")));
        assert!(blocked.to_string().contains("`gone` does not exist"));
        let blocked = ask(&quotas, &[], COUNT, "1").unwrap_err();
        assert_eq!((blocked.reason, blocked.quota), (Reason::QuotaMissing, None));
    }

    #[test]
    fn one_of_the_named_must_name_the_resource() {
        let quotas =
            [quota("cpu", &[("requests.cpu", "2", "0"), ("pods", "3", "0")]), quota("team", &[(COUNT, "75", "10")])];
        let found = ask(&quotas, &["cpu", "team"], COUNT, "1").unwrap();
        assert_eq!(limits(&found), [("team", "71".to_owned())]);
        // An unnamed quota that tracks the resource does not stand in for the one that the user meant.
        let blocked = ask(&quotas, &["cpu"], COUNT, "1").unwrap_err();
        assert_eq!(blocked.reason, Reason::ResourceMissing);
        assert_eq!(blocked.detail, format!("ResourceQuota `cpu` does not name `{COUNT}`; it has pods, requests.cpu"));
    }

    #[test]
    fn costs_above_one_on_cpu() {
        let quotas = [quota("cpu", &[("requests.cpu", "2", "500m")])];
        let found = ask(&quotas, &["cpu"], "requests.cpu", "750m").unwrap();
        assert_eq!(limits(&found), [("cpu", "1900m".to_owned())]);
    }

    #[test]
    fn what_never_fits_is_said() {
        for (hard, cost) in [("0", "1"), ("2", "3")] {
            let quotas = [quota("team", &[(COUNT, hard, "0")])];
            let blocked = ask(&quotas, &["team"], COUNT, cost).unwrap_err();
            assert_eq!(blocked.reason, Reason::NeverFits);
            assert!(blocked.detail.contains(&format!("allows {hard} in all")));
        }
        let quotas = [quota("team", &[(COUNT, "75", "0")]), quota("tight", &[(COUNT, "1", "0")])];
        let blocked = ask(&quotas, &["team"], COUNT, "2").unwrap_err();
        assert_eq!((blocked.reason, blocked.quota.as_deref()), (Reason::NeverFits, Some("tight")));
    }

    #[test]
    fn an_other_quota_that_is_not_calculated_blocks() {
        let mut fresh = quota("fresh", &[(COUNT, "80", "0")]);
        fresh.status_hard = None;
        fresh.used.clear();
        let quotas = [quota("team", &[(COUNT, "75", "0")]), fresh];
        let blocked = ask(&quotas, &["team"], COUNT, "1").unwrap_err();
        assert_eq!((blocked.reason, blocked.quota.as_deref()), (Reason::StatusUnknown, Some("fresh")));
    }

    #[test]
    fn scopes_bound_pods_and_no_other_objects() {
        let mut scoped = quota("scoped", &[(COUNT, "1", "0"), ("pods", "4", "0")]);
        scoped.scoped = true;
        let quotas = [quota("team", &[(COUNT, "75", "0"), ("pods", "9", "0")]), scoped];
        let found = ask(&quotas, &["team"], COUNT, "1").unwrap();
        assert_eq!(limits(&found), [("team", "71".to_owned())]);
        let blocked = ask(&quotas, &["scoped"], COUNT, "1").unwrap_err();
        assert_eq!(blocked.reason, Reason::ResourceMissing);
        assert!(blocked.detail.contains("has scopes"), "{blocked}");
        let found = ask(&quotas, &["scoped"], "pods", "1").unwrap();
        assert_eq!(limits(&found), [("scoped", "3".to_owned()), ("team", "9".to_owned())]);
    }

    #[test]
    fn the_first_reason_by_precedence_is_said() {
        let mut unknown = quota("unknown", &[(COUNT, "5", "0")]);
        unknown.used.clear();
        let quotas = [unknown, quota("tight", &[(COUNT, "0", "0")])];
        let reason = |named: &[&str]| ask(&quotas, named, COUNT, "1").unwrap_err().reason;
        assert_eq!(reason(&["tight", "unknown", "gone"]), Reason::QuotaMissing);
        assert_eq!(reason(&["tight", "unknown"]), Reason::StatusUnknown);
    }

    #[test]
    fn a_quota_named_twice_counts_once() {
        let quotas = [quota("team", &[(COUNT, "75", "0")])];
        assert_eq!(ask(&quotas, &["team", "team"], COUNT, "1").unwrap().len(), 1);
    }

    prop_compose! {
        fn any_quota(name: &'static str)(
            spec in prop::option::of(0_u64..12), status in prop::option::of(0_u64..12),
            used in prop::option::of(0_u64..15), scoped in prop::bool::weighted(0.2), with_status in any::<bool>(),
        ) -> QuotaView {
            let list = |amount: Option<u64>| -> BTreeMap<ResourceName, Quantity> {
                amount.map(|amount| (COUNT.parse().unwrap(), Quantity::from_whole(amount))).into_iter().collect()
            };
            QuotaView {
                name: name.to_owned(),
                uid: name.to_owned(),
                resource_version: 1,
                scoped,
                spec_hard: list(spec),
                status_hard: (with_status || status.is_some()).then(|| list(status)),
                used: list(used),
            }
        }
    }

    proptest! {
        #[test]
        fn what_opens_is_known_and_fits_everywhere(
            a in any_quota("a"), b in any_quota("b"), c in any_quota("c"),
            named in prop::sample::subsequence(vec!["a", "b", "c", "gone"], 0..=4),
            cost in 1_u64..4,
        ) {
            let all = [a, b, c];
            let resource: ResourceName = COUNT.parse().unwrap();
            let cost = Quantity::from_whole(cost);
            let answer = ask(&all, &named, COUNT, &cost.to_string());
            let tracking: Vec<_> = all.iter().filter(|quota| quota.tracks(&resource)).collect();
            let meant = tracking.iter().any(|quota| named.contains(&quota.name.as_str()));
            let known = tracking.iter().all(|quota| quota.reading(&resource).is_ok());
            let fits = tracking.iter().all(|quota| {
                quota.reading(&resource).is_ok_and(|reading| reading.hard >= cost)
            });
            let open = meant && known && fits && !named.contains(&"gone");
            prop_assert_eq!(answer.is_ok(), open);
            match answer {
                Ok(found) => {
                    prop_assert_eq!(found.len(), tracking.len());
                    for bound in &found {
                        let reading = all.iter().find(|quota| quota.name == bound.quota).unwrap()
                            .reading(&resource).unwrap();
                        let named = named.contains(&bound.quota.as_str());
                        prop_assert_eq!((bound.hard, bound.used), (reading.hard, reading.used));
                        prop_assert!(bound.limit >= cost && bound.limit <= bound.hard);
                        prop_assert!(named || bound.limit == bound.hard);
                    }
                }
                Err(blocked) => {
                    prop_assert_eq!(blocked.reason == Reason::QuotaMissing, named.is_empty() || named.contains(&"gone"));
                    if blocked.reason == Reason::ResourceMissing {
                        prop_assert!(!meant);
                    }
                    if blocked.reason == Reason::NeverFits {
                        prop_assert!(meant && known);
                    }
                }
            }
        }
    }
}

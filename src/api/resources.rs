//! What one effect costs, of which resources.

use crate::gate::{Quantity, ResourceName};

use super::problem::ProblemKind;

/// `name`, or `name=cost,name=cost`: what one effect takes of each resource.
pub(super) fn resources(text: &str) -> Result<Vec<(ResourceName, Quantity)>, ProblemKind> {
    let mut resources: Vec<(ResourceName, Quantity)> = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (name, cost) = match item.split_once('=') {
            Some((name, cost)) => (name.trim(), Some(cost.trim())),
            None => (item, None),
        };
        let resource = ResourceName::new(name)?;
        if resources.iter().any(|(known, _)| *known == resource) {
            return Err(ProblemKind::Twice(name.to_owned()));
        }
        let cost = cost_of(&resource, cost)?;
        resources.push((resource, cost));
    }
    Ok(resources)
}

fn cost_of(resource: &ResourceName, text: Option<&str>) -> Result<Quantity, ProblemKind> {
    let name = resource.as_str().to_owned();
    let Some(text) = text else {
        // One effect is one object; how much cpu one effect takes nobody can guess.
        return if resource.is_object_count() {
            Ok(Quantity::from_whole(1))
        } else {
            Err(ProblemKind::CostMissing(name))
        };
    };
    let value = |allowed| ProblemKind::CostValue { resource: name.clone(), cost: text.to_owned(), allowed };
    let cost = match Quantity::parse(text) {
        Ok(cost) => cost,
        Err(source) => {
            return Err(ProblemKind::Cost { resource: name, source });
        }
    };
    if cost <= Quantity::ZERO {
        return Err(value("a quantity above 0"));
    }
    if resource.is_object_count() && Quantity::from_whole(cost.whole_floor()) != cost {
        return Err(value("a whole number of objects"));
    }
    Ok(cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs() {
        let cost = |text| Quantity::parse(text).unwrap();
        let name = |text| ResourceName::new(text).unwrap();
        assert_eq!(resources("pods"), Ok(vec![(name("pods"), cost("1"))]));
        assert_eq!(
            resources("count/workflows.argoproj.io=1, pods=3,requests.cpu=1500m"),
            Ok(vec![
                (name("count/workflows.argoproj.io"), cost("1")),
                (name("pods"), cost("3")),
                (name("requests.cpu"), cost("1.5"))
            ])
        );
    }

    #[test]
    fn mistakes() {
        let quantity = Quantity::parse("x").unwrap_err();
        let resource = ResourceName::new("").unwrap_err();
        let table = [
            ("pods,pods=2", "`pods` is given twice".to_owned()),
            ("requests.cpu", "requests.cpu needs the cost of one effect, such as requests.cpu=500m".to_owned()),
            ("pods=0", "cost of pods: `0` is not allowed; allowed is a quantity above 0".to_owned()),
            ("requests.cpu=-1", "cost of requests.cpu: `-1` is not allowed; allowed is a quantity above 0".to_owned()),
            ("pods=500m", "cost of pods: `500m` is not allowed; allowed is a whole number of objects".to_owned()),
            ("pods=x", format!("cost of pods: {quantity}")),
            ("pods,", resource.to_string()),
        ];
        for (text, expected) in table {
            assert_eq!(resources(text).unwrap_err().to_string(), expected);
        }
    }
}

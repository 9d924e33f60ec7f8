//! Sets of credit numbers, kept as sorted disjoint ranges: a holder's open numbers are nearly always few ranges.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Up to so many ranges are put in or taken out one by one: moving the rest costs less than a new set.
const FEW: usize = 8;

/// A set of credit numbers.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NumberSet {
    /// Inclusive, sorted, disjoint and not touching.
    ranges: Vec<(u64, u64)>,
}

impl NumberSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// The numbers `first..=last`; empty where `last < first`.
    #[must_use]
    pub fn of_range(first: u64, last: u64) -> Self {
        let mut set = Self::new();
        set.insert_range(first, last);
        set
    }

    /// How many numbers are in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ranges.iter().fold(0, |sum: u64, &(first, last)| sum.saturating_add((last - first).saturating_add(1)))
    }

    /// Whether there is no number in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many ranges it takes, which is what it costs to keep and to send.
    #[must_use]
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// The ranges, inclusive and ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().copied()
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.ranges.iter().flat_map(|&(first, last)| first..=last)
    }

    /// The smallest number.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.ranges.first().map(|&(first, _)| first)
    }

    /// The largest number.
    #[must_use]
    pub fn last(&self) -> Option<u64> {
        self.ranges.last().map(|&(_, last)| last)
    }

    /// Whether the number is in the set.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        let at = self.ranges.partition_point(|&(_, last)| last < number);
        self.ranges.get(at).is_some_and(|&(first, _)| first <= number)
    }

    /// Puts a number in; says whether it was missing.
    pub fn insert(&mut self, number: u64) -> bool {
        if self.contains(number) {
            return false;
        }
        self.insert_range(number, number);
        true
    }

    /// Puts the numbers `first..=last` in.
    pub fn insert_range(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        // Every range that overlaps or touches is merged into one.
        let from = self.ranges.partition_point(|&(_, end)| end.saturating_add(1) < first);
        let to = self.ranges.partition_point(|&(start, _)| start <= last.saturating_add(1));
        let merged = self
            .ranges
            .get(from..to)
            .unwrap_or_default()
            .iter()
            .fold((first, last), |(low, high), &(start, end)| (low.min(start), high.max(end)));
        self.ranges.splice(from..to.max(from), [merged]);
    }

    /// Takes a number out; says whether it was there.
    pub fn remove(&mut self, number: u64) -> bool {
        let at = self.ranges.partition_point(|&(_, last)| last < number);
        let Some(&(first, last)) = self.ranges.get(at) else { return false };
        if first > number {
            return false;
        }
        let mut left = Vec::with_capacity(2);
        if first < number {
            left.push((first, number - 1));
        }
        if number < last {
            left.push((number + 1, last));
        }
        self.ranges.splice(at..=at, left);
        true
    }

    /// Takes the smallest number out.
    pub fn pop_first(&mut self) -> Option<u64> {
        let number = self.first()?;
        self.remove(number);
        Some(number)
    }

    /// Takes the largest number out.
    pub fn pop_last(&mut self) -> Option<u64> {
        let number = self.last()?;
        self.remove(number);
        Some(number)
    }

    /// Puts all numbers of another set in.
    pub fn extend(&mut self, other: &Self) {
        if other.ranges.len() <= FEW {
            for &(first, last) in &other.ranges {
                self.insert_range(first, last);
            }
        } else {
            *self = self.union(other);
        }
    }

    /// Takes all numbers of another set out.
    pub fn subtract(&mut self, other: &Self) {
        if other.ranges.len() <= FEW {
            for &(first, last) in &other.ranges {
                self.remove_range(first, last);
            }
        } else {
            *self = self.minus(other);
        }
    }

    /// Takes the numbers `first..=last` out.
    pub fn remove_range(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        let from = self.ranges.partition_point(|&(_, end)| end < first);
        let to = self.ranges.partition_point(|&(start, _)| start <= last).max(from);
        let mut left = Vec::with_capacity(2);
        let hit = self.ranges.get(from..to).unwrap_or_default();
        left.extend(hit.first().filter(|(start, _)| *start < first).map(|&(start, _)| (start, first - 1)));
        left.extend(hit.last().filter(|(_, end)| last < *end).map(|&(_, end)| (last + 1, end)));
        self.ranges.splice(from..to, left);
    }

    /// The union of two sets.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(self.ranges.len() + other.ranges.len());
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        while let Some(&(first, last)) = match (left.peek(), right.peek()) {
            (Some(a), Some(b)) if a.0 <= b.0 => left.next(),
            (Some(_), None) => left.next(),
            (_, Some(_)) => right.next(),
            (None, None) => None,
        } {
            match ranges.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                Some(_) | None => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len());
        let mut holes = other.ranges.as_slice();
        for &(first, last) in &self.ranges {
            let mut from = Some(first);
            // Holes that end before this range are behind every later one too.
            while let [(_, end), rest @ ..] = holes
                && *end < first
            {
                holes = rest;
            }
            for &(start, end) in holes.iter().take_while(|(start, _)| *start <= last) {
                let Some(at) = from else { break };
                if at < start {
                    ranges.push((at, start - 1));
                }
                from = end.checked_add(1);
            }
            if let Some(at) = from.filter(|at| *at <= last) {
                ranges.push((at, last));
            }
        }
        Self { ranges }
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        let (mut left, mut right) = (self.ranges.as_slice(), other.ranges.as_slice());
        while let ([(a, b), left_rest @ ..], [(c, d), right_rest @ ..]) = (left, right) {
            let (first, last) = (*a.max(c), *b.min(d));
            if first <= last {
                ranges.push((first, last));
            }
            if b < d {
                left = left_rest;
            } else {
                right = right_rest;
            }
        }
        Self { ranges }
    }

    /// Whether a set that came from outside keeps the rules of this type: sorted, disjoint, not touching.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        self.ranges.iter().all(|&(first, last)| first <= last)
            && self
                .ranges
                .windows(2)
                .all(|pair| matches!(pair, [(_, last), (first, _)] if last.saturating_add(1) < *first))
    }
}

impl FromIterator<u64> for NumberSet {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut set = Self::new();
        for number in numbers {
            set.insert(number);
        }
        set
    }
}

impl fmt::Debug for NumberSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (at, (first, last)) in self.ranges().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u64),
        Remove(u64),
        InsertRange(u64, u64),
        RemoveRange(u64, u64),
        PopFirst,
        PopLast,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..40u64).prop_map(Op::Insert),
            (0..40u64).prop_map(Op::Remove),
            (0..40u64, 0..40u64).prop_map(|(a, b)| Op::InsertRange(a, b)),
            (0..40u64, 0..40u64).prop_map(|(a, b)| Op::RemoveRange(a, b)),
            Just(Op::PopFirst),
            Just(Op::PopLast),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(ops in prop::collection::vec(op(), 0..60), other in prop::collection::btree_set(0..40u64, 0..20)) {
            let mut set = NumberSet::new();
            let mut model = BTreeSet::new();
            for op in ops {
                match op {
                    Op::Insert(n) => prop_assert_eq!(set.insert(n), model.insert(n)),
                    Op::Remove(n) => prop_assert_eq!(set.remove(n), model.remove(&n)),
                    Op::InsertRange(a, b) => { set.insert_range(a, b); if a <= b { model.extend(a..=b); } }
                    Op::RemoveRange(a, b) => { set.remove_range(a, b); if a <= b { model.retain(|n| *n < a || *n > b); } }
                    Op::PopFirst => prop_assert_eq!(set.pop_first(), model.pop_first()),
                    Op::PopLast => prop_assert_eq!(set.pop_last(), model.pop_last()),
                }
                prop_assert!(set.is_well_formed(), "{:?}", set);
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(set.len(), model.len() as u64);
            }
            let second: NumberSet = other.iter().copied().collect();
            prop_assert_eq!(set.union(&second).iter().collect::<BTreeSet<_>>(), &model | &other);
            prop_assert_eq!(set.minus(&second).iter().collect::<BTreeSet<_>>(), &model - &other);
            prop_assert_eq!(set.intersection(&second).iter().collect::<BTreeSet<_>>(), &model & &other);
        }
    }

    #[test]
    fn ends_of_the_range_do_not_overflow() {
        let mut set = NumberSet::of_range(u64::MAX - 1, u64::MAX);
        set.insert(0);
        set.insert(u64::MAX);
        assert_eq!(set.len(), 3);
        set.remove_range(0, u64::MAX);
        assert!(set.is_empty());
    }
}

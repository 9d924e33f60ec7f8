//! A set of sequences as sorted runs.

/// A run of sequences, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Sorted runs, none of which touches the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    runs: Vec<Run>,
}

impl Ranges {
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.runs.get(self.first_ending_at(seq)).is_some_and(|run| run.first <= seq)
    }

    /// Whether `seq` neither is in a run nor touches one.
    pub(super) fn needs_run_for(&self, seq: u64) -> bool {
        let before = seq.checked_sub(1).is_some_and(|before| self.contains(before));
        let behind = seq.checked_add(1).is_some_and(|behind| self.contains(behind));
        !(self.contains(seq) || before || behind)
    }

    /// Adds a run, joined with those that it overlaps or touches.
    pub(super) fn insert(&mut self, run: Run) {
        // From the first run that ends at or just before the new one, to the first that begins well behind it.
        let from = self.first_ending_at(run.first.saturating_sub(1));
        let behind = run.last.saturating_add(1);
        let to = self.runs.partition_point(|other| other.first <= behind).max(from);
        let joined = self
            .runs
            .get(from..to)
            .unwrap_or_default()
            .iter()
            .fold(run, |all, other| Run { first: all.first.min(other.first), last: all.last.max(other.last) });
        self.runs.splice(from..to, [joined]);
    }

    /// Drops all below `floor`.
    pub(super) fn remove_below(&mut self, floor: u64) {
        self.runs.drain(..self.first_ending_at(floor));
        if let Some(run) = self.runs.first_mut() {
            run.first = run.first.max(floor);
        }
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
    }

    /// The index of the first run whose end is `seq` or later.
    fn first_ending_at(&self, seq: u64) -> usize {
        self.runs.partition_point(|run| run.last < seq)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_same_as_a_plain_set(steps in prop::collection::vec((0..3_u8, 0..60_u64, 0..6_u64), 0..60)) {
            let mut ranges = Ranges::default();
            let mut plain = BTreeSet::new();
            for (what, seq, more) in steps {
                match what {
                    0 | 1 => {
                        ranges.insert(Run { first: seq, last: seq + more });
                        plain.extend(seq..=seq + more);
                    }
                    _ => {
                        ranges.remove_below(seq);
                        plain.retain(|s| *s >= seq);
                    }
                }
                for s in 0..70 {
                    prop_assert_eq!(ranges.contains(s), plain.contains(&s));
                    let touches = plain.contains(&s) || (s > 0 && plain.contains(&(s - 1))) || plain.contains(&(s + 1));
                    prop_assert_eq!(ranges.needs_run_for(s), !touches);
                }
                for pair in ranges.runs().windows(2) {
                    prop_assert!(pair[0].last + 1 < pair[1].first);
                }
            }
        }
    }

    #[test]
    fn the_ends_of_the_numbers() {
        let mut ranges = Ranges::default();
        for seq in [u64::MAX, 0, u64::MAX - 1, 1] {
            ranges.insert(Run { first: seq, last: seq });
        }
        assert_eq!(ranges.runs(), [Run { first: 0, last: 1 }, Run { first: u64::MAX - 1, last: u64::MAX }]);
        assert!(!ranges.needs_run_for(u64::MAX));
    }
}

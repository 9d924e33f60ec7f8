//! Chance of the tests' worlds.

use crate::message::retry;

/// Numbers from a seed: the same seed plays the same world.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(retry::mix(seed))
    }

    pub(super) fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        retry::mix(self.0) % sides
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let index = self.below(u64::try_from(from.len()).unwrap());
        from[usize::try_from(index).unwrap()].clone()
    }
}

//! Which messages are in hand.
//!
//! A server that lost the end of its stream gives the sequences of lost messages to new ones, and so does a stream that
//! is made anew. So a message is known by its sequence and its store time: the sequence alone would take another message
//! for a copy of the lost one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a delivery is to those in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// None of them has its sequence.
    New,
    /// One of them once more. The first copy is worked on, and its ack acknowledges this one; where that one was
    /// forgotten it sends none, and the message comes once more.
    Copy,
    /// Another message with the sequence of one of them: the server has lost that one, and whatever else it had stored
    /// and handed out by then is not sure any more.
    Displacing,
    /// The one that was lost, which comes late: the one in hand is the newer.
    Displaced,
    /// The one that displaced another which is in hand still: it was here before and went back.
    Known,
}

/// The messages in hand whose sequence the stream gave to another one: whatever is sent about one of them would concern
/// the other. A clone costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Displaced {
    /// For each such sequence the store time of the newest message that has it.
    newest: Arc<BTreeMap<u64, i64>>,
}

impl Displaced {
    /// Whether this message is one of them.
    #[must_use]
    pub fn has(&self, sequence: u64, store_time_ns: i64) -> bool {
        self.newest.get(&sequence).is_some_and(|newest| *newest != store_time_ns)
    }
}

/// The messages in hand.
#[derive(Clone, Debug, Default)]
pub struct InHand {
    messages: BTreeSet<(u64, i64)>,
    displaced: Displaced,
}

impl InHand {
    /// What a delivery is to those in hand. One that comes late, by a pull that is over or by an older connection, and was
    /// stored before, displaces none.
    pub fn arrives(&mut self, sequence: u64, store_time_ns: i64, late: bool) -> Arrival {
        if !self.has(sequence) {
            Arrival::New
        } else if self.messages.contains(&(sequence, store_time_ns)) {
            Arrival::Copy
        } else if self.displaced.newest.get(&sequence) == Some(&store_time_ns) {
            Arrival::Known
        } else if let Some(newest) =
            self.of(sequence).map(|(_, stored)| *stored).max().filter(|at| late && store_time_ns < *at)
        {
            Arc::make_mut(&mut self.displaced.newest).entry(sequence).or_insert(newest);
            Arrival::Displaced
        } else {
            Arc::make_mut(&mut self.displaced.newest).insert(sequence, store_time_ns);
            Arrival::Displacing
        }
    }

    fn of(&self, sequence: u64) -> impl Iterator<Item = &(u64, i64)> {
        self.messages.range((sequence, i64::MIN)..=(sequence, i64::MAX))
    }

    /// Those whose sequence the stream gave to another one.
    #[must_use]
    pub const fn displaced(&self) -> &Displaced {
        &self.displaced
    }

    fn has(&self, sequence: u64) -> bool {
        self.of(sequence).next().is_some()
    }

    /// It is in hand.
    pub fn taken(&mut self, sequence: u64, store_time_ns: i64) {
        self.messages.insert((sequence, store_time_ns));
    }

    /// It is in hand no more. Whether [`displaced`](Self::displaced) changed with that: where none is left of a sequence
    /// that was given again, nothing is known of it any more.
    pub fn ended(&mut self, sequence: u64, store_time_ns: i64) -> bool {
        self.messages.remove(&(sequence, store_time_ns));
        let over = self.displaced.newest.contains_key(&sequence) && !self.has(sequence);
        if over {
            Arc::make_mut(&mut self.displaced.newest).remove(&sequence);
        }
        over
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_message_of_the_same_sequence_is_no_copy() {
        let mut in_hand = InHand::default();
        assert_eq!(in_hand.arrives(7, 100, false), Arrival::New);
        in_hand.taken(7, 100);
        in_hand.taken(8, 110);
        assert_eq!(in_hand.arrives(7, 100, false), Arrival::Copy);
        assert_eq!(in_hand.arrives(9, 120, false), Arrival::New);
        assert!(!in_hand.displaced().has(7, 100));
        assert_eq!(in_hand.arrives(7, 120, false), Arrival::Displacing);
        assert!(in_hand.displaced().has(7, 100) && !in_hand.displaced().has(7, 120));
        assert!(!in_hand.displaced().has(8, 110), "nothing is known of the others");
        in_hand.taken(7, 120);
        assert_eq!(in_hand.arrives(7, 120, false), Arrival::Copy);
        assert_eq!(in_hand.len(), 3);
        assert!(!in_hand.ended(7, 100));
        assert_eq!(
            in_hand.arrives(7, 120, false),
            Arrival::Copy,
            "the end of the lost one is not the end of the new one"
        );
        assert!(in_hand.ended(7, 120), "none is left of that sequence");
        assert_eq!(in_hand.displaced(), &Displaced::default());
        assert!(!in_hand.ended(8, 110));
        assert!(in_hand.is_empty());
    }

    #[test]
    fn who_comes_late_displaces_none_and_who_displaced_is_known() {
        let mut in_hand = InHand::default();
        in_hand.taken(7, 100);
        in_hand.arrives(7, 120, false);
        // The newer one goes back and comes again.
        assert_eq!(in_hand.arrives(7, 120, false), Arrival::Known);
        in_hand.taken(7, 120);
        in_hand.ended(7, 100);
        assert_eq!(in_hand.arrives(7, 100, true), Arrival::Displaced);
        in_hand.taken(7, 100);
        assert!(in_hand.displaced().has(7, 100) && !in_hand.displaced().has(7, 120));
        assert!(!in_hand.ended(7, 120), "the lost one is in hand still");
        assert!(in_hand.displaced().has(7, 100));
        // A second time.
        assert_eq!(in_hand.arrives(7, 140, false), Arrival::Displacing);
        assert!(in_hand.displaced().has(7, 120) && !in_hand.displaced().has(7, 140));
        // The lost one comes first after all: what is in hand is the newer.
        let mut in_hand = InHand::default();
        in_hand.taken(7, 120);
        assert_eq!(in_hand.arrives(7, 100, true), Arrival::Displaced);
        assert!(in_hand.displaced().has(7, 100) && !in_hand.displaced().has(7, 120));
        // A pull that is over may bring a newer one all the same.
        assert_eq!(in_hand.arrives(7, 140, true), Arrival::Displacing);
        assert!(in_hand.displaced().has(7, 120));
    }
}

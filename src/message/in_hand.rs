//! Which messages are in hand.
//!
//! A server that lost the end of its stream gives the sequences of lost messages to new ones, and so does a stream that
//! is made anew. So a message is known by its sequence and its store time: the sequence alone would take another message
//! for a copy of the lost one.

use std::collections::BTreeSet;

/// What a delivery is to those in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// None of them.
    New,
    /// One of them once more. The first copy is worked on, and its ack acknowledges this one; where that one was
    /// forgotten it sends none, and the message comes once more.
    Copy,
    /// Another message with the sequence of one of them: the server has lost that one, and whatever else it had stored
    /// and handed out by then is not sure any more.
    Reused,
}

/// The messages in hand.
#[derive(Clone, Debug, Default)]
pub struct InHand {
    messages: BTreeSet<(u64, i64)>,
}

impl InHand {
    /// What a delivery is to those in hand.
    #[must_use]
    pub fn arrival(&self, sequence: u64, store_time_ns: i64) -> Arrival {
        let mut same = self.messages.range((sequence, i64::MIN)..=(sequence, i64::MAX)).peekable();
        if same.peek().is_none() {
            Arrival::New
        } else if same.any(|(_, stored)| *stored == store_time_ns) {
            Arrival::Copy
        } else {
            Arrival::Reused
        }
    }

    /// Whether one of this sequence is in hand.
    #[must_use]
    pub fn has(&self, sequence: u64) -> bool {
        self.messages.range((sequence, i64::MIN)..=(sequence, i64::MAX)).next().is_some()
    }

    /// It is in hand.
    pub fn taken(&mut self, sequence: u64, store_time_ns: i64) {
        self.messages.insert((sequence, store_time_ns));
    }

    /// It is in hand no more.
    pub fn ended(&mut self, sequence: u64, store_time_ns: i64) {
        self.messages.remove(&(sequence, store_time_ns));
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
        assert_eq!(in_hand.arrival(7, 100), Arrival::New);
        in_hand.taken(7, 100);
        in_hand.taken(8, 110);
        assert_eq!(in_hand.arrival(7, 100), Arrival::Copy);
        assert_eq!(in_hand.arrival(7, 120), Arrival::Reused);
        assert_eq!(in_hand.arrival(9, 120), Arrival::New);
        in_hand.taken(7, 120);
        assert_eq!(in_hand.arrival(7, 120), Arrival::Copy);
        assert_eq!(in_hand.len(), 3);
        assert!(in_hand.has(7) && !in_hand.has(6));
        in_hand.ended(7, 100);
        assert_eq!(in_hand.arrival(7, 120), Arrival::Copy, "the end of the lost one is not the end of the new one");
        in_hand.ended(7, 120);
        in_hand.ended(8, 110);
        assert!(in_hand.is_empty());
    }
}

//! Which messages were surely never handed out before. Pure.
//!
//! The server's own count of deliveries is enough, as long as the server remembers. One that was killed forgets up to
//! 100 ms of what it handed out and of what was acknowledged; a new leader of a clustered consumer may, too. Then only
//! what was stored later is fresh.

use std::time::Instant;

/// What may have been handed out and forgotten.
#[derive(Debug, Clone)]
pub(super) struct Freshness {
    /// Up to this sequence a first delivery proves nothing; none while the stream's end is not known.
    upto: Option<u64>,
    not_before: Option<Instant>,
    /// Counts what may have been forgotten: the stream's end that was asked for before proves nothing.
    times: u64,
    /// The consumer's own count of the last delivery; 0 where none is comparable.
    handed_out: u64,
}

impl Freshness {
    /// The consumer was made just now, and never before: nothing was ever handed out.
    pub(super) const fn of_new_consumer() -> Self {
        Self { upto: Some(0), not_before: None, times: 0, handed_out: 0 }
    }

    /// A consumer that was there: everything up to the stream's end counts as handed out. A lookup proves something
    /// from `not_before` on.
    pub(super) const fn unknown(not_before: Option<Instant>) -> Self {
        Self { upto: None, not_before, times: 0, handed_out: 0 }
    }

    /// The server may have forgotten what it handed out.
    pub(super) fn forgotten(&mut self, not_before: Option<Instant>) {
        self.upto = None;
        self.not_before = self.not_before.max(not_before);
        self.times += 1;
        self.handed_out = 0;
    }

    /// A delivery has this number in the consumer's own count. Says whether that fell: then the consumer is another one
    /// of this name, or does not know any more what it handed out.
    pub(super) fn count_fell(&mut self, consumer_sequence: u64) -> bool {
        let before = std::mem::replace(&mut self.handed_out, consumer_sequence);
        consumer_sequence <= before
    }

    /// The question for the stream's end, to know from where on messages are fresh again; none where that is known.
    pub(super) fn wants_stream_end(&self) -> Option<u64> {
        self.upto.is_none().then_some(self.times)
    }

    /// The answer to that question. False: it was asked before the server forgot again.
    pub(super) fn stream_ends_at(&mut self, question: u64, last_sequence: u64) -> bool {
        let answers = question == self.times;
        if answers {
            self.upto = Some(last_sequence);
        }
        answers
    }

    /// Whether a message was never handed out before.
    pub(super) fn is_fresh(&self, sequence: u64, delivered: u64) -> bool {
        delivered <= 1 && self.upto.is_some_and(|upto| sequence > upto)
    }

    /// Before this no lookup proves anything.
    pub(super) const fn not_before(&self) -> Option<Instant> {
        self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    #[test]
    fn after_a_forgetful_reconnect_only_later_messages_are_fresh() {
        let t0 = clock::now();
        let mut freshness = Freshness::of_new_consumer();
        assert!(freshness.is_fresh(1, 1));
        assert!(!freshness.is_fresh(1, 2), "delivered before");
        freshness.forgotten(Some(t0 + Duration::from_secs(10)));
        assert!(!freshness.is_fresh(500, 1), "the stream's end is not known yet");
        let early = freshness.wants_stream_end().unwrap();
        freshness.forgotten(Some(t0));
        assert!(!freshness.stream_ends_at(early, 90));
        assert!(!freshness.is_fresh(95, 1), "that was asked before the server forgot again");
        let question = freshness.wants_stream_end().unwrap();
        assert!(freshness.stream_ends_at(question, 100));
        assert_eq!(freshness.wants_stream_end(), None);
        assert!(!freshness.is_fresh(100, 1));
        assert!(freshness.is_fresh(101, 1));
        assert_eq!(freshness.not_before(), Some(t0 + Duration::from_secs(10)));
        freshness.forgotten(Some(t0 + Duration::from_secs(5)));
        assert_eq!(freshness.not_before(), Some(t0 + Duration::from_secs(10)), "never earlier");
    }

    #[test]
    fn a_count_of_deliveries_that_falls_is_another_consumers() {
        let mut freshness = Freshness::of_new_consumer();
        assert!(!freshness.count_fell(1));
        assert!(!freshness.count_fell(2));
        assert!(!freshness.count_fell(9), "others had those between");
        assert!(freshness.count_fell(1), "made anew");
        freshness.forgotten(None);
        assert!(!freshness.count_fell(2));
        assert!(freshness.count_fell(2), "no number is given twice");
        freshness.forgotten(None);
        assert!(!freshness.count_fell(1), "what is known to be another one's is not compared");
    }
}

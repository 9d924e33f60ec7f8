//! What the pulls of late tell of the consumer and of our rights.

use std::time::{Duration, Instant};

use super::consumer::Trouble;

/// For how long what the last pull showed is taken to hold: above what one pull waits at the server.
const LATELY: Duration = Duration::from_secs(3);

/// What was heard of the pulls.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    /// Whether the last one brought a message or came to its orderly end.
    served: bool,
    /// Since when some are out that nothing was heard of.
    silent_since: Option<Instant>,
    /// When one was last denied to our NATS user.
    denied_at: Option<Instant>,
}

impl Pulls {
    /// One was sent.
    pub(super) fn sent(&mut self, now: Instant) {
        self.silent_since.get_or_insert(now);
    }

    /// One brought a message, or came to its orderly end.
    pub(super) fn served(&mut self) {
        *self = Self { served: true, ..Self::default() };
    }

    /// They ended without a word on whether others would be served.
    pub(super) const fn ended(&mut self) {
        self.silent_since = None;
    }

    /// They ended because they are not served.
    pub(super) fn failed(&mut self) {
        *self = Self::default();
    }

    /// They ended because our NATS user may not pull.
    pub(super) fn denied(&mut self, now: Instant) {
        *self = Self { denied_at: Some(now), ..Self::default() };
    }

    /// Whether our NATS user may not pull, as far as that was tried of late: who has no number tries nothing.
    pub(super) fn are_denied(&self, now: Instant) -> bool {
        self.denied_at.is_some_and(|at| now < at + LATELY)
    }

    /// Whether what was found where the consumer was looked for keeps messages from coming. Pulls have another way
    /// through the server than questions have, so a question without an answer is nothing where they are served.
    pub(super) fn are_hindered_by(&self, trouble: Trouble, now: Instant) -> bool {
        match trouble {
            Trouble::Gone => true,
            // Who pulls nothing for now learns nothing new.
            Trouble::Silent | Trouble::Denied => {
                !self.served || self.silent_since.is_some_and(|since| now >= since + LATELY)
            }
        }
    }

    /// When one of these answers changes without news, where the consumer was looked for and that was in trouble or not.
    pub(super) fn deadline(&self, in_trouble: bool) -> Option<Instant> {
        let silent = self.silent_since.filter(|_| in_trouble);
        self.denied_at.into_iter().chain(silent).map(|at| at + LATELY).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_question_without_an_answer_is_nothing_where_pulls_are_served() {
        let now = clock::now();
        let mut pulls = Pulls::default();
        assert!(pulls.are_hindered_by(Trouble::Silent, now));
        pulls.served();
        for trouble in [Trouble::Silent, Trouble::Denied] {
            assert!(!pulls.are_hindered_by(trouble, now));
            assert!(!pulls.are_hindered_by(trouble, now + Duration::from_secs(600)), "nothing was tried since");
        }
        assert!(pulls.are_hindered_by(Trouble::Gone, now));
        pulls.sent(now);
        pulls.sent(now + Duration::from_secs(2));
        assert!(!pulls.are_hindered_by(Trouble::Denied, now));
        let old = now + LATELY;
        assert!(pulls.are_hindered_by(Trouble::Denied, old), "nothing was heard since the first");
        assert_eq!((pulls.deadline(true), pulls.deadline(false)), (Some(old), None));
        pulls.ended();
        assert!(!pulls.are_hindered_by(Trouble::Denied, old), "they were served until the connection was lost");
        pulls.failed();
        assert!(pulls.are_hindered_by(Trouble::Denied, now));
        assert!(!pulls.are_denied(now));
    }

    #[test]
    fn what_is_denied_is_known_for_a_while_or_until_one_is_served() {
        let now = clock::now();
        let mut pulls = Pulls::default();
        pulls.denied(now);
        assert!(pulls.are_denied(now) && !pulls.are_denied(now + LATELY));
        assert_eq!(pulls.deadline(false), Some(now + LATELY));
        pulls.served();
        assert!(!pulls.are_denied(now));
        assert_eq!(pulls.deadline(true), None);
    }
}

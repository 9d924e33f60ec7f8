//! What the API server refuses the leader itself: the Lease, the quotas.

use std::time::{Duration, Instant};

use crate::message::{ApiStatus, RefusedWhat, denied};

/// For how long a refusal must be repeated before it is believed: an API server that starts knows no rights for a
/// moment, and refuses everything.
pub const BELIEVED_AFTER: Duration = Duration::from_secs(2);

/// Since when the API server has given no other answer than that something is forbidden.
#[derive(Debug, Clone, Copy, Default)]
pub struct Refusal(Option<Instant>);

impl Refusal {
    /// Refused once more: is it believed?
    pub fn again(&mut self, now: Instant) -> bool {
        now >= *self.0.get_or_insert(now) + BELIEVED_AFTER
    }

    /// There was another answer.
    pub const fn over(&mut self) {
        self.0 = None;
    }
}

/// What the leader lacks to do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// What was to be done, in Kubernetes' word.
    pub verb: &'static str,
    /// With what, as RBAC names it.
    pub resource: &'static str,
    /// What it was refused for.
    pub what: RefusedWhat,
    /// The server's words.
    pub text: String,
}

impl Lack {
    /// What the API server's answer to a call says is missing; none where it says something else.
    #[must_use]
    pub fn of(verb: &'static str, resource: &'static str, answer: &ApiStatus) -> Option<Self> {
        Some(Self { verb, resource, what: denied(answer)?, text: answer.message.clone() })
    }

    /// What is missing, and what the server said.
    #[must_use]
    pub fn detail(&self) -> String {
        let Self { verb, resource, what, text } = self;
        match what {
            RefusedWhat::Rights => format!("the right to {verb} {resource} is missing; the API server says: {text}"),
            RefusedWhat::Namespace => {
                format!("the namespace is missing or being deleted ({verb} {resource}); the API server says: {text}")
            }
            RefusedWhat::Kind | RefusedWhat::MustSpecify | RefusedWhat::NoQuota => {
                format!("{what} ({verb} {resource}); the API server says: {text}", what = what.as_str())
            }
        }
    }
}

/// A lack that is believed once it has lasted.
#[derive(Debug, Default)]
pub struct Lacking {
    refusal: Refusal,
    believed: Option<Lack>,
}

impl Lacking {
    /// Nothing was refused yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { refusal: Refusal(None), believed: None }
    }

    /// Refused once more.
    pub fn again(&mut self, lack: Lack, now: Instant) {
        if self.refusal.again(now) {
            self.believed = Some(lack);
        }
    }

    /// There was another answer.
    pub fn over(&mut self) {
        self.refusal.over();
        self.believed = None;
    }

    /// There was no answer, or one that says nothing of rights: what is believed stays.
    pub const fn unanswered(&mut self) {
        self.refusal.over();
    }

    /// What lacks, as far as is believed.
    #[must_use]
    pub const fn believed(&self) -> Option<&Lack> {
        self.believed.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_believed_when_it_has_lasted() {
        #[allow(clippy::disallowed_methods, reason = "the base of simulated instants")]
        let t0 = Instant::now();
        let mut refusal = Refusal::default();
        assert!(!refusal.again(t0));
        assert!(!refusal.again(t0 + BELIEVED_AFTER - Duration::from_millis(1)));
        // Another answer in between: it counts anew.
        refusal.over();
        assert!(!refusal.again(t0 + BELIEVED_AFTER));
        assert!(refusal.again(t0 + BELIEVED_AFTER * 2));
        assert!(refusal.again(t0 + BELIEVED_AFTER * 3));
    }
}

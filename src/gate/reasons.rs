//! Several reasons at once, and which one is said.

use serde::{Serialize, Serializer};

use super::Reason;

/// The reasons that hold at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reasons(u32);

impl Reasons {
    /// No reason at all.
    pub const NONE: Self = Self(0);

    /// These and one more.
    #[must_use]
    pub const fn with(self, reason: Reason) -> Self {
        Self(self.0 | reason.bit())
    }

    /// These, and one more where it holds.
    #[must_use]
    pub const fn with_if(self, holds: bool, reason: Reason) -> Self {
        if holds { self.with(reason) } else { self }
    }

    /// Whether a reason is among them.
    #[must_use]
    pub const fn contains(self, reason: Reason) -> bool {
        self.0 & reason.bit() != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// They in the order of [`Reason::PRECEDENCE`].
    pub fn iter(self) -> impl Iterator<Item = Reason> {
        Reason::PRECEDENCE
            .into_iter()
            .filter(move |reason| self.contains(*reason))
    }

    /// The one that is said.
    #[must_use]
    pub fn first(self) -> Option<Reason> {
        self.iter().next()
    }

    /// Whether one of them sets the gauge.
    #[must_use]
    pub fn sets_gauge(self) -> bool {
        self.iter().any(Reason::sets_gauge)
    }
}

impl FromIterator<Reason> for Reasons {
    fn from_iter<I: IntoIterator<Item = Reason>>(reasons: I) -> Self {
        reasons.into_iter().fold(Self::NONE, Self::with)
    }
}

impl Serialize for Reasons {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_by_precedence_is_said() {
        let first = |reasons: &[Reason]| reasons.iter().copied().collect::<Reasons>().first();
        assert_eq!(first(&[]), None);
        assert_eq!(
            first(&[Reason::AtLimit, Reason::NatsDown]),
            Some(Reason::NatsDown)
        );
        assert_eq!(
            first(&[Reason::AtLimit, Reason::TargetRefused]),
            Some(Reason::TargetRefused)
        );
        assert_eq!(
            first(&[Reason::GrantStale, Reason::NatsDown]),
            Some(Reason::NatsDown)
        );
        assert_eq!(
            first(&[Reason::AtLimit, Reason::GrantStale]),
            Some(Reason::GrantStale)
        );
        assert_eq!(
            first(&[Reason::Shutdown, Reason::Draining]),
            Some(Reason::Shutdown)
        );
        assert_eq!(
            first(&[Reason::NeverFits, Reason::QuotaMissing]),
            Some(Reason::QuotaMissing)
        );
        for finer in [Reason::QuotaControllerStalled, Reason::OverAdmitted] {
            assert_eq!(first(&[finer, Reason::AtLimit]), Some(Reason::AtLimit));
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        for reason in Reason::ALL {
            let set = Reasons::NONE.with(reason);
            assert!(!set.is_empty());
            assert_eq!(set.iter().collect::<Vec<_>>(), [reason]);
            assert_eq!(set.sets_gauge(), reason.sets_gauge());
            assert!(Reasons::NONE.with_if(false, reason).is_empty());
        }
        let every: Reasons = Reason::ALL.into_iter().collect();
        assert_eq!(every.iter().collect::<Vec<_>>(), Reason::PRECEDENCE);
        let set = Reasons::NONE.with(Reason::AtLimit).with(Reason::ApiDown);
        assert_eq!(
            serde_json::to_string(&set).unwrap(),
            "[\"api_down\",\"at_limit\"]"
        );
        assert!(set.sets_gauge());
    }
}

//! Grants that wait for the channel: of each holder the newest, because totals make the older ones moot.

use std::collections::BTreeMap;

use crate::message::HolderId;
use crate::wire::Grant;

#[derive(Debug, Default)]
pub(super) struct WaitingGrants(BTreeMap<HolderId, Grant>);

impl WaitingGrants {
    /// Keeps a grant that found no room. Of holders that `known` no longer tells nothing is kept, so there are never
    /// more than there are holders, and the one who is told to start anew.
    pub(super) fn keep(&mut self, grant: Grant, known: impl Fn(&HolderId) -> bool) {
        self.0.retain(|holder, _| known(holder));
        self.0.insert(grant.holder.clone(), grant);
    }

    /// A newer grant of this holder is sent.
    pub(super) fn overtaken(&mut self, holder: &HolderId) {
        self.0.remove(holder);
    }

    pub(super) fn pop(&mut self) -> Option<Grant> {
        self.0.pop_first().map(|(_, grant)| grant)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{NumberSet, VERSION};

    fn grant(holder: &str, top: u64) -> Grant {
        Grant {
            v: VERSION,
            holder: HolderId::new(holder),
            epoch: 1,
            seq: 1,
            top,
            made_seen: NumberSet::new(),
            others_wait: false,
            readings: Vec::new(),
            reason: None,
            detail: String::new(),
            restart: false,
        }
    }

    #[test]
    fn each_holder_keeps_its_newest() {
        let mut waiting = WaitingGrants::default();
        for (holder, top) in [("a", 1), ("b", 7), ("a", 2), ("c", 3)] {
            waiting.keep(grant(holder, top), |_| true);
        }
        waiting.overtaken(&HolderId::new("c"));
        let left: Vec<_> = std::iter::from_fn(|| waiting.pop()).map(|grant| (grant.holder, grant.top)).collect();
        assert_eq!(left, [(HolderId::new("a"), 2), (HolderId::new("b"), 7)]);
        assert!(waiting.is_empty());
    }

    #[test]
    fn nothing_is_kept_of_holders_that_are_gone() {
        let mut waiting = WaitingGrants::default();
        for id in 0..100 {
            waiting.keep(grant(&format!("gone-{id}"), 1), |holder| *holder == HolderId::new("here"));
        }
        waiting.keep(grant("here", 1), |holder| *holder == HolderId::new("here"));
        assert!(waiting.pop().is_some() && waiting.is_empty());
    }
}

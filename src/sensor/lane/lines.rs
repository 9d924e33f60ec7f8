//! What the log says of a gate beside its reason. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::Waiting;
use crate::gate::{Candidacy, Reason};
use crate::leader::LeaseState;
use crate::sensor::block::LocalBlock;
use crate::wire::Grant;

/// Where a reason may come from.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a> {
    pub(super) block: Option<&'a LocalBlock>,
    pub(super) lease: &'a LeaseState,
    /// None where the grant is not believed any more.
    pub(super) grant: Option<&'a Grant>,
    /// Why NATS cannot be used.
    pub(super) nats: Option<&'a str>,
}

/// The words of whom the reason comes from; none where nobody has any.
pub(super) fn detail(reason: Option<Reason>, from: Sources<'_>) -> &str {
    let Some(reason) = reason else { return "" };
    if reason == Reason::NatsDown {
        return from.nats.unwrap_or_default();
    }
    // Where nobody can lead nothing is tried, so what was refused before is old.
    if from.grant.is_none() && from.lease.candidacy == Candidacy::Refused && reason == Reason::TargetRefused {
        return &from.lease.detail;
    }
    if let Some(block) = from.block.filter(|block| block.reason == reason) {
        return &block.detail;
    }
    if let Some(grant) = from.grant.filter(|grant| grant.reason == Some(reason)) {
        return &grant.detail;
    }
    match reason {
        Reason::ApiDown => &from.lease.detail,
        Reason::AtLimit
        | Reason::HeldByOthers
        | Reason::QuotaMissing
        | Reason::ResourceMissing
        | Reason::StatusUnknown
        | Reason::NeverFits
        | Reason::NoLeader
        | Reason::GrantStale
        | Reason::LeaderSettling
        | Reason::TargetRefused
        | Reason::QuotaRefused
        | Reason::Suspended
        | Reason::QuotaControllerStalled
        | Reason::OverAdmitted
        | Reason::NatsDown
        | Reason::ApiThrottled
        | Reason::ReceiverDown
        | Reason::ConsumerPaused
        | Reason::Draining
        | Reason::Shutdown => "",
    }
}

/// How many messages wait: those that were never handed out, and those that were handed out and came back.
pub(super) fn waiting(counted: Waiting, in_hand: usize) -> Option<u64> {
    let returned = counted.ack_pending.unwrap_or(0).saturating_sub(in_hand as u64);
    counted.pending.map(|pending| pending.saturating_add(returned))
}

/// The wall time at which what has lasted so long began.
pub(super) fn since(lasted: Duration, wall: Timestamp) -> Timestamp {
    SignedDuration::try_from(lasted).ok().and_then(|lasted| wall.checked_sub(lasted).ok()).unwrap_or(wall)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::message::HolderId;
    use crate::wire::{NumberSet, VERSION};

    #[test]
    fn the_words_are_those_of_whom_the_reason_comes_from() {
        let block = LocalBlock::new(Reason::TargetRefused, "no right".to_owned(), None, clock::now());
        let lease = LeaseState { candidacy: Candidacy::Refused, detail: "no Lease".to_owned() };
        let grant = Grant {
            v: VERSION,
            holder: HolderId::new("h"),
            epoch: 1,
            seq: 1,
            top: 1,
            made_seen: NumberSet::new(),
            others_wait: false,
            readings: Vec::new(),
            reason: Some(Reason::AtLimit),
            detail: "71 used".to_owned(),
            restart: false,
        };
        let all = Sources { block: Some(&block), lease: &lease, grant: Some(&grant), nats: Some("refused") };
        assert_eq!(detail(Some(Reason::TargetRefused), all), "no right", "not the grant's");
        assert_eq!(detail(Some(Reason::AtLimit), all), "71 used");
        assert_eq!(detail(Some(Reason::NatsDown), all), "refused");
        assert_eq!(detail(None, all), "");
        let led = Sources { grant: None, ..all };
        assert_eq!(detail(Some(Reason::TargetRefused), led), "no Lease");
        assert_eq!(detail(Some(Reason::AtLimit), led), "");
        assert_eq!(detail(Some(Reason::GrantStale), led), "");
    }

    #[test]
    fn what_was_handed_out_and_came_back_waits_as_well() {
        let counted = Waiting { pending: Some(5), ack_pending: Some(3), ..Waiting::default() };
        assert_eq!(waiting(counted, 0), Some(8));
        assert_eq!(waiting(counted, 2), Some(6));
        assert_eq!(waiting(Waiting::default(), 0), None, "not counted yet");
    }

    #[test]
    fn since_is_a_time_of_day() {
        let wall: Timestamp = "2026-01-01T00:05:00Z".parse().unwrap();
        assert_eq!(since(Duration::from_secs(300), wall).to_string(), "2026-01-01T00:00:00Z");
    }
}

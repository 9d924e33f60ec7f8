//! Stands for the Lease: does what the election asks for and tells the sessions whether we lead.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::k8s::{CallError, Cluster, LeaseClaim, LeaseView, LeaseWrite};
use crate::ledger::election::{Action, Claim, Election, Event, Lease, LeaseTimes, Lost};

/// Where the Lease is.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) cluster: Cluster,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// What the sessions hear of the election.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Vote {
    /// The epoch we lead with.
    pub(super) epoch: Option<u64>,
    /// Until when, by our own clock, if no renewal succeeds any more.
    pub(super) until: Option<Instant>,
    /// Who else was last seen to hold the Lease.
    pub(super) holder: Option<String>,
}

/// Stands for the Lease until `resign`, then gives it up.
pub(super) async fn stand(
    place: Place,
    me: String,
    vote: watch::Sender<Vote>,
    api_down: watch::Sender<bool>,
    resign: CancellationToken,
) {
    let times = LeaseTimes::default();
    let mut election = Election::new(me, times);
    let mut actions = election.step(Event::Tick, clock::now());
    let mut resigned = false;
    let mut said_trouble = false;
    while !election.is_over() {
        let mut call = None;
        for action in actions.drain(..) {
            match action {
                Action::Read | Action::Create(_) | Action::Replace { .. } => call = Some(action),
                Action::BecameLeader { epoch } => {
                    vote.send_replace(Vote { epoch: Some(epoch), until: election.leads_until(), holder: None });
                }
                Action::LostLeadership(lost) => {
                    let why = match &lost {
                        Lost::Expired => "no renewal succeeded in time".to_owned(),
                        Lost::TakenBy(other) => format!("{other:?} holds it"),
                        Lost::Deleted => "it was deleted".to_owned(),
                        Lost::GivenUp => "given up".to_owned(),
                    };
                    tracing::info!(
                        lease = place.name,
                        namespace = place.namespace,
                        why,
                        "the Lease is not ours any more"
                    );
                    let holder = election.holder().map(str::to_owned);
                    vote.send_replace(Vote { epoch: None, until: None, holder });
                }
            }
        }
        vote.send_if_modified(|vote| {
            let holder = election.holder().filter(|_| vote.epoch.is_none()).map(str::to_owned);
            let until = election.leads_until().filter(|_| vote.epoch.is_some());
            let changed = vote.holder != holder || vote.until != until;
            (vote.holder, vote.until) = (holder, until);
            changed
        });
        let event = if let Some(call) = call {
            // Leadership may run out while the call hangs: the deadline is heard all the same.
            let mut call = std::pin::pin!(perform(&place, call, times.call_timeout(), &mut said_trouble, &api_down));
            tokio::select! {
                event = &mut call => event,
                () = sleep_until(election.leads_until()) => {
                    vote.send_if_modified(|vote| vote.epoch.take().is_some());
                    // The step itself waits for the end of the call, which has a timeout of its own.
                    call.await
                }
            }
        } else {
            tokio::select! {
                () = sleep_until(election.deadline()) => Event::Tick,
                () = resign.cancelled(), if !resigned => {
                    resigned = true;
                    Event::Shutdown
                }
            }
        };
        actions = election.step(event, clock::now());
    }
}

async fn perform(
    place: &Place,
    action: Action,
    timeout: Duration,
    said: &mut bool,
    api_down: &watch::Sender<bool>,
) -> Event {
    let Place { cluster, namespace, name } = place;
    let (event, error) = match action {
        Action::Read => match cluster.get_lease(namespace, name, timeout).await {
            Ok(lease) => (Event::Seen(lease.map(seen)), None),
            Err(error) => (Event::ReadFailed, Some(error)),
        },
        Action::Create(claim) => written(cluster.create_lease(namespace, name, &wire(claim), timeout).await),
        Action::Replace { resource_version, claim } => {
            written(cluster.replace_lease(namespace, name, resource_version, &wire(claim), timeout).await)
        }
        Action::BecameLeader { .. } | Action::LostLeadership(_) => (Event::Tick, None),
    };
    let down = error.as_ref().is_some_and(CallError::is_outage);
    api_down.send_if_modified(|known| std::mem::replace(known, down) != down);
    match error {
        Some(error) if !*said => {
            *said = true;
            tracing::warn!(lease = name, namespace, error = %error, "the Lease cannot be read or written; trying on");
        }
        None if *said => {
            *said = false;
            tracing::info!(lease = name, namespace, "the Lease can be read and written again");
        }
        Some(_) | None => {}
    }
    event
}

fn written(result: Result<LeaseWrite, CallError>) -> (Event, Option<CallError>) {
    match result {
        Ok(LeaseWrite::Done(view)) => (Event::WriteDone(seen(view)), None),
        Ok(LeaseWrite::Conflict) => (Event::WriteConflict, None),
        Err(error) => (Event::WriteFailed, Some(error)),
    }
}

fn seen(view: LeaseView) -> Lease {
    Lease {
        holder: view.holder,
        duration: view.duration,
        transitions: view.transitions,
        acquired: view.acquired,
        resource_version: view.resource_version,
    }
}

fn wire(claim: Claim) -> LeaseClaim {
    LeaseClaim {
        holder: claim.holder,
        duration: claim.duration,
        transitions: claim.transitions,
        acquired: claim.acquired,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

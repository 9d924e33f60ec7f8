//! Stands for the Lease: does what the election asks for and tells the sessions whether we lead.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::LeaseState;
use crate::clock;
use crate::gate::Candidacy;
use crate::jetstream::Connection;
use crate::k8s::{CallError, Cluster, LeaseClaim, LeaseView, LeaseWrite};
use crate::ledger::Lack;
use crate::ledger::election::{Action, Claim, Election, Event, Lease, LeaseTimes, Lost, Name};
use crate::message::denied;

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
    /// NATS has not answered for so long that we are no candidate.
    pub(super) cut_off: bool,
}

/// How often NATS is asked for a sign of life, and how long that may take.
const PULSE_EVERY: Duration = Duration::from_secs(1);
const PULSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Asks NATS for a sign of life again and again, until `resign`: without it nobody hears a leader.
pub(super) async fn feel(connection: &Connection, heard: watch::Sender<Option<Instant>>, resign: &CancellationToken) {
    while !resign.is_cancelled() {
        if connection.answers(PULSE_TIMEOUT).await {
            heard.send_replace(Some(clock::now()));
        }
        tokio::select! {
            () = tokio::time::sleep(PULSE_EVERY) => {}
            () = resign.cancelled() => {}
        }
    }
}

/// Stands for the Lease until `resign`, then gives it up.
pub(super) async fn stand(
    place: Place,
    me: Name,
    mut heard: watch::Receiver<Option<Instant>>,
    vote: watch::Sender<Vote>,
    state: watch::Sender<LeaseState>,
    resign: CancellationToken,
) {
    let times = LeaseTimes::default();
    let mut election = Election::new(me, times);
    let mut actions = election.step(Event::Tick, clock::now());
    let mut resigned = false;
    let mut trouble = Trouble::default();
    let mut reached = None;
    while !election.is_over() {
        let mut call = None;
        for action in actions.drain(..) {
            match action {
                Action::Read | Action::Create(_) | Action::Replace { .. } => call = Some(action),
                Action::BecameLeader { epoch } => {
                    let until = election.leads_until();
                    vote.send_replace(Vote { epoch: Some(epoch), until, holder: None, cut_off: false });
                }
                Action::LostLeadership(lost) => {
                    let why = match &lost {
                        Lost::Expired => "no renewal succeeded in time".to_owned(),
                        Lost::TakenBy(other) => format!("{other:?} holds it"),
                        Lost::TakenByNamesake(other) => {
                            format!("{other:?} holds it: another process that lives has our POD_NAME")
                        }
                        Lost::Deleted => "it was deleted".to_owned(),
                        Lost::CutOff => {
                            format!("NATS has not answered for {} s, so nobody hears us", times.silence.as_secs())
                        }
                        Lost::GivenUp => "given up".to_owned(),
                    };
                    tracing::info!(
                        lease = place.name,
                        namespace = place.namespace,
                        why,
                        "the Lease is not ours any more"
                    );
                    let holder = election.holder().map(str::to_owned);
                    vote.send_replace(Vote { epoch: None, until: None, holder, cut_off: election.is_cut_off() });
                }
            }
        }
        vote.send_if_modified(|vote| {
            let holder = election.holder().filter(|_| vote.epoch.is_none()).map(str::to_owned);
            let until = election.leads_until().filter(|_| vote.epoch.is_some());
            let next = Vote { epoch: vote.epoch, until, holder, cut_off: election.is_cut_off() };
            let changed = *vote != next;
            *vote = next;
            changed
        });
        say_cut_off(&place, election.is_cut_off(), &mut reached);
        trouble.lacks(&place, election.lack());
        trouble.show(&state);
        let event = if let Some(call) = call {
            // Leadership may run out while the call hangs: the deadline is heard all the same.
            let mut call = std::pin::pin!(perform(&place, call, times.call_timeout(), &mut trouble));
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
                Ok(()) = heard.changed() => Event::Tick,
                () = resign.cancelled(), if !resigned => {
                    resigned = true;
                    Event::Shutdown
                }
            }
        };
        if let Some(at) = *heard.borrow_and_update() {
            election.heard(at);
        }
        actions = election.step(event, clock::now());
    }
}

/// Says when NATS no longer answers and when it does again; not when it answers for the first time.
fn say_cut_off(place: &Place, cut_off: bool, reached: &mut Option<bool>) {
    let (lease, namespace) = (&place.name, &place.namespace);
    match (*reached, cut_off) {
        (Some(true), true) => {
            tracing::warn!(lease, namespace, "NATS does not answer: no candidate for the Lease until it does");
        }
        (Some(false), false) => {
            tracing::info!(lease, namespace, "NATS answers again: a candidate for the Lease");
        }
        (Some(true), false) | (Some(false), true) | (None, _) => {}
    }
    if reached.is_some() || !cut_off {
        *reached = Some(!cut_off);
    }
}

/// What keeps the Lease from being read and written, and what of it was said.
#[derive(Default)]
struct Trouble {
    /// Why the API server cannot be asked just now.
    down: Option<String>,
    said: bool,
    lack: Option<Lack>,
}

impl Trouble {
    /// How a call ended. What is refused for want of a right is told by the election, once it believes it.
    fn called(&mut self, place: &Place, error: Option<&CallError>) {
        let Place { namespace, name, .. } = place;
        self.down = error.filter(|error| error.is_outage()).map(ToString::to_string);
        match error {
            Some(error) if error.status().and_then(denied).is_some() => {
                tracing::debug!(lease = name, namespace, error = %error, "the Lease is refused");
            }
            Some(error) if !self.said => {
                self.said = true;
                tracing::warn!(lease = name, namespace, error = %error, "the Lease cannot be read or written; trying on");
            }
            None if self.said => {
                self.said = false;
                tracing::info!(lease = name, namespace, "the Lease can be read and written again");
            }
            Some(_) | None => {}
        }
    }

    /// Says what lacks, once for each change.
    fn lacks(&mut self, place: &Place, lack: Option<&Lack>) {
        if self.lack.as_ref() == lack {
            return;
        }
        let Place { namespace, name, .. } = place;
        match lack {
            Some(lack) => tracing::warn!(
                lease = name,
                namespace,
                detail = lack.detail(),
                "the Lease is refused: nobody can lead here; trying on"
            ),
            None => tracing::info!(lease = name, namespace, "the Lease is refused no more"),
        }
        self.lack = lack.cloned();
    }

    fn show(&self, state: &watch::Sender<LeaseState>) {
        let next = match (&self.lack, &self.down) {
            // Who cannot be asked may have another answer by now.
            (_, Some(why)) => LeaseState {
                candidacy: Candidacy::ApiDown,
                detail: format!("the Lease cannot be read or written: {why}"),
            },
            (Some(lack), None) => LeaseState { candidacy: Candidacy::Refused, detail: lack.detail() },
            (None, None) => LeaseState::default(),
        };
        state.send_if_modified(|known| {
            let changed = *known != next;
            *known = next;
            changed
        });
    }
}

async fn perform(place: &Place, action: Action, timeout: Duration, trouble: &mut Trouble) -> Event {
    let Place { cluster, namespace, name } = place;
    let (verb, result) = match action {
        Action::Read => {
            ("get", cluster.get_lease(namespace, name, timeout).await.map(|lease| Event::Seen(lease.map(seen))))
        }
        Action::Create(claim) => {
            ("create", cluster.create_lease(namespace, name, &wire(claim), timeout).await.map(written))
        }
        Action::Replace { resource_version, claim } => {
            let claim = wire(claim);
            ("update", cluster.replace_lease(namespace, name, resource_version, &claim, timeout).await.map(written))
        }
        Action::BecameLeader { .. } | Action::LostLeadership(_) => return Event::Tick,
    };
    trouble.called(place, result.as_ref().err());
    result.unwrap_or_else(|error| {
        match error.status().and_then(|status| Lack::of(verb, "leases.coordination.k8s.io", status)) {
            Some(lack) => Event::Refused(lack),
            None if verb == "get" => Event::ReadFailed,
            None => Event::WriteFailed,
        }
    })
}

fn written(write: LeaseWrite) -> Event {
    match write {
        LeaseWrite::Done(view) => Event::WriteDone(seen(view)),
        LeaseWrite::Conflict => Event::WriteConflict,
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

//! The role that owns the ledgers of a namespace: Lease, watches, books, record, signal.
//!
//! Here it runs inside a sensor (`BACKPRESSURE_SOURCE=apiserver`). It knows no sensor: holders speak to it by reports
//! and grants alone, in one process over channels.

mod candidate;
mod projection;
mod session;
mod signals;
mod stores;
mod watches;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::gate::{Candidacy, Counted};
use crate::jetstream::{Connection, stream_facts};
use crate::k8s::{Cluster, Kind};
use crate::ledger::LedgerOptions;
use crate::ledger::election::Name;
use crate::telemetry::LeaderMetrics;
use crate::wire::{Grant, Report};
use candidate::{Place, Vote};
use session::{End, Session};
use stores::{Lost, Stores};
pub(crate) use stores::{bucket_name, record_key};

/// The pause before leadership is tried again after another leader showed itself in the stores.
const AFTER_DEPOSED: Duration = Duration::from_millis(500);
/// How often the same cause is said.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The consumer whose record the leader keeps.
#[derive(Debug, Clone)]
pub struct Own {
    /// The sensor, whose durable consumer has the same name.
    pub sensor: String,
    /// The stream.
    pub stream: String,
    /// What its effects are, where they are objects: the kind to watch.
    pub created: Option<(Counted, Kind)>,
}

/// What a leader is given.
#[derive(Debug, Clone)]
pub struct LeaderSettings {
    /// The namespace of the quotas and of the objects.
    pub namespace: String,
    /// Who holds the Lease: this process of the pod.
    pub identity: Name,
    /// The name of the Lease.
    pub lease: String,
    /// Part of bucket names, for two clusters on one NATS account.
    pub instance: String,
    /// Whether credits are kept at all; without, only the record is.
    pub gated: bool,
    /// Whose record is kept.
    pub own: Own,
    /// The safety re-read beside the watch.
    pub poll_interval: Duration,
    /// For the ledger.
    pub options: LedgerOptions,
}

/// The record in [`LeaderView`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RecordView {
    /// The resourceVersion up to which the watch was told.
    pub version: u64,
    /// The sequence below which all is done.
    pub floor: u64,
    /// Ranges of done sequences above the floor.
    pub ranges: u64,
    /// Gaps since the record began.
    pub gaps: u64,
    /// Whether the objects may be watched at all.
    pub watched: bool,
}

/// The leader's state, for metrics, health and `/debug/state`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LeaderView {
    /// Whether this process leads.
    pub leading: bool,
    /// The epoch it leads with.
    pub epoch: Option<u64>,
    /// What it waits for, where it does not lead.
    pub waits_for: Option<String>,
    /// Quotas known.
    pub quotas: u64,
    /// Live objects by counted kind; null where they are not watched.
    pub live: BTreeMap<String, Option<u64>>,
    /// Phase and number of credits out, by holder.
    pub holders: BTreeMap<String, (String, u64)>,
    /// The record.
    pub record: Option<RecordView>,
}

/// Why nobody may lead, for who waits for grants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseState {
    /// In one word.
    pub candidacy: Candidacy,
    /// For a person.
    pub detail: String,
}

/// A process that leads its namespace, or stands by to.
pub struct Leader {
    settings: LeaderSettings,
    cluster: Cluster,
    connection: Connection,
    metrics: LeaderMetrics,
    grants: mpsc::Sender<Grant>,
    view: watch::Sender<LeaderView>,
    lease: watch::Sender<LeaseState>,
}

impl std::fmt::Debug for Leader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leader").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Leader {
    /// A leader that is not running yet.
    #[must_use]
    pub fn new(
        settings: LeaderSettings,
        cluster: Cluster,
        connection: Connection,
        metrics: LeaderMetrics,
        grants: mpsc::Sender<Grant>,
    ) -> Self {
        let view = watch::Sender::new(LeaderView::default());
        let lease = watch::Sender::new(LeaseState::default());
        Self { settings, cluster, connection, metrics, grants, view, lease }
    }

    /// Its state.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<LeaderView> {
        self.view.subscribe()
    }

    /// Whether the Lease may be held at all.
    #[must_use]
    pub fn lease(&self) -> watch::Receiver<LeaseState> {
        self.lease.subscribe()
    }

    /// Stands for the Lease and leads whenever it is held, until `shutdown`; then writes what is owed and gives the
    /// Lease up, so that a successor has it at once.
    pub async fn run(&self, mut reports: mpsc::Receiver<Report>, shutdown: CancellationToken) {
        let (vote, mut leading) = watch::channel(Vote::default());
        // The candidate outlives the sessions: the Lease is given up only when the books are written.
        let resign = CancellationToken::new();
        let place = Place {
            cluster: self.cluster.clone(),
            namespace: self.settings.namespace.clone(),
            name: self.settings.lease.clone(),
        };
        let (feeling, heard) = watch::channel(None);
        let me = self.settings.identity.clone();
        let candidate = candidate::stand(place, me, heard, vote, self.lease.clone(), resign.clone());
        let sessions = async {
            self.sessions(&mut reports, &mut leading, &shutdown).await;
            resign.cancel();
        };
        tokio::join!(candidate, sessions, candidate::feel(&self.connection, feeling, &resign));
        self.follow(Some("the process stops".to_owned()));
    }

    async fn sessions(
        &self,
        reports: &mut mpsc::Receiver<Report>,
        leading: &mut watch::Receiver<Vote>,
        shutdown: &CancellationToken,
    ) {
        // The newest report that nobody has answered: the session that begins does, without waiting for the next one.
        let mut early = None;
        let mut said: Option<(String, Instant)> = None;
        while !shutdown.is_cancelled() {
            let vote = leading.borrow_and_update().clone();
            let Some(epoch) = vote.epoch else {
                let holder = vote.holder.map_or_else(String::new, |holder| format!(", held by {holder}"));
                let (lease, namespace) = (&self.settings.lease, &self.settings.namespace);
                let awaited = if vote.cut_off { "NATS, to stand for " } else { "" };
                self.follow(Some(format!("{awaited}the Lease {lease} of namespace {namespace}{holder}")));
                tokio::select! {
                    changed = leading.changed() => if changed.is_err() { return },
                    // Nobody is there to answer: the lane sees that no grant comes.
                    report = reports.recv() => early = report.or(early),
                    () = shutdown.cancelled() => return,
                }
                continue;
            };
            match self.lead(epoch, &mut early, reports, leading, shutdown).await {
                End::Shutdown => return,
                End::LeaseLost => tracing::warn!(namespace = self.settings.namespace, "leadership lost"),
                End::Deposed(lost) => {
                    let (cause, now) = (lost.to_string(), clock::now());
                    // It is tried again at once, and may fail the same way for as long as NATS is down.
                    if said.as_ref().is_none_or(|(known, at)| *known != cause || now >= *at + SAY_AGAIN) {
                        tracing::warn!(namespace = self.settings.namespace, cause, "leadership given up");
                        said = Some((cause.clone(), now));
                    }
                    self.follow(Some(cause));
                    tokio::select! {
                        () = tokio::time::sleep(AFTER_DEPOSED) => {}
                        () = shutdown.cancelled() => return,
                    }
                }
            }
        }
    }

    async fn lead(
        &self,
        epoch: u64,
        early: &mut Option<Report>,
        reports: &mut mpsc::Receiver<Report>,
        leading: &mut watch::Receiver<Vote>,
        shutdown: &CancellationToken,
    ) -> End {
        self.follow(Some("NATS and its buckets".to_owned()));
        let adopted = tokio::select! {
            adopted = Session::adopt(self, epoch) => adopted,
            // Each renewal changes the vote, too.
            () = async { leading.wait_for(|vote| vote.epoch != Some(epoch)).await.ok(); } => return End::LeaseLost,
            () = shutdown.cancelled() => return End::Shutdown,
        };
        match adopted {
            Ok(session) => {
                self.metrics.leading(&self.settings.namespace, true);
                let end = session.run(early.take(), reports, leading, shutdown).await;
                self.metrics.leading(&self.settings.namespace, false);
                end
            }
            Err(lost) => End::Deposed(lost),
        }
    }

    fn follow(&self, waits_for: Option<String>) {
        self.view.send_replace(LeaderView { waits_for, ..LeaderView::default() });
    }

    async fn open_stores(&self) -> Result<Stores, Lost> {
        Stores::open(&self.connection, &self.settings).await
    }

    /// When the stream was created, which tells its incarnations apart.
    async fn stream_created(&self) -> Result<i64, Lost> {
        let facts = stream_facts(&self.connection, &self.settings.own.stream).await;
        facts.map(|facts| facts.created_ns).map_err(|error| Lost::Stream { source: Box::new(error) })
    }
}

//! The role that holds credits, pulls, triggers and confirms.
//!
//! [`start`] makes a sensor of its settings and begins its tasks; the lane is the heart of it.

mod announce;
mod asking;
mod block;
mod board;
mod consumer;
mod credits;
mod dead_letter;
mod freshness;
mod hand;
mod lane;
mod limiter;
mod pulls;
mod record_copy;
mod setup;
mod shared;
mod trigger;
mod unreadable;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::api::{self, OnDoubt, Settings};
use crate::clock;
use crate::gate::Reason;
#[cfg(doc)]
use crate::gate::Reminder;
use crate::jetstream::{Connection, NatsOptions, dead_letter_subject};
use crate::k8s::{Cluster, ClusterOptions, DiscoverError};
use crate::leader::{Leader, LeaderView, LeaseState, record_key};
use crate::ledger::LedgerOptions;
use crate::ledger::election::Name;
use crate::message;
use crate::runtime::Tasks;
use crate::telemetry::admin::{Admin, AdminError, Shown};
use crate::telemetry::{Health, Metrics, MetricsError, SensorIdentity};
use board::Board;
use consumer::PlaceError;
use credits::Credits;
use freshness::Freshness;
use lane::{Lane, LanePorts, LaneSettings, Waiting};
use limiter::Limiter;
use setup::Ready;
use shared::{Identity, RecordCopy, Shared};
use unreadable::Search;

/// Reports and grants that wait: each is the full state, so a few are plenty.
const REPORTS: usize = 4;
const GRANTS: usize = 16;
/// How long what is queued for NATS may take to go out at the end.
const CLOSE: Duration = Duration::from_secs(2);

/// What a sensor is started with.
#[derive(Debug)]
pub struct Config {
    /// The settings.
    pub settings: Settings,
    /// The sensor file.
    pub sensor: api::Sensor,
    /// The namespace of the quota and of the objects.
    pub namespace: String,
    /// Who holds the Lease: this process of the pod.
    pub identity: Name,
    /// How to reach NATS.
    pub nats: NatsOptions,
    /// For the ledger; other than its default only in tests.
    pub ledger: LedgerOptions,
    /// How often a gate that is still blocked is said; other than [`Reminder::EVERY`] only in tests.
    pub remind_every: Duration,
}

/// Whether anything asks the API server at all.
#[must_use]
pub fn needs_cluster(settings: &Settings, sensor: &api::Sensor) -> bool {
    let leads = settings.quota.as_ref().is_some_and(|quota| quota.source == api::Source::Apiserver);
    leads || matches!(sensor.trigger, api::Trigger::Kubernetes(_))
}

/// Why a sensor does not start or ends: something that time does not heal.
#[derive(Debug, thiserror::Error)]
pub enum SensorError {
    /// METRICS_PORT.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// METRICS_PREFIX.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// NATS settings that can never work.
    #[error("the NATS settings cannot work")]
    Nats(#[source] crate::jetstream::OpenError),
    /// Kubernetes credentials.
    #[error("{}: the Kubernetes API cannot be used", told(kubeconfig.as_deref()))]
    Cluster {
        /// The kubeconfig, where one is named.
        kubeconfig: Option<PathBuf>,
        /// Why.
        source: crate::k8s::ConnectError,
    },
    /// The stream, the consumer, the dead letters or a bucket.
    #[error("JetStream refuses what the sensor needs")]
    Place(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The kind of the objects.
    #[error("the sensor file names a kind that cannot be created")]
    Kind(#[source] DiscoverError),
    /// The kind has no namespace.
    #[error(
        "the sensor file names the kind {kind}, which is cluster-scoped; allowed are kinds that live in a namespace"
    )]
    ClusterScoped {
        /// The kind.
        kind: String,
    },
}

/// The setting that says how to reach the API server, as an error names it.
fn told(kubeconfig: Option<&Path>) -> String {
    kubeconfig.map_or_else(|| "KUBECONFIG is not set".to_owned(), |path| format!("KUBECONFIG={}", path.display()))
}

impl From<PlaceError> for SensorError {
    fn from(error: PlaceError) -> Self {
        Self::Place(Box::new(error))
    }
}

/// Starts a sensor: serves health at once, waits for NATS and the API server, then runs until the tasks are told to
/// stop.
///
/// # Errors
/// [`SensorError`]: what must be changed by a person.
pub async fn start(mut config: Config, tasks: Tasks) -> Result<(), SensorError> {
    let now = clock::now();
    let metrics = Arc::new(Metrics::new(&config.settings.metrics_prefix)?);
    let identity = SensorIdentity {
        namespace: config.namespace.clone(),
        sensor: config.sensor.name.clone(),
        trigger: config.sensor.trigger_name.clone(),
    };
    let sensor_metrics = metrics.sensor(identity, Reason::ALL.map(Reason::as_str));
    let health = Health::new(now);
    let at_nats = health.expects("nats: stream, consumer and dead letters");
    let at_api = health.expects("kubernetes: kind of the objects");
    let board = Arc::new(Board::new(&config.namespace, now));
    let (record_sender, record) = watch::channel(RecordCopy::Unread);
    let limiter = Limiter::new();
    let (leader_view_sender, leader_view) = watch::channel(LeaderView::default());

    // Health and metrics first: what the sensor waits for is to be seen.
    let admin = Admin::bind(config.settings.metrics_port).await?;
    tracing::info!(address = %admin.address(), "metrics and health");
    let admin_stop = CancellationToken::new();
    // It serves to the end, whatever the end is: a start that fails, or a lane that does.
    let served = admin_stop.clone().drop_guard();
    let shown = Shown {
        metrics: Arc::clone(&metrics),
        health: Arc::clone(&health),
        state: {
            let (board, leader) = (Arc::clone(&board), leader_view.clone());
            let (sensor, namespace) = (config.sensor.name.clone(), config.namespace.clone());
            Arc::new(move || {
                let mut state = board.json(clock::now());
                if let Some(state) = state.as_object_mut() {
                    state.insert("sensor".to_owned(), json!(sensor));
                    state.insert("namespace".to_owned(), json!(namespace));
                    state.insert("leader".to_owned(), json!(*leader.borrow()));
                }
                state
            })
        },
    };
    setup::on_scrape(&metrics, &sensor_metrics, &board, &limiter, &record, &leader_view, &config.namespace);
    tasks.spawn_once("admin", admin.serve(shown, admin_stop));

    let connection = Connection::open(config.nats.clone()).await.map_err(SensorError::Nats)?;
    {
        let (connection, stop) = (connection.clone(), tasks.token());
        tasks.spawn("nats guard", async move {
            tokio::select! {
                () = connection.guard() => {}
                () = stop.cancelled() => {}
            }
            Ok::<(), SensorError>(())
        });
    }
    let cluster = if needs_cluster(&config.settings, &config.sensor) {
        let kubeconfig = config.settings.kubeconfig.clone();
        let options = ClusterOptions { kubeconfig: kubeconfig.clone(), ..ClusterOptions::default() };
        Some(Cluster::connect(&options).await.map_err(|source| SensorError::Cluster { kubeconfig, source })?)
    } else {
        None
    };
    let stop = tasks.token();
    let ready = setup::ready(&config, &connection, cluster.as_ref(), &stop, &health, &board).await?;
    let Some(Ready { place, settled, baseline, created }) = ready else { return Ok(()) };
    at_nats.met();
    at_api.met();

    let terms = setup::credit_terms(&config, created.as_ref().map(|(counted, _)| counted));
    let (reports, reports_heard) = mpsc::channel(REPORTS);
    let (grants, grants_heard) = mpsc::channel(GRANTS);
    let (waiting_sender, waiting) = watch::channel(Waiting::default());
    let (consumer_gone, gone) = mpsc::channel(1);
    let redelivery_pause = config.settings.redelivery_pause.then_some(config.settings.create_timeout);
    let freshness = if settled.is_new {
        Freshness::of_new_consumer()
    } else {
        Freshness::unknown(redelivery_pause.map(|pause| clock::now() + pause))
    };
    let holder = lane::new_holder(&config.sensor.name);
    let credits = match terms {
        Some(terms) => Credits::gated(holder, terms),
        None => Credits::free(holder, clock::now()),
    };
    let trigger = setup::trigger(&mut config, cluster.as_ref(), created.as_ref().map(|(_, kind)| kind));
    let shared = Arc::new(Shared::new(
        Identity {
            namespace: config.namespace.as_str().into(),
            sensor: config.sensor.name.as_str().into(),
            trigger: config.sensor.trigger_name.as_str().into(),
            stream: config.sensor.stream.as_str().into(),
            stream_created: Arc::new(AtomicI64::new(settled.consumer.stream_created_ns)),
        },
        trigger,
        message::Terms {
            create_timeout: config.settings.create_timeout,
            ack_wait: settled.consumer.ack_wait,
            on_doubt: match config.settings.on_doubt {
                OnDoubt::Create => message::OnDoubt::Create,
                OnDoubt::Dead => message::OnDoubt::Dead,
            },
        },
        connection.clone(),
        dead_letter_subject(&config.settings.instance, &config.sensor.stream, &config.sensor.name),
        sensor_metrics,
        limiter,
        record,
    ));

    // The leader outlives the lane: it hears its last report, writes the books and then gives the Lease up.
    let lane_over = CancellationToken::new();
    let leader_over = CancellationToken::new();
    let (_, mut lease) = watch::channel(LeaseState::default());
    setup::say_how_to_be_granted(&config);
    match (cluster, setup::leads(&config, created.is_some())) {
        (Some(cluster), true) => {
            let settings = setup::leader_settings(&config, created.clone());
            let leader = Leader::new(settings, cluster, connection.clone(), metrics.leader(), grants);
            let mut view = leader.view();
            lease = leader.lease();
            let (stop, over) = (lane_over.clone(), leader_over.clone().drop_guard());
            tasks.spawn_once("leader", async move {
                leader.run(reports_heard, stop).await;
                drop(over);
                Ok::<(), SensorError>(())
            });
            tasks.spawn_once("leader view", async move {
                while view.changed().await.is_ok() {
                    leader_view_sender.send_replace(view.borrow_and_update().clone());
                }
                Ok::<(), SensorError>(())
            });
        }
        (Some(_) | None, _) => {
            leader_over.cancel();
            drop(reports_heard);
            drop(grants);
        }
    }
    if created.is_some() {
        let key = record_key(&config.namespace, &config.sensor.name);
        let (bucket, view, stop) = (settled.records, leader_view, stop.clone());
        tasks.spawn_once("record copy", async move {
            tokio::select! {
                () = record_copy::follow(bucket, key, view, record_sender) => {}
                // The messages in hand may still ask; the copy stays as it is.
                () = stop.cancelled() => {}
            }
            Ok::<(), SensorError>(())
        });
    } else {
        record_sender.send_replace(RecordCopy::Unkept(None));
    }
    {
        // As long as there are acks the lane is to hear whose they would be.
        let (connection, stop, over) = (connection.clone(), stop.clone(), lane_over.clone());
        let mut search = Search::new(Arc::clone(&shared), &config.sensor.name, &config.sensor.subject);
        let consumer = settled.consumer.clone();
        // Before the first pull: what ended the process before this one would end this one, too.
        search.look(&consumer.facts).await;
        tasks.spawn_once("consumer", async move {
            tokio::select! {
                kept = place.keep(connection, waiting_sender, gone, search, &consumer, &stop) => {
                    kept.map_err(SensorError::from)
                }
                () = over.cancelled() => Ok(()),
            }
        });
    }
    let grace = config.settings.shutdown_grace;
    let lane_settings = LaneSettings {
        max_in_flight: u64::from(config.settings.max_in_flight),
        consumer: config.sensor.name.clone(),
        max_batch: settled.consumer.batch_bound(),
        max_expires: settled.consumer.expires_bound(),
        redelivery_pause,
        remind_every: config.remind_every,
        baseline,
        // Books, Lease and flush have the rest of the grace period.
        grace: grace / 2,
    };
    let ports = LanePorts { reports, grants: grants_heard, waiting, lease, consumer_gone };
    let (lane, grants, news) = Lane::new(shared, lane_settings, credits, freshness, board, health, ports);
    let over = lane_over.drop_guard();
    tasks.spawn_once("lane", async move {
        lane.run(grants, news, stop).await;
        drop(over);
        if tokio::time::timeout(grace / 4, leader_over.cancelled()).await.is_err() {
            tracing::warn!("the leader did not end in time: what it held is settled when its holders are silent");
        }
        // Acks were confirmed one by one; this is for what was said without an answer.
        if let Err(error) = connection.close(CLOSE.min(grace / 8)).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "NATS was not closed in order");
        }
        drop(served);
        Ok::<(), SensorError>(())
    });
    Ok(())
}

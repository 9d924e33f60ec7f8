//! Makes the parts of a sensor out of its settings.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::consumer::{Place, Settled};
use super::lane::{Baseline, Reign};
use super::limiter::Limiter;
use super::shared::RecordCopy;
use super::trigger::{KubernetesTrigger, Trigger};
use super::{Config, SensorError};
use crate::api::{self, QuotaSettings, Source};
use crate::clock;
use crate::gate::{Counted, Reason};
use crate::jetstream::{Connection, with_sources};
use crate::k8s::{CallError, Cluster, DiscoverError, Kind};
use crate::leader::{LeaderSettings, LeaderView, Own, bucket_name};
use crate::telemetry::{Health, Metrics, SensorMetrics, WatchSample};
use crate::wire::{Cost, Terms};

/// The pause between tries while the API server does not answer at the start.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a sensor that waits shows that it lives.
const BEAT: Duration = Duration::from_secs(5);
/// The Lease of the namespace where sensors lead themselves.
const LEASE: &str = "jetgate-ledger";
/// The Lease of a sensor without a quota, before its name: it shares nothing, and its record must not wait for others.
const RECORD_LEASE: &str = "jetgate-record-";
/// The re-read where no quota is set: there is nothing to read.
const NO_POLL: Duration = Duration::from_secs(3600);

/// What the effects are, where they are objects.
pub(super) type Created = Option<(Counted, Kind)>;

/// What there is before the first message.
pub(super) struct Ready {
    /// Of the sensor that runs.
    pub(super) place: Place,
    pub(super) settled: Settled,
    pub(super) baseline: Baseline,
    pub(super) created: Created,
}

/// Waits for NATS and for the API server's word on the kind; none where the process is told to stop first.
pub(super) async fn ready(
    config: &Config,
    connection: &Connection,
    cluster: Option<&Cluster>,
    stop: &CancellationToken,
    health: &Health,
    board: &Board,
) -> Result<Option<Ready>, SensorError> {
    let work = async {
        let created = discover(config, cluster, board).await?;
        let place = place(config);
        let settled = place.settle(connection, |why| board.waits(Reason::NatsDown, why, clock::now())).await?;
        // At once: whatever is forgotten from here on concerns the messages that are taken later.
        let baseline = Baseline {
            connection: connection.state().borrow().clone(),
            reign: Reign::Of(settled.consumer.facts.reign),
        };
        Ok::<_, SensorError>(Ready { place: place.of(&settled.consumer), settled, baseline, created })
    };
    // Waiting is living: whoever restarts a process that waits for NATS gains nothing.
    let beat = async {
        loop {
            health.beat(clock::now());
            tokio::time::sleep(BEAT).await;
        }
    };
    tokio::select! {
        ready = work => ready.map(Some),
        () = stop.cancelled() => Ok(None),
        () = beat => Ok(None),
    }
}

async fn discover(config: &Config, cluster: Option<&Cluster>, board: &Board) -> Result<Created, SensorError> {
    let (api::Trigger::Kubernetes(trigger), Some(cluster)) = (&config.sensor.trigger, cluster) else {
        return Ok(None);
    };
    let mut said = false;
    loop {
        let error = match cluster.discover(&trigger.api_version, &trigger.kind).await {
            Ok(kind) if !kind.namespaced => return Err(SensorError::ClusterScoped { kind: kind.kind }),
            Ok(kind) => {
                return Ok(Some((Counted { plural: kind.plural.clone(), group: kind.group.clone() }, kind)));
            }
            Err(error) => error,
        };
        if !passes(&error) {
            return Err(SensorError::Kind(error));
        }
        if !said {
            said = true;
            tracing::warn!(error = &error as &dyn std::error::Error, "waiting for the API server");
        }
        board.waits(Reason::ApiDown, &with_sources(&error), clock::now());
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether time may heal it: an API server that is down, or a CRD that is not served yet.
fn passes(error: &DiscoverError) -> bool {
    match error {
        DiscoverError::Call(CallError::Refused(status)) => status.code >= 500 || status.code == 429,
        DiscoverError::Call(
            CallError::Expired
            | CallError::Timeout(_)
            | CallError::Connection(_)
            | CallError::Decode(_)
            | CallError::Auth(_),
        ) => true,
        DiscoverError::ApiVersion(_)
        | DiscoverError::Group(_)
        | DiscoverError::Version { .. }
        | DiscoverError::Kind { .. }
        | DiscoverError::Plural { .. } => false,
    }
}

fn place(config: &Config) -> Place {
    let settings = &config.settings;
    Place {
        namespace: config.namespace.clone(),
        sensor: config.sensor.name.clone(),
        stream: config.sensor.stream.clone(),
        subject: config.sensor.subject.clone(),
        instance: settings.instance.clone(),
        dead_letters: settings
            .dead_letter_stream
            .clone()
            .unwrap_or_else(|| bucket_name(&format!("{}-dead", config.sensor.stream), &settings.instance)),
        records: bucket_name("jetgate-record", &settings.instance),
        leads_in: if leads(config, matches!(config.sensor.trigger, api::Trigger::Kubernetes(_))) {
            ["jetgate-books", "jetgate-capacity"].map(|base| bucket_name(base, &settings.instance)).into()
        } else {
            Vec::new()
        },
        replicas: settings.replicas.and_then(|replicas| usize::try_from(replicas).ok()),
        ack_wait: settings.ack_wait,
        ack_wait_min: settings.create_timeout.saturating_mul(2),
        pulls: None,
        max_in_flight: settings.max_in_flight,
        deliver: settings.deliver_policy,
        said: Mutex::default(),
    }
}

/// Whether this process stands for leadership: for the ledger, or without a quota for the record.
pub(super) fn leads(config: &Config, creates: bool) -> bool {
    config.settings.quota.as_ref().map_or(creates, |quota| quota.source == Source::Apiserver)
}

pub(super) fn leader_settings(config: &Config, created: Created) -> LeaderSettings {
    let quota = config.settings.quota.as_ref();
    LeaderSettings {
        namespace: config.namespace.clone(),
        identity: config.identity.clone(),
        lease: quota.map_or_else(|| format!("{RECORD_LEASE}{}", config.sensor.name), |_| LEASE.to_owned()),
        instance: config.settings.instance.clone(),
        gated: quota.is_some(),
        own: Own { sensor: config.sensor.name.clone(), stream: config.sensor.stream.clone(), created },
        poll_interval: quota.map_or(NO_POLL, |quota| quota.poll_interval),
        options: config.ledger.clone(),
    }
}

/// What the credits stand for; none where gating is off.
pub(super) fn credit_terms(config: &Config, created: Option<&Counted>) -> Option<Terms> {
    let quota: &QuotaSettings = config.settings.quota.as_ref()?;
    let settle_time = match config.sensor.trigger {
        // Nothing stays of a line in the log.
        api::Trigger::Log(_) => Duration::ZERO,
        api::Trigger::Kubernetes(_) => quota.settle_time,
    };
    Some(Terms {
        namespace: config.namespace.clone(),
        sensor: config.sensor.name.clone(),
        stream: config.sensor.stream.clone(),
        quotas: quota.names.clone(),
        ratio: quota.ratio,
        costs: quota
            .resources
            .iter()
            .map(|(resource, amount)| Cost { resource: resource.clone(), amount: *amount })
            .collect(),
        created: created.cloned(),
        settle_time,
        lease: quota.signal_max_age,
        create_timeout: config.settings.create_timeout,
    })
}

pub(super) fn trigger(config: &mut Config, cluster: Option<&Cluster>, kind: Option<&Kind>) -> Trigger {
    let log = api::LogTrigger { silent: false, level: api::LogLevel::default() };
    match (std::mem::replace(&mut config.sensor.trigger, api::Trigger::Log(log)), cluster, kind) {
        (api::Trigger::Kubernetes(trigger), Some(cluster), Some(kind)) => {
            Trigger::Kubernetes(Box::new(KubernetesTrigger {
                cluster: cluster.clone(),
                kind: kind.clone(),
                namespace: config.namespace.clone(),
                prefix: trigger.prefix,
                template: trigger.template,
            }))
        }
        (api::Trigger::Log(trigger), _, _) => Trigger::Log { silent: trigger.silent, level: trigger.level },
        // A kubernetes trigger always has its cluster and its kind: see `needs_cluster` and `discover`.
        (api::Trigger::Kubernetes(_), None | Some(_), None | Some(_)) => {
            Trigger::Log { silent: true, level: api::LogLevel::default() }
        }
    }
}

/// Where nobody here grants, says what to do; where nobody needs to, says that.
pub(super) fn say_how_to_be_granted(config: &Config) {
    match config.settings.quota.as_ref().map(|quota| quota.source) {
        None => tracing::info!(
            max_in_flight = config.settings.max_in_flight,
            "gating is off: BACKPRESSURE_QUOTA_NAME is not set; only MAX_IN_FLIGHT bounds what is in hand"
        ),
        Some(Source::Apiserver) => {}
        Some(Source::Controller) => tracing::warn!(
            "waiting for grants of the jetgate controller; where none is installed, install it or set \
             BACKPRESSURE_SOURCE=apiserver"
        ),
    }
}

/// Metrics that are computed when they are read.
pub(super) fn on_scrape(
    metrics: &Arc<Metrics>,
    sensor: &SensorMetrics,
    board: &Arc<Board>,
    limiter: &Limiter,
    record: &watch::Receiver<RecordCopy>,
    leader: &watch::Receiver<LeaderView>,
    namespace: &str,
) {
    let (sensor, board, limiter, record) = (sensor.clone(), Arc::clone(board), limiter.clone(), record.clone());
    metrics.on_scrape(move |now| {
        let copy = record.borrow().clone();
        board.fill(&sensor, &limiter, &copy, now);
    });
    let (leader_metrics, leader, namespace) = (metrics.leader(), leader.clone(), namespace.to_owned());
    metrics.on_scrape(move |_| {
        let view = leader.borrow();
        #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let samples: Vec<WatchSample> = view
            .live
            .iter()
            .map(|(kind, objects)| WatchSample {
                namespace: namespace.clone(),
                resource: format!("count/{kind}"),
                objects: objects.map(|count| count as f64),
            })
            .collect();
        leader_metrics.watches(&samples);
        #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
        leader_metrics.quotas_watched.set(view.quotas as f64);
    });
}

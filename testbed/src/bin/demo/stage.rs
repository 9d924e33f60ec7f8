//! Everything that runs: control plane, NATS, the sensor behind a proxy, the stand-in for the workflow controller, and
//! the referee.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream;
use k8s_openapi::api::core::v1::ResourceQuota;
use kube::api::Api;
use serde_json::{Value, json};
use testbed::binaries::{self, Group};
use testbed::ports::Port;
use testbed::process::Spec;
use testbed::workdir::Workdir;
use testbed::{ControlPlane, ControlPlaneOptions, FaultProxy, Finisher, Login, Nats, Pace, Referee, Resource, Verdict};

use crate::failure::Result;
use crate::options::Options;
use crate::screen::{Screen, messages};
use crate::sensor::{self, Sensor};

pub(crate) const STREAM: &str = "ORDERS";
pub(crate) const DEAD_LETTERS: &str = "ORDERS-dead";
/// Which message an object was made for; written by the sensor file, read by the referee.
pub(crate) const CAUSE: &str = "example.com/order";
const NAME: &str = "orders";
const QUOTA: &str = "team";

/// Shorter than the defaults, so that the pauses after a fault are short: variable, value here, default.
const SHORTENED: [(&str, &str, &str); 3] =
    [("BACKPRESSURE_SIGNAL_MAX_AGE", "3s", "10s"), ("CREATE_TIMEOUT", "2s", "10s"), ("ACK_WAIT", "6s", "30s")];

/// The same as a duration.
pub(crate) const CREATE_TIMEOUT: Duration = Duration::from_secs(2);

const LOOK_WITHIN: Duration = Duration::from_millis(700);

/// Dropped in this order: whoever asks before whoever answers.
pub(crate) struct Stage {
    pub(crate) options: Options,
    pub(crate) sensor: Sensor,
    pub(crate) finisher: Finisher,
    pub(crate) referee: Referee,
    pub(crate) proxy: FaultProxy,
    pub(crate) jetstream: jetstream::Context,
    quotas: Api<ResourceQuota>,
    pub(crate) nats: Nats,
    pub(crate) plane: ControlPlane,
    namespace: String,
    folder: Workdir,
}

impl Stage {
    pub(crate) async fn build(options: &Options, screen: &Screen) -> Result<Self> {
        let (program, version) = sensor::program(options.sensor.as_deref()).await?;
        screen.say(&format!(
            "{} at once, {}, ratio {}: never more than {} alive. Starting etcd, kube-apiserver, \
             kube-controller-manager and nats-server ...",
            messages(options.messages),
            if options.hard == 1 {
                "a quota of 1 Workflow".to_owned()
            } else {
                format!("a quota of {} Workflows", options.hard)
            },
            options.ratio,
            options.limit()
        ));
        let (plane, nats) = tokio::try_join!(
            Box::pin(ControlPlane::begin(ControlPlaneOptions::default())),
            Box::pin(Nats::start_plain()),
        )?;
        // All that needs an API server that answers, while it becomes ready.
        let workflows = Resource::workflows();
        let namespace = plane.namespace("demo").await?;
        let hard = options.hard.to_string();
        let ((kubeconfig, proxy), referee, finisher, nats_client, (), ()) = tokio::try_join!(
            kubeconfig(&plane, &namespace),
            async { Ok(Referee::watch(&plane, &workflows, &namespace).await?) },
            async { Ok(Finisher::start(&plane, &workflows, &namespace, Pace::OnDemand).await?) },
            async { Ok(nats.connect().await?) },
            async { Ok(plane.quota_unready(&namespace, QUOTA, &[(&workflows.quota_key(), &hard)]).await?) },
            async { Ok(plane.complete().await?) },
        )?;
        let jetstream = jetstream::new(nats_client.clone());
        let stream = jetstream::stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![format!("{STREAM}.>")],
            ..Default::default()
        };
        jetstream.create_stream(stream).await?;
        let folder = Workdir::new("demo")?;
        let port = Port::reserve()?;
        let spec = sensor_spec(&program, &folder, &port, &namespace, &kubeconfig, &nats, &options.ratio.to_string())?;
        let (sensor, (), ()) = tokio::try_join!(
            Box::pin(Sensor::start(spec, port)),
            async { Ok(plane.quota_settled(&namespace, QUOTA).await?) },
            async { Ok(plane.creates_are_prompt().await?) },
        )?;
        let client = plane.client().await?;
        let kubernetes = client.apiserver_version().await?.git_version;
        let stage = Self {
            options: options.clone(),
            sensor,
            finisher,
            referee,
            proxy,
            jetstream,
            quotas: Api::namespaced(client, &namespace),
            nats,
            plane,
            namespace,
            folder,
        };
        stage.introduce(screen, &version, &kubernetes, &nats_client.server_info().version).await;
        Ok(stage)
    }

    /// What runs and where to look.
    async fn introduce(&self, screen: &Screen, version: &str, kubernetes: &str, nats: &str) {
        let etcd = etcd_version().await.unwrap_or_default();
        let folder = |log: &Path| log.parent().unwrap_or(log).display().to_string();
        let api = self.plane.apiserver();
        screen.say(&format!(
            "  kubernetes  {kubernetes} (kube-apiserver {}, etcd {etcd}, quota controller), logs in {}",
            api.url(),
            folder(api.process().log())
        ));
        screen.say(&format!(
            "  nats        {nats} ({}), log in {}",
            self.nats.url(),
            folder(self.nats.process().log())
        ));
        screen.say(&format!(
            "  sensor      {version} (pid {}, http://{}/metrics and /debug/state), file and log in {}",
            self.sensor.pid(),
            self.sensor.address(),
            self.folder.path().display()
        ));
        let settings: Vec<String> =
            SHORTENED.iter().map(|(name, value, default)| format!("{name}={value} (default {default})")).collect();
        screen.say(&format!("  settings    {}: shorter pauses after a fault, for the demo", settings.join(", ")));
        if self.options.keep {
            screen.say("  --keep      these folders stay");
        } else {
            screen.say("              (the folders go at the end; --keep lets them stay)");
        }
        screen.say(
            "  columns     used: the quota's own count; live, created: what the referee sees; limit, gate: what the sensor says; \
             waiting: messages not acknowledged",
        );
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What the referee says now.
    pub(crate) fn verdict(&self) -> Result<Verdict> {
        Ok(self.referee.verdict(&self.plane.audit(&self.namespace)?, CAUSE, self.orders()))
    }

    /// How long nothing at all may move.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(60) + self.options.job_seconds * 3
    }

    /// `status.used` of the quota.
    pub(crate) async fn used(&self) -> Option<u64> {
        let quota = tokio::time::timeout(LOOK_WITHIN, self.quotas.get(QUOTA)).await.ok()?.ok()?;
        quota.status?.used?.get(&Resource::workflows().quota_key())?.0.parse().ok()
    }

    /// Messages that are not acknowledged yet.
    pub(crate) async fn waiting(&self) -> Option<u64> {
        let look = async {
            let consumer: jetstream::consumer::PullConsumer =
                self.jetstream.get_consumer_from_stream(NAME, STREAM).await.ok()?;
            let info = consumer.cached_info();
            Some(info.num_pending + u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX))
        };
        tokio::time::timeout(LOOK_WITHIN, look).await.ok()?
    }

    /// Publishes all messages at once.
    pub(crate) async fn publish(&self) -> Result<()> {
        let mut acks = Vec::new();
        for order in self.orders() {
            let payload = json!({ "id": order }).to_string();
            acks.push(self.jetstream.publish(format!("{STREAM}.new"), payload.into()).await?);
        }
        for ack in acks {
            ack.await?;
        }
        Ok(())
    }

    /// What should have an object each.
    pub(crate) fn orders(&self) -> impl Iterator<Item = String> {
        (1..=self.options.messages).map(|number| format!("order-{number}"))
    }

    /// Copies every log to a folder that stays.
    pub(crate) fn save_logs(&self) -> Result<PathBuf> {
        let logs = [self.sensor.log(), self.nats.process().log(), self.plane.apiserver().process().log()];
        let to = tempfile::Builder::new().prefix("jetgate-demo-logs-").tempdir()?.keep();
        for folder in logs.iter().filter_map(|log| log.parent()) {
            for entry in std::fs::read_dir(folder)? {
                let path = entry?.path();
                let wanted = path.extension().is_some_and(|kind| kind == "log" || kind == "yaml");
                if let Some(name) = path.file_name().filter(|_| wanted) {
                    std::fs::copy(&path, to.join(name))?;
                }
            }
        }
        Ok(to)
    }
}

/// A service account with the rights that a sensor needs and no more, behind a proxy that can cut its connections.
async fn kubeconfig(plane: &ControlPlane, namespace: &str) -> Result<(PathBuf, FaultProxy)> {
    let rules: Value = json!([
        {"apiGroups": [""], "resources": ["resourcequotas"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
        {"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["get", "list", "watch", "create"]},
    ]);
    let (proxy, account) = tokio::try_join!(
        FaultProxy::start(plane.apiserver().address()),
        plane.service_account(namespace, NAME, &rules)
    )?;
    let token = plane.sign_token(&account, Duration::from_secs(24 * 3600))?;
    Ok((plane.kubeconfig_at(&Login::Token(token), &proxy.url("https"))?, proxy))
}

fn sensor_spec(
    program: &Path,
    folder: &Workdir,
    port: &Port,
    namespace: &str,
    kubeconfig: &Path,
    nats: &Nats,
    ratio: &str,
) -> Result<Spec> {
    let file = folder.write(
        "sensor.yaml",
        format!(
            r#"name: {NAME}
stream: {STREAM}
subject: {STREAM}.>
trigger:
  name: create-workflow
  kubernetes:
    object:
      apiVersion: argoproj.io/v1alpha1
      kind: Workflow
      metadata:
        generateName: order-
        annotations: {{{CAUSE}: "${{{{ event.data.id }}}}"}}
      spec:
        entrypoint: main
        arguments: {{parameters: [{{name: id, value: "${{{{ event.data.id }}}}"}}]}}
"#
        ),
    )?;
    let mut spec = Spec::new("jetgate sensor", program, ["sensor"], folder.path().join("sensor.log"))
        .env("SENSOR_FILE", file.to_string_lossy())
        .env("KUBECONFIG", kubeconfig.to_string_lossy())
        .env("NATS_URL", nats.url())
        .env("POD_NAME", format!("{NAME}-0"))
        .env("METRICS_PORT", port.number().to_string())
        .env("LOG_FORMAT", "plain")
        .env("BACKPRESSURE_SOURCE", "apiserver")
        .env("BACKPRESSURE_QUOTA_NAME", QUOTA)
        .env("BACKPRESSURE_QUOTA_NAMESPACE", namespace)
        .env("BACKPRESSURE_CAPACITY_RATIO", ratio)
        .env("DEAD_LETTER_STREAM", DEAD_LETTERS);
    for (name, value, _) in SHORTENED {
        spec = spec.env(name, value);
    }
    Ok(spec)
}

async fn etcd_version() -> Option<String> {
    let program = binaries::program(Group::Kube, "etcd").await.ok()?;
    let output = tokio::process::Command::new(program).arg("--version").output().await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next()?.rsplit(' ').next().map(str::to_owned)
}

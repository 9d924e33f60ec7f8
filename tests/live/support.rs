//! What the live tests share: a sensor as a process of its own beside the test bed, and how to look at it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use serde_json::{Value, json};
use testbed::control_plane::{Login, ServiceAccount};
use testbed::process::{Process, Spec};
use testbed::{ControlPlane, HttpFaultProxy, Nats, Referee, Resource, wait};

/// Long enough for a loaded machine of two cores; a test that needs it has failed anyway.
pub(crate) const LONG: Duration = Duration::from_secs(120);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A namespace of its own on a control plane, a stream on a NATS, and what a sensor there is started with.
pub(crate) struct Stage<'p> {
    pub(crate) plane: &'p ControlPlane,
    pub(crate) namespace: String,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) nats_url: String,
    pub(crate) nats: async_nats::Client,
    pub(crate) stream: String,
    pub(crate) sensor: String,
    folder: tempfile::TempDir,
    env: BTreeMap<String, String>,
    file: String,
    log: String,
    /// What its stream held once and holds no more: it must have had its object all the same.
    pub(crate) gone: BTreeSet<String>,
}

/// The sensor file of most tests: a Workflow per message.
pub(crate) fn workflow_file(sensor: &str, stream: &str) -> String {
    format!(
        r#"name: {sensor}
stream: {stream}
subject: {stream}.>
trigger:
  name: create-workflow
  kubernetes:
    object:
      apiVersion: argoproj.io/v1alpha1
      kind: Workflow
      metadata:
        generateName: order-
        labels: {{app: "${{{{ event.subject }}}}"}}
      spec:
        entrypoint: main
        arguments: {{parameters: [{{name: id, value: "${{{{ event.data.id }}}}"}}]}}
"#
    )
}

impl<'p> Stage<'p> {
    /// A namespace with the quota `team` on workflows, and an empty stream.
    pub(crate) async fn new(plane: &'p ControlPlane, nats: &Nats, name: &str, hard: &str) -> Self {
        let stage = Self::without_quota(plane, nats, name).await;
        let key = Resource::workflows().quota_key();
        plane.quota(&stage.namespace, "team", &[(&key, hard)]).await.unwrap();
        stage
    }

    pub(crate) async fn without_quota(plane: &'p ControlPlane, nats: &Nats, name: &str) -> Self {
        let namespace = plane.namespace(name).await.unwrap();
        let client = nats.connect().await.unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let sensor = format!("s{number}-{name}");
        let stream = format!("EVENTS{number}");
        jetstream::new(client.clone())
            .create_stream(jetstream::stream::Config {
                name: stream.clone(),
                subjects: vec![format!("{stream}.>")],
                ..Default::default()
            })
            .await
            .unwrap();
        let file = workflow_file(&sensor, &stream);
        let mut env = BTreeMap::new();
        for (variable, value) in [
            ("BACKPRESSURE_QUOTA_NAME", "team"),
            ("BACKPRESSURE_SOURCE", "apiserver"),
            ("METRICS_PORT", "0"),
            ("LOG_LEVEL", "info"),
            // Short, so that a test which waits for a lost number does not wait long.
            ("BACKPRESSURE_SIGNAL_MAX_AGE", "3s"),
            ("CREATE_TIMEOUT", "2s"),
            ("ACK_WAIT", "6s"),
        ] {
            env.insert(variable.to_owned(), value.to_owned());
        }
        env.insert("BACKPRESSURE_QUOTA_NAMESPACE".to_owned(), namespace.clone());
        env.insert("POD_NAME".to_owned(), format!("{sensor}-pod"));
        Self {
            plane,
            kubeconfig: plane.kubeconfig_admin().unwrap(),
            nats_url: nats.url(),
            nats: client,
            namespace,
            stream,
            sensor,
            folder: tempfile::tempdir().unwrap(),
            env,
            file,
            log: "sensor".to_owned(),
            gone: BTreeSet::new(),
        }
    }

    pub(crate) fn set(&mut self, variable: &str, value: &str) -> &mut Self {
        self.env.insert(variable.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn unset(&mut self, variable: &str) -> &mut Self {
        self.env.remove(variable);
        self
    }

    pub(crate) fn file(&mut self, text: &str) -> &mut Self {
        self.file = text.to_owned();
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A login of the test's own instead of the administrator's.
    pub(crate) fn login(&mut self, login: &Login) -> &mut Self {
        self.kubeconfig = self.plane.kubeconfig(login).unwrap();
        self
    }

    /// How the sensor is started.
    pub(crate) fn spec(&self) -> Spec {
        let path = self.folder.path().join("sensor.yaml");
        std::fs::write(&path, &self.file).unwrap();
        let log = self.folder.path().join(format!("{}.log", self.log));
        let mut spec = Spec::new("jetgate", env!("CARGO_BIN_EXE_jetgate"), ["sensor"], log)
            .env("SENSOR_FILE", path.to_string_lossy())
            .env("KUBECONFIG", self.kubeconfig.to_string_lossy())
            .env("NATS_URL", &self.nats_url);
        for (variable, value) in &self.env {
            spec = spec.env(variable, value);
        }
        spec
    }

    /// Starts the sensor and waits until it is ready.
    pub(crate) async fn start(&self) -> Sensor {
        let sensor = self.spawn();
        sensor.until_ready().await;
        sensor
    }

    /// Starts the sensor.
    pub(crate) fn spawn(&self) -> Sensor {
        Sensor { process: Process::spawn(self.spec()).unwrap() }
    }

    /// Starts the sensor with an empty log.
    pub(crate) fn spawn_anew(&self) -> Sensor {
        let spec = self.spec();
        if spec.log.exists() {
            std::fs::remove_file(&spec.log).unwrap();
        }
        Sensor { process: Process::spawn(spec).unwrap() }
    }

    pub(crate) fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.nats.clone())
    }

    /// Publishes messages with ids from..to and waits for their acknowledgement.
    pub(crate) async fn publish(&self, ids: std::ops::Range<usize>) {
        let js = self.jetstream();
        let mut acks = std::collections::VecDeque::new();
        for id in ids {
            // The client waits for ever where too many acknowledgements are not taken.
            if acks.len() >= 500 {
                let oldest: jetstream::context::PublishAckFuture = acks.pop_front().unwrap();
                oldest.await.unwrap();
            }
            let payload = json!({"id": format!("{id}")}).to_string();
            acks.push_back(js.publish(format!("{}.order", self.stream), payload.into()).await.unwrap());
        }
        for ack in acks {
            ack.await.unwrap();
        }
    }

    pub(crate) async fn referee(&self) -> Referee {
        Referee::watch(self.plane, &Resource::workflows(), &self.namespace).await.unwrap()
    }

    /// Messages that the consumer has not finished with: pending and unacknowledged.
    pub(crate) async fn waiting(&self) -> (u64, u64) {
        // A cluster that chooses a leader answers for a moment that it is not available.
        wait::until("the consumer answers", LONG, || async {
            let stream = self.jetstream().get_stream(&self.stream).await.ok()?;
            let consumer: jetstream::consumer::PullConsumer = stream.get_consumer(&self.sensor).await.ok()?;
            let info = consumer.get_info().await.ok()?;
            Some((info.num_pending, info.num_ack_pending as u64))
        })
        .await
        .unwrap()
    }

    pub(crate) async fn until_drained(&self) {
        wait::until_true("every message acknowledged", LONG, || async { self.waiting().await == (0, 0) })
            .await
            .unwrap();
    }

    /// A service account of the stage's namespace with these rules, and a token of it.
    pub(crate) async fn token(&self, rules: &Value) -> String {
        let account = self.plane.service_account(&self.namespace, "sensor", rules).await.unwrap();
        self.plane.sign_token(&account, Duration::from_secs(3600)).unwrap()
    }

    /// The sensor reaches the API server through this proxy, as a service account with the rights that it needs.
    pub(crate) async fn behind(&mut self, proxy: &HttpFaultProxy) -> &mut Self {
        let token = self.token(&sensor_rules(&["create", "get", "list", "watch"])).await;
        self.kubeconfig = self.plane.kubeconfig_at(&Login::Token(token), &proxy.url()).unwrap();
        self
    }

    /// The leader's public word on the quota `team`.
    pub(crate) async fn signal(&self) -> Option<Value> {
        let bucket = self.jetstream().get_key_value("jetgate-capacity").await.ok()?;
        let value = bucket.get(format!("{}.team", self.namespace)).await.ok()??;
        serde_json::from_slice(&value).ok()
    }

    /// Waits for a signal on its first resource.
    pub(crate) async fn until_signal(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = wait::until(what, LONG, || async {
            let resource = self.signal().await?["resources"].get(0)?.clone();
            holds(&resource).then_some(resource)
        });
        match found.await {
            Ok(resource) => resource,
            Err(error) => panic!("{error}; it is {:?}", self.signal().await),
        }
    }

    /// Who holds the Lease; none where it is free.
    pub(crate) async fn lease_holder(&self) -> Option<String> {
        let leases = Resource {
            group: "coordination.k8s.io".to_owned(),
            version: "v1".to_owned(),
            kind: "Lease".to_owned(),
            plural: "leases".to_owned(),
        };
        let lease = self.plane.objects(&leases, &self.namespace).await.unwrap().get("jetgate-ledger").await.unwrap();
        lease.data["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty()).map(str::to_owned)
    }

    /// Dead letters so far.
    pub(crate) async fn dead_letters(&self) -> u64 {
        match self.jetstream().get_stream(format!("{}-dead", self.stream)).await {
            Ok(stream) => stream.cached_info().state.messages,
            Err(_) => 0,
        }
    }

    /// A log file of its own for the next sensor that is started, beside the first one.
    pub(crate) fn own_log(&mut self, name: &str) -> &mut Self {
        name.clone_into(&mut self.log);
        self
    }

    /// A service account with the rights of a sensor that leads itself.
    pub(crate) async fn account(&self) -> ServiceAccount {
        let rules = json!([
            {"apiGroups": [""], "resources": ["resourcequotas"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create", "get", "update"]},
            {"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["create", "get", "list", "watch"]},
        ]);
        self.plane.service_account(&self.namespace, "sensor", &rules).await.unwrap()
    }

    /// Reaches the API server at another address, such as a proxy's, with a token.
    pub(crate) async fn login_at(&mut self, url: &str) -> &mut Self {
        let account = self.account().await;
        let token = self.plane.sign_token(&account, Duration::from_secs(3600)).unwrap();
        self.kubeconfig = self.plane.kubeconfig_at(&Login::Token(token), url).unwrap();
        self
    }

    /// Deletes every object that is alive, and waits until that is seen.
    pub(crate) async fn delete_all(&self, referee: &Referee) {
        let objects = Resource::workflows();
        for name in self.plane.names(&objects, &self.namespace).await.unwrap() {
            self.plane.delete(&objects, &self.namespace, &name).await.unwrap();
        }
        referee.until_alive(0, LONG).await.unwrap();
    }

    /// A sensor in the middle of a burst, whose API server then stops answering.
    pub(crate) async fn start_and_stop_the_api(&self, messages: usize) -> (Referee, Sensor) {
        let referee = self.referee().await;
        let sensor = self.start().await;
        sensor.until_reason(None).await;
        self.publish(0..messages).await;
        referee.until_created(1, LONG).await.unwrap();
        self.plane.apiserver().process().stop().unwrap();
        (referee, sensor)
    }

    /// How often the consumer has handed out messages, by the server's count (a killed server counts from before).
    pub(crate) async fn handed_out(&self) -> u64 {
        self.consumer().await.delivered.consumer_sequence
    }

    /// What the server says of the durable.
    pub(crate) async fn consumer(&self) -> jetstream::consumer::Info {
        let stream = self.jetstream().get_stream(&self.stream).await.unwrap();
        let consumer: jetstream::consumer::PullConsumer = stream.get_consumer(&self.sensor).await.unwrap();
        consumer.get_info().await.unwrap()
    }
}

/// A running sensor.
pub(crate) struct Sensor {
    pub(crate) process: Process,
}

impl Sensor {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.process.log()).unwrap_or_default()
    }

    /// Lines of the log with this message.
    pub(crate) fn lines(&self, msg: &str) -> Vec<Value> {
        self.log()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|line| line["msg"].as_str().is_some_and(|text| text.contains(msg)))
            .collect()
    }

    /// Where metrics and health are.
    pub(crate) async fn address(&self) -> String {
        wait::until("the sensor says where its metrics are", LONG, || async {
            let line = self.lines("metrics and health").pop()?;
            let port = line["address"].as_str()?.rsplit(':').next()?.to_owned();
            Some(format!("127.0.0.1:{port}"))
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", self.process.last_log_lines(30)))
    }

    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        get(&self.address().await, path).await
    }

    pub(crate) async fn until_ready(&self) {
        let ready = wait::until_true("the sensor is ready", LONG, || async {
            assert!(self.process.is_alive(), "the sensor ended:\n{}", self.process.last_log_lines(30));
            matches!(self.get("/readyz").await, Some((200, _)))
        })
        .await;
        ready.unwrap_or_else(|error| panic!("{error}\n{}", self.process.last_log_lines(30)));
    }

    /// The sum of a metric over the series whose labels contain all of `labels`; none where there is no such series.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let (_, text) = self.get("/metrics").await?;
        let mut found = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (series_name, series_labels) = series.split_once('{').unwrap_or((series, ""));
            if series_name == name && labels.iter().all(|label| series_labels.contains(label)) {
                found = Some(found.unwrap_or(0.0) + value.parse::<f64>().unwrap());
            }
        }
        found
    }

    pub(crate) async fn until_metric(&self, name: &str, labels: &[&str], holds: impl Fn(f64) -> bool) -> f64 {
        let last = std::cell::Cell::new(None);
        let found = wait::until(name, LONG, || async {
            let value = self.metric(name, labels).await?;
            last.set(Some(value));
            holds(value).then_some(value)
        });
        let Ok(value) = found.await else {
            panic!("{name}{labels:?} is {:?}\n{}", last.get(), self.process.last_log_lines(20));
        };
        value
    }

    pub(crate) async fn state(&self) -> Value {
        let (_, text) = self.get("/debug/state").await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The reason of the gate, or none where it is open.
    pub(crate) async fn reason(&self) -> Option<String> {
        self.state().await["gate"]["reason"].as_str().map(str::to_owned)
    }

    pub(crate) async fn until_reason(&self, reason: Option<&str>) {
        let wanted = reason.map(str::to_owned);
        let reached = wait::until_true(&format!("the gate's reason is {reason:?}"), LONG, || async {
            self.reason().await == wanted
        })
        .await;
        if let Err(error) = reached {
            panic!("{error}; it is {:?}\n{}", self.reason().await, self.process.last_log_lines(20));
        }
    }

    /// SIGTERM, and the exit code.
    pub(crate) async fn stop(&self) -> Option<i32> {
        self.process.terminate().unwrap();
        self.process.wait_exit(Duration::from_secs(40)).await.unwrap().code()
    }
}

/// The rules of a sensor's Role, with these verbs on workflows.
pub(crate) fn sensor_rules(verbs: &[&str]) -> Value {
    json!([
        {"apiGroups": [""], "resources": ["resourcequotas"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
        {"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": verbs},
    ])
}

/// A plain HTTP GET on loopback.
pub(crate) async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let work = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(10), work).await.ok()?
}

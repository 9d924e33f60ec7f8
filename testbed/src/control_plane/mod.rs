//! etcd, kube-apiserver and kube-controller-manager with RBAC, audit log and a quota controller that replenishes.

mod access;
mod api_server;
mod definitions;
mod objects;
mod options;
mod prepared;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub use access::{Login, ServiceAccount};
pub use api_server::ApiServer;
pub use definitions::{Resource, definition};
pub use options::{ControlPlaneOptions, ControllerManager};

pub(crate) use access::client_from;
use api_server::Surroundings;

use crate::audit::Audit;
use crate::binaries::{self, Group};
use crate::certs::{Authority, Certificate, ISSUER, TokenKey};
use crate::error::{Error, Result};
use crate::http_client;
use crate::ports::Port;
use crate::process::{Process, Spec};
use crate::tasks;
use crate::workdir::Workdir;

static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();

const AUDIT_POLICY: &str = r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[{"level":"Metadata"}]}"#;

#[derive(Debug)]
struct Secrets {
    authority: Authority,
    admin: Certificate,
    tokens: TokenKey,
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    // Dropped in this order: whoever asks before whoever answers, the folder last.
    controller_manager: OnceLock<Process>,
    apiserver: ApiServer,
    etcd: Process,
    programs: PathBuf,
    options: ControlPlaneOptions,
    secrets: Secrets,
    served: api_server::Served,
    files: AtomicUsize,
    servers: AtomicUsize,
    work: Workdir,
    ports: Ports,
}

#[derive(Debug)]
struct Ports {
    etcd: Port,
    peer: Port,
    controller_manager: Port,
}

impl ControlPlane {
    /// The control plane of this process (of one test binary), started by whoever asks first with default options. Use
    /// it through namespaces of your own and never break it; it ends with the process.
    pub async fn shared() -> Result<&'static Self> {
        SHARED
            .get_or_try_init(|| async {
                // On our own runtime: the test that happens to be first may be cancelled.
                tasks::spawn(Self::start(ControlPlaneOptions::default()))
                    .await
                    .map_err(Error::doing("start the shared control plane"))?
            })
            .await
    }

    /// What is made once per user, if it is not there: the programs, and the data that etcd begins with.
    pub async fn prepare() -> Result<()> {
        let programs = binaries::folder(Group::Kube).await?;
        prepared::folder(&programs).await.map(drop)
    }

    /// Starts one of its own and waits until every part is ready.
    pub async fn start(options: ControlPlaneOptions) -> Result<Self> {
        again_where_a_port_is_taken(|| async {
            let plane = Self::begin_once(options.clone()).await?;
            plane.complete().await?;
            Ok(plane)
        })
        .await
    }

    /// Starts etcd and an API server and waits until it answers, which it does 2 s before it is ready: time to put into
    /// it what [`complete`](Self::complete) then finds there.
    pub async fn begin(options: ControlPlaneOptions) -> Result<Self> {
        again_where_a_port_is_taken(|| Self::begin_once(options.clone())).await
    }

    async fn begin_once(options: ControlPlaneOptions) -> Result<Self> {
        let programs = binaries::folder(Group::Kube).await?;
        let data = prepared::folder(&programs).await?;
        Box::pin(Self::start_servers(&programs, options, Some(&data))).await
    }

    /// Waits until the API server is ready, and starts the controller manager.
    pub async fn complete(&self) -> Result<()> {
        // The kinds before the controller manager: what it does not see when it starts it looks for only every 30 s.
        // It waits itself until the API server is ready, but looks only every second.
        tokio::try_join!(self.apiserver.until_ready(), self.define(&self.options.definitions))?;
        if self.options.controller_manager != ControllerManager::Absent {
            let started = self.start_controller_manager().await?;
            self.controller_manager
                .set(started)
                .map_err(|_| Error::Binaries("the control plane is complete already".to_owned()))?;
        }
        Ok(())
    }

    /// etcd and an API server that answers, with a copy of prepared data or from nothing.
    async fn start_servers(programs: &Path, options: ControlPlaneOptions, data: Option<&Path>) -> Result<Self> {
        let work = Workdir::new("kube")?;
        let secrets = Secrets::new(&work)?;
        let ports = Ports { etcd: Port::reserve()?, peer: Port::reserve()?, controller_manager: Port::reserve()? };
        let served = api_server::Served::default();
        if let Some(data) = data {
            prepared::copy(data.to_owned(), work.path().join("etcd")).await?;
            let known = definitions::standard().iter().map(objects::path).collect::<Vec<_>>();
            served.lock().unwrap_or_else(PoisonError::into_inner).extend(known);
        }
        let etcd = Process::start(etcd(programs, &work, &ports, options.fsync)).await?;
        let surroundings = Surroundings {
            programs,
            work: &work,
            etcd: ports.etcd.address(),
            secrets: &secrets,
            options: &options,
            served: &served,
        };
        let apiserver = ApiServer::spawn(&surroundings, 0).await?;
        let plane = Self {
            controller_manager: OnceLock::new(),
            apiserver,
            etcd,
            programs: programs.to_owned(),
            options,
            secrets,
            served,
            files: AtomicUsize::new(0),
            servers: AtomicUsize::new(1),
            work,
            ports,
        };
        plane.apiserver.until_answering().await?;
        Ok(plane)
    }

    /// A second API server on the same etcd; it ends when it is dropped.
    pub async fn second_apiserver(&self) -> Result<ApiServer> {
        let number = self.servers.fetch_add(1, Ordering::Relaxed);
        let surroundings = Surroundings {
            programs: &self.programs,
            work: &self.work,
            etcd: self.ports.etcd.address(),
            secrets: &self.secrets,
            options: &self.options,
            served: &self.served,
        };
        let second = ApiServer::spawn(&surroundings, number).await?;
        second.until_ready().await?;
        Ok(second)
    }

    /// The first API server.
    pub fn apiserver(&self) -> &ApiServer {
        &self.apiserver
    }

    /// etcd.
    pub fn etcd(&self) -> &Process {
        &self.etcd
    }

    /// The controller manager; an error where the options left it out.
    pub fn controller_manager(&self) -> Result<&Process> {
        self.controller_manager
            .get()
            .ok_or_else(|| Error::Binaries("this control plane was started without a controller manager".to_owned()))
    }

    /// `https://127.0.0.1:port` of the first API server.
    pub fn url(&self) -> String {
        self.apiserver.url()
    }

    /// Its authority, which also signs what a proxy shows.
    pub fn authority(&self) -> &Authority {
        &self.secrets.authority
    }

    /// What the API servers logged so far of requests in a namespace, all of them, in order of time.
    pub fn audit(&self, namespace: &str) -> Result<Audit> {
        let mut logs = Vec::new();
        for number in 0..self.servers.load(Ordering::Relaxed) {
            logs.push(self.work.path().join(api_server::audit_log(number)));
        }
        Audit::read(&logs, namespace)
    }

    /// Throws away etcd's history up to now: with a restarted API server, older resource versions are then gone
    /// (410). Without the restart its watch cache still serves them.
    pub async fn compact_etcd(&self) -> Result<u64> {
        let limit = Duration::from_secs(10);
        let call = async |path: &str, body: Value| -> Result<Value> {
            let (status, answer) =
                http_client::call(Method::POST, self.ports.etcd.address(), path, Bytes::from(body.to_string()), limit)
                    .await?;
            if !status.is_success() {
                let text = String::from_utf8_lossy(&answer).into_owned();
                return Err(Error::doing::<String>(format!("etcd {path} ({status})"))(text));
            }
            serde_json::from_slice(&answer).map_err(Error::doing(format!("etcd {path}")))
        };
        let status = call("/v3/maintenance/status", json!({})).await?;
        let revision = status
            .pointer("/header/revision")
            .and_then(Value::as_str)
            .and_then(|text| text.parse::<u64>().ok())
            .ok_or_else(|| Error::doing::<String>("etcd's status")(status.to_string()))?;
        call("/v3/kv/compaction", json!({"revision": revision.to_string(), "physical": true})).await?;
        Ok(revision)
    }

    fn token_key(&self) -> &TokenKey {
        &self.secrets.tokens
    }

    fn admin(&self) -> &Certificate {
        &self.secrets.admin
    }

    fn write_numbered(&self, name: &str, content: &str) -> Result<PathBuf> {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        self.work.write(&format!("{name}-{number}"), content)
    }

    async fn start_controller_manager(&self) -> Result<Process> {
        let user = self.secrets.authority.client("system:kube-controller-manager", None)?;
        let kubeconfig = self.write_numbered(
            "kubeconfig-controller-manager",
            &access::kubeconfig_json(&self.url(), &self.secrets.authority.base64(), &access::certificate_user(&user))
                .to_string(),
        )?;
        let kubeconfig = kubeconfig.display();
        let folder = self.work.path().display();
        let port = &self.ports.controller_manager;
        let mut arguments = vec![
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", port.number()),
            format!("--tls-cert-file={folder}/serving.crt"),
            format!("--tls-private-key-file={folder}/serving.key"),
            "--use-service-account-credentials=true".to_owned(),
            format!("--service-account-private-key-file={folder}/sa.key"),
            format!("--root-ca-file={folder}/ca.crt"),
        ];
        arguments.extend(self.options.controller_manager_arguments());
        let config = self.config_at(&Login::Admin, &format!("https://{}", port.address())).await?;
        let spec = Spec::new(
            "kube-controller-manager",
            self.programs.join("kube-controller-manager"),
            arguments,
            self.work.path().join("kube-controller-manager.log"),
        )
        .ready(move || api_server::probe(config.clone(), vec!["/healthz".to_owned()]));
        Process::start(spec).await
    }
}

/// A port that was free when it was reserved may be another's when the program wants it.
async fn again_where_a_port_is_taken<T, Fut: Future<Output = Result<T>>>(mut start: impl FnMut() -> Fut) -> Result<T> {
    const TRIES: usize = 4;
    let mut tries = 0;
    loop {
        tries += 1;
        match Box::pin(start()).await {
            Err(Error::Died { log, .. }) if tries < TRIES && log.contains("address already in use") => {}
            result => return result,
        }
    }
}

impl Secrets {
    fn new(work: &Workdir) -> Result<Self> {
        let authority = Authority::new("testbed")?;
        let serving = authority.serving_loopback()?;
        let tokens = TokenKey::new()?;
        work.write("ca.crt", authority.pem())?;
        work.write("serving.crt", serving.certificate)?;
        work.write("serving.key", serving.key)?;
        work.write("sa.key", tokens.private_pem())?;
        work.write("sa.pub", tokens.public_pem())?;
        work.write("audit.yaml", AUDIT_POLICY)?;
        Ok(Self { admin: authority.client("testbed-admin", Some("system:masters"))?, authority, tokens })
    }
}

fn etcd(programs: &std::path::Path, work: &Workdir, ports: &Ports, fsync: bool) -> Spec {
    let client = format!("http://{}", ports.etcd.address());
    let peer = format!("http://{}", ports.peer.address());
    let mut arguments = vec![
        format!("--data-dir={}", work.path().join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--log-level=warn".to_owned(),
        // A single member elects itself, after up to this time in milliseconds (1000).
        "--heartbeat-interval=10".to_owned(),
        "--election-timeout=100".to_owned(),
    ];
    if !fsync {
        arguments.push("--unsafe-no-fsync".to_owned());
    }
    let address: SocketAddr = ports.etcd.address();
    Spec::new("etcd", programs.join("etcd"), arguments, work.path().join("etcd.log"))
        .ready(move || async move { http_client::probe(address, "/health").await })
}

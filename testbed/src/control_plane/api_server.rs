//! One kube-apiserver.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Request;

use super::{ControlPlaneOptions, ISSUER, Secrets, access, client_from};
use crate::error::Result;
use crate::ports::Port;
use crate::process::{Probe, Process, READY_WITHIN, Spec};
use crate::workdir::Workdir;

/// One API server; ended when dropped.
#[derive(Debug)]
pub struct ApiServer {
    process: Process,
    port: Port,
    config: kube::Config,
}

/// Paths of the custom kinds that every server must serve before it is called ready: a server opens their storage at
/// the first request for it, and answers 429 `storage is (re)initializing` until then.
pub(super) type Served = Arc<Mutex<Vec<String>>>;

/// What an API server is started with.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) programs: &'a Path,
    pub(super) work: &'a Workdir,
    pub(super) etcd: SocketAddr,
    pub(super) secrets: &'a Secrets,
    pub(super) options: &'a ControlPlaneOptions,
    pub(super) served: &'a Served,
}

/// The name of the audit log of the n-th server.
pub(super) fn audit_log(number: usize) -> String {
    format!("audit-{number}.log")
}

impl ApiServer {
    /// Starts it without waiting.
    pub(super) async fn spawn(surroundings: &Surroundings<'_>, number: usize) -> Result<Self> {
        let Surroundings { programs, work, etcd, secrets, options, served } = *surroundings;
        let port = Port::reserve()?;
        let folder = work.path().display();
        let mut arguments = vec![
            format!("--etcd-servers=http://{etcd}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", port.number()),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            format!("--tls-cert-file={folder}/serving.crt"),
            format!("--tls-private-key-file={folder}/serving.key"),
            format!("--client-ca-file={folder}/ca.crt"),
            format!("--requestheader-client-ca-file={folder}/ca.crt"),
            "--requestheader-allowed-names=front-proxy".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            format!("--service-account-issuer={ISSUER}"),
            format!("--service-account-key-file={folder}/sa.pub"),
            format!("--service-account-signing-key-file={folder}/sa.key"),
            format!("--audit-policy-file={folder}/audit.yaml"),
            format!("--audit-log-path={folder}/{}", audit_log(number)),
            // In megabytes: at 100 it would begin another file, and what came before would be missed.
            "--audit-log-maxsize=100000".to_owned(),
        ];
        arguments.extend(options.apiserver_flags.iter().cloned());
        let kubeconfig = access::kubeconfig_json(
            &format!("https://{}", port.address()),
            &secrets.authority.base64(),
            &access::certificate_user(&secrets.admin),
        );
        let config = access::config_from(kubeconfig).await?;
        let name = match number {
            0 => "kube-apiserver".to_owned(),
            more => format!("kube-apiserver-{more}"),
        };
        let log = work.path().join(format!("{name}.log"));
        let served = Arc::clone(served);
        let admin = config.clone();
        let spec = Spec::new(name, programs.join("kube-apiserver"), arguments, log)
            // A tenth less time to start, for 100 MB more.
            .env("GOGC", "400")
            .ready(move || {
                let mut paths = vec!["/readyz".to_owned()];
                paths.extend(served.lock().unwrap_or_else(PoisonError::into_inner).clone());
                probe(config.clone(), paths)
            });
        Ok(Self { process: Process::spawn(spec)?, port, config: admin })
    }

    /// Waits until it is ready; fails at once when it ends before.
    pub(super) async fn until_ready(&self) -> Result<()> {
        self.process.until_ready(READY_WITHIN).await
    }

    /// Waits until it answers anything at all, which it does 2 s before it is ready; fails at once when it ends before.
    pub(super) async fn until_answering(&self) -> Result<()> {
        let config = self.config.clone();
        let answers: Probe = Arc::new(move || Box::pin(probe(config.clone(), vec!["/livez/ping".to_owned()])));
        self.process.until_true(READY_WITHIN, &answers).await
    }

    /// The process, to be stopped, killed and restarted.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// `127.0.0.1:port`, for a proxy.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// `https://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }
}

/// Asks endpoints behind TLS until one fails.
pub(super) async fn probe(mut config: kube::Config, paths: Vec<String>) -> Result<(), String> {
    config.connect_timeout = Some(Duration::from_secs(2));
    config.read_timeout = Some(Duration::from_secs(2));
    let client = client_from(config).map_err(|error| error.to_string())?;
    for path in paths {
        let request = Request::get(&path).body(Vec::new()).map_err(|error| error.to_string())?;
        client.request_text(request).await.map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

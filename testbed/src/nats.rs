//! nats-server with JetStream on disk: one, or three in a cluster.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::binaries::{self, Group};
use crate::certs::Certificate;
use crate::error::{Error, Result};
use crate::http_client;
use crate::ports::Port;
use crate::process::{Process, Spec};
use crate::wait;
use crate::workdir::Workdir;

const FORMED_WITHIN: Duration = Duration::from_secs(60);

/// Options of [`Nats::start`] and [`NatsCluster::start`].
#[derive(Clone, Debug, Default)]
pub struct NatsOptions {
    /// More lines of configuration at the top level: authorization, accounts, limits.
    pub config: String,
    /// More lines inside the `jetstream` block.
    pub jetstream: String,
    /// How often what is stored is synced to disk: `always`, or a duration such as `2m`.
    pub sync_interval: Option<String>,
    /// The most bytes that the file store may take.
    pub max_file_store: Option<u64>,
    /// Serve TLS with this certificate.
    pub tls: Option<Certificate>,
    /// With `tls`: clients must show a certificate of this authority (PEM).
    pub verify_clients: Option<String>,
    /// With `tls`: the handshake comes before anything else.
    pub tls_first: bool,
}

/// One nats-server; ended when dropped. It keeps ports and store over restarts.
#[derive(Debug)]
pub struct Nats {
    process: Process,
    tls: bool,
    client: Port,
    monitor: Port,
    _work: Workdir,
}

/// Three servers in one cluster, each with its own store.
#[derive(Debug)]
pub struct NatsCluster {
    nodes: Vec<Nats>,
    _routes: Vec<Port>,
}

impl Nats {
    /// Starts one and waits until JetStream is there.
    pub async fn start(options: NatsOptions) -> Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            let node = Self::spawn("nats", &options, "").await?;
            match node.process.until_ready(FORMED_WITHIN).await {
                Ok(()) => return Ok(node),
                Err(Error::Died { log, .. }) if tries < 4 && log.contains("address already in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// With default options.
    pub async fn start_plain() -> Result<Self> {
        Self::start(NatsOptions::default()).await
    }

    async fn spawn(name: &str, options: &NatsOptions, cluster: &str) -> Result<Self> {
        let program = binaries::program(Group::Nats, "nats-server").await?;
        let work = Workdir::new(name)?;
        let (client, monitor) = (Port::reserve()?, Port::reserve()?);
        let config = configuration(name, options, cluster, &work, &client, &monitor)?;
        let config = work.write("nats.conf", config)?;
        let address = monitor.address();
        let path = if cluster.is_empty() {
            "/healthz"
        } else {
            // Alone it has no leader to be healthy with.
            "/healthz?js-server-only=true"
        };
        let spec =
            Spec::new(name, program, ["-c".to_owned(), config.display().to_string()], work.path().join("nats.log"))
                .ready(move || async move { http_client::probe(address, path).await });
        Ok(Self { process: Process::spawn(spec)?, tls: options.tls.is_some(), client, monitor, _work: work })
    }

    /// The process, to be stopped, killed and restarted.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// `127.0.0.1:port` for clients, and for a proxy.
    pub fn address(&self) -> SocketAddr {
        self.client.address()
    }

    /// `nats://127.0.0.1:port`, or `tls://...`.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "tls" } else { "nats" };
        format!("{scheme}://{}", self.address())
    }

    /// A client without credentials.
    pub async fn connect(&self) -> Result<async_nats::Client> {
        async_nats::connect(self.url()).await.map_err(Error::doing(format!("connect to {}", self.url())))
    }

    /// What the monitoring port says, such as `/jsz` or `/varz`.
    pub async fn monitoring(&self, path: &str) -> Result<Value> {
        let (_, body) =
            http_client::call(Method::GET, self.monitor.address(), path, Bytes::new(), Duration::from_secs(5)).await?;
        serde_json::from_slice(&body).map_err(Error::doing(format!("read {path}")))
    }

    async fn healthy(&self) -> Result<(), String> {
        http_client::probe(self.monitor.address(), "/healthz").await
    }
}

impl NatsCluster {
    /// Starts three and waits until they have a leader of the meta group and are all current.
    pub async fn start(options: NatsOptions) -> Result<Self> {
        let routes = [Port::reserve()?, Port::reserve()?, Port::reserve()?];
        let list = routes.each_ref().map(|port| format!("nats://{}", port.address()));
        let mut nodes = Vec::new();
        for (number, port) in routes.iter().enumerate() {
            let cluster = format!(
                "cluster {{\n  name: testbed\n  listen: \"{}\"\n  routes: [{}]\n}}\n",
                port.address(),
                list.join(", ")
            );
            nodes.push(Nats::spawn(&format!("nats-{number}"), &options, &cluster).await?);
        }
        let cluster = Self { nodes, _routes: routes.into() };
        for node in &cluster.nodes {
            node.process.until_ready(FORMED_WITHIN).await?;
        }
        cluster.until_formed(FORMED_WITHIN).await?;
        Ok(cluster)
    }

    /// The three servers.
    pub fn nodes(&self) -> &[Nats] {
        &self.nodes
    }

    /// Their addresses as a comma list.
    pub fn url(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(Nats::url).collect();
        urls.join(",")
    }

    /// A client that knows all three.
    pub async fn connect(&self) -> Result<async_nats::Client> {
        let urls: Vec<String> = self.nodes.iter().map(Nats::url).collect();
        async_nats::connect(urls).await.map_err(Error::doing("connect to the cluster"))
    }

    /// Waits until every running server is healthy and there is a leader.
    pub async fn until_formed(&self, limit: Duration) -> Result<()> {
        wait::until_true("the NATS cluster to have a leader", limit, || async {
            for node in self.nodes.iter().filter(|node| node.process.is_alive()) {
                if node.healthy().await.is_err() {
                    return false;
                }
            }
            self.leader().await.is_some()
        })
        .await
    }

    /// The server that leads the meta group, where one does.
    pub async fn leader(&self) -> Option<&Nats> {
        for node in &self.nodes {
            let Ok(answer) = node.monitoring("/jsz").await else {
                continue;
            };
            let Some(leader) = answer.pointer("/meta_cluster/leader").and_then(Value::as_str) else {
                continue;
            };
            let number = leader.strip_prefix("nats-")?.parse::<usize>().ok()?;
            return self.nodes.get(number);
        }
        None
    }
}

fn configuration(
    name: &str,
    options: &NatsOptions,
    cluster: &str,
    work: &Workdir,
    client: &Port,
    monitor: &Port,
) -> Result<String> {
    let folder = work.path().display();
    let mut text = format!(
        "server_name: {name}\nlisten: \"{}\"\nhttp: \"{}\"\njetstream {{\n  store_dir: \"{folder}/store\"\n",
        client.address(),
        monitor.address()
    );
    if let Some(interval) = &options.sync_interval {
        text.push_str(&format!("  sync_interval: {interval}\n"));
    }
    if let Some(most) = options.max_file_store {
        text.push_str(&format!("  max_file_store: {most}\n"));
    }
    text.push_str(&format!("  {}\n}}\n{cluster}", options.jetstream));
    if let Some(tls) = &options.tls {
        work.write("tls.crt", &tls.certificate)?;
        work.write("tls.key", &tls.key)?;
        text.push_str(&format!("tls {{\n  cert_file: \"{folder}/tls.crt\"\n  key_file: \"{folder}/tls.key\"\n"));
        if let Some(authority) = &options.verify_clients {
            work.write("clients.crt", authority)?;
            text.push_str(&format!("  ca_file: \"{folder}/clients.crt\"\n  verify: true\n"));
        }
        text.push_str(&format!("  handshake_first: {}\n}}\n", options.tls_first));
    }
    text.push_str(&options.config);
    text.push('\n');
    Ok(text)
}

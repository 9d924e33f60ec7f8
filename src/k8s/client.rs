//! `Cluster`: three clients of one API server, so that creates, reads and watches never wait for each other's
//! connections, and their renewal when credentials or connections are no longer good.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use kube::config::{Config, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use thiserror::Error;
use tokio::task::JoinError;
use tracing::{debug, warn};

use super::connector::{self, OpenClient};
use crate::clock;

/// Credentials are read anew, and pools replaced, at most this often.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);

/// Stands for "the kubeconfig names no proxy".
const NO_PROXY: &str = "http://no-proxy.invalid/";

/// Where the API server is and how long we wait for it.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// This kubeconfig. Without it: the pod's service account where there is one, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// TCP and TLS handshake together.
    pub connect_timeout: Duration,
    /// Every read without a time-out argument, each page of a list on its own; the head of a watch.
    pub read_timeout: Duration,
    /// How much longer than asked for a watch may be silent before we end it.
    pub watch_margin: Duration,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            connect_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(5),
            watch_margin: Duration::from_secs(2),
        }
    }
}

/// Why there is no client.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kubeconfig is missing or bad.
    #[error("the kubeconfig cannot be used")]
    Kubeconfig(#[source] KubeconfigError),
    /// The kubeconfig is no document of that form. Not in the parser's words, which quote from a file full of secrets.
    #[error("line {line}, column {column} of the kubeconfig is no part of such a file")]
    Yaml {
        /// From 1; 0 where it is wrong as a whole.
        line: u64,
        /// From 1.
        column: u64,
    },
    /// The pod's service account is missing or bad.
    #[error("the pod's service account cannot be used")]
    InCluster(#[from] InClusterError),
    /// Certificates or credentials are bad.
    #[error("certificates or credentials cannot be used")]
    Credentials(#[source] Box<kube::Error>),
    /// The kubeconfig names a proxy: its host, because its URL may hold a password.
    #[error("the kubeconfig names the proxy {0}: proxies are not supported")]
    Proxy(String),
    /// The thread that read the credentials died.
    #[error("reading the credentials was ended")]
    Thread(#[from] JoinError),
}

impl ConnectError {
    fn of_kubeconfig(error: KubeconfigError) -> Self {
        if let KubeconfigError::Parse(parse) = &error {
            let place = parse.without_snippet().location();
            let (line, column) = place.map_or((0, 0), |place| (place.line(), place.column()));
            return Self::Yaml { line, column };
        }
        Self::Kubeconfig(error)
    }
}

/// Whether a kubeconfig can be read and names a cluster; credentials are not tried.
///
/// # Errors
/// What [`Cluster::connect`] would say.
pub fn check_kubeconfig(path: &Path) -> Result<(), ConnectError> {
    // It reads files and waits for nothing.
    configuration(Some(path.to_owned())).now_or_never().map_or(Ok(()), |read| read.map(drop))
}

/// Which connections a call uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// POST of objects.
    Create,
    /// Everything short that reads, and the Lease.
    Read,
    /// Watches.
    Watch,
}

/// One API server. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    options: ClusterOptions,
    namespace: String,
    /// False where the client was given to us.
    renewable: bool,
    state: Mutex<State>,
    /// One reload at a time; the others wait for it.
    reload: tokio::sync::Mutex<()>,
}

struct State {
    open: OpenClient,
    /// Counts the loads of the credentials.
    credentials: u64,
    rejected: bool,
    loaded_at: Instant,
    create: Pool,
    read: Pool,
    watch: Pool,
}

struct Pool {
    client: kube::Client,
    generation: u64,
    opened_at: Instant,
}

/// A client for one call, with what is needed to say later that it was no good.
#[derive(Clone)]
pub(super) struct Borrowed {
    pub(super) client: kube::Client,
    lane: Lane,
    pool: u64,
    credentials: u64,
}

impl Cluster {
    /// Reads the configuration. Calls nothing: the API server may be down.
    pub async fn connect(options: &ClusterOptions) -> Result<Self, ConnectError> {
        let (open, namespace) = load(options).await?;
        Ok(Self::build(open, true, namespace, options.clone()))
    }

    /// Over a client that somebody else made; it serves all calls and is never renewed.
    #[must_use]
    pub fn with_client(client: kube::Client, options: ClusterOptions) -> Self {
        let namespace = client.default_namespace().to_owned();
        Self::build(Box::new(move || client.clone()), false, namespace, options)
    }

    fn build(open: OpenClient, renewable: bool, namespace: String, options: ClusterOptions) -> Self {
        let now = clock::now();
        let state = State {
            credentials: 0,
            rejected: false,
            loaded_at: now,
            create: Pool::open(&open, 0, now),
            read: Pool::open(&open, 0, now),
            watch: Pool::open(&open, 0, now),
            open,
        };
        let shared =
            Shared { options, namespace, renewable, state: Mutex::new(state), reload: tokio::sync::Mutex::new(()) };
        Self { shared: Arc::new(shared) }
    }

    /// The namespace of the pod or of the kubeconfig's context.
    #[must_use]
    pub fn default_namespace(&self) -> &str {
        &self.shared.namespace
    }

    pub(super) fn options(&self) -> &ClusterOptions {
        &self.shared.options
    }

    /// A client for one call. Reads the credentials anew where the server has rejected them.
    pub(super) async fn borrow(&self, lane: Lane) -> Borrowed {
        if self.must_reload(clock::now()) {
            let _turn = self.shared.reload.lock().await;
            if self.must_reload(clock::now()) {
                // Before, not after: a call that is dropped here must not make the next one try at once.
                self.shared.lock().loaded_at = clock::now();
                let loaded = load(&self.shared.options).await;
                self.shared.lock().reloaded(loaded, clock::now());
            }
        }
        self.shared.lock().borrow(lane)
    }

    fn must_reload(&self, now: Instant) -> bool {
        let state = self.shared.lock();
        self.shared.renewable && state.rejected && now.duration_since(state.loaded_at) >= RENEWAL_PAUSE
    }

    /// The server answered 401. Tokens are re-read by kube too, but by the wall clock and once a minute.
    pub(super) fn credentials_rejected(&self, borrowed: &Borrowed) {
        let mut state = self.shared.lock();
        if state.credentials == borrowed.credentials {
            state.rejected = true;
        }
    }

    /// A call got no answer: the idle connections beside it may be dead in the same way.
    pub(super) fn connections_doubted(&self, borrowed: &Borrowed) {
        if self.shared.renewable {
            self.shared.lock().doubt(borrowed, clock::now());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pool(&mut self, lane: Lane) -> &mut Pool {
        match lane {
            Lane::Create => &mut self.create,
            Lane::Read => &mut self.read,
            Lane::Watch => &mut self.watch,
        }
    }

    fn borrow(&mut self, lane: Lane) -> Borrowed {
        let credentials = self.credentials;
        let pool = self.pool(lane);
        Borrowed { client: pool.client.clone(), lane, pool: pool.generation, credentials }
    }

    fn reloaded(&mut self, loaded: Result<(OpenClient, String), ConnectError>, now: Instant) {
        self.loaded_at = now;
        match loaded {
            Ok((open, _)) => {
                debug!("credentials were read anew after a 401");
                self.open = open;
                self.credentials += 1;
                self.rejected = false;
                for lane in [Lane::Create, Lane::Read, Lane::Watch] {
                    self.reopen(lane, now);
                }
            }
            // The old ones stay, and the next call after the pause tries again.
            Err(error) => warn!(%error, "credentials were rejected and cannot be read anew"),
        }
    }

    fn doubt(&mut self, borrowed: &Borrowed, now: Instant) {
        let pool = self.pool(borrowed.lane);
        if pool.generation == borrowed.pool && now.duration_since(pool.opened_at) >= RENEWAL_PAUSE {
            self.reopen(borrowed.lane, now);
        }
    }

    fn reopen(&mut self, lane: Lane, now: Instant) {
        let generation = self.pool(lane).generation + 1;
        *self.pool(lane) = Pool::open(&self.open, generation, now);
    }
}

impl Pool {
    fn open(open: &OpenClient, generation: u64, now: Instant) -> Self {
        Self { client: open(), generation, opened_at: now }
    }
}

/// Reads configuration, certificates and credentials.
async fn load(options: &ClusterOptions) -> Result<(OpenClient, String), ConnectError> {
    let config = configuration(options.kubeconfig.clone()).await?;
    let namespace = config.default_namespace.clone();
    let connect_timeout = options.connect_timeout;
    // A kubeconfig may name a program that gives the credentials.
    let open = tokio::task::spawn_blocking(move || connector::prepare(&config, connect_timeout))
        .await?
        .map_err(|error| ConnectError::Credentials(Box::new(error)))?;
    Ok((open, namespace))
}

async fn configuration(path: Option<PathBuf>) -> Result<Config, ConnectError> {
    let mut kubeconfig = match path {
        Some(path) => Kubeconfig::read_from(path).map_err(ConnectError::of_kubeconfig)?,
        None if std::env::var("KUBERNETES_SERVICE_HOST").is_ok_and(|host| !host.trim().is_empty()) => {
            return Ok(Config::incluster()?);
        }
        // Not `Kubeconfig::read`: whoever calls has looked at `KUBECONFIG`, and a blank one counts as not given.
        None => {
            let path = std::env::home_dir().ok_or(KubeconfigError::FindPath).map(|home| home.join(".kube/config"));
            path.and_then(Kubeconfig::read_from).map_err(ConnectError::of_kubeconfig)?
        }
    };
    // kube would take HTTPS_PROXY where the kubeconfig names no proxy, and then fail for want of proxy support. The
    // address of an API server is not the web: what the kubeconfig says is what counts.
    for cluster in &mut kubeconfig.clusters {
        if let Some(cluster) = &mut cluster.cluster
            && cluster.proxy_url.as_deref().is_none_or(str::is_empty)
        {
            cluster.proxy_url = Some(NO_PROXY.to_owned());
        }
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(ConnectError::of_kubeconfig)?;
    match config.proxy_url.take() {
        Some(proxy) if proxy != NO_PROXY => Err(ConnectError::Proxy(proxy.host().unwrap_or_default().to_owned())),
        Some(_) | None => Ok(config),
    }
}

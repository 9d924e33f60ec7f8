//! A TCP proxy that breaks what it carries. It does not look inside: TLS passes untouched.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::ports::Port;
use crate::tasks::{self, Task};

mod pump;

use pump::Lane;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the client to the server: requests, acknowledgements.
    ToServer,
    /// From the server to the client: replies, events.
    ToClient,
}

/// What happens to the bytes of a direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Flow {
    /// They pass.
    #[default]
    Pass,
    /// They are held, and delivered after [`FaultProxy::pass`].
    Stall,
    /// They are swallowed, and lost for ever.
    Blackhole,
}

/// A proxy in front of one address; ends with all its connections when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    inner: Arc<Inner>,
    port: Port,
    _accepting: Task,
}

/// What happens to the next request that matches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trap {
    /// It passes, its reply does not: the client's connection is reset when the first byte of it comes.
    DropReply,
    /// It passes, and the client's connection is reset at once.
    CutAfter,
    /// It does not pass: the connection is reset.
    CutBefore,
}

/// A trap that was set; see [`Sprung::sprung`].
#[derive(Debug)]
pub struct Sprung(oneshot::Receiver<()>);

impl Sprung {
    /// Waits until it has caught a request.
    pub async fn sprung(self, limit: Duration) -> Result<()> {
        let what = "a trap of the proxy";
        tokio::time::timeout(limit, self.0)
            .await
            .map_err(|_elapsed| Error::Timeout { what: what.to_owned(), limit })?
            .map_err(Error::doing(what))
    }
}

#[derive(Debug)]
struct Inner {
    upstream: Mutex<SocketAddr>,
    to_server: watch::Sender<Lane>,
    to_client: watch::Sender<Lane>,
    refusing: watch::Sender<bool>,
    listening: watch::Sender<bool>,
    // The token of the connections that are open; replaced by each cut.
    open_token: Mutex<CancellationToken>,
    traps: Mutex<VecDeque<Set>>,
    accepted: AtomicU64,
    open: AtomicUsize,
    bytes: [AtomicU64; 2],
    // How many bytes may still pass in a direction before the connection is cut; MAX: any number.
    budget: [AtomicU64; 2],
}

#[derive(Debug)]
struct Set {
    trap: Trap,
    containing: Vec<u8>,
    sprung: oneshot::Sender<()>,
}

impl FaultProxy {
    /// Starts one in front of `upstream`, on a loopback port of its own.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        let port = Port::reserve()?;
        let inner = Arc::new(Inner {
            upstream: Mutex::new(upstream),
            to_server: watch::Sender::default(),
            to_client: watch::Sender::default(),
            refusing: watch::Sender::default(),
            listening: watch::Sender::default(),
            open_token: Mutex::default(),
            traps: Mutex::default(),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            bytes: Default::default(),
            budget: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
        });
        let accepting = Task::start(accept(Arc::clone(&inner), port.address()));
        let proxy = Self { inner, port, _accepting: accepting };
        proxy.until_listening(true).await?;
        Ok(proxy)
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// `scheme://127.0.0.1:port`.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address())
    }

    /// New connections go to another server.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        *lock(&self.inner.upstream) = upstream;
    }

    /// Ends stalls, black holes, delays and byte budgets of both directions.
    pub fn pass(&self) {
        for direction in [Direction::ToServer, Direction::ToClient] {
            self.inner.lane(direction).send_replace(Lane::default());
            self.inner.budget(direction).store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// Holds the bytes of a direction until [`pass`](Self::pass).
    pub fn stall(&self, direction: Direction) {
        self.set_flow(direction, Flow::Stall);
    }

    /// Swallows the bytes of a direction until [`pass`](Self::pass).
    pub fn blackhole(&self, direction: Direction) {
        self.set_flow(direction, Flow::Blackhole);
    }

    /// Delivers the bytes of a direction later.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.inner.lane(direction).send_modify(|lane| lane.delay = delay);
    }

    /// Resets (RST) every open connection.
    pub fn cut(&self) {
        std::mem::take(&mut *lock(&self.inner.open_token)).cancel();
    }

    /// After so many more bytes in this direction, the connection that carries them is reset, in the middle of whatever
    /// it is.
    pub fn cut_after_bytes(&self, direction: Direction, bytes: u64) {
        self.inner.budget(direction).store(bytes, Ordering::Relaxed);
    }

    /// Refuses new connections until [`accept`](Self::accept); open ones stay.
    pub async fn refuse(&self) -> Result<()> {
        self.inner.refusing.send_replace(true);
        self.until_listening(false).await
    }

    /// Takes new connections again.
    pub async fn accept(&self) -> Result<()> {
        self.inner.refusing.send_replace(false);
        self.until_listening(true).await
    }

    /// The next request, whatever it is, passes and its reply is lost.
    pub fn drop_reply(&self) -> Sprung {
        self.trap(Trap::DropReply, b"")
    }

    /// Sets a trap for the next bytes from a client that contain `containing` (in one piece as they are read).
    pub fn trap(&self, trap: Trap, containing: &[u8]) -> Sprung {
        let (sprung, caught) = oneshot::channel();
        lock(&self.inner.traps).push_back(Set { trap, containing: containing.to_vec(), sprung });
        Sprung(caught)
    }

    /// How many connections were taken so far.
    pub fn connections(&self) -> u64 {
        self.inner.accepted.load(Ordering::Relaxed)
    }

    /// How many are open now.
    pub fn open(&self) -> usize {
        self.inner.open.load(Ordering::Relaxed)
    }

    /// How many bytes were delivered in a direction so far.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.inner.delivered(direction).load(Ordering::Relaxed)
    }

    fn set_flow(&self, direction: Direction, flow: Flow) {
        self.inner.lane(direction).send_modify(|lane| lane.flow = flow);
    }

    async fn until_listening(&self, wanted: bool) -> Result<()> {
        let limit = Duration::from_secs(10);
        let mut listening = self.inner.listening.subscribe();
        tokio::time::timeout(limit, listening.wait_for(|now| *now == wanted))
            .await
            .map_err(|_elapsed| Error::Timeout { what: format!("the proxy on {}", self.address()), limit })?
            .map_err(Error::doing("wait for the proxy"))?;
        Ok(())
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Inner {
    fn lane(&self, direction: Direction) -> &watch::Sender<Lane> {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }

    fn budget(&self, direction: Direction) -> &AtomicU64 {
        let [to_server, to_client] = &self.budget;
        match direction {
            Direction::ToServer => to_server,
            Direction::ToClient => to_client,
        }
    }

    fn delivered(&self, direction: Direction) -> &AtomicU64 {
        let [to_server, to_client] = &self.bytes;
        match direction {
            Direction::ToServer => to_server,
            Direction::ToClient => to_client,
        }
    }

    /// The trap at the head of the queue, if these bytes are its.
    fn caught(&self, bytes: &[u8]) -> Option<Trap> {
        let mut traps = lock(&self.traps);
        let needle = &traps.front()?.containing;
        let found = needle.is_empty() || bytes.windows(needle.len()).any(|part| part == needle);
        if !found {
            return None;
        }
        let set = traps.pop_front()?;
        set.sprung.send(()).ok();
        Some(set.trap)
    }

    /// Takes from the budget of a direction; how many of `wanted` bytes may pass.
    fn allowance(&self, direction: Direction, wanted: usize) -> usize {
        let budget = self.budget(direction);
        let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
        let before = budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                (left != u64::MAX).then(|| left.saturating_sub(wanted))
            })
            .unwrap_or(u64::MAX);
        usize::try_from(before.min(wanted)).unwrap_or(usize::MAX)
    }
}

async fn accept(inner: Arc<Inner>, address: SocketAddr) {
    let mut refusing = inner.refusing.subscribe();
    loop {
        if refusing.wait_for(|refuse| !refuse).await.is_err() {
            return;
        }
        let Ok(listener) = TcpListener::bind(address).await else {
            // The connections of before may hold the port for a moment.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        inner.listening.send_replace(true);
        loop {
            tokio::select! {
                taken = listener.accept() => {
                    if let Ok((client, _)) = taken {
                        begin(&inner, client);
                    }
                }
                refused = refusing.wait_for(|refuse| *refuse) => {
                    if refused.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
        // Whoever connected before the refusal is open, also where the kernel still has it for us.
        if let Ok(listener) = listener.into_std() {
            while let Ok((client, _)) = listener.accept() {
                if client.set_nonblocking(true).is_ok()
                    && let Ok(client) = TcpStream::from_std(client)
                {
                    begin(&inner, client);
                }
            }
        }
        inner.listening.send_replace(false);
    }
}

fn begin(inner: &Arc<Inner>, client: TcpStream) {
    let token = lock(&inner.open_token).clone();
    inner.accepted.fetch_add(1, Ordering::Relaxed);
    tasks::spawn(serve(Arc::clone(inner), client, token));
}

async fn serve(inner: Arc<Inner>, mut client: TcpStream, cut: CancellationToken) {
    inner.open.fetch_add(1, Ordering::Relaxed);
    let upstream = *lock(&inner.upstream);
    match TcpStream::connect(upstream).await {
        Ok(mut server) => {
            client.set_nodelay(true).ok();
            server.set_nodelay(true).ok();
            let end = pump::both(&inner, &mut client, &mut server, &cut).await;
            if end.resets_client() {
                client.set_zero_linger().ok();
            }
            if end.resets_server() {
                server.set_zero_linger().ok();
            }
        }
        Err(_refused) => {
            client.set_zero_linger().ok();
        }
    }
    inner.open.fetch_sub(1, Ordering::Relaxed);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

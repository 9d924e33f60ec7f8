//! What the client tells through its callbacks, gathered into the state of the connection.
//!
//! The callbacks run one after the other behind a queue of 128 that drops what does not fit, so they only note.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_nats::{AuthError, Client, Event, Server, ServerError, ServerInfo};
use tokio::sync::watch;

use super::connection::ConnectionState;

/// Denials kept for the callers that wait: more than are in flight at a start with a wrong set of permissions.
const DENIALS_KEPT: usize = 64;
/// A connection that lived for less than this is not replaced without a pause.
const SHORT_LIFE: Duration = Duration::from_millis(100);
/// How long the details of a new connection may take to appear behind its event (microseconds, measured).
const INFO_PATIENCE: u32 = 1_000;

#[derive(Debug, Default)]
struct Denials {
    recent: VecDeque<(u64, String)>,
    // A denied subscription is told once, when it is made, and then no request has an answer: remembered until the
    // next connection.
    inbox: Option<String>,
}

/// Where the callbacks of the client meet those who wait.
#[derive(Debug)]
pub(crate) struct Hub {
    state: watch::Sender<ConnectionState>,
    // The epoch while connected, else 0: read for every call, without a lock.
    live: AtomicU64,
    closed: AtomicBool,
    client: OnceLock<Weak<Client>>,
    server: Mutex<(String, u64)>,
    denied: AtomicU64,
    denials: Mutex<Denials>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing behind these locks can be left half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(crate) fn new() -> (Self, watch::Receiver<ConnectionState>) {
        let (state, receiver) = watch::channel(ConnectionState::default());
        let hub = Self {
            state,
            live: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            client: OnceLock::new(),
            server: Mutex::new((String::new(), 0)),
            denied: AtomicU64::new(0),
            denials: Mutex::new(Denials::default()),
        };
        (hub, receiver)
    }

    pub(crate) fn attach(&self, client: &Arc<Client>) {
        if self.client.set(Arc::downgrade(client)).is_err() {
            tracing::debug!("the client is known already");
        }
    }

    pub(crate) fn live_epoch(&self) -> u64 {
        self.live.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn denials(&self) -> u64 {
        self.denied.load(Ordering::Acquire)
    }

    /// What the server said when it denied this subject, or our reply subjects, after the `since`th denial.
    pub(crate) fn denied(&self, subject: &str, since: u64) -> Option<String> {
        let denials = lock(&self.denials);
        let quoted = format!("\"{subject}\"");
        denials
            .recent
            .iter()
            .find(|(number, said)| *number > since && said.contains(&quoted))
            .map(|(_, said)| said.clone())
            .or_else(|| denials.inbox.clone())
    }

    pub(crate) async fn handle(&self, event: Event) {
        match event {
            Event::Connected => self.connected().await,
            Event::Disconnected | Event::Closed => {
                self.live.store(0, Ordering::Release);
                self.state.send_modify(|state| state.up = false);
            }
            // The server is about to stop and its JetStream has stopped already: go elsewhere.
            Event::LameDuckMode => {
                if let Some(client) = self.client.get().and_then(Weak::upgrade)
                    && client.force_reconnect().await.is_err()
                {
                    tracing::debug!("no reconnect: the client has ended");
                }
            }
            Event::ServerError(error) => self.server_error(&error),
            Event::SlowConsumer(id) => {
                // Every pull is bounded by credits, so this is a fault of ours; what was dropped comes again.
                tracing::error!(subscription = id, "the client dropped messages: a subscription's buffer was full");
                self.note(format!("messages dropped: the buffer of subscription {id} was full"));
            }
            // Its text is the kind of the error alone; `connect_failed` has the whole.
            Event::ClientError(error) => tracing::debug!(%error, "the NATS client complains"),
            Event::Draining => {}
        }
    }

    async fn connected(&self) {
        let Some(client) = self.attached().await else { return };
        let statistics = client.statistics();
        let connects = || statistics.connects.load(Ordering::Acquire);
        let before = lock(&self.server).clone();
        let mut patience = INFO_PATIENCE;
        // The event comes before the details of the new connection are readable. A connection is known by the
        // server's id, new at each start of a server process, and the number the server gave it.
        let (epoch, info, fresh) = loop {
            let epoch = connects();
            let info = client.server_info();
            let fresh = (&info.server_id, info.client_id) != (&before.0, before.1);
            let taken = self.state.borrow().epoch;
            if !fresh && epoch == taken {
                // The event before this one was so late that it found this connection already.
                self.live.store(epoch, Ordering::Release);
                self.state.send_modify(|state| state.up = true);
                return;
            }
            patience = patience.saturating_sub(1);
            if (fresh && epoch == connects()) || patience == 0 {
                break (epoch, info, fresh);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let forgetful = !fresh || may_have_forgotten(&before.0, &info);
        *lock(&self.server) = (info.server_id, info.client_id);
        lock(&self.denials).inbox = None;
        self.live.store(epoch, Ordering::Release);
        self.state.send_modify(|state| {
            state.up = true;
            state.epoch = epoch;
            state.reconnects = epoch.saturating_sub(1);
            if forgetful {
                state.forgetful_epoch = epoch;
            }
            state.connected_at = Some(crate::clock::now());
            state.last_error = None;
        });
    }

    async fn attached(&self) -> Option<Arc<Client>> {
        // The first connection may be made before `Connection::open` has returned from making the client.
        for _ in 0..INFO_PATIENCE {
            if let Some(client) = self.client.get() {
                return client.upgrade();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        None
    }

    fn server_error(&self, error: &ServerError) {
        let said = match error {
            ServerError::Other(said) => said.clone(),
            ServerError::AuthorizationViolation | ServerError::SlowConsumer(_) => error.to_string(),
        };
        if said.to_ascii_lowercase().contains("permissions violation") {
            let mut denials = lock(&self.denials);
            // What is asked each second and denied each time is said once.
            if denials.recent.iter().any(|(_, before)| *before == said) {
                tracing::debug!(said, "NATS denies a subject");
            } else {
                tracing::warn!(said, "NATS denies a subject");
            }
            let number = self.denied.fetch_add(1, Ordering::AcqRel) + 1;
            denials.recent.push_back((number, said.clone()));
            if denials.recent.len() > DENIALS_KEPT {
                denials.recent.pop_front();
            }
            if said.contains("for Subscription to") {
                denials.inbox = Some(said.clone());
            }
        }
        self.note(said);
    }

    fn note(&self, error: String) {
        self.state.send_modify(|state| state.last_error = Some(error));
    }

    pub(crate) fn credentials_failed(&self, error: &AuthError) {
        self.note(error.to_string());
    }

    pub(crate) fn connect_failed(&self, servers: &[Server]) {
        let errors: Vec<String> = servers
            .iter()
            // Not the URL: it might hold a secret.
            .filter_map(|server| {
                let error = server.last_error.as_ref()?;
                let error = error.to_string();
                Some(format!("{}:{}: {}", server.addr.host(), server.addr.port(), without_quotes(&error)))
            })
            .collect();
        if !errors.is_empty() {
            let text = errors.join("; ");
            let changed = self.state.borrow().last_error.as_ref() != Some(&text);
            if changed {
                self.note(text);
            }
        }
    }

    /// 0 for the first attempt, then from 10 ms doubling up to 4 s, of which half is chance.
    pub(crate) fn reconnect_delay(&self, attempt: usize, now: Instant) -> Duration {
        if self.closed.load(Ordering::Acquire) {
            // The client's loop before the first connection can only be ended by the process; let it rest.
            return Duration::from_secs(86_400);
        }
        let base = match attempt {
            0 | 1 => {
                let connected_at = self.state.borrow().connected_at;
                match connected_at {
                    Some(at) if now.saturating_duration_since(at) < SHORT_LIFE => Duration::from_millis(40),
                    Some(_) | None => return Duration::ZERO,
                }
            }
            more => {
                let doublings = u32::try_from(more - 2).unwrap_or(u32::MAX).min(16);
                Duration::from_millis(10).saturating_mul(1 << doublings).min(Duration::from_secs(4))
            }
        };
        let share = u32::try_from(crate::clock::random() % 1_000).unwrap_or(0);
        base / 2 + base / 2 * share / 1_000
    }
}

/// Whether the server behind a new connection may have lost acks and deliveries that we know of.
fn may_have_forgotten(before: &str, now: &ServerInfo) -> bool {
    before != now.server_id || now.cluster.is_some() || !now.jetstream
}

/// What the client says of a connection that failed. Of a key or certificate that it cannot read, not how: the reader's
/// words quote the text, which may be the key.
fn without_quotes(error: &str) -> &str {
    let quoting = ["could not load private key", "could not load certificates"];
    let end = quoting.iter().find_map(|words| error.find(words).map(|at| at + words.len()));
    end.and_then(|end| error.get(..end)).unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: &str, cluster: Option<&str>, jetstream: bool) -> ServerInfo {
        ServerInfo { server_id: id.into(), cluster: cluster.map(String::from), jetstream, ..ServerInfo::default() }
    }

    #[test]
    fn only_the_same_single_server_has_forgotten_nothing() {
        assert!(!may_have_forgotten("a", &info("a", None, true)));
        assert!(may_have_forgotten("a", &info("b", None, true)));
        assert!(may_have_forgotten("", &info("a", None, true)));
        assert!(may_have_forgotten("a", &info("a", Some("c"), true)));
        assert!(may_have_forgotten("a", &info("a", None, false)));
    }

    #[test]
    fn delays_grow_to_four_seconds_and_differ() {
        let (hub, _state) = Hub::new();
        let now = crate::clock::now();
        assert_eq!(hub.reconnect_delay(1, now), Duration::ZERO);
        for attempt in 2..40 {
            let delay = hub.reconnect_delay(attempt, now);
            assert!(delay >= Duration::from_millis(5) && delay <= Duration::from_secs(4), "{attempt}: {delay:?}");
        }
        let many: std::collections::BTreeSet<_> = (0..20).map(|_| hub.reconnect_delay(30, now)).collect();
        assert!(many.len() > 10, "no jitter");
        assert!(many.iter().all(|delay| *delay >= Duration::from_secs(2)));
        hub.state.send_modify(|state| state.connected_at = Some(now));
        assert!(hub.reconnect_delay(1, now) > Duration::ZERO, "a connection that dies at once is not a hot loop");
        assert_eq!(hub.reconnect_delay(1, now + SHORT_LIFE), Duration::ZERO);
    }

    #[tokio::test]
    async fn denials_are_matched_by_subject_and_time() {
        let (hub, state) = Hub::new();
        let said = "Permissions Violation for Publish to \"$JS.API.STREAM.INFO.A\"";
        hub.handle(Event::ServerError(ServerError::Other(said.into()))).await;
        assert_eq!(hub.denied("$JS.API.STREAM.INFO.A", 0).as_deref(), Some(said));
        assert_eq!(hub.denied("$JS.API.STREAM.INFO.A", hub.denials()), None, "an older denial says nothing");
        assert_eq!(hub.denied("$JS.API.STREAM.INFO", 0), None, "another subject");
        assert_eq!(state.borrow().last_error.as_deref(), Some(said));
        let inbox = "Permissions Violation for Subscription to \"_INBOX.x.*\"";
        hub.handle(Event::ServerError(ServerError::Other(inbox.into()))).await;
        assert_eq!(hub.denied("anything", hub.denials()).as_deref(), Some(inbox), "no reply can ever come");
    }

    #[test]
    fn a_key_that_cannot_be_read_is_not_quoted() {
        let said = "TLS error: could not load private key: illegal section start: [45, 45, 45]";
        assert_eq!(without_quotes(said), "TLS error: could not load private key");
        assert_eq!(without_quotes("connection refused"), "connection refused");
    }
}

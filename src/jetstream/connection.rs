//! The connection: opened in the background, kept for ever, with what is known about it in a watch channel.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions, ServerAddr, Statistics, Subject};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;

use super::call::CallErrorKind;
use super::events::Hub;
use super::options::NatsOptions;

/// How often the server is asked for a sign of life, and how long that may take.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);

/// What is known about the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionState {
    /// Whether there is a connection now.
    pub up: bool,
    /// Counts the connections made, this one included; 0 before the first.
    pub epoch: u64,
    /// The last epoch at whose begin the server may have forgotten deliveries and acks: the first connection, another
    /// server process, or any reconnect where the server is one of a cluster or serves JetStream from elsewhere.
    pub forgetful_epoch: u64,
    /// When this connection, or the last one, was made.
    pub connected_at: Option<Instant>,
    /// Connections after the first.
    pub reconnects: u64,
    /// The last error: why connecting fails, or what the server complained about. Cleared by a new connection.
    pub last_error: Option<String>,
}

/// Why a connection cannot even be tried.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No server is named.
    #[error("no NATS server is named")]
    NoServers,
    /// A URL cannot be read.
    #[error("{url:?} is no NATS URL, such as nats://nats:4222")]
    Url {
        /// The URL.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// A URL holds credentials, which would end up in logs.
    #[error("the NATS URL for {host} holds a user or token: set user, password or token by their own settings")]
    SecretInUrl {
        /// The host of the URL.
        host: String,
    },
    /// Half of a client certificate.
    #[error("a client certificate and its key go together: set both or none")]
    CertificateWithoutKey,
    /// The client refused the options.
    #[error("the NATS client cannot start")]
    Client(#[source] async_nats::ConnectError),
}

/// Why the connection was not closed cleanly.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// What was queued could not be written in time.
    #[error("what was queued for NATS could not be written within {0:?}")]
    TimedOut(Duration),
    /// The client had ended already.
    #[error("the NATS client had ended already")]
    Flush(#[source] async_nats::client::FlushError),
    /// The client had ended already.
    #[error("the NATS client had ended already")]
    Drain(#[source] async_nats::client::DrainError),
}

/// A connection to NATS. Clones share it; the client behind it reconnects for ever.
#[derive(Clone, Debug)]
pub struct Connection {
    // The callbacks of the client hold the hub, and the hub knows the client weakly: so that dropping the last
    // connection ends the client's tasks.
    client: Arc<Client>,
    hub: Arc<Hub>,
    statistics: Arc<Statistics>,
    state: watch::Receiver<ConnectionState>,
    request_timeout: Duration,
}

/// What came of a question whether the server is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Alive,
    /// It took the question and did not answer.
    Silent,
    /// The client did not take the question.
    Broken,
    /// There is no connection.
    Gone,
}

impl Connection {
    /// Starts to connect and returns at once. Only options that can never work are errors; everything else, bad
    /// credentials too, is retried with a growing pause and told in `state().last_error`.
    pub async fn open(options: NatsOptions) -> Result<Self, OpenError> {
        let servers = addresses(&options)?;
        if options.tls.cert.is_some() != options.tls.key.is_some() {
            return Err(OpenError::CertificateWithoutKey);
        }
        install_crypto();
        let (hub, state) = Hub::new();
        let hub = Arc::new(hub);
        let connect = connect_options(&options, &hub);
        let client = Arc::new(connect.connect(servers).await.map_err(OpenError::Client)?);
        hub.attach(&client);
        Ok(Self { statistics: client.statistics(), client, hub, state, request_timeout: options.request_timeout })
    }

    /// The client, for what this adapter does not do.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What is known about the connection, as it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state.clone()
    }

    /// The longest that a request may take, as set in the options.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// The largest message that the server takes, headers included; 0 before the first connection.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// The number of connections made so far, counted by the client before anything is read from a new one: what was
    /// received under another epoch came by another connection. Ahead of `state()` for a moment.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.statistics.connects.load(Ordering::Acquire)
    }

    /// The epoch of the connection, if there is one now and `state()` knows of it.
    #[must_use]
    pub fn live_epoch(&self) -> Option<u64> {
        let known = self.hub.live_epoch();
        (known != 0 && known == self.epoch()).then_some(known)
    }

    pub(crate) fn denials(&self) -> u64 {
        self.hub.denials()
    }

    pub(crate) fn denied(&self, subject: &Subject, since: u64) -> Option<String> {
        self.hub.denied(subject, since)
    }

    /// Whether the server gives a sign of life within `timeout`.
    pub async fn answers(&self, timeout: Duration) -> bool {
        self.live_epoch().is_some() && self.probe(timeout).await == Sign::Alive
    }

    /// Asks on a subject that nobody listens to: the server itself answers that at once. Where somebody listens to
    /// everything it does not; then we listen to ourselves.
    async fn probe(&self, timeout: Duration) -> Sign {
        let subject = Subject::from_static("jetgate.probe");
        let Err(error) = self.call(subject, None, Bytes::new(), timeout / 2).await else { return Sign::Alive };
        match error.kind() {
            // A denial is an answer, too.
            CallErrorKind::NoResponders | CallErrorKind::Denied => Sign::Alive,
            CallErrorKind::TimedOut if self.hears_itself(timeout / 2).await => Sign::Alive,
            CallErrorKind::TimedOut => Sign::Silent,
            CallErrorKind::Failed => Sign::Broken,
            CallErrorKind::Disconnected | CallErrorKind::TooLarge => Sign::Gone,
        }
    }

    async fn hears_itself(&self, timeout: Duration) -> bool {
        let subject = Subject::from(self.client.new_inbox());
        let denials = self.denials();
        let heard = async {
            let mut own = self.client.subscribe(subject.clone()).await.ok()?;
            self.client.publish(subject.clone(), Bytes::new()).await.ok()?;
            own.next().await
        };
        let heard = tokio::time::timeout(timeout, heard).await;
        matches!(heard, Ok(Some(_))) || self.denied(&subject, denials).is_some()
    }

    /// Asks the server for a sign of life again and again, and makes a new connection where none comes. Ends only where
    /// the client itself has ended, which takes nothing any more and says nothing of it.
    ///
    /// The client's own pings are put off by whatever arrives, and the heartbeats of a watch arrive each second: a
    /// connection that carries nothing to the server any more would never be noticed by them.
    pub async fn guard(&self) {
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            let Some(epoch) = self.live_epoch() else { continue };
            match self.probe(PROBE_TIMEOUT).await {
                Sign::Silent if self.live_epoch() == Some(epoch) => {
                    tracing::warn!(after = ?PROBE_TIMEOUT, "the NATS server does not answer; connecting again");
                    self.reconnect().await;
                }
                Sign::Broken if self.client.force_reconnect().await.is_err() => {
                    tracing::error!("the NATS client has ended");
                    return;
                }
                Sign::Alive | Sign::Silent | Sign::Broken | Sign::Gone => {}
            }
        }
    }

    /// Cuts the connection and makes a new one, for example to use credentials that were replaced.
    pub async fn reconnect(&self) {
        if self.client.force_reconnect().await.is_err() {
            tracing::debug!("no reconnect: the client has ended");
        }
    }

    /// Writes what is queued, then closes. Stop pulling and settle every acknowledgement first: what is queued behind
    /// the close is discarded.
    pub async fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        self.hub.close();
        if self.live_epoch().is_none() {
            return Ok(());
        }
        let mut state = self.state();
        let closing = async {
            self.client.flush().await.map_err(CloseError::Flush)?;
            // An answer proves that the server has read what came before. A close while bytes are on their way to us is a
            // reset by the rules of TCP, and one may discard what the other end has not read: not seen here, and ruled
            // out for one round trip.
            if !self.answers(timeout / 2).await {
                tracing::debug!("no sign that NATS has read the last messages");
            }
            self.client.drain().await.map_err(CloseError::Drain)?;
            // The channel ends with the client, which is as good.
            if state.wait_for(|state| !state.up).await.is_err() {
                tracing::debug!("the client ended before it told so");
            }
            Ok(())
        };
        tokio::time::timeout(timeout, closing).await.unwrap_or(Err(CloseError::TimedOut(timeout)))
    }
}

fn addresses(options: &NatsOptions) -> Result<Vec<ServerAddr>, OpenError> {
    if options.servers.is_empty() {
        return Err(OpenError::NoServers);
    }
    options
        .servers
        .iter()
        .map(|url| {
            let address: ServerAddr =
                url.trim().parse().map_err(|source| OpenError::Url { url: url.clone(), source })?;
            if address.has_user_pass() || address.password().is_some() {
                return Err(OpenError::SecretInUrl { host: address.host().to_owned() });
            }
            Ok(address)
        })
        .collect()
}

fn connect_options(options: &NatsOptions, hub: &Arc<Hub>) -> ConnectOptions {
    let credentials = options.credentials.clone();
    let (events, delays, errors, auth) = (Arc::clone(hub), Arc::clone(hub), Arc::clone(hub), Arc::clone(hub));
    let mut connect = ConnectOptions::with_auth_callback(move |nonce| {
        let answer = credentials.auth(&nonce);
        if let Err(error) = &answer {
            auth.credentials_failed(error);
        }
        std::future::ready(answer)
    })
    .name(&options.name)
    .retry_on_initial_connect()
    .ping_interval(options.ping_interval.min(NatsOptions::PING_INTERVAL_MAX))
    .request_timeout(Some(options.request_timeout))
    .require_tls(options.tls.required())
    .event_callback(move |event| {
        let hub = Arc::clone(&events);
        async move { hub.handle(event).await }
    })
    .reconnect_delay_callback(move |attempt| delays.reconnect_delay(attempt, crate::clock::now()))
    // Chooses nothing: it is the one place where the client tells why a server could not be reached.
    .reconnect_to_server_callback(move |servers, _| {
        errors.connect_failed(&servers);
        std::future::ready(None)
    });
    if let Some(prefix) = &options.inbox_prefix {
        connect = connect.custom_inbox_prefix(prefix);
    }
    if let Some(ca) = &options.tls.ca {
        connect = connect.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&options.tls.cert, &options.tls.key) {
        connect = connect.add_client_certificate(cert.clone(), key.clone());
    }
    if options.tls.first {
        connect = connect.tls_first();
    }
    connect
}

/// rustls wants one provider per process, and refuses to guess where a build happens to hold two.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("a crypto provider was installed already");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_urls_are_refused_without_their_secrets() {
        let error = addresses(&NatsOptions::new(vec![])).unwrap_err();
        assert_eq!(error.to_string(), "no NATS server is named");
        let error = addresses(&NatsOptions::new(vec!["http://x:1".into()])).unwrap_err();
        assert_eq!(error.to_string(), "\"http://x:1\" is no NATS URL, such as nats://nats:4222");
        let error = addresses(&NatsOptions::new(vec!["nats://me:s3cret@nats:4222".into()])).unwrap_err();
        assert!(!super::super::options::with_sources(&error).contains("s3cret"));
        let good = ["nats://a:4222", "b:4222", "tls://c"].map(String::from).to_vec();
        assert_eq!(addresses(&NatsOptions::new(good)).unwrap().len(), 3);
    }
}

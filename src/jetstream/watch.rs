//! The newest value of one key, for ever.
//!
//! Each session has a consumer of its own that begins with the next write, and *then* one read from the leader: so the
//! first value is as new as anything written before, and nothing between is missed. A session ends with its
//! connection, with a gap in the consumer's sequence, and when no heartbeat comes; the next one begins with a read
//! again. A watch of the client would wait for ever where the server lost the consumer.

use std::fmt;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::sync::watch;

use super::bucket::{Bucket, BucketError, Found, removal};
use super::connection::ConnectionState;
use super::delivery::ReplyInfo;
use super::options::with_sources;
use super::stream::api;

/// How often the server proves that the consumer lives while there is nothing to say.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silence after which a session is given up: three heartbeats, so that one late one does no harm.
const SILENCE: Duration = Duration::from_secs(3);
/// The pause between tries to begin a session.
const PAUSE: Duration = Duration::from_millis(200);

/// What a key holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchUpdate {
    /// The value; none where the key was never written or was deleted. Before the first update nothing is known.
    pub value: Option<Bytes>,
    /// Its revision; 0 where the key was never written.
    pub revision: u64,
}

struct Session {
    epoch: u64,
    subscriber: Subscriber,
    // The last message of the consumer that was seen; the next one has the number behind it.
    consumer_sequence: u64,
    heard: Instant,
}

type Opening = BoxFuture<'static, Result<(Session, Found), BucketError>>;

/// Watches one key. Dropping it ends it.
pub struct Watch {
    bucket: Bucket,
    key: String,
    state: watch::Receiver<ConnectionState>,
    session: Option<Session>,
    // Kept here, so that a caller that drops `next` again and again still gets there.
    opening: Option<Opening>,
    retry_at: Option<Instant>,
    told: Option<u64>,
    error: Option<String>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("bucket", &self.bucket.name())
            .field("key", &self.key)
            .field("told", &self.told)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

enum Woken {
    Opened(Result<(Session, Found), BucketError>),
    Message(Option<Message>),
    Other,
}

enum Read {
    Newer(Found),
    Nothing,
    Broken(&'static str),
}

impl Watch {
    pub(crate) fn new(bucket: Bucket, key: String) -> Self {
        let state = bucket.connection().state();
        Self { bucket, key, state, session: None, opening: None, retry_at: None, told: None, error: None }
    }

    /// Why there is no session now, if the last try to begin one failed.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// The next value; the first one comes as soon as the key was read, also where it holds nothing. Values between
    /// may be skipped, never the newest. May be dropped and called again.
    pub async fn next(&mut self) -> WatchUpdate {
        loop {
            if let Some(update) = self.step().await {
                return update;
            }
        }
    }

    async fn step(&mut self) -> Option<WatchUpdate> {
        let live = self.bucket.connection().live_epoch();
        let now = crate::clock::now();
        if let Some(session) = &self.session {
            if live != Some(session.epoch) {
                self.end("the connection changed", now);
            } else if now.saturating_duration_since(session.heard) >= SILENCE {
                self.end("no heartbeat came", now);
            }
        }
        if self.session.is_none()
            && self.opening.is_none()
            && self.retry_at.is_none_or(|at| at <= now)
            && live.is_some()
        {
            self.retry_at = Some(now + PAUSE);
            self.opening = Some(open(self.bucket.clone(), self.key.clone()).boxed());
        }
        let wake = match &self.session {
            Some(session) => Some(session.heard + SILENCE),
            None if self.opening.is_none() && live.is_some() => self.retry_at,
            None => None,
        };
        let Self { session, opening, state, .. } = self;
        let woken = tokio::select! {
            biased;
            opened = poll_option(opening.as_mut()) => Woken::Opened(opened),
            message = std::future::poll_fn(|cx| match session.as_mut() {
                Some(session) => session.subscriber.poll_next_unpin(cx),
                None => Poll::Pending,
            }) => Woken::Message(message),
            changed = state.changed() => {
                if changed.is_err() {
                    tokio::time::sleep(PAUSE).await;
                }
                Woken::Other
            }
            () = sleep_until(wake) => Woken::Other,
        };
        match woken {
            Woken::Opened(result) => {
                self.opening = None;
                match result {
                    Ok((session, found)) => {
                        self.session = Some(session);
                        self.error = None;
                        self.tell(found)
                    }
                    Err(error) => {
                        self.retry_at = Some(crate::clock::now() + PAUSE);
                        let text = with_sources(&error);
                        if self.error.as_ref() != Some(&text) {
                            tracing::warn!(key = self.key, error = text, "cannot watch the key");
                        }
                        self.error = Some(text);
                        None
                    }
                }
            }
            Woken::Message(first) => self.drain(first),
            Woken::Other => None,
        }
    }

    fn end(&mut self, why: &'static str, now: Instant) {
        tracing::debug!(key = self.key, why, "the watch begins anew");
        self.session = None;
        // At once: `retry_at` still bounds how often.
        self.retry_at = self.retry_at.filter(|at| *at > now);
    }

    /// The revision may go back: the bucket was deleted and made anew.
    fn tell(&mut self, found: Found) -> Option<WatchUpdate> {
        if self.told == Some(found.revision) {
            return None;
        }
        self.told = Some(found.revision);
        Some(WatchUpdate { value: found.value, revision: found.revision })
    }

    /// Takes what lies ready and tells the newest.
    fn drain(&mut self, first: Option<Message>) -> Option<WatchUpdate> {
        let mut newest = None;
        let mut next = first;
        loop {
            let session = self.session.as_mut()?;
            let read = next.map_or(Read::Broken("the subscription ended"), |message| session.read(&message));
            match read {
                Read::Newer(found) => newest = Some(found),
                Read::Nothing => {}
                Read::Broken(why) => {
                    self.end(why, crate::clock::now());
                    break;
                }
            }
            match self.session.as_mut().and_then(|session| session.subscriber.next().now_or_never()) {
                Some(more) => next = more,
                None => break,
            }
        }
        // What the read from the leader gave may be newer than what the consumer still repeats.
        let newest = newest.filter(|found| self.told.is_none_or(|told| found.revision > told))?;
        self.tell(newest)
    }
}

impl Session {
    fn read(&mut self, message: &Message) -> Read {
        self.heard = crate::clock::now();
        if message.status.is_some() {
            let last: Option<u64> = message
                .headers
                .as_ref()
                .and_then(|headers| headers.get("Nats-Last-Consumer"))
                .and_then(|last| last.as_str().parse().ok());
            return match last {
                Some(last) if last > self.consumer_sequence => Read::Broken("a message was lost"),
                Some(_) => Read::Nothing,
                // The consumer was deleted, or something else that is no heartbeat.
                None => Read::Broken("the server ended the consumer"),
            };
        }
        let Some(info) = message.reply.as_ref().and_then(|reply| ReplyInfo::parse(reply).ok()) else {
            return Read::Broken("something that is no delivery came");
        };
        if info.consumer_sequence != self.consumer_sequence + 1 {
            return Read::Broken("a message was lost");
        }
        self.consumer_sequence = info.consumer_sequence;
        let removed = message.headers.as_ref().is_some_and(|headers| {
            headers.iter().any(|(name, values)| values.iter().any(|value| removal(name.as_ref(), value.as_str())))
        });
        Read::Newer(Found { value: (!removed).then(|| message.payload.clone()), revision: info.sequence })
    }
}

async fn open(bucket: Bucket, key: String) -> Result<(Session, Found), BucketError> {
    let connection = bucket.connection();
    let what = || format!("watch the key {key:?} of bucket {:?}", bucket.name());
    let lost = || BucketError::Call { what: what(), source: super::call::CallError::Disconnected };
    let epoch = connection.live_epoch().ok_or_else(lost)?;
    let inbox = connection.client().new_inbox();
    let subscriber = tokio::time::timeout(connection.request_timeout(), connection.client().subscribe(inbox.clone()))
        .await
        .map_err(|_| lost())?
        .map_err(|_| lost())?;
    let stream = bucket.stream();
    let body = json!({
        "stream_name": stream,
        "config": {
            "deliver_subject": inbox,
            "deliver_policy": "new",
            "ack_policy": "none",
            "max_deliver": 1,
            "filter_subject": bucket.subject(&key).as_str(),
            "replay_policy": "instant",
            "idle_heartbeat": u64::try_from(HEARTBEAT.as_nanos()).unwrap_or(u64::MAX),
            "num_replicas": 1,
            "mem_storage": true,
        },
    });
    let _: serde_json::Value = api(connection, what, format!("$JS.API.CONSUMER.CREATE.{stream}"), &body).await?;
    let found = bucket.find(&key).await?;
    if connection.live_epoch() != Some(epoch) {
        return Err(lost());
    }
    Ok((Session { epoch, subscriber, consumer_sequence: 0, heard: crate::clock::now() }, found))
}

async fn poll_option<T>(future: Option<&mut BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

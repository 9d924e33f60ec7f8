//! Pulling against exact credits.
//!
//! A raw pull brings at most its batch; what a status says gives credits back. Each epoch of the connection, and each
//! death of its pulls, gets a fresh reply inbox. An old one is not dropped at once, because messages may be on their
//! way to it, or a pull that waited in a queue may be served late: it is read on until the server can no longer send,
//! and what comes is marked as above credit, to be returned instead of being lost from sight until its ack wait ends.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::watch;

use super::book::{Expired, PullBook};
use super::connection::{Connection, ConnectionState};
use super::delivery::{Delivery, Origin};

/// How much longer than the longest pull an old inbox is read: the way of the request and of the message.
const RETIRED_GRACE: Duration = Duration::from_secs(2);
/// The same where a status never came, so that the way is known to be slow: longer than a silent connection lives.
const SILENT_GRACE: Duration = Duration::from_secs(16);
/// Old inboxes kept. A new one takes a reconnect or a change of leader, so more would be a storm of those.
const RETIRED_KEPT: usize = 32;

/// What came of the pulls.
#[derive(Debug)]
pub enum PullEvent {
    /// A message; it has taken a credit unless it says `above_credit`.
    Message(Delivery),
    /// So many credits will bring nothing any more: a pull expired. Not a sign that the stream is drained.
    GivenBack(u64),
    /// One pull was refused; the others go on.
    Refused {
        /// Its credits.
        credits: u64,
        /// Why.
        why: PullEnd,
    },
    /// Every outstanding pull is dead.
    AllDead {
        /// Their credits.
        credits: u64,
        /// Why.
        why: PullEnd,
    },
}

/// Why pulls ended other than by expiry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullEnd {
    /// The consumer has a new leader.
    LeadershipChange,
    /// The server stops.
    ServerShutdown,
    /// The consumer was deleted.
    ConsumerDeleted,
    /// There is no such consumer or stream, or it has no leader.
    NoConsumer,
    /// More pulls wait at the consumer than its `max_waiting`.
    TooManyPulls,
    /// The pull asks for more than the consumer's settings allow; the server's words.
    LimitExceeded(String),
    /// The connection was lost, or made anew.
    ConnectionChanged,
    /// A status that was due never came.
    Silent,
    /// The client ended the subscription.
    SubscriptionEnded,
    /// The permissions of our NATS user forbid it; the server's words.
    Denied(String),
    /// A status this version does not know.
    Other {
        /// Its code.
        code: u16,
        /// The server's words.
        said: String,
    },
}

impl PullEnd {
    /// Whether the consumer's state may have lost its last deliveries and acks. `ConnectionChanged` is answered by
    /// `ConnectionState::forgetful_epoch`; a change of leader happens without any reconnect of ours, and a leader that
    /// was killed behind another server says nothing at all.
    #[must_use]
    pub fn may_have_forgotten(&self) -> bool {
        match self {
            Self::LeadershipChange
            | Self::ServerShutdown
            | Self::ConsumerDeleted
            | Self::NoConsumer
            | Self::Silent
            | Self::Other { .. } => true,
            Self::TooManyPulls
            | Self::LimitExceeded(_)
            | Self::ConnectionChanged
            | Self::SubscriptionEnded
            | Self::Denied(_) => false,
        }
    }
}

/// Why a pull could not be sent. No credit is outstanding for it.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// There is no connection.
    #[error("not connected to NATS")]
    Disconnected,
    /// The client did not take it in time.
    #[error("the NATS client did not take the pull in time")]
    TimedOut,
    /// The inbox could not be subscribed to.
    #[error("cannot subscribe to the inbox of a pull")]
    Subscribe(#[source] async_nats::SubscribeError),
    /// The request could not be sent.
    #[error("cannot send a pull")]
    Publish(#[source] async_nats::PublishError),
}

#[derive(Debug)]
struct Inbox {
    epoch: u64,
    prefix: String,
    subscriber: Subscriber,
    last_sent: Instant,
}

#[derive(Debug)]
struct Retired {
    epoch: u64,
    subscriber: Subscriber,
    last_sent: Instant,
    until: Instant,
}

/// The pulls of one lane.
#[derive(Debug)]
pub struct Puller {
    connection: Connection,
    state: watch::Receiver<ConnectionState>,
    stream: Arc<str>,
    subject: Subject,
    inbox: Option<Inbox>,
    retired: Vec<Retired>,
    book: PullBook,
    queue: VecDeque<PullEvent>,
    longest_expires: Duration,
    live_seen: Option<u64>,
    denials_seen: u64,
}

enum Woken {
    Message(Option<Message>),
    Late(usize, Option<Message>),
    StateChanged,
    Timer,
}

impl Puller {
    /// A puller of this durable consumer. It asks the server nothing yet.
    #[must_use]
    pub fn new(connection: Connection, stream: &str, consumer: &str) -> Self {
        Self {
            state: connection.state(),
            denials_seen: connection.denials(),
            connection,
            stream: stream.into(),
            subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}").into(),
            inbox: None,
            retired: Vec::new(),
            book: PullBook::default(),
            queue: VecDeque::new(),
            longest_expires: Duration::ZERO,
            live_seen: None,
        }
    }

    /// How many messages may still come.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.book.outstanding()
    }

    /// Asks for up to `batch` messages within `expires`. Several pulls may be outstanding.
    pub async fn pull(&mut self, batch: u64, expires: Duration) -> Result<(), PullError> {
        if batch == 0 {
            return Ok(());
        }
        let epoch = self.connection.live_epoch().ok_or(PullError::Disconnected)?;
        if self.inbox.as_ref().is_some_and(|inbox| inbox.epoch != epoch) {
            self.retire(PullEnd::ConnectionChanged, crate::clock::now());
        }
        let timeout = self.connection.request_timeout();
        let client = self.connection.client();
        let inbox = match &mut self.inbox {
            Some(inbox) => inbox,
            empty => {
                let prefix = client.new_inbox();
                // One subscription for all pulls of the inbox, one subject for each: so that a status says whose it is.
                let subscriber = tokio::time::timeout(timeout, client.subscribe(format!("{prefix}.*")))
                    .await
                    .map_err(|_| PullError::TimedOut)?
                    .map_err(PullError::Subscribe)?;
                empty.insert(Inbox { epoch, prefix, subscriber, last_sent: crate::clock::now() })
            }
        };
        let reply = format!("{}.{}", inbox.prefix, self.book.next_number());
        let request = format!("{{\"batch\":{batch},\"expires\":{}}}", expires.as_nanos());
        let now = crate::clock::now();
        tokio::time::timeout(timeout, client.publish_with_reply(self.subject.clone(), reply, Bytes::from(request)))
            .await
            .map_err(|_| PullError::TimedOut)?
            .map_err(PullError::Publish)?;
        inbox.last_sent = now;
        self.book.sent(batch, expires, now);
        self.longest_expires = self.longest_expires.max(expires);
        Ok(())
    }

    /// The next thing that comes of the pulls; waits for ever where none is outstanding. May be dropped and called
    /// again: nothing is lost.
    pub async fn next(&mut self) -> PullEvent {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return event;
            }
            // The way of nearly every message: no timer, no lock, no allocation of its own.
            let live = self.connection.live_epoch();
            if let Some(inbox) = &mut self.inbox {
                if live != Some(inbox.epoch) {
                    self.retire(PullEnd::ConnectionChanged, crate::clock::now());
                    continue;
                }
                match inbox.subscriber.next().now_or_never() {
                    Some(Some(message)) => {
                        if let Some(event) = self.take(message) {
                            return event;
                        }
                        continue;
                    }
                    Some(None) => {
                        self.retire(PullEnd::SubscriptionEnded, crate::clock::now());
                        continue;
                    }
                    None => {}
                }
            }
            self.look_after(live);
            if self.queue.is_empty()
                && let Some(event) = self.wait(live).await
            {
                return event;
            }
        }
    }

    /// What time and denials change.
    fn look_after(&mut self, live: Option<u64>) {
        let now = crate::clock::now();
        if let Some(Expired { credits }) = self.book.expire(now) {
            // The pull may only be slow, and be served later: its inbox must not count for the next ones.
            let rest = self.book.give_up();
            self.replace_inbox(now + self.longest_expires + SILENT_GRACE);
            self.queue.push_back(PullEvent::AllDead { credits: credits + rest, why: PullEnd::Silent });
        }
        if self.live_seen != live {
            // A pull that was queued while the connection was down is sent by the next one.
            self.live_seen = live;
            let until = now + self.longest_expires + RETIRED_GRACE;
            for retired in &mut self.retired {
                retired.until = retired.until.max(until);
            }
        }
        if live.is_some() {
            self.retired.retain(|retired| retired.until > now);
        }
        if self.book.outstanding() > 0
            && let Some(said) = self.connection.denied(&self.subject, self.denials_seen)
        {
            self.denials_seen = self.connection.denials();
            self.retire(PullEnd::Denied(said), now);
        }
    }

    async fn wait(&mut self, live: Option<u64>) -> Option<PullEvent> {
        let retired_until = live.and_then(|_| self.retired.iter().map(|retired| retired.until).min());
        let wake = [self.book.next_due(), retired_until].into_iter().flatten().min();
        let Self { inbox, retired, state, .. } = self;
        let woken = tokio::select! {
            biased;
            message = poll_fn(|cx| poll_inbox(inbox.as_mut(), cx)) => Woken::Message(message),
            (at, message) = poll_fn(|cx| poll_retired(retired, cx)) => Woken::Late(at, message),
            changed = state.changed() => {
                if changed.is_err() {
                    // The hub is gone with the client's callbacks; the subscriptions end of themselves.
                    tokio::time::sleep(RETIRED_GRACE).await;
                }
                Woken::StateChanged
            }
            () = sleep_until(wake) => Woken::Timer,
        };
        match woken {
            Woken::Message(Some(message)) => {
                let inbox = self.inbox.as_ref()?;
                let (epoch, sent) = (inbox.epoch, inbox.last_sent);
                // The state may have changed while the message lay in the buffer.
                if self.connection.live_epoch() == Some(epoch) {
                    return self.take(message);
                }
                self.retire(PullEnd::ConnectionChanged, crate::clock::now());
                self.late(message, epoch, sent)
            }
            Woken::Message(None) => {
                self.retire(PullEnd::SubscriptionEnded, crate::clock::now());
                None
            }
            Woken::Late(at, Some(message)) => {
                let retired = self.retired.get(at)?;
                let (epoch, sent) = (retired.epoch, retired.last_sent);
                self.late(message, epoch, sent)
            }
            Woken::Late(at, None) => {
                self.retired.swap_remove(at);
                None
            }
            Woken::StateChanged | Woken::Timer => None,
        }
    }

    /// A message of the current inbox.
    fn take(&mut self, message: Message) -> Option<PullEvent> {
        let inbox = self.inbox.as_ref()?;
        if let Some(code) = message.status.filter(|_| !is_stored(&message)) {
            let number = message.subject.rsplit_once('.').and_then(|(_, number)| number.parse().ok());
            let pending = pending(&message);
            let said = message.description.unwrap_or_default();
            return self.status(code, said, pending, number.unwrap_or(u64::MAX));
        }
        let origin = Origin {
            stream: Arc::clone(&self.stream),
            pull_sent: self.book.oldest_sent().unwrap_or(inbox.last_sent),
            epoch: inbox.epoch,
            above_credit: self.book.outstanding() == 0,
        };
        match Delivery::read(message, origin) {
            Ok(delivery) => {
                if !self.book.delivered() {
                    tracing::warn!(sequence = delivery.sequence, "a message came that was not asked for");
                }
                Some(PullEvent::Message(delivery))
            }
            Err(error) => {
                tracing::warn!(%error, "something that is no delivery came on a pull's inbox");
                None
            }
        }
    }

    /// A message of an inbox that was given up.
    fn late(&mut self, message: Message, epoch: u64, sent: Instant) -> Option<PullEvent> {
        if message.status.is_some() && !is_stored(&message) {
            return None;
        }
        let origin = Origin { stream: Arc::clone(&self.stream), pull_sent: sent, epoch, above_credit: true };
        match Delivery::read(message, origin) {
            Ok(delivery) => Some(PullEvent::Message(delivery)),
            Err(error) => {
                tracing::warn!(%error, "something that is no delivery came on an old inbox");
                None
            }
        }
    }

    fn status(&mut self, code: StatusCode, said: String, pending: Option<u64>, number: u64) -> Option<PullEvent> {
        match verdict(code.as_u16(), said, pending) {
            Verdict::Nothing => None,
            Verdict::Ended => {
                let credits = self.book.ended(number, pending);
                (credits > 0).then_some(PullEvent::GivenBack(credits))
            }
            Verdict::Refused(why) => {
                let credits = self.book.ended(number, pending);
                Some(PullEvent::Refused { credits, why })
            }
            Verdict::Dead(why) => {
                self.retire(why, crate::clock::now());
                None
            }
        }
    }

    fn retire(&mut self, why: PullEnd, now: Instant) {
        let credits = self.book.give_up();
        self.replace_inbox(now + self.longest_expires + RETIRED_GRACE);
        self.queue.push_back(PullEvent::AllDead { credits, why });
    }

    fn replace_inbox(&mut self, until: Instant) {
        let Some(Inbox { epoch, prefix: _, subscriber, last_sent }) = self.inbox.take() else { return };
        if self.retired.len() == RETIRED_KEPT {
            self.retired.remove(0);
        }
        self.retired.push(Retired { epoch, subscriber, last_sent, until });
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn poll_inbox(inbox: Option<&mut Inbox>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
    inbox.map_or(Poll::Pending, |inbox| Pin::new(&mut inbox.subscriber).poll_next(cx))
}

fn poll_retired(retired: &mut [Retired], cx: &mut Context<'_>) -> Poll<(usize, Option<Message>)> {
    for (at, retired) in retired.iter_mut().enumerate() {
        if let Poll::Ready(message) = Pin::new(&mut retired.subscriber).poll_next(cx) {
            return Poll::Ready((at, message));
        }
    }
    Poll::Pending
}

/// What the stream holds may look like a word of the server: its publisher wrote the headers. It has an ack subject.
fn is_stored(message: &Message) -> bool {
    message.reply.as_ref().is_some_and(|reply| reply.starts_with("$JS.ACK."))
}

fn pending(message: &Message) -> Option<u64> {
    message.headers.as_ref()?.get("Nats-Pending-Messages")?.as_str().parse().ok()
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Nothing,
    Ended,
    Refused(PullEnd),
    Dead(PullEnd),
}

/// What a status means for its pull.
fn verdict(code: u16, said: String, pending: Option<u64>) -> Verdict {
    match code {
        100 => Verdict::Nothing,
        404 | 408 => Verdict::Ended,
        409 if said.starts_with("Leadership Change") => Verdict::Dead(PullEnd::LeadershipChange),
        409 if said.starts_with("Server Shutdown") => Verdict::Dead(PullEnd::ServerShutdown),
        409 if said.starts_with("Consumer Deleted") => Verdict::Dead(PullEnd::ConsumerDeleted),
        409 if said.starts_with("Exceeded MaxWaiting") => Verdict::Refused(PullEnd::TooManyPulls),
        409 if said.starts_with("Exceeded Max") => Verdict::Refused(PullEnd::LimitExceeded(said)),
        503 => Verdict::Refused(PullEnd::NoConsumer),
        // `Batch Completed` and whatever else says how much it leaves.
        409 if pending.is_some() => Verdict::Ended,
        // Refused when it was received: bad request, push consumer, pin or API level.
        400 | 412 | 423 => Verdict::Refused(PullEnd::Other { code, said }),
        409 if said.starts_with("Consumer is push based") => Verdict::Refused(PullEnd::Other { code, said }),
        _ => Verdict::Dead(PullEnd::Other { code, said }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_status_has_its_meaning() {
        let say = |code, said: &str, pending| verdict(code, said.to_owned(), pending);
        assert_eq!(say(100, "Idle Heartbeat", None), Verdict::Nothing);
        assert_eq!(say(404, "No Messages", None), Verdict::Ended);
        assert_eq!(say(408, "Request Timeout", Some(3)), Verdict::Ended);
        assert_eq!(say(408, "Requests Pending", None), Verdict::Ended);
        assert_eq!(say(409, "Batch Completed", Some(3)), Verdict::Ended);
        assert_eq!(say(409, "Message Size Exceeds MaxBytes", Some(1)), Verdict::Ended);
        assert_eq!(say(409, "Leadership Change", None), Verdict::Dead(PullEnd::LeadershipChange));
        assert_eq!(say(409, "Server Shutdown", Some(2)), Verdict::Dead(PullEnd::ServerShutdown));
        assert_eq!(say(409, "Consumer Deleted", None), Verdict::Dead(PullEnd::ConsumerDeleted));
        assert_eq!(say(409, "Exceeded MaxWaiting", None), Verdict::Refused(PullEnd::TooManyPulls));
        assert!(matches!(
            say(409, "Exceeded MaxRequestBatch of 5", None),
            Verdict::Refused(PullEnd::LimitExceeded(said)) if said.ends_with("of 5")
        ));
        assert_eq!(say(503, "", None), Verdict::Refused(PullEnd::NoConsumer));
        for code in [400, 412, 423] {
            assert!(matches!(say(code, "x", None), Verdict::Refused(PullEnd::Other { .. })), "{code}");
        }
        assert!(matches!(say(409, "something new", None), Verdict::Dead(PullEnd::Other { .. })));
    }
}

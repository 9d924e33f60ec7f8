//! One message in hand: does what its machine orders and tells it what came of it.

mod calls;

use std::collections::VecDeque;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::limiter::Place;
use super::shared::{Alert, Shared};
use super::trigger::Trigger;
use crate::clock;
use crate::jetstream::Delivery;
use crate::message::{Action, Answer, Block, CreditId, Event, Facts, Handed, Machine, MessageId, Noted, Outcome};
use crate::runtime::panic_text;
use calls::Settle;

/// How often a machine that waits for the record looks at the facts, should no notice come.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a message tells its lane.
#[derive(Debug)]
pub(super) enum News {
    /// The number has its object.
    Made(CreditId),
    /// The number has none and never will.
    Returned(CreditId),
    /// The gate has a reason to close.
    Block(CreditId, Block),
}

/// How a message ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) sequence: u64,
    pub(super) store_time_ns: i64,
    pub(super) credit: CreditId,
    /// None where its task panicked: what became of its number is not known.
    pub(super) outcome: Option<Outcome>,
}

type Call = Pin<Box<dyn Future<Output = Event> + Send>>;

/// A delivered message and what belongs to it.
pub(super) struct Hand {
    shared: Arc<Shared>,
    delivery: Arc<Delivery>,
    id: MessageId,
    credit: CreditId,
    machine: Machine,
    object: Option<Arc<Value>>,
    /// A place among the creates under way, for the create that the machine is about to order.
    place: Option<Place>,
    refusal_contradicted: bool,
    /// What [`Alert::forgotten`] was when the message came.
    forgotten_before: u64,
    news: mpsc::Sender<News>,
}

impl Hand {
    pub(super) fn new(
        shared: Arc<Shared>,
        delivery: Delivery,
        credit: CreditId,
        handed: Handed,
        news: mpsc::Sender<News>,
    ) -> Self {
        let id = shared.message_id(delivery.sequence, delivery.store_time_ns);
        let machine = Machine::new(id.clone(), credit.clone(), shared.terms, handed, clock::now());
        let forgotten_before = shared.alerts.borrow().forgotten;
        Self {
            shared,
            delivery: Arc::new(delivery),
            id,
            credit,
            machine,
            object: None,
            place: None,
            refusal_contradicted: false,
            forgotten_before,
            news,
        }
    }

    /// Sees the message to its end. A panic on the way is an end, too: the lane must hear whose it was. Boxed, because a
    /// future keeps its arguments twice.
    pub(super) async fn run(self: Box<Self>) -> Ended {
        let (sequence, store_time_ns) = (self.delivery.sequence, self.delivery.store_time_ns);
        let credit = self.credit.clone();
        match AssertUnwindSafe(self.see()).catch_unwind().await {
            Ok(ended) => ended,
            Err(panic) => {
                tracing::error!(sequence, panic = panic_text(panic.as_ref()), "a message's task panicked");
                Ended { sequence, store_time_ns, credit, outcome: None }
            }
        }
    }

    async fn see(mut self: Box<Self>) -> Ended {
        let mut alerts = self.shared.alerts.subscribe();
        let mut record = self.shared.record.clone();
        let mut events = VecDeque::from([Event::Start]);
        let mut place: Option<Pin<Box<dyn Future<Output = Place> + Send>>> = None;
        let mut call: Option<Call> = None;
        let mut progress: Option<Call> = None;
        // The copy of the record is kept no longer once the process stops; it stays as it is then.
        let mut followed = true;
        // What was true before the message came concerns it, too.
        self.alerted(&alerts.borrow_and_update(), &mut events);
        loop {
            while let Some(event) = events.pop_front() {
                #[cfg(feature = "testing")]
                self.panic_where_a_test_asks(&event);
                if let Event::Refused(Answer::QuotaExceeded(refusal)) = &event {
                    self.refusal_contradicted = self.shared.contradicts(refusal);
                }
                let placed = event == Event::Placed;
                let actions = self.machine.step(event, &self.facts(), clock::now());
                for action in actions {
                    match self.order(action) {
                        Ordered::Nothing => {}
                        Ordered::Tell(news) => self.tell(news).await,
                        Ordered::Done(event) => events.push_back(event),
                        Ordered::Call(ordered) => call = Some(ordered),
                        Ordered::Place(ordered) => place = Some(ordered),
                        Ordered::Progress(ordered) => progress = Some(ordered),
                        Ordered::End(outcome) => {
                            let outcome = Some(outcome);
                            let (sequence, store_time_ns) = (self.delivery.sequence, self.delivery.store_time_ns);
                            return Ended { sequence, store_time_ns, credit: self.credit, outcome };
                        }
                    }
                }
                if !self.machine.wants_place() {
                    place = None;
                    if placed {
                        self.place = None;
                    }
                }
            }
            let waits = call.is_none();
            tokio::select! {
                biased;
                event = done(&mut call), if call.is_some() => {
                    call = None;
                    events.push_back(event);
                }
                got = done(&mut place), if place.is_some() => {
                    place = None;
                    self.place = Some(got);
                    events.push_back(Event::Placed);
                }
                event = done(&mut progress), if progress.is_some() => {
                    progress = None;
                    events.push_back(event);
                }
                changed = alerts.changed() => {
                    if changed.is_ok() {
                        self.alerted(&alerts.borrow_and_update(), &mut events);
                    }
                }
                // Who waits for a place asks the record when it has it: many may wait.
                changed = record.changed(), if waits && place.is_none() && followed => {
                    followed = changed.is_ok();
                    record.borrow_and_update();
                    events.push_back(Event::Tick);
                }
                () = until(self.wakes_at(waits, clock::now())) => events.push_back(Event::Tick),
            }
        }
    }

    /// Tests alone: a fault of ours at the worst moment, where the object is made and nobody has heard of it.
    #[cfg(feature = "testing")]
    #[allow(clippy::panic, reason = "it is what the test is about")]
    fn panic_where_a_test_asks(&self, event: &Event) {
        let asks = |(name, value): &(String, String)| name == "Jetgate-Test" && value == "panic";
        let made = matches!(event, Event::Created | Event::Looked(crate::message::Looked::Found(_)));
        if made && self.delivery.delivered == 1 && self.delivery.headers.iter().any(asks) {
            panic!("a test asks for it");
        }
    }

    fn facts(&self) -> Facts {
        let record = self.shared.record_facts(self.delivery.sequence, self.delivery.store_time_ns);
        let state = self.shared.connection_state.borrow();
        Facts {
            record: record.says,
            record_version: record.version,
            in_doubt: record.in_doubt,
            lease_until: self.shared.lease_until(&self.credit.holder),
            connected: state.up,
            connection: state.epoch,
            // No nak may follow where the consumer does not know of this delivery any more.
            forgetful: if self.is_forgotten(&self.shared.alerts.borrow()) { u64::MAX } else { state.forgetful_epoch },
            contradicted: self.refusal_contradicted,
        }
    }

    fn wakes_at(&self, waits: bool, now: Instant) -> Option<Instant> {
        tick_at(self.machine.deadline(), self.shared.lease_until(&self.credit.holder), waits, now)
    }

    /// Whether the consumer may have forgotten that it handed the message out: then it may be another's already.
    fn is_forgotten(&self, alert: &Alert) -> bool {
        alert.forgotten != self.forgotten_before
            || alert.displaced.has(self.delivery.sequence, self.delivery.store_time_ns)
    }

    fn alerted(&self, alert: &Alert, events: &mut VecDeque<Event>) {
        if alert.connection != (self.delivery.epoch, true) || self.is_forgotten(alert) {
            events.push_back(Event::ConnectionLost);
        }
        if alert.dead_holder.as_ref() == Some(&self.credit.holder) {
            events.push_back(Event::HolderDead);
        }
        if alert.shutdown {
            events.push_back(Event::Shutdown);
        }
    }

    /// Nearly always there is room at once, and the future stays small.
    fn tell(&self, news: News) -> impl Future<Output = ()> + Send + use<> {
        let full = match self.news.try_send(news) {
            Ok(()) => None,
            Err(TrySendError::Full(news)) => {
                let to = self.news.clone();
                Some(Box::pin(async move { to.send(news).await.ok() }))
            }
            // The lane outlives its messages; if it is gone, so is the process.
            Err(TrySendError::Closed(_)) => None,
        };
        async move {
            if let Some(full) = full {
                full.await;
            }
        }
    }

    fn order(&mut self, action: Action) -> Ordered {
        match action {
            Action::Lookup => return Ordered::Call(self.look_up()),
            Action::ReadVersion => return Ordered::Call(self.read_version()),
            Action::Render => {
                return Ordered::Done(self.render());
            }
            Action::Place => return self.arrive(),
            Action::Create { send_by } => return self.create(send_by),
            Action::PublishDead { reason, text } => return Ordered::Call(self.publish_dead(reason, &text)),
            Action::Ack => return Ordered::Call(self.settle(Settle::Ack)),
            Action::Term(reason) => return Ordered::Call(self.settle(Settle::Term(reason))),
            Action::Nak(delay) => return Ordered::Call(self.settle(Settle::Nak(delay))),
            Action::Progress => return Ordered::Progress(self.settle(Settle::Progress)),
            Action::Made(_) => return Ordered::Tell(News::Made(self.credit.clone())),
            Action::Return(_) => return Ordered::Tell(News::Returned(self.credit.clone())),
            Action::Block(block) => return Ordered::Tell(News::Block(self.credit.clone(), block)),
            Action::Count(Noted::RefusalRetried) => self.shared.metrics.quota_retries.inc(),
            Action::Count(Noted::PossibleDuplicate) => {
                self.shared.metrics.possible_duplicates.inc();
                tracing::warn!(
                    sequence = self.delivery.sequence,
                    object = self.object_name(),
                    "creating in doubt: an earlier object of this message may have come and gone unseen"
                );
            }
            Action::Finish(outcome) => return Ordered::End(outcome),
        }
        Ordered::Nothing
    }

    fn object_name(&self) -> String {
        match &self.shared.trigger {
            Trigger::Kubernetes(trigger) => self.id.object_name(&trigger.prefix),
            Trigger::Log { .. } => String::new(),
        }
    }
}

/// What became of an action.
enum Ordered {
    Nothing,
    Tell(News),
    /// Done on the spot.
    Done(Event),
    Call(Call),
    Place(Pin<Box<dyn Future<Output = Place> + Send>>),
    Progress(Call),
    End(Outcome),
}

/// The end of what is under way; the guard of the `select!` arm keeps it from being asked where nothing is.
async fn done<T>(call: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

/// When the machine wants a tick: at its deadline; where it waits, no later than newer facts may be there, and at the end
/// of its lease, after which it must not go on.
fn tick_at(deadline: Option<Instant>, lease_until: Option<Instant>, waits: bool, now: Instant) -> Option<Instant> {
    let look = now + LOOK_AGAIN;
    // What is over was told by the tick of its end.
    let lease = lease_until.filter(|until| *until > now);
    let facts = if waits { Some(lease.map_or(look, |lease| lease.min(look))) } else { None };
    deadline.into_iter().chain(facts).min()
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<F, A, R>(_: F) -> usize
    where
        F: Fn(A) -> R,
    {
        size_of::<R>()
    }

    #[test]
    fn who_waits_hears_of_the_end_of_its_lease_at_once() {
        let now = clock::now();
        let after = |millis| Some(now + Duration::from_millis(millis));
        assert_eq!(tick_at(None, after(20), true, now), after(20));
        assert_eq!(tick_at(after(10), after(20), true, now), after(10));
        assert_eq!(tick_at(None, after(9_000), true, now), Some(now + LOOK_AGAIN));
        // It is over: told, and not told again and again.
        assert_eq!(tick_at(None, Some(now), true, now), Some(now + LOOK_AGAIN));
        assert_eq!(tick_at(None, None, true, now), Some(now + LOOK_AGAIN));
        // A call is under way: its end looks at the facts.
        assert_eq!(tick_at(None, after(20), false, now), None);
    }

    /// One is made for each message: up to a kilobyte the C library's allocator hands it out from a list.
    #[test]
    fn the_future_of_a_message_is_small() {
        let bytes = size(Hand::run);
        assert!(bytes <= 900, "{bytes} bytes");
    }
}

//! One scenario for each rule, by name.

mod answers;
mod before;

use std::time::{Duration, Instant};

use super::*;
use crate::message::{Answer, HolderId, RefusedWhat, Says, retry};

const P: Duration = Duration::from_secs(10);
const NUMBER: u64 = 7;

/// A machine, its facts and its time.
struct Bench {
    machine: Machine,
    facts: Facts,
    now: Instant,
    /// Whether a place among the creates comes at once, unsaid.
    places: bool,
}

fn id() -> MessageId {
    MessageId {
        namespace: "team".into(),
        sensor: "orders".into(),
        trigger: "create".into(),
        stream: "EVENTS".into(),
        sequence: 42,
        store_time_ns: 1_790_000_000_000_000_001,
    }
}

fn credit() -> CreditId {
    CreditId { holder: HolderId::new("pod-1.x"), number: NUMBER }
}

fn terms() -> Terms {
    Terms { create_timeout: P, ack_wait: Duration::from_secs(30), on_doubt: OnDoubt::Create }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Bench {
    fn build(change: impl FnOnce(&mut Handed, &mut Terms, &mut Facts, Instant)) -> Self {
        #[allow(clippy::disallowed_methods)] // Any instant serves as the first.
        let now = Instant::now();
        let mut handed = Handed {
            delivered: 1,
            pull_sent: now,
            connection: 3,
            fresh: true,
            not_before: None,
            effect: Effect::Object,
        };
        let mut facts = Facts {
            record: Says::NotYet,
            record_version: Some(100),
            in_doubt: false,
            lease_until: Some(now + secs(3_600)),
            connected: true,
            connection: 3,
            forgetful: 1,
            contradicted: false,
        };
        let mut terms = terms();
        change(&mut handed, &mut terms, &mut facts, now);
        Self { machine: Machine::new(id(), credit(), terms, handed, now), facts, now, places: true }
    }

    fn fresh() -> Self {
        Self::build(|_, _, _, _| {})
    }

    fn redelivered() -> Self {
        Self::build(|handed, _, _, _| (handed.fresh, handed.delivered) = (false, 2))
    }

    fn on(&mut self, event: Event) -> Actions {
        let mut actions = self.machine.step(event, &self.facts, self.now);
        if self.places && self.machine.wants_place() {
            actions.retain(|action| *action != Action::Place);
            actions.extend(self.machine.step(Event::Placed, &self.facts, self.now));
        }
        actions
    }

    fn later(&mut self, wait: Duration, event: Event) -> Actions {
        self.now += wait;
        self.on(event)
    }

    /// Ticks at the deadline.
    fn wait(&mut self) -> Actions {
        self.now = self.machine.deadline().expect("it waits for an answer, not for time");
        self.on(Event::Tick)
    }

    /// Waits, and answers each in-progress on the way, until something else happens.
    fn wait_alive(&mut self) -> Actions {
        for _ in 0..1_000 {
            let actions = self.wait();
            if actions != [Action::Progress] {
                return actions;
            }
            assert_eq!(self.on(Event::ProgressConfirmed), []);
        }
        panic!("nothing but in-progress");
    }

    /// Up to a create under way.
    fn created_is_ordered(mut self) -> Self {
        assert_eq!(self.on(Event::Start), [Action::Render]);
        let create = self.create();
        assert_eq!(self.on(Event::Rendered(Ok(()))), create);
        self
    }

    fn create(&self) -> Actions {
        vec![Action::Create { send_by: self.now + P / 2 }]
    }

    fn outcome(&self) -> Outcome {
        assert_eq!(self.machine.deadline(), None);
        assert!(!self.machine.number_is_open());
        self.machine.outcome().expect("not finished")
    }

    fn naks_for(mut self, why: Why) {
        assert_eq!(self.on(Event::Acked(Confirmed::Yes)), [Action::Finish(Outcome::Again(why))]);
        assert_eq!(self.outcome(), Outcome::Again(why));
    }
}

fn mine() -> Event {
    Event::Looked(Looked::Found(Found { message: Some(id().annotation()), credit: Some(credit().annotation()) }))
}

fn others() -> Event {
    Event::Looked(Looked::Found(Found { message: Some(id().annotation()), credit: Some("pod-2.y/1".into()) }))
}

fn absent() -> Event {
    Event::Looked(Looked::Absent)
}

fn full() -> QuotaRefusal {
    QuotaRefusal { quota: "q".into(), ..QuotaRefusal::default() }
}

fn short(delivered: u64) -> Action {
    Action::Nak(retry::short(delivered, id().seed()))
}

fn growing(delivered: u64) -> Action {
    Action::Nak(retry::delay(delivered, id().seed()))
}

fn refused(delivered: u64) -> Action {
    Action::Nak(retry::refused(delivered, id().seed()))
}

const MADE: Action = Action::Made(NUMBER);
const RETURN: Action = Action::Return(NUMBER);

impl Bench {
    fn clone_for(&self, event: Event) -> Actions {
        self.machine.clone().step(event, &self.facts, self.now)
    }
}

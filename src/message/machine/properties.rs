//! Random events in any order, rubbish included, against a judge that knows only the promises.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::message::{Answer, HolderId, RefusedWhat, Says};

const P: Duration = Duration::from_secs(10);
const ACK_WAIT: Duration = Duration::from_secs(30);

fn id() -> MessageId {
    MessageId {
        namespace: "n".into(),
        sensor: "s".into(),
        trigger: "t".into(),
        stream: "S".into(),
        sequence: 1,
        store_time_ns: 2,
    }
}

fn credit() -> CreditId {
    CreditId { holder: HolderId::new("h"), number: 1 }
}

/// What the judge remembers: the promises, told once more and more simply than by the machine.
struct Judge {
    handed: Handed,
    call: Option<Action>,
    progress: Option<Instant>,
    kept_from: Instant,
    lost: bool,
    stopped: bool,
    has_effect: bool,
    dead_stored: bool,
    /// When the last create without a definite answer was ordered.
    doubt: Option<Instant>,
    was_in_doubt: bool,
    create_ordered: Option<Instant>,
    lookup_ordered: Option<Instant>,
    absent: bool,
    version: Option<u64>,
    /// The record had looked as far as the absence reaches, or none is kept.
    proven: bool,
    made: u32,
    returned: u32,
    finished: bool,
}

impl Judge {
    fn new(handed: Handed) -> Self {
        Self {
            handed,
            call: None,
            progress: None,
            kept_from: handed.pull_sent,
            lost: false,
            stopped: false,
            has_effect: false,
            dead_stored: false,
            doubt: None,
            was_in_doubt: false,
            create_ordered: None,
            lookup_ordered: None,
            absent: false,
            version: None,
            proven: false,
            made: 0,
            returned: 0,
            finished: false,
        }
    }

    /// What the event means, before the machine sees it.
    fn hears(&mut self, event: &Event, facts: &Facts, now: Instant) {
        self.lost |= !facts.connected || facts.connection != self.handed.connection;
        self.lost |= now >= self.kept_from + ACK_WAIT;
        self.has_effect |= facts.record == Says::Done;
        match (self.call.clone(), event) {
            (_, Event::ConnectionLost) => self.lost = true,
            (_, Event::LeaseOver | Event::HolderDead | Event::Shutdown) => self.stopped = true,
            (_, Event::ProgressConfirmed) => {
                let asked = self.progress.take();
                self.kept_from = asked.filter(|_| !self.lost).unwrap_or(self.kept_from);
            }
            (_, Event::ProgressFailed) => self.progress = None,
            (Some(Action::Lookup), Event::Looked(looked)) => {
                self.call = None;
                self.has_effect |=
                    matches!(looked, Looked::Found(f) if f.message == Some(id().annotation()));
                self.absent = *looked == Looked::Absent;
                self.proven |= self.absent && facts.record_version.is_none();
                let proves = self.doubt.zip(self.lookup_ordered).is_some_and(|(posted, asked)| asked >= posted + P);
                if proves && *looked != Looked::Failed {
                    self.doubt = None;
                }
            }
            (Some(Action::ReadVersion), Event::Version(version)) => (self.call, self.version) = (None, *version),
            (Some(Action::Render), Event::Rendered(_)) => self.call = None,
            (Some(Action::Create { .. }), Event::Created) => (self.call, self.has_effect) = (None, true),
            (Some(Action::Create { .. }), Event::NotSent) => self.call = None,
            (Some(Action::Create { .. }), Event::NoAnswer) => (self.call, self.doubt) = (None, self.create_ordered),
            (Some(Action::Create { .. }), Event::Refused(answer)) => {
                self.call = None;
                if matches!(answer, Answer::Throttled { .. } | Answer::Unknown { .. }) {
                    self.doubt = self.create_ordered;
                }
                if *answer == Answer::AlreadyExists {
                    (self.absent, self.version, self.proven) = (false, None, false);
                }
            }
            (Some(Action::PublishDead { .. }), Event::DeadStored(stored)) => {
                self.call = None;
                self.dead_stored |= *stored == Confirmed::Yes;
            }
            (Some(Action::Ack | Action::Term(_) | Action::Nak(_)), Event::Acked(_)) => self.call = None,
            (_, _) => {}
        }
        self.was_in_doubt |= self.doubt.is_some() || matches!(event, Event::Refused(Answer::AlreadyExists));
        if self.handed.effect == Effect::Instant {
            self.doubt = None;
        }
        if self.doubt.is_some() {
            (self.absent, self.version, self.proven) = (false, None, false);
        }
        self.proven |= self.absent && self.version.is_some_and(|v| facts.record_version.is_some_and(|r| r >= v));
    }

    fn sees(&mut self, action: &Action, facts: &Facts, now: Instant) -> Result<(), TestCaseError> {
        prop_assert!(!self.finished, "{action:?} after the end");
        let open = self.made + self.returned == 0;
        match action {
            Action::Lookup | Action::ReadVersion | Action::Render | Action::PublishDead { .. } => {}
            Action::Create { send_by } => {
                prop_assert!(open, "a create without a number");
                prop_assert_eq!(facts.record, Says::NotYet);
                prop_assert!(facts.lease_until.is_some_and(|until| until > now));
                prop_assert!(now + P <= self.kept_from + ACK_WAIT, "no time");
                prop_assert!(!self.lost && !self.stopped);
                prop_assert!(self.doubt.is_none(), "a second create beside one in doubt");
                prop_assert_eq!(*send_by, now + P / 2);
                // A fresh one needs a proof only after a create that may have made something.
                let first = self.create_ordered.is_none();
                if self.handed.effect == Effect::Object && !(self.handed.fresh && (first || !self.was_in_doubt)) {
                    prop_assert!(self.absent, "no lookup");
                    prop_assert!(self.proven, "the record has not looked that far");
                }
                self.create_ordered = Some(now);
            }
            Action::Ack => prop_assert!(self.has_effect && !open, "an ack without an effect"),
            Action::Term(_) => prop_assert!(self.dead_stored && !open, "a term without a dead letter"),
            Action::Nak(delay) => {
                prop_assert!(*delay >= Duration::from_millis(10), "a hot loop");
                prop_assert!(!open && self.doubt.is_none());
                prop_assert!(now < self.kept_from + ACK_WAIT, "a nak of another's delivery");
                prop_assert!(facts.connected && facts.forgetful <= self.handed.connection);
            }
            Action::Progress => {
                prop_assert!(self.progress.is_none() && !self.lost);
                self.progress = Some(now);
            }
            Action::Made(n) => (self.made, _) = (self.made + 1, prop_assert_eq!(*n, 1)),
            Action::Return(n) => {
                prop_assert_eq!(*n, 1);
                prop_assert!(self.doubt.is_none(), "a number returned while its create may land");
                self.returned += 1;
            }
            Action::Block(_) | Action::Count(_) => {}
            Action::Finish(outcome) => {
                prop_assert!(!open, "an end with an open number");
                let effect = matches!(outcome, Outcome::Done(_) | Outcome::AckUnconfirmed(_));
                prop_assert!(!effect || self.has_effect);
                self.finished = true;
            }
        }
        prop_assert!(self.made + self.returned <= 1);
        let is_call = matches!(
            action,
            Action::Lookup
                | Action::ReadVersion
                | Action::Render
                | Action::Create { .. }
                | Action::PublishDead { .. }
                | Action::Ack
                | Action::Term(_)
                | Action::Nak(_)
        );
        if is_call {
            prop_assert!(self.call.is_none(), "{action:?} beside {:?}", self.call);
            self.call = Some(action.clone());
        }
        if *action == Action::Lookup {
            self.lookup_ordered = Some(now);
        }
        Ok(())
    }
}

fn confirmed() -> impl Strategy<Value = Confirmed> {
    prop_oneof![Just(Confirmed::Yes), Just(Confirmed::No)]
}

fn looked() -> impl Strategy<Value = Looked> {
    let mine = || Some(id().annotation());
    prop_oneof![
        3 => Just(Looked::Absent),
        2 => Just(Looked::Failed),
        1 => Just(Looked::Found(Found { message: mine(), credit: Some(credit().annotation()) })),
        1 => Just(Looked::Found(Found { message: mine(), credit: None })),
        1 => Just(Looked::Found(Found::default())),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    let refusal = QuotaRefusal::default;
    prop_oneof![
        Just(Answer::AlreadyExists),
        Just(Answer::QuotaExceeded(refusal())),
        Just(Answer::NeverFits(refusal())),
        Just(Answer::StatusUnknown { quota: String::new(), resources: vec![] }),
        Just(Answer::QuotaConflict),
        Just(Answer::Poison(DeadReason::InvalidObject, String::new())),
        Just(Answer::TargetRefused { what: RefusedWhat::Kind, text: String::new() }),
        Just(Answer::Unauthorized),
        Just(Answer::Throttled { after: None }),
        Just(Answer::Unknown { text: String::new() }),
        Just(Answer::Again { text: String::new() }),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Start),
        Just(Event::Tick),
        Just(Event::ConnectionLost),
        Just(Event::LeaseOver),
        Just(Event::HolderDead),
        Just(Event::Shutdown),
        Just(Event::ProgressConfirmed),
        Just(Event::ProgressFailed),
        looked().prop_map(Event::Looked),
        prop::option::of(0..20_u64).prop_map(Event::Version),
        prop_oneof![Just(Ok(())), Just(Err((DeadReason::Template, String::new())))].prop_map(Event::Rendered),
        Just(Event::Created),
        answer().prop_map(Event::Refused),
        Just(Event::NoAnswer),
        Just(Event::NotSent),
        confirmed().prop_map(Event::DeadStored),
        confirmed().prop_map(Event::Acked),
    ]
}

/// One turn of the world: what changes, and how the call under way would be answered.
#[derive(Clone, Debug)]
struct Turn {
    wait_ms: u64,
    to_deadline: bool,
    rubbish: Option<Event>,
    looked: Looked,
    version: Option<u64>,
    rendered: bool,
    created: u8,
    answer: Answer,
    confirmed: Confirmed,
    progress: Option<Confirmed>,
    facts: (u8, Option<u64>, u8),
}

fn turn() -> impl Strategy<Value = Turn> {
    (
        (prop_oneof![4 => 0..200_u64, 1 => 0..40_000_u64], any::<bool>(), prop::option::weighted(0.15, any_event())),
        (looked(), prop::option::weighted(0.9, 0..20_u64), prop::bool::weighted(0.9), 0..8_u8, answer()),
        (confirmed(), prop::option::of(confirmed()), (0..40_u8, prop::option::weighted(0.95, 0..25_u64), 0..40_u8)),
    )
        .prop_map(
            |(
                (wait_ms, to_deadline, rubbish),
                (looked, version, rendered, created, answer),
                (confirmed, progress, facts),
            )| Turn {
                wait_ms,
                to_deadline,
                rubbish,
                looked,
                version,
                rendered,
                created,
                answer,
                confirmed,
                progress,
                facts,
            },
        )
}

impl Turn {
    /// The event of this turn: an answer to what is under way, or time.
    fn event(&self, judge: &Judge) -> Event {
        if let Some(rubbish) = &self.rubbish {
            return rubbish.clone();
        }
        if let Some(confirmed) = self.progress.filter(|_| judge.progress.is_some()) {
            return match confirmed {
                Confirmed::Yes => Event::ProgressConfirmed,
                Confirmed::No => Event::ProgressFailed,
            };
        }
        match &judge.call {
            None => Event::Tick,
            Some(Action::Lookup) => Event::Looked(self.looked.clone()),
            Some(Action::ReadVersion) => Event::Version(self.version),
            Some(Action::Render) => {
                Event::Rendered(if self.rendered { Ok(()) } else { Err((DeadReason::Template, String::new())) })
            }
            Some(Action::Create { .. }) => match self.created {
                0 | 1 => Event::Created,
                2 | 3 => Event::NoAnswer,
                4 => Event::NotSent,
                _ => Event::Refused(self.answer.clone()),
            },
            Some(Action::PublishDead { .. }) => Event::DeadStored(self.confirmed),
            Some(_) => Event::Acked(self.confirmed),
        }
    }

    /// The facts move a little: record, its version, lease, connection.
    fn change(&self, facts: &mut Facts, now: Instant) {
        let (what, version, other) = self.facts;
        match what {
            0 => facts.record = Says::Done,
            1 => facts.in_doubt = !facts.in_doubt,
            2 => facts.lease_until = None,
            3 => facts.lease_until = Some(now + Duration::from_secs(u64::from(other))),
            4 => facts.connected = false,
            5 => (facts.connected, facts.connection) = (true, facts.connection + 1),
            6 => (facts.connected, facts.connection, facts.forgetful) = (true, facts.connection + 1, facts.connection + 1),
            7..20 => facts.contradicted = !facts.contradicted,
            _ => {}
        }
        facts.record_version = version.map(|v| v.max(facts.record_version.unwrap_or(0)));
    }
}

struct World {
    machine: Machine,
    judge: Judge,
    facts: Facts,
    now: Instant,
    log: Vec<(Event, Actions)>,
}

impl World {
    fn new(fresh: bool, instant: bool, dead: bool, pull_age_ms: u64, not_before_ms: Option<u64>) -> Self {
        #[allow(clippy::disallowed_methods)] // Any instant serves as the first.
        let now = Instant::now();
        let handed = Handed {
            delivered: 1,
            pull_sent: now - Duration::from_millis(pull_age_ms),
            connection: 1,
            fresh,
            not_before: not_before_ms.map(|n| now + Duration::from_millis(n)),
            effect: if instant { Effect::Instant } else { Effect::Object },
        };
        let on_doubt = if dead { OnDoubt::Dead } else { OnDoubt::Create };
        let terms = Terms { create_timeout: P, ack_wait: ACK_WAIT, on_doubt };
        let facts = Facts {
            record: Says::NotYet,
            record_version: Some(0),
            in_doubt: false,
            lease_until: Some(now + Duration::from_secs(600)),
            connected: true,
            connection: 1,
            forgetful: 1,
            contradicted: false,
        };
        let machine = Machine::new(id(), credit(), terms, handed, now);
        Self { machine, judge: Judge::new(handed), facts, now, log: vec![] }
    }

    fn step(&mut self, event: Event) -> Result<(), TestCaseError> {
        let was_tick = event == Event::Tick;
        self.judge.hears(&event, &self.facts, self.now);
        let actions = self.machine.step(event.clone(), &self.facts, self.now);
        self.log.push((event, actions.clone()));
        for action in &actions {
            if let Err(error) = self.judge.sees(action, &self.facts, self.now) {
                return Err(TestCaseError::fail(format!("{error}\n{}", self.story())));
            }
        }
        prop_assert_eq!(self.machine.is_finished(), self.judge.finished);
        prop_assert_eq!(self.machine.number_is_open(), self.judge.made + self.judge.returned == 0);
        if was_tick {
            let later = self.machine.deadline().is_none_or(|at| at > self.now);
            prop_assert!(later, "a deadline in the past\n{}", self.story());
        }
        Ok(())
    }

    fn story(&self) -> String {
        self.log.iter().map(|(event, actions)| format!("{event:?} -> {actions:?}\n")).collect()
    }

    fn turn(&mut self, turn: &Turn) -> Result<(), TestCaseError> {
        match self.machine.deadline() {
            Some(at) if turn.to_deadline && self.judge.call.is_none() => self.now = self.now.max(at),
            Some(_) | None => self.now += Duration::from_millis(turn.wait_ms),
        }
        turn.change(&mut self.facts, self.now);
        let event = turn.event(&self.judge);
        self.step(event)
    }

    /// From here on the world answers, and well.
    fn comes_to_an_end(&mut self) -> Result<(), TestCaseError> {
        if !self.facts.connected {
            (self.facts.connected, self.facts.connection) = (true, self.facts.connection + 1);
        }
        self.facts.record_version = Some(u64::MAX);
        self.step(Event::Start)?;
        for _ in 0..200 {
            if self.judge.finished {
                return Ok(());
            }
            let event = if self.judge.progress.is_some() {
                Event::ProgressConfirmed
            } else {
                match &self.judge.call {
                    None => {
                        let at = self.machine.deadline();
                        prop_assert!(at.is_some(), "it waits for nothing\n{}", self.story());
                        self.now = self.now.max(at.unwrap());
                        Event::Tick
                    }
                    Some(Action::Lookup) => Event::Looked(Looked::Absent),
                    Some(Action::ReadVersion) => Event::Version(Some(30)),
                    Some(Action::Render) => Event::Rendered(Ok(())),
                    Some(Action::Create { .. }) => Event::Created,
                    Some(Action::PublishDead { .. }) => Event::DeadStored(Confirmed::Yes),
                    Some(_) => Event::Acked(Confirmed::Yes),
                }
            };
            self.step(event)?;
        }
        Err(TestCaseError::fail(format!("no end\n{}", self.story())))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_under_any_order_of_events(
        fresh: bool, instant in prop::bool::weighted(0.15), dead: bool,
        pull_age_ms in prop_oneof![0..500_u64, 0..35_000_u64],
        not_before_ms in prop::option::of(0..12_000_u64),
        turns in prop::collection::vec(turn(), 0..60),
    ) {
        let mut world = World::new(fresh, instant, dead, pull_age_ms, not_before_ms);
        if turns.len() % 5 > 0 {
            world.step(Event::Start)?;
        }
        for turn in &turns {
            world.turn(turn)?;
        }
        world.comes_to_an_end()?;
    }

    #[test]
    fn pure_rubbish_does_no_harm(fresh: bool, events in prop::collection::vec((any_event(), 0..20_000_u64), 0..100)) {
        let mut world = World::new(fresh, false, false, 0, None);
        for (event, wait) in events {
            world.now += Duration::from_millis(wait);
            world.step(event)?;
        }
        world.comes_to_an_end()?;
    }
}

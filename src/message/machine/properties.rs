//! Random events in any order, rubbish included, against a judge that knows only the promises.

use std::time::{Duration, Instant};

use super::dice::Dice;
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

/// A broken promise.
#[derive(Debug)]
struct Broken(String);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

type Verdict = Result<(), Broken>;

macro_rules! promise {
    ($holds:expr) => { promise!($holds, stringify!($holds)) };
    ($holds:expr, $($says:tt)+) => {
        if !$holds {
            return Err(Broken(format!($($says)+)));
        }
    };
}

/// What the judge remembers: the promises, told once more and more simply than by the machine.
struct Judge {
    handed: Handed,
    call: Option<Action>,
    /// A place was asked for.
    asks_place: bool,
    /// It came in this step.
    placed: bool,
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
            asks_place: false,
            placed: false,
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
        self.lost |= self.forgotten(facts);
        self.placed = *event == Event::Placed && std::mem::take(&mut self.asks_place);
        self.lost |= now >= self.kept_from + ACK_WAIT;
        self.has_effect |= facts.record == Says::Done;
        match (self.call.clone(), event) {
            (_, Event::ConnectionLost) => self.lost = true,
            (_, Event::HolderDead | Event::Shutdown) => self.stopped = true,
            (_, Event::ProgressConfirmed) => {
                let asked = self.progress.take();
                self.kept_from = asked.filter(|_| !self.lost).unwrap_or(self.kept_from);
            }
            (_, Event::ProgressFailed) => self.progress = None,
            (Some(Action::Lookup), Event::Looked(looked)) => {
                self.call = None;
                self.has_effect |= matches!(looked, Looked::Found(f) if f.message == Some(id().annotation()));
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
                    self.was_in_doubt = true;
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
        self.was_in_doubt |= self.doubt.is_some();
        if self.handed.effect == Effect::Instant {
            self.doubt = None;
        }
        if self.doubt.is_some() {
            (self.absent, self.version, self.proven) = (false, None, false);
        }
        self.proven |= self.absent && self.version.is_some_and(|v| facts.record_version.is_some_and(|r| r >= v));
    }

    /// The server may know another message by the sequence.
    fn forgotten(&self, facts: &Facts) -> bool {
        facts.forgetful > self.handed.connection
    }

    fn sees(&mut self, action: &Action, facts: &Facts, now: Instant) -> Verdict {
        promise!(!self.finished, "{action:?} after the end");
        let open = self.made + self.returned == 0;
        match action {
            Action::Lookup | Action::ReadVersion | Action::Render | Action::PublishDead { .. } => {}
            Action::Place => {
                promise!(self.call.is_none() && !self.asks_place && self.handed.effect == Effect::Object);
                self.asks_place = true;
            }
            Action::Create { send_by } => {
                let placed = std::mem::take(&mut self.placed);
                promise!(placed || self.handed.effect == Effect::Instant, "a create without a place");
                promise!(open, "a create without a number");
                promise!(facts.record == Says::NotYet);
                promise!(facts.lease_until.is_some_and(|until| until > now));
                promise!(now + P <= self.kept_from + ACK_WAIT, "no time");
                promise!(!self.lost && !self.stopped);
                promise!(self.doubt.is_none(), "a second create beside one in doubt");
                promise!(*send_by == now + P / 2);
                // A fresh one needs a proof only after a create that may have made something.
                let first = self.create_ordered.is_none();
                if self.handed.effect == Effect::Object && !(self.handed.fresh && (first || !self.was_in_doubt)) {
                    promise!(self.absent, "no lookup");
                    promise!(self.proven, "the record has not looked that far");
                }
                self.create_ordered = Some(now);
            }
            Action::Ack => {
                promise!(self.has_effect && !open, "an ack without an effect");
                promise!(!self.forgotten(facts), "an ack of another message");
            }
            Action::Term(_) => {
                promise!(self.dead_stored && !open, "a term without a dead letter");
                promise!(!self.forgotten(facts), "a term of another message");
            }
            Action::Nak(delay) => {
                promise!(*delay >= Duration::from_millis(10), "a hot loop");
                promise!(!open && self.doubt.is_none());
                promise!(now < self.kept_from + ACK_WAIT, "a nak of another's delivery");
                promise!(facts.connected && !self.forgotten(facts));
            }
            Action::Progress => {
                promise!(self.progress.is_none() && !self.lost);
                self.progress = Some(now);
            }
            Action::Made(n) => {
                promise!(*n == 1);
                self.made += 1;
            }
            Action::Return(n) => {
                promise!(*n == 1);
                promise!(self.doubt.is_none(), "a number returned while its create may land");
                self.returned += 1;
            }
            Action::Block(_) | Action::Count(_) => {}
            Action::Finish(outcome) => {
                promise!(!open, "an end with an open number");
                let effect = matches!(outcome, Outcome::Done(_) | Outcome::AckUnconfirmed(_));
                promise!(!effect || self.has_effect);
                self.finished = true;
            }
        }
        promise!(self.made + self.returned <= 1);
        if action.is_call() {
            promise!(self.call.is_none(), "{action:?} beside {:?}", self.call);
            self.call = Some(action.clone());
            self.asks_place = false;
        }
        if *action == Action::Lookup {
            self.lookup_ordered = Some(now);
        }
        Ok(())
    }
}

impl Dice {
    fn confirmed(&mut self) -> Confirmed {
        self.pick(&[Confirmed::Yes, Confirmed::No])
    }

    fn looked(&mut self) -> Looked {
        let message = Some(id().annotation());
        match self.below(8) {
            0..3 => Looked::Absent,
            3..5 => Looked::Failed,
            5 => Looked::Found(Found { message, credit: Some(credit().annotation()) }),
            6 => Looked::Found(Found { message, credit: None }),
            _ => Looked::Found(Found::default()),
        }
    }

    fn version(&mut self) -> Option<u64> {
        self.percent(90).then(|| self.below(20))
    }

    fn rendered(&mut self) -> Result<(), (DeadReason, String)> {
        if self.percent(85) { Ok(()) } else { Err((DeadReason::Template, String::new())) }
    }

    fn answer(&mut self) -> Answer {
        let (refusal, text) = (QuotaRefusal::default(), String::new());
        match self.below(14) {
            0 => Answer::AlreadyExists,
            1..4 => Answer::QuotaExceeded(refusal),
            4 => Answer::NeverFits(refusal),
            5 => Answer::StatusUnknown { quota: text, resources: vec![] },
            6..8 => Answer::QuotaConflict,
            8 => Answer::Poison(DeadReason::InvalidObject, text),
            9 => Answer::TargetRefused { what: RefusedWhat::Kind, text },
            10 => Answer::Unauthorized,
            11 => Answer::Throttled { after: Some(P * 2).filter(|_| self.below(2) == 0) },
            12 => Answer::Unknown { text },
            _ => Answer::Again { text },
        }
    }

    fn any_event(&mut self) -> Event {
        match self.below(17) {
            0 => Event::Start,
            1 => Event::Tick,
            2 => Event::ConnectionLost,
            3 => Event::HolderDead,
            4 => Event::Shutdown,
            5 => Event::ProgressConfirmed,
            6 => Event::ProgressFailed,
            7 => Event::Looked(self.looked()),
            8 => Event::Version(self.version()),
            9 => Event::Rendered(self.rendered()),
            10 => Event::Created,
            11 => Event::Refused(self.answer()),
            12 => Event::NoAnswer,
            13 => Event::NotSent,
            14 => Event::DeadStored(self.confirmed()),
            15 => Event::Placed,
            _ => Event::Acked(self.confirmed()),
        }
    }

    /// An answer to what is under way, or time, or with some chance any event.
    fn event(&mut self, judge: &Judge, rubbish: u64) -> Event {
        if self.percent(rubbish) {
            return self.any_event();
        }
        if judge.progress.is_some() && self.percent(60) {
            return if self.percent(70) { Event::ProgressConfirmed } else { Event::ProgressFailed };
        }
        match &judge.call {
            None if judge.asks_place && self.percent(60) => Event::Placed,
            None => Event::Tick,
            Some(Action::Lookup) => Event::Looked(self.looked()),
            Some(Action::ReadVersion) => Event::Version(self.version()),
            Some(Action::Render) => Event::Rendered(self.rendered()),
            Some(Action::Create { .. }) => match self.below(8) {
                0 => Event::Created,
                1..4 => Event::NoAnswer,
                4 => Event::NotSent,
                _ => Event::Refused(self.answer()),
            },
            Some(Action::PublishDead { .. }) => Event::DeadStored(self.confirmed()),
            Some(_) => Event::Acked(self.confirmed()),
        }
    }

    /// The facts move a little: record, its version, lease, connection.
    fn change(&mut self, facts: &mut Facts, now: Instant) {
        match self.below(60) {
            0 => facts.record = Says::Done,
            1 => facts.in_doubt = !facts.in_doubt,
            2 => facts.lease_until = None,
            3 => facts.lease_until = Some(now + Duration::from_secs(self.below(40))),
            4 => facts.connected = false,
            5 => (facts.connected, facts.connection) = (true, facts.connection + 1),
            6 => {
                (facts.connected, facts.connection, facts.forgetful) =
                    (true, facts.connection + 1, facts.connection + 1)
            }
            21 => facts.forgetful = u64::MAX,
            7..20 => facts.contradicted = !facts.contradicted,
            20 => facts.record_version = None,
            22..40 => facts.record_version = Some(facts.record_version.unwrap_or(0).max(self.below(25))),
            _ => {}
        }
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
    fn new(dice: &mut Dice) -> Self {
        #[allow(clippy::disallowed_methods)] // Any instant serves as the first.
        let now = Instant::now();
        let pull_age = if dice.percent(70) { dice.below(500) } else { dice.below(35_000) };
        let handed = Handed {
            delivered: 1,
            pull_sent: now - Duration::from_millis(pull_age),
            connection: 1,
            fresh: dice.percent(50),
            not_before: dice.percent(30).then(|| now + Duration::from_millis(dice.below(12_000))),
            effect: if dice.percent(15) { Effect::Instant } else { Effect::Object },
        };
        let on_doubt = dice.pick(&[OnDoubt::Create, OnDoubt::Dead]);
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

    fn step(&mut self, event: Event) -> Verdict {
        let was_tick = event == Event::Tick;
        self.judge.hears(&event, &self.facts, self.now);
        let actions = self.machine.step(event.clone(), &self.facts, self.now);
        self.log.push((event, actions.clone()));
        for action in &actions {
            if let Err(error) = self.judge.sees(action, &self.facts, self.now) {
                return Err(Broken(format!("{error}\n{}", self.story())));
            }
        }
        promise!(!self.machine.wants_place() || self.judge.asks_place, "it waits for a place unsaid");
        promise!(self.machine.is_finished() == self.judge.finished);
        promise!(self.machine.number_is_open() == (self.judge.made + self.judge.returned == 0));
        if was_tick {
            let later = self.machine.deadline().is_none_or(|at| at > self.now);
            promise!(later, "a deadline in the past\n{}", self.story());
        }
        Ok(())
    }

    fn story(&self) -> String {
        self.log.iter().map(|(event, actions)| format!("{event:?} -> {actions:?}\n")).collect()
    }

    fn turn(&mut self, dice: &mut Dice, rubbish: u64) -> Verdict {
        let to_deadline = dice.percent(50) && self.judge.call.is_none();
        let wait = if dice.percent(80) { dice.below(200) } else { dice.below(40_000) };
        match self.machine.deadline() {
            Some(at) if to_deadline => self.now = self.now.max(at),
            Some(_) | None => self.now += Duration::from_millis(wait),
        }
        dice.change(&mut self.facts, self.now);
        let event = dice.event(&self.judge, rubbish);
        self.step(event)
    }

    /// From here on the world answers, and well.
    fn comes_to_an_end(&mut self) -> Verdict {
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
                    None if self.machine.wants_place() => Event::Placed,
                    None => {
                        let at = self.machine.deadline();
                        promise!(at.is_some(), "it waits for nothing\n{}", self.story());
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
        Err(Broken(format!("no end\n{}", self.story())))
    }
}

/// Plays the world of a seed for so many turns, then lets it come to its end.
fn play(seed: u64, turns: u64) -> Verdict {
    let mut dice = Dice::new(seed);
    // One world in eight hears nothing but rubbish.
    let rubbish = if dice.below(8) == 0 { 100 } else { 12 };
    let mut world = World::new(&mut dice);
    if dice.percent(90) {
        world.step(Event::Start)?;
    }
    for _ in 0..turns {
        world.turn(&mut dice, rubbish)?;
    }
    world.comes_to_an_end()
}

#[test]
fn promises_hold_under_any_order_of_events() {
    let usual = if std::env::var_os("JETGATE_SOAK").is_some() { 1_000_000 } else { 100_000 };
    let worlds = std::env::var("JETGATE_TEST_WORLDS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    for seed in 0..worlds {
        let turns = seed % 60;
        if play(seed, turns).is_err() {
            let (least, broken) = (0..=turns).find_map(|n| play(seed, n).err().map(|e| (n, e))).unwrap();
            panic!("seed {seed}, {least} turns: {broken}");
        }
    }
}

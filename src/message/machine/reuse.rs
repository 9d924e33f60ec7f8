//! Several messages, two replicas, and a server that knows a message by its sequence alone and loses the end of its
//! stream when it crashes: the next messages take the sequences of the lost ones. No message may be settled by the ack
//! or term of another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::*;
use crate::message::{Answer, Arrival, HolderId, InHand, Says};

const P: Duration = Duration::from_secs(2);
const ACK_WAIT: Duration = Duration::from_secs(6);
const MOST_LANES: u64 = 2;

/// A message: its sequence, and the time at which it was stored.
type Id = (u64, i64);

/// The stream's server and its consumer.
#[derive(Default)]
struct Server {
    /// Rises with each start of the process, and is the epoch of the connections to it.
    process: u64,
    up: bool,
    clock: i64,
    stored: BTreeMap<u64, i64>,
    last: u64,
    /// What was handed out and not settled, and when that comes again.
    pending: BTreeMap<u64, Instant>,
    settled: BTreeSet<u64>,
}

impl Server {
    fn publish(&mut self) {
        self.clock += 1;
        self.last += 1;
        self.stored.insert(self.last, self.clock);
    }

    /// The next message that is due; it is pending from now on.
    fn hand_out(&mut self, now: Instant) -> Option<Id> {
        let due = |sequence: &u64| {
            !self.settled.contains(sequence) && self.pending.get(sequence).is_none_or(|until| *until <= now)
        };
        let (sequence, stored) = self.stored.iter().find(|(sequence, _)| due(sequence)).map(|(s, t)| (*s, *t))?;
        self.pending.insert(sequence, now + ACK_WAIT);
        Some((sequence, stored))
    }

    /// It comes back without the end of its stream, and its consumer knows of nothing beyond.
    fn crash(&mut self, lost: u64) {
        self.up = false;
        self.last = self.last.saturating_sub(lost);
        let last = self.last;
        self.stored.retain(|sequence, _| *sequence <= last);
        self.pending.retain(|sequence, _| *sequence <= last);
        self.settled.retain(|sequence| *sequence <= last);
    }
}

/// One message in hand of a lane.
struct Hand {
    id: Id,
    message: MessageId,
    machine: Machine,
    /// The server process that delivered it.
    process: u64,
    /// The consumer was found to have forgotten it.
    forgotten: bool,
    call: Option<Action>,
    ordered: Instant,
    progress: bool,
    /// The server process that an ack, term or nak was sent to.
    sent_to: u64,
}

#[derive(Default)]
struct Lane {
    hands: Vec<Hand>,
    in_hand: InHand,
    /// The server process that it is connected to; 0 while it is not.
    process: u64,
    last_process: u64,
}

struct World {
    server: Server,
    lanes: Vec<Lane>,
    now: Instant,
    objects: BTreeSet<Id>,
    dead: BTreeSet<Id>,
    numbers: u64,
    poison: u64,
}

fn message_id(id: Id) -> MessageId {
    MessageId {
        namespace: "n".into(),
        sensor: "s".into(),
        trigger: "t".into(),
        stream: "S".into(),
        sequence: id.0,
        store_time_ns: id.1,
    }
}

impl World {
    fn new(dice: &mut Dice) -> Self {
        #[allow(clippy::disallowed_methods)] // Any instant serves as the first.
        let now = Instant::now();
        Self {
            server: Server { process: 1, up: true, ..Server::default() },
            lanes: (0..=dice.below(MOST_LANES))
                .map(|_| Lane { process: 1, last_process: 1, ..Lane::default() })
                .collect(),
            now,
            objects: BTreeSet::new(),
            dead: BTreeSet::new(),
            numbers: 0,
            // One message in so many is its own fault.
            poison: 2 + dice.below(5),
        }
    }

    fn facts(&self, lane: usize, hand: &Hand) -> Facts {
        let lane = &self.lanes[lane];
        let forgotten = hand.forgotten || lane.in_hand.displaced().has(hand.id.0, hand.id.1);
        Facts {
            record: if self.objects.contains(&hand.id) { Says::Done } else { Says::NotYet },
            record_version: Some(u64::MAX),
            in_doubt: false,
            lease_until: Some(self.now + Duration::from_secs(600)),
            connected: lane.process > 0,
            connection: lane.last_process,
            // Every server process is another one.
            forgetful: if forgotten { u64::MAX } else { lane.last_process },
            contradicted: false,
        }
    }

    fn step(&mut self, lane: usize, mut hand: Hand, event: Event) -> Option<Hand> {
        let facts = self.facts(lane, &hand);
        let mut actions = hand.machine.step(event, &facts, self.now);
        if hand.machine.wants_place() {
            actions.extend(hand.machine.step(Event::Placed, &facts, self.now));
        }
        for action in actions {
            if action.is_call() {
                // Whether there is a connection is looked at once more where it is sent.
                hand.sent_to = self.lanes[lane].process;
                hand.ordered = self.now;
                hand.call = Some(action);
            } else if matches!(action, Action::Progress) {
                hand.progress = true;
            } else if matches!(action, Action::Finish(_)) {
                self.lanes[lane].in_hand.ended(hand.id.0, hand.id.1);
                return None;
            }
        }
        Some(hand)
    }

    /// The server does what an ack or term says, about whatever message has the sequence.
    fn settles(&mut self, id: Id, sent_to: u64) -> Result<Confirmed, String> {
        if !self.server.up || sent_to != self.server.process {
            return Ok(Confirmed::No);
        }
        if self.server.pending.remove(&id.0).is_some() {
            let meant = (id.0, self.server.stored[&id.0]);
            if !self.objects.contains(&meant) && !self.dead.contains(&meant) {
                return Err(format!("{meant:?} is lost: it has no effect, and was settled for {id:?}"));
            }
            self.server.settled.insert(id.0);
        }
        Ok(Confirmed::Yes)
    }

    fn answer(&mut self, dice: &mut Dice, hand: &Hand, action: &Action) -> Result<Event, String> {
        let fails = dice.percent(10);
        Ok(match action {
            Action::Lookup if fails => Event::Looked(Looked::Failed),
            Action::Lookup if self.objects.contains(&hand.id) => {
                let found = Found { message: Some(hand.message.annotation()), credit: None };
                Event::Looked(Looked::Found(found))
            }
            Action::Lookup => Event::Looked(Looked::Absent),
            Action::ReadVersion => Event::Version(Some(1)),
            // No create lives longer.
            Action::Create { .. } if self.now >= hand.ordered + P => Event::NoAnswer,
            Action::Create { .. } if hand.id.1.unsigned_abs().is_multiple_of(self.poison) => {
                Event::Refused(Answer::Poison(DeadReason::InvalidObject, String::new()))
            }
            Action::Create { .. } => {
                if !self.objects.insert(hand.id) {
                    return Err(format!("{:?} has two objects", hand.id));
                }
                if fails { Event::NoAnswer } else { Event::Created }
            }
            Action::PublishDead { .. } if fails => Event::DeadStored(Confirmed::No),
            Action::PublishDead { .. } => {
                self.dead.insert(hand.id);
                Event::DeadStored(Confirmed::Yes)
            }
            Action::Ack | Action::Term(_) => Event::Acked(self.settles(hand.id, hand.sent_to)?),
            Action::Nak(delay) => {
                let now = self.now;
                if self.server.up && hand.sent_to == self.server.process {
                    self.server.pending.entry(hand.id.0).and_modify(|until| *until = now + *delay);
                    Event::Acked(Confirmed::Yes)
                } else {
                    Event::Acked(Confirmed::No)
                }
            }
            // The template always gives an object; the rest is no call.
            Action::Render
            | Action::Place
            | Action::Progress
            | Action::Made(_)
            | Action::Return(_)
            | Action::Block(_)
            | Action::Count(_)
            | Action::Finish(_) => Event::Rendered(Ok(())),
        })
    }

    fn delivered(&mut self, lane: usize) -> Option<()> {
        let connected = self.lanes[lane].process;
        if connected == 0 || !self.server.up || connected != self.server.process {
            return None;
        }
        let id = self.server.hand_out(self.now)?;
        match self.lanes[lane].in_hand.arrives(id.0, id.1, false) {
            Arrival::Copy => return None,
            // Others in hand may be the server's still; nothing more than these is known to be lost.
            Arrival::Displacing => {
                let displaced = self.lanes[lane].in_hand.displaced().clone();
                self.hear_of_loss(lane, |hand| displaced.has(hand.id.0, hand.id.1));
            }
            Arrival::New | Arrival::Displaced | Arrival::Known => {}
        }
        self.numbers += 1;
        let credit = CreditId { holder: HolderId::new("h"), number: self.numbers };
        let handed = Handed {
            delivered: 1,
            pull_sent: self.now,
            connection: connected,
            fresh: false,
            not_before: Some(self.now + P),
            effect: Effect::Object,
        };
        let terms = Terms { create_timeout: P, ack_wait: ACK_WAIT, on_doubt: OnDoubt::Create };
        let message = message_id(id);
        let machine = Machine::new(message.clone(), credit, terms, handed, self.now);
        self.lanes[lane].in_hand.taken(id.0, id.1);
        let hand = Hand {
            id,
            message,
            machine,
            process: connected,
            forgotten: false,
            call: None,
            ordered: self.now,
            progress: false,
            sent_to: 0,
        };
        let hand = self.step(lane, hand, Event::Start)?;
        self.lanes[lane].hands.push(hand);
        Some(())
    }

    /// The lane hears that the consumer may have forgotten what it handed out of these.
    fn forget(&mut self, lane: usize) {
        for hand in &mut self.lanes[lane].hands {
            hand.forgotten = true;
        }
        self.hear_of_loss(lane, |_| true);
    }

    fn hear_of_loss(&mut self, lane: usize, which: impl Fn(&Hand) -> bool) {
        let (lost, kept) = std::mem::take(&mut self.lanes[lane].hands).into_iter().partition(which);
        self.lanes[lane].hands = kept;
        for mut hand in lost {
            // What is on its way finds nobody, and never the consumer that comes next.
            hand.sent_to = 0;
            let kept = self.step(lane, hand, Event::ConnectionLost);
            self.lanes[lane].hands.extend(kept);
        }
    }

    /// One message in hand goes on: a call of it is answered, or time passes for it.
    fn goes_on(&mut self, dice: &mut Dice, lane: usize) -> Result<(), String> {
        let count = self.lanes[lane].hands.len() as u64;
        if count == 0 {
            return Ok(());
        }
        let at = usize::try_from(dice.below(count)).unwrap();
        let mut hand = self.lanes[lane].hands.swap_remove(at);
        let event = if hand.progress && dice.percent(50) {
            hand.progress = false;
            let reached = self.server.up && hand.process == self.server.process;
            let now = self.now;
            if reached {
                self.server.pending.entry(hand.id.0).and_modify(|until| *until = now + ACK_WAIT);
            }
            if reached { Event::ProgressConfirmed } else { Event::ProgressFailed }
        } else {
            match hand.call.take() {
                Some(action) => self.answer(dice, &hand, &action)?,
                None => Event::Tick,
            }
        };
        let kept = self.step(lane, hand, event);
        self.lanes[lane].hands.extend(kept);
        Ok(())
    }

    /// The lane's connection follows the server.
    fn connects(&mut self, lane: usize) {
        let process = if self.server.up { self.server.process } else { 0 };
        let changed = std::mem::replace(&mut self.lanes[lane].process, process) != process;
        if process > 0 {
            self.lanes[lane].last_process = process;
        }
        if changed {
            for hand in std::mem::take(&mut self.lanes[lane].hands) {
                let kept = self.step(lane, hand, Event::ConnectionLost);
                self.lanes[lane].hands.extend(kept);
            }
        }
    }

    fn turn(&mut self, dice: &mut Dice, faults: bool) -> Result<(), String> {
        let lane = usize::try_from(dice.below(self.lanes.len() as u64)).unwrap();
        self.now += Duration::from_millis(if dice.percent(85) { dice.below(50) } else { dice.below(3_000) });
        match dice.below(20) {
            0 if faults => self.server.publish(),
            1 if faults && dice.percent(30) => self.server.crash(1 + dice.below(3)),
            2 if !self.server.up => (self.server.up, self.server.process) = (true, self.server.process + 1),
            // The server gives sequences anew without a restart: the pulls of a lane that has some end with that. One that
            // is alone and has none learns it by the first that displaces one of its own; until then the server knows of
            // none that an ack could settle.
            3 if faults && self.server.up && dice.percent(10) => {
                self.server.crash(if dice.percent(50) { u64::MAX } else { 1 + dice.below(3) });
                self.server.up = true;
                if self.lanes.len() > 1 || dice.percent(50) {
                    (0..self.lanes.len()).for_each(|lane| self.forget(lane));
                }
            }
            4..6 => self.connects(lane),
            6..10 => {
                self.delivered(lane);
            }
            _ => self.goes_on(dice, lane)?,
        }
        Ok(())
    }
}

fn play(seed: u64, turns: u64) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let mut world = World::new(&mut dice);
    for _ in 0..turns {
        world.turn(&mut dice, true)?;
    }
    for _ in 0..20_000 {
        let settled = world.server.stored.keys().all(|sequence| world.server.settled.contains(sequence));
        if settled && world.lanes.iter().all(|lane| lane.hands.is_empty() && lane.in_hand.is_empty()) {
            return Ok(());
        }
        world.turn(&mut dice, false)?;
    }
    Err(format!("no end: {:?} of {:?}", world.server.settled, world.server.stored))
}

#[test]
fn a_sequence_that_another_message_has_now_is_never_settled_for_the_lost_one() {
    let worlds = std::env::var("JETGATE_TEST_WORLDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000);
    for seed in 0..worlds {
        let turns = 50 + seed % 250;
        if let Err(broken) = play(seed, turns) {
            panic!("seed {seed}, {turns} turns: {broken}");
        }
    }
}

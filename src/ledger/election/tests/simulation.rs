//! The promises under random faults, also where two processes that live have one pod's name.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::super::*;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One Lease with compare-and-set, and candidates whose calls are late, lost, answered late or never, and who crash,
/// come back in the same pod (at times beside the one that still lives), stop for a while and hear nothing of NATS.
struct World {
    rng: StdRng,
    t0: Instant,
    now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Todo)>>,
    lease: Option<Lease>,
    version: u64,
    processes: BTreeMap<u32, Process>,
    epochs: BTreeSet<u64>,
    terms: u32,
    last_term: u64,
    /// When the namesake of a process that may live became leader, and its pod.
    inherited: Option<(u64, String)>,
    twins: u32,
}

struct Process {
    pod: String,
    election: Election,
    /// NATS does not answer it before this.
    cut_off_until: u64,
    /// The call that is awaited; answers to older ones are dropped.
    awaited: u64,
    /// A stopped process takes nothing before this.
    stopped_until: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Todo {
    Tick(u32),
    Beat(u32),
    Land { process: u32, call: u64, request: Request, answer_after: Option<u64> },
    Answer { process: u32, call: u64, answer: Answer },
    Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    Read,
    Create(String, u32),
    Replace(u64, String, u32),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Found(Option<(String, u32, u64)>),
    Done(String, u32, u64),
    Conflict,
    Failed { read: bool },
}

/// Faults until then.
const CALM: u64 = 60_000;
const END: u64 = 110_000;

impl World {
    fn run(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let candidates = rng.random_range(2..=3);
        #[allow(clippy::disallowed_methods)] // Any instant will do.
        let t0 = Instant::now();
        let mut world = Self {
            rng,
            t0,
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            lease: None,
            version: 100,
            processes: BTreeMap::new(),
            epochs: BTreeSet::new(),
            terms: 0,
            last_term: 0,
            inherited: None,
            twins: 0,
        };
        for candidate in 0..candidates {
            world.launch(candidate, format!("pod-{candidate}"));
        }
        world.put(500, Todo::Fault);
        while let Some(Reverse((at, _, todo))) = world.queue.pop() {
            if at > END {
                break;
            }
            world.now = at;
            world.handle(todo);
            world.check(seed);
        }
        world
    }

    fn instant(&self) -> Instant {
        self.t0 + ms(self.now)
    }

    fn put(&mut self, after: u64, todo: Todo) {
        self.order += 1;
        self.queue.push(Reverse((self.now + after, self.order, todo)));
    }

    fn launch(&mut self, id: u32, pod: String) {
        let name = Name { own: format!("{pod}/{id}"), pod: Some(format!("{pod}/")) };
        let election = Election::new(name, LeaseTimes::default());
        self.processes.insert(id, Process { pod, election, cut_off_until: 0, awaited: 0, stopped_until: 0 });
        let after = self.rng.random_range(0..300);
        self.put(after, Todo::Tick(id));
        let after = self.rng.random_range(0..300);
        self.put(after, Todo::Beat(id));
    }

    /// Never two leaders, but for the time that the namesakes of a process may take to notice that it took the Lease
    /// from them: until then the books fence them.
    fn check(&self, seed: u64) {
        let leaders: Vec<_> = self
            .processes
            .values()
            .filter(|process| process.election.leading(self.instant()).is_some())
            .map(|process| &process.pod)
            .collect();
        let pod = self.inherited.as_ref().map(|(_, pod)| pod);
        let fenced = self.is_shared() && leaders.iter().all(|leader| Some(*leader) == pod);
        assert!(leaders.len() <= 1 || fenced, "seed {seed}, {} ms: {leaders:?} lead", self.now);
    }

    /// A namesake took the Lease so shortly ago that the other may lead on.
    fn is_shared(&self) -> bool {
        let renew_deadline = u64::try_from(LeaseTimes::DEFAULT.renew_deadline.as_millis()).unwrap();
        self.inherited.as_ref().is_some_and(|(at, _)| self.now < at + renew_deadline)
    }

    fn handle(&mut self, todo: Todo) {
        match todo {
            Todo::Tick(id) => self.event(id, None, Event::Tick),
            Todo::Beat(id) => {
                let (at, now) = (self.instant(), self.now);
                let Some(process) = self.processes.get_mut(&id) else { return };
                if now >= process.cut_off_until && now >= process.stopped_until {
                    process.election.heard(at);
                    self.event(id, None, Event::Tick);
                }
                self.put(1_000, Todo::Beat(id));
            }
            Todo::Land { process, call, request, answer_after } => {
                let answer = self.serve(request);
                if let Some(after) = answer_after {
                    self.put(after, Todo::Answer { process, call, answer });
                }
            }
            Todo::Answer { process, call, answer } => {
                let view = |(holder, transitions, resource_version)| Lease {
                    holder,
                    duration: secs(6),
                    transitions,
                    acquired: None,
                    resource_version,
                };
                let event = match answer {
                    Answer::Found(found) => Event::Seen(found.map(view)),
                    Answer::Done(holder, transitions, version) => {
                        Event::WriteDone(view((holder, transitions, version)))
                    }
                    Answer::Conflict => Event::WriteConflict,
                    Answer::Failed { read: true } => Event::ReadFailed,
                    Answer::Failed { read: false } => Event::WriteFailed,
                };
                self.event(process, Some(call), event);
            }
            Todo::Fault => self.fault(),
        }
    }

    fn serve(&mut self, request: Request) -> Answer {
        let before = self.lease.as_ref().map(|lease| lease.holder.clone());
        let (holder, transitions) = match request {
            Request::Read => {
                let lease = self.lease.clone();
                return Answer::Found(lease.map(|lease| (lease.holder, lease.transitions, lease.resource_version)));
            }
            Request::Create(holder, transitions) if self.lease.is_none() => (holder, transitions),
            Request::Replace(version, holder, transitions)
                if self.lease.as_ref().is_some_and(|lease| lease.resource_version == version) =>
            {
                (holder, transitions)
            }
            Request::Create(..) | Request::Replace(..) => return Answer::Conflict,
        };
        let pod = |holder: &str| holder.rsplit_once('/').map(|(pod, _)| pod.to_owned());
        if let (Some(old), Some(new)) = (before.as_deref().and_then(pod), pod(&holder))
            && old == new
            && before.as_deref() != Some(holder.as_str())
        {
            self.inherited = Some((self.now, new));
        }
        self.version += self.rng.random_range(1..5);
        let version = self.version;
        self.lease = Some(Lease {
            holder: holder.clone(),
            duration: secs(6),
            transitions,
            acquired: None,
            resource_version: version,
        });
        Answer::Done(holder, transitions, version)
    }

    fn event(&mut self, id: u32, call: Option<u64>, event: Event) {
        let now = self.instant();
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if call.is_some_and(|call| call != process.awaited) {
            return;
        }
        if self.now < process.stopped_until {
            let wait = process.stopped_until - self.now;
            let todo = match (call, event) {
                (Some(call), event) => Todo::Answer { process: id, call, answer: unanswered(event) },
                (None, _) => Todo::Tick(id),
            };
            self.put(wait, todo);
            return;
        }
        if call.is_some() {
            process.awaited = 0;
        }
        for action in process.election.step(event, now) {
            self.act(id, action);
        }
        let deadline = self.processes.get(&id).and_then(|process| process.election.deadline());
        if let Some(deadline) = deadline {
            let at = u64::try_from((deadline - self.t0).as_millis()).unwrap();
            assert!(at > self.now, "a deadline in the past: the shell would spin");
            self.put(at - self.now, Todo::Tick(id));
        }
    }

    fn act(&mut self, id: u32, action: Action) {
        let request = match action {
            Action::Read => Request::Read,
            Action::Create(claim) => Request::Create(claim.holder, claim.transitions),
            Action::Replace { resource_version, claim } => {
                Request::Replace(resource_version, claim.holder, claim.transitions)
            }
            Action::BecameLeader { epoch } => {
                self.terms += 1;
                self.last_term = self.now;
                // The answer of a write may come after a namesake's has; the books go on from the higher one.
                let last = self.epochs.last().copied();
                assert!(last.is_none_or(|last| epoch > last) || self.is_shared(), "epochs rise");
                assert!(self.epochs.insert(epoch), "epochs are used once");
                return;
            }
            Action::LostLeadership(_) => return,
        };
        self.order += 1;
        let call = self.order;
        let process = self.processes.get_mut(&id).unwrap();
        assert_eq!(process.awaited, 0, "one call at a time");
        process.awaited = call;
        let read = request == Request::Read;
        let bad = self.now < CALM && self.rng.random_bool(0.25);
        let (way, answer_after, limit) = if bad {
            let way = self.rng.random_range(1..15_000);
            let answer = self.rng.random_bool(0.5).then(|| self.rng.random_range(1..6_000));
            let limit = if self.rng.random_bool(0.8) { 1_500 } else { 8_000 };
            (self.rng.random_bool(0.7).then_some(way), answer, limit)
        } else {
            (Some(self.rng.random_range(1..30)), Some(self.rng.random_range(1..30)), 1_500)
        };
        if let Some(way) = way {
            self.put(way, Todo::Land { process: id, call, request, answer_after });
        }
        self.put(limit, Todo::Answer { process: id, call, answer: Answer::Failed { read } });
    }

    fn fault(&mut self) {
        if self.now >= CALM {
            return;
        }
        let ids: Vec<u32> = self.processes.keys().copied().collect();
        let id = ids[self.rng.random_range(0..ids.len())];
        match self.rng.random_range(0..6) {
            0 => {
                // Its calls under way may still land. The next process comes in the same pod.
                let dead = self.processes.remove(&id).unwrap();
                let next = ids.last().unwrap() + 10;
                self.launch(next, dead.pod);
            }
            1 => {
                let stop = self.rng.random_range(100..12_000);
                self.processes.get_mut(&id).unwrap().stopped_until = self.now + stop;
            }
            2 => {
                let silent = self.rng.random_range(100..20_000);
                self.processes.get_mut(&id).unwrap().cut_off_until = self.now + silent;
            }
            4 if ids.len() < 6 => {
                // The other one lives on.
                let pod = self.processes.get(&id).unwrap().pod.clone();
                let next = ids.last().unwrap() + 10;
                self.twins += 1;
                self.launch(next, pod);
            }
            3 if self.rng.random_bool(0.3) => {
                self.event(id, None, Event::Shutdown);
                let next = ids.last().unwrap() + 10;
                self.launch(next, format!("pod-{next}"));
            }
            _ => {}
        }
        let pause = self.rng.random_range(200..6_000);
        self.put(pause, Todo::Fault);
    }
}

fn unanswered(event: Event) -> Answer {
    match event {
        Event::Seen(lease) => {
            Answer::Found(lease.map(|lease| (lease.holder, lease.transitions, lease.resource_version)))
        }
        Event::WriteDone(lease) => Answer::Done(lease.holder, lease.transitions, lease.resource_version),
        Event::WriteConflict => Answer::Conflict,
        Event::ReadFailed => Answer::Failed { read: true },
        Event::WriteFailed => Answer::Failed { read: false },
        Event::Tick | Event::Shutdown | Event::Refused(_) => panic!("no answer"),
    }
}

/// `JETGATE_SEED` replays one.
#[test]
fn never_two_leaders_and_one_in_the_end() {
    let seeds = match std::env::var("JETGATE_SEED") {
        Ok(seed) => seed.parse().map(|seed| seed..=seed).unwrap(),
        Err(_) if std::env::var_os("JETGATE_SOAK").is_some() => 1..=20_000,
        Err(_) => 1..=2_000,
    };
    let (mut terms, mut twins) = (0, 0);
    for seed in seeds {
        let world = World::run(seed);
        let end = world.t0 + ms(END);
        let leaders: Vec<_> =
            world.processes.values().filter(|process| process.election.leading(end).is_some()).collect();
        assert_eq!(leaders.len(), 1, "seed {seed}: nobody leads in the end");
        let last = world.last_term;
        assert!(last < CALM + 30_000, "seed {seed}: no rest, the last leader came at {last} ms");
        terms += world.terms;
        twins += world.twins;
    }
    assert!(terms > 0 && twins > 0);
}

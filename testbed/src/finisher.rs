//! A stand-in for the controller of a kind: deletes objects when they are "finished".

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Preconditions, WatchEvent, WatchParams};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::control_plane::{ControlPlane, Resource, client_from};
use crate::error::{Error, Result};
use crate::tasks::{self, Task};

// Deletes under way at once; enough for 300 a second at 50 ms each.
const AT_ONCE: usize = 32;
const COMMANDS: usize = 64;

/// When objects are finished.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each so long after it was seen.
    After(Duration),
    /// Any of those that are alive, so many a second.
    AtRandom {
        /// Deletions a second.
        per_second: f64,
        /// Which ones, the same for the same seed and sights.
        seed: u64,
    },
    /// Only when told to.
    OnDemand,
}

/// What a finisher has done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Finished {
    /// Objects that it picked at its own pace.
    pub picked: usize,
    /// How long there was nothing to pick.
    pub starved: Duration,
}

/// Finishes the objects of one kind in one namespace until it is dropped.
#[derive(Debug)]
pub struct Finisher {
    commands: mpsc::Sender<Command>,
    finished: Arc<Mutex<Finished>>,
    _work: Task,
}

enum Command {
    Pace(Pace),
    One(oneshot::Sender<Option<String>>),
    All(oneshot::Sender<usize>),
}

impl Finisher {
    /// Starts one as administrator.
    pub async fn start(plane: &ControlPlane, resource: &Resource, namespace: &str, pace: Pace) -> Result<Self> {
        Ok(Self::start_with(plane.config().await?, resource, namespace, pace))
    }

    /// Starts one for any address and login.
    pub fn start_with(config: kube::Config, resource: &Resource, namespace: &str, pace: Pace) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let finished = Arc::default();
        let tell = Arc::clone(&finished);
        let resource = resource.api_resource();
        let namespace = namespace.to_owned();
        let work = Task::start(async move {
            // Made here, since a client belongs to the runtime that makes it.
            match client_from(config) {
                Ok(client) => {
                    let api = Api::namespaced_with(client, &namespace, &resource);
                    Work::new(api, pace, tell).run(inbox).await;
                }
                Err(error) => tracing::error!(%error, "the finisher has no client"),
            }
        });
        Self { commands, finished, _work: work }
    }

    /// What it has done so far.
    pub fn finished(&self) -> Finished {
        *locked(&self.finished)
    }

    /// Changes the pace; what is alive counts from its sight.
    pub async fn set_pace(&self, pace: Pace) -> Result<()> {
        self.send(Command::Pace(pace)).await
    }

    /// Finishes the oldest object now; its name once it is deleted, `None` where there was none.
    pub async fn finish_one(&self) -> Result<Option<String>> {
        let (answer, reply) = oneshot::channel();
        self.send(Command::One(answer)).await?;
        reply.await.map_err(Error::doing("finish one object"))
    }

    /// Finishes everything that is alive now; how many, once all are deleted.
    pub async fn finish_all(&self) -> Result<usize> {
        let (answer, reply) = oneshot::channel();
        self.send(Command::All(answer)).await?;
        reply.await.map_err(Error::doing("finish all objects"))
    }

    async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_closed| Error::Binaries("the finisher has ended".to_owned()))
    }
}

struct Work {
    api: Api<DynamicObject>,
    pace: Pace,
    random: u64,
    // By uid: the name, and when it was seen first.
    alive: BTreeMap<String, (String, Instant)>,
    slots: Arc<Semaphore>,
    next: Instant,
    finished: Arc<Mutex<Finished>>,
}

fn locked(finished: &Mutex<Finished>) -> MutexGuard<'_, Finished> {
    finished.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work {
    fn new(api: Api<DynamicObject>, pace: Pace, finished: Arc<Mutex<Finished>>) -> Self {
        Self {
            api,
            pace,
            random: seed_of(pace),
            alive: BTreeMap::new(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            next: Instant::now(),
            finished,
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let (sights, mut seen) = mpsc::channel(1024);
        let _watching = Task::start(watch(self.api.clone(), sights));
        loop {
            let empty = self.alive.is_empty().then(Instant::now);
            let due = tokio::time::Instant::from_std(self.due());
            tokio::select! {
                sight = seen.recv() => match sight {
                    Some(sight) => self.see(sight),
                    None => return,
                },
                command = inbox.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = tokio::time::sleep_until(due) => self.work(),
            }
            if let Some(empty) = empty {
                locked(&self.finished).starved += empty.elapsed();
            }
        }
    }

    fn see(&mut self, sight: Sight) {
        match sight {
            Sight::Alive(uid, name) => {
                self.alive.entry(uid).or_insert_with(|| (name, Instant::now()));
            }
            Sight::Gone(uid) => {
                self.alive.remove(&uid);
            }
            Sight::List(list) => {
                let now = Instant::now();
                let mut before = std::mem::take(&mut self.alive);
                self.alive = list
                    .into_iter()
                    .map(|(uid, name)| {
                        let entry = before.remove(&uid).unwrap_or((name, now));
                        (uid, entry)
                    })
                    .collect();
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Pace(pace) => {
                self.pace = pace;
                self.random = seed_of(pace);
                self.next = Instant::now();
            }
            Command::One(answer) => {
                // By a quorum list, so that it knows what was created a moment ago.
                let oldest = self.oldest().await;
                if let Some((_, name, uid)) = oldest.clone() {
                    delete(self.api.clone(), name, uid).await;
                }
                answer.send(oldest.map(|(_, name, _)| name)).ok();
            }
            Command::All(answer) => {
                let names = self.listed().await;
                let count = names.len();
                futures::stream::iter(names)
                    .for_each_concurrent(AT_ONCE, |(_, name, uid)| delete(self.api.clone(), name, uid))
                    .await;
                answer.send(count).ok();
            }
        }
    }

    async fn listed(&self) -> Vec<Listed> {
        let Ok(list) = self.api.list_metadata(&ListParams::default()).await else {
            return Vec::new();
        };
        list.items
            .into_iter()
            .filter_map(|object| {
                let created = object.metadata.creation_timestamp.map(|time| time.0.as_second());
                Some((created, object.metadata.name?, object.metadata.uid?))
            })
            .collect()
    }

    async fn oldest(&self) -> Option<Listed> {
        self.listed().await.into_iter().min()
    }

    /// When there is something to do next.
    fn due(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(3600);
        match self.pace {
            Pace::OnDemand => far,
            Pace::AtRandom { .. } if self.alive.is_empty() => far,
            Pace::AtRandom { .. } => self.next,
            Pace::After(age) => self.alive.values().map(|(_, seen)| *seen + age).min().unwrap_or(far),
        }
    }

    fn work(&mut self) {
        let now = Instant::now();
        match self.pace {
            Pace::OnDemand => {}
            Pace::After(age) => {
                let ripe: Vec<String> =
                    self.alive.iter().filter(|(_, (_, seen))| *seen + age <= now).map(|(uid, _)| uid.clone()).collect();
                for uid in ripe {
                    self.finish(&uid);
                }
            }
            Pace::AtRandom { per_second, .. } => {
                let Ok(count) = u64::try_from(self.alive.len()) else {
                    return;
                };
                if count == 0 {
                    return;
                }
                let pick = usize::try_from(next_random(&mut self.random) % count).unwrap_or(0);
                if let Some(uid) = self.alive.keys().nth(pick).cloned() {
                    self.finish(&uid);
                }
                let step = Duration::from_secs_f64(1.0 / per_second.max(0.001));
                // From when it was due, so that the rate is kept; but what was missed while nothing was alive is not
                // made up for.
                let behind = Duration::from_millis(100);
                self.next = (self.next + step).max(now.checked_sub(behind).unwrap_or(now));
            }
        }
    }

    /// Deletes it beside us; it is forgotten at once so that it is not picked twice.
    fn finish(&mut self, uid: &str) {
        let Some((name, _)) = self.alive.remove(uid) else {
            return;
        };
        locked(&self.finished).picked += 1;
        let api = self.api.clone();
        let slots = Arc::clone(&self.slots);
        let uid = uid.to_owned();
        tasks::spawn(async move {
            let _slot = slots.acquire_owned().await;
            delete(api, name, uid).await;
        });
    }
}

/// When it was created, name, uid.
type Listed = (Option<i64>, String, String);

enum Sight {
    Alive(String, String),
    Gone(String),
    List(Vec<(String, String)>),
}

/// Deletes until the API server answers: an outage must not leave objects for ever. Only the object that was meant, not
/// one that was made later under its name.
async fn delete(api: Api<DynamicObject>, name: String, uid: String) {
    let params = DeleteParams::default().preconditions(Preconditions { uid: Some(uid), resource_version: None });
    for _ in 0..600 {
        match tokio::time::timeout(Duration::from_secs(10), api.delete(&name, &params)).await {
            Ok(Ok(_)) => return,
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => return,
            Ok(Err(_)) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Lists and watches for ever; a broken watch begins with a new list.
async fn watch(api: Api<DynamicObject>, sights: mpsc::Sender<Sight>) {
    while !sights.is_closed() {
        if watch_once(&api, &sights).await.is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn watch_once(api: &Api<DynamicObject>, sights: &mpsc::Sender<Sight>) -> Option<()> {
    let list = api.list_metadata(&ListParams::default()).await.ok()?;
    let version = list.metadata.resource_version.unwrap_or_default();
    let all = list.items.into_iter().filter_map(|object| Some((object.metadata.uid?, object.metadata.name?))).collect();
    sights.send(Sight::List(all)).await.ok()?;
    let events = api.watch_metadata(&WatchParams::default().timeout(60), &version).await.ok()?;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let sight = match event.ok()? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                // Already on its way out: deleting it again says nothing.
                if object.metadata.deletion_timestamp.is_some() {
                    continue;
                }
                Sight::Alive(object.metadata.uid?, object.metadata.name?)
            }
            WatchEvent::Deleted(object) => Sight::Gone(object.metadata.uid?),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(_) => return None,
        };
        sights.send(sight).await.ok()?;
    }
    Some(())
}

fn seed_of(pace: Pace) -> u64 {
    match pace {
        Pace::AtRandom { seed, .. } => seed,
        Pace::After(_) | Pace::OnDemand => 0,
    }
}

/// SplitMix64: small, and the same everywhere.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

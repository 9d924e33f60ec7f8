//! What the referee sees: every object that ever was, in the order of the API server's history.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::core::ApiResource;
use tokio::sync::watch;

use crate::control_plane::client_from;

const LIST_EVERY: Duration = Duration::from_millis(200);
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// One object that was seen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its annotations when it was created.
    pub annotations: BTreeMap<String, String>,
    /// Its labels when it was created.
    pub labels: BTreeMap<String, String>,
    /// When it was seen first, since the referee began.
    pub seen_after: Duration,
    /// When it was seen to be gone, since the referee began.
    pub gone_after: Option<Duration>,
}

/// Everything seen so far.
#[derive(Clone, Debug)]
pub struct Tally {
    began: Instant,
    pub(super) watching: bool,
    objects: BTreeMap<String, Seen>,
    order: Vec<String>,
    alive: BTreeSet<String>,
    most_watched: usize,
    most_listed: usize,
    timeline: Vec<(Duration, usize)>,
    lists: usize,
    relists: usize,
}

impl Tally {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            began,
            watching: false,
            objects: BTreeMap::new(),
            order: Vec::new(),
            alive: BTreeSet::new(),
            most_watched: 0,
            most_listed: 0,
            timeline: Vec::new(),
            lists: 0,
            relists: 0,
        }
    }

    /// How many are alive.
    pub fn alive(&self) -> usize {
        self.alive.len()
    }

    /// How many were ever created.
    pub fn created(&self) -> usize {
        self.objects.len()
    }

    /// How many are gone.
    pub fn deleted(&self) -> usize {
        self.objects.len() - self.alive.len()
    }

    /// The most that were alive at once, whether the watch or a quorum list saw them.
    pub fn most_alive(&self) -> usize {
        self.most_watched.max(self.most_listed)
    }

    /// The most that one quorum list held.
    pub fn most_listed(&self) -> usize {
        self.most_listed
    }

    /// How many quorum lists were made beside the watch.
    pub fn lists(&self) -> usize {
        self.lists
    }

    /// How often the watch had to begin again with a list, so that something may have come and gone unseen (the audit
    /// log knows).
    pub fn relists(&self) -> usize {
        self.relists
    }

    /// Every object that ever was, in order of creation.
    pub fn objects(&self) -> impl Iterator<Item = &Seen> {
        self.order.iter().filter_map(|uid| self.objects.get(uid))
    }

    /// The names that are alive.
    pub fn names_alive(&self) -> BTreeSet<&str> {
        self.alive.iter().filter_map(|uid| self.objects.get(uid)).map(|seen| seen.name.as_str()).collect()
    }

    /// How many objects each name ever had.
    pub fn names(&self) -> BTreeMap<&str, usize> {
        let mut names = BTreeMap::new();
        for seen in self.objects.values() {
            *names.entry(seen.name.as_str()).or_default() += 1;
        }
        names
    }

    /// How many were alive from which moment on.
    pub fn timeline(&self) -> &[(Duration, usize)] {
        &self.timeline
    }

    /// How many were alive on average between two moments.
    pub fn mean_alive(&self, from: Duration, to: Duration) -> f64 {
        let (mut at, mut level, mut sum) = (from, 0_usize, 0.0);
        let weight = |level: usize| f64::from(u32::try_from(level).unwrap_or(u32::MAX));
        for &(moment, now) in &self.timeline {
            if moment > to {
                break;
            }
            if moment > from {
                sum += weight(level) * (moment - at).as_secs_f64();
                at = moment;
            }
            level = now;
        }
        sum += weight(level) * to.saturating_sub(at).as_secs_f64();
        let span = to.saturating_sub(from).as_secs_f64();
        if span > 0.0 { sum / span } else { 0.0 }
    }

    /// The time since the referee began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn appeared(&mut self, metadata: ObjectMeta) {
        let (Some(uid), Some(name)) = (metadata.uid, metadata.name) else {
            return;
        };
        if self.objects.contains_key(&uid) {
            return;
        }
        let seen = Seen {
            name,
            uid: uid.clone(),
            annotations: metadata.annotations.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            seen_after: self.began.elapsed(),
            gone_after: None,
        };
        self.objects.insert(uid.clone(), seen);
        self.order.push(uid.clone());
        self.alive.insert(uid);
        self.note();
    }

    fn vanished(&mut self, uid: &str) {
        if self.alive.remove(uid) {
            let gone = self.began.elapsed();
            if let Some(seen) = self.objects.get_mut(uid) {
                seen.gone_after = Some(gone);
            }
            self.note();
        }
    }

    /// A quorum list held so many.
    pub(super) fn listed(&mut self, count: usize) {
        self.lists += 1;
        self.most_listed = self.most_listed.max(count);
    }

    fn note(&mut self) {
        self.most_watched = self.most_watched.max(self.alive.len());
        self.timeline.push((self.began.elapsed(), self.alive.len()));
    }

    /// What is alive by a list, with which the watch begins.
    pub(super) fn replaced(&mut self, list: Vec<ObjectMeta>) {
        let present: BTreeSet<String> = list.iter().filter_map(|meta| meta.uid.clone()).collect();
        // The gone ones first: both at once would make more alive than ever were.
        let gone: Vec<String> = self.alive.difference(&present).cloned().collect();
        for uid in gone {
            self.vanished(&uid);
        }
        for metadata in list {
            self.appeared(metadata);
        }
        if self.watching {
            self.relists += 1;
        }
        self.watching = true;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} created, {} alive, {} deleted, most alive at once {}",
            self.created(),
            self.alive(),
            self.deleted(),
            self.most_alive()
        )
    }
}

/// Watches for ever, over every outage. It goes on from where it was; only where the API server has forgotten that
/// does it begin again with a list.
pub(super) async fn watch(config: kube::Config, resource: ApiResource, namespace: String, tally: watch::Sender<Tally>) {
    let mut version: Option<String> = None;
    // A client for each try: what was wrong with a connection is not carried on.
    while !tally.is_closed() {
        if let Ok(client) = client_from(config.clone()) {
            let api = Api::namespaced_with(client, &namespace, &resource);
            if follow(&api, &mut version, &tally).await.is_none() {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
}

/// One watch call, and the list before it where there is no version to go on from. `None`: it failed.
async fn follow(api: &Api<DynamicObject>, version: &mut Option<String>, tally: &watch::Sender<Tally>) -> Option<()> {
    let from = match version.clone() {
        Some(from) => from,
        None => {
            let list = api.list_metadata(&ListParams::default()).await.ok()?;
            let from = list.metadata.resource_version?;
            let items = list.items.into_iter().map(|item| item.metadata).collect();
            tally.send_modify(|tally| tally.replaced(items));
            version.insert(from).clone()
        }
    };
    let params = WatchParams::default().timeout(60);
    let events = match api.watch_metadata(&params, &from).await {
        Ok(events) => events,
        Err(kube::Error::Api(status)) if status.code == 410 => {
            *version = None;
            return Some(());
        }
        Err(_) => return None,
    };
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event.ok()? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                version.clone_from(&object.metadata.resource_version);
                tally.send_modify(|tally| tally.appeared(object.metadata));
            }
            WatchEvent::Deleted(object) => {
                version.clone_from(&object.metadata.resource_version);
                let uid = object.metadata.uid.unwrap_or_default();
                tally.send_modify(|tally| tally.vanished(&uid));
            }
            WatchEvent::Bookmark(bookmark) => *version = Some(bookmark.metadata.resource_version),
            WatchEvent::Error(status) => {
                if status.code == 410 {
                    *version = None;
                }
                return None;
            }
        }
    }
    Some(())
}

/// Quorum lists beside the watch: a second pair of eyes for how many are alive.
pub(super) async fn list(config: kube::Config, resource: ApiResource, namespace: String, tally: watch::Sender<Tally>) {
    let Ok(client) = client_from(config) else {
        return;
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client, &namespace, &resource);
    while !tally.is_closed() {
        let params = ListParams::default();
        let list = tokio::time::timeout(Duration::from_secs(10), api.list_metadata(&params)).await;
        if let Ok(Ok(list)) = list {
            tally.send_modify(|tally| tally.listed(list.items.len()));
        }
        tokio::time::sleep(LIST_EVERY).await;
    }
}

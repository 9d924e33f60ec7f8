//! The referee: sees for itself what was created, deleted and alive, with a watch, quorum lists and the audit log of its
//! own. It knows nothing of who creates and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::audit::Audit;
use crate::control_plane::{ControlPlane, Resource};
use crate::error::{Error, Result};
use crate::tasks::Task;

mod sight;
mod stream;

pub use sight::{Seen, Tally};
pub use stream::{StreamMessage, stream_messages};

/// Watches one kind in one namespace until it is dropped.
#[derive(Debug)]
pub struct Referee {
    tally: watch::Receiver<Tally>,
    resource: Resource,
    namespace: String,
    _watching: Task,
    _listing: Task,
}

impl Referee {
    /// Starts to watch; what is alive already counts as created. Back when the first list is there.
    pub async fn watch(plane: &ControlPlane, resource: &Resource, namespace: &str) -> Result<Self> {
        Self::watch_with(plane.config().await?, resource, namespace).await
    }

    /// As [`watch`](Self::watch), through any API server.
    pub async fn watch_with(config: kube::Config, resource: &Resource, namespace: &str) -> Result<Self> {
        let (sender, tally) = watch::channel(Tally::new(Instant::now()));
        let api = resource.api_resource();
        let watching = Task::start(sight::watch(config.clone(), api.clone(), namespace.to_owned(), sender.clone()));
        let listing = Task::start(sight::list(config, api, namespace.to_owned(), sender));
        let referee = Self {
            tally,
            resource: resource.clone(),
            namespace: namespace.to_owned(),
            _watching: watching,
            _listing: listing,
        };
        referee.until("the referee's first list", Duration::from_secs(30), |tally| tally.watching).await?;
        Ok(referee)
    }

    /// Everything seen so far.
    pub fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    /// Waits until what was seen fulfils a condition.
    pub async fn until(&self, what: &str, limit: Duration, condition: impl Fn(&Tally) -> bool) -> Result<()> {
        let mut tally = self.tally.clone();
        match tokio::time::timeout(limit, tally.wait_for(|tally| condition(tally))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(ended)) => Err(Error::doing("watch as referee")(ended)),
            Err(_elapsed) => {
                let now = self.tally.borrow().to_string();
                Err(Error::Timeout { what: format!("{what} (seen: {now})"), limit })
            }
        }
    }

    /// Waits until so many objects were ever created.
    pub async fn until_created(&self, count: usize, limit: Duration) -> Result<()> {
        self.until(&format!("{count} objects created"), limit, |tally| tally.created() >= count).await
    }

    /// Waits until exactly so many are alive.
    pub async fn until_alive(&self, count: usize, limit: Duration) -> Result<()> {
        self.until(&format!("{count} objects alive"), limit, |tally| tally.alive() == count).await
    }

    /// Judges: each of `expected` is the value of `annotation` that exactly one object ever created must have.
    pub fn verdict<I, S>(&self, audit: &Audit, annotation: &str, expected: I) -> Verdict
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let tally = self.tally.borrow();
        let mut by_cause: BTreeMap<&str, usize> = BTreeMap::new();
        let mut foreign = 0;
        for seen in tally.objects() {
            match seen.annotations.get(annotation) {
                Some(cause) => *by_cause.entry(cause).or_default() += 1,
                None => foreign += 1,
            }
        }
        let expected: BTreeSet<String> = expected.into_iter().map(Into::into).collect();
        let lost = expected.iter().filter(|cause| !by_cause.contains_key(cause.as_str())).cloned().collect();
        let unexpected =
            by_cause.keys().filter(|cause| !expected.contains(**cause)).map(|cause| (*cause).to_owned()).collect();
        let doubled = by_cause.iter().filter(|(_, count)| **count > 1).map(|(cause, _)| (*cause).to_owned()).collect();
        self.judge(&tally, audit, lost, doubled, unexpected, foreign)
    }

    fn judge(
        &self,
        tally: &Tally,
        audit: &Audit,
        lost: Vec<String>,
        mut doubled: Vec<String>,
        unexpected: Vec<String>,
        foreign: usize,
    ) -> Verdict {
        // A second witness: what the API server says that it created, also between two sights of ours.
        for (name, count) in audit.created(&self.resource, &self.namespace) {
            if count > 1 && !name.is_empty() && !doubled.contains(&name) {
                doubled.push(name);
            }
        }
        Verdict {
            created: tally.created(),
            lost,
            doubled,
            unexpected,
            foreign,
            most_alive: tally.most_alive(),
            alive: tally.alive(),
            refusals_403: audit.posts_with(&self.resource, &self.namespace, 403),
            posts: audit.posts(&self.resource, &self.namespace).count(),
            posts_201: audit.posts_with(&self.resource, &self.namespace, 201),
        }
    }
}

/// What the referee says at the end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Objects ever created, by the watch.
    pub created: usize,
    /// What should have had an object and never had.
    pub lost: Vec<String>,
    /// What had more than one object ever.
    pub doubled: Vec<String>,
    /// What had an object and was not expected.
    pub unexpected: Vec<String>,
    /// Objects without the annotation: made by others.
    pub foreign: usize,
    /// The most objects alive at once, by watch or quorum list.
    pub most_alive: usize,
    /// Alive now.
    pub alive: usize,
    /// POSTs answered with 403, by the audit log.
    pub refusals_403: usize,
    /// All POSTs.
    pub posts: usize,
    /// POSTs answered with 201; more than `created` means that the watch missed some.
    pub posts_201: usize,
}

impl Verdict {
    /// Whether each cause has had exactly one object, and nothing else was created.
    pub fn is_clean(&self) -> bool {
        self.is_clean_beside(0)
    }

    /// The same, beside so many objects that others made.
    pub fn is_clean_beside(&self, foreign: usize) -> bool {
        self.lost.is_empty() && self.is_clean_so_far(foreign)
    }

    /// The same, where some causes are yet to have their object.
    pub fn is_clean_so_far(&self, foreign: usize) -> bool {
        // Fewer answered than created: a POST that was given up may be carried out, and is logged with another code.
        self.doubled.is_empty()
            && self.unexpected.is_empty()
            && self.foreign == foreign
            && self.posts_201 <= self.created
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} created, {} lost, {} doubled, most alive at once {}, {} refusals (403)",
            self.created,
            self.lost.len(),
            self.doubled.len(),
            self.most_alive,
            self.refusals_403
        )?;
        for (what, list) in [("lost", &self.lost), ("doubled", &self.doubled), ("unexpected", &self.unexpected)] {
            if !list.is_empty() {
                let some: Vec<&str> = list.iter().take(5).map(String::as_str).collect();
                write!(f, "; {what}: {}", some.join(", "))?;
                if list.len() > some.len() {
                    write!(f, " and {} more", list.len() - some.len())?;
                }
            }
        }
        for (what, count) in [("foreign", self.foreign), ("unseen", self.posts_201.saturating_sub(self.created))] {
            if count > 0 {
                write!(f, "; {what}: {count}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests")]

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    /// The most alive at once of a referee whose watch began with so many, and whose quorum list then held so many.
    fn most_alive(watched: usize, listed: usize) -> usize {
        let mut tally = Tally::new(Instant::now());
        let object = |number| {
            let name = Some(format!("{number}"));
            ObjectMeta { uid: name.clone(), name, ..Default::default() }
        };
        tally.replaced((0..watched).map(object).collect());
        tally.listed(listed);
        tally.listed(0);
        let referee = Referee {
            tally: watch::channel(tally).1,
            resource: Resource::widgets(),
            namespace: "any".to_owned(),
            _watching: Task::start(async {}),
            _listing: Task::start(async {}),
        };
        referee.verdict(&Audit::default(), "example.com/cause", [""; 0]).most_alive
    }

    #[test]
    fn either_pair_of_eyes_counts_for_the_most_alive() {
        assert_eq!(most_alive(2, 3), 3, "the watch missed one");
        assert_eq!(most_alive(3, 2), 3, "no list was made in time");
    }
}

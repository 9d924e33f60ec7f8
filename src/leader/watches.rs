//! The leader's eyes: the watch of the quotas and of the counted kind, resumed without a gap for as long as the API
//! server remembers.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tokio::sync::mpsc;

use crate::clock;
use crate::gate::QuotaView;
use crate::k8s::{CallError, Cluster, Kind, ObjectEvent, QuotaEvent, QuotaFault, Sight};
use crate::ledger::{Lack, QuotaUpdate, Refusal};
use crate::message::denied;
use crate::telemetry::WatchKind;

/// How long one watch call lives. The API server sends a bookmark in the last two seconds of it, so this bounds both how
/// long a half-open connection goes unnoticed and how late the record's version moves where nothing happens.
const WATCH_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause after a failed call, growing to the second.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a refusal is asked for again that is not believed yet.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often a forbidden list is tried again: a right may be given at any time.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(5);
/// A watch that ends sooner was ended by something on the way, or by a server that stops: it proves nothing, and is not
/// begun again at once.
const AT_ONCE: Duration = Duration::from_millis(500);

/// What a watch tells.
#[derive(Debug)]
pub(super) enum Seen {
    /// All quotas, by a list.
    Quotas { views: Vec<QuotaView>, began: Instant },
    /// One quota.
    Quota(QuotaUpdate),
    /// The quota watch is alive.
    QuotasAlive,
    /// All objects of the kind, by the list that begins a watch or renews it after a gap.
    Objects { objects: Vec<Sight>, version: u64, began: Instant, gap: bool },
    /// One object event. `replayed`: the list that came before knows of it already.
    Object { event: ObjectEvent, replayed: bool },
    /// The object watch is alive.
    ObjectsAlive,
    /// The kind may not be listed or watched.
    Forbidden { text: String },
    /// The quotas may not be listed or watched.
    QuotasForbidden { lack: Lack },
    /// A call failed and is tried again.
    Trouble { watch: WatchKind, error: CallError },
}

/// A pause that grows while calls fail.
struct Pause(Duration);

impl Pause {
    const fn new() -> Self {
        Self(PAUSE)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// The receiver is gone: the leader's session is over.
struct Over;

async fn tell(to: &mpsc::Sender<Seen>, seen: Seen) -> Result<(), Over> {
    to.send(seen).await.map_err(|_| Over)
}

/// Watches the quotas of a namespace until the receiver is gone.
pub(super) async fn quotas(cluster: Cluster, namespace: String, to: mpsc::Sender<Seen>) {
    // Ends only when nobody listens any more.
    let Err(Over) = watch_quotas(&cluster, &namespace, &to).await;
}

async fn watch_quotas(
    cluster: &Cluster,
    namespace: &str,
    to: &mpsc::Sender<Seen>,
) -> Result<std::convert::Infallible, Over> {
    let mut pause = Pause::new();
    // Each has an answer of its own: one may be allowed without the other.
    let (mut unlisted, mut unwatched) = (Refusal::default(), Refusal::default());
    loop {
        let began = clock::now();
        let (views, mut from) = match cluster.list_quotas(namespace).await {
            Ok(listed) => listed,
            Err(error) => {
                trouble(Eye::Quotas("list"), error, &mut unlisted, &mut pause, to).await?;
                continue;
            }
        };
        unlisted.over();
        tell(to, Seen::Quotas { views: readable(views), began }).await?;
        'resume: loop {
            let opened = clock::now();
            let mut watch = match cluster.watch_quotas(namespace, from, WATCH_TIMEOUT).await {
                Ok(watch) => watch,
                Err(CallError::Expired) => break 'resume,
                Err(error) => {
                    // The watch goes on from where it was, for as long as the API server remembers.
                    trouble(Eye::Quotas("watch"), error, &mut unwatched, &mut pause, to).await?;
                    continue 'resume;
                }
            };
            loop {
                match watch.next().await {
                    Some(Ok(event)) => {
                        pause = Pause::new();
                        unwatched.over();
                        match event {
                            QuotaEvent::Applied(Ok(view)) => {
                                from = from.max(view.resource_version);
                                tell(to, Seen::Quota(QuotaUpdate::Applied(view))).await?;
                            }
                            // What cannot be read counts as missing, which blocks who names it.
                            QuotaEvent::Applied(Err(fault)) => {
                                say_fault(&fault);
                                tell(to, Seen::Quota(QuotaUpdate::Deleted(fault.name))).await?;
                            }
                            QuotaEvent::Deleted { name, uid: _, resource_version } => {
                                from = from.max(resource_version);
                                tell(to, Seen::Quota(QuotaUpdate::Deleted(name))).await?;
                            }
                            QuotaEvent::Bookmark(version) => {
                                from = from.max(version);
                                tell(to, Seen::QuotasAlive).await?;
                            }
                        }
                    }
                    Some(Err(CallError::Expired)) => break 'resume,
                    Some(Err(error)) => {
                        trouble(Eye::Quotas("watch"), error, &mut unwatched, &mut pause, to).await?;
                        continue 'resume;
                    }
                    None if clock::now() < opened + AT_ONCE => {
                        pause.wait().await;
                        continue 'resume;
                    }
                    None => {
                        unwatched.over();
                        tell(to, Seen::QuotasAlive).await?;
                        continue 'resume;
                    }
                }
            }
        }
        pause.wait().await;
    }
}

/// The quotas that can be read; the others are said and count as missing, which blocks who names them.
pub(super) fn readable(views: Vec<Result<QuotaView, QuotaFault>>) -> Vec<QuotaView> {
    views.into_iter().filter_map(|view| view.inspect_err(say_fault).ok()).collect()
}

fn say_fault(fault: &QuotaFault) {
    tracing::error!(quota = fault.name, error = fault as &dyn std::error::Error, "a ResourceQuota cannot be read");
}

/// Watches the objects of a kind until the receiver is gone: on from `resume`, where a record stands there, so that
/// objects which came and went meanwhile are still told.
pub(super) async fn objects(
    cluster: Cluster,
    kind: Kind,
    namespace: String,
    resume: Option<u64>,
    to: mpsc::Sender<Seen>,
) {
    let Err(Over) = watch_objects(&cluster, &kind, &namespace, resume, &to).await;
}

async fn watch_objects(
    cluster: &Cluster,
    kind: &Kind,
    namespace: &str,
    mut resume: Option<u64>,
    to: &mpsc::Sender<Seen>,
) -> Result<std::convert::Infallible, Over> {
    let mut pause = Pause::new();
    let mut gap = false;
    // The watch is forbidden, and that was told: a list alone is no sign that it is allowed again.
    let mut barred = false;
    // Each has an answer of its own: one may be allowed without the other.
    let (mut unlisted, mut unwatched) = (Refusal::default(), Refusal::default());
    'list: loop {
        let began = clock::now();
        let (objects, listed) = match cluster.list(kind, namespace).await {
            Ok(listed) => listed,
            Err(error) => {
                // Forbidden or not, the list is what is tried again.
                trouble(Eye::Objects, error, &mut unlisted, &mut pause, to).await?;
                continue;
            }
        };
        unlisted.over();
        let mut untold = Some(Seen::Objects { objects, version: listed, began, gap });
        if !barred {
            tell_all(&mut untold, &mut gap, to).await?;
        }
        // A version that the API server has not reached would never be told of, nor called too old.
        let mut from = resume.take().filter(|version| *version <= listed).unwrap_or(listed);
        'resume: loop {
            let opened = clock::now();
            let mut watch = match cluster.watch(kind, namespace, from, WATCH_TIMEOUT).await {
                Ok(watch) => watch,
                Err(CallError::Expired) => break 'resume,
                Err(error) => {
                    let forbidden = trouble(Eye::Objects, error, &mut unwatched, &mut pause, to).await?;
                    barred |= forbidden;
                    // By the time that the watch opens an untold list would be old, and be told as new.
                    if forbidden || untold.is_some() {
                        resume = Some(from);
                        continue 'list;
                    }
                    continue 'resume;
                }
            };
            barred = false;
            tell_all(&mut untold, &mut gap, to).await?;
            loop {
                match watch.next().await {
                    Some(Ok(event)) => {
                        pause = Pause::new();
                        unwatched.over();
                        let version = match &event {
                            ObjectEvent::Applied(sight) | ObjectEvent::Deleted(sight) => sight.resource_version,
                            ObjectEvent::Bookmark(version) => *version,
                        };
                        from = from.max(version);
                        tell(to, Seen::Object { event, replayed: version <= listed }).await?;
                    }
                    Some(Err(CallError::Expired)) => break 'resume,
                    Some(Err(error)) => {
                        barred = trouble(Eye::Objects, error, &mut unwatched, &mut pause, to).await?;
                        if barred {
                            resume = Some(from);
                            continue 'list;
                        }
                        continue 'resume;
                    }
                    None if clock::now() < opened + AT_ONCE => {
                        pause.wait().await;
                        continue 'resume;
                    }
                    None => {
                        unwatched.over();
                        tell(to, Seen::ObjectsAlive).await?;
                        continue 'resume;
                    }
                }
            }
        }
        // 410: what came and went since `from` is unknown for ever.
        gap = true;
        pause.wait().await;
    }
}

/// Tells of a list, and with it of the gap before it, unless that was done.
async fn tell_all(untold: &mut Option<Seen>, gap: &mut bool, to: &mpsc::Sender<Seen>) -> Result<(), Over> {
    if let Some(seen) = untold.take() {
        tell(to, seen).await?;
        *gap = false;
    }
    Ok(())
}

/// What is listed and watched.
#[derive(Clone, Copy)]
enum Eye {
    /// With the verb of the call.
    Quotas(&'static str),
    Objects,
}

impl Eye {
    const fn watch(self) -> WatchKind {
        match self {
            Self::Quotas(_) => WatchKind::Quotas,
            Self::Objects => WatchKind::Objects,
        }
    }

    /// What is told where the answer says that it may not be listed or watched.
    fn forbidden(self, error: &CallError) -> Option<Seen> {
        match self {
            Self::Quotas(verb) => quotas_lack(verb, error).map(|lack| Seen::QuotasForbidden { lack }),
            Self::Objects => {
                let status = error.status().filter(|status| denied(status).is_some())?;
                Some(Seen::Forbidden { text: status.message.clone() })
            }
        }
    }
}

/// What is missing to do this with the quotas, where the answer says so.
pub(super) fn quotas_lack(verb: &'static str, error: &CallError) -> Option<Lack> {
    error.status().and_then(|status| Lack::of(verb, "resourcequotas", status))
}

/// Whether a call failed for want of a right. Then the live objects are forgotten until a list tells of them again; the
/// watch goes on from where it was, so that the record has no gap.
async fn trouble(
    eye: Eye,
    error: CallError,
    refusal: &mut Refusal,
    pause: &mut Pause,
    to: &mpsc::Sender<Seen>,
) -> Result<bool, Over> {
    if let Some(forbidden) = eye.forbidden(&error) {
        if !refusal.again(clock::now()) {
            tracing::debug!(error = %error, "refused; asking again before that is believed");
            tokio::time::sleep(ASK_AGAIN).await;
            return Ok(false);
        }
        tell(to, forbidden).await?;
        tokio::time::sleep(FORBIDDEN_PAUSE).await;
        return Ok(true);
    }
    refusal.over();
    tell(to, Seen::Trouble { watch: eye.watch(), error }).await?;
    pause.wait().await;
    Ok(false)
}

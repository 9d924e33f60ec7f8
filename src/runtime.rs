//! Supervised tasks: an exit nobody asked for is noticed.
//!
//! - [`run`] is the frame of a role's process: it starts the role, listens to signals and ends everything in order.
//! - [`Tasks`] are the loops of the process. None may end before the shutdown was asked for; one that does ends all.
//! - [`Crew`] is a bounded set of short tasks, such as the messages in hand, whose owner learns of each end.
//!
//! This is the only place that spawns.
#![allow(clippy::disallowed_methods)]

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long an aborted task may take to let go; one that still runs then is left behind.
const ABORT_WITHIN: Duration = Duration::from_millis(500);

/// Any error of a task.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A task that ended where or how it should not have.
#[derive(Debug)]
pub struct TaskFailure {
    /// The task's name.
    pub name: &'static str,
    /// What became of it.
    pub how: How,
}

/// What became of a task.
#[derive(Debug)]
pub enum How {
    /// It ended although no shutdown was asked for.
    Ended,
    /// It gave an error.
    Failed(BoxError),
    /// It panicked; the text is the panic's.
    Panicked(String),
    /// It outlived the grace of the shutdown and was aborted.
    Late,
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match &self.how {
            How::Ended => write!(f, "task {name} ended by itself"),
            How::Failed(_) => write!(f, "task {name} failed"),
            How::Panicked(text) => write!(f, "task {name} panicked: {text}"),
            How::Late => write!(f, "task {name} did not end within the grace period"),
        }
    }
}

impl Error for TaskFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.how {
            How::Failed(error) => Some(error.as_ref()),
            How::Ended | How::Panicked(_) | How::Late => None,
        }
    }
}

/// All failures of a process, the first one first.
#[derive(Debug)]
pub struct Failures(pub Vec<TaskFailure>);

/// With all sources: an error is asked for one source only, and here are several.
impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, failure) in self.0.iter().enumerate() {
            if place > 0 {
                f.write_str("; ")?;
            }
            let mut text = failure.to_string();
            let mut cause = failure.source();
            while let Some(error) = cause {
                let words = error.to_string();
                // Some libraries say their source themselves.
                if !text.ends_with(&words) {
                    text.push_str(": ");
                    text.push_str(&words);
                }
                cause = error.source();
            }
            f.write_str(&text)?;
        }
        Ok(())
    }
}

impl Error for Failures {}

/// The text of a panic.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a text".to_owned())
}

/// The loops of a process. Cloning gives another handle on the same ones.
#[derive(Clone, Debug)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cancel: CancellationToken,
    tracker: TaskTracker,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Tasks that run, with the handle to abort them; none between the start and its entry here.
    running: BTreeMap<u64, (&'static str, Option<AbortHandle>)>,
    failures: Vec<TaskFailure>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the task off the list however it ends, by abort too.
struct Running {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.state().running.remove(&self.id);
    }
}

impl Tasks {
    /// No tasks yet. `cancel` asks for the shutdown, from inside or outside.
    #[must_use]
    pub fn new(cancel: CancellationToken) -> Self {
        let tracker = TaskTracker::new();
        // Closed means that waiting ends when the last task does; spawning goes on.
        tracker.close();
        Self { shared: Arc::new(Shared { cancel, tracker, state: Mutex::new(State::default()) }) }
    }

    /// The token that says to each task that it should end.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.shared.cancel.clone()
    }

    /// Asks every task to end.
    pub fn cancel(&self) {
        self.shared.cancel.cancel();
    }

    /// Starts a task that runs until [`Tasks::token`] says otherwise. If it ends, fails or panics before, the shutdown
    /// begins and names it.
    pub fn spawn<F, E>(&self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.start(name, true, future);
    }

    /// Starts a task that may end well at any time. Its error or panic begins the shutdown like any other's.
    pub fn spawn_once<F, E>(&self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        self.start(name, false, future);
    }

    fn start<F, E>(&self, name: &'static str, lasting: bool, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let id = {
            let mut state = shared.state();
            let id = state.next;
            state.next = id.saturating_add(1);
            state.running.insert(id, (name, None));
            id
        };
        let running = Running { shared: Arc::clone(&shared), id };
        let task = shared.tracker.track_future(async move {
            let running = running;
            let end = AssertUnwindSafe(future).catch_unwind().await;
            let shared = &running.shared;
            let asked = shared.cancel.is_cancelled();
            let how = match end {
                Ok(Ok(())) if asked || !lasting => None,
                Ok(Ok(())) => Some(How::Ended),
                Ok(Err(error)) => Some(How::Failed(error.into())),
                Err(payload) => Some(How::Panicked(panic_text(payload.as_ref()))),
            };
            if let Some(how) = how {
                let failure = TaskFailure { name, how };
                tracing::error!(task = name, shutting_down = asked, error = &failure as &dyn Error, "task failed");
                shared.state().failures.push(failure);
                shared.cancel.cancel();
            }
        });
        let abort = tokio::spawn(task).abort_handle();
        if let Some((_, handle)) = shared.state().running.get_mut(&id) {
            *handle = Some(abort);
        }
    }

    /// How many run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.state().running.len()
    }

    /// Whether none runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the shutdown is asked for, by the token or by the failure of a task, or no task is left.
    pub async fn over(&self) {
        tokio::select! {
            () = self.shared.cancel.cancelled() => {}
            () = self.shared.tracker.wait() => {}
        }
    }

    /// Asks every task to end, waits for at most `grace`, and aborts what is late.
    ///
    /// # Errors
    /// Every failure since the start, and every task that was late.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), Failures> {
        self.cancel();
        if tokio::time::timeout(grace, self.shared.tracker.wait()).await.is_err() {
            {
                let mut state = self.shared.state();
                let late: Vec<_> = state.running.values().map(|(name, _)| *name).collect();
                for (_, abort) in state.running.values() {
                    if let Some(abort) = abort {
                        abort.abort();
                    }
                }
                state.failures.extend(late.into_iter().map(|name| TaskFailure { name, how: How::Late }));
            }
            // One that never yields cannot be aborted, and is left to the end of the process.
            tokio::time::timeout(ABORT_WITHIN, self.shared.tracker.wait()).await.ok();
        }
        let failures = std::mem::take(&mut self.shared.state().failures);
        if failures.is_empty() { Ok(()) } else { Err(Failures(failures)) }
    }
}

/// A bounded set of short tasks of one owner. Its ends must be taken with [`Crew::next`], where a panic is an error that
/// the owner passes on. Dropping it aborts what runs.
#[derive(Debug)]
pub struct Crew<T> {
    name: &'static str,
    bound: usize,
    set: JoinSet<T>,
}

impl<T: Send + 'static> Crew<T> {
    /// At most `bound` at once, ended ones that were not yet taken included.
    #[must_use]
    pub fn new(name: &'static str, bound: usize) -> Self {
        Self { name, bound, set: JoinSet::new() }
    }

    /// How many run or wait to be taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// How many more may start.
    #[must_use]
    pub fn room(&self) -> usize {
        self.bound.saturating_sub(self.set.len())
    }

    /// Starts one.
    ///
    /// # Errors
    /// Gives the future back where there is no room.
    pub fn spawn<F>(&mut self, future: F) -> Result<(), F>
    where
        F: Future<Output = T> + Send + 'static,
    {
        if self.room() == 0 {
            return Err(future);
        }
        self.set.spawn(future);
        Ok(())
    }

    /// The next end; waits for ever while there is none to come, so that it can stand in a `select!`. Dropping the wait
    /// loses nothing.
    ///
    /// # Errors
    /// The task panicked.
    pub async fn next(&mut self) -> Result<T, TaskFailure> {
        match self.set.join_next().await {
            Some(end) => self.end(end),
            None => std::future::pending().await,
        }
    }

    /// An end that has come already.
    pub fn try_next(&mut self) -> Option<Result<T, TaskFailure>> {
        let end = self.set.try_join_next()?;
        Some(self.end(end))
    }

    /// The next end; none when there is none to come.
    ///
    /// # Errors
    /// The task panicked.
    pub async fn drain(&mut self) -> Option<Result<T, TaskFailure>> {
        let end = self.set.join_next().await?;
        Some(self.end(end))
    }

    /// Aborts all that run; their ends are never given.
    pub async fn abort(&mut self) {
        self.set.shutdown().await;
    }

    fn end(&self, end: Result<T, JoinError>) -> Result<T, TaskFailure> {
        end.map_err(|error| TaskFailure {
            name: self.name,
            how: match error.try_into_panic() {
                Ok(payload) => How::Panicked(panic_text(payload.as_ref())),
                // Only the end of the runtime aborts one whose end is still awaited.
                Err(_) => How::Late,
            },
        })
    }
}

/// A signal that ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT, as from Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Signal {
    /// The exit code of a process that the signal ended, as shells have it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }
}

/// How a process ended.
#[derive(Debug)]
pub enum Ending {
    /// In order: asked to, and all ended in time.
    Done,
    /// Something failed or was late.
    Failed(Failures),
    /// A second signal cut the shutdown short.
    Aborted(Signal),
    /// Nothing could be started.
    NotStarted(io::Error),
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Done => Self::SUCCESS,
            Ending::Failed(_) | Ending::NotStarted(_) => Self::FAILURE,
            Ending::Aborted(signal) => Self::from(signal.exit_code()),
        }
    }
}

/// Runs a role. `start` begins its tasks, or does a short work itself; the process lasts until no task is left, one
/// fails, or the first SIGTERM or SIGINT; then all have `grace` to end. A second signal ends it at once.
///
/// The tasks have their own threads. Signals are heard on the caller's, so that they are heard also while every task hangs.
pub fn run<S, F, E>(grace: Duration, start: S) -> Ending
where
    S: FnOnce(Tasks) -> F,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    let workers = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("jetgate").build();
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (workers, own) = match (workers, own) {
        (Ok(workers), Ok(own)) => (workers, own),
        (Err(error), _) | (_, Err(error)) => return Ending::NotStarted(error),
    };
    let signals = {
        let _inside = own.enter();
        match signals() {
            Ok(signals) => signals,
            Err(error) => return Ending::NotStarted(error),
        }
    };
    let tasks = Tasks::new(CancellationToken::new());
    {
        let _inside = workers.enter();
        tasks.spawn_once("start", start(tasks.clone()));
    }
    let ending = own.block_on(supervise(&tasks, signals, grace));
    // Whatever still runs on the threads does not keep the process.
    workers.shutdown_background();
    ending
}

fn signals() -> io::Result<impl Stream<Item = Signal> + Unpin> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(futures::stream::poll_fn(move |cx| {
        if interrupt.poll_recv(cx).is_ready() {
            return std::task::Poll::Ready(Some(Signal::Interrupt));
        }
        terminate.poll_recv(cx).map(|_| Some(Signal::Terminate))
    }))
}

async fn supervise(tasks: &Tasks, mut signals: impl Stream<Item = Signal> + Unpin, grace: Duration) -> Ending {
    let work = async {
        tasks.over().await;
        match tasks.shutdown(grace).await {
            Ok(()) => Ending::Done,
            Err(failures) => Ending::Failed(failures),
        }
    };
    let second = async {
        let mut asked = false;
        while let Some(signal) = signals.next().await {
            if asked {
                return signal;
            }
            asked = true;
            tracing::info!(signal = signal.as_str(), "shutting down");
            tasks.cancel();
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        signal = second => {
            tracing::warn!(signal = signal.as_str(), "aborting");
            Ending::Aborted(signal)
        }
        ending = work => ending,
    }
}

#[cfg(test)]
mod tests;

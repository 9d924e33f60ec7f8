//! A supervised child process: started, waited for, stopped, killed and started again on its ports.
//!
//! It never outlives us: its process group is given to the watchdog before its program runs (it starts as a shell that
//! waits for a word from us), and is killed when the owner is dropped.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::watchdog;

/// How long a start may take.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(60);
const GONE_WITHIN: Duration = Duration::from_secs(20);
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// Says whether the process is ready; in words why not yet.
pub type Probe = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What to start and how.
#[derive(Clone)]
pub struct Spec {
    /// A short name for messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Environment variables beside the inherited ones.
    pub env: Vec<(String, String)>,
    /// Where its output goes; appended to over restarts.
    pub log: PathBuf,
    /// When it is ready; `None`: as soon as it runs.
    pub ready: Option<Probe>,
}

impl Spec {
    /// A program with arguments and a log file.
    pub fn new(
        name: impl Into<String>,
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<String>>,
        log: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            log: log.into(),
            ready: None,
        }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the readiness probe.
    #[must_use]
    pub fn ready<F, Fut>(mut self, probe: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.ready = Some(Arc::new(move || Box::pin(probe())));
        self
    }
}

/// A process that can be stopped, killed and started again with the same arguments.
pub struct Process {
    spec: Spec,
    run: Mutex<Run>,
}

struct Run {
    pid: Pid,
    // True once the number may belong to somebody else; held while a signal is sent.
    gone: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<ExitStatus>>,
    waiter: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts it and waits until it is ready; fails at once when it ends before.
    pub async fn start(spec: Spec) -> Result<Self> {
        let process = Self::spawn(spec)?;
        process.until_ready(READY_WITHIN).await?;
        Ok(process)
    }

    /// Starts it without waiting.
    pub fn spawn(spec: Spec) -> Result<Self> {
        let run = Run::new(&spec)?;
        Ok(Self { spec, run: Mutex::new(run) })
    }

    /// Waits until its probe succeeds.
    pub async fn until_ready(&self, limit: Duration) -> Result<()> {
        match self.spec.ready.clone() {
            Some(probe) => self.until_true(limit, &probe).await,
            None => Ok(()),
        }
    }

    /// As [`until_ready`](Self::until_ready), with another probe.
    pub(crate) async fn until_true(&self, limit: Duration, probe: &Probe) -> Result<()> {
        let start = Instant::now();
        let mut exit = self.run().exit.clone();
        loop {
            let answer = tokio::select! {
                status = ended(&mut exit) => return Err(self.died(status)),
                answer = tokio::time::timeout(Duration::from_secs(5), probe()) => answer,
            };
            let why = match answer {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(why)) => why,
                Err(_elapsed) => "it does not answer".to_owned(),
            };
            if start.elapsed() >= limit {
                return Err(Error::NotReady {
                    program: self.spec.name.clone(),
                    limit,
                    why,
                    log: self.last_log_lines(20),
                });
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.run().pid.as_raw_nonzero().get()
    }

    /// Whether it runs (a stopped one does).
    pub fn is_alive(&self) -> bool {
        self.run().exit.borrow().is_none()
    }

    /// SIGSTOP: it keeps its memory and its connections and does nothing.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn cont(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        self.wait_exit(GONE_WITHIN).await
    }

    /// Any other signal, as nats-server's SIGUSR2 for lame duck mode.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.run().signal(signal).map_err(Error::doing(format!("signal {}", self.spec.name)))
    }

    /// Waits until it has ended by itself or by a signal.
    pub async fn wait_exit(&self, limit: Duration) -> Result<ExitStatus> {
        let mut exit = self.run().exit.clone();
        tokio::time::timeout(limit, ended(&mut exit))
            .await
            .map_err(|_elapsed| Error::Timeout { what: format!("the end of {}", self.spec.name), limit })
    }

    /// Starts it again after it ended, with the same arguments, and waits until it is ready.
    pub async fn start_again(&self) -> Result<()> {
        self.spawn_again()?;
        self.until_ready(READY_WITHIN).await
    }

    /// As [`start_again`](Self::start_again), without waiting.
    pub fn spawn_again(&self) -> Result<()> {
        if self.is_alive() {
            return Err(Error::Binaries(format!("{} still runs; kill it first", self.spec.name)));
        }
        let run = Run::new(&self.spec)?;
        *self.run() = run;
        Ok(())
    }

    /// SIGKILL and start again.
    pub async fn restart(&self) -> Result<()> {
        self.kill().await?;
        self.start_again().await
    }

    /// The end of its log.
    pub fn last_log_lines(&self, lines: usize) -> String {
        tail(&self.spec.log, lines)
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.spec.log
    }

    fn run(&self) -> std::sync::MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn died(&self, status: ExitStatus) -> Error {
        Error::Died { program: self.spec.name.clone(), status: status.to_string(), log: self.last_log_lines(20) }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.spec.name)
            .field("pid", &self.pid())
            .field("alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}

impl Run {
    fn new(spec: &Spec) -> Result<Self> {
        let what = format!("start {} ({})", spec.name, spec.program.display());
        let log = File::options()
            .create(true)
            .append(true)
            .open(&spec.log)
            .map_err(Error::doing(format!("open {}", spec.log.display())))?;
        let log_too = log.try_clone().map_err(Error::doing(what.clone()))?;
        let mut child = Command::new("sh")
            // Ends by itself when we die before the word is given.
            .args(["-c", r#"read -r go && exec "$@" </dev/null"#, "sh"])
            .arg(&spec.program)
            .args(&spec.args)
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .map_err(Error::doing(what.clone()))?;
        let pid = Pid::from_child(&child);
        let told = watchdog::guard(pid.as_raw_nonzero().get()).and_then(|()| {
            let mut pipe = child
                .stdin
                .take()
                .ok_or_else(|| Error::Binaries(format!("{}: the child has no standard input", spec.name)))?;
            pipe.write_all(b"go\n").map_err(Error::doing(what.clone()))
        });
        let gone = Arc::new(Mutex::new(false));
        let (report, exit) = watch::channel(None);
        let waiter = std::thread::Builder::new()
            .name(format!("wait {}", spec.name))
            .spawn({
                let gone = Arc::clone(&gone);
                move || reap(child, pid, &gone, &report)
            })
            .map_err(Error::doing(what))?;
        let run = Self { pid, gone, exit, waiter: Some(waiter) };
        // Only now: the drop of `run` ends what could not be guarded.
        told.map(|()| run)
    }

    fn signal(&self, signal: Signal) -> rustix::io::Result<()> {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if *gone {
            return Ok(());
        }
        rustix::process::kill_process_group(self.pid, signal)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A failure means that it is gone already; SIGKILL also ends a stopped process.
        self.signal(Signal::KILL).ok();
        if let Some(waiter) = self.waiter.take() {
            waiter.join().ok();
        }
    }
}

fn reap(mut child: Child, pid: Pid, gone: &Mutex<bool>, report: &watch::Sender<Option<ExitStatus>>) {
    // First without reaping: while the zombie is there its number is not given to another process.
    rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).ok();
    let mut gone = gone.lock().unwrap_or_else(PoisonError::into_inner);
    watchdog::forget(pid.as_raw_nonzero().get()).ok();
    let status = child.wait();
    *gone = true;
    drop(gone);
    report.send_replace(Some(status.unwrap_or_default()));
}

async fn ended(exit: &mut watch::Receiver<Option<ExitStatus>>) -> ExitStatus {
    match exit.wait_for(Option::is_some).await {
        Ok(status) => (*status).unwrap_or_default(),
        Err(_closed) => ExitStatus::default(),
    }
}

fn tail(path: &Path, lines: usize) -> String {
    const MOST: u64 = 64 * 1024;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            let start = all.len().saturating_sub(lines);
            all.get(start..).unwrap_or_default().join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

use super::*;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const GRACE: Duration = Duration::from_secs(20);

fn tasks() -> Tasks {
    Tasks::new(CancellationToken::new())
}

/// A task that ends when it is asked to.
async fn polite(token: CancellationToken) -> Result<(), io::Error> {
    token.cancelled().await;
    Ok(())
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(GRACE, future).await.expect("in time")
}

#[tokio::test]
async fn asked_to_end_all_end_well() {
    let tasks = tasks();
    tasks.spawn("a", polite(tasks.token()));
    tasks.spawn("b", polite(tasks.token()));
    assert_eq!(tasks.len(), 2);
    tasks.shutdown(GRACE).await.unwrap();
    assert!(tasks.is_empty());
}

#[tokio::test]
async fn one_that_ends_by_itself_ends_all_and_is_named() {
    let tasks = tasks();
    tasks.spawn("polite", polite(tasks.token()));
    tasks.spawn("watch", async { Ok::<(), io::Error>(()) });
    soon(tasks.over()).await;
    let failures = tasks.shutdown(GRACE).await.unwrap_err();
    assert_eq!(failures.to_string(), "task watch ended by itself");
}

#[tokio::test]
async fn an_error_ends_all_and_keeps_its_sources() {
    let tasks = tasks();
    tasks.spawn("polite", polite(tasks.token()));
    tasks.spawn("pull", async { Err(io::Error::other("no stream")) });
    soon(tasks.over()).await;
    let failures = tasks.shutdown(GRACE).await.unwrap_err();
    assert_eq!(failures.to_string(), "task pull failed: no stream");
    assert_eq!(failures.0.len(), 1);
}

#[tokio::test]
async fn a_panic_ends_all_and_is_told() {
    let tasks = tasks();
    tasks.spawn("polite", polite(tasks.token()));
    tasks.spawn("leader", async {
        assert_eq!(1 + 1, 3, "sums");
        Ok::<(), io::Error>(())
    });
    soon(tasks.over()).await;
    let text = tasks.shutdown(GRACE).await.unwrap_err().to_string();
    assert!(text.starts_with("task leader panicked") && text.contains("sums"), "{text}");
}

#[tokio::test]
async fn an_error_during_the_shutdown_counts_too() {
    let tasks = tasks();
    let token = tasks.token();
    tasks.spawn("books", async move {
        token.cancelled().await;
        Err(io::Error::other("not flushed"))
    });
    let failures = tasks.shutdown(GRACE).await.unwrap_err();
    assert_eq!(failures.to_string(), "task books failed: not flushed");
}

#[tokio::test]
async fn one_that_is_late_is_aborted_and_named() {
    struct Told(tokio::sync::mpsc::Sender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.try_send(()).ok();
        }
    }
    let tasks = tasks();
    let (send, mut gone) = tokio::sync::mpsc::channel(1);
    let told = Told(send);
    tasks.spawn("stuck", async move {
        let _told = told;
        std::future::pending::<Result<(), io::Error>>().await
    });
    tasks.spawn("polite", polite(tasks.token()));
    let failures = tasks.shutdown(Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(failures.to_string(), "task stuck did not end within the grace period");
    assert_eq!(gone.try_recv(), Ok(()), "dropped before the shutdown is over");
    assert!(tasks.is_empty());
}

#[tokio::test]
async fn one_that_may_end_ends_nothing_but_its_failure_does() {
    let tasks = tasks();
    tasks.spawn("polite", polite(tasks.token()));
    tasks.spawn_once("start", async { Ok::<(), io::Error>(()) });
    while tasks.len() > 1 {
        tokio::task::yield_now().await;
    }
    assert!(!tasks.token().is_cancelled());
    tasks.spawn_once("start", async { Err(io::Error::other("no")) });
    soon(tasks.over()).await;
    assert!(tasks.shutdown(GRACE).await.is_err());
}

#[tokio::test]
async fn a_task_can_start_another() {
    let tasks = tasks();
    let more = tasks.clone();
    tasks.spawn_once("start", async move {
        more.spawn("later", polite(more.token()));
        Ok::<(), io::Error>(())
    });
    while tasks.len() != 1 || tasks.token().is_cancelled() {
        tokio::task::yield_now().await;
    }
    tasks.shutdown(GRACE).await.unwrap();
}

#[tokio::test]
async fn without_tasks_it_is_over() {
    soon(tasks().over()).await;
}

#[tokio::test]
async fn a_crew_is_bounded_and_gives_each_end() {
    let mut crew = Crew::new("message", 2);
    assert_eq!(crew.room(), 2);
    for n in [1, 2] {
        assert!(crew.spawn(async move { n }).is_ok());
    }
    let back = crew.spawn(async { 3 }).unwrap_err();
    let first = soon(crew.next()).await.unwrap();
    assert!(crew.spawn(async { 4 }).is_ok());
    let mut ends = vec![first];
    while let Some(end) = soon(crew.drain()).await {
        ends.push(end.unwrap());
    }
    ends.push(back.await);
    ends.sort_unstable();
    assert_eq!(ends, [1, 2, 3, 4]);
    assert!(crew.is_empty());
    assert!(crew.next().now_or_never().is_none(), "an empty crew waits");
}

#[tokio::test]
async fn a_crew_tells_of_a_panic() {
    let mut crew = Crew::<()>::new("message", 2);
    assert!(crew.spawn(async { panic!("bad sequence {}", 7) }).is_ok());
    let failure = soon(crew.next()).await.unwrap_err();
    assert_eq!(failure.to_string(), "task message panicked: bad sequence 7");
}

#[tokio::test]
async fn an_aborted_crew_gives_nothing() {
    let mut crew = Crew::new("message", 2);
    assert!(crew.spawn(std::future::pending::<()>()).is_ok());
    soon(crew.abort()).await;
    assert!(crew.drain().await.is_none());
}

#[tokio::test]
async fn the_first_signal_asks_and_the_second_aborts() {
    let tasks = tasks();
    tasks.spawn("stuck", std::future::pending::<Result<(), io::Error>>());
    let (send, signals) = futures_signals();
    let watched = tasks.token();
    let supervised = supervise(&tasks, signals, GRACE);
    let tell = async {
        send.send(Signal::Terminate).await.unwrap();
        watched.cancelled().await;
        send.send(Signal::Interrupt).await.unwrap();
    };
    let (ending, ()) = soon(async { tokio::join!(supervised, tell) }).await;
    assert!(matches!(ending, Ending::Aborted(Signal::Interrupt)), "{ending:?}");
}

#[tokio::test]
async fn one_signal_ends_in_order() {
    let tasks = tasks();
    tasks.spawn("polite", polite(tasks.token()));
    let (send, signals) = futures_signals();
    send.send(Signal::Terminate).await.unwrap();
    let ending = soon(supervise(&tasks, signals, GRACE)).await;
    assert!(matches!(ending, Ending::Done), "{ending:?}");
}

fn futures_signals() -> (tokio::sync::mpsc::Sender<Signal>, impl Stream<Item = Signal> + Unpin) {
    let (send, mut receive) = tokio::sync::mpsc::channel(2);
    (send, futures::stream::poll_fn(move |cx| receive.poll_recv(cx)))
}

/// The child of the tests below: it takes real signals, and so must be a process of its own.
#[test]
#[ignore = "run by other tests as a child process"]
#[allow(clippy::exit, clippy::print_stdout)] // its exit code is what the other tests look at
fn child() {
    // Somebody who runs all ignored tests must not wait for a signal.
    let Some(hung) = std::env::var_os("CHILD_HANGS") else {
        return;
    };
    let hung = hung == "1";
    let ending = run(Duration::from_secs(60), move |tasks| {
        let token = tasks.token();
        async move {
            if hung {
                let threads = std::thread::available_parallelism().unwrap().get();
                let all = Arc::new(std::sync::Barrier::new(threads));
                for _ in 0..threads {
                    let all = Arc::clone(&all);
                    // The worst that a task can do: no thread of the runtime is left to notice anything.
                    tasks.spawn("hung", async move {
                        if all.wait().is_leader() {
                            println!("\nready");
                        }
                        loop {
                            std::thread::park();
                        }
                        #[allow(unreachable_code)]
                        Ok::<(), io::Error>(())
                    });
                }
            } else {
                tasks.spawn("polite", polite(token));
                println!("\nready");
            }
            Ok::<(), io::Error>(())
        }
    });
    let code = match ending {
        Ending::Done => 0,
        Ending::Failed(_) | Ending::NotStarted(_) => 1,
        Ending::Aborted(signal) => i32::from(signal.exit_code()),
    };
    std::process::exit(code);
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Killed {
    fn start(hangs: bool) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "runtime::tests::child", "--ignored", "--nocapture"])
            .env("CHILD_HANGS", if hangs { "1" } else { "0" })
            .stdout(Stdio::piped())
            .spawn();
        let mut child = Self(child.unwrap());
        let out = BufReader::new(child.0.stdout.take().unwrap());
        let mut lines = out.lines().map_while(Result::ok);
        assert!(lines.any(|line| line == "ready"), "the child started");
        child
    }

    fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.0.id())]).status().unwrap();
        assert!(status.success());
    }

    fn code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("still running");
    }
}

#[test]
fn a_real_signal_ends_the_process_in_order() {
    for signal in ["TERM", "INT"] {
        let mut child = Killed::start(false);
        child.signal(signal);
        assert_eq!(child.code(), Some(0));
    }
}

#[test]
fn a_second_signal_aborts_though_every_thread_hangs() {
    let mut child = Killed::start(true);
    // Signals of one kind that come before the first is handled are one; so two kinds, which are always two.
    child.signal("INT");
    child.signal("TERM");
    let code = child.code();
    assert!(code == Some(143) || code == Some(130), "{code:?}");
}

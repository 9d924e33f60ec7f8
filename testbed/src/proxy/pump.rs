//! The two directions of one connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Direction, Flow, Inner, Trap};

// 256 reads of 16 KiB: what a stalled direction holds before the sender feels it, as with a full socket buffer.
const HELD: usize = 256;
const READ: usize = 16 * 1024;

/// What holds for one direction now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lane {
    pub(super) flow: Flow,
    pub(super) delay: Duration,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// Both sides closed.
    Closed,
    /// It was cut, or one side broke.
    Cut,
    /// A trap cut the client off; the server is to work on what it has.
    Trapped,
}

impl End {
    pub(super) fn resets_client(self) -> bool {
        self != Self::Closed
    }

    pub(super) fn resets_server(self) -> bool {
        self == Self::Cut
    }
}

struct Pump<'a> {
    inner: &'a Inner,
    direction: Direction,
    lanes: watch::Receiver<Lane>,
    // Set when the next bytes to the client must not arrive.
    doomed: &'a AtomicBool,
}

/// Carries bytes both ways until both sides closed or something ends it.
pub(super) async fn both(
    inner: &Inner,
    client: &mut TcpStream,
    server: &mut TcpStream,
    cut: &CancellationToken,
) -> End {
    let doomed = AtomicBool::new(false);
    let pump = |direction| Pump { inner, direction, lanes: inner.lane(direction).subscribe(), doomed: &doomed };
    // Borrowed halves: owned ones would say goodbye with a FIN where a reset is wanted.
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let carried = async {
        tokio::try_join!(
            pump(Direction::ToServer).run(client_read, server_write),
            pump(Direction::ToClient).run(server_read, client_write),
        )
    };
    tokio::select! {
        () = cut.cancelled() => End::Cut,
        result = carried => match result {
            Ok(_) => End::Closed,
            Err(end) => end,
        },
    }
}

impl Pump<'_> {
    async fn run(self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<(), End> {
        let (sender, receiver) = mpsc::channel(HELD);
        tokio::try_join!(read(from, sender), self.write(to, receiver)).map(|_| ())
    }

    async fn write(mut self, mut to: WriteHalf<'_>, mut chunks: mpsc::Receiver<(Instant, Bytes)>) -> Result<(), End> {
        while let Some((read_at, chunk)) = chunks.recv().await {
            if self.admitted(read_at).await == Flow::Blackhole {
                continue;
            }
            if chunk.is_empty() {
                to.shutdown().await.map_err(|_broken| End::Cut)?;
                continue;
            }
            self.deliver(&mut to, &chunk).await?;
        }
        Ok(())
    }

    /// Waits until bytes that were read then may go on.
    async fn admitted(&mut self, read_at: Instant) -> Flow {
        loop {
            let lane = *self.lanes.borrow_and_update();
            let due = read_at + lane.delay;
            match lane.flow {
                Flow::Blackhole => return Flow::Blackhole,
                Flow::Pass if due <= Instant::now() => return Flow::Pass,
                Flow::Pass => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    _ = self.lanes.changed() => {}
                },
                Flow::Stall => {
                    self.lanes.changed().await.ok();
                }
            }
        }
    }

    async fn deliver(&self, to: &mut WriteHalf<'_>, chunk: &[u8]) -> Result<(), End> {
        let mut after = None;
        match self.direction {
            Direction::ToServer => match self.inner.caught(chunk) {
                Some(Trap::CutBefore) => return Err(End::Cut),
                Some(Trap::DropReply) => self.doomed.store(true, Ordering::SeqCst),
                Some(Trap::CutAfter) => after = Some(End::Trapped),
                None => {}
            },
            Direction::ToClient => {
                if self.doomed.load(Ordering::SeqCst) {
                    return Err(End::Trapped);
                }
            }
        }
        let allowed = self.inner.allowance(self.direction, chunk.len());
        let part = chunk.get(..allowed).unwrap_or(chunk);
        to.write_all(part).await.map_err(|_broken| End::Cut)?;
        let delivered = u64::try_from(part.len()).unwrap_or_default();
        self.inner.delivered(self.direction).fetch_add(delivered, Ordering::Relaxed);
        if part.len() < chunk.len() {
            after = Some(End::Cut);
            // Only this connection: the next one starts without a budget.
            self.inner.budget(self.direction).store(u64::MAX, Ordering::Relaxed);
        }
        after.map_or(Ok(()), Err)
    }
}

/// Reads ahead; an empty chunk says that the other side has closed.
async fn read(mut from: ReadHalf<'_>, chunks: mpsc::Sender<(Instant, Bytes)>) -> Result<(), End> {
    loop {
        let mut buffer = BytesMut::with_capacity(READ);
        let count = from.read_buf(&mut buffer).await.map_err(|_broken| End::Cut)?;
        let sent = chunks.send((Instant::now(), buffer.freeze())).await;
        if count == 0 || sent.is_err() {
            return Ok(());
        }
    }
}

//! One watch call as a stream of events.

use std::{pin::Pin, time::Duration};

use futures::{AsyncBufRead, AsyncBufReadExt, Stream, stream};
use serde::{Deserialize, de::DeserializeOwned, de::IgnoredAny};
use tokio::time::Sleep;

use super::{
    call::{self, Address, METADATA},
    client::{Borrowed, Cluster, Lane},
    discover::Kind,
    error::{CallError, DecodeError},
    sight::{Sight, WireObject},
};

/// The longest line that is read. etcd takes objects up to 1.5 MiB, and metadata is what we ask for.
const LONGEST_LINE: usize = 8 << 20;
/// What a line buffer may keep between two lines.
const KEPT_BUFFER: usize = 64 << 10;

/// The events of one watch call. It reads from the connection only when it is polled, so a slow reader slows the
/// server down and fills no memory. It ends when the server ends the call, or with one error.
pub type Watch<E> = Pin<Box<dyn Stream<Item = Result<E, CallError>> + Send>>;

/// One event of a watch of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectEvent {
    /// It is there, in this state.
    Applied(Sight),
    /// It is gone; this is its last state, with the version of the deletion.
    Deleted(Sight),
    /// Nothing happened up to this version.
    Bookmark(u64),
}

/// What happened to the object of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Applied,
    Deleted,
    Bookmark,
}

impl Cluster {
    /// Watches a kind in a namespace: everything after the version `from`, or with 0 what exists now and then
    /// everything after it. The server ends the call after `timeout`, sending a bookmark shortly before; when it does
    /// not, we do.
    pub async fn watch(
        &self,
        kind: &Kind,
        namespace: &str,
        from: u64,
        timeout: Duration,
    ) -> Result<Watch<ObjectEvent>, CallError> {
        self.watch_as(Address::collection(kind, namespace), METADATA, from, timeout, object_event).await
    }

    pub(super) async fn watch_as<T: DeserializeOwned + 'static, E: 'static>(
        &self,
        collection: Address,
        accept: &str,
        from: u64,
        timeout: Duration,
        event: fn(T, Change) -> Result<E, DecodeError>,
    ) -> Result<Watch<E>, CallError> {
        let seconds = call::whole_seconds(timeout);
        let mut address = collection
            .query("watch", "true")
            .query("allowWatchBookmarks", "true")
            .query("timeoutSeconds", &seconds.to_string());
        if from > 0 {
            address = address.query("resourceVersion", &from.to_string());
        }
        let request = address.get(accept);
        let (lines, used) = self
            .limited(Lane::Watch, self.options().read_timeout, async |used: Borrowed| {
                let lines = used.client.request_stream(request).await;
                Ok((lines.map_err(CallError::from_kube)?, used))
            })
            .await?;
        let limit = Duration::from_secs(seconds) + self.options().watch_margin;
        let cluster = self.clone();
        let silent = move || cluster.connections_doubted(&used);
        Ok(Box::pin(events(Box::pin(lines), limit, silent, event)))
    }
}

fn object_event(object: WireObject, change: Change) -> Result<ObjectEvent, DecodeError> {
    Ok(match change {
        Change::Applied => ObjectEvent::Applied(object.metadata.sight()?),
        Change::Deleted => ObjectEvent::Deleted(object.metadata.sight()?),
        Change::Bookmark => ObjectEvent::Bookmark(object.metadata.version()?),
    })
}

struct Reading<R, F> {
    lines: R,
    buffer: Vec<u8>,
    limit: Duration,
    /// Ends a call that the server should have ended.
    end: Pin<Box<Sleep>>,
    /// Is told when that happens.
    silent: F,
}

fn events<R, T, E>(
    lines: R,
    limit: Duration,
    silent: impl Fn() + Send,
    event: fn(T, Change) -> Result<E, DecodeError>,
) -> impl Stream<Item = Result<E, CallError>> + Send
where
    R: AsyncBufRead + Unpin + Send,
    T: DeserializeOwned,
{
    let reading = Reading { lines, buffer: Vec::new(), limit, end: Box::pin(tokio::time::sleep(limit)), silent };
    stream::unfold(Some(reading), move |reading| async move {
        let mut reading = reading?;
        let next = match reading.line().await.transpose()? {
            Ok(()) => decode(&reading.buffer, event),
            Err(error) => Err(error),
        };
        Some(match next {
            Ok(event) => (Ok(event), Some(reading)),
            Err(error) => (Err(error), None),
        })
    })
}

impl<R: AsyncBufRead + Unpin, F: Fn()> Reading<R, F> {
    /// Reads the next line into the buffer; None at the end of the call.
    async fn line(&mut self) -> Result<Option<()>, CallError> {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER);
        tokio::select! {
            biased;
            line = read_line(&mut self.lines, &mut self.buffer) => line,
            () = &mut self.end => {
                (self.silent)();
                Err(CallError::Timeout(self.limit))
            }
        }
    }
}

async fn read_line<R: AsyncBufRead + Unpin>(lines: &mut R, line: &mut Vec<u8>) -> Result<Option<()>, CallError> {
    loop {
        let read = lines.fill_buf().await.map_err(|error| CallError::Connection(Box::new(error)))?;
        if read.is_empty() {
            return if line.iter().all(u8::is_ascii_whitespace) {
                Ok(None)
            } else {
                let cut = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the watch ended inside a line");
                Err(CallError::Connection(Box::new(cut)))
            };
        }
        let mut parts = read.splitn(2, |byte| *byte == b'\n');
        let part = parts.next().unwrap_or_default();
        let complete = parts.next().is_some();
        let used = part.len() + usize::from(complete);
        line.extend_from_slice(part);
        lines.consume_unpin(used);
        if line.len() > LONGEST_LINE {
            return Err(DecodeError::LongLine(LONGEST_LINE).into());
        }
        if complete && !line.is_empty() {
            return Ok(Some(()));
        }
    }
}

#[derive(Deserialize)]
struct Line<T> {
    r#type: String,
    object: T,
}

fn decode<T: DeserializeOwned, E>(line: &[u8], event: fn(T, Change) -> Result<E, DecodeError>) -> Result<E, CallError> {
    // Twice, because what `object` is depends on `type`; skipping it costs little.
    let head: Line<IgnoredAny> = serde_json::from_slice(line).map_err(DecodeError::from)?;
    let change = match head.r#type.as_str() {
        "ADDED" | "MODIFIED" => Change::Applied,
        "DELETED" => Change::Deleted,
        "BOOKMARK" => Change::Bookmark,
        "ERROR" => {
            let line: Line<kube::core::Status> = serde_json::from_slice(line).map_err(DecodeError::from)?;
            return Err(CallError::from_status(line.object, None));
        }
        _ => return Err(DecodeError::EventType(head.r#type).into()),
    };
    let line: Line<T> = serde_json::from_slice(line).map_err(DecodeError::from)?;
    Ok(event(line.object, change)?)
}

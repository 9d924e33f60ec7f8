//! What stands in a stream, read message by message, beside every consumer.

use async_nats::jetstream::{self, stream::RawMessageErrorKind};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::error::{Error, Result};

const AT_ONCE: usize = 64;

/// One stored message.
#[derive(Clone, Debug)]
pub struct StreamMessage {
    /// Its subject.
    pub subject: String,
    /// Its sequence.
    pub sequence: u64,
    /// When it was stored, in ns since 1970.
    pub time_ns: i128,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its payload.
    pub payload: Bytes,
}

/// Every message that a stream holds now, in order.
pub async fn stream_messages(jetstream: &jetstream::Context, stream: &str) -> Result<Vec<StreamMessage>> {
    let what = format!("read stream {stream}");
    let mut stream = jetstream.get_stream(stream).await.map_err(Error::doing(what.clone()))?;
    let state = stream.info().await.map_err(Error::doing(what.clone()))?.state.clone();
    let stream = &stream;
    let what = &what;
    if state.messages == 0 {
        return Ok(Vec::new());
    }
    let messages: Vec<Option<StreamMessage>> = futures::stream::iter(state.first_sequence..=state.last_sequence)
        .map(|sequence| async move {
            match stream.get_raw_message(sequence).await {
                Ok(message) => Ok(Some(StreamMessage {
                    subject: message.subject.to_string(),
                    sequence: message.sequence,
                    time_ns: message.time.unix_timestamp_nanos(),
                    headers: message
                        .headers
                        .iter()
                        .flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.to_string())))
                        .collect(),
                    payload: message.payload,
                })),
                // Deleted or acknowledged since.
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(Error::doing(what.clone())(error)),
            }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(messages.into_iter().flatten().collect())
}

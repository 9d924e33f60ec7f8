//! The leader's public word on each quota: written by compare-and-set as books and record are, so that the last word of
//! a deposed leader never stands over that of its successor.

use std::collections::BTreeMap;
use std::future::Future;

use bytes::Bytes;

use super::stores::{Lost, remade};
use crate::jetstream::{Bucket, Connection, PutError, stream_facts};
use crate::wire::Signal;

/// How often a write is tried that meets a predecessor's last word.
const TRIES: u32 = 3;

/// The capacity signals of one leadership.
pub(super) struct SignalStore {
    bucket: Bucket,
    /// What the bucket had seen before the books were adopted: a successor adopts them later, so its words come later.
    before: u64,
    last: BTreeMap<String, Told>,
}

/// A signal as it was written.
struct Told {
    signal: Signal,
    /// None while it is being written.
    revision: Option<u64>,
}

/// What became of the writes: each key's revision, or none where it is not known to be written.
pub(super) type Written = Vec<(String, Option<u64>)>;

impl SignalStore {
    /// To be opened before the books are adopted.
    pub(super) async fn open(bucket: Bucket, connection: &Connection) -> Self {
        // Where it cannot be read every word counts as a later one: then its epoch decides.
        let facts = stream_facts(connection, &format!("KV_{}", bucket.name())).await;
        Self { bucket, before: facts.map_or(0, |facts| facts.last_sequence), last: BTreeMap::new() }
    }

    /// Publishes those that tell something new; none where there is nothing new. The outcome is to be told to
    /// [`SignalStore::written`]; it is a loss where another leader has spoken.
    pub(super) fn publish(
        &mut self,
        signals: Vec<Signal>,
    ) -> Option<impl Future<Output = Result<Written, Lost>> + Send + 'static> {
        let mut news = Vec::new();
        for signal in signals {
            let key = format!("{}.{}", signal.namespace, signal.quota);
            let known = self.last.get(&key);
            if known.is_some_and(|told| told.signal.tells_the_same(&signal)) {
                continue;
            }
            if let Ok(bytes) = serde_json::to_vec(&signal) {
                let revision = known.and_then(|told| told.revision);
                news.push((key.clone(), signal.epoch, Bytes::from(bytes), revision));
                self.last.insert(key, Told { signal, revision });
            }
        }
        if news.is_empty() {
            return None;
        }
        let (bucket, before) = (self.bucket.clone(), self.before);
        Some(async move {
            let mut written = Written::new();
            for (key, epoch, bytes, held) in news {
                let revision = write(&bucket, &key, epoch, &bytes, held, before).await?;
                written.push((key, revision));
            }
            Ok(written)
        })
    }

    /// Takes the outcome of the writes over. What is not known to be written is written again with the next look.
    pub(super) fn written(&mut self, written: Written) {
        for (key, revision) in written {
            match (revision, self.last.get_mut(&key)) {
                (Some(revision), Some(told)) => told.revision = Some(revision),
                (None, _) => drop(self.last.remove(&key)),
                (Some(_), None) => {}
            }
        }
    }
}

/// Writes a signal over the revision that we wrote last, or, the first time, over what stood there before this
/// leadership. None where it is not known to be written: it is public information, and nobody obeys it.
async fn write(
    bucket: &Bucket,
    key: &str,
    epoch: u64,
    bytes: &Bytes,
    mut held: Option<u64>,
    before: u64,
) -> Result<Option<u64>, Lost> {
    for _ in 0..TRIES {
        let expected = match held.take() {
            Some(revision) => Some(revision),
            None => match bucket.get(key).await {
                Ok(Some((_, revision))) if revision <= before => Some(revision),
                Ok(Some((stored, revision))) => {
                    let newer = |signal: Signal| signal.epoch > epoch;
                    if serde_json::from_slice(&stored).is_ok_and(newer) {
                        return Err(Lost::Overtaken { what: "capacity signal" });
                    }
                    // A predecessor's last word, or ours whose answer was lost.
                    Some(revision)
                }
                Ok(None) => None,
                Err(error) => {
                    not_written(key, &error);
                    if !remade(bucket).await {
                        return Ok(None);
                    }
                    None
                }
            },
        };
        match bucket.put(key, bytes.clone(), expected).await {
            Ok(revision) => return Ok(Some(revision)),
            Err(PutError::Conflict { .. }) => {}
            Err(
                error
                @ (PutError::Unknown { .. } | PutError::Refused { .. } | PutError::Read(_) | PutError::Key { .. }),
            ) => {
                not_written(key, &error);
                return Ok(None);
            }
        }
    }
    Ok(None)
}

fn not_written(key: &str, error: &(dyn std::error::Error + 'static)) {
    tracing::debug!(key, error, "signal not written");
}

//! The leader's stores in NATS: books, record, signal; each written by compare-and-set, so that a deposed leader
//! cannot write.

use std::future::Future;
use std::time::Duration;

use crate::jetstream::{Bucket, BucketError, BucketOptions, Connection, PutError};
use crate::message::Record;
use crate::wire::Books;

use super::LeaderSettings;
use super::signals::SignalStore;

/// The pause between tries of a write whose answer did not come, growing.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// What is missing is made.
const OPTIONS: BucketOptions = BucketOptions { create: true, replicas: 1 };

/// Why a leader may not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("another leader wrote the {what}")]
    Overtaken { what: &'static str },
    #[error("the {what} cannot be read: {source}")]
    Unreadable { what: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the bucket {bucket} cannot be used: {source}")]
    Bucket { bucket: String, source: BucketError },
    #[error("the stream cannot be read: {source}")]
    Stream { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("a watch is gone: {how}")]
    Watch { how: String },
}

/// All stores of one leadership.
pub(super) struct Stores {
    pub(super) books: BooksStore,
    pub(super) records: RecordStore,
    pub(super) signals: SignalStore,
}

/// The name of a bucket, with the instance in it where one is set.
pub(crate) fn bucket_name(base: &str, instance: &str) -> String {
    if instance.is_empty() { base.to_owned() } else { format!("{base}-{instance}") }
}

async fn open(connection: &Connection, base: &str, instance: &str) -> Result<Bucket, Lost> {
    let bucket = bucket_name(base, instance);
    Bucket::open(connection.clone(), &bucket, OPTIONS).await.map_err(|source| Lost::Bucket { bucket, source })
}

impl Stores {
    pub(super) async fn open(connection: &Connection, settings: &LeaderSettings) -> Result<Self, Lost> {
        let instance = &settings.instance;
        let books = open(connection, "jetgate-books", instance).await?;
        let records = open(connection, "jetgate-record", instance).await?;
        let signals = open(connection, "jetgate-capacity", instance).await?;
        // Who keeps a record alone has no ledger, and must not depose the one who has.
        let record = record_key(&settings.namespace, &settings.own.sensor);
        let ledger = if settings.gated { settings.namespace.clone() } else { record.clone() };
        Ok(Self {
            books: BooksStore { bucket: books, key: ledger, revision: None, writing: false },
            records: RecordStore { bucket: records, key: record },
            signals: SignalStore::open(signals, connection).await,
        })
    }
}

/// The key of a consumer's record.
pub(crate) fn record_key(namespace: &str, sensor: &str) -> String {
    format!("{namespace}.{sensor}")
}

/// The books of the namespace.
pub(super) struct BooksStore {
    bucket: Bucket,
    key: String,
    revision: Option<u64>,
    writing: bool,
}

impl BooksStore {
    /// Writes the epoch into the books, again on conflict, and reads them: from here on a predecessor cannot grant.
    pub(super) async fn adopt(mut self, lease_epoch: u64) -> Result<(Books, Self), Lost> {
        loop {
            let stored = read(&self.bucket, &self.key).await?;
            let revision = stored.as_ref().map(|(_, revision)| *revision);
            let mut books = match stored {
                Some((bytes, _)) => Books::decode(&bytes)
                    .map_err(|source| Lost::Unreadable { what: "books", source: Box::new(source) })?,
                None => Books::empty(),
            };
            // Usually the Lease's version is the higher one. Where the cluster was made anew and NATS was not, its
            // versions begin again: holders obey the higher epoch only, so it goes on rising.
            books.epoch = lease_epoch.max(books.epoch.saturating_add(1));
            books.write = books.write.saturating_add(1);
            match put(&self.bucket, &self.key, encode(&books)?, revision, "books").await {
                Ok(revision) => {
                    self.revision = Some(revision);
                    return Ok((books, self));
                }
                Err(Lost::Overtaken { what: _ }) => {}
                Err(
                    lost @ (Lost::Unreadable { .. } | Lost::Bucket { .. } | Lost::Stream { .. } | Lost::Watch { .. }),
                ) => return Err(lost),
            }
        }
    }

    pub(super) const fn is_writing(&self) -> bool {
        self.writing
    }

    /// Writes the books; ends only when they are written or another leader's stand there.
    pub(super) fn write(&mut self, books: Books) -> impl Future<Output = Result<u64, Lost>> + Send + 'static {
        self.writing = true;
        let (bucket, key, revision) = (self.bucket.clone(), self.key.clone(), self.revision);
        async move { put(&bucket, &key, encode(&books)?, revision, "books").await }
    }

    /// Takes the outcome of a write over.
    pub(super) fn written(&mut self, result: Result<u64, Lost>) -> Result<(), Lost> {
        self.writing = false;
        self.revision = Some(result?);
        Ok(())
    }
}

fn encode(books: &Books) -> Result<Vec<u8>, Lost> {
    books.encode().map_err(|source| Lost::Unreadable { what: "books", source: Box::new(source) })
}

/// The record of a consumer.
pub(super) struct RecordStore {
    bucket: Bucket,
    key: String,
}

impl RecordStore {
    /// The stored record with its revision, or a fresh one where there is none for this incarnation of the stream.
    pub(super) async fn load(&self, stream_created_ns: i64) -> Result<(Record, Option<u64>), Lost> {
        let Some((bytes, revision)) = read(&self.bucket, &self.key).await? else {
            return Ok((Record::new(stream_created_ns), None));
        };
        let record =
            Record::decode(&bytes).map_err(|source| Lost::Unreadable { what: "record", source: Box::new(source) })?;
        if record.stream_created_ns() == stream_created_ns {
            return Ok((record, Some(revision)));
        }
        tracing::warn!(key = self.key, "the stream was created anew: its record begins again");
        Ok((Record::new(stream_created_ns), Some(revision)))
    }

    pub(super) fn write(
        &self,
        record: Record,
        revision: Option<u64>,
    ) -> impl Future<Output = Result<u64, Lost>> + Send + 'static {
        let (bucket, key) = (self.bucket.clone(), self.key.clone());
        async move {
            let bytes =
                record.encode().map_err(|source| Lost::Unreadable { what: "record", source: Box::new(source) })?;
            put(&bucket, &key, bytes, revision, "record").await
        }
    }
}

/// Reads a value; tries on while NATS does not answer.
async fn read(bucket: &Bucket, key: &str) -> Result<Option<(bytes::Bytes, u64)>, Lost> {
    let mut pause = PAUSE;
    loop {
        match bucket.get(key).await {
            Ok(value) => return Ok(value),
            Err(error) if error.is_passing() => {}
            Err(source) => return Err(Lost::Bucket { bucket: bucket.name().to_owned(), source }),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether somebody had deleted the bucket, so that it was made again.
pub(super) async fn remade(bucket: &Bucket) -> bool {
    let remade = bucket.remake_if_deleted(OPTIONS).await;
    if remade {
        tracing::warn!(bucket = bucket.name(), "the bucket was deleted; it is made again");
    }
    remade
}

/// Writes a value by compare-and-set. After a lost answer the value itself tells whether the write happened: no two
/// writes of a leader are alike.
async fn put(
    bucket: &Bucket,
    key: &str,
    value: Vec<u8>,
    mut expected: Option<u64>,
    what: &'static str,
) -> Result<u64, Lost> {
    let value = bytes::Bytes::from(value);
    let mut pause = PAUSE;
    let (mut unanswered, mut said) = (false, false);
    loop {
        match bucket.put(key, value.clone(), expected).await {
            Ok(revision) => return Ok(revision),
            Err(PutError::Conflict { .. }) if unanswered => {
                return match read(bucket, key).await? {
                    Some((stored, revision)) if stored == value => Ok(revision),
                    Some(_) | None => Err(Lost::Overtaken { what }),
                };
            }
            Err(PutError::Conflict { .. }) => return Err(Lost::Overtaken { what }),
            Err(PutError::Unknown { .. } | PutError::Read(_)) => {
                unanswered = true;
                if remade(bucket).await {
                    // All that it held of ours is in this very value. Should another leader be first, it stands there.
                    expected = None;
                }
            }
            // A full disk, a missing right: said once, and tried on, because grants wait and nothing is lost.
            Err(error @ (PutError::Refused { .. } | PutError::Key { .. })) => {
                if !said {
                    said = true;
                    tracing::error!(
                        bucket = bucket.name(),
                        key,
                        error = &error as &dyn std::error::Error,
                        "the {what} cannot be written"
                    );
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

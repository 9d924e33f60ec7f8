//! The sensor's copy of the record, by a watch of its bucket.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::shared::RecordCopy;
use crate::jetstream::Bucket;
use crate::leader::LeaderView;
use crate::message::Record;

/// The pause after a value that cannot be read: it stays until the leader writes another.
const PAUSE: Duration = Duration::from_millis(200);

/// Follows the record for ever. Where the leader may not watch the objects no record is kept, and the copy says so.
pub(super) async fn follow(
    bucket: Bucket,
    key: String,
    mut leader: watch::Receiver<LeaderView>,
    copy: watch::Sender<RecordCopy>,
) {
    let mut watch = bucket.watch(&key);
    let mut newest: Option<Arc<Record>> = None;
    loop {
        let unwatched = leader.borrow_and_update().record.as_ref().is_some_and(|record| !record.watched);
        let next = match (&newest, unwatched) {
            (last, true) => RecordCopy::Unkept(last.clone()),
            (Some(record), false) => RecordCopy::Kept(Arc::clone(record)),
            (None, false) => RecordCopy::Unread,
        };
        copy.send_replace(next);
        tokio::select! {
            update = watch.next() => {
                let Some(value) = update.value else {
                    newest = None;
                    continue;
                };
                match Record::decode(&value) {
                    Ok(record) => newest = Some(Arc::new(record)),
                    Err(error) => {
                        tracing::error!(key, error = &error as &dyn std::error::Error, "the record cannot be read");
                        newest = None;
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
            () = changes(&mut leader, unwatched) => {}
        }
    }
}

/// Ends when the leader's word on whether the objects are watched is another one; never where there is no leader.
async fn changes(leader: &mut watch::Receiver<LeaderView>, unwatched: bool) {
    let differs = |view: &LeaderView| view.record.as_ref().is_some_and(|record| !record.watched) != unwatched;
    let gone = leader.wait_for(differs).await.is_err();
    if gone {
        std::future::pending().await
    }
}

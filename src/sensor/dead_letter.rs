//! Stores a dead letter.

use std::time::Duration;

use bytes::Bytes;

use super::shared::Shared;
use crate::jetstream::{PublishErrorKind, publish};
use crate::message::{Confirmed, Packed};

/// How long a dead letter may take to be stored.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Stores what fits of a dead letter.
pub(super) async fn store(shared: &Shared, letter: &Packed, payload: &Bytes) -> Confirmed {
    let mut largest = shared.connection.max_payload();
    loop {
        let (headers, kept) = letter.fit(largest);
        let part = payload.slice(..kept.min(payload.len()));
        let stored = publish(
            &shared.connection,
            &shared.dead_letter_subject,
            &headers,
            part,
            Some(letter.message_id()),
            TIMEOUT,
        )
        .await;
        match stored {
            Ok(_) => return Confirmed::Yes,
            // A bound of the stream's own, or a header that no client can send: what is needed goes without the rest.
            Err(error) if error.kind() == PublishErrorKind::BadMessage && largest > 0 => largest = 0,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the dead letter is not stored; trying on");
                return Confirmed::No;
            }
        }
    }
}

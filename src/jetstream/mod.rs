//! Adapter to NATS JetStream: connection, pull, ack, publish, key-value buckets.
//!
//! Everything here is built on core requests of the client, never on its JetStream helpers: those hide the traps
//! that lose credits or acknowledgements (a status counted as an ack, a pull that outlives its connection, a stream
//! that waits for ever). Every call has a deadline and ends at once when the connection does.

mod ack;
mod book;
mod bucket;
mod call;
mod connection;
mod consumer;
mod delivery;
mod events;
mod options;
mod publish;
mod pull;
mod stored;
mod stream;
mod watch;

pub use ack::{Ack, AckError, Acker};
pub use book::{Expired, PullBook};
pub use bucket::{Bucket, BucketError, BucketOptions, PutError};
pub use call::{ApiError, CallError, CallErrorKind};
pub use connection::{CloseError, Connection, ConnectionState, OpenError};
pub use consumer::{ConsumerFacts, ConsumerSpec, ConsumerTerms, Finding, Start, consumer_facts, ensure_consumer};
pub use delivery::{Delivery, ReplyError, ReplyInfo};
pub(crate) use options::with_sources;
pub use options::{Credentials, NatsOptions, Secret, SecretError, TlsOptions};
pub use publish::{PublishError, PublishErrorKind, Published, publish};
pub use pull::{PullEnd, PullError, PullEvent, Puller};
pub use stored::{Stored, Unreadable, stored_from, stored_reply};
pub use stream::{
    DeadLetterSpec, ManageError, Retention, StreamFacts, StreamSpec, dead_letter_subject, ensure_dead_letter,
    ensure_stream, oldest_pending, stream_facts,
};
pub use watch::{Watch, WatchUpdate};

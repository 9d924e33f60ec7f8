//! Confirmed acknowledgements.
//!
//! By request, never by the client's `double_ack`: that takes any reply for a confirmation, also the one that says
//! that nobody listens.

use std::time::Duration;

use async_nats::Subject;
use bytes::Bytes;

use super::call::{CallError, CallErrorKind};
use super::connection::Connection;

/// What to say about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack<'a> {
    /// Its effect is durable.
    Ack,
    /// Deliver it again after this time.
    Nak(Duration),
    /// It is being worked on: its ack wait begins anew.
    Progress,
    /// Never deliver it again; the reason goes into the server's advisory.
    Term(&'a str),
}

impl Ack<'_> {
    fn payload(self) -> Bytes {
        match self {
            Self::Ack => Bytes::from_static(b"+ACK"),
            Self::Nak(Duration::ZERO) => Bytes::from_static(b"-NAK"),
            Self::Nak(delay) => Bytes::from(format!("-NAK {{\"delay\":{}}}", delay.as_nanos())),
            Self::Progress => Bytes::from_static(b"+WPI"),
            Self::Term("") => Bytes::from_static(b"+TERM"),
            Self::Term(reason) => Bytes::from(format!("+TERM {reason}")),
        }
    }
}

/// Why an acknowledgement is not confirmed. It may have been taken all the same; a repeat does no harm.
#[derive(Debug, thiserror::Error)]
#[error("the acknowledgement is not confirmed")]
pub struct AckError(#[from] CallError);

impl AckError {
    /// What kind of failure; `NoResponders` means that the consumer or the stream is gone.
    #[must_use]
    pub fn kind(&self) -> CallErrorKind {
        self.0.kind()
    }
}

/// Acknowledges messages. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Acker {
    connection: Connection,
    timeout: Duration,
}

impl Acker {
    /// Over this connection, with the connection's request timeout.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        let timeout = connection.request_timeout();
        Self { connection, timeout }
    }

    /// Acknowledges the message with this reply subject and waits for the server's confirmation.
    pub async fn ack(&self, reply: &Subject, ack: Ack<'_>) -> Result<(), AckError> {
        self.connection.call(reply.clone(), None, ack.payload(), self.timeout).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_those_of_the_protocol() {
        let text = |ack: Ack<'_>| String::from_utf8(ack.payload().to_vec()).unwrap();
        assert_eq!(text(Ack::Ack), "+ACK");
        assert_eq!(text(Ack::Nak(Duration::ZERO)), "-NAK");
        assert_eq!(text(Ack::Nak(Duration::from_millis(5))), "-NAK {\"delay\":5000000}");
        assert_eq!(text(Ack::Progress), "+WPI");
        assert_eq!(text(Ack::Term("")), "+TERM");
        assert_eq!(text(Ack::Term("bad payload")), "+TERM bad payload");
    }
}

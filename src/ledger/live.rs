//! Objects of a counted kind that exist, as the leader's metadata watch tells.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::message::{CreditId, owns};

/// An object of a counted kind as the ledger sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenObject {
    /// Its name; within a namespace and kind it is unique at any time.
    pub name: String,
    /// Its credit, where the object is really ours: a copied object does not count.
    pub credit: Option<CreditId>,
}

impl SeenObject {
    /// Reads the two annotations. The credit stands only where the name derives from the message's identity, so
    /// that an object that somebody copied, annotations and all, settles no number.
    #[must_use]
    pub fn read(name: &str, message: Option<&str>, credit: Option<&str>) -> Self {
        let ours = message.is_some_and(|text| owns(text, name));
        let credit = credit.filter(|_| ours).and_then(CreditId::parse_annotation);
        Self { name: name.to_owned(), credit }
    }
}

/// What is known of one counted kind.
#[derive(Debug, Clone)]
pub enum LiveState {
    /// Not listed yet: nothing is granted.
    Unknown,
    /// Watched.
    Watched {
        /// All objects of the kind in the namespace by name, with the credit of those that are ours.
        objects: BTreeMap<String, Option<CreditId>>,
        /// When the watch last showed that it is alive: an event, a bookmark or an orderly end.
        alive: Instant,
    },
    /// May not be watched: `used` with a settle time is all there is.
    Forbidden,
}

impl LiveState {
    /// How many objects exist; none where they are not watched.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Watched { objects, alive: _ } => Some(objects.len() as u64),
            Self::Unknown | Self::Forbidden => None,
        }
    }
}

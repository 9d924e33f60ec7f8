//! Quorum reads of metadata: none carries a resourceVersion, so none may be answered from a stale cache.

use std::time::Duration;

use serde::Deserialize;

use super::{
    call::{Address, METADATA, METADATA_LIST},
    client::Cluster,
    discover::Kind,
    error::CallError,
    sight::{Metadata, Sight, WireObject},
};

/// Objects per page of a list.
const PAGE: &str = "1000";
/// How often a list begins anew when its pages expire under it (each lives for minutes).
const LIST_ATTEMPTS: u32 = 3;

#[derive(Deserialize)]
pub(super) struct WireList<T> {
    #[serde(default)]
    pub(super) metadata: Metadata,
    /// Null for an empty list of some kinds.
    items: Option<Vec<T>>,
}

impl Cluster {
    /// The object of this name. None only where the server says that this very object does not exist; a kind that is
    /// not served is `Refused` with 404 too.
    pub async fn find(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        timeout: Duration,
    ) -> Result<Option<Sight>, CallError> {
        let address = Address::collection(kind, namespace).segment(name);
        let found = self.read::<WireObject>(address.get(METADATA), timeout).await;
        found_or_absent(found, name)?.map(|object| object.metadata.sight().map_err(CallError::from)).transpose()
    }

    /// The newest version of the store: every write that was answered before the call is at or below it.
    pub async fn version(&self, kind: &Kind, namespace: &str, timeout: Duration) -> Result<u64, CallError> {
        let address = Address::collection(kind, namespace).query("limit", "1");
        let list: WireList<WireObject> = self.read(address.get(METADATA_LIST), timeout).await?;
        Ok(list.metadata.version()?)
    }

    /// All objects and the version at which these were all.
    pub async fn list(&self, kind: &Kind, namespace: &str) -> Result<(Vec<Sight>, u64), CallError> {
        let (objects, version) = self.list_as(&Address::collection(kind, namespace), METADATA_LIST, sight).await?;
        Ok((objects.into_iter().collect::<Result<_, _>>()?, version))
    }

    /// Pages through a collection, reducing each item before the next page is read.
    pub(super) async fn list_as<T: serde::de::DeserializeOwned, U>(
        &self,
        collection: &Address,
        accept: &str,
        reduce: impl Fn(T) -> U,
    ) -> Result<(Vec<U>, u64), CallError> {
        let mut attempts = 1;
        let mut kept = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let address = collection.clone().query("limit", PAGE);
            let address = match &next {
                Some(next) => address.query("continue", next),
                None => address,
            };
            let page: WireList<T> = match self.read(address.get(accept), self.options().read_timeout).await {
                Err(CallError::Expired) if next.is_some() && attempts < LIST_ATTEMPTS => {
                    attempts += 1;
                    kept.clear();
                    next = None;
                    continue;
                }
                page => page?,
            };
            kept.extend(page.items.unwrap_or_default().into_iter().map(&reduce));
            let version = page.metadata.version()?;
            next = page.metadata.r#continue.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok((kept, version));
            }
        }
    }
}

fn sight(object: WireObject) -> Result<Sight, CallError> {
    Ok(object.metadata.sight()?)
}

/// A 404 is an absence only where the server names the object that was asked for.
pub(super) fn found_or_absent<T>(found: Result<T, CallError>, name: &str) -> Result<Option<T>, CallError> {
    match found {
        Ok(object) => Ok(Some(object)),
        Err(CallError::Refused(status)) if status.code == 404 && status.reason == "NotFound" && status.name == name => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

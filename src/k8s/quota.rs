//! ResourceQuotas as the gate reads them. One that cannot be read does not hide the others.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use thiserror::Error;

use super::{
    call::Address,
    client::Cluster,
    error::{CallError, DecodeError},
    sight::Metadata,
    watch::{Change, Watch},
};
use crate::gate::{QuotaError, QuotaView};

/// A ResourceQuota that is there and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("ResourceQuota {name:?} cannot be read")]
pub struct QuotaFault {
    /// Its name.
    pub name: String,
    /// What is wrong, with the key.
    pub source: QuotaError,
}

/// One event of a watch of ResourceQuotas.
#[derive(Debug)]
pub enum QuotaEvent {
    /// It is there, in this state.
    Applied(Result<QuotaView, QuotaFault>),
    /// It is gone.
    Deleted {
        /// Its name.
        name: String,
        /// Its uid: another quota of this name may be there already.
        uid: String,
        /// The version of its deletion.
        resource_version: u64,
    },
    /// Nothing happened up to this version.
    Bookmark(u64),
}

/// A ResourceQuota on the wire.
#[derive(Debug, Deserialize)]
pub(super) struct WireQuota {
    #[serde(default)]
    pub(super) metadata: Metadata,
    #[serde(default)]
    spec: Option<Spec>,
    #[serde(default)]
    status: Option<Status>,
}

type Amounts = Option<BTreeMap<String, String>>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    hard: Amounts,
    scopes: Option<Vec<String>>,
    scope_selector: Option<Selector>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Selector {
    match_expressions: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    hard: Amounts,
    used: Amounts,
}

impl Spec {
    /// A selector without expressions selects everything.
    fn scoped(&self) -> bool {
        let scopes = self.scopes.as_ref().map_or(0, Vec::len);
        let selector = self.scope_selector.as_ref().and_then(|selector| selector.match_expressions.as_ref());
        scopes + selector.map_or(0, Vec::len) > 0
    }
}

impl WireQuota {
    fn view(self) -> Result<Result<QuotaView, QuotaFault>, DecodeError> {
        let name = self.metadata.name.ok_or(DecodeError::Missing("metadata.name"))?;
        let uid = self.metadata.uid.ok_or(DecodeError::Missing("metadata.uid"))?;
        let version = self.metadata.resource_version.ok_or(DecodeError::Missing("metadata.resourceVersion"))?;
        let spec = self.spec.unwrap_or_default();
        let status = self.status.unwrap_or_default();
        let view = QuotaView::from_parts(
            name.clone(),
            uid,
            &version,
            spec.scoped(),
            spec.hard.unwrap_or_default(),
            status.hard,
            status.used.unwrap_or_default(),
        );
        Ok(view.map_err(|source| QuotaFault { name, source }))
    }

    pub(super) fn event(self, change: Change) -> Result<QuotaEvent, DecodeError> {
        Ok(match change {
            Change::Applied => QuotaEvent::Applied(self.view()?),
            Change::Deleted => QuotaEvent::Deleted {
                resource_version: self.metadata.version()?,
                name: self.metadata.name.ok_or(DecodeError::Missing("metadata.name"))?,
                uid: self.metadata.uid.ok_or(DecodeError::Missing("metadata.uid"))?,
            },
            Change::Bookmark => QuotaEvent::Bookmark(self.metadata.version()?),
        })
    }
}

impl Cluster {
    /// All quotas of a namespace, readable or not, and the version at which these were all.
    pub async fn list_quotas(&self, namespace: &str) -> Result<(Vec<Result<QuotaView, QuotaFault>>, u64), CallError> {
        let (quotas, version) =
            self.list_as(&collection(namespace), "application/json", |quota: WireQuota| quota.view()).await?;
        Ok((quotas.into_iter().collect::<Result<_, _>>()?, version))
    }

    /// As [`Cluster::watch`], for the quotas of a namespace.
    pub async fn watch_quotas(
        &self,
        namespace: &str,
        from: u64,
        timeout: Duration,
    ) -> Result<Watch<QuotaEvent>, CallError> {
        self.watch_as(collection(namespace), "application/json", from, timeout, WireQuota::event).await
    }
}

fn collection(namespace: &str) -> Address {
    Address::new("/api/v1/namespaces").segment(namespace).segment("resourcequotas")
}

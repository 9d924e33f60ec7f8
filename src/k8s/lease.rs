//! The Lease of an election: read, create, replace. Who may write it, and when, is decided in `ledger/election.rs`.

use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};

use super::{
    call::{Address, FIELD_MANAGER},
    client::Cluster,
    error::{CallError, DecodeError},
    read::found_or_absent,
};
use crate::clock;

/// A Lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// How long the holder asks the others to wait after they last saw it change.
    pub duration: Duration,
    /// How often it went from one holder to another.
    pub transitions: u32,
    /// The version of this state; of a state that we wrote, of our write.
    pub resource_version: u64,
    /// When the holder took it, by its own wall clock: for people, and to be kept when it is renewed.
    pub acquired: Option<Timestamp>,
    /// When the holder last renewed it, by its own wall clock: for people.
    pub renewed: Option<Timestamp>,
}

/// What is written into a Lease. The time of renewal is always that of the write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseClaim {
    /// The new holder; empty: nobody.
    pub holder: String,
    /// See [`LeaseView::duration`]; Kubernetes stores whole seconds, at least one.
    pub duration: Duration,
    /// See [`LeaseView::transitions`].
    pub transitions: u32,
    /// When the holder took it; None: now.
    pub acquired: Option<Timestamp>,
}

/// How a write of a Lease ended, where the server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseWrite {
    /// Written; the Lease as it now is.
    Done(LeaseView),
    /// Somebody else wrote, made or deleted it first: read it.
    Conflict,
}

impl Cluster {
    /// The Lease, from the store itself; None where it does not exist.
    pub async fn get_lease(
        &self,
        namespace: &str,
        name: &str,
        timeout: Duration,
    ) -> Result<Option<LeaseView>, CallError> {
        let found = self.read::<Lease>(collection(namespace).segment(name).get_json(), timeout).await;
        Ok(found_or_absent(found, name)?.map(view).transpose()?)
    }

    /// Creates the Lease.
    pub async fn create_lease(
        &self,
        namespace: &str,
        name: &str,
        claim: &LeaseClaim,
        timeout: Duration,
    ) -> Result<LeaseWrite, CallError> {
        self.write(Method::POST, collection(namespace), &lease(namespace, name, claim, None), timeout).await
    }

    /// Replaces the Lease, if it still is at `resource_version`. One that was deleted meanwhile is made again: the
    /// API server creates a Lease that is put.
    pub async fn replace_lease(
        &self,
        namespace: &str,
        name: &str,
        resource_version: u64,
        claim: &LeaseClaim,
        timeout: Duration,
    ) -> Result<LeaseWrite, CallError> {
        let lease = lease(namespace, name, claim, Some(resource_version));
        self.write(Method::PUT, collection(namespace).segment(name), &lease, timeout).await
    }

    async fn write(
        &self,
        method: Method,
        address: Address,
        lease: &Lease,
        timeout: Duration,
    ) -> Result<LeaseWrite, CallError> {
        let body = serde_json::to_vec(lease).map_err(DecodeError::from)?;
        let request = address.query("fieldManager", FIELD_MANAGER).request(method.clone(), "application/json", body);
        match self.read::<Lease>(request, timeout).await {
            Ok(written) => Ok(LeaseWrite::Done(view(written)?)),
            // 409 is a Conflict of a replace or an AlreadyExists of a create. A 404 of a replace would mean that it was
            // deleted; that of a create says that the namespace is missing, which is no conflict.
            Err(CallError::Refused(status)) if status.code == 409 || (status.code == 404 && method == Method::PUT) => {
                Ok(LeaseWrite::Conflict)
            }
            Err(error) => Err(error),
        }
    }
}

fn collection(namespace: &str) -> Address {
    Address::new("/apis/coordination.k8s.io/v1/namespaces").segment(namespace).segment("leases")
}

fn view(lease: Lease) -> Result<LeaseView, DecodeError> {
    let version = lease.metadata.resource_version.ok_or(DecodeError::Missing("metadata.resourceVersion"))?;
    let spec = lease.spec.unwrap_or_default();
    Ok(LeaseView {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(
            spec.lease_duration_seconds.and_then(|seconds| seconds.try_into().ok()).unwrap_or(0),
        ),
        transitions: spec.lease_transitions.and_then(|count| count.try_into().ok()).unwrap_or(0),
        resource_version: version.parse().map_err(|_| DecodeError::Version(version))?,
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
    })
}

fn lease(namespace: &str, name: &str, claim: &LeaseClaim, resource_version: Option<u64>) -> Lease {
    let now = clock::wall();
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            resource_version: resource_version.map(|version| version.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            // The API server refuses an empty holder, and a missing one means the same.
            holder_identity: Some(claim.holder.clone()).filter(|holder| !holder.is_empty()),
            lease_duration_seconds: Some(claim.duration.as_secs().max(1).try_into().unwrap_or(i32::MAX)),
            lease_transitions: Some(claim.transitions.try_into().unwrap_or(i32::MAX)),
            acquire_time: Some(MicroTime(claim.acquired.unwrap_or(now))),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

//! POST of an object.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;

use super::{
    call::{self, Address, FIELD_MANAGER, METADATA},
    client::{Borrowed, Cluster, Lane},
    discover::Kind,
    error::{CallError, DecodeError},
    sight::{Sight, WireObject},
};

impl Cluster {
    /// Creates `object`, once: nothing here sends it again. `timeout` ends the call on our side, and in whole seconds
    /// on the server's. An `Ok` means that the object was stored, also where the rest of the answer was lost.
    pub async fn create(
        &self,
        kind: &Kind,
        namespace: &str,
        object: &Value,
        timeout: Duration,
    ) -> Result<Sight, CallError> {
        let address = Address::collection(kind, namespace)
            .query("fieldManager", FIELD_MANAGER)
            .query("timeout", &format!("{}s", call::whole_seconds(timeout)));
        let body = serde_json::to_vec(object).map_err(DecodeError::from)?;
        let request = address.request(Method::POST, METADATA, body);

        // A limit of its own for each half: once the head says "created", nothing that happens to the body matters.
        let mut head = None;
        let outcome = self
            .limited(Lane::Create, timeout, async |used: Borrowed| {
                let response = call::answer(&used.client, request).await?;
                head = Some(response.status());
                let body = response.into_body().collect_bytes().await.map_err(CallError::from_kube)?;
                let created: WireObject = serde_json::from_slice(&body).map_err(DecodeError::from)?;
                Ok(created.metadata.sight()?)
            })
            .await;
        match (outcome, head) {
            (Err(_), Some(StatusCode::CREATED)) => Ok(Sight::of_request(object)),
            (Err(CallError::Decode(_)), Some(other)) => Err(DecodeError::NotCreated(other.as_u16()).into()),
            (outcome, _) => outcome,
        }
    }
}

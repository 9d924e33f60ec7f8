//! How the session reads the quotas beside their watch, and what it says where that is refused.

use std::time::Instant;

use super::{Done, Session};
use crate::clock;
use crate::gate::QuotaView;
use crate::k8s::{CallError, Cluster};
use crate::leader::watches;

/// How the reads beside the watch are called in the log.
const QUOTA_READINGS: &str = "quota readings";

impl Session<'_> {
    pub(super) fn read_quotas(&mut self) {
        let (cluster, namespace) = (self.leader.cluster.clone(), self.leader.settings.namespace.clone());
        self.calls.push(Box::pin(async move {
            let began = clock::now();
            let result = list_quotas(&cluster, &namespace).await;
            Done::Quotas { result, began }
        }));
    }

    /// A read beside the watch has come to an end.
    pub(super) fn quotas_read(&mut self, result: Result<Vec<QuotaView>, CallError>, began: Instant, now: Instant) {
        match result {
            Ok(views) => {
                self.well(QUOTA_READINGS);
                self.ledger.quotas_listed(views, began, now);
            }
            Err(error) => match watches::quotas_lack("list", &error) {
                Some(lack) => self.ledger.quotas_list_refused(lack, now),
                None => {
                    // The watch may be well meanwhile.
                    self.trouble(QUOTA_READINGS, &error);
                    self.ledger.quotas_read_failed(now);
                }
            },
        }
    }

    /// Says what lacks to know the quotas, once for each change.
    pub(super) fn say_lack(&mut self) {
        let lack = self.ledger.quota_lack();
        if self.said_lack.as_ref() == lack {
            return;
        }
        let namespace = &self.leader.settings.namespace;
        match lack {
            Some(lack) => tracing::warn!(
                namespace,
                detail = lack.detail(),
                "the quotas may not be listed and watched: nothing is granted; trying on"
            ),
            None => tracing::info!(namespace, "the quotas may be listed and watched again"),
        }
        self.said_lack = lack.cloned();
    }
}

async fn list_quotas(cluster: &Cluster, namespace: &str) -> Result<Vec<QuotaView>, CallError> {
    let (views, _) = cluster.list_quotas(namespace).await?;
    Ok(watches::readable(views))
}

//! What a control plane is started with.

use std::time::Duration;

use serde_json::Value;

/// How fast the controller manager may be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ControllerManager {
    /// 100 requests per second, burst 200, quotas recalculated every 5 s.
    #[default]
    Fast,
    /// Its own defaults: 20 requests per second, burst 30, quotas recalculated every 5 min.
    Defaults,
    /// None: quotas have no status and nothing is replenished.
    Absent,
}

/// Options of [`ControlPlane::start`](super::ControlPlane::start).
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    /// The pace of the controller manager.
    pub controller_manager: ControllerManager,
    /// Another time between two recalculations of all quotas.
    pub quota_sync_period: Option<Duration>,
    /// Controllers beside resourcequota, namespace, garbage-collector and serviceaccount.
    pub controllers: Vec<String>,
    /// CustomResourceDefinitions beside workflows.argoproj.io and widgets.example.com; they are there before the
    /// controller manager starts, so quotas count them at once.
    pub definitions: Vec<Value>,
    /// More flags of kube-apiserver.
    pub apiserver_flags: Vec<String>,
    /// More flags of kube-controller-manager.
    pub controller_manager_flags: Vec<String>,
    /// Whether etcd really syncs to disk.
    pub fsync: bool,
}

impl ControlPlaneOptions {
    /// Those of the controller manager's own defaults.
    pub fn with_controller_manager_defaults() -> Self {
        Self { controller_manager: ControllerManager::Defaults, ..Self::default() }
    }

    pub(super) fn controller_manager_arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut period = self.quota_sync_period;
        if self.controller_manager == ControllerManager::Fast {
            arguments.push("--kube-api-qps=100".to_owned());
            arguments.push("--kube-api-burst=200".to_owned());
            period = period.or(Some(Duration::from_secs(5)));
        }
        if let Some(period) = period {
            arguments.push(format!("--resource-quota-sync-period={}ms", period.as_millis()));
        }
        let mut controllers = vec![
            "resourcequota-controller",
            "namespace-controller",
            "garbage-collector-controller",
            "serviceaccount-controller",
        ];
        controllers.extend(self.controllers.iter().map(String::as_str));
        arguments.push(format!("--controllers={}", controllers.join(",")));
        arguments.extend(self.controller_manager_flags.iter().cloned());
        arguments
    }
}

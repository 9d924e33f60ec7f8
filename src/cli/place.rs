//! What the process finds around it: its namespace and its name.

use std::env;
use std::path::Path;

use kube::config::Kubeconfig;

use crate::api::Settings;

/// Where Kubernetes tells a pod its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The namespace of the quota and of the objects: as configured, the pod's, or that of the kubeconfig's context.
pub(super) fn namespace(settings: &Settings) -> Option<String> {
    let pod = env::var("POD_NAMESPACE").ok();
    let mounted = std::fs::read_to_string(NAMESPACE_FILE).ok();
    settings
        .resolve_namespace(pod.as_deref(), mounted.as_deref())
        .or_else(|| settings.kubeconfig.as_deref().and_then(context_namespace))
}

fn context_namespace(path: &Path) -> Option<String> {
    let config = Kubeconfig::read_from(path).ok()?;
    let current = config.current_context.as_deref()?;
    let context = config.contexts.iter().find(|named| named.name == current)?;
    context.context.as_ref()?.namespace.clone()
}

/// Who holds the Lease: the pod's name, which is the host's name in a pod. A restarted container finds its own name in
/// the Lease and goes on at once.
pub(super) fn identity() -> String {
    let pod = env::var("POD_NAME").ok();
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| env::var("HOSTNAME").ok());
    let name = pod.or_else(host).map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| format!("jetgate-{}", std::process::id()))
}

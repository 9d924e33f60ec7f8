//! What the process finds around it: its namespace and its name.

use std::env;
use std::path::Path;

use kube::config::Kubeconfig;

use crate::api::{Problem, Settings};
use crate::clock;
use crate::ledger::election::Name;

/// Where Kubernetes tells a pod its namespace.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The namespace of the quota and of the objects: as configured, the pod's, or that of the kubeconfig's context.
pub(super) fn namespace(settings: &Settings) -> Result<Option<String>, Problem> {
    // What is no UTF-8 is no namespace either, and is told as that.
    let pod = || env::var_os("POD_NAMESPACE").map(|name| name.to_string_lossy().into_owned());
    let mounted = || std::fs::read_to_string(NAMESPACE_FILE).ok();
    let context = || settings.kubeconfig.as_deref().and_then(context_namespace);
    let around: [(_, &dyn Fn() -> Option<String>); 3] =
        [("POD_NAMESPACE", &pod), (NAMESPACE_FILE, &mounted), ("the namespace of KUBECONFIG's context", &context)];
    // One after the other: who has a word already reads no file.
    settings.resolve_namespace(around.into_iter().map(|(place, says)| (place, says())))
}

fn context_namespace(path: &Path) -> Option<String> {
    let config = Kubeconfig::read_from(path).ok()?;
    let current = config.current_context.as_deref()?;
    let context = config.contexts.iter().find(|named| named.name == current)?;
    context.context.as_ref()?.namespace.clone()
}

/// Who holds the Lease: pod and sensor, because two sensors may be neighbours in one pod, and a number that is new at
/// each start, because two processes may be told one pod name. A restarted container knows its predecessor by the pod.
/// The name of a host is shared, by pods on the host's network and by processes of one machine: where nobody tells the
/// pod's, there is no predecessor, and the Lease has to run out first.
pub(super) fn identity(sensor: &str) -> Name {
    named(env::var("POD_NAME").ok().as_deref(), sensor, || {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| env::var("HOSTNAME").ok());
        host.map_or_else(|| "jetgate".to_owned(), |host| host.trim().to_owned())
    })
}

fn named(pod: Option<&str>, sensor: &str, host: impl FnOnce() -> String) -> Name {
    let random = clock::random() >> 32;
    match pod.map(str::trim).filter(|pod| !pod.is_empty()) {
        Some(pod) => {
            let pod = format!("{pod}/{sensor}/");
            Name { own: format!("{pod}{random:08x}"), pod: Some(pod) }
        }
        None => Name { own: format!("{}/{sensor}/{random:08x}", host()), pod: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_the_namespace_is_the_kubeconfigs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let of = |namespace: &str| {
            let text = format!(
                "{{apiVersion: v1, kind: Config, clusters: [], users: [], current-context: b, contexts: [\
                 {{name: a, context: {{cluster: c, user: u, namespace: other}}}}, \
                 {{name: b, context: {{cluster: c, user: u{namespace}}}}}]}}"
            );
            std::fs::write(&path, text).unwrap();
            context_namespace(&path)
        };
        assert_eq!(of(", namespace: team").as_deref(), Some("team"));
        assert_eq!(of(""), None);
        assert_eq!(context_namespace(&folder.path().join("nowhere")), None);
    }

    #[test]
    fn a_process_is_known_by_its_pod_and_has_a_name_of_its_own() {
        let host = || "node-1".to_owned();
        let first = named(Some("orders-0\n"), "orders", host);
        assert_eq!(first.pod.as_deref(), Some("orders-0/orders/"));
        assert!(first.own.starts_with("orders-0/orders/"), "{first:?}");
        let second = named(Some("orders-0"), "orders", host);
        assert_eq!(first.pod, second.pod);
        assert_ne!(first.own, second.own);
        assert_ne!(first.pod, named(Some("orders-0"), "returns", host).pod);
        for pod in [None, Some(" ")] {
            let name = named(pod, "orders", host);
            assert!(name.own.starts_with("node-1/orders/") && name.pod.is_none(), "{name:?}");
            assert_ne!(name, named(pod, "orders", host));
        }
    }
}

//! Adapter to the Kubernetes API: client, discovery, create, watches, lease.

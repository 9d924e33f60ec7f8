//! A real control plane, nats-server, fault proxy and referee for tests, demo and benchmarks.

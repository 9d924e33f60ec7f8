//! A real control plane, nats-server, fault proxies and a referee for tests, demo and benchmarks.
//!
//! The crate knows nothing of jetgate: what it starts, breaks and counts are etcd, kube-apiserver,
//! kube-controller-manager and nats-server, and the objects and messages in them.
//!
//! Everything it starts ends with the process that started it, however that ends (`process`), and what runs inside it
//! (proxies, referees, finishers) runs on a runtime of its own, so that one control plane serves many tests.
#![allow(
    clippy::disallowed_methods,
    reason = "a harness reads the clock and runs its own tasks; nothing here is part of the product"
)]

pub mod audit;
pub mod binaries;
pub mod certs;
pub mod control_plane;
mod error;
pub mod finisher;
pub mod http_client;
pub mod http_proxy;
pub mod nats;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod referee;
mod tasks;
pub mod wait;
mod watchdog;
pub mod workdir;

pub use control_plane::{ApiServer, ControlPlane, ControlPlaneOptions, Login, Resource};
pub use error::{Error, Result};
pub use finisher::{Finisher, Pace};
pub use http_proxy::HttpFaultProxy;
pub use nats::{Nats, NatsCluster, NatsOptions};
pub use process::Process;
pub use proxy::{Direction, FaultProxy};
pub use referee::{Referee, Verdict};

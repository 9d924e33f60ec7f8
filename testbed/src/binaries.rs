//! Where the programs are: built once per user by `testbed/build.sh`, or given by `JETGATE_TESTBED_BIN`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// What is built and kept together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Group {
    /// etcd, kube-apiserver, kube-controller-manager.
    Kube,
    /// nats-server.
    Nats,
    /// helm.
    Helm,
    /// promtool.
    Promtool,
}

impl Group {
    fn name(self) -> &'static str {
        match self {
            Self::Kube => "kube",
            Self::Nats => "nats",
            Self::Helm => "helm",
            Self::Promtool => "promtool",
        }
    }
}

static FOUND: Mutex<Option<HashMap<Group, PathBuf>>> = Mutex::new(None);

/// The folder of a group's programs. The first call of a user builds them, which takes minutes; the progress goes to
/// standard error.
pub async fn folder(group: Group) -> Result<PathBuf> {
    tokio::task::spawn_blocking(move || folder_blocking(group)).await.map_err(Error::doing("look for the programs"))?
}

/// One program of a group.
pub async fn program(group: Group, name: &str) -> Result<PathBuf> {
    Ok(folder(group).await?.join(name))
}

/// As [`folder`], for callers without a runtime.
pub fn folder_blocking(group: Group) -> Result<PathBuf> {
    // Held while building: the tests of one process wait for one build instead of starting many.
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let found = found.get_or_insert_with(HashMap::new);
    if let Some(folder) = found.get(&group) {
        return Ok(folder.clone());
    }
    let folder = ask_script(group)?;
    found.insert(group, folder.clone());
    Ok(folder)
}

fn ask_script(group: Group) -> Result<PathBuf> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("build.sh");
    let output = Command::new(&script)
        .arg(group.name())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(Error::doing(format!("run {}", script.display())))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let folder = text.lines().find_map(|line| line.strip_prefix(group.name())?.strip_prefix(' '));
    match folder {
        Some(folder) if output.status.success() => Ok(PathBuf::from(folder)),
        Some(_) | None => Err(Error::Binaries(format!(
            "the programs of the test bed ({}) are missing and could not be built: {} {} ended with {}. \
             What it printed says why; run it by hand to try again, or name a folder of ready programs in JETGATE_TESTBED_BIN",
            group.name(),
            script.display(),
            group.name(),
            output.status
        ))),
    }
}

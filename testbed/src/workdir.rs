//! The folder of one set of processes: their data, certificates and logs.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::watchdog;

/// A temporary folder that goes with its owner, or with this process at the latest.
/// With `JETGATE_TESTBED_KEEP` set it stays, and its path is printed.
#[derive(Debug)]
pub(crate) struct Workdir(TempDir);

impl Workdir {
    /// Makes the folder.
    pub(crate) fn new(purpose: &str) -> Result<Self> {
        let keep = std::env::var_os("JETGATE_TESTBED_KEEP").is_some();
        let folder = tempfile::Builder::new()
            .prefix(&format!("jetgate-testbed-{purpose}-"))
            .disable_cleanup(keep)
            .tempdir()
            .map_err(Error::doing("make a temporary folder"))?;
        if keep {
            eprintln!("testbed: keeps {}", folder.path().display());
        } else {
            watchdog::remove_at_end(folder.path())?;
        }
        Ok(Self(folder))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file into it.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::write(&path, content).map_err(Error::doing(format!("write {}", path.display())))?;
        Ok(path)
    }
}

//! The folder of one set of processes: their data, certificates and logs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::watchdog;

static KEEP: AtomicBool = AtomicBool::new(false);

/// From now on the folders of this process stay, as with `JETGATE_TESTBED_KEEP`, but whoever asks says so.
pub fn keep_folders() {
    KEEP.store(true, Ordering::Relaxed);
}

/// Whether folders stay.
pub fn folders_are_kept() -> bool {
    KEEP.load(Ordering::Relaxed) || std::env::var_os("JETGATE_TESTBED_KEEP").is_some()
}

/// A temporary folder that goes with its owner, or with this process at the latest.
/// With `JETGATE_TESTBED_KEEP` set it stays, and its path is printed.
#[derive(Debug)]
pub struct Workdir(TempDir);

impl Workdir {
    /// Makes the folder.
    pub fn new(purpose: &str) -> Result<Self> {
        let keep = folders_are_kept();
        let folder = tempfile::Builder::new()
            .prefix(&format!("jetgate-testbed-{purpose}-"))
            .disable_cleanup(keep)
            .tempdir()
            .map_err(Error::doing("make a temporary folder"))?;
        if keep && !KEEP.load(Ordering::Relaxed) {
            eprintln!("testbed: keeps {}", folder.path().display());
        }
        if !keep {
            watchdog::remove_at_end(folder.path())?;
        }
        Ok(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::write(&path, content).map_err(Error::doing(format!("write {}", path.display())))?;
        Ok(path)
    }
}

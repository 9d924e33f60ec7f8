//! etcd's data as an API server leaves it that has started once: its roles, priorities and namespaces, and the kinds
//! that every control plane of the bed knows. Written by a control plane without a past it takes 2 s of each start; so it
//! is made once per user, kept beside the programs, and copied.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use ring::digest::{Context, SHA256};
use tokio::sync::Mutex;

use super::{ControlPlane, ControlPlaneOptions, ControllerManager, again_where_a_port_is_taken, definitions};
use crate::error::{Error, Result};
use crate::watchdog;

/// Counts what else makes prepared data of an earlier version useless.
const FORMAT: &str = "1";
const ETCD_ENDS_WITHIN: Duration = Duration::from_secs(20);

static MAKING: Mutex<()> = Mutex::const_new(());

/// Where the data is; made if it is not there.
pub(super) async fn folder(programs: &Path) -> Result<PathBuf> {
    let folder = cache().join(format!("etcd-{}", key(programs)?));
    // The first tests of a process wait for one; another process may make the same.
    let _making = MAKING.lock().await;
    if !is_whole(&folder) {
        // What somebody has cleaned away half.
        fs::remove_dir_all(&folder).ok();
        again_where_a_port_is_taken(|| make(programs, &folder)).await?;
    }
    Ok(folder)
}

/// Copies it to where a new etcd will find it.
pub(super) async fn copy(from: PathBuf, to: PathBuf) -> Result<()> {
    let what = format!("copy {} to {}", from.display(), to.display());
    tokio::task::spawn_blocking(move || copy_folder(&from, &to))
        .await
        .map_err(Error::doing(what.clone()))?
        .map_err(Error::doing(what))
}

async fn make(programs: &Path, folder: &Path) -> Result<()> {
    eprintln!("testbed: preparing etcd's data, once (about 5 seconds)");
    let options = ControlPlaneOptions { controller_manager: ControllerManager::Absent, ..Default::default() };
    let plane = Box::pin(ControlPlane::start_servers(programs, options, None)).await?;
    plane.define(&definitions::standard()).await?;
    plane.complete().await?;
    let ControlPlane { apiserver, etcd, work, .. } = plane;
    drop(apiserver);
    // In order, so that everything is in its files.
    etcd.terminate()?;
    etcd.wait_exit(ETCD_ENDS_WITHIN).await?;
    let parent = folder.parent().unwrap_or(folder);
    let what = || format!("keep etcd's data in {}", folder.display());
    fs::create_dir_all(parent).map_err(Error::doing(what()))?;
    let half_made = tempfile::Builder::new().prefix(".etcd-").tempdir_in(parent).map_err(Error::doing(what()))?;
    watchdog::remove_at_end(half_made.path())?;
    let data = half_made.path().join("data");
    copy(work.path().join("etcd"), data.clone()).await?;
    trim_logs(&data).map_err(Error::doing(what()))?;
    match fs::rename(&data, folder) {
        // Another process was faster.
        Err(_) if is_whole(folder) => Ok(()),
        result => result.map_err(Error::doing(what())),
    }
}

/// As in `build.sh`; where there is no home, what is kept is kept for as long as the machine runs.
fn cache() -> PathBuf {
    let of = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    of("XDG_CACHE_HOME")
        .or_else(|| Some(of("HOME")?.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("jetgate/testbed")
}

/// etcd's database and its log are there.
fn is_whole(folder: &Path) -> bool {
    let logs = fs::read_dir(folder.join("member/wal")).into_iter().flatten().flatten();
    let mut logs = logs.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "wal"));
    folder.join("member/snap/db").is_file() && logs.next().is_some()
}

/// Changes with the programs and with the kinds.
fn key(programs: &Path) -> Result<String> {
    let mut digest = Context::new(&SHA256);
    digest.update(FORMAT.as_bytes());
    for name in ["etcd", "kube-apiserver"] {
        let program = programs.join(name);
        let what = || format!("look at {}", program.display());
        let facts = fs::metadata(&program).map_err(Error::doing(what()))?;
        let changed = facts.modified().map_err(Error::doing(what()))?;
        let changed = changed.duration_since(UNIX_EPOCH).unwrap_or_default();
        digest.update(format!(" {} {} {changed:?}", program.display(), facts.len()).as_bytes());
    }
    for definition in definitions::standard() {
        digest.update(definition.to_string().as_bytes());
    }
    Ok(digest.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

/// etcd gives its log 64 MB at once, nearly all of it zeros, and gives it the rest again when it goes on writing.
fn trim_logs(data: &Path) -> std::io::Result<()> {
    const BLOCK: u64 = 4096;
    for entry in fs::read_dir(data.join("member/wal"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|kind| kind != "wal") {
            continue;
        }
        let mut file = fs::File::options().read(true).write(true).open(&path)?;
        let mut end = file.metadata()?.len();
        let mut block = Vec::new();
        while end > 0 {
            let start = (end - 1) / BLOCK * BLOCK;
            file.seek(SeekFrom::Start(start))?;
            block.clear();
            file.by_ref().take(end - start).read_to_end(&mut block)?;
            if block.iter().any(|byte| *byte != 0) {
                break;
            }
            end = start;
        }
        // A block of zeros stays: it is how a reader knows the end.
        file.set_len(end + BLOCK)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_loses_its_zeros_but_for_one_block_at_least() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("member/wal/0-0.wal");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        for (filled, kept) in [(1, 8192), (4096, 8192), (4097, 12288), (0, 4096)] {
            let mut content = vec![7; filled];
            content.resize(1_000_001, 0);
            fs::write(&log, &content).unwrap();
            trim_logs(folder.path()).unwrap();
            let trimmed = fs::read(&log).unwrap();
            assert_eq!(trimmed.len(), kept, "{filled}");
            assert_eq!(trimmed[..filled], content[..filled]);
            assert!(trimmed[filled..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn a_folder_is_copied_with_all_that_is_in_it() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("member/snap")).unwrap();
        fs::write(from.path().join("member/snap/db"), "data").unwrap();
        copy_folder(from.path(), &to.path().join("etcd")).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("etcd/member/snap/db")).unwrap(), "data");
    }
}

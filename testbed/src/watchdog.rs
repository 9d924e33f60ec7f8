//! The guard that ends what this process started when this process ends, however it ends.
//!
//! One small shell reads a pipe whose only write end is held here. When the pipe closes, by exit, panic, Ctrl-C or
//! SIGKILL, it kills every process group that it was told of and removes the folders. Statics are not dropped at exit,
//! so this is also what ends the shared control plane.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

const SCRIPT: &str = r#"
trap '' INT HUP TERM QUIT
groups=
set --
while read -r verb what; do
  case $verb in
    group) groups="$groups $what" ;;
    gone) left=; for g in $groups; do [ "$g" = "$what" ] || left="$left $g"; done; groups=$left ;;
    folder) set -- "$@" "$what" ;;
  esac
done
for g in $groups; do kill -s KILL -- "-$g"; done
[ $# -gt 0 ] || exit 0
for try in 1 2 3 4 5 6 7 8 9 10; do
  rm -rf -- "$@" && exit 0
  sleep 0.1
done
"#;

struct Watchdog {
    pipe: ChildStdin,
    // Kept so that the shell is not reaped by anybody else while the pipe is open.
    _shell: Child,
}

static WATCHDOG: Mutex<Option<Watchdog>> = Mutex::new(None);

/// From now on the process group is killed at our end.
pub(crate) fn guard(group: i32) -> Result<()> {
    tell(&format!("group {group}\n"))
}

/// The process group is gone; its number may be used by others.
pub(crate) fn forget(group: i32) -> Result<()> {
    tell(&format!("gone {group}\n"))
}

/// From now on the folder is removed at our end.
pub(crate) fn remove_at_end(folder: &Path) -> Result<()> {
    tell(&format!("folder {}\n", folder.display()))
}

fn tell(line: &str) -> Result<()> {
    let mut slot = WATCHDOG.lock().unwrap_or_else(PoisonError::into_inner);
    let watchdog = match slot.as_mut() {
        Some(watchdog) => watchdog,
        None => slot.insert(start()?),
    };
    watchdog.pipe.write_all(line.as_bytes()).map_err(Error::doing("tell the watchdog"))
}

fn start() -> Result<Watchdog> {
    // A group of its own: a Ctrl-C of the terminal must not reach it before its work begins.
    let mut shell = Command::new("sh")
        .args(["-c", SCRIPT])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .spawn()
        .map_err(Error::doing("start the watchdog (sh)"))?;
    let pipe = shell.stdin.take().ok_or_else(|| Error::Binaries("the watchdog has no pipe".to_owned()))?;
    Ok(Watchdog { pipe, _shell: shell })
}

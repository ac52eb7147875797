#!/bin/sh
# Checks what the gateway depends on, by deny.toml.
#
# Advisories can only be checked against their database, which lives on GitHub. Where that is out of
# reach the check says so and goes on; DENY_NEEDS_ADVISORIES=1 makes it fail.
set -eu
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
databases=${CARGO_HOME:-$HOME/.cargo}/advisory-dbs

"$cargo" deny --version >/dev/null 2>&1 || "$cargo" install --locked cargo-deny --version '^0.20'

"$cargo" deny --locked --log-level warn check --hide-inclusion-graph bans licenses sources

if "$cargo" deny fetch db; then
    exec "$cargo" deny --locked --log-level warn check --disable-fetch advisories
fi
if ls "$databases"/*/.git >/dev/null 2>&1; then
    echo "WARNING: the advisories could not be brought up to date; checking against older ones" >&2
    exec "$cargo" deny --locked --log-level warn check --disable-fetch advisories
fi

cat >&2 <<'NOTICE'

************************************************************************************************
  NOT CHECKED FOR KNOWN VULNERABILITIES: the RustSec advisory database could not be fetched.
  Run `make deny` where https://github.com/RustSec/advisory-db can be reached.
************************************************************************************************

NOTICE
# Packaging asks the registry about each crate, so at least a yanked one is found.
packaged=$("$cargo" package --locked --no-verify --allow-dirty 2>&1) || {
    echo "$packaged" >&2
    exit 1
}
if echo "$packaged" | grep "is yanked" >&2; then
    exit 1
fi
[ -z "${DENY_NEEDS_ADVISORIES:-}" ]

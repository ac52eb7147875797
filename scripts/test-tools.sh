#!/bin/sh
# Installs what the tests use besides Rust, where it is missing: curl, openssl, and kosoku, which
# runs the cases of the Autobahn test suite and needs Python.
set -eu
cd "$(dirname "$0")/.."

kosoku=0.1.0
venv=target/test-tools/kosoku

has_python() {
    python3 -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

missing=""
for tool in curl openssl; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
has_python || missing="$missing python3 python3-venv"

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "the tests need$missing (Python 3.10 or newer): install it with your package manager, then run make test again" >&2
        exit 1
    fi
    as_root=""
    [ "$(id -u)" -eq 0 ] || as_root="sudo"
    $as_root apt-get update -q
    # shellcheck disable=SC2086
    $as_root apt-get install -y -q --no-install-recommends $missing
fi

# The mark is made last, so that an installation that broke off is made again.
if [ ! -e "$venv/kosoku-$kosoku" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "kosoku==$kosoku"
    touch "$venv/kosoku-$kosoku"
fi

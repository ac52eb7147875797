#!/bin/sh
# Installs what the tests use besides Rust, where it is missing: curl and openssl.
set -eu

missing=""
for tool in curl openssl; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
[ -z "$missing" ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "the tests need$missing: install it with your package manager, then run make test again" >&2
    exit 1
fi
as_root=""
[ "$(id -u)" -eq 0 ] || as_root="sudo"
$as_root apt-get update -q
# shellcheck disable=SC2086
$as_root apt-get install -y -q --no-install-recommends $missing

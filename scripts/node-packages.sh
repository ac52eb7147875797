#!/bin/sh
# Installs what tests/js and examples/react name in package.json, as their locks have it, where that is not
# done already.
set -eu
cd "$(dirname "$0")/.."
command -v npm >/dev/null || {
    echo "npm is not installed: get Node 20 or newer from https://nodejs.org or your package manager, then run this again" >&2
    exit 1
}
for folder in tests/js examples/react; do (
    cd "$folder"
    mark=node_modules/.installed
    cmp -s package-lock.json "$mark" && exit 0
    npm ci --no-audit --no-fund --loglevel=error
    cp package-lock.json "$mark"
) done

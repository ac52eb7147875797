#!/bin/sh
# Installs what tests/js and examples/react name in package.json, as their locks have it, where that is not
# done already.
set -eu
cd "$(dirname "$0")/.."
for folder in tests/js examples/react; do (
    cd "$folder"
    mark=node_modules/.installed
    cmp -s package-lock.json "$mark" && exit 0
    npm ci --no-audit --no-fund --loglevel=error
    cp package-lock.json "$mark"
) done

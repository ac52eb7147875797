#!/bin/sh
# Installs what tests/js/package.json names, as its lock has it, where that is not done already.
set -eu
cd "$(dirname "$0")/../tests/js"
mark=node_modules/.installed
cmp -s package-lock.json "$mark" && exit 0
npm ci --no-audit --no-fund --loglevel=error
cp package-lock.json "$mark"

#!/bin/sh
# Builds the JavaScript client from client/ into the folder given, static/ by default: two modules, the
# client and what it loads on demand. Private names begin with _ and are shortened, in both alike.
set -eu
cd "$(dirname "$0")/.."
out=$(cd "${1:-static}" && pwd)
sh scripts/node-packages.sh
programs=tests/js/node_modules/.bin
names=$(mktemp)
rm "$names"
trap 'rm -f "$names"' EXIT

build() {
    "$programs/esbuild" "client/$1.js" --bundle --format=esm --target=es2022 \
        --external:./tribus-extras.js --legal-comments=none --log-level=warning |
        sed -E 's/\bconst /let /g' |
        "$programs/terser" --module --ecma 2022 \
            --compress passes=4,ecma=2022,pure_getters,unsafe,unsafe_arrows,hoist_props=false,keep_fargs=false \
            --mangle --mangle-props regex=/^_/ --name-cache "$names" \
            --output "$out/$2.js"
}
build tribus tribus
build extras tribus-extras

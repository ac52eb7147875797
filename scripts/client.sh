#!/bin/sh
# Builds the JavaScript client from client/ into the folder given, static/ by default: two modules, the
# client and what it loads on demand. Private names begin with _ and are shortened, in both alike.
set -eu
cd "$(dirname "$0")/.."
out=$(cd "${1:-static}" && pwd)
sh scripts/node-packages.sh
programs=tests/js/node_modules/.bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The two belong together, and notice where they do not.
build=$(LC_ALL=C; export LC_ALL; cat client/*.js | cksum | cut -d " " -f 1)

bundle() {
    "$programs/esbuild" "client/$1.js" --bundle --format=esm --target=es2022 \
        --external:./tribus-extras.js "--define:BUILD=\"$build\"" --legal-comments=none --log-level=warning |
        sed -E 's/\bconst /let /g'
}
bundle tribus >"$work/tribus.js"
bundle extras >"$work/tribus-extras.js"

# The most frequent private names get the letters that are the most frequent elsewhere: it compresses better.
private_names() {
    grep -ohE '\b_[A-Za-z]+' "$1" | LC_ALL=C sort | uniq -c | LC_ALL=C sort -k1,1nr -k2 | awk '{ print $2 }'
}
{ private_names "$work/tribus.js"; private_names "$work/tribus-extras.js"; } | awk '
    BEGIN { letters = "etsirnaochldupmfgbyvwkxjqzETSIRNAOCHLDUPMFGBYVWKXJQZ" }
    seen[$1]++ { next }
    {
        first = substr(letters, count % 52 + 1, 1)
        second = count < 52 ? "" : substr(letters, int(count / 52), 1)
        count++
        names = names (names ? "," : "") "\"$" $1 "\":\"" first second "\""
    }
    END { print "{\"props\":{\"props\":{" names "}}}" }' >"$work/names.json"

for name in tribus tribus-extras; do
    "$programs/terser" "$work/$name.js" --module --ecma 2022 \
        --compress passes=4,ecma=2022,pure_getters,unsafe,unsafe_arrows,hoist_props=false,keep_fargs=false,lhs_constants=false \
        --mangle --mangle-props regex=/^_/ --name-cache "$work/names.json" \
        --output "$out/$name.js"
done

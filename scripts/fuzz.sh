#!/bin/sh
# Fuzzes each target, or those that are named, for FUZZ_SECONDS. What is found goes to fuzz/artifacts.
#
# Stable Rust will do: no sanitizer is used, since what the targets look for are broken promises, and
# the gateway has no unsafe code. FUZZ_SANITIZER=address needs nightly, or RUSTC_BOOTSTRAP=1.
set -eu
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
work=${CARGO_TARGET_DIR:-target}/fuzz
# shellcheck disable=SC2046
[ $# -gt 0 ] || set -- $(ls fuzz/corpus)

"$cargo" fuzz --version >/dev/null 2>&1 || "$cargo" install --locked cargo-fuzz --version '^0.13'
if ! command -v c++ >/dev/null; then
    echo "fuzzing needs a C++ compiler, for libFuzzer: install g++ or clang, then try again" >&2
    exit 1
fi

# What one run learned the next one begins with; the seeds in git only grow by hand.
fuzz() {
    dictionary=fuzz/dictionaries/$1.dict
    [ -f "$dictionary" ] || dictionary=fuzz/dictionaries/json.dict
    mkdir -p "$work/corpus/$1"
    "$cargo" fuzz run --sanitizer "${FUZZ_SANITIZER:-none}" --target-dir "$work" "$1" \
        "$work/corpus/$1" "fuzz/corpus/$1" -- \
        -dict="$dictionary" -max_len=4096 -timeout=10 \
        -max_total_time="${FUZZ_SECONDS:-60}" -print_final_stats=1 -verbosity=0 -print_funcs=0
}

found=""
for target; do
    echo "== $target"
    fuzz "$target" || found="$found $target"
done
if [ -n "$found" ]; then
    echo "fuzzing found something in:$found; see fuzz/artifacts" >&2
    exit 1
fi

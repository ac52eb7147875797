#!/bin/sh
# Runs the JavaScript client's tests, and puts what they measured into the tables of README.md, each
# between two marks: `<!-- results: NAME -->` and `<!-- end -->`.
set -eu
cd "$(dirname "$0")/.."
folder=$PWD/target/results
rm -rf "$folder"
mkdir -p "$folder"
TRIBUS_RESULTS=$folder "${CARGO:-cargo}" test --test it client::
for table in "$folder"/*; do
    LC_ALL=C sort -o "$table" "$table"
done
awk -v folder="$folder" '
    /^<!-- end -->$/ { inside = 0 }
    # The two lines of the heading stay.
    inside && ++line > 2 { next }
    { print }
    /^<!-- results: [a-z]+ -->$/ { inside = 1; line = 0; file = folder "/" $3 }
    inside && line == 2 { while ((getline row < file) > 0) print row }
' README.md >"$folder/README.md"
cp "$folder/README.md" README.md

#!/bin/sh
# Takes the README's pictures of the page at / anew, into docs/images or the folder given. Needs what
# scripts/test-tools.sh installs, and three minutes.
set -eu
cd "$(dirname "$0")/.."
mkdir -p "${1:-docs/images}"
out=$(cd "${1:-docs/images}" && pwd)
sh scripts/node-packages.sh
"${CARGO:-cargo}" build
node tests/js/screenshots.mjs "${CARGO_TARGET_DIR:-target}/debug/tribus" "$out"

# A page has few colours, and a picture with a palette a third of the bytes.
venv=target/test-tools/pillow
[ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check pillow==12.0.0
"$venv/bin/python" - "$out"/console-*.png <<'EOF'
import sys
from PIL import Image

for path in sys.argv[1:]:
    image = Image.open(path).convert("RGB")
    few = image.quantize(256, kmeans=2, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
EOF

#!/bin/sh
# Takes pictures of every page of the studio, with real runs of the starter model: light and dark, English and Chinese,
# 1440 and 360 wide. Needs Chromium and chromedriver (`make test` installs them).
#
#   scripts/screenshots.sh [DIR]      default: target/pictures; studio.png in it is the README's (docs/studio.png)
set -eu
cd "$(dirname "$0")/.."
pictures=${1:-${CARGO_TARGET_DIR:-target}/pictures}
mkdir -p "$pictures"
pictures=$(cd "$pictures" && pwd)
make ui
LATHE_PICTURES=$pictures cargo test --locked -p cli --test browser -- --ignored pictures
echo "The pictures are in $pictures."

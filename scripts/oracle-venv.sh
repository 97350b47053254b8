#!/usr/bin/env bash
# What the tests against Python need, in a folder of their own: PyTorch, transformers and PEFT in a venv, and SmolLM2 as a
# GGUF file and as Hugging Face folders. About 6 GB; what is there already is not made again.
# usage: scripts/oracle-venv.sh DIR     then: LATHE_ORACLES=DIR cargo test -p engine --test smollm2
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
dir=$(mkdir -p "${1:?usage: oracle-venv.sh DIR}" && cd "$1" && pwd)
python=$dir/venv/bin/python

if ! "$python" -c 'import gguf, peft, torch, transformers' 2>/dev/null; then
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install -q torch==2.11.0 transformers==5.5.4 peft==0.18.1 gguf==0.19.0
fi
if [ ! -f "$dir/smollm2.gguf" ]; then
    "$here/scripts/fetch-smollm2.sh" "$dir" >/dev/null
    mv "$dir/SmolLM2-135M-Instruct.gguf" "$dir/smollm2.gguf"
fi
if [ ! -f "$dir/smollm2-f32/model.safetensors" ]; then
    "$python" "$here/engine/tests/oracle/smollm2_to_hf.py" "$dir/smollm2.gguf" "$dir"
fi
echo "$dir"

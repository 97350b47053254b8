#!/bin/sh
# The GPU path on a GPU: is it right, does it train, how fast is it beside transformers + PEFT? One call, no network.
#
#   bench/gpu.sh [SHAPE …]          shapes: qwen2.5-1.5b llama-3.1-8b (both unless given)
#
# Only this folder and the worker have to be there.
#   WORKER: the CUDA worker [target/release/lathe-cuda-worker].  PYTHON: a Python; with torch, transformers and peft in
#   it there is a comparison [python3].  CUDA_LIBS: folder with libcublas and so on, where the system doesn't find them.
#   BATCH, LENGTH, STEPS: of the benchmark [8 1024 10].  PEAK_TFLOPS: of the card in bf16, where it isn't known below.
set -eu
here=$(CDPATH= cd "$(dirname "$0")" && pwd)
worker=${WORKER:-$here/../target/release/lathe-cuda-worker}
python=${PYTHON:-python3}
batch=${BATCH:-8} length=${LENGTH:-1024} steps=${STEPS:-10}
work=$(mktemp -d)
sampler=
trap 'if [ -n "$sampler" ]; then kill "$sampler" 2>/dev/null || true; fi; rm -rf "$work"' EXIT

# The libraries of CUDA may also come with torch.
for dir in ${CUDA_LIBS:-} $("$python" -c 'import glob, site
for root in site.getsitepackages() + [site.getusersitepackages()]:
    print(*glob.glob(root + "/nvidia/*/lib"))' 2>/dev/null || true); do
    LD_LIBRARY_PATH=$dir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}"

echo "## GPUs"
"$worker" --probe
card=$(nvidia-smi --query-gpu=name --format=csv,noheader -i 0)
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader

# ---- right? The CPU's losses and gradient norms are those of transformers and PEFT, by the tests of the engine. --------

train() {
    "$worker" --home "$work/home" --json train model_name_or_path=starter dataset=identity run_name="$1" device="$2" \
        learning_rate=1e-3 per_device_train_batch_size=4 max_steps=30 max_grad_norm=1.0 > "$work/$1.jsonl"
}
echo "## Parity and training: 30 steps of the starter on the CPU and on the GPU"
train cpu cpu
train gpu cuda:0
"$python" - "$work" <<'PYTHON'
import json, sys

def curve(name):
    lines = [json.loads(line) for line in open(f"{sys.argv[1]}/{name}.jsonl")]
    found = [line["values"] for line in lines if "loss" in line.get("values", {})]
    assert len(found) == 30, f"{name}: {len(found)} steps instead of 30"
    return found
cpu, gpu = curve("cpu"), curve("gpu")
for key in ("loss", "grad_norm"):
    worst = max(abs(a[key] - b[key]) / abs(a[key]) for a, b in zip(cpu, gpu))
    # In float32; where the plan says bf16, its last digit.
    print(f"{key}: {cpu[0][key]:.5f} -> {cpu[-1][key]:.5f} on the CPU, {gpu[0][key]:.5f} -> {gpu[-1][key]:.5f} on the "
          f"GPU, at most {worst:.2e} apart")
    assert worst < 0.02, key
assert gpu[-1]["loss"] < gpu[0]["loss"], "the loss does not fall"
PYTHON

# ---- how fast? ---------------------------------------------------------------------------------------------------------

# Runs a command with its JSON to a file, and the most memory that the card gave to anyone meanwhile, in MB.
measured() {
    out=$1
    shift
    nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -i 0 -lms 100 > "$out.memory" &
    sampler=$!
    "$@" > "$out.json" || echo '{}' > "$out.json"
    kill "$sampler"
    sampler=
}
for shape in ${*:-qwen2.5-1.5b llama-3.1-8b}; do
    echo "## $shape, random weights, LoRA of rank 8 on all linears, bf16, $batch x $length"
    set -- --shape "$shape" --batch "$batch" --length "$length" --steps "$steps" --warmup 3 --rank 8 \
        --compute-type bf16 --recompute true
    measured "$work/lathe" "$worker" --home "$work/home" --json bench train "$@"
    if "$python" -c 'import torch, transformers, peft' 2>/dev/null; then
        measured "$work/peer" "$python" "$here/peft_train.py" --device cuda "$@"
    else
        echo "(no torch, transformers and peft in $python: nothing to compare with)"
        rm -f "$work/peer.json"
    fi
    "$python" - "$work" "$card" "$shape" "$length" "${PEAK_TFLOPS:-}" <<'PYTHON'
import json, os, sys

work, card, shape, length, peak = sys.argv[1:]
# Dense bf16 with float32 sums, as NVIDIA's data sheets have it.
peaks = {"H200": 989, "H100": 989, "B200": 2250, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "4090": 165, "3090": 71}
peak = float(peak) if peak else next((v for k, v in peaks.items() if k in card), None)
hidden, inner, layers, q, kv, vocab = {
    "qwen2.5-1.5b": (1536, 8960, 28, 1536, 256, 151936),
    "llama-3.1-8b": (4096, 14336, 32, 4096, 1024, 128256),
}[shape]
linears = layers * hidden * (2 * q + 2 * kv + 3 * inner) + vocab * hidden
# A product forward and one backward for each frozen weight; attention has two and four, over half the keys.
flops = 4 * linears + 3 * 2 * layers * q * int(length)
print("| | tokens/s | step, ms | peak memory, MB | share of the bf16 peak |\n|---|---|---|---|---|")
speeds = []
for name, file in (("Lathe", "lathe"), ("transformers + PEFT", "peer")):
    path = f"{work}/{file}.json"
    if not os.path.exists(path):
        continue
    found = json.loads((open(path).read().strip().splitlines() or ["{}"])[-1])
    if "tokens_per_s" not in found:
        print(f"| {name} | failed, see above | | | |")
        continue
    speed, memory = found["tokens_per_s"], max(int(n) for n in open(f"{work}/{file}.memory").read().split())
    share = f"{speed * flops / peak / 1e10:.1f} %" if peak else "(set PEAK_TFLOPS)"
    print(f"| {name} | {speed:.0f} | {found['step_ms']:.1f} | {memory} | {share} |")
    speeds.append(speed)
if len(speeds) == 2:
    print(f"\nLathe makes {speeds[0] / speeds[1]:.2f} times the tokens of the other.")
PYTHON
done

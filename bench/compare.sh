#!/bin/sh
# Lathe and PyTorch on the same work, one after the other for some rounds; prints medians and their ratios as a table.
#
#   bench/compare.sh train|generate|data [ROUNDS] -- --model DIR [options of `lathe bench`]
#   bench/compare.sh data 3 -- --model DIR --data FILE.jsonl --text --threads 2
#   bench/compare.sh train 5 -- --shape smollm2-135m --batch 2 --length 512 --compute-type bf16 --threads 2
#
# LATHE: the binary [target/release/lathe]. PYTHON: a Python with torch, transformers and peft [python3].
# PEER_TYPE: PyTorch's --compute-type, where it shall be another than Lathe's (for example pure_bf16).
set -eu
here=$(CDPATH= cd "$(dirname "$0")" && pwd)
what=${1:?train, generate or data}
shift
rounds=3
if [ "${1:-}" != -- ]; then rounds=${1:?rounds or --}; shift; fi
[ "${1:-}" = -- ] || { echo "expected -- before the options" >&2; exit 2; }
shift
case $what in
    train) peer=$here/peft_train.py ;;
    generate) peer=$here/transformers_generate.py ;;
    data) peer=$here/tokenizers_batch.py ;;
    *) echo "train, generate or data, not $what" >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
round=1
while [ "$round" -le "$rounds" ]; do
    # What an earlier round has encoded is not for this one.
    rm -rf "$work/home/cache"
    "${LATHE:-$here/../target/release/lathe}" --home "$work/home" bench "$what" --json "$@" >> "$work/lathe"
    if [ -n "${PEER_TYPE:-}" ]; then
        "${PYTHON:-python3}" "$peer" "$@" --compute-type "$PEER_TYPE" >> "$work/peer"
    else
        "${PYTHON:-python3}" "$peer" "$@" >> "$work/peer"
    fi
    echo "round $round of $rounds" >&2
    round=$((round + 1))
done
"${PYTHON:-python3}" - "$what" "$work/lathe" "$work/peer" <<'PYTHON'
import json, statistics, sys

what, ours, theirs = sys.argv[1], *([json.loads(line) for line in open(path)] for path in sys.argv[2:])
figures = {
    "train": [("tokens/s", "tokens_per_s", 1, 0), ("step, ms", "step_ms", 1, 1), ("peak memory, MB", "peak_memory", 1e-6, 0),
              ("start to first step, s", "first_step_s", 1, 2), ("loss of the last step", "last_loss", 1, 4)],
    "generate": [("prompt tokens/s", "prompt_per_s", 1, 0), ("new tokens/s", "decode_per_s", 1, 1),
                 ("peak memory, MB", "peak_memory", 1e-6, 0), ("start to first token, s", "first_token_s", 1, 2)],
    "data": [("MB/s", "encode_mb_per_s", 1, 2), ("tokens/s", "tokens_per_s", 1, 0), ("tokens", "tokens", 1, 0)],
}[what]
print(f"Medians of {len(ours)} rounds; {ours[0]['model']}, {ours[0]['threads']} and {theirs[0]['threads']} threads\n")
print(f"| | Lathe ({ours[0].get('compute', 'from file to cache')}) | {theirs[0]['compute']} | ratio |\n|---|---|---|---|")
for name, key, scale, digits in figures:
    a, b = (statistics.median(run[key] for run in runs) * scale for runs in (ours, theirs))
    print(f"| {name} | {a:.{digits}f} | {b:.{digits}f} | {a / b:.2f} |")
PYTHON

#!/bin/sh
# The whole command, from its start to the saved adapter: `lathe train` beside `llamafactory-cli train` on the same YAML.
#
#   bench/llamafactory.sh MODEL_DIR DATA_DIR [DATASET]      DATA_DIR holds dataset_info.json and alpaca rows [alpaca_en_demo]
#
# LATHE: the binary [target/release/lathe]. LLAMAFACTORY: the other [llamafactory-cli]. PYTHON: a Python with transformers
# [python3]. ROUNDS [1], ROWS [80], BATCH [8], ONLY: lathe or llamafactory [both].
set -eu
here=$(CDPATH= cd "$(dirname "$0")" && pwd)
model=${1:?a model folder} data=${2:?a folder with dataset_info.json} dataset=${3:-alpaca_en_demo}
rounds=${ROUNDS:-1} rows=${ROWS:-80} python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/run.yaml" <<YAML
model_name_or_path: $model
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
dataset: $dataset
dataset_dir: $data
max_samples: $rows
cutoff_len: 512
per_device_train_batch_size: ${BATCH:-8}
gradient_accumulation_steps: 1
learning_rate: 1.0e-4
num_train_epochs: 1.0
lr_scheduler_type: cosine
bf16: true
logging_steps: 1
report_to: none
YAML
export HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES= DISABLE_VERSION_CHECK=1 OMP_WAIT_POLICY=PASSIVE
export HF_DATASETS_CACHE="$work/cache" LATHE_HOME="$work/home"
run() { # NAME PROGRAM [WORD ...]
    name=$1 program=$2
    shift 2
    out=$work/$name-$round
    "$python" -B "$here/measured.py" "$out.json" "$out/trainer_log.jsonl" \
        "$program" train "$work/run.yaml" output_dir="$out" "$@" >&2
    [ -f "$out/adapter_model.safetensors" ] || { echo "$name saved no adapter" >&2; exit 1; }
}
round=1
while [ "$round" -le "$rounds" ]; do
    [ "${ONLY:-lathe}" != lathe ] || run lathe "${LATHE:-$here/../target/release/lathe}"
    [ "${ONLY:-llamafactory}" != llamafactory ] || run llamafactory "${LLAMAFACTORY:-llamafactory-cli}" use_cpu=true
    echo "round $round of $rounds" >&2
    round=$((round + 1))
done
"$python" - "$work" "$rounds" "$model" "$data" "$dataset" "$rows" <<'PYTHON'
import json, os, statistics, sys

import transformers

work, rounds, model, data, dataset, rows = sys.argv[1:]
name = json.load(open(f"{data}/dataset_info.json"))[dataset]["file_name"]
tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(model)
tokens = 0
for row in json.load(open(f"{data}/{name}"))[:int(rows)]:
    question = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
    tokens += min(512, len(tokenizer.apply_chat_template(said, return_dict=False)))
print(f"{rows} rows of {dataset}, {tokens} tokens without padding; medians of {rounds} rounds\n")
medians = []
for who in "lathe", "llamafactory":
    runs = [json.load(open(f"{work}/{who}-{n + 1}.json")) for n in range(int(rounds))
            if os.path.exists(f"{work}/{who}-{n + 1}.json")]
    medians.append({key: statistics.median(run[key] for run in runs) for key in runs[0]} if runs else None)
for found in filter(None, medians):
    found["rate"] = tokens / found["seconds"]
    # In the steps alone: from the beginning of the first to the end of the last.
    found["steady"] = tokens / (found["last_step_end"] - found["training_begin"])
print("| | Lathe | LLaMA-Factory | ratio |\n|---|---|---|---|")
for title, key, scale, digits in [
        ("start to saved adapter, s", "seconds", 1, 2), ("tokens/s, whole command", "rate", 1, 0),
        ("tokens/s, steps alone", "steady", 1, 0), ("step, s", "step", 1, 3),
        ("processor seconds", "processor", 1, 1), ("peak memory, MB", "peak_memory", 1e-6, 0),
        ("start to the first step's begin, s", "training_begin", 1, 2),
        ("start to the first step's end, s", "first_step_end", 1, 2), ("loss of the last step", "loss", 1, 4)]:
    values = [found and found[key] * scale for found in medians]
    shown = ["" if v is None else f"{v:.{digits}f}" for v in values]
    ratio = f"{values[0] / values[1]:.3f}" if all(values) else ""
    print(f"| {title} | {shown[0]} | {shown[1]} | {ratio} |")
PYTHON

#!/bin/sh
# The loss curve of SFT in Lathe beside that of transformers and PEFT: the same rows in the same order, the same initial
# adapter, AdamW; then the loss on held-out rows. Ends with 1 where a step's losses differ by more than 0.5 % in float32 or
# 2 % in bf16, or the held-out losses by more than 0.2 %.
#
#   bench/loss_curve.sh MODEL_DIR ALPACA.json [TYPE ...]        TYPE: fp32, bf16 [both]
#
# LATHE: the binary [target/release/lathe]. PYTHON: a Python with torch, transformers and peft [python3].
# STEPS [50], BATCH [2], EVAL_ROWS [50], THREADS [all], KEEP: a folder for all that is written [none].
set -eu
here=$(CDPATH= cd "$(dirname "$0")" && pwd)
model=${1:?a model folder} data=${2:?a JSON file of alpaca rows}
shift 2
[ $# -gt 0 ] || set -- fp32 bf16
steps=${STEPS:-50} batch=${BATCH:-2} cutoff=512 rate=1e-4 schedule=cosine
python() { "${PYTHON:-python3}" -B "$here/loss_curve.py" "$@" ${THREADS:+--threads "$THREADS"}; }
if [ -n "${KEEP:-}" ]; then
    work=$KEEP
    mkdir -p "$work"
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
python prepare "$work" --model "$model" --data "$data" --rows $((steps * batch)) --eval-rows "${EVAL_ROWS:-50}"
status=0
for type; do
    python train "$work" --model "$model" --compute-type "$type" --batch "$batch" --cutoff "$cutoff" \
        --learning-rate "$rate" --schedule "$schedule"
    ${THREADS:+env RAYON_NUM_THREADS="$THREADS"} "${LATHE:-$here/../target/release/lathe}" --home "$work/home" train \
        stage=sft finetuning_type=lora model_name_or_path="$model" adapter_name_or_path="$work/adapter" \
        dataset_dir="$work" dataset=train eval_dataset=eval cutoff_len="$cutoff" disable_shuffling=true \
        num_train_epochs=1 per_device_train_batch_size="$batch" gradient_accumulation_steps=1 learning_rate="$rate" \
        lr_scheduler_type="$schedule" warmup_steps=0 max_grad_norm=1 weight_decay=0 compute_type="$type" logging_steps=1 \
        output_dir="$work/lathe-$type" overwrite_output_dir=true >&2
    python compare "$work" --model "$model" --compute-type "$type" --batch "$batch" --cutoff "$cutoff" || status=1
done
exit $status

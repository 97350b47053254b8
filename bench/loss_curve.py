#!/usr/bin/env python3
"""The PyTorch side of loss_curve.sh: the same SFT steps with transformers and PEFT, and the comparison.

  loss_curve.py prepare WORK --model DIR --data FILE --rows N --eval-rows M --rank R --cutoff L
      writes the rows as a dataset folder and the initial adapter, as PEFT makes it.
  loss_curve.py train WORK --model DIR --compute-type fp32|bf16 --batch B --cutoff L --schedule S --learning-rate R
      trains on them in their order; writes WORK/peft-TYPE.json.
  loss_curve.py compare WORK --model DIR --compute-type fp32|bf16 --batch B --cutoff L
      prints both curves, and of bf16 also what both adapters lose in float32; ends with 1 where the curves are further
      apart than they may be.
"""

import argparse
import contextlib
import json
import os
import sys

import peer
from peft_train import LINEARS

# The largest relative differences: of a step's loss, by type, and of the loss on the held-out rows.
STEP = {"fp32": 0.005, "bf16": 0.02}
HELD_OUT = 0.002


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "train", "compare"])
    parser.add_argument("work")
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--eval-rows", type=int, default=50)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--cutoff", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--schedule", default="cosine")
    parser.add_argument("--compute-type", choices=STEP, default="fp32")
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def libraries(args):
    """torch, transformers and peft, without a look at any network."""
    os.environ.update(TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")
    torch = peer.start(args)
    import peft
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return torch, transformers, peft


def prepare(args):
    every = json.load(open(args.data))
    if args.rows + args.eval_rows > len(every):
        sys.exit(f"{args.data} has {len(every)} rows, {args.rows + args.eval_rows} are asked for")
    for name, rows in ("train", every[:args.rows]), ("eval", every[-args.eval_rows:]):
        json.dump(rows, open(f"{args.work}/{name}.json", "w"))
    json.dump({name: {"file_name": f"{name}.json"} for name in ("train", "eval")},
              open(f"{args.work}/dataset_info.json", "w"))
    torch, transformers, peft = libraries(args)
    torch.manual_seed(42)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    config = peft.LoraConfig(r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, target_modules=LINEARS,
                             task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(f"{args.work}/adapter")


def samples(path, tokenizer, cutoff):
    """Ids by the model's chat template; labels are the answers with the token that ends each, not the line feed after it."""
    made = []
    for row in json.load(open(path)):
        question = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
        asked = [{"role": "user", "content": question}]
        said = asked + [{"role": "assistant", "content": row["output"]}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template(said, return_dict=False)
        text = tokenizer.apply_chat_template(said, tokenize=False)
        answered = len(tokenizer(text.rstrip(), add_special_tokens=False)["input_ids"])
        if ids[:len(prompt)] != prompt or not len(prompt) < answered <= len(ids):
            sys.exit(f"the answer of this row can't be told from its question: {row}")
        labels = [id if len(prompt) <= at < answered else -100 for at, id in enumerate(ids)]
        if all(label == -100 for label in labels[:cutoff]):
            sys.exit(f"nothing of this row's answer is left within {cutoff} tokens: {row}")
        made.append((ids[:cutoff], labels[:cutoff]))
    return made


def sum_of_losses(model, rows, torch):
    """The summed cross-entropy of a batch, and the number of its targets. Rows are padded to the longest."""
    width = max(len(ids) for ids, _ in rows)
    padded = lambda values, pad: torch.tensor([v + [pad] * (width - len(v)) for v in values])
    labels = padded([labels for _, labels in rows], -100)
    mask = padded([[1] * len(ids) for ids, _ in rows], 0)
    logits = model(input_ids=padded([ids for ids, _ in rows], 0), attention_mask=mask).logits[:, :-1].float()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return loss, (labels[:, 1:] != -100).sum().item()


def loss_of(model, rows, batch, torch):
    """The mean cross-entropy of the targets of rows."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for at in range(0, len(rows), batch):
            loss, targets = sum_of_losses(model, rows[at:at + batch], torch)
            total, count = total + loss.item(), count + targets
    return total / count


def in_float32(args, adapter, libraries):
    """The held-out rows' loss with an adapter, computed by transformers in float32, whatever it was trained in."""
    torch, transformers, peft = libraries
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(args.model)
    held = samples(f"{args.work}/eval.json", tokenizer, args.cutoff)
    return loss_of(peft.PeftModel.from_pretrained(model, adapter), held, args.batch, torch)


def train(args):
    torch, transformers, peft = libraries(args)
    dtype = torch.float32 if args.compute_type == "fp32" else torch.bfloat16
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    # PEFT keeps the adapter in float32.
    model = peft.PeftModel.from_pretrained(model, f"{args.work}/adapter", is_trainable=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.dtype == torch.float32 for p in trained)
    mixed = contextlib.nullcontext if args.compute_type == "fp32" \
        else lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    # The file tokenizer.json as it stands: AutoTokenizer of transformers 5 rebuilds some tokenizers from their class and
    # loses what the file says of them (for SmolLM2 that digits are split off first).
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(args.model)
    rows = samples(f"{args.work}/train.json", tokenizer, args.cutoff)
    held = samples(f"{args.work}/eval.json", tokenizer, args.cutoff)
    batches = [rows[at:at + args.batch] for at in range(0, len(rows), args.batch)]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.0)
    schedule = transformers.get_scheduler(args.schedule, optimizer, 0, len(batches))
    model.train()
    losses, norms = [], []
    for batch in batches:
        with mixed():
            loss, targets = sum_of_losses(model, batch, torch)
        (loss / targets).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained, 1.0).item())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item() / targets)
        print(f"{len(losses)}/{len(batches)} {losses[-1]:.4f}", file=sys.stderr)
    with mixed():
        held_out = loss_of(model, held, args.batch, torch)
    model.save_pretrained(f"{args.work}/peft-{args.compute_type}")
    made = dict(loss=losses, grad_norm=norms, eval_loss=held_out, tokens=sum(len(ids) for ids, _ in rows),
                targets=sum(label != -100 for _, labels in rows for label in labels))
    json.dump(made, open(f"{args.work}/peft-{args.compute_type}.json", "w"))


def compare(args):
    kind = args.compute_type
    theirs = json.load(open(f"{args.work}/peft-{kind}.json"))
    history = json.load(open(f"{args.work}/lathe-{kind}/trainer_state.json"))["log_history"]
    ours = [entry for entry in history if "loss" in entry]
    if len(ours) != len(theirs["loss"]):
        sys.exit(f"Lathe made {len(ours)} steps, PEFT {len(theirs['loss'])}")
    relative = lambda a, b: abs(a - b) / abs(b)
    print(f"{kind}\n step     Lathe      PEFT  difference   norm: Lathe    PEFT")
    apart = []
    for entry, loss, norm in zip(ours, theirs["loss"], theirs["grad_norm"]):
        apart.append(relative(entry["loss"], loss))
        print(f"{entry['step']:5} {entry['loss']:9.5f} {loss:9.5f} {apart[-1]:10.4%} {entry['grad_norm']:14.4f} {norm:9.4f}")
    held = [entry["eval_loss"] for entry in history if "eval_loss" in entry][-1]
    difference = relative(held, theirs["eval_loss"])
    print(f"largest difference of a step {max(apart):.4%} (step {apart.index(max(apart)) + 1}; at most {STEP[kind]:.1%})")
    print(f"held-out rows: {held:.5f} {theirs['eval_loss']:.5f} {difference:.4%} (at most {HELD_OUT:.1%})")
    if kind != "fp32":
        folders = [f"{args.work}/{who}-{kind}" for who in ("lathe", "peft")]
        ours, theirs = (in_float32(args, folder, libraries(args)) for folder in folders)
        print(f"what was learned, both adapters in float32: {ours:.5f} {theirs:.5f} {relative(ours, theirs):.4%}")
    if not (max(apart) <= STEP[kind] and difference <= HELD_OUT):
        sys.exit(f"{kind}: the curves are further apart than they may be")


if __name__ == "__main__":
    args = arguments()
    {"prepare": prepare, "train": train, "compare": compare}[args.what](args)

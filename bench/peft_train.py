#!/usr/bin/env python3
"""Training steps in PyTorch, transformers and PEFT: what `lathe bench train` is compared with.

The options have the names and meanings of `lathe bench train`. --compute-type is
  fp32       everything in float32,
  bf16       products in bfloat16 by autocast; frozen weights are stored in bfloat16, what is trained in float32,
  pure_bf16  everything in bfloat16, what is trained too.
Prints one line of JSON with the keys of `lathe bench train --json`.
"""

import contextlib
import json
import random
import statistics
import time

import peer

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def arguments():
    parser = peer.options(__doc__, ["fp32", "bf16", "pure_bf16"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--adapter", choices=["lora", "full", "none"], default="lora")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--recompute", choices=["true", "false"], default="false")
    parser.add_argument("--data", help="a JSON file of alpaca rows")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    return parser.parse_args()


def load(args, torch):
    """The model with what is trained in it, in the types that `compute_type` asks for."""
    # Weights that are trained stay in float32 except with pure_bf16.
    whole = args.adapter == "full" and args.compute_type == "bf16"
    dtype = torch.float32 if args.compute_type == "fp32" or whole else torch.bfloat16
    model = peer.model(args, dtype)
    model.config.use_cache = False
    if args.adapter == "lora":
        import peft

        config = peft.LoraConfig(
            r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, target_modules=LINEARS, task_type="CAUSAL_LM")
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=args.compute_type != "pure_bf16")
    if args.adapter == "none":
        model.requires_grad_(False)
        # As in Lathe, the gradient goes down to the embeddings.
        model.enable_input_require_grads()
    if args.recompute == "true":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return model.to(args.device).train()


def rows(args, vocabulary):
    """Pairs of ids and labels: random full rows, or those of a file with only their answers as labels."""
    if not args.data:
        random.seed(42)
        full = [[random.randrange(vocabulary) for _ in range(args.length)] for _ in range(max(8, 4 * args.batch))]
        return [(ids, ids) for ids in full]
    import transformers

    if not args.model:
        raise SystemExit("--data needs --model: a shape has no tokenizer")
    # As tokenizer.json says: transformers 5 takes the tokenizer of some models apart and leaves steps of it out.
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(args.model, local_files_only=True)
    made = []
    for row in json.load(open(args.data)):
        question = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
        asked = [{"role": "user", "content": question}]
        said = asked + [{"role": "assistant", "content": row["output"]}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(said, tokenize=False).rstrip("\n")
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"][:args.length]
        labels = [-100] * min(len(before), len(ids)) + ids[len(before):]
        if any(label != -100 for label in labels):
            made.append((ids, labels))
    if not made:
        raise SystemExit(f"--length {args.length} cuts every row before its answer")
    random.seed(42)
    random.shuffle(made)
    return made


def batch(samples, torch, device):
    """Samples padded to the longest; the mask is left out where nothing is padded."""
    width = max(len(ids) for ids, _ in samples)
    pad = lambda values, with_: torch.tensor([v + [with_] * (width - len(v)) for v in values], device=device)
    ids, labels = pad([s[0] for s in samples], 0), pad([s[1] for s in samples], -100)
    if all(len(ids) == width for ids, _ in samples):
        return dict(input_ids=ids, labels=labels)
    return dict(input_ids=ids, labels=labels, attention_mask=pad([[1] * len(s[0]) for s in samples], 0))


def main():
    args = arguments()
    torch = peer.start(args)
    model = load(args, torch)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0) if trained else None
    samples = rows(args, model.config.vocab_size)
    mixed = lambda: torch.autocast(args.device, dtype=torch.bfloat16) if args.compute_type == "bf16" \
        else contextlib.nullcontext()
    wait = torch.cuda.synchronize if args.device != "cpu" else lambda: None

    seconds, rates, losses, tokens, first, at = [], [], [], 0, 0.0, 0
    for step in range(args.warmup + args.steps):
        chosen = [samples[(at + i) % len(samples)] for i in range(args.batch)]
        at += args.batch
        inputs = batch(chosen, torch, args.device)
        wait()
        begun = time.perf_counter()
        with mixed():
            loss = model(**inputs).loss
        loss.backward()
        if optimizer:
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        wait()
        took = time.perf_counter() - begun
        if step == 0:
            first = peer.seconds_since_start()
        if step >= args.warmup:
            real = sum(len(ids) for ids, _ in chosen)
            seconds.append(took)
            rates.append(real / took)
            tokens += real
    print(json.dumps(dict(
        model=args.model or args.shape, adapter=args.adapter, batch=args.batch, length=args.length,
        recompute=args.recompute == "true", threads=torch.get_num_threads(),
        compute=f"{args.compute_type}, PyTorch {torch.__version__}", trainable=sum(p.numel() for p in trained),
        tokens_per_s=statistics.median(rates), step_ms=statistics.median(seconds) * 1e3, tokens=tokens,
        peak_memory=peer.peak_memory(args.device), first_step_s=first, first_loss=losses[0], last_loss=losses[-1])))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Generation in PyTorch and transformers: what `lathe bench generate` is compared with.

The options have the names and meanings of `lathe bench generate`. Prints one line of JSON with its keys.
"""

import json
import random
import statistics
import time

import peer


def arguments():
    parser = peer.options(__doc__, ["fp32", "bf16"])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def main():
    args = arguments()
    torch = peer.start(args)
    model = peer.model(args, torch.float32 if args.compute_type == "fp32" else torch.bfloat16)
    model.eval()
    random.seed(42)
    prompt = torch.tensor([[random.randrange(model.config.vocab_size) for _ in range(args.prompt)]])

    prompts, decodes, first = [], [], 0.0
    with torch.inference_mode():
        for round_ in range(args.rounds + 1):
            # Our own loop: nothing of generate()'s bookkeeping is counted. Only the last row's logits are wanted.
            begun = time.perf_counter()
            out = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
            token = out.logits[:, -1:].argmax(-1)
            read = time.perf_counter() - begun
            if round_ == 0:
                first = peer.seconds_since_start()
            for _ in range(args.new):
                out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[:, -1:].argmax(-1)
            made = time.perf_counter() - begun - read
            if round_ > 0:
                prompts.append(args.prompt / read)
                decodes.append(args.new / made)
    print(json.dumps(dict(
        model=args.model or args.shape, prompt=args.prompt, new=args.new, threads=torch.get_num_threads(),
        compute=f"{args.compute_type}, PyTorch {torch.__version__}", prompt_per_s=statistics.median(prompts),
        decode_per_s=statistics.median(decodes), peak_memory=peer.peak_memory("cpu"), first_token_s=first)))


if __name__ == "__main__":
    main()

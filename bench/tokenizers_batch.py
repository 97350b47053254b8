"""The peer of `lathe bench data --text`: the tokenizers library's own batch encode, from Python, on the same texts.

usage: python bench/tokenizers_batch.py --model DIR --data FILE [--threads N]
Reads the column `text` of a JSONL file first (that time is not counted), then encodes all of it, 1,000 texts at a time.
"""

import argparse
import json
import os
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", required=True, help="a Hugging Face folder")
parser.add_argument("--data", required=True, help="a JSONL file whose rows have a text")
parser.add_argument("--text", action="store_true", help="as `lathe bench data` has it; always so here")
parser.add_argument("--threads", type=int)
args = parser.parse_args()
os.environ["TOKENIZERS_PARALLELISM"] = "true"
if args.threads:
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)

import tokenizers  # noqa: E402  (after the environment that it reads)

texts = [json.loads(line)["text"] for line in open(args.data, encoding="utf-8")]
tokenizer = tokenizers.Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
started = time.perf_counter()
tokens = 0
for start in range(0, len(texts), 1000):
    tokens += sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts[start : start + 1000]))
seconds = time.perf_counter() - started
size = os.path.getsize(args.data)
print(json.dumps(dict(
    model=args.model, compute=f"tokenizers {tokenizers.__version__}", threads=args.threads or os.cpu_count(), tokens=tokens,
    encode_s=seconds, encode_mb_per_s=size / 1e6 / seconds, tokens_per_s=tokens / seconds)))

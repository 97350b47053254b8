"""usage: logits.py MODEL IDS_JSON OUT.safetensors [ADAPTER_DIR]

MODEL: a folder or a .gguf file. IDS_JSON: a file with lists of token ids, one for each sequence. Writes logits.N
(len, vocab) of each sequence, run alone, in float32; prints their sizes as JSON.
"""
import json
import sys

import torch
from safetensors.torch import save_file

from model import load

path, ids, out, adapter = (sys.argv[1:] + [None])[:4]
model = load(path, adapter)
with torch.no_grad():
    logits = {
        f"logits.{n}": model(input_ids=torch.tensor([row]), use_cache=False).logits[0].contiguous()
        for n, row in enumerate(json.load(open(ids)))
    }
save_file(logits, out)
print(json.dumps({k: dict(shape=list(v.shape), max=v.abs().max().item()) for k, v in logits.items()}))

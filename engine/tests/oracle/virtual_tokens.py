"""usage: python virtual_tokens.py MODEL ADAPTER IDS OUT

PEFT loads the adapter folder as it is and writes the logits of the text (tokens, vocab) to OUT, a safetensors file.
MODEL is a model folder, IDS a JSON file with one list of ids.
"""
import json
import sys
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from safetensors.torch import save_file

model, adapter, ids, out = map(Path, sys.argv[1:])
ids = json.loads(ids.read_text())
base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
with torch.no_grad():
    logits = PeftModel.from_pretrained(base, adapter).eval()(input_ids=torch.tensor([ids])).logits
save_file({"logits": logits[0, -len(ids):].contiguous()}, out)
print(json.dumps({"tokens": len(ids)}))

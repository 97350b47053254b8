"""usage: adapter.py MODEL OUT_DIR RANK SEED

Saves a LoRA adapter on all linears with random A and B, as PEFT does it (lora_alpha is twice the rank).
"""
import sys

import torch
from peft import LoraConfig, get_peft_model

from model import load

path, out, rank, seed = sys.argv[1:]
linears = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
model = get_peft_model(load(path), LoraConfig(
    r=int(rank), lora_alpha=2 * int(rank), target_modules=linears, task_type="CAUSAL_LM"))
generator = torch.Generator().manual_seed(int(seed))
with torch.no_grad():
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.02 if ".lora_B." in name else 0.05))
model.save_pretrained(out)
print("{}")

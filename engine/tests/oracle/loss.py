"""usage: loss.py MODEL BATCH_JSON OUT.safetensors [ADAPTER_DIR]

BATCH_JSON: a file with {"ids": [[…]], "mask": [[…]]}; mask 1: this token is a target, predicted from those before it.
Prints {"loss": mean cross-entropy over the targets of all sequences}. With an adapter, OUT gets the gradient of the loss
for each of its tensors, under the name that PEFT saves it by; without, OUT holds those of all norms.
"""
import json
import sys

import torch
from safetensors.torch import save_file

from model import load

path, batch, out, adapter = (sys.argv[1:] + [None])[:4]
batch = json.load(open(batch))
model = load(path, adapter, trainable=True)
for name, weight in model.named_parameters():
    weight.requires_grad_(".lora_" in name if adapter else weight.dim() == 1)
total, sums = sum(map(sum, batch["mask"])), 0.0
for ids, mask in zip(batch["ids"], batch["mask"]):
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    rows = torch.tensor([i for i, m in enumerate(mask) if m])
    loss = torch.nn.functional.cross_entropy(logits[rows - 1], torch.tensor(ids)[rows], reduction="sum")
    (loss / total).backward()
    sums += loss.item()
save_file({k.replace(".default.", "."): w.grad for k, w in model.named_parameters() if w.grad is not None}, out)
print(json.dumps(dict(loss=sums / total, targets=total)))

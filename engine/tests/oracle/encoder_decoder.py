"""usage: python encoder_decoder.py MODEL ADAPTER MERGED TASK

transformers loads the folder of an encoder-decoder and that with a merged adapter, PEFT the adapter, as they are. TASK is a
JSON file with a list of sources and one of targets. Says the tokens of each, the sums of -log p of the targets by each of
the three, and what beams find with the adapter.
"""
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

model, adapter, merged, task = map(Path, sys.argv[1:])
sources, targets = json.loads(task.read_text())
tokenizer = AutoTokenizer.from_pretrained(model)
sources, targets = ([tokenizer(text)["input_ids"] for text in texts] for texts in (sources, targets))


def load(folder):
    return AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def losses(net):
    pairs = [(torch.tensor([source]), torch.tensor([target])) for source, target in zip(sources, targets)]
    return [net(input_ids=source, labels=target).loss.item() * target.shape[1] for source, target in pairs]


plain, whole = losses(load(model)), losses(load(merged))
tuned = PeftModel.from_pretrained(load(model), adapter).eval()
beams = [
    tuned.generate(input_ids=torch.tensor([source]), num_beams=3, max_new_tokens=8, do_sample=False)[0].tolist()
    for source in sources
]
print(json.dumps({"sources": sources, "targets": targets, "plain": plain, "merged": whole, "tuned": losses(tuned), "beams": beams}))

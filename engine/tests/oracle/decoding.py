"""usage: decoding.py MODEL_DIR N TASK_JSON

TASK_JSON: {"prompts": [ids, …], "settings": [{…}, …]}. For each of the settings, words of transformers' generate, the ids
that follow each prompt, at most N, without the token that ends them. Prints [[ids, …], …].
"""
import json
import sys

import torch

from model import load

path, limit, task = sys.argv[1:]
task, model = json.load(open(task)), load(path, None)
out = []
for settings in task["settings"]:
    answers = []
    for ids in task["prompts"]:
        with torch.no_grad():
            new = model.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=int(limit),
                do_sample=False, temperature=None, top_p=None, top_k=None, **settings)[0, len(ids):].tolist()
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        while new and new[-1] in ends:
            new.pop()
        answers.append(new)
    out.append(answers)
print(json.dumps(out))

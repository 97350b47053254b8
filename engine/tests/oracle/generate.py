"""usage: generate.py MODEL_DIR N PROMPT_JSON [ADAPTER_DIR]

PROMPT_JSON: a file with a list of conversations, each a list of {"role", "content"}. Greedy, at most N new tokens each,
by the model's own chat template. Prints [{"prompt_ids", "ids", "text"}]; ids without the token that ended it.
"""
import json
import sys

import torch
import transformers

from model import load

path, limit, prompts, adapter = (sys.argv[1:] + [None])[:4]
tokenizer = transformers.AutoTokenizer.from_pretrained(path)
model = load(path, adapter)
out = []
for messages in json.load(open(prompts)):
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        new = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=int(limit),
            do_sample=False, temperature=None, top_p=None, top_k=None)[0, len(ids):].tolist()
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    while new and new[-1] in ends:
        new.pop()
    out.append(dict(prompt_ids=ids, ids=new, text=tokenizer.decode(new, skip_special_tokens=True)))
print(json.dumps(out, ensure_ascii=False))

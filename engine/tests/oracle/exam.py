"""Takes an exam with transformers, by the prompts of `lathe eval`, and prints its letters as `results.json` has them.

    python engine/tests/oracle/exam.py MODEL EXAM.jsonl SHOTS COUNT
    lathe eval model_name_or_path=MODEL task=EXAM.jsonl n_shot=SHOTS max_samples=COUNT compute_type=fp32 save_dir=DIR
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model_dir, exam, shots, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
tok = AutoTokenizer.from_pretrained(model_dir); model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
rows = [json.loads(line) for line in open(exam, encoding="utf-8")]
def ask(r): return r["question"].strip() + "".join(f"\n{c}. {r[c].strip()}" for c in "ABCD") + "\nAnswer:"
letters = [tok.encode(f"\nAnswer: {c}", add_special_tokens=False)[-1] for c in "ABCD"]
out = {}
right = 0
for i, row in enumerate(rows[:count]):
    others = [r for j, r in enumerate(rows) if j != i and r["subject"] == row["subject"]][:shots]
    head = f"The following are multiple choice questions (with answers) about {row['subject'].replace('_', ' ')}.\n\n"
    while True:
        text = head + "".join(f"{ask(r)} {r['answer']}\n\n" for r in others) + ask(row)
        ids = tok(text, return_tensors="pt").input_ids
        if ids.shape[1] <= model.config.max_position_embeddings: break
        others.pop()
    with torch.no_grad(): logits = model(ids).logits[0, -1]
    given = "ABCD"[int(torch.argmax(logits[letters]))]
    s = out.setdefault(row["subject"], {}); s[str(len(s))] = given; right += given == row["answer"]
print(json.dumps({"accuracy": right / min(count, len(rows)), "letters": out}, sort_keys=True))

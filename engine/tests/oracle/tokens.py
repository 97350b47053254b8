"""usage: tokens.py MODEL_DIR JSON

JSON: a file with {"texts": [text], "chats": [[{"role", "content"}]]}. Prints their ids: texts without special tokens added,
chats by the chat template, ready for an answer.
"""
import json
import sys

import model  # noqa: F401  (sets the environment)
import transformers

tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
asked = json.load(open(sys.argv[2]))
print(json.dumps(dict(
    texts=[tokenizer(text, add_special_tokens=False)["input_ids"] for text in asked["texts"]],
    chats=[tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in asked["chats"]])))

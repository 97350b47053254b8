"""usage: smollm2_to_hf.py FILE.gguf DIR

SmolLM2 from its GGUF as Hugging Face folders: DIR/smollm2 (bfloat16, as it was published) and DIR/smollm2-f32 (the same
numbers in float32). The weights are read by transformers; the tokenizer is put together here, because transformers takes
the pre-tokenizer of Llama for it.
"""
import sys

import gguf
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from model import source

path, out = sys.argv[1:]
fields = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
tokens = fields["tokenizer.ggml.tokens"]
control = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind == gguf.TokenType.CONTROL]
named = {key: tokens[fields[f"tokenizer.ggml.{key}_token_id"]] for key in ("bos", "eos", "unknown", "padding")
         if f"tokenizer.ggml.{key}_token_id" in fields}

tokenizer = Tokenizer(models.BPE(
    vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]))
tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
wrapped = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token=named["bos"], eos_token=named["eos"],
    unk_token=named.get("unknown", "<|endoftext|>"), pad_token=named.get("padding", named["eos"]),
    clean_up_tokenization_spaces=False, model_max_length=fields["llama.context_length"])
wrapped.chat_template = fields["tokenizer.chat_template"]

model = transformers.AutoModelForCausalLM.from_pretrained(**source(path), dtype=torch.float32)
# The file says 9.99999975e-06, which is 1e-5 in float32.
model.config.rms_norm_eps = 1e-5
model.generation_config = transformers.GenerationConfig(
    bos_token_id=model.config.bos_token_id, eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id)
model = model.to(torch.bfloat16)
for name, dtype in (("smollm2", torch.bfloat16), ("smollm2-f32", torch.float32)):
    model.to(dtype).save_pretrained(f"{out}/{name}")
    wrapped.save_pretrained(f"{out}/{name}")

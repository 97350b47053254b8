"""Loads what the other programs of this folder are asked about."""
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
import torch
import transformers

transformers.utils.logging.disable_progress_bar()


def source(path):
    """A folder, or a .gguf file, as arguments of from_pretrained."""
    if path.endswith(".gguf"):
        return dict(pretrained_model_name_or_path=os.path.dirname(path) or ".", gguf_file=os.path.basename(path))
    return dict(pretrained_model_name_or_path=path)


def load(path, adapter=None, trainable=False):
    """The model in float32, with the PEFT adapter of a folder if there is one."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **source(path), dtype=torch.float32, attn_implementation="eager")
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
        missing = [k for k, w in model.named_parameters() if ".lora_B." in k and not w.abs().max() > 0]
        if missing:
            sys.exit(f"PEFT left {len(missing)} tensors at 0, the first is {missing[0]}")
    return model.eval()

"""What the peers of `lathe bench` share: their options, the shapes, and how they are measured."""

import argparse
import os

SHAPES = {
    "smollm2-135m": dict(
        model_type="llama", hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192, rope_theta=100000.0,
        rms_norm_eps=1e-5, tie_word_embeddings=True),
    "qwen2.5-1.5b": dict(
        model_type="qwen2", hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        num_key_value_heads=2, vocab_size=151936, max_position_embeddings=32768, rope_theta=1000000.0,
        rms_norm_eps=1e-6, tie_word_embeddings=True),
    "llama-3.1-8b": dict(
        model_type="llama", hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072, rope_theta=500000.0,
        rms_norm_eps=1e-5, tie_word_embeddings=False),
}


def options(doc, types):
    """A parser of the options that every bench has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--model", help="a Hugging Face folder")
    subject.add_argument("--shape", choices=SHAPES, help="random weights")
    parser.add_argument("--compute-type", choices=types, default="bf16")
    parser.add_argument("--threads", type=int)
    return parser


def start(args):
    """Sets threads and the environment before the first import of torch; returns torch."""
    # Threads that wait without work don't take the processor from others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="true")
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(42)
    return torch


def model(args, dtype):
    """The model's weights, or random ones of a shape."""
    import transformers

    how = dict(dtype=dtype, attn_implementation="sdpa")
    if args.shape:
        return transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**SHAPES[args.shape]), **how)
    return transformers.AutoModelForCausalLM.from_pretrained(args.model, local_files_only=True, **how)


def seconds_since_start():
    """Seconds since the system started this process."""
    ticks = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19])
    return float(open("/proc/uptime").read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def peak_memory(device):
    """Bytes: of the process on a CPU, of the card on a GPU."""
    if device != "cpu":
        import torch
        return torch.cuda.max_memory_allocated()
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024

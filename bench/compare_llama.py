#!/usr/bin/env python3
"""Times generation with a GGUF file in Lathe and in llama.cpp, alternating, and prints the ratios.

usage: python bench/compare_llama.py LATHE MODEL.gguf [--prompt 512] [--new 64] [--rounds 3] [--threads 2] [--chats 0]

Needs llama-cpp-python. Both read a prompt of random tokens in one piece and write tokens after it, always the likeliest, on
as many threads; each measurement is a process of its own, and medians over the rounds are compared.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lathe")
    parser.add_argument("model")
    for name, default in [("prompt", 512), ("new", 64), ("rounds", 3), ("threads", 2), ("chats", 0)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def lathe(a):
    words = [a.lathe, "bench", "generate", "--json", "--model", a.model, "--rounds", "1"]
    for name in ("prompt", "new", "threads", "chats"):
        words += [f"--{name}", str(getattr(a, name))]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)


def llama(a):
    words = [sys.executable, __file__, a.lathe, a.model, "--alone", "--rounds", "1"]
    for name in ("prompt", "new", "threads"):
        words += [f"--{name}", str(getattr(a, name))]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def alone(a):
    import llama_cpp
    import numpy as np

    model = llama_cpp.Llama(
        a.model, n_ctx=a.prompt + a.new + 8, n_batch=512, n_threads=a.threads, n_threads_batch=a.threads, verbose=False)
    generator = np.random.default_rng(42)
    rates = []
    # The first time is not measured.
    for _ in range(2):
        prompt = generator.integers(0, model.n_vocab(), a.prompt).tolist()
        model.reset()
        begun = time.perf_counter()
        model.eval(prompt)
        next_token = int(np.argmax(model.scores[model.n_tokens - 1] if model.scores.shape[0] > 1 else model.scores[0]))
        read = time.perf_counter()
        for _ in range(a.new):
            model.eval([next_token])
            row = model.scores[model.n_tokens - 1] if model.scores.shape[0] > 1 else model.scores[0]
            next_token = int(np.argmax(row))
        made = time.perf_counter()
        rates = [a.prompt / (read - begun), a.new / (made - read)]
    print(json.dumps(dict(version=llama_cpp.__version__, prompt_per_s=rates[0], decode_per_s=rates[1])))


def main():
    a = arguments()
    if a.alone:
        return alone(a)
    ours, theirs = [], []
    for number in range(a.rounds):
        ours.append(lathe(a))
        theirs.append(llama(a))
        print(f"round {number + 1}: Lathe {ours[-1]['prompt_per_s']:.0f} and {ours[-1]['decode_per_s']:.1f}, "
              f"llama.cpp {theirs[-1]['prompt_per_s']:.0f} and {theirs[-1]['decode_per_s']:.1f} tokens/s", file=sys.stderr)
    print(f"{a.model}, {a.threads} threads, prompt of {a.prompt}, {a.new} after it, medians of {a.rounds} rounds")
    for name, key in [("prompt tokens/s", "prompt_per_s"), ("new tokens/s", "decode_per_s")]:
        ours_here, theirs_here = (statistics.median(r[key] for r in all) for all in (ours, theirs))
        print(f"{name:16} Lathe {ours_here:8.1f}  llama.cpp {theirs_here:8.1f}  ratio {ours_here / theirs_here:.2f}")


main()

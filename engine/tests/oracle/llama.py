"""What llama.cpp makes of a GGUF file, for comparisons with Lathe.

    python engine/tests/oracle/llama.py greedy MODEL.gguf PROMPTS.json [--new 32]
    python engine/tests/oracle/llama.py speed MODEL.gguf [--prompt 512] [--new 128] [--threads 2]

`greedy` reads a list of lists of token ids and prints, with a cache in float16 and in float32,
for each the ids of the likeliest continuation; `speed` prints tokens per
second. Needs llama-cpp-python (0.3.36 was used).
"""

import argparse
import json
import statistics
import time

from llama_cpp import Llama


# ggml's numbers of float32 and float16.
F32, F16 = 0, 1


def open_model(path, context, threads, cache=F16):
    return Llama(
        path,
        n_ctx=context,
        n_batch=512,
        n_threads=threads,
        n_threads_batch=threads,
        type_k=cache,
        type_v=cache,
        verbose=False,
    )


def greedy(model, prompt, new):
    model.reset()
    made = []
    for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0, reset=True):
        made.append(token)
        if len(made) == new or token == model.token_eos():
            break
    return made


def speed(model, prompt, new, rounds=5):
    ids = [(7919 * i + 13) % model.n_vocab() for i in range(prompt)]
    prompts, decodes = [], []
    for _ in range(rounds + 1):
        model.reset()
        start = time.perf_counter()
        model.eval(ids)
        read = time.perf_counter()
        token = 100
        for _ in range(new):
            model.eval([token])
            token = model.sample(temp=0.0, repeat_penalty=1.0)
        made = time.perf_counter()
        prompts.append(prompt / (read - start))
        decodes.append(new / (made - read))
    # The first round is to warm up.
    return {"prompt_per_s": statistics.median(prompts[1:]), "decode_per_s": statistics.median(decodes[1:])}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["greedy", "speed"])
    parser.add_argument("model")
    parser.add_argument("prompts", nargs="?")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=None)
    # Greedy text on one: two wait for each other where other programs run.
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    if asked.what == "greedy":
        with open(asked.prompts, encoding="utf-8") as file:
            prompts = json.load(file)
        new = asked.new or 32
        made = []
        for cache in (F16, F32):
            model = open_model(asked.model, max(map(len, prompts)) + new + 8, asked.threads or 1, cache)
            made.append([greedy(model, prompt, new) for prompt in prompts])
        print(json.dumps(made))
    else:
        new = asked.new or 128
        model = open_model(asked.model, asked.prompt + new + 8, asked.threads or 2)
        print(json.dumps(speed(model, asked.prompt, new)))


if __name__ == "__main__":
    main()

"""Makes the files of corpus/TARGET that a fuzzer starts from. Files that it found stand beside them, named found-….

usage: python corpus.py        (needs pyarrow)
"""

import gzip
import hashlib
import json
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent / "corpus"


def put(target, name, data):
    folder = HERE / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


SUM = "a" * 64


def sealed(manifest):
    """A manifest with the SHA-256 of itself in its last field."""
    text = (json.dumps({**manifest, "sum": "0" * 64}, indent=2) + "\n").encode()
    at = text.rindex(b'"sum": "') + 8
    return text[:at] + hashlib.sha256(text).hexdigest().encode() + text[at + 64 :]


def runs():
    cursor = {"epoch": 0.5, "samples": 8, "metrics": 4, "updates": 4, "learning_rate": 1e-4}
    origin = {"version": "0.1.0", "seed": 42, "threads": 2, "instructions": "avx2", "device": "cpu"}
    origin |= {"config": SUM, "data": SUM, "base": SUM}
    manifest = sealed(
        {"format": 2, "step": 4, "serial": 2, "run": "r", "cursor": cursor, "origin": origin}
        | {"settings": {"learning_rate": 0.0001, "stage": "sft", "template": None}, "best": "checkpoint-4"}
        | {"files": {"adapter_model.safetensors": [100, SUM], "optimizer.safetensors": [200, "b" * 64]}}
    )
    put("manifest", "sealed", manifest)
    put("manifest", "changed", manifest.replace(b'"step": 4', b'"step": 5'))
    put("manifest", "first-form", json.dumps({"step": 4, "files": {"weights": [3, SUM]}}))
    put("manifest", "outside", json.dumps({"step": 4, "files": {"../weights": [3, SUM]}}))
    put("manifest", "newer", '{"format": 9, "step": 1}')
    put("manifest", "cut", manifest[:300])
    put("manifest", "deep", "[" * 200)
    lines = [
        '{"seq":1,"time":1.5,"type":"started","pid":7,"version":"0.1.0"}',
        '{"seq":2,"time":1.6,"type":"metrics","step":1,"epoch":0.1,"values":{"loss":2.5}}',
        '{"seq":3,"time":1.7,"type":"checkpoint","step":1,"name":"checkpoint-1","bytes":10,"best":true}',
        '{"seq":4,"time":1.8,"type":"note","problem":{"code":"save_failed","message":"m","zh":{"message":"m"}}}',
        '{"seq":5,"time":1.9,"type":"finished","outcome":"succeeded","summary":{"train_loss":1.0}}',
        "",
    ]
    put("events", "usual", "\n".join(lines))
    begun = '{"seq":1,"time":1.5,"type":"status","text":{"en":"a","zh":"b"},"done":0,"total":0}'
    put("events", "cut", begun + '\n{"seq":2,"ti')
    put("events", "unknown", '{"seq":1,"time":1.5,"type":"levitated"}\n{"seq":18446744073709551616}\nnull\n\x00\n')


def rows_of_text():
    put("json", "array", '[{"a": 1, "b": "}]\\"{[", "c": [null, true, -4.5e1]}, {"a": "\\u00e9\\ud83d\\ude38"}]\n')
    put("json", "one-after-the-other", '{"a": 1}\n{"a": 2} {"a": 3}')
    put("json", "values", '[1, "two", null, [3], {}, 0.1, 18446744073709551616, 1e400]')
    put("json", "mark", b"\xef\xbb\xbf[ ]\n")
    put("json", "cut", '[{"a": 1}, {"a": "x')
    put("json", "comma", '[{"a": 1},\n]')
    put("json", "lone-surrogate", '[{"a": "\\ud800"}, {"a": "\\udc00\\ud800"}]')
    put("json", "key-twice", '[{"a": 1, "a": 2}]')
    put("json", "deep", "[" * 300 + "]" * 300)
    put("json", "not-utf8", b'[{"a": "\xff"}, 1]')
    put("json", "nul", b'[{"a": "\x00"}, {"b\\u0000": 1}]')
    put("json", "form-feed", "\f[1\f,2]\f")
    put("jsonl", "lines", '{"a": 1}\r\n\n{"a": "二"}\n{"a": }\n{}')
    put("jsonl", "array", ' [{"a": 1}, 2]')
    put("jsonl", "utf16le", "\ufeff{\"a\": \"好\"}\n{}\n".encode("utf-16-le"))
    put("jsonl", "utf16be-odd", '{"a": 1}\n'.encode("utf-16-be") + b"\x00")
    put("jsonl", "gbk", '{"问题": "你好，世界"}\n{"a": 1}\n'.encode("gbk"))
    put("csv", "quoted", 'instruction,input,output\r\n"a ""b"", c",,"two\nlines"\r\nd,e,f\r\n')
    put("csv", "ragged", "a;b\n1;2;3\n\n4\n")
    put("csv", "open", 'a,b\n"1,2\n3,4\n')
    put("csv", "not-utf8", b"a,b\n1,\xff\n")
    put("csv", "names", "a,,a\n1,2,3\n")
    put("text", "lines", "one\n\n 二 \r\n\x0b\nend")
    put("text", "gbk", "你好\n再见\n".encode("gbk"))
    put("text", "utf16", "﻿a𝄞\nb".encode("utf-16-le"))
    put("text", "utf16-surrogate", b"\xfe\xff\xd8\x00\x00a")
    put("text", "nul", b"a\x00b\nc\x00\n")
    lines = b'{"a": 1}\n{"a": 2}\n'
    put("gzip", "whole", gzip.compress(lines, mtime=0))
    put("gzip", "two-parts", gzip.compress(lines, mtime=0) * 2)
    put("gzip", "cut", gzip.compress(lines, mtime=0)[:-9])
    put("gzip", "trailing", gzip.compress(lines, mtime=0) + b"more")


def tables():
    inner = pa.array([{"x": 1, "y": ["a", None]}, None, {"x": None, "y": []}])
    table = pa.table({"instruction": ["a", None, "好\n"], "n": [1, 2, 3], "inner": inner, "f": [0.5, float("nan"), None]})
    plain = pa.table({"text": ["one", "two"]})
    dictionary = pa.table({"text": pa.array(["x", "y", "x"]).dictionary_encode(), "t": pa.array([1, 2, None], pa.timestamp("us"))})
    for name, table in [("nested", table), ("plain", plain), ("dictionary", dictionary)]:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="snappy" if name == "plain" else "none")
        put("parquet", name, sink.getvalue().to_pybytes())
        for kind, new in [("file", ipc.new_file), ("stream", ipc.new_stream)]:
            sink = pa.BufferOutputStream()
            with new(sink, table.schema) as writer:
                writer.write_table(table)
            put("arrow", f"{name}-{kind}", sink.getvalue().to_pybytes())
    whole = (HERE / "parquet/plain").read_bytes()
    put("parquet", "lying-footer", whole[:-8] + struct.pack("<I", 0x7FFFFFFF) + b"PAR1")
    put("parquet", "cut", whole[: len(whole) // 2])
    put("arrow", "cut", (HERE / "arrow/plain-file").read_bytes()[:-20])


def registries():
    put("dataset_info", "usual", json.dumps({
        "a": {"file_name": "a.json"},
        "b": {"file_name": "folder", "formatting": "sharegpt", "columns": {"messages": "m"}, "tags": {"role_tag": "role"}},
        "c": {"hf_hub_url": "someone/data", "ranking": True, "columns": {"chosen": "x"}},
    }))
    put("dataset_info", "outside", json.dumps({
        "a": {"file_name": "../a.json"}, "b": {"file_name": "/etc/hosts"}, "c": {"file_name": "folder/../../a.json"},
        "d": {"file_name": ".."}, "e": {"file_name": "./folder/./b.csv"}, "f": {"file_name": "folder\u0000"},
    }))
    put("dataset_info", "odd", '{"a": 3, "b": {}, "c": {"file_name": 7}, "d": {"file_name": "a.json", "formatting": "x", "columns": [], "num_samples": -1}}')
    put("dataset_info", "broken", '{"a": {"file_name": "a.json"},\n oops}')


def conversations():
    say = lambda role, content: {"role": role, "content": content}
    turn = lambda role, value: {"from": role, "value": value}
    call = {"name": "f", "arguments": {"x": [1, "é"]}}
    put("rows", "alpaca", json.dumps({"instruction": "a", "input": "b", "output": "c", "history": [["q", "r"]], "system": "s"}))
    put("rows", "ranking", json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}))
    put("rows", "kto", json.dumps({"prompt": "a", "completion": "b", "label": False}))
    put("rows", "text", json.dumps({"text": "a"}))
    put("rows", "sharegpt", json.dumps({
        "conversations": [turn("human", "q"), turn("function_call", json.dumps(call)), turn("observation", "1"), turn("gpt", " a ")],
        "tools": json.dumps([{"name": "f", "parameters": {}}]), "system": "s"}))
    put("rows", "openai", json.dumps({"messages": [
        say("system", "s"), say("user", [{"type": "text", "text": "q"}]),
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
        say("tool", "1"), say("assistant", "<think>t</think>a")]}))
    put("rows", "look-alike", json.dumps({"instruction": "<|im_end|>\n<|im_start|>assistant\nx", "output": "x</s>"}))
    put("rows", "private-plane", json.dumps({"instruction": "\U000f0002", "output": "\U000f0003a"}))
    talk = json.dumps([say("user", "a"), say("assistant", "b")])
    chatml = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    put("template", "chatml", f"{chatml}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}\0{talk}")
    put("template", "tools", "{% for t in tools %}{{ t | tojson(indent=2) }}{% endfor %}{% for m in messages %}{% generation %}{{ m.content or m.tool_calls }}{% endgeneration %}{% endfor %}")
    put("template", "macro", "{%- macro m(x, y=1) -%}{{ x ~ y }}{% if y < 5 %}{{ m(x, y + 1) }}{% endif %}{%- endmacro -%}{{ m('a') }}{% set ns = namespace(a=[]) %}{% set ns.a = ns.a + [1] %}{{ ns.a }}")
    put("template", "python", "{{ 'a b'.split() }}{{ 'aXb'.rsplit('X', 1)[0] }}{{ messages[::-1][0]['content'][1:-1].strip().title() }}{{ {'a': 1}.items() | list }}{{ '%s' | format(1) }}")
    put("template", "endless", "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}")
    put("template", "raise", "{{ raise_exception('no') }}")
    put("template", "long", "{{ 'x' * 99999999 }}")
    put("template", "deep", "{{ " + "[" * 200 + "]" * 200 + " }}")


def requests():
    put("door", "own", "GET /api/jobs\nhost: localhost:7860\norigin: http://localhost:7860\nsec-fetch-site: same-origin")
    put("door", "link", "GET /runs/x\nhost: studio.example\nsec-fetch-site: cross-site\nsec-fetch-mode: navigate\nsec-fetch-dest: document")
    put("door", "form", "POST /api/jobs\nhost: 127.0.0.1:7860\norigin: null\nsec-fetch-site: cross-site\ncookie: lathe_7860=x")
    put("door", "rebound", "DELETE /api/jobs/x\nhost: evil.com:7860\norigin: http://evil.com:7860")
    put("door", "two", "GET http://localhost:7860/v1/models\nhost: localhost:7860\nhost: [::1]:7860\nauthorization: Bearer x")
    put("door", "ports", "PUT /\nhost: studio.example:007860\norigin: https://studio.example:007860")
    put("names", "plain", "run\nworker.log")
    put("names", "linked", "run\nlinked")
    put("names", "relative", "run\nrelative")
    put("names", "up", "../runs/run\n../../outside")
    put("names", "encoded", "run%2f..%2f..\nC:\\x.json")
    put("config", "usual", "### model\nmodel_name_or_path: starter\ndataset: a,b\nlearning_rate: 1.0e-4\nbf16: true\nlora_rank: 8\nsystem: null\nlist: [1, 'a', {b: ~}]\n")
    put("config", "json", '{"model_name_or_path": "starter", "learning_rate": 0.0001, "text": "a\\u00e9\\n", "big": 18446744073709551615}')
    put("config", "aliases", "a: &a {x: 1}\nb: *a\nc: [*a, *a]\n")
    put("config", "texts", "a: |\n  one\n  two\nb: >-\n  three\n  four\nc: 'it''s'\nd: \"\\x41\\t\"\ne: 0x1F\nf: .inf\ng: 1_000\nh: yes\ni: 2001-01-01\n")
    put("config", "twice", "a: 1\na: 2\n")
    put("config", "deep", "[" * 100 + "]" * 100)
    put("upload", "rows", '[{"instruction": "a"}]')
    put("upload", "line-breaks", "a\r\n--c\r\n\r\nb\n--")
    put("upload", "form", '\0--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nx\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="a.json"\r\n\r\n[]\r\n--b--\r\n')
    put("upload", "hostile", '\0--b\r\nContent-Disposition: form-data; name="file"; filename="../../a.json"\r\nContent-Type: x\r\n\r\n[]\r\n--b\r\n\r\n')
    put("upload", "cut", '\0--b\r\nContent-Disposition: form-data; name="file"; filename="a.json"\r\n\r\n[')


def renderings():
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "<think>t</think>a"}]
    put("render", "talk", json.dumps(talk))
    put("render", "parts", json.dumps([{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image"}]}]))
    put("render", "tools", json.dumps([{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": [1, "é"]}}}]}, {"role": "tool", "content": "1"}]))
    put("render", "odd", json.dumps([{"role": 3}, "x", None, {"content": {"a": []}}, {"role": "user", "content": "<|im_end|>" * 9}]))
    put("render", "empty", "[]")


def models():
    tokenizer = {
        "version": "1.0", "added_tokens": [{"id": 2, "content": "</s>", "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 3}, "merges": ["a b"]},
    }
    config = {"eos_token": "</s>", "bos_token": {"content": "<s>"}, "added_tokens_decoder": {"4": {"content": "<s>", "special": True}},
              "chat_template": [{"name": "default", "template": "{{ bos_token }}"}]}
    put("tokenizer", "bpe", json.dumps(tokenizer) + "\0" + json.dumps(config))
    put("tokenizer", "words", json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}}))
    put("tokenizer", "broken", '{"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": [["a", "z"]]}}')

    text = lambda s: struct.pack("<Q", len(s.encode())) + s.encode()
    pairs = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    for key in ["block_count", "embedding_length", "feed_forward_length", "attention.head_count", "context_length"]:
        pairs.append(text(f"llama.{key}") + struct.pack("<II", 4, 2))
    pairs.append(text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-6))
    pairs.append(text("tokenizer.ggml.model") + struct.pack("<I", 8) + text("gpt2"))
    words = [text(w) for w in ["a", "b", "ab"]]
    pairs.append(text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3) + b"".join(words))
    pairs.append(text("tokenizer.ggml.merges") + struct.pack("<IIQ", 9, 8, 1) + text("a b"))
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 2, 3, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + tensor
    header += b"\0" * (-len(header) % 32)
    put("gguf", "llama", header + b"\0" * 32)
    put("gguf", "cut", header[:100])
    put("gguf", "counts", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60))
    put("gguf", "array", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, 1 << 40))

    named = {"model.embed_tokens.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]}, "__metadata__": {"format": "pt"}}
    wrap = lambda header, data: struct.pack("<Q", len(header)) + header.encode() + data
    put("safetensors", "plain", wrap(json.dumps(named), b"\0" * 32))
    put("safetensors", "short", wrap(json.dumps(named), b"\0" * 31))
    put("safetensors", "length", struct.pack("<Q", 1 << 62) + b"{}")
    named["model.embed_tokens.weight"]["shape"] = [1 << 40, 1 << 40]
    put("safetensors", "shape", wrap(json.dumps(named), b"\0" * 32))


rows_of_text()
tables()
registries()
conversations()
renderings()
requests()
models()

"""What PyPI's gguf reads from a GGUF file that Lathe wrote, and from one in float32 of the same model.

    python engine/tests/oracle/gguf_read.py MODEL.gguf MODEL-F32.gguf

Prints the metadata without the vocabulary, and for each tensor its kind, the share of bytes that are those of `gguf.quants.quantize`
(null for kinds that it only reads), and the root of the mean square of what quantising changed, over that of the values.
"""

import json
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize


def main():
    made, exact = (GGUFReader(path) for path in sys.argv[1:3])
    originals = {tensor.name: tensor for tensor in exact.tensors}
    tensors = {}
    for tensor in made.tensors:
        original = np.asarray(originals[tensor.name].data, dtype=np.float32)
        values = dequantize(tensor.data, tensor.tensor_type)
        assert values.shape == original.shape, tensor.name
        error = float(np.sqrt(np.mean((values - original) ** 2) / max(np.mean(original**2), 1e-30)))
        try:
            wanted = quantize(original, tensor.tensor_type)
            same = float(np.mean(wanted.view(np.uint8) == tensor.data.view(np.uint8)))
        except NotImplementedError:
            same = None
        tensors[tensor.name] = {"kind": tensor.tensor_type.name, "same": same, "error": error}
    metadata = {
        key: field.contents()
        for key, field in made.fields.items()
        if key not in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type", "tokenizer.ggml.scores")
    }
    assert GGMLQuantizationType.Q4_0 == 2
    print(json.dumps({"metadata": metadata, "tensors": tensors}, default=str))


if __name__ == "__main__":
    main()

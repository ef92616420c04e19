#!/usr/bin/env python3
"""Writes a GPT-2 of random weights as GGUF, for llama_cpp.py: gguf_gpt2.py OUT.gguf --type bf16|q8_0|f32

Needs the packages gguf and numpy. Without a vocabulary of its own: llama-bench feeds random tokens. Matrices are of the type asked
for, everything else is f32, and the head reads the embedding table, as in gpt2's own files.
"""
import argparse

import gguf
import numpy as np

TYPES = {"f32": gguf.GGMLQuantizationType.F32, "bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
FILE = {"f32": gguf.LlamaFileType.ALL_F32, "bf16": gguf.LlamaFileType.MOSTLY_BF16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("out")
    p.add_argument("--type", choices=sorted(TYPES), default="bf16")
    for name, value in dict(layers=12, heads=12, width=768, context=1024, vocab=50257).items():
        p.add_argument("--" + name, type=int, default=value)
    a = p.parse_args()
    w = gguf.GGUFWriter(a.out, "gpt2")
    w.add_context_length(a.context)
    w.add_embedding_length(a.width)
    w.add_block_count(a.layers)
    w.add_feed_forward_length(4 * a.width)
    w.add_head_count(a.heads)
    w.add_layer_norm_eps(1e-5)
    w.add_file_type(FILE[a.type])
    w.add_vocab_size(a.vocab)
    w.add_tokenizer_model("none")
    draw = np.random.default_rng(1)

    def matrix(name, rows, columns, kind=None):
        kind = kind or TYPES[a.type]
        x = (0.02 * draw.standard_normal((rows, columns))).astype(np.float32)
        w.add_tensor(name, x if kind == TYPES["f32"] else gguf.quants.quantize(x, kind), raw_dtype=kind)

    def vector(name, n, value):
        w.add_tensor(name, np.full(n, value, dtype=np.float32))

    C = a.width
    matrix("token_embd.weight", a.vocab, C)
    matrix("position_embd.weight", a.context, C, TYPES["f32"])
    for i in range(a.layers):
        for name, rows, columns in (("attn_qkv", 3 * C, C), ("attn_output", C, C), ("ffn_up", 4 * C, C), ("ffn_down", C, 4 * C)):
            matrix(f"blk.{i}.{name}.weight", rows, columns)
            vector(f"blk.{i}.{name}.bias", rows, 0)
        for name in ("attn_norm", "ffn_norm"):
            vector(f"blk.{i}.{name}.weight", C, 1)
            vector(f"blk.{i}.{name}.bias", C, 0)
    vector("output_norm.weight", C, 1)
    vector("output_norm.bias", C, 0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()

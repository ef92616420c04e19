#!/usr/bin/env python3
"""Writes gguf_llama.gguf and gguf_gpt2.gguf, two tiny models with every tensor type that Quern reads, and gguf_values.txt, what
the `gguf` package itself says that their tensors hold. Run in this folder, with gguf 0.10 or later and numpy."""
import numpy as np
import gguf
from gguf import GGMLQuantizationType as Q

rng = np.random.default_rng(7)
values = open("gguf_values.txt", "w")


def put(writer, file, name, shape, kind):
    x = rng.standard_normal(shape).astype(np.float32) * 0.3
    if kind == Q.F32:
        writer.add_tensor(name, x)
    elif kind == Q.F16:
        x = x.astype(np.float16)
        writer.add_tensor(name, x)
    else:
        q = gguf.quants.quantize(x, kind)
        writer.add_tensor(name, q, raw_dtype=kind)
        x = gguf.quants.dequantize(q, kind)
    flat = x.astype(np.float64).ravel()
    weighted = float((flat * (np.arange(flat.size) % 7 + 1)).sum())
    values.write(f"{file} {name} {kind.name} {flat.size} {weighted:.12g} {flat[0]:.9g} {flat[flat.size // 2]:.9g} {flat[-1]:.9g}\n")


def llama():
    C, F, H, K, V, L = 64, 96, 4, 2, 263, 2
    w = gguf.GGUFWriter("gguf_llama.gguf", "llama")
    w.add_context_length(32)
    w.add_embedding_length(C)
    w.add_block_count(L)
    w.add_feed_forward_length(F)
    w.add_head_count(H)
    w.add_head_count_kv(K)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(C // H)
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + ["\u2581", "a", "b", "ab"]
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([0.0] * 259 + [-4.0, -3.0, -2.0, -1.0])
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * 4)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    put(w, "llama", "token_embd.weight", (V, C), Q.Q8_0)
    for n in range(L):
        for name, shape, kind in (("attn_norm", (C,), Q.F32), ("attn_q", (C, C), Q.Q8_0), ("attn_k", (C // H * K, C), Q.Q4_0),
                                  ("attn_v", (C // H * K, C), Q.F16), ("attn_output", (C, C), Q.BF16), ("ffn_norm", (C,), Q.F32),
                                  ("ffn_gate", (F, C), Q.Q4_0), ("ffn_up", (F, C), Q.Q8_0), ("ffn_down", (C, F), Q.Q8_0)):
            put(w, "llama", f"blk.{n}.{name}.weight", shape, kind)
    put(w, "llama", "output_norm.weight", (C,), Q.F32)
    put(w, "llama", "output.weight", (V, C), Q.F16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def gpt2():
    C, F, H, L, T = 32, 128, 2, 1, 16
    tokens = [chr(c) for c in list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))]
    tokens += [chr(256 + i) for i in range(256 - len(tokens))] + ["th", "the", "\u0120the", "<|endoftext|>"]
    w = gguf.GGUFWriter("gguf_gpt2.gguf", "gpt2")
    w.add_context_length(T)
    w.add_embedding_length(C)
    w.add_block_count(L)
    w.add_feed_forward_length(F)
    w.add_head_count(H)
    w.add_layer_norm_eps(1e-5)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([1] * (len(tokens) - 1) + [3])
    w.add_token_merges(["t h", "th e", "\u0120 the"])
    w.add_bos_token_id(len(tokens) - 1)
    w.add_eos_token_id(len(tokens) - 1)
    put(w, "gpt2", "token_embd.weight", (len(tokens), C), Q.Q8_0)
    put(w, "gpt2", "position_embd.weight", (T, C), Q.F32)
    for name, shape, kind in (("attn_norm.weight", (C,), Q.F32), ("attn_norm.bias", (C,), Q.F32), ("attn_qkv.weight", (3 * C, C), Q.Q8_0),
                              ("attn_qkv.bias", (3 * C,), Q.F32), ("attn_output.weight", (C, C), Q.Q4_0),
                              ("attn_output.bias", (C,), Q.F32), ("ffn_norm.weight", (C,), Q.F32), ("ffn_norm.bias", (C,), Q.F32),
                              ("ffn_up.weight", (F, C), Q.BF16), ("ffn_up.bias", (F,), Q.F32), ("ffn_down.weight", (C, F), Q.F16),
                              ("ffn_down.bias", (C,), Q.F32)):
        put(w, "gpt2", f"blk.0.{name}", shape, kind)
    put(w, "gpt2", "output_norm.weight", (C,), Q.F32)
    put(w, "gpt2", "output_norm.bias", (C,), Q.F32)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


llama()
gpt2()
values.close()

#!/usr/bin/env python3
"""Writes model_golden.txt: what Hugging Face's GPT-2 and LLaMA compute for tiny models with weights from a formula.

Run with torch and transformers 4.30 or later:  python3 model_golden.py > model_golden.txt
src/model/model_golden_test.c fills the same weights from the same formula and compares parameters, logits, loss and gradients.
"""

import numpy
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

TOKENS = [3, 1, 4, 1, 5, 9, 2]
TARGETS = [1, 4, 1, 5, 9, 2, 6]


def formula(name, shape, one):
    """FNV-1a of the name starts a linear congruential sequence; f32 values in (-0.2, 0.2), around 1 for weights of norms."""
    h = 2166136261
    for c in name.encode():
        h = ((h ^ c) * 16777619) % 2**32
    out = []
    for _ in range(int(numpy.prod(shape))):
        h = (h * 1664525 + 1013904223) % 2**32
        out.append(numpy.float32(((h >> 8) / 8388608.0 - 1.0) * 0.2 + (1.0 if one else 0.0)))
    return torch.tensor(numpy.array(out, dtype=numpy.float64).reshape(shape))


def is_conv1d(name):
    return name.endswith(".weight") and any(part in name for part in ("c_attn", "c_proj", "c_fc"))


def is_norm(name):
    return name.endswith("weight") and any(part in name for part in ("ln_", "norm"))


def emit(kind, config, model, groups):
    print(kind, *(f"{k}={v}" for k, v in config.items()))
    head = config["width"] // config["heads"]
    with torch.no_grad():
        for name, p in model.named_parameters():
            grouped = groups > 1 and ("k_proj" in name or "v_proj" in name)
            shape = list(p.shape)
            if grouped:
                shape[0] //= groups
            value = formula(name, shape[::-1] if is_conv1d(name) else shape, is_norm(name))
            if is_conv1d(name):
                value = value.T
            if grouped:  # a group of query heads shares one key/value head: the same as repeating it
                value = value.reshape(-1, 1, head, shape[1]).repeat(1, groups, 1, 1).reshape(p.shape)
            p.copy_(value)
    logits = model(torch.tensor([TOKENS])).logits[0]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGETS), reduction="sum")
    loss.backward()
    print("tokens", *TOKENS)
    print("targets", *TARGETS)
    print(f"loss {loss.item():.12g}")
    for row in logits.detach().numpy():
        print("logits", *(f"{x:.9g}" for x in row))
    for name, p in model.named_parameters():
        grad = p.grad
        if groups > 1 and ("k_proj" in name or "v_proj" in name):
            grad = grad.reshape(-1, groups, head, grad.shape[1]).sum(1).reshape(-1, grad.shape[1])
        print("param", name, *grad.shape, f"{grad.norm().item():.9g}")
    print("end")


def main():
    torch.set_default_dtype(torch.float64)
    size = dict(layers=2, heads=4, kv_heads=4, width=16, hidden=64, context=8, vocab=13, tied=1)
    for tied in (1, 0):
        size["tied"] = tied
        config = GPT2Config(vocab_size=13, n_positions=8, n_embd=16, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
                            tie_word_embeddings=bool(tied))
        emit("gpt2", size, GPT2LMHeadModel(config).eval(), 1)
    size = dict(layers=2, heads=4, kv_heads=2, width=16, hidden=24, context=8, vocab=13, tied=0)
    for kv in (4, 2):
        size["kv_heads"] = kv
        config = LlamaConfig(vocab_size=13, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                             max_position_embeddings=8, rms_norm_eps=1e-5, tie_word_embeddings=False, pad_token_id=0)
        emit("llama", size, LlamaForCausalLM(config).eval().double(), 4 // kv)


if __name__ == "__main__":
    main()

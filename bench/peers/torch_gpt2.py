#!/usr/bin/env python3
"""One training step of GPT-2 in PyTorch on the CPU, timed.

Prints one JSON object a mode: {"peer": "torch 2.x", "mode": "eager", "dtype": "bf16", "step_ms": ..., "tokens_per_s": ...}.
Forward, backward and AdamW on random tokens; warm-up steps are not counted, the median of the others is.
"""
import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


def attention(q, k, v):
    if hasattr(torch.nn.functional, "scaled_dot_product_attention"):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    T = q.shape[-2]  # before PyTorch 2
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).masked_fill(hidden, float("-inf"))
    return scores.softmax(-1) @ v


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.heads, C // self.heads).transpose(1, 2) for t in self.qkv(x).split(C, dim=2))
        y = attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(B, T, C))

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.tokens, self.places = nn.Embedding(a.vocab, a.width), nn.Embedding(a.context, a.width)
        self.blocks = nn.ModuleList(Block(a.width, a.heads) for _ in range(a.layers))
        self.norm = nn.LayerNorm(a.width)

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.float().view(-1, logits.shape[-1]), targets.view(-1))


def measure(a, mode):
    torch.manual_seed(1)
    model = Gpt2(a)
    call = torch.compile(model) if mode == "compile" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **({"fused": True} if a.fused else {}))
    ids = torch.randint(0, a.vocab, (a.batch, a.context))
    targets = torch.randint(0, a.vocab, (a.batch, a.context))
    times = []
    for step in range(a.warmup + a.steps):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype == "bf16"):
            loss = call(ids, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        loss.item()
        if step >= a.warmup:
            times.append(time.perf_counter() - began)
    seconds = statistics.median(times)
    print(json.dumps({"peer": "torch " + torch.__version__, "mode": mode, "dtype": a.dtype, "step_ms": seconds * 1e3,
                      "tokens_per_s": a.batch * a.context / seconds}), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in dict(batch=4, context=512, layers=12, heads=12, width=768, vocab=50257, threads=2, steps=5, warmup=2).items():
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--dtype", choices=("f32", "bf16"), default="bf16")
    p.add_argument("--modes", default="eager,compile")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    try:  # the fused form for CPUs is there from 2.4 on
        a.fused = bool(torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True))
    except (RuntimeError, TypeError):
        a.fused = False
    for mode in a.modes.split(","):
        try:
            measure(a, mode)
        except Exception as why:  # a mode that this build lacks (no compiler, no bf16) is said and left out
            print(json.dumps({"peer": "torch " + torch.__version__, "mode": mode, "dtype": a.dtype,
                              "failed": str(why).strip().splitlines()[0][:200] if str(why).strip() else type(why).__name__}), flush=True)


if __name__ == "__main__":
    main()

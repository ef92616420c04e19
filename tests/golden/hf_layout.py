#!/usr/bin/env python3
"""Writes hf_layout.txt: what `transformers` itself saves for small models of the families Quern writes.

Run it in a virtual environment with torch and transformers (made with 4.40.2):
    python3 hf_layout.py > hf_layout.txt

One block per model:
    model ARCH layers heads kv_heads width hidden context vocab tied
    config KEY JSON-VALUE
    tensor NAME DTYPE DIM...
Left out of the configuration: version stamps and the keys of heads Quern has no use for (summary_*)."""
import json
import os
import tempfile

from safetensors import safe_open
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM


def gpt2(tied):
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=65, n_positions=16, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied))


def llama(tied):
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=65, hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16, rms_norm_eps=1e-5, rope_theta=10000.0,
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied))


def show(arch, model, tied):
    c = model.config
    hidden = 128 if arch == "gpt2" else 96
    kv = 4 if arch == "gpt2" else 2
    print(f"model {arch} 2 4 {kv} 32 {hidden} 16 65 {'tied' if tied else 'untied'}")
    with tempfile.TemporaryDirectory() as d:
        model.save_pretrained(d)
        config = json.load(open(os.path.join(d, "config.json")))
        config["tie_word_embeddings"] = c.tie_word_embeddings  # save_pretrained leaves defaults out
        for key in sorted(config):
            if key.startswith("summary_") or key in ("transformers_version", "_name_or_path"):
                continue
            print("config", key, json.dumps(config[key]))
        with safe_open(os.path.join(d, "model.safetensors"), "pt") as f:
            for name in sorted(f.keys()):
                s = f.get_slice(name)
                print("tensor", name, s.get_dtype(), *s.get_shape())


for is_tied in (True, False):
    show("gpt2", gpt2(is_tied), is_tied)
    show("llama", llama(is_tied), is_tied)

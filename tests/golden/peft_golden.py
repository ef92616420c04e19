#!/usr/bin/env python3
"""What Hugging Face's peft computes and saves for LoRA on tiny models with weights from model_golden.py's formula.

Run with torch, transformers and peft (made with peft 0.21.2, transformers 5.23.0, torch 2.15.0):
    python3 peft_golden.py > peft_golden.txt             losses, logits, gradients: src/model/model_golden_test.c
    python3 peft_golden.py layout > peft_layout.txt      adapter_config.json and tensors as saved: src/runtime/peft_test.c
    python3 peft_golden.py load BASE ADAPTER TOKENS...   logits of the last token, of an adapter that Quern wrote
"""

import json
import os
import sys
import tempfile

import torch
from model_golden import TARGETS, TOKENS, formula, is_conv1d, is_norm
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

GPT2 = dict(layers=2, heads=4, kv_heads=4, width=16, hidden=64, context=8, vocab=13, tied=1)
LLAMA = dict(layers=2, heads=4, kv_heads=4, width=16, hidden=24, context=8, vocab=13, tied=0)
CASES = [("gpt2", GPT2, 3, 6, ["c_attn"]), ("gpt2", GPT2, 2, 5, ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]),
         ("llama", LLAMA, 3, 6, ["q_proj", "v_proj"]),
         ("llama", LLAMA, 2, 5, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])]


def plain_name(name):
    return name.replace("base_model.model.", "").replace(".default", "").replace(".base_layer", "")


def make(kind, rank, alpha, targets):
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=13, n_positions=8, n_embd=16, n_layer=2, n_head=4, resid_pdrop=0,
                                           embd_pdrop=0, attn_pdrop=0, bos_token_id=1, eos_token_id=2))
    else:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=13, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                                             num_attention_heads=4, max_position_embeddings=8, rms_norm_eps=1e-5,
                                             tie_word_embeddings=False, pad_token_id=0)).double()
    lora = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=kind == "gpt2")
    return get_peft_model(model.eval(), lora, autocast_adapter_dtype=False).eval()


def emit(kind, size, rank, alpha, targets):
    print(kind, *(f"{k}={v}" for k, v in size.items()), f"lora={rank}", f"alpha={alpha}", f"targets={','.join(targets)}")
    model = make(kind, rank, alpha, targets).double()
    with torch.no_grad():
        for full, p in model.named_parameters():
            name = plain_name(full)
            conv = is_conv1d(name) and "lora_" not in name
            value = formula(name, list(p.shape)[::-1] if conv else list(p.shape), is_norm(name))
            p.copy_(value.T if conv else value)
    logits = model(torch.tensor([TOKENS])).logits[0]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGETS), reduction="sum")
    loss.backward()
    print("tokens", *TOKENS)
    print("targets", *TARGETS)
    print(f"loss {loss.item():.12g}")
    for row in logits.detach().numpy():
        print("logits", *(f"{x:.9g}" for x in row))
    for name, p in model.named_parameters():
        if p.grad is not None:
            print("param", plain_name(name), *p.grad.shape, f"{p.grad.norm().item():.9g}")
    print("end")


def layout(kind, size, rank, alpha, targets):
    """Only what decides how an adapter is read; versions of peft add keys with defaults."""
    with tempfile.TemporaryDirectory() as out:
        make(kind, rank, alpha, targets).save_pretrained(out)
        with open(os.path.join(out, "adapter_config.json"), encoding="utf-8") as f:
            config = json.load(f)
        print("model", kind, *(f"{k}={v}" for k, v in size.items()))
        for key in ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out", "use_rslora", "use_dora",
                    "modules_to_save", "rank_pattern", "alpha_pattern", "inference_mode", "target_modules"):
            value = sorted(config[key]) if key == "target_modules" else config[key]
            print("config", key, json.dumps(value))
        with safe_open(os.path.join(out, "adapter_model.safetensors"), "pt") as f:
            for name in sorted(f.keys()):
                print("tensor", name, *f.get_slice(name).get_shape())


def load(base, adapter, tokens):
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()
    with torch.no_grad():
        row = model(torch.tensor([[int(t) for t in tokens]])).logits[0, -1]
        merged = model.merge_and_unload()(torch.tensor([[int(t) for t in tokens]])).logits[0, -1]
    print(f"merged differs by {(row - merged).abs().max().item():.3g}")
    print(" ".join(f"{x:.6g}" for x in row.tolist()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        load(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        for case in CASES:
            if sys.argv[1:] == ["layout"]:
                layout(*case)
            else:
                torch.set_default_dtype(torch.float64)
                emit(*case)

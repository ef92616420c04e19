#!/usr/bin/env python3
"""llama.cpp's tokens/s and Quern's, side by side, for a model of the same sizes and precision.

    bench/peers/llama_cpp.py --llama-bench PATH/llama-bench --gguf gpt2-124m-bf16.gguf --quern build/quern --weights bf16

Both run on the same number of threads, in turn, --rounds times; the table shows medians. Speed depends on the sizes and the
precision of a model, not on what its weights say, so quern bench generate's random GPT-2 124M stands for gpt2's own."""
import argparse
import json
import os
import statistics
import subprocess


def llama(args):
    command = [args.llama_bench, "-m", args.gguf, "-p", "256", "-n", "32", "-t", str(args.threads), "-r", "3", "-o", "json"]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    rate = {"prefill": 0.0, "decode": 0.0}
    for row in rows:
        rate["prefill" if row["n_prompt"] > 0 else "decode"] = row["avg_ts"]
    return rate


def quern(args):
    command = [args.quern, "bench", "generate", "--dtype", args.dtype, "--weights", args.weights, "--threads", str(args.threads),
               "--steps", "3", "--json"]
    rows = [json.loads(line) for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()]
    return {"prefill": next(r for r in rows if "prefill" in r)["tokens_per_s"],
            "decode": next(r for r in rows if r.get("decode") == "batch 1")["tokens_per_s"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--quern", default="build/quern")
    parser.add_argument("--weights", choices=["f32", "bf16", "q8"], default="bf16")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rounds = [(llama(args), quern(args)) for _ in range(args.rounds)]
    print(f"{'tokens/s':10} {'llama.cpp':>12} {'quern':>12} {'quern / llama.cpp':>18}")
    for kind in ("prefill", "decode"):
        theirs, ours = (statistics.median(r[i][kind] for r in rounds) for i in (0, 1))
        print(f"{kind:10} {theirs:12.1f} {ours:12.1f} {ours / theirs:18.2f}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Loads what Quern wrote into Hugging Face's own libraries.

    pip install tokenizers safetensors numpy
    QUERN_TEST_WRITE=DIR build/tokenizer_test && QUERN_TEST_WRITE=DIR build/safetensors_test
    python3 tests/golden/check_written.py DIR

tokenizer_test leaves NAME.json with NAME.cases (texts and ids), safetensors_test leaves written.safetensors.
"""
import glob
import json
import os
import sys

import numpy
from safetensors.numpy import load_file, save
from tokenizers import Tokenizer

bad = 0
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.cases"))):
    tokenizer = Tokenizer.from_file(path[:-6] + ".json")
    with open(path, encoding="utf-8") as f:
        cases = json.load(f)
    for case in cases:
        ids = tokenizer.encode(case["text"], add_special_tokens=False).ids
        back = tokenizer.decode(ids, skip_special_tokens=False)
        if ids != case["ids"] or back != case["text"]:
            bad += 1
            print(path, repr(case["text"]), ids, case["ids"], repr(back))
    print("%s: %d texts" % (os.path.basename(path), len(cases)))

path = os.path.join(sys.argv[1], "written.safetensors")
tensors = load_file(path)
for name, x in sorted(tensors.items()):
    want = numpy.arange(x.size, dtype=x.dtype).reshape(x.shape)
    if not numpy.array_equal(x, want):
        bad += 1
        print(path, name, x, want)
with open(path, "rb") as f:
    if f.read() != save(tensors, metadata={"format": "pt"}):
        bad += 1
        print(path, "differs from what the safetensors library writes")
print("written.safetensors: %d tensors" % len(tensors))
sys.exit(bad != 0)

#!/usr/bin/env python3
"""Writes tokenizers.json (texts and the ids that Hugging Face's tokenizers gives) and the small tokenizers it names.

    pip install tokenizers
    python3 tests/golden/tokenizer_golden.py FOLDER    # that has GPT-2's encoder.json and vocab.bpe

src/data/tokenizer/tokenizer_golden_test.c compares. GPT-2's vocabulary itself is not kept here: its test takes it from the test data.
"""
import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

LEARN = [
    "the quick brown fox jumps over the lazy dog, and the other dog thinks that it's all right",
    "We'll see what they've done; I'm sure he'd rather not. DON'T! I'LL",
    "in the beginning there was the word, and the word was with the others in 1984 and 2024",
    "Grüße aus München, déjà vu à la carte, 東京 東京都 こんにちは, привет мир",
    "        indented    text\n\n\twith tabs\r\nand lines\n\n\n",
] * 3

TEXTS = [
    "", " ", "a", "the", " the", "  the", "hello world", "The quick brown fox jumps over the lazy dog.", "it's we'll they've I'm he'd DON'T I'LL",
    "'\u017f \u2019s 's'S 'sx", "1", "12", "123", "1234", "12345 67 890", "3.14159", "\u0663\u0664\u0665 \u00bd \u2167", "\n", "\n\n", "\r\n", "a\nb", "a \n b",
    "a\r\n\r\n  b", "   three   blanks   ", "tab\tand\t\ttabs", "\u00a0no-break\u00a0", "\u3000ideographic\u3000blank", "a\u0085b\u2028c\u180ed\u200be",
    "Gr\u00fc\u00dfe", "Gru\u0308\u00dfe aus Mu\u0308nchen", "e\u0301\u0327 o\u0302\u0301", "\u1112\u1161\u11ab\u1100\u1173\u11af", "\u2126\u212b\ufb01",
    "\u6771\u4eac\u90fd\u3067\u3059", "\u043f\u0440\u0438\u0432\u0435\u0442", "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "\u0000\u0001\u001f\u007f", "!?!? ... --- ###", "snake_case camelCase x=y+1;", "<|endoftext|>", "a<|endoftext|>b", "<s>hi</s>", "<|begin_of_text|> the <|end_of_text|>",
    "<|endoftext|><|endoftext|> x", "<|endof", "zebra zebra", "aaaaaaaaaaaaaaaaaaaaaaaaa", "the" * 20, "\u2581the\u2581 \u2581", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u202eabc\ufeff",
]


def byte_level(vocab_size, split=None, normalizer=None, ignore_merges=False, specials=(), extra=()):
    t = Tokenizer(models.BPE())
    if normalizer:
        t.normalizer = normalizer
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    t.pre_tokenizer = level if split is None else pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), level])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(LEARN, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(t.to_str())["model"]
    vocab = model["vocab"]
    for word in extra:
        vocab[word] = len(vocab)
    t.model = models.BPE(vocab, [tuple(m) for m in model["merges"]], ignore_merges=ignore_merges)
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    return t


def llama2(cross, metaspace=None, byte_fallback=True):
    """cross: merges were learned over blanks, too."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    if not cross:
        learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    learner.train_from_iterator(LEARN[:3], trainers.BpeTrainer(vocab_size=130, show_progress=False))
    model = json.loads(learner.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + (["<0x%02X>" % b for b in range(256)] if byte_fallback else [])
    names += sorted(model["vocab"], key=model["vocab"].get)
    t = Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, [tuple(m) for m in model["merges"]], unk_token="<unk>", fuse_unk=True,
                             byte_fallback=byte_fallback))
    if metaspace is None:
        t.normalizer = learner.normalizer
    else:
        t.pre_tokenizer = metaspace
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in names[:3]])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return t


def main():
    made = {
        "bpe_small": byte_level(320, specials=["<|endoftext|>"]),
        "llama3_like": byte_level(330, LLAMA3, ignore_merges=True, specials=["<|begin_of_text|>", "<|end_of_text|>"], extra=["\u0120zebra", "zebra", "12", "\u00e6\u013f\u00b1"]),
        "qwen_like": byte_level(330, QWEN2, normalizers.NFC(), specials=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        "llama2_like": llama2(False),
        "llama2_cross": llama2(True),
        "llama2_first": llama2(False, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
        "llama2_always": llama2(True, pre_tokenizers.Metaspace(prepend_scheme="always", split=True), byte_fallback=False),
    }
    lines = []
    for name, t in made.items():
        data = json.loads(t.to_str())
        if name != "llama3_like":  # merges as strings, as they were written once; as lists otherwise
            data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
        with open(os.path.join(HERE, name + ".json"), "w", encoding="utf-8") as f:
            json.dump(data, f, ensure_ascii=False)
            f.write("\n")
        lines += cases(name, Tokenizer.from_file(os.path.join(HERE, name + ".json")))
    folder = sys.argv[1]
    with open(os.path.join(folder, "vocab.bpe"), encoding="utf-8") as f:
        merges = [tuple(line.split(" ")) for line in f.read().split("\n")[1:] if line]
    with open(os.path.join(folder, "encoder.json"), encoding="utf-8") as f:
        t = Tokenizer(models.BPE(json.load(f), merges))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    lines += cases("gpt2", t)
    with open(os.path.join(HERE, "tokenizers.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(lines) + "\n]\n")


def cases(name, t):
    out = []
    for text in TEXTS:
        ids = t.encode(text, add_special_tokens=False).ids
        out.append(json.dumps({"tokenizer": name, "text": text, "ids": ids, "back": t.decode(ids, skip_special_tokens=False)}))
    return out


main()

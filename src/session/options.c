/* The option tables of all verbs: the one place that names a flag, its default, its range and its help. */
#include <stddef.h>

#include "quern/bench.h"
#include "quern/schedule.h"
#include "quern/session.h"

#include "core/compiler.h"

/* type, "name", struct, field, default, least, most (most < least: no upper bound), choices, unit, help */
#define KEY(type, name, of, field, fallback, least, most, choices, unit, help)                                                   \
    {                                                                                                                            \
        name, QN_KEY_##type, offsetof(of, field), fallback, least, most, choices, unit, help                                     \
    }

#define T qn_train_options
static const qn_key train_keys[] = {
    KEY(FILES, "data", T, data, NULL, 0, 0, NULL, "", "FILE... text to learn from; the last tenth is held out"),
    KEY(TEXT, "tokenizer", T, tokenizer, NULL, 0, 0, NULL, "",
        "chars, bytes, or the PATH of a tokenizer (default: that of --init, else chars)"),
    KEY(CHOICE, "arch", T, arch, "gpt2", 0, 0, "gpt2|llama", "", "model family"),
    KEY(INT, "layers", T, layers, "4", 1, 4096, NULL, "", "transformer blocks"),
    KEY(INT, "heads", T, heads, "4", 1, 1024, NULL, "", "attention heads"),
    KEY(INT, "kv-heads", T, kv_heads, "0", 0, 1024, NULL, "", "key and value heads (0: as many as heads; llama only)"),
    KEY(INT, "width", T, width, "128", 1, 65536, NULL, "", "width of the residual stream"),
    KEY(INT, "hidden", T, hidden, "0", 0, 1048576, NULL, "", "width inside the MLP (0: 4 widths for gpt2, about 8/3 for llama)"),
    KEY(INT, "context", T, context, "64", 1, 1048576, NULL, "tokens", "tokens of a sample"),
    KEY(BOOL, "tied", T, tied, NULL, 0, 0, NULL, "", "the head reads the embedding table (default for gpt2)"),
    KEY(BOOL, "untied", T, untied, NULL, 0, 0, NULL, "", "the head has a matrix of its own (default for llama)"),
    KEY(INT, "batch", T, batch, "12", 1, 1048576, NULL, "samples", "samples of a step"),
    KEY(INT, "steps", T, steps, "2000", 0, 1000000000, NULL, "", "optimizer steps"),
    KEY(REAL, "lr", T, lr, "1e-3", 0, 100, NULL, "", "highest learning rate"),
    KEY(REAL, "min-lr", T, min_lr, "-1", -1, 100, NULL, "", "learning rate at the end of the cosine (-1: a tenth of lr)"),
    KEY(INT, "warmup", T, warmup, "100", 0, 1000000000, NULL, "steps", "steps of linear warm-up"),
    KEY(REAL, "beta1", T, beta1, "0.9", 0, 0.999999, NULL, "", "AdamW's first decay rate"),
    KEY(REAL, "beta2", T, beta2, "0.99", 0, 0.999999, NULL, "", "AdamW's second decay rate"),
    KEY(REAL, "eps", T, eps, "1e-8", 1e-30, 1, NULL, "", "AdamW's epsilon"),
    KEY(REAL, "weight-decay", T, weight_decay, "0.1", 0, 100, NULL, "", "decay of matrices"),
    KEY(REAL, "clip", T, clip, "1.0", 0, 1e30, NULL, "", "largest gradient norm (0: no clipping)"),
    KEY(REAL, "dropout", T, dropout, "0", 0, 0.99, NULL, "", "share dropped after the embedding and on residual branches"),
    KEY(INT, "workers", T, workers, "1", 1, 1024, NULL, "", "pipeline workers"),
    KEY(INT, "data-parallel", T, data_parallel, "1", 1, 1024, NULL, "",
        "replicas of the pipeline, each on its share of the workers and micro-batches"),
    KEY(INT, "grad-groups", T, grad_groups, "0", 0, 65536, NULL, "",
        "groups in which gradients are added up (0: as many as replicas); results are the same for all numbers of replicas that "
        "divide it"),
    KEY(BOOL, "zero1", T, zero1, NULL, 0, 0, NULL, "",
        "each replica keeps the optimizer's moments of its part of the weights only"),
    KEY(BOOL, "post-validate", T, post_validate, NULL, 0, 0, NULL, "",
        "step before all gradients are known, and take back what was wrong"),
    KEY(CHOICE, "undo", T, undo, "copy", 0, 0, "copy|in-place", "",
        "how a step is taken back: from a copy (the same bits), or backwards (no memory, up to rounding)"),
    KEY(INT, "threads", T, threads, "1", 1, 1024, NULL, "", "threads of a worker"),
    KEY(INT, "tensor", T, tensor, "1", 1, 64, NULL, "",
        "shards of every layer, embedding and output matrix; as many workers as divide both it and --workers share a stage"),
    KEY(BOOL, "sequence-parallel", T, sequence_parallel, NULL, 0, 0, NULL, "",
        "with --tensor: between attention and MLP a shard keeps its slice of the tokens alone, so that all activations fall by "
        "the "
        "number of shards"),
    KEY(TEXT, "schedule", T, schedule, "1f1b", 0, 0, NULL, "", "a name (quern schedule list) or a FILE"),
    KEY(TEXT, "cost", T, cost, NULL, 0, 0, NULL, "",
        "F=1,B=2,W=1 or a FILE: times that the schedule is made for (default: the model's operations)"),
    KEY(TEXT, "cost-from", T, cost_from, NULL, 0, 0, NULL, "", "RUN, trace or profile: the same as measured there"),
    KEY(INT, "chunks", T, chunks, "0", 0, 1024, NULL, "", "stages of a worker (0: the schedule's usual number)"),
    KEY(INT, "group", T, group, "0", 0, 65536, NULL, "",
        "micro-batches that go round together (interleaved: 0: as many as workers; roundpipe: of a round, 0: all)"),
    KEY(INT, "vocab-parallel", T, vocab_parallel, "0", 0, 2, NULL, "",
        "embedding and output layer cut over all workers: 1 two barriers, 2 one barrier and a dearer S (0: not; 1f1b, v-half)"),
    KEY(INT, "vocab-shards", T, vocab_shards, "0", 0, 1024, NULL, "",
        "into so many shards, with --tensor for each of its shards (0: one per stage's worker)"),
    KEY(LIST, "cuts", T, cuts, NULL, 0, 0, NULL, "",
        "LAYER,... where stages begin: 0 embedding, 1 .. L blocks, L + 1 head (default: by cost)"),
    KEY(INT, "micro-batches", T, micro_batches, "4", 1, 65536, NULL, "", "micro-batches of a step"),
    KEY(TEXT, "recompute", T, recompute, "none", 0, 0, NULL, "",
        "what backward computes again instead of keeping it: none, full, except-last, or selective:WHAT,... of blocks (0-3,7), "
        "all, attention (norms and activations are in any case)"),
    KEY(CHOICE, "recompute-at", T, recompute_at, "auto", 0, 0, "auto|early|late", "",
        "before the gradient comes, or when it is there (auto: early, a selection late)"),
    KEY(CHOICE, "dtype", T, dtype, "f32", 0, 0, "f32|bf16", "", "type of matrix products"),
    KEY(INT, "seed", T, seed, "1", 0, 0, NULL, "", "seed of everything random"),
    KEY(INT, "memory", T, memory, "0", 0, -1, NULL, "bytes",
        "limit of a worker's activations; v-adaptive takes the shortest block within it (0: none)"),
    KEY(INT, "device-memory", T, device_memory, "0", 0, -1, NULL, "bytes",
        "of each worker for weights, gradients and activations; the model stays on the host (0: no limit)"),
    KEY(TEXT, "link", T, link, NULL, 0, 0, NULL, "",
        "2G/s bytes per second between host and worker (default: as fast as memory)"),
    KEY(TEXT, "window", T, window, NULL, 0, 0, NULL, "",
        "K,K' stages whose weights stay on a worker, and how many are replaced at a time (default: as many as fit)"),
    KEY(INT, "optimizer-lag", T, optimizer_lag, "0", 0, 1, NULL, "steps",
        "the optimizer works on a step's gradients while the next step computes"),
    KEY(INT, "flight", T, flight, "0", 0, 15, NULL, "steps",
        "run without a barrier between them (0: two seconds of steps, at most 8, with --post-validate or on devices; else 1)"),
    KEY(TEXT, "out", T, out, NULL, 0, 0, NULL, "", "RUN directory to write"),
    KEY(TEXT, "init", T, init, NULL, 0, 0, NULL, "", "MODEL or run whose weights to start from"),
    KEY(INT, "lora-rank", T, lora_rank, "0", 0, 65536, NULL, "", "train low-rank adapters on the model of --init (0: none)"),
    KEY(LIST, "lora-targets", T, lora_targets, "q,v", 0, 0, NULL, "",
        "MODULE,... that get one: q, k, v, o, gate, up, down, module names, or all-linear"),
    KEY(REAL, "lora-alpha", T, lora_alpha, "0", 0, 1e6, NULL, "", "adapters count alpha / rank (0: as the rank)"),
    KEY(LIST, "freeze", T, freeze, NULL, 0, 0, NULL, "",
        "PATTERN,... parameters that stay as they are, such as 'transformer.wte*' (names as in the model's file)"),
    KEY(BOOL, "resume", T, resume, NULL, 0, 0, NULL, "", "go on with the run in --out; settings not given are the run's own"),
    KEY(BOOL, "force", T, force, NULL, 0, 0, NULL, "", "replace an existing --out"),
    KEY(INT, "save-every", T, save_every, "0", 0, 1000000000, NULL, "steps", "steps between checkpoints (0: at the end only)"),
    KEY(INT, "eval-every", T, eval_every, "0", 0, 1000000000, NULL, "steps", "steps between evaluations (0: at the end only)"),
    KEY(INT, "eval-windows", T, eval_windows, "64", 0, 1000000000, NULL, "",
        "windows of an evaluation on the way (0: all; the last one is always whole)"),
    KEY(INT, "keep", T, keep, "2", 1, 1000000, NULL, "", "checkpoints to keep"),
    KEY(TEXT, "transport", T, transport, "thread", 0, 0, NULL, "",
        "how workers talk: thread (a thread each) or self (one thread steps them all)"),
    KEY(BOOL, "pin", T, pin, "1", 0, 0, NULL, "", "pin threads to cores where the run takes all of them"),
};
#undef T
const qn_table qn_train_table = {"train", train_keys, QN_COUNT(train_keys)};

/* Devices of forward passes; T is the options' type. */
#define FORWARD_DEVICE_KEYS                                                                                                      \
    KEY(INT, "device-memory", T, device_memory, "0", 0, -1, NULL, "bytes",                                                       \
        "of each worker for weights and activations; the model stays on the host (0: no limit)"),                                \
        KEY(TEXT, "link", T, link, NULL, 0, 0, NULL, "",                                                                         \
            "2G/s bytes per second from the host to each worker (default: as fast as memory)"),                                  \
        KEY(TEXT, "window", T, window, NULL, 0, 0, NULL, "",                                                                     \
            "K,K' layers whose weights are on a worker, and how many are replaced at a time (default: as many as fit)"),         \
        KEY(BOOL, "from-file", T, from_file, NULL, 0, 0, NULL, "",                                                               \
            "read weights from the model's safetensors files whenever a worker needs them, not into memory"),

#define T qn_generate_options
static const qn_key generate_keys[] = {
    KEY(TEXT, "model", T, model, NULL, 0, 0, NULL, "", "DIR of a model, or a run"),
    KEY(TEXT, "lora", T, lora, NULL, 0, 0, NULL, "", "DIR of an adapter to merge into the model, or its run"),
    KEY(FILES, "prompt", T, prompt, NULL, 0, 0, NULL, "", "TEXT... to continue (default: from the beginning of a text)"),
    KEY(TEXT, "prompts", T, prompts, NULL, 0, 0, NULL, "", "FILE with one prompt a line"),
    KEY(INT, "batch", T, batch, "16", 1, 1024, NULL, "texts", "texts decoded together; what they say does not depend on it"),
    KEY(INT, "speculate", T, speculate, "0", 0, 64, NULL, "tokens",
        "the most tokens to guess from the text so far and check in one pass (0: none); the text stays the same"),
    KEY(INT, "max-tokens", T, max_tokens, "256", 0, 1000000000, NULL, "tokens", "the most tokens to add"),
    KEY(REAL, "temperature", T, temperature, "0.8", 0, 100, NULL, "", "0 always takes the likeliest token"),
    KEY(INT, "top-k", T, top_k, "0", 0, 100000000, NULL, "", "choose among the k likeliest (0: all)"),
    KEY(REAL, "top-p", T, top_p, "1", 0, 1, NULL, "", "choose among the likeliest that hold this share together"),
    KEY(REAL, "min-p", T, min_p, "0", 0, 1, NULL, "", "leave out tokens less likely than this share of the likeliest"),
    KEY(INT, "seed", T, seed, "1", 0, 0, NULL, "", "seed of the drawing"),
    KEY(INT, "workers", T, workers, "1", 1, 1024, NULL, "", "pipeline workers"),
    KEY(INT, "threads", T, threads, "1", 1, 1024, NULL, "", "threads of a worker"),
    KEY(CHOICE, "dtype", T, dtype, "f32", 0, 0, "f32|bf16", "", "type of activations between matrix products"),
    KEY(CHOICE, "weights", T, weights, "f32", 0, 0, "f32|bf16|q8", "",
        "what matrix products read: q8 is 8 bits with a scale for each 32"),
    KEY(CHOICE, "kv", T, kv, "auto", 0, 0, "auto|f32|bf16", "", "type of cached keys and values (auto: as --dtype)"),
    FORWARD_DEVICE_KEYS};
#undef T
const qn_table qn_generate_table = {"generate", generate_keys, QN_COUNT(generate_keys)};

#define T qn_eval_options
static const qn_key eval_keys[] = {
    KEY(TEXT, "model", T, model, NULL, 0, 0, NULL, "", "DIR of a model, or a run"),
    KEY(TEXT, "lora", T, lora, NULL, 0, 0, NULL, "", "DIR of an adapter to merge into the model, or its run"),
    KEY(TEXT, "data", T, data, NULL, 0, 0, NULL, "", "FILE of text"),
    KEY(INT, "context", T, context, "0", 0, 1048576, NULL, "tokens", "tokens of a window (0: the model's own)"),
    KEY(INT, "batch", T, batch, "8", 1, 65536, NULL, "samples", "windows of a pass"),
    KEY(INT, "workers", T, workers, "1", 1, 1024, NULL, "", "pipeline workers"),
    KEY(INT, "threads", T, threads, "1", 1, 1024, NULL, "", "threads of a worker"),
    KEY(CHOICE, "dtype", T, dtype, "f32", 0, 0, "f32|bf16", "", "type of matrix products"),
    FORWARD_DEVICE_KEYS};
#undef T
const qn_table qn_eval_table = {"eval", eval_keys, QN_COUNT(eval_keys)};

#define T qn_convert_options
static const qn_key convert_keys[] = {
    KEY(CHOICE, "from", T, from, "llama2c", 0, 0, "llama2c", "", "what the files are"),
    KEY(TEXT, "weights", T, weights, NULL, 0, 0, NULL, "", "FILE of weights"),
    KEY(TEXT, "tokenizer", T, tokenizer, NULL, 0, 0, NULL, "", "FILE of the tokenizer"),
    KEY(TEXT, "lora", T, lora, NULL, 0, 0, NULL, "", "DIR of an adapter, or its run: merge it into its base model"),
    KEY(TEXT, "model", T, model, NULL, 0, 0, NULL, "",
        "GGUF file, DIR of a model, or a run; with --lora its base (default: where the adapter says). The name --model may be "
        "left "
        "out"),
    KEY(TEXT, "out", T, out, NULL, 0, 0, NULL, "", "DIR to write"),
    KEY(CHOICE, "store", T, store, "f32", 0, 0, "f32|bf16|q8", "",
        "type of the matrices in --out; q8, 8 bits with a scale for each 32, is Quern's own"),
    KEY(BOOL, "force", T, force, NULL, 0, 0, NULL, "", "replace an existing --out"),
};
#undef T
const qn_table qn_convert_table = {"convert", convert_keys, QN_COUNT(convert_keys)};

#define T qn_tokenize_options
static const qn_key tokenize_keys[] = {
    KEY(FILES, "data", T, data, NULL, 0, 0, NULL, "", "FILE... text to learn from"),
    KEY(INT, "vocab", T, vocab, "1024", 1, 16777216, NULL, "tokens", "size of the vocabulary"),
    KEY(TEXT, "out", T, out, "tokenizer.json", 0, 0, NULL, "", "FILE to write"),
    KEY(BOOL, "force", T, force, NULL, 0, 0, NULL, "", "replace an existing --out"),
};
#undef T
const qn_table qn_tokenize_table = {"tokenize", tokenize_keys, QN_COUNT(tokenize_keys)};

#define T qn_schedule_options
static const qn_key schedule_keys[] = {
    KEY(TEXT, "schedule", T, schedule, "1f1b", 0, 0, NULL, "", "a name (quern schedule list) or a FILE"),
    KEY(INT, "workers", T, workers, "4", 1, 1024, NULL, "", "pipeline workers"),
    KEY(INT, "micro-batches", T, micro_batches, "8", 1, 65536, NULL, "", "micro-batches of a step"),
    KEY(INT, "chunks", T, chunks, "0", 0, 1024, NULL, "", "stages of a worker (0: the schedule's usual number)"),
    KEY(INT, "vocab-parallel", T, vocab_parallel, "0", 0, 2, NULL, "",
        "with passes of a vocabulary cut over all workers, algorithm 1 or 2 (0: without; 1f1b, v-half)"),
    KEY(INT, "vocab-shards", T, vocab_shards, "0", 0, 1024, NULL, "", "into so many shards (0: one per worker)"),
    KEY(INT, "group", T, group, "0", 0, 65536, NULL, "",
        "micro-batches that go round together (interleaved: 0: as many as workers; roundpipe: of a round, 0: all)"),
    KEY(INT, "pieces", T, pieces, "0", 0, 65536, NULL, "",
        "roundpipe, superpipe: stages in all (0: those of the costs, or workers times chunks)"),
    KEY(CHOICE, "pairs", T, pairs, "parts", 0, 0, "parts|opaque", "",
        "dualpipe, dualpipev: a forward beside a backward as two tasks, or as one that waits for the inputs of both"),
    KEY(TEXT, "cost", T, cost, NULL, 0, 0, NULL, "",
        "F=1,B=2[,W=1][,S=1,T=1] time of a task, per stage 0:F=1,B=2;1-3:F=2,B=4, or a JSON or CSV file; B is the whole backward "
        "unless W "
        "is "
        "given (default: the file's own, else F=1,B=2)"),
    KEY(TEXT, "cost-from", T, cost_from, NULL, 0, 0, NULL, "", "RUN directory, trace or profile: costs and sizes measured there"),
    KEY(TEXT, "sizes", T, sizes, NULL, 0, 0, NULL, "",
        "act=1M,stash=4M,wstash=1M,weights=8M,grads=8M bytes of a stage's values, per stage 0-6:weights=8M;7:weights=20M "
        "(default: the file's own)"),
    KEY(INT, "device-memory", T, device_memory, "0", 0, -1, NULL, "bytes",
        "of each worker: weights stay on the host and are copied; needs the bytes of weights (0: no limit)"),
    KEY(TEXT, "link", T, link, NULL, 0, 0, NULL, "",
        "2G/s bytes per second between host and worker (default: as fast as memory)"),
    KEY(TEXT, "window", T, window, NULL, 0, 0, NULL, "",
        "K,K' stages whose weights stay on a worker, and how many are replaced at a time (default: as many as fit)"),
    KEY(TEXT, "cut", T, cut, NULL, 0, 0, NULL, "",
        "roundpipe: 7x4|1,3x8,2x2 layers of its stages, forward from layer 0 up, then backward from the last layer down "
        "(default: "
        "by the costs of each layer)"),
    KEY(BOOL, "head-ahead", T, head_ahead, NULL, 0, 0, NULL, "",
        "roundpipe: its last stage's forward runs before its input is there, as in the published simulator; no run can"),
    KEY(BOOL, "forward", T, forward, NULL, 0, 0, NULL, "", "forward passes alone, as in evaluation and generation"),
    KEY(INT, "steps", T, steps, "1", 1, 4096, NULL, "steps",
        "optimizer steps in a row, as one plan; compare sorts by a steady one"),
    KEY(INT, "optimizer-lag", T, optimizer_lag, "0", 0, 1, NULL, "steps",
        "the optimizer works on a step's gradients while the next step computes (with --steps)"),
    KEY(BOOL, "post-validate", T, post_validate, NULL, 0, 0, NULL, "",
        "step before all gradients are known, and take back what was wrong (with --steps)"),
    KEY(TEXT, "memory", T, memory, NULL, 0, 0, NULL, "",
        "LIMIT of a worker: bytes where sizes are known (2G), else micro-batches held at once (2.5)"),
    KEY(REAL, "latency", T, latency, "-1", -1, 1e9, NULL, "",
        "time a message travels, in the unit of the costs (-1: the cost file's own, else 0)"),
    KEY(INT, "depth", T, depth, "0", 0, 64, NULL, "slots", "messages a channel holds (0: 2, for roundpipe a round of them)"),
    KEY(CHOICE, "recompute", T, recompute, "none", 0, 0, "none|full|except-last|full-late", "",
        "what backward computes again (late: when the gradient is there)"),
    KEY(TEXT, "svg", T, svg, NULL, 0, 0, NULL, "", "FILE for a picture"),
    KEY(TEXT, "trace", T, trace, NULL, 0, 0, NULL, "", "FILE for a trace in Chrome's format"),
    KEY(TEXT, "html", T, html, NULL, 0, 0, NULL, "", "FILE for a page that compares (compare)"),
    KEY(BOOL, "critical", T, critical, NULL, 0, 0, NULL, "", "list the critical path (simulate)"),
    KEY(LIST, "names", T, names, NULL, 0, 0, NULL, "", "schedules to compare (default: all)"),
    KEY(INT, "seed", T, seed, "1", 0, 0, NULL, "", "seed of the search"),
    KEY(INT, "rounds", T, rounds, "0", 0, 1000000000, NULL, "", "moves that the search tries (0: a few seconds' worth)"),
    KEY(REAL, "seconds", T, seconds, "0", 0, 1e6, NULL, "s", "end the search after this time (0: when its rounds are done)"),
    KEY(TEXT, "out", T, out, NULL, 0, 0, NULL, "", "FILE for the order that was found (search)"),
};
#undef T
const qn_table qn_schedule_table = {"schedule", schedule_keys, QN_COUNT(schedule_keys)};

#define T qn_bench_options
static const qn_key bench_keys[] = {
    KEY(CHOICE, "dtype", T, dtype, "f32", 0, 0, "f32|bf16", "", "type of matrix products"),
    KEY(CHOICE, "arch", T, arch, "gpt2", 0, 0, "gpt2|llama", "", "model family"),
    KEY(INT, "layers", T, layers, "0", 0, 4096, NULL, "", "transformer blocks (0: 12)"),
    KEY(INT, "heads", T, heads, "0", 0, 1024, NULL, "", "attention heads (0: 12, for pipeline 4)"),
    KEY(INT, "kv-heads", T, kv_heads, "0", 0, 1024, NULL, "", "heads of keys and values, llama (0: as many as heads)"),
    KEY(INT, "width", T, width, "0", 0, 65536, NULL, "", "width of the residual stream (0: 768, for pipeline 256)"),
    KEY(INT, "context", T, context, "0", 0, 1048576, NULL, "tokens", "tokens of a sample (0: 512, for pipeline 128)"),
    KEY(INT, "vocab", T, vocab, "0", 0, 16777216, NULL, "tokens", "vocabulary (0: 50257, for pipeline 2048)"),
    KEY(INT, "batch", T, batch, "0", 0, 65536, NULL, "samples",
        "samples of a step (0: 4, for pipeline 16, its schedules 8), texts of generate (0: 16)"),
    KEY(INT, "micro-batches", T, micro_batches, "0", 0, 65536, NULL, "",
        "micro-batches of a step (0: 1, for pipeline 16, its schedules 8)"),
    KEY(INT, "workers", T, workers, "0", 0, 1024, NULL, "", "pipeline workers (0: 1, for pipeline 2)"),
    KEY(INT, "threads", T, threads, "0", 0, 1024, NULL, "", "threads of a worker (0: all cores, for pipeline 1)"),
    KEY(INT, "steps", T, steps, "7", 1, 1000, NULL, "", "measured steps or repetitions"),
    KEY(CHOICE, "kernels", T, kernels, "model", 0, 0, "model|sleep", "",
        "pipeline: what tasks do; sleeping ones show the executor alone, on up to 16 workers"),
    KEY(LIST, "only", T, only, NULL, 0, 0, NULL, "",
        "NAME,... pipeline: schedules by name, or schedules, pipelines, cuts, messages, crowded, vocabulary, roundpipe-devices, "
        "superpipe-window, optimizer-lag, handover (default: these), out-of-core (writes a model of 1.1 GB); scale: workers, "
        "context, parameters, or points of them (default: all)"),
    KEY(CHOICE, "weights", T, weights, "bf16", 0, 0, "f32|bf16|q8", "", "what the products of generate read"),
    KEY(BOOL, "json", T, json, NULL, 0, 0, NULL, "", "one JSON object a line"),
    KEY(BOOL, "quick", T, quick, NULL, 0, 0, NULL, "", "small sizes, to try it"),
    KEY(TEXT, "folder", T, folder, ".", 0, 0, NULL, "", "DIR for the files that disk and out-of-core write and remove again"),
    KEY(TEXT, "svg", T, svg, NULL, 0, 0, NULL, "", "FILE for the curves of scale"),
    KEY(TEXT, "points", T, points, NULL, 0, 0, NULL, "",
        "FILE of the points of scale: those in it are not measured again, new ones are added"),
    KEY(INT, "limit", T, limit, "0", 0, 1000000, NULL, "seconds", "scale: begin no other point after that time (0: none)"),
    KEY(TEXT, "compare", T, compare, NULL, 0, 0, NULL, "", "FILE of an earlier run's --json: says what got slower"),
};
#undef T
const qn_table qn_bench_table = {"bench", bench_keys, QN_COUNT(bench_keys)};

/* Sessions: what the program's verbs do, for embedders. Each verb has an options struct, the table that describes it (flags,
 * environment, help), and one function. Zero-initialise the options with qn_config_parse (argc 0 gives the defaults), change what
 * you like, call.
 *
 * Nothing here prints: progress and results come through hooks or out structs; messages through quern/log.h. */
#ifndef QUERN_SESSION_H
#define QUERN_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quern/config.h"
#include "quern/status.h"

#ifdef __cplusplus
extern "C" {
#endif

const char *qn_version(void); /* "0.1.0" */

/* Frees text that a function here returned through char **out. */
void qn_text_free(char *text);

/* --- train */
typedef struct qn_train_options {
    qn_list data;          /* text files */
    const char *tokenizer; /* "chars", "bytes", or a path */
    int32_t arch;          /* 0 gpt2, 1 llama */
    int64_t layers, heads, kv_heads, width, hidden, context;
    int tied, untied; /* neither: gpt2 tied, llama untied */
    int64_t batch, steps;
    double lr, min_lr; /* cosine from lr to min_lr (default: a tenth of lr) */
    int64_t warmup;
    double beta1, beta2, eps, weight_decay, clip, dropout;
    int64_t workers, threads; /* of all replicas; threads per worker */
    int64_t tensor;           /* t: shards of every layer */
    int sequence_parallel;    /* shards keep slices of the rows outside of the cut products */
    int64_t data_parallel;    /* replicas; 0: 1 */
    int64_t grad_groups;      /* of gradient accumulation; 0: as many as replicas */
    int zero1;                /* moments and steps of a parameter in one replica */
    const char *schedule;     /* a name or a file */
    const char *cost;         /* "F=1,B=2,W=1" or a file: what schedules are made for; NULL: the model's operations */
    const char *cost_from;    /* the same, measured: a run's directory, a trace, a profile */
    int64_t chunks;
    int64_t group; /* micro-batches that go round together: interleaved, roundpipe (a round); 0: usual */
    qn_list cuts;  /* chain layers at which a new stage begins; 0 is the embedding, 1 .. L the blocks, L + 1 the head */
    int64_t vocab_parallel, vocab_shards; /* algorithm 1 or 2, 0: not; shards, 0: as many as workers */
    int64_t micro_batches;
    const char *recompute; /* none, full, except-last, or selective:WHAT,... */
    int32_t recompute_at;  /* 0 the usual, 1 early, 2 late */
    int32_t dtype;         /* 0 f32, 1 bf16 */
    int post_validate;
    int32_t undo; /* 0 copy, 1 in place */
    int64_t seed;
    int64_t memory;        /* limit of a worker's arena in bytes, 0: none */
    int64_t device_memory; /* the same, of a device's: weights, gradients and activations; the rest of the state is the host's */
    const char *link;      /* bytes per second between host and device, "2G/s"; NULL: as fast as memory */
    const char *window;    /* "k" or "k,k'": pieces that stay on a device; NULL: as many as fit */
    int64_t optimizer_lag; /* steps by which the optimizer lags: 0 or 1 */
    int64_t flight;        /* the most steps without a barrier between them; 0: chosen */
    const char *out;       /* run directory */
    const char *init;      /* model or run to start from */
    int64_t lora_rank;     /* of the adapters to train on --init; 0: none */
    qn_list lora_targets;  /* modules */
    double lora_alpha;     /* 0: as the rank */
    qn_list freeze;        /* shell patterns of parameter names that stay as they are */
    int resume, force;
    int64_t save_every, eval_every, keep;
    int64_t eval_windows;  /* windows of an intermediate evaluation, 0: all */
    const char *transport; /* thread, self */
    int pin;
} qn_train_options;

extern const qn_table qn_train_table;

typedef struct qn_train_step {
    int64_t step, steps; /* 1-based step just done, of steps */
    double loss, grad_norm, lr, tokens_per_s, step_ms;
    int evaluated; /* val_loss is new */
    double val_loss;
    double seconds_left;
} qn_train_step;

typedef struct qn_train_done {
    int64_t steps;
    double val_loss, tokens_per_s;
    int interrupted; /* stopped by the user, saved */
    int32_t workers;
    int64_t arena_bytes[1024]; /* [workers] of each arena, as the plan predicts them */
    int64_t arena_high[1024];  /* [workers] how far up each was used; the same number */
    int32_t devices;           /* workers with memory of their own (device_memory and its kin), 0: none */
    int64_t high_water[1024];  /* [devices] the most bytes that were in use on each */
    int64_t loaded, unloaded;  /* bytes from the host to devices, and back, in all of this call's steps */
    int64_t early, taken_back; /* post_validate: optimizer steps of a stage taken before all was known, and of them undone */
    char run[1024], model[1024], report[1024]; /* paths written */
    char sample[2048];                         /* a short text from the trained model, UTF-8 */
} qn_train_done;

typedef struct qn_train_hooks {
    void *ctx;
    void (*began)(void *ctx, const char *summary); /* one line: model, parameters, workers, schedule, memory */
    void (*stepped)(void *ctx, const qn_train_step *s);
    /* Asked after each step, in flights of several also during them, by the caller's thread: once non-zero, the step under way is
     * finished (with a lagging optimizer the flight), all is saved, and qn_train returns. */
    int (*stop)(void *ctx);
} qn_train_hooks;

/* For --resume: gives every key of a train table's config that was not set by hand the value that the run was made with.
 * Errors: QN_ENOENT (no run there), QN_EFORMAT. */
qn_status qn_train_adopt(qn_config *config, const char *run, qn_err *err) QN_MUST_USE;

/* Trains and leaves a run directory. hooks may be NULL. Errors: QN_EINVAL and QN_ERANGE for settings that cannot be (before
 * anything is written), QN_EEXIST (out exists, neither resume nor force), QN_EFORMAT for bad files, QN_ENONFINITE, QN_EIO. An
 * interrupted run returns QN_EINTR after saving. */
qn_status qn_train(qn_train_done *done, const qn_train_options *opt, const qn_train_hooks *hooks, qn_err *err) QN_MUST_USE;

/* --- generate */
typedef struct qn_generate_options {
    const char *model;   /* directory of a model, or a run */
    const char *lora;    /* adapter or run of one, merged into the model; NULL: none */
    qn_list prompt;      /* texts to continue; none: one that begins */
    const char *prompts; /* file with one more a line, or NULL */
    int64_t max_tokens;
    double temperature, top_p, min_p;
    int64_t top_k, seed, workers, threads;
    int64_t batch;     /* sequences decoded together */
    int64_t speculate; /* the most tokens of a draft, 0: none */
    int32_t dtype;
    int32_t weights; /* what products read: 0 f32, 1 bf16, 2 q8 */
    int32_t kv;      /* the cache of keys and values: 0 as dtype, 1 f32, 2 bf16 */
    /* Devices with little memory: the model stays on the host, each worker holds a window of its layers. */
    int64_t device_memory; /* bytes of each worker for weights and activations, 0: no limit */
    const char *link;      /* bytes per second to each worker, "2G/s"; NULL: as fast as memory */
    const char *window;    /* "k" or "k,k'": layers that stay on a worker; NULL: as many as fit */
    int from_file;         /* read the weights from the model's files when they are needed, not into memory */
} qn_generate_options;

extern const qn_table qn_generate_table;

/* Text as it comes; bytes need not end at a character. Non-zero stops. */
typedef int qn_text_fn(void *ctx, const char *text, size_t bytes);
typedef struct qn_generate_done {
    int64_t texts, prompt_tokens, tokens; /* tokens: added ones */
    int64_t passes;                       /* through the model */
    double prefill_s, decode_s;           /* passes with tokens of prompts, and the others */
    int64_t drafted, accepted;            /* tokens of drafts, and of those kept */
    /* Devices, else zeros: their memory together, the most in use of one, bytes of the layers' weights, what a pass that loads
     * each layer once moves (matrices packed), and what was loaded. */
    int64_t device_bytes, high_water, weight_bytes, pass_bytes, loaded;
} qn_generate_done;
/* One text, of at most one prompt, as it grows. Errors: QN_EINVAL, QN_ENOENT, QN_EFORMAT (model or tokenizer), QN_ERANGE (prompt
 * longer than the context), QN_ENOMEM. */
qn_status qn_generate_text(qn_generate_done *done, const qn_generate_options *opt, qn_text_fn *text, void *ctx,
                           qn_err *err) QN_MUST_USE;

/* A whole text: the prompt and what was added. Borrowed for the call. */
typedef struct qn_generated {
    int64_t index; /* of its prompt */
    const char *prompt, *text;
    size_t bytes; /* of text, which ends with a NUL besides */
    int64_t prompt_tokens, tokens;
    int ended; /* by the model; else because max_tokens were added */
} qn_generated;
typedef int qn_generated_fn(void *ctx, const qn_generated *g);
/* Any number of prompts, opt->batch of them together, in their order. A text is the same alone and among others. Errors: as
 * qn_generate_text, and QN_EIO (the file of prompts). */
qn_status qn_generate_texts(qn_generate_done *done, const qn_generate_options *opt, qn_generated_fn *text, void *ctx,
                            qn_err *err) QN_MUST_USE;
/* Whether qn_generate_text serves these options: at most one prompt, no file of them. */
bool qn_generate_is_single(const qn_generate_options *opt);

/* --- eval */
typedef struct qn_eval_options {
    const char *model, *data;
    const char *lora; /* adapter or run of one, merged into the model; NULL: none */
    int64_t context, batch, workers, threads;
    int32_t dtype;
    int64_t device_memory; /* these four as in qn_generate_options */
    const char *link, *window;
    int from_file;
} qn_eval_options;

extern const qn_table qn_eval_table;

typedef struct qn_eval_done {
    double loss, perplexity, bits_per_byte;
    int64_t tokens, bytes;
} qn_eval_done;
/* Errors: QN_EINVAL, QN_ENOENT, QN_EFORMAT, QN_ERANGE (text too short, context too long), QN_ENOMEM. */
qn_status qn_eval_text(qn_eval_done *done, const qn_eval_options *opt, qn_err *err) QN_MUST_USE;

/* --- convert: another tool's files, or a model with an adapter merged into it, to a Hugging Face directory */
typedef struct qn_convert_options {
    int32_t from; /* 0 llama2c */
    const char *weights, *tokenizer, *out;
    const char *lora, *model; /* lora: merge this adapter into model (NULL: the base that it names) */
    int force;
    int32_t store; /* matrices in: 0 f32, 1 bf16, 2 q8 */
} qn_convert_options;

extern const qn_table qn_convert_table;
/* Errors: QN_EINVAL, QN_EEXIST, QN_ENOENT, QN_EFORMAT (what was found and wanted), QN_EIO. */
qn_status qn_convert(const qn_convert_options *opt, qn_err *err) QN_MUST_USE;

/* --- tokenize train */
typedef struct qn_tokenize_options {
    qn_list data;
    int64_t vocab;
    const char *out;
    int force;
} qn_tokenize_options;

extern const qn_table qn_tokenize_table;
/* progress may be NULL. Errors: QN_EINVAL, QN_EEXIST, QN_EFORMAT (not UTF-8: where), QN_ERANGE (vocabulary too small or too
 * large), QN_EIO. */
qn_status qn_tokenize_train(const qn_tokenize_options *opt, void (*progress)(void *ctx, int64_t done, int64_t total), void *ctx,
                            qn_err *err) QN_MUST_USE;

/* --- info: what a model, checkpoint, run, tokenizer, safetensors file or schedule holds. json: one object; else lines for
 * people. *out is freed with qn_text_free. Errors: QN_ENOENT, QN_EFORMAT (nothing that Quern knows), QN_ENOMEM. */
qn_status qn_info(char **out, const char *path, bool json, qn_err *err) QN_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif

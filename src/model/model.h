/* A model: a chain of layers with its parameters, independent of schedules, workers and files.
 *
 *   chain of a language model with L blocks:   0 embedding | 1 .. L blocks | L + 1 head (final norm + classifier)
 *
 * A cut may fall between any two layers of the chain. Parameters are named as Hugging Face names them, keyed by index, never by
 * stage. A *use* is one place in the chain where a parameter is read: a tied embedding has two uses, each with its own
 * gradient accumulator; their fold in layer order is the parameter's gradient (design: idea 5). */
#ifndef QN_MODEL_H
#define QN_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "core/tensor.h"
#include "kernels/kernels.h"
#include "row_sums.h"
#include "quern/status.h"

typedef enum qn_arch { QN_ARCH_GPT2, QN_ARCH_LLAMA } qn_arch;

/* Low-rank adapters on some of a block's products (lora.h). With a rank all other parameters are frozen. */
typedef struct qn_lora {
    int32_t rank; /* 0: none */
    double alpha; /* the adapter's part is scaled by alpha / rank */
    uint32_t targets;
} qn_lora;

typedef struct qn_model_config {
    qn_arch arch;
    int32_t layers;          /* L: blocks */
    int32_t heads, kv_heads; /* kv_heads 0: as many as heads */
    int32_t width;           /* C */
    int32_t hidden;          /* F; 0: 4 C for GPT-2; for LLaMA 2/3 of 4 C, rounded up to a multiple of 32 */
    int32_t context;         /* the most positions */
    int32_t vocab;           /* V */
    bool tied;               /* the head reads the embedding table */
    double norm_eps;         /* 0: 1e-5 */
    double rope_theta;       /* 0: 10000; LLaMA only */
    double dropout;          /* on the embedding and each residual branch, 0 <= p < 1 */
    qn_lora lora;
    int32_t vocab_shards;  /* n >= 1: the vocabulary is cut into n shards, one side layer each (model/vocab.h); 0: whole */
    int32_t shards, shard; /* t >= 1 tensor shards (0: 1), and which of them this model is, 0 .. t - 1 */
    bool sequence;         /* outside of the cut products each shard holds a slice of the rows (sequence parallelism) */
} qn_model_config;

enum { QN_MAX_VOCAB_SHARDS = 1024 };

typedef enum qn_init { QN_INIT_ZERO, QN_INIT_ONE, QN_INIT_NORMAL, QN_INIT_UNIFORM } qn_init;

/* Which part of the full parameter a shard model holds: `runs` pieces of `length` elements; piece r begins at element
 * (r * shards + shard) * length of the full one. shards 1: all of it (runs 1, length count). */
typedef struct qn_slice {
    int32_t shards, shard;
    int64_t runs, length;
} qn_slice;

typedef struct qn_param {
    char name[96]; /* "transformer.h.0.attn.c_attn.weight" */
    int32_t layer; /* of its first use: the layer that owns it */
    int32_t rank;
    int64_t dim[2];       /* as held in memory: matrices are [out, in]; in a shard model the shard's part of them */
    bool file_transposed; /* the file holds [in, out] (GPT-2's Conv1D) */
    bool decay;           /* weight decay applies (matrices) */
    bool adapter;         /* of LoRA: no part of the plain model's file */
    bool frozen;          /* never changes: no gradient, no moments */
    bool joined;          /* whole in every shard, but each has a part of its gradient: the sum over the shards is the gradient */
    qn_init init;
    double init_std; /* UNIFORM: the bound */
    int64_t count;   /* elements */
    qn_slice slice;
    int32_t origin; /* index in the whole model: its own without vocabulary shards */
    int64_t real;   /* elements that the whole model has; those behind, in rows of the vocabulary, are padding and stay 0 */
} qn_param;

typedef struct qn_use {
    int32_t param, layer;
} qn_use;

typedef struct qn_model qn_model;

/* Checks the sizes and lays out layers, parameters and uses. Errors: QN_EINVAL (heads that do not divide the width, odd head
 * width with rotary embedding, sizes below 1, a number of shards that does not divide heads and hidden width, ...), QN_ENOMEM.
 *
 * With shards = t > 1 it is one of t shard models (Megatron-LM's tensor parallelism, Narayanan et al. 2021, arXiv:2104.04473):
 * query, key, value, gate and up products hold 1/t of their outputs (whole heads), the two products that lead back to the stream
 * 1/t of their inputs, embedding and output matrix ceil(V / t) rows of the vocabulary, those from V on padding. Norms, positions
 * and biases of the stream are whole in every shard, with identical gradients, and so is the loss. Chain, parameter indices and
 * names are those of t = 1. For training and evaluation.
 *
 * With sequence (Korthikanti et al. 2022, arXiv:2205.05198) the residual stream, norms, joins and positions have only the
 * rows of the shard's slice (qn_shard_slice of the item's rows); the way into the cut products gathers them, the way out scatters
 * the sum. The gradients of what is used there are parts (qn_param.joined). */
qn_status qn_model_open(qn_model **out, const qn_model_config *config, qn_err *err) QN_MUST_USE;
void qn_model_close(qn_model *m);
/* Shard `shard` of `shards` of a whole model: its configuration with these numbers, and what is frozen in it. Errors: as
 * qn_model_open. */
qn_status qn_model_open_shard(qn_model **out, const qn_model *whole, int32_t shards, int32_t shard, bool sequence,
                              qn_err *err) QN_MUST_USE;
/* A whole model with its vocabulary cut into shards (model/vocab.h), and what is frozen in it. Errors: as qn_model_open. */
qn_status qn_model_open_vocab(qn_model **out, const qn_model *whole, int32_t shards, qn_err *err) QN_MUST_USE;

const qn_model_config *qn_model_config_of(const qn_model *m); /* zeros replaced by what they mean */
int32_t qn_model_layers(const qn_model *m);                   /* L + 2 of the chain, then one per vocabulary shard */
int32_t qn_model_chain(const qn_model *m);                    /* L + 2 */
int32_t qn_model_params(const qn_model *m);
const qn_param *qn_model_param(const qn_model *m, int32_t i);
int32_t qn_model_uses(const qn_model *m); /* in layer order; a parameter's first use is in its own layer */
const qn_use *qn_model_use(const qn_model *m, int32_t i);
int64_t qn_model_param_count(const qn_model *m);   /* elements, a tied weight once */
int64_t qn_model_matmul_params(const qn_model *m); /* elements in matrix products: no embedding look-ups, a tied head once */

/* A shard's part of a full parameter: take copies full -> part, put part -> full. element: bytes of one. */
void qn_param_take(const qn_param *p, void *part, const void *full, size_t element);
void qn_param_put(const qn_param *p, void *full, const void *part, size_t element);

/* Freezes all parameters whose names match one of the shell patterns ('*', '?', '[...]'), before any stage is opened. A frozen
 * parameter's bits never change; its uses have no gradient accumulator, their weight gradients are not computed, and nothing goes
 * backwards through layers that have nothing to train at or below them. The use of a tied weight follows its parameter.
 * Errors: QN_EINVAL (a pattern that matches nothing, with the nearest names; nothing left to train). */
qn_status qn_model_freeze(qn_model *m, const char *const *pattern, int32_t patterns, qn_err *err) QN_MUST_USE;
int64_t qn_model_trained_count(const qn_model *m); /* elements that are not frozen */

/* Initial value of parameter i: a function of (seed, i, element of the full parameter) only. GPT-2's scheme: normal 0.02,
 * residual projections divided by sqrt(2 L); adapters as peft does: A uniform within 1 / sqrt(in), B zero. value: [count] of the
 * kernels' param type. */
void qn_model_init_param(const qn_model *m, int32_t i, uint64_t seed, qn_dtype dtype, void *value);

/* --- a stage: the layers first .. first + count - 1 of the chain (count may be 0), ready to run on one worker */
typedef struct qn_stage qn_stage;

/* What backward makes again instead of keeping it, of a layer: all but its input, or the results of a group of operations. Those
 * of norms and activations are made again where they are read, asked for or not. */
enum { QN_AGAIN_ATTENTION = 1, QN_AGAIN_NORM = 2, QN_AGAIN_ACTIVATION = 4, QN_AGAIN_ALL = 8 };

typedef struct qn_stage_limits {
    int64_t B, T;         /* the most samples and tokens of a micro-batch */
    bool train;           /* false: infer only */
    int64_t cache_len;    /* positions of KV cache per sample when inferring; 0: none */
    qn_dtype kv;          /* type of the cache, f32 or bf16, where the kernels keep caches of their own layout; else it is act */
    int64_t logits;       /* infer: the most rows of logits of a pass; 0: one for each of B samples */
    const uint8_t *again; /* [layers of the chain] QN_AGAIN_* of each, read during open alone; NULL: everything is kept */
    bool again_early;     /* made again by a task of its own before backward; else inside backward, layer by layer */
} qn_stage_limits;

/* Bytes that the runtime must give. All are known before start; the plan adds them up. */
typedef struct qn_stage_need {
    size_t act_bytes;     /* a bundle's payload at the stage's input and output (the residual stream, or the shard's slice) */
    size_t stash_bytes;   /* F to B, per item in flight: what backward needs besides the stage's input x */
    size_t rstash_bytes;  /* R to the end of backward, per item, when values are made again early; else 0 */
    size_t wstash_bytes;  /* B to W, per item, when they are separate tasks */
    size_t scratch_bytes; /* per worker, shared by its stages */
    size_t packed_bytes;  /* packed weights, per step */
    size_t cache_bytes;   /* KV cache, per sample */
} qn_stage_need;

/* Where parameter values and gradient accumulators are: the runtime's homes and replicas. value[param], grad[use]; only entries
 * that the stage's layers use are read. */
typedef struct qn_stage_binding {
    void *const *value;
    void *const *grad;
    void *packed;      /* packed_bytes */
    qn_row_sums *rows; /* where an embedding's gradient goes instead of grad[rows_use]; NULL: there. Borrowed */
    int32_t rows_use;
} qn_stage_binding; /* qn_stage_bind copies the entries it needs: bind again after they change. grad may be NULL for infer */

/* Infer: the next rows of one sequence among those of others, of other lengths, in one item. */
typedef struct qn_segment {
    int32_t slot;   /* its cache: the slot-th of the array that infer is given */
    int32_t logits; /* of how many of its last rows logits are wanted, 0 .. count */
    int64_t past;   /* its positions in the cache already */
    int64_t count;  /* its rows here, at positions past .. past + count - 1 */
} qn_segment;

/* One micro-batch (an item) as a layer sees it. */
typedef struct qn_mb {
    int64_t B, T;              /* this item's samples and tokens, 0 <= B * T */
    const qn_segment *segment; /* infer: whose rows these are, in this order; B * T rows in all. NULL: B samples of T rows */
    int32_t segments;
    const int32_t *tokens;       /* [B, T]; read by the embedding; NULL on stages without it */
    const int32_t *targets;      /* [B, T]; read by the head; -1: no loss here */
    uint64_t seed;               /* dropout key */
    uint32_t step, first_sample; /* index of the item's first sample in the global batch */
    double *loss;                /* the head adds the item's loss sum here */
    void *rstash;                /* rstash_bytes; from R to the end of backward, where the stage makes values again early */
} qn_mb;

/* ex: borrowed until close; its scratch holds need.scratch_bytes. Errors: QN_ENOMEM, QN_EINVAL. */
qn_status qn_stage_open(qn_stage **out, const qn_model *m, int32_t first, int32_t count, const qn_kernels *k, const qn_exec *ex,
                        const qn_stage_limits *limits, qn_err *err) QN_MUST_USE;
void qn_stage_close(qn_stage *s);
const qn_stage_need *qn_stage_need_of(const qn_stage *s);
bool qn_stage_has_use(const qn_stage *s, int32_t use);
void qn_stage_bind(qn_stage *s, const qn_stage_binding *b);

/* Packs the weights for this step (PACK task). what: QN_PACK_FORWARD, or both copies when training. */
void qn_stage_pack(qn_stage *s);
/* The same for the products whose packed weights begin in bytes [at, at + bytes) of packed [need.packed_bytes], from values that
 * need not be bound: value gives a parameter's whole memory, or NULL and why not. ex: of the calling thread; not beside a pass or
 * another packing of the same stage. Errors: those of value. */
typedef qn_status qn_value_fn(void *ctx, const void **value, int32_t param, qn_err *err);
qn_status qn_stage_pack_part(const qn_stage *s, const qn_exec *ex, void *packed, size_t at, size_t bytes, qn_value_fn *value,
                             void *ctx, qn_err *err) QN_MUST_USE;
/* AdamW's step on a weight, value as it was bound, that a product of a training stage reads packed: the copies are made of the
 * new values in the same sweep, and the next packing passes over them. g, m, v: as long as the weight. False, and nothing done,
 * when no product here reads it. forget_packs: values have changed otherwise since then, the next packing makes all copies. */
bool qn_stage_step(qn_stage *s, void *value, void *g, void *m, void *v, const qn_adamw *hyper);
void qn_stage_forget_packs(qn_stage *s);
/* Whether the stage's forward passes read the parameter packed alone: once packed its value is not needed. */
bool qn_stage_packs_whole(const qn_stage *s, int32_t param);

/* How the stages of t shard models meet, each in its own pass over the same item: once per half layer in F (after the product
 * that leads back to the stream) and once in B (before the norm); and at the chain's ends (ops/op_shard_vocab.c).
 *
 *   SUM      whole [rows, width] of each shard becomes the sum over all shards
 *   SCATTER  mine, the rows of this shard's slice (qn_shard_slice), becomes the sum over all shards of these rows of whole,
 *            which stays as it is where mine lies elsewhere
 *   GATHER   whole is made of the slices `mine` of all shards
 * The same bits for each shard, whoever computes them: every sum is one tree over the shards' contributions
 * (kernels/shard_sum.h). mine [its rows, width] does not overlap whole, or is its part of it; NULL: its part of it. */
typedef enum qn_meet { QN_MEET_NONE, QN_MEET_SUM, QN_MEET_SCATTER, QN_MEET_GATHER } qn_meet;
typedef struct qn_meeting {
    qn_meet kind;
    void *whole, *mine;
    qn_dtype type;
    int64_t rows, width;
} qn_meeting;
static inline int64_t qn_meeting_row(const qn_meeting *m)
{
    return m->width * (int64_t)qn_dtype_bytes(m->type);
}
/* Shard k of t has rows *first .. *first + the result - 1 of so many. */
static inline int64_t qn_shard_slice(int32_t shards, int32_t shard, int64_t rows, int64_t *first)
{
    *first = rows * shard / shards;
    return rows * (shard + 1) / shards - *first;
}

/* meet: true when it is done; false: not yet, ask again with the same arguments (other shards have to come to this point first).
 * Never called with rows = 0. Borrowed until close. */
typedef struct qn_exchange {
    bool (*meet)(void *ctx, const qn_meeting *what);
    void *ctx;
} qn_exchange;
void qn_stage_set_exchange(qn_stage *s, const qn_exchange *exchange);

/* F: y = stage(x), filling stash. x [B*T, C] res (NULL for a stage that starts with the embedding), y likewise (NULL when the
 * stage ends with the head, whose loss is computed in backward). stash: stash_bytes of this item. Calling it again with the same
 * arguments gives the same bits (R task: y may then be NULL). A stage of 0 layers copies x to y. */
void qn_stage_forward(qn_stage *s, const qn_mb *mb, void *y, const void *x, void *stash);

/* R of a stage opened with again_early: what it makes again, into mb->rstash. */
void qn_stage_recompute(qn_stage *s, const qn_mb *mb, const void *x, void *stash);

/* B or BW: dx [B*T, C] res from dy (NULL when the stage has the head; dx NULL when it has the embedding). x and stash as forward
 * left them. wstash NULL: the weight gradients are added on the way (BW). Otherwise what W needs is kept there. */
void qn_stage_backward(qn_stage *s, const qn_mb *mb, void *dx, const void *dy, const void *x, void *stash, void *wstash);
/* W: adds the weight gradients. */
void qn_stage_backward_weight(qn_stage *s, const qn_mb *mb, const void *x, const void *stash, const void *wstash);

/* Forward without memory of it: the loss of an item is added to *mb->loss (evaluation). stash is temporary. */
void qn_stage_evaluate(qn_stage *s, const qn_mb *mb, void *y, const void *x, void *stash);

/* Infer: T new tokens of each of B samples at positions past .. past + T - 1, appended to cache [B] x cache_bytes. The head
 * writes logits [B, V] f32 of each sample's last row. With mb->segment the rows are those of its segments (past is then not
 * read): a row's bits depend on its own sequence alone, and the head writes the rows of logits that the segments ask for, in
 * order. */
void qn_stage_infer(qn_stage *s, const qn_mb *mb, int64_t past, void *y, const void *x, void *cache, float *logits);

/* A pass that may stop between any two operations: pre-emption, per-operation costs, shards that wait for each other. begin as
 * forward/backward above; step runs one operation and returns false after the last; name says which comes next ("2.attention").
 * The functions above are such passes run to their end: for t = 1 alone. */
typedef struct qn_pass {
    qn_stage *stage;
    int32_t kind; /* private */
    int32_t layer, op;
    bool redo; /* private: making the layer's values again before walking back through it */
    const qn_mb *mb;
    void *y;
    const void *x, *dy;
    void *stash, *wstash;
    int64_t past;
    void *cache;
    float *logits;
    char *scratch; /* private: taken by the first step, returned by the last */
    size_t mark;
    bool begun;
    int32_t made; /* private: operations before this one are done making again what the one at the cursor reads */
    bool told;    /* private: the operation at the cursor has written what it tells the other shards */
    bool waits;   /* the last step found the other shards not there yet: step again later */
} qn_pass;
bool qn_pass_step(qn_pass *p);
const char *qn_pass_name(const qn_pass *p); /* "" after the last; lives as long as the model */
qn_pass qn_pass_forward(qn_stage *s, const qn_mb *mb, void *y, const void *x, void *stash);
qn_pass qn_pass_recompute(qn_stage *s, const qn_mb *mb, const void *x, void *stash);
/* F and R at once where F's stash is gone: stash as forward leaves it, and mb->rstash. */
qn_pass qn_pass_remake(qn_stage *s, const qn_mb *mb, const void *x, void *stash);
qn_pass qn_pass_backward(qn_stage *s, const qn_mb *mb, void *dx, const void *dy, const void *x, void *stash, void *wstash);
qn_pass qn_pass_backward_weight(qn_stage *s, const qn_mb *mb, const void *x, const void *stash, const void *wstash);
qn_pass qn_pass_evaluate(qn_stage *s, const qn_mb *mb, void *y, const void *x, void *stash);
qn_pass qn_pass_infer(qn_stage *s, const qn_mb *mb, int64_t past, void *y, const void *x, void *cache, float *logits);

#endif

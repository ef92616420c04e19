/* The runner: a model's forward passes as a plan, for evaluation and generation, on any number of workers. */
#ifndef QN_RUNTIME_RUNNER_H
#define QN_RUNTIME_RUNNER_H

#include "data/dataset/shards.h"
#include "runtime/executor/executor.h"
#include "model/model.h"

enum { QN_RUNNER_SLOTS = 1024 }; /* the most sequences together */

/* Elements [first, first + count) of a parameter, of the mode's param type, into to; called on any thread, from several at once.
 */
typedef qn_status qn_param_read(void *ctx, int32_t param, int64_t first, int64_t count, void *to, qn_err *err);

/* Devices with little memory: each worker is one, its arena holds a window of the model's weights, of one layer of the chain a
 * piece, dealt to the devices in turn (Superpipeline, arXiv:2410.08791, reconstructed). Results are those of resident weights,
 * bit for bit. Where a device's pieces all fit they stay. Outside of the arenas: KV caches, logits, scratch of the kernels. */
typedef struct qn_runner_tiers {
    int64_t memory;           /* bytes of a device's arena; 0: no limit */
    int32_t window, replace;  /* k pieces at once (0: as many as fit), of which k' (0: 1) are replaced at a time */
    int64_t link_bytes_per_s; /* from the host to each device; 0: as fast as memory */
    qn_param_read *read;      /* where the desc's value is NULL: a pass reads what it needs */
    void *read_ctx;
} qn_runner_tiers;

typedef struct qn_runner_desc {
    const qn_model *model;      /* borrowed until close */
    void *const *value;         /* [params] of the mode's param type, borrowed; packed at open */
    const int32_t *first_layer; /* [workers + 1] */
    int32_t workers, threads;
    qn_mode mode;
    qn_weights weights; /* generation: what products read; OWN for evaluation */
    int64_t B, T;       /* the most samples and tokens of one pass; evaluation runs windows of T tokens, each by itself */
    int64_t cache_len;  /* positions of KV cache of a sequence: generation only; 0: evaluation only */
    bool pin;
    qn_dtype kv;                  /* generation with weights of a compact kind: the cache, f32 or bf16 */
    int32_t slots;                /* generation: sequences that go on together (0: 1); slots <= T */
    int64_t logits;               /* generation: the most rows of logits of one call (0: slots) */
    const qn_runner_tiers *tiers; /* NULL: all weights are resident; else first_layer is not read */
} qn_runner_desc;

typedef struct qn_runner qn_runner;

/* Errors: QN_EINVAL (sizes that do not fit the model, cuts as qn_trainer_open wants them; a window that cannot be, or memory that
 * is too small, with the smallest that would do), QN_ENOMEM. */
qn_status qn_runner_open(qn_runner **out, const qn_runner_desc *desc, qn_err *err) QN_MUST_USE;
void qn_runner_close(qn_runner *r);

/* Appends count tokens (count <= T) of one sequence to the cache at its current length and gives the logits [V] f32 after the
 * last one; the array belongs to the runner until the next call. Errors: QN_ERANGE when the cache is full or a token is outside
 * the vocabulary, QN_ESTATE without a cache. */
qn_status qn_runner_feed(qn_runner *r, const int32_t *tokens, int64_t count, const float **logits, qn_err *err) QN_MUST_USE;
void qn_runner_rewind(qn_runner *r); /* empties the caches */

/* Tokens of one sequence in a pass that it shares with others. Sequences are told apart by their slot, 0 .. slots - 1. */
typedef struct qn_feed {
    int32_t slot;
    int32_t logits;        /* in: of how many of its last tokens the logits are wanted, 0 .. count */
    const int32_t *tokens; /* [count], borrowed for the call */
    int64_t count;         /* 1 .. T */
    const float *row;      /* out: [logits, V]; the runner's until the next call */
} qn_feed;

/* Appends the tokens of n feeds to their sequences, reading the weights once for all of them. A sequence may be in several feeds:
 * they follow one another. What a row gives depends on its own sequence alone: the same bits alone, among others, in any pieces,
 * on any number of workers and threads. At most qn_runner_rows tokens in all. Allocates nothing.
 * Errors: QN_ERANGE (a cache is full, a slot, token or count out of range, more rows than fit), QN_ESTATE without a cache. */
qn_status qn_runner_feed_all(qn_runner *r, qn_feed *feed, int32_t n, qn_err *err) QN_MUST_USE;
/* Tokens of one call that certainly fit: items of T rows, one for each worker. A feed never crosses two items, so all feeds of a
 * call fit when each is at most T long and they fill the items in order. */
int64_t qn_runner_rows(const qn_runner *r);
int32_t qn_runner_vocab(const qn_runner *r);              /* of a row of logits */
int64_t qn_runner_held(const qn_runner *r, int32_t slot); /* positions of its cache that are taken */
/* Forgets all but the first `held` positions of a sequence (at most those it has): 0 frees the slot for another. */
void qn_runner_truncate(qn_runner *r, int32_t slot, int64_t held);

/* With devices: bytes of their arenas together, the most that was in use of one, the weights of the model's pieces (a tied one
 * counts in each that reads it), what moves when each piece is loaded once (matrices packed, as products read them), and bytes of
 * weights that were loaded since open. Else zeros. */
typedef struct qn_runner_devices {
    int64_t arenas, high_water, weights, pass, loaded;
    int32_t pieces;
} qn_runner_devices;
qn_runner_devices qn_runner_devices_of(const qn_runner *r);

/* Mean loss over the part, as qn_trainer_evaluate. Errors: QN_ESTATE with a cache, QN_EINVAL when the tokens are not the model's.
 */
qn_status qn_runner_evaluate(qn_runner *r, const qn_tokens *tokens, qn_split_range part, int64_t max_windows, double *loss,
                             int64_t *targets, qn_err *err) QN_MUST_USE;

/* Next token from logits: temperature 0 takes the largest (lowest id on ties); otherwise softmax at that temperature over the
 * tokens that top_k (0: all), top_p (1: all) and min_p (0: all) leave, drawn with the random number of (seed, position).
 * order: scratch [vocab] int32. */
typedef struct qn_sampling {
    double temperature, top_p, min_p;
    int32_t top_k;
    uint64_t seed;
} qn_sampling;
int32_t qn_sample(const float *logits, int32_t vocab, const qn_sampling *how, int64_t position, int32_t *order);

#endif

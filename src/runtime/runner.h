/* The runner: a model's forward passes as a plan, for evaluation and generation, on any number of workers. */
#ifndef QN_RUNTIME_RUNNER_H
#define QN_RUNTIME_RUNNER_H

#include "data/dataset/shards.h"
#include "executor.h"
#include "model/model.h"

typedef struct qn_runner_desc {
    const qn_model *model;      /* borrowed until close */
    void *const *value;         /* [params] of the mode's param type, borrowed; packed at open */
    const int32_t *first_layer; /* [workers + 1] */
    int32_t workers, threads;
    qn_mode mode;
    int64_t B, T;      /* the most samples and tokens of one pass; evaluation runs windows of T tokens, each by itself */
    int64_t cache_len; /* positions of KV cache: generation only; 0: evaluation only */
    bool pin;
} qn_runner_desc;

typedef struct qn_runner qn_runner;

/* Errors: QN_EINVAL (sizes that do not fit the model, cuts as qn_trainer_open wants them), QN_ENOMEM. */
qn_status qn_runner_open(qn_runner **out, const qn_runner_desc *desc, qn_err *err) QN_MUST_USE;
void qn_runner_close(qn_runner *r);

/* Appends count tokens (count <= T) of one sequence to the cache at its current length and gives the logits [V] f32 after the
 * last one; the array belongs to the runner until the next call. Errors: QN_ERANGE when the cache is full or a token is outside
 * the vocabulary, QN_ESTATE without a cache. */
qn_status qn_runner_feed(qn_runner *r, const int32_t *tokens, int64_t count, const float **logits, qn_err *err) QN_MUST_USE;
void qn_runner_rewind(qn_runner *r); /* empties the cache */

/* Mean loss over the part, as qn_trainer_evaluate. Errors: QN_ESTATE with a cache, QN_EINVAL when the tokens are not the model's.
 */
qn_status qn_runner_evaluate(qn_runner *r, const qn_tokens *tokens, qn_split_range part, int64_t max_windows, double *loss,
                             int64_t *targets, qn_err *err) QN_MUST_USE;

/* Next token from logits: temperature 0 takes the largest (lowest id on ties); otherwise softmax at that temperature over the
 * tokens that top_k (0: all), top_p (1: all) and min_p (0: all) leave, drawn with the random number of (seed, position). logits
 * may be overwritten; order: scratch [vocab] int32. */
typedef struct qn_sampling {
    double temperature, top_p, min_p;
    int32_t top_k;
    uint64_t seed;
} qn_sampling;
int32_t qn_sample(float *logits, int32_t vocab, const qn_sampling *how, int64_t position, int32_t *order);

#endif

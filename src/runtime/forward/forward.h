/* Forward passes over a stage set: a plan of items without backward, for evaluation and generation. An item is one sample of at
 * most T tokens. Internal to src/runtime.
 *
 * The caller fills tokens, targets and length between runs; the workers read them during a run. */
#ifndef QN_RUNTIME_FORWARD_H
#define QN_RUNTIME_FORWARD_H

#include "data/dataset/shards.h"
#include "runtime/executor/executor.h"
#include "forward_tier.h"
#include "runtime/stage_set.h"
#include "runtime/trainer/tensor_shards.h"

typedef struct qni_forward {
    qn_stage_set *set; /* borrowed */
    qn_plan *plan;
    qn_executor *ex;
    qni_shards shards;
    bool tiered; /* on devices: the set only says what pieces need */
    qni_tier tier;
    int32_t items;
    int64_t T;
    int32_t *tokens, *targets; /* [items, T] */
    int64_t *length;           /* [items] tokens of the item; 0: not there */
    double *loss;              /* [shards, items] sums; set to 0 by a run. Shard 0's count, the others are the same */
    bool repack;               /* the next run packs the weights again */
    bool infer;
    /* Infer: an item is the rows of some sequences, each with its own cache (a slot). The caller fills segment, segments and
     * logits_at between runs; length[item] is the sum of its segments' rows. */
    int32_t slots;
    int64_t most_logits; /* rows of logits of a run */
    qn_segment *segment; /* [items, most_segments] */
    int32_t most_segments;
    int32_t *segments;  /* [items] */
    int64_t *logits_at; /* [items]: the row of logits at which the item's begin */
    void **cache;       /* [stages], slots x cache_bytes each */
    float *logits;      /* [most_logits, V] */
} qni_forward;

typedef struct qni_forward_desc {
    qn_stage_set *set; /* bound; borrowed until fini */
    const qn_transport *transport;
    qn_sim_faults faults;
    qn_driver driver;
    int32_t items, threads;
    int64_t T; /* rows of an item */
    bool infer, pin;
    int32_t slots, segments;        /* infer: caches; the most segments of an item */
    int64_t logits;                 /* infer: the most rows of logits of a run */
    const qni_forward_tiers *tiers; /* NULL: all weights are resident, and the set is bound */
} qni_forward_desc;

enum { QNI_EVAL_ITEMS = 16 }; /* windows of one run: results do not depend on it */

/* Errors: those of qn_lower and qn_executor_open, QN_ENOMEM. fini accepts zeroes and what failed to open. */
qn_status qni_forward_init(qni_forward *f, const qni_forward_desc *d, qn_err *err) QN_MUST_USE;
void qni_forward_fini(qni_forward *f);
qn_status qni_forward_run(qni_forward *f, qn_err *err) QN_MUST_USE;

/* Mean loss over windows that do not overlap, at most max_windows (0: all), evenly spread. Each window's sum is its own; they are
 * folded in double, in window order, so the result depends on neither workers nor items. Errors: QN_EINVAL (tokens outside the
 * model's vocabulary, nothing to predict). */
qn_status qni_forward_evaluate(qni_forward *f, const qn_tokens *tokens, qn_split_range part, int64_t max_windows, double *loss,
                               int64_t *targets, qn_err *err) QN_MUST_USE;

#endif

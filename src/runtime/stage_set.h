/* All stages of a run with what they stand on: per worker a team and one scratch arena, per stage the packed weights. Trainer and
 * runner use the same set; executors come and go on top of it. Internal to src/runtime.
 *
 * Lifetime: open, bind (pointers may change between steps), tasks, close. All memory is taken by open. */
#ifndef QN_RUNTIME_STAGE_SET_H
#define QN_RUNTIME_STAGE_SET_H

#include <stdbool.h>
#include <stdint.h>

#include "model/model.h"
#include "schedule/ir.h"

typedef struct qn_stage_set {
    const qn_model *model; /* borrowed; whole */
    qn_model **part;       /* [shards] shard models; NULL with one shard */
    const qn_kernels *k;
    int32_t workers, stages, columns, shards;
    int32_t chain; /* stages of the chain; vocabulary shards are the stages behind it, and count as such in a column's depth */
    bool unpacked;
    bool sequence;        /* shards have slices of the stream's rows */
    int32_t *worker_of;   /* [stages] */
    int32_t *first_layer; /* [depth + 1] */
    qn_stage_limits limits;
    qn_stage **stage;    /* [stages] */
    void **packed;       /* [stages] */
    qn_exec *exec;       /* [workers] */
    qn_exec *shard_exec; /* [workers * shards]: the worker's team with a scratch of its own for each shard that it holds, since
                            shards of one worker run in turn; with one shard the same as exec */
    qn_arena *scratch;   /* [workers * shards] */
    void **bound;        /* room for the pointers of one stage */
} qn_stage_set;

static inline qn_grid qni_stage_set_grid(const qn_stage_set *s, int32_t items)
{
    return (qn_grid){s->stages, items, s->columns, s->shards, 0}; /* to the homes a side stage is as any other */
}
/* The model that the stages of that shard are cut from. */
static inline const qn_model *qni_stage_set_part(const qn_stage_set *s, int32_t shard)
{
    return s->part == NULL ? s->model : s->part[shard];
}

typedef struct qn_stage_set_desc {
    const qn_model *model;
    const int32_t *first_layer; /* [depth + 1], depth = stages / columns */
    const int32_t *worker_of;   /* [stages]; NULL: stage s on worker s */
    int32_t workers, stages, threads;
    bool unpacked;           /* no memory for packed weights: the set only says what stages need (tiers) */
    int32_t columns, shards; /* copies of the chain, and shards of each replica; 0: 1 */
    bool sequence;           /* sequence parallelism between the shards */
    qn_mode mode;
    qn_weights weights; /* OWN unless the stages only infer */
    qn_stage_limits limits;
    bool pin;
} qn_stage_set_desc;

/* Errors: QN_EINVAL (a cut that is no partition of the chain, with the first stage before the embedding or the last after the
 * head), QN_ENOMEM, QN_EUNSUPPORTED. fini accepts a zeroed set and one that failed to open. */
qn_status qni_stage_set_init(qn_stage_set *s, const qn_stage_set_desc *d, qn_err *err) QN_MUST_USE;
void qni_stage_set_fini(qn_stage_set *s);

/* value[worker][param * shards + shard], grad[replica][use * shards + shard] (grad NULL: no gradients). The pointers are copied.
 * rows: where the gradient of use rows_use goes instead, with one replica of one shard; NULL: nowhere else. */
void qni_stage_set_bind(qn_stage_set *s, void *const *const *value, void *const *const *grad, qn_row_sums *rows,
                        int32_t rows_use);

/* Scratch that passes left behind when they were given up. */
void qni_stage_set_reset_scratch(qn_stage_set *s);

/* Bytes of the residual stream at a stage for so many rows of an item; and the most that any stage has for at most so many. */
int64_t qni_stage_set_act_bytes(const qn_stage_set *s, int32_t stage, int64_t rows);
int64_t qni_stage_set_act_most(const qn_stage_set *s, int64_t rows);
/* Sums over all workers, for the account of memory. */
int64_t qni_stage_set_packed(const qn_stage_set *s);
int64_t qni_stage_set_scratch(const qn_stage_set *s);

/* The first value of that class in a span of plan->ref, or QN_NONE: how a task finds what its schedule gave it. */
int32_t qni_span_find(const qn_plan *p, qn_span span, qn_value_class cls);

#endif

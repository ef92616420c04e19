/* The passes of lowering and the state they hand on. Private to lower*.c. */
#ifndef QN_SCHEDULE_LOWER_H
#define QN_SCHEDULE_LOWER_H

#include "schedule/schedule_internal.h"

typedef struct qni_message {
    int32_t channel, send, recv; /* builder ids */
    int32_t from, to;            /* values: the sender's and the receiver's */
    int64_t most;                /* of its slots' bytes; 0: as for all */
} qni_message;

typedef struct qni_lower {
    const qn_order *order;
    const qn_lowering *how;
    qni_builder b;
    int32_t workers, stages, items;
    bool training;
    int32_t *pos;                                                    /* [workers]: comp tasks so far */
    bool *has_r;                                                     /* [stages * items]: is recomputed */
    int32_t *act_in, *act_out, *grad_in, *grad_out, *wstash, *stash; /* [stages * items] values at their reader and at their
                              writer. grad: of this stage's output; its writer is the next stage. stash: what backward reads */
    int32_t *act_back;                                               /* [stages * items]: the input where the backward is */
    int32_t *rstash;                                                 /* [stages * items] what R of a part writes, or QN_NONE */
    int32_t *param, *pgrad;                                          /* [stages], [rounds * stages] values */
    int32_t *last_add;                                               /* [stages]: the last task so far that added to pgrad */
    int32_t *sum_task;                                               /* [stages]: its SUM, or QN_NONE */
    int32_t *sum_back;                   /* [stages][replicas]: sums of that owner as they came back, or QN_NONE */
    bool *packed;                        /* [stages]: has its PACK */
    int32_t *act_channel, *grad_channel; /* [rounds * stages]: into stage s; from stage s to s - 1 */
    int32_t *back_channel;               /* [rounds * stages]: from its forward to its backward */
    qni_message *message;
    int32_t messages, message_cap;
    struct qni_vocab *vocab; /* lower_vocab.c; NULL: no vocabulary shards */
} qni_lower;

static inline size_t qni_cell(const qni_lower *l, int32_t stage, int32_t item)
{
    return (size_t)stage * (size_t)l->items + (size_t)item;
}

/* Where R, B, W and BW of a stage are, in round 0. */
static inline int32_t qni_back_worker(const qni_lower *l, int32_t stage)
{
    return qn_backward_worker(l->order->worker_of, l->order->backward_of, stage);
}

/* Where a worker's part is in an item's round; and the row of an item's round in tables of [rounds * stages]. */
static inline int32_t qni_at_round(const qni_lower *l, int32_t worker, int32_t item)
{
    return qn_turned(worker, l->workers, l->order->turn, qn_round_of(item, l->order->round));
}
static inline size_t qni_round_row(const qni_lower *l, int32_t stage, int32_t item)
{
    return (size_t)qn_round_of(item, l->order->round) * (size_t)l->stages + (size_t)stage;
}

/* A compute or step task at the end of its worker's comp lane. */
int32_t qni_lower_comp(qni_lower *l, int32_t op, int32_t stage, int32_t item, int32_t worker);
/* A message: value from, written by task producer, goes to value to. Adds SEND and RECV. */
void qni_lower_message(qni_lower *l, int32_t channel, int32_t producer, int32_t from, int32_t to, uint64_t tag);
int32_t qni_lower_channel(qni_lower *l, int32_t from, int32_t to, int32_t cls, int32_t edge);

/* lower_compute.c: which items are recomputed; the worker's comp lane with values. */
qn_status qni_lower_values(qni_lower *l, qn_err *err) QN_MUST_USE;
void qni_lower_compute(qni_lower *l, int32_t worker);
/* lower_shards.c: channels of the workers whose shards meet. */
void qni_lower_shards(qni_lower *l);
/* lower_pairs.c: waits of overlap pairs. */
void qni_lower_pairs(qni_lower *l);
/* lower_step.c: PACK before a stage's first forward; all that comes after the last backward. */
void qni_lower_step(qni_lower *l);
uint64_t qni_lower_step_tag(int32_t cls, int32_t index, int32_t item);
/* lower_replicas.c: gradients to their owners, sums back to the replicas; what a task that works with a stage's sums reads; what
 * leaves a stage behind the task that makes its parameters. Nothing with one replica. */
void qni_lower_sums(qni_lower *l);
void qni_lower_sums_back(qni_lower *l);
void qni_lower_replica_reads(qni_lower *l, int32_t task, int32_t stage);
void qni_lower_replica_done(qni_lower *l, int32_t opt, int32_t stage);
/* lower_join.c: sums over the shards of a stage, after those over replicas and before TIE; nothing where no shard has a part of
 * a gradient. */
void qni_lower_joins(qni_lower *l);
/* lower_validate.c: the step tasks from NORM on, for a post-validated step. */
void qni_lower_validated(qni_lower *l);
/* lower_step.c, for it. NORM of a worker, giving the value of its sums in *stat. FOLD on worker root of the sums stat[0 ..
 * count), giving each worker's copy of the result in stat [workers]. What leaves a stage whose parameters are final after the
 * task. */
int32_t qni_lower_norm(qni_lower *l, int32_t w, int32_t *stat);
void qni_lower_fold(qni_lower *l, int32_t root, int32_t count, int32_t *stat);
void qni_lower_stage_done(qni_lower *l, int32_t task, int32_t stage);
/* lower_messages.c: places of SENDs and RECVs in their lanes, sizes of slots, who frees what. arrival: [builder tasks] keys or
 * NULL. */
qn_status qni_lower_place_messages(qni_lower *l, const int64_t *arrival, qn_err *err) QN_MUST_USE;
qn_status qni_lower_frees(qni_lower *l, qn_err *err) QN_MUST_USE;
void qni_lower_slot_sizes(qni_lower *l);
/* [n] slots of one worker's arena: offset from the times, and what the writer must wait for; top is what they take. */
typedef struct qni_slot {
    int64_t from, until, bytes, offset;
    int32_t drop_lane, drop_index; /* who drops it, as a place in a lane of the worker */
    int32_t need[QN_LANES];
} qni_slot;
/* lower_slots_tight.c: the largest slots first. Takes n * n steps, some times over. */
qn_status qni_colour_largest(qni_slot *slot, int32_t n, int64_t *top, qn_err *err) QN_MUST_USE;
/* lower_slots.c: in the order of their starts or the largest first, whichever takes less memory. */
qn_status qni_colour_best(qni_slot *slot, int32_t n, int64_t *top, qn_err *err) QN_MUST_USE;
/* Offsets of all values in their arenas and what that makes tasks wait for. */
struct qn_span_time;
qn_status qni_lower_slots(qn_plan *p, const struct qn_span_time *time, qn_err *err) QN_MUST_USE;

#endif

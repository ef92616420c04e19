/* List construction of split-backward orders, as the zero-bubble papers' automatic schedulers do it (arXiv:2401.10241, section
 * 3.1; arXiv:2405.15362, section 4): tasks are put one by one on a worker's list at the earliest time their inputs allow, weight
 * gradients fill the gaps. Shared by zb_auto.c and zb_v.c; private to gen/.
 *
 * Invariants: count[op][s] items of stage s have their op on the list, in ascending order; a worker's pending W are a queue in
 * order of their B, so that W of a stage ascend too. A put that cannot be (input not there, memory full) sets `failed`, which
 * sticks and makes all later puts do nothing. */
#ifndef QN_SCHEDULE_LIST_SCHEDULE_H
#define QN_SCHEDULE_LIST_SCHEDULE_H

#include "schedule/ir.h"

enum { QNI_F, QNI_B, QNI_W, QNI_KINDS };

typedef struct qni_list {
    int32_t workers, stages, items;
    const int32_t *worker_of;       /* [stages], borrowed */
    int64_t cost[QNI_KINDS], link;  /* ticks of a task, of a message */
    int64_t holds[QNI_KINDS];       /* what a task adds to its worker's memory: M_B, M_W - M_B, -M_W */
    int64_t limit;                  /* of a worker's memory */
    int32_t *count[QNI_KINDS];      /* [stages] */
    int64_t *end[2];                /* [stages * items]: ends of F, of B; -1: not on the list */
    int64_t *clock, *held, *bubble; /* [workers]: end of the list; memory; waiting since the first F */
    int64_t *first;                 /* [workers]: start of the list */
    int64_t largest;                /* of all bubbles */
    int32_t *length, *queued;       /* [workers]: tasks on the list; W of them taken from the queue */
    int32_t *task;                  /* [workers][per_worker]: stage * QNI_KINDS + kind */
    int32_t *queue;                 /* [workers][per_worker / 3]: stages whose B is done, in order */
    int32_t *pushed;                /* [workers]: B so far */
    int32_t per_worker;
    bool failed;
} qni_list;

/* Tables for an order's stages and placement and for items micro-batches (the order may keep fewer); costs and sizes from the
 * pattern, each 1 where it says nothing; memory limit in units of M_B. Errors: QN_ENOMEM; QN_EINVAL for costs out of range. */
qn_status qni_list_open(qni_list *l, const qn_order *o, const qn_pattern *pat, int32_t items, int64_t limit,
                        qn_err *err) QN_MUST_USE;
void qni_list_close(qni_list *l);
/* Empty lists again, for the next attempt. */
void qni_list_reset(qni_list *l);

/* The next item of a stage. W: the oldest pending of a worker. */
void qni_list_put(qni_list *l, int32_t kind, int32_t stage);
void qni_list_put_w(qni_list *l, int32_t worker);
int32_t qni_list_pending(const qni_list *l, int32_t worker);
/* When the input of the next F or B of a stage is there: 0 where it needs none from another stage, -1 if not on a list yet. */
int64_t qni_list_ready(const qni_list *l, int32_t kind, int32_t stage);
/* Room for an F or B on a worker: W until it fits. */
void qni_list_make_room(qni_list *l, int32_t kind, int32_t worker);
/* W that fit whole before a time. */
void qni_list_fill(qni_list *l, int32_t worker, int64_t until);
/* Longest from first start to last end of a worker. */
int64_t qni_list_span(const qni_list *l);
/* The lists become the order's; items the order does not have are dropped. */
void qni_list_emit(qn_order *o, const qni_list *l);

#endif

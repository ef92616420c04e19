/* Lists of split-backward tasks per worker for a placement with one column. Private to search*.c.
 *
 * A task is kind * S * M + stage * M + item with kinds F, B, W. */
#ifndef QN_SCHEDULE_SEARCH_EVAL_H
#define QN_SCHEDULE_SEARCH_EVAL_H

#include "search.h"

enum { QNI_SEARCH_F, QNI_SEARCH_B, QNI_SEARCH_W, QNI_SEARCH_KINDS };

typedef struct qni_eval {
    const qn_search_model *model;
    int32_t workers, stages, items, tasks, cells; /* cells = stages * items */
    const int32_t *worker_of;                     /* borrowed */
    int64_t *cost;                                /* [KINDS * stages] */
    int32_t *first;                               /* [workers + 1]: of the worker's list in seq */
    int32_t *seq, *pos;                           /* [tasks]: the lists; where a task stands */
} qni_eval;

/* Tables for a placement; lists are empty. Errors: QN_EUNSUPPORTED, QN_ENOMEM. */
qn_status qni_eval_open(qni_eval *e, const qn_order *like, const qn_search_model *model, qn_err *err) QN_MUST_USE;
void qni_eval_close(qni_eval *e);

/* Takes the lists of an order (BW becomes B, W). Errors: QN_EUNSUPPORTED (R), QN_ESCHEDULE (tasks missing). */
qn_status qni_eval_load(qni_eval *e, const qn_order *order, qn_err *err) QN_MUST_USE;
/* As an order with a split backward. Errors: QN_ENOMEM. */
qn_status qni_eval_order(qn_order **out, const qni_eval *e, qn_err *err) QN_MUST_USE;

static inline int32_t qni_task_stage(const qni_eval *e, int32_t t)
{
    return t % e->cells / e->items;
}
static inline int32_t qni_task_kind(const qni_eval *e, int32_t t)
{
    return t / e->cells;
}
static inline int64_t qni_task_cost(const qni_eval *e, int32_t t)
{
    return e->cost[qni_task_kind(e, t) * e->stages + qni_task_stage(e, t)];
}

#endif

/* The search's evaluator: lists of split-backward tasks per worker with their start times, kept up to date while tasks move.
 * Private to search*.c.
 *
 * A task is kind * S * M + stage * M + item with kinds F, B, W. start is the longest path to it; a move re-computes only what
 * changes, and is taken back when a task would end behind a bound. That refuses circles too: on one, times grow for ever. */
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
    int64_t *start;                               /* [tasks] */
    int32_t *ring;                                /* [tasks]: tasks to look at again */
    bool *waiting;                                /* [tasks]: is in the ring */
    int32_t head, waiters;
    int32_t *changed; /* journal of one move */
    int64_t *was;
    int32_t changes, changes_cap;
} qni_eval;

/* Tables for a placement; lists are empty. Errors: QN_EUNSUPPORTED, QN_ENOMEM. */
qn_status qni_eval_open(qni_eval *e, const qn_order *like, const qn_search_model *model, qn_err *err) QN_MUST_USE;
void qni_eval_close(qni_eval *e);

/* Takes the lists of an order (BW becomes B, W). Errors: QN_EUNSUPPORTED (R), QN_ESCHEDULE (tasks missing). */
qn_status qni_eval_load(qni_eval *e, const qn_order *order, qn_err *err) QN_MUST_USE;
/* All start times anew; false when tasks wait for each other. */
bool qni_eval_times(qni_eval *e);

int64_t qni_eval_makespan(const qni_eval *e);
int64_t qni_eval_ends(const qni_eval *e); /* sum of the workers' ends */

/* Moves the task at index `from` of seq to index `to` of the same worker. False: not legal (order of a stage's items, its own
 * inputs), beyond the memory, or a task ends behind bound; then nothing changed. After true, the move may be undone once. */
bool qni_eval_move(qni_eval *e, int32_t from, int32_t to, int64_t bound);
void qni_eval_undo(qni_eval *e, int32_t from, int32_t to);

/* The critical path from its end to its beginning; path [tasks]. Returns its length. */
int32_t qni_eval_path(const qni_eval *e, int32_t *path);

bool qni_eval_fits(const qni_eval *e, int32_t worker);
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

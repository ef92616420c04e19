/* Search for orders: given what tasks cost and a limit of memory, the order that takes the shortest time.
 *
 * Works on the order level: tasks F, B, W of all (stage, item) on their workers, every task as soon as its inputs are there and
 * its worker is free, messages with a latency and channels without bound. Two ways, to be used one after the other: build lists
 * made by a greedy rule whose numbers (forwards in flight per stage, how long a worker rather waits than does a weight gradient
 * or a forward) are improved by hill climbing improve  local search on an order: a task moves within its worker's list, mostly
 * along the critical path Everything follows from the seed and the number of rounds. No published algorithm; the neighbourhood is
 * that of job-shop scheduling (Nowicki and Smutnicki 1996, moves at the ends of critical blocks), the weight gradients as fillers
 * come from arXiv:2401.10241. */
#ifndef QN_SCHEDULE_SEARCH_H
#define QN_SCHEDULE_SEARCH_H

#include "schedule/ir.h"

/* Tables by stage and worker are borrowed. Memory is in any unit: F takes hold, B leaves pending of it, W (or BW) frees all. */
typedef struct qn_search_model {
    const int64_t (*cost)[QN_OPS]; /* [stages]: F, B, W; BW only judges orders that have it */
    int64_t latency;
    const int64_t *hold, *pending; /* [stages]; pending <= hold unless the limit leaves room for more */
    const int64_t *limit;          /* [workers]; NULL: none */
} qn_search_model;

typedef struct qn_search_progress {
    void (*fn)(void *ctx, int64_t done, int64_t rounds, int64_t makespan); /* NULL: none */
    bool (*stop)(void *ctx);                                               /* NULL: never; asked now and then */
    void *ctx;
} qn_search_progress;

/* Time and, for each worker, the most memory of an order. peak [workers] or NULL. Recomputation counts as part of the backward.
 * Errors: QN_ESCHEDULE (the order cannot run), QN_ENOMEM. */
qn_status qn_search_judge(int64_t *makespan, int64_t *peak, const qn_order *order, const qn_search_model *model,
                          qn_err *err) QN_MUST_USE;

/* A new order with the placement of `like` (one column); *out NULL when the limit leaves no room for one item. Errors:
 * QN_EUNSUPPORTED (several columns), QN_ENOMEM. */
qn_status qn_search_build(qn_order **out, int64_t *makespan, const qn_order *like, const qn_search_model *model, uint64_t seed,
                          int64_t rounds, const qn_search_progress *progress, qn_err *err) QN_MUST_USE;

/* An order at least as good as start, which must be within the limit; its backward is split. Items of a stage stay in ascending
 * order. Errors: QN_EUNSUPPORTED (several columns, recomputation), QN_ESCHEDULE (start cannot run or is beyond the limit),
 * QN_ENOMEM. */
qn_status qn_search_improve(qn_order **out, int64_t *makespan, const qn_order *start, const qn_search_model *model, uint64_t seed,
                            int64_t rounds, const qn_search_progress *progress, qn_err *err) QN_MUST_USE;

/* The same for any plan without joint tasks (shards of a stage): copies of the chain, vocabulary shards, backwards on other
 * workers, recomputation. Its compute tasks move within their workers' lists; inputs, the order of each kind of a stage's tasks
 * and that of additions to one gradient stay. Costs are the plan's. The order that is found has all recomputation written out:
 * lower it without any. Memory: a stash from F (or R) to BW or W, or with bytes the values of the arena; what an arena needs
 * beyond them is taken off the limit. Errors: QN_EUNSUPPORTED (joint tasks), QN_ESCHEDULE (beyond the limit), QN_ENOMEM. */
typedef struct qn_search_plan {
    int64_t latency;
    bool bytes;
    const int64_t *limit; /* [workers] stashes, or bytes of the arena; NULL: none */
} qn_search_plan;
qn_status qn_search_improve_plan(qn_order **out, int64_t *makespan, const qn_plan *plan, const qn_search_plan *how, uint64_t seed,
                                 int64_t rounds, const qn_search_progress *progress, qn_err *err) QN_MUST_USE;

#endif

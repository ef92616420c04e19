/* RoundPipe's cut in the schedule tools: costs of layers become stages of forward and backward, cut differently, and the order's
 * stages are the pieces that both cuts leave whole, as in training. Internal to src/session/schedules. */
#ifndef QN_SESSION_SCHEDULE_ROUNDS_H
#define QN_SESSION_SCHEDULE_ROUNDS_H

#include "quern/schedule.h"
#include "schedule_costs.h"

typedef struct qni_rounds {
    int32_t *room;          /* the arrays below */
    int32_t *first_layer;   /* [pieces + 1] */
    const int32_t *slot[2]; /* [pieces] of forward and backward */
    int32_t pieces;
    qni_costs costs; /* of the pieces */
} qni_rounds;

/* Cuts the layers of costs: as opt->cut says ("7x4|1,3x8,2x2": layers of the forward stages from layer 0 up, then of the backward
 * stages from the last layer down, the first of which is the fused one; NxM is M stages of N layers), else by the partitioner,
 * within half of the device memory where there is one, improved for a step that stands alone unless the optimizer lags. Errors:
 * QN_EINVAL (a cut that is none of these layers), QN_ENOMEM. fini accepts zeroes. */
qn_status qni_rounds_cut(qni_rounds *out, const qn_schedule_options *opt, const qni_costs *costs, qn_err *err) QN_MUST_USE;
void qni_rounds_fini(qni_rounds *r);

/* The forward of the fused stage no longer waits for what it reads, its backward does: the published simulator's rule, which no
 * run can follow. Errors: QN_EINVAL (not a plan of roundpipe whose workers hold their stages), QN_ENOMEM. */
qn_status qni_rounds_head_ahead(qn_plan *p, qn_err *err) QN_MUST_USE;

#endif

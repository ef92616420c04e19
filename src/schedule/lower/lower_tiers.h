/* Lowering with tiers, private to lower_tiers.c and tier_visits.c.
 *
 *   group     one task of the order, with the R and PACK in front of it
 *   visit     neighbouring groups that need their pieces' weights all at once
 *   stay      one stay of a piece's weights in a worker's arena: loaded behind a visit, dropped behind a later one */
#ifndef QN_SCHEDULE_LOWER_TIERS_H
#define QN_SCHEDULE_LOWER_TIERS_H

#include "lower.h"

typedef struct qni_group {
    int32_t op, stage, item;
    int32_t visit, stay;
    bool ends_gradient;  /* the last addition to its piece's gradient */
    int32_t first, last; /* its tasks' places in the comp lane */
} qni_group;

typedef struct qni_visit {
    int32_t first, last; /* groups */
} qni_visit;

typedef struct qni_stay {
    int32_t stage;
    int32_t after;       /* visit behind which it may be loaded, -1: from the start */
    int32_t use;         /* first visit that needs it */
    int32_t value;       /* its chunks, then its packed weights: builder ids, QN_NONE before the first use */
    int32_t last;        /* builder task of its last use */
    int64_t packed_from; /* when PACK begins, in half steps of the comp lane */
    bool forever;        /* stays for the next step */
} qni_stay;

typedef struct qni_tour { /* of one worker */
    qni_group *group;
    qni_visit *visit;
    qni_stay *stay;
    int32_t groups, visits, stays, stay_cap;
} qni_tour;

/* Cuts the worker's part of the order into visits and says which piece stays from when to when, for a window of k visits' pieces,
 * of which replace are exchanged at a time. keep: pieces that all fit stay for good. Errors: QN_ENOMEM. */
qn_status qni_tour_open(qni_tour *out, const qn_order *o, int32_t worker, bool forward_only, const qn_tiers *t,
                        qn_err *err) QN_MUST_USE;
void qni_tour_close(qni_tour *t);

qn_status qni_lower_tiers(qn_plan **out, const qn_order *o, const qn_lowering *how, bool training, qn_err *err) QN_MUST_USE;

#endif

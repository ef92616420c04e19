/* 1F1B with flush, Narayanan et al. 2021, arXiv:2006.09503. */
#include "schedule/gen/gen.h"

#include "core/checked.h"

/* Pattern: workers P, items M (any M >= 1), one stage per worker. Worker s: P - 1 - s forwards to warm up, then one forward and
 * one backward in turn, then the backwards that are left; at most min(P - s, M) in flight. */
qn_status qn_gen_1f1b(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    for (int32_t s = 0; s < pat->workers; s++) {
        const int32_t warm = qn_min32(pat->workers - 1 - s, pat->items);
        int32_t f = 0, b = 0;
        while (f < warm) qn_order_push(order, s, QN_OP_F, s, f++);
        while (f < pat->items) {
            qn_order_push(order, s, QN_OP_F, s, f++);
            qn_order_push(order, s, QN_OP_BW, s, b++);
        }
        while (b < pat->items) qn_order_push(order, s, QN_OP_BW, s, b++);
    }
    return qn_order_done(order, err);
}

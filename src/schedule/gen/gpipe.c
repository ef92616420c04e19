/* GPipe, Huang et al. 2018, arXiv:1811.06965: all forwards, then all backwards. The backwards run in ascending order too, so that
 * gradients are added as in every other schedule; the makespan is the same. Stages of one worker are visited in turn, the
 * backward in reverse. */
#include "schedule/gen/gen.h"

/* Pattern: workers P, items M, chunks v; stage c * P + r is on worker r. Worker r gets M forwards and M backwards of each of its
 * stages. */
qn_status qn_gen_gpipe(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    const int32_t P = pat->workers;
    for (int32_t r = 0; r < P; r++) {
        for (int32_t c = 0; c < pat->chunks; c++) {
            for (int32_t i = 0; i < pat->items; i++) qn_order_push(order, r, QN_OP_F, c * P + r, i);
        }
        for (int32_t c = pat->chunks; c-- > 0;) {
            for (int32_t i = 0; i < pat->items; i++) qn_order_push(order, r, QN_OP_BW, c * P + r, i);
        }
    }
    return qn_order_done(order, err);
}

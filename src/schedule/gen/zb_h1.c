/* ZB-H1, Qi et al. 2024, arXiv:2401.10241, section 2.3: 1F1B with the backward split; weight gradients wait just long enough to
 * fill the end. Reconstructed from the paper's description. */
#include "schedule/gen/gen.h"
#include "schedule/gen/gen_parts.h"

/* Pattern: workers P, items M (any), one stage per worker. Worker r runs P - 1 - r forwards to warm up, and the W of an item
 * right after the B of the r-th item later; at most P in memory: P - r whole stashes and r that wait for their W. */
qn_status qn_gen_zb_h1(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    qni_gen_hand_split(order, pat, 1);
    return qn_order_done(order, err);
}

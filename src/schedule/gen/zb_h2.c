/* ZB-H2, Qi et al. 2024, arXiv:2401.10241, section 2.3: as ZB-H1 with twice the forwards in front, so that no worker waits
 * between its first and its last task. Reconstructed from the paper's description. */
#include "schedule/gen/gen.h"
#include "schedule/gen/gen_parts.h"

/* Pattern: workers P, items M (any), one stage per worker. Worker r runs 2 (P - 1 - r) forwards to warm up, and the W of an item
 * right after the B of the 2r-th item later; at most 2P - 1 in memory. */
qn_status qn_gen_zb_h2(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    qni_gen_hand_split(order, pat, 2);
    return qn_order_done(order, err);
}

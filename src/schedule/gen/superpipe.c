/* Superpipeline, arXiv:2410.08791: one worker, all micro-batches of a piece before the next piece, so that a piece's weights come
 * once per pass. The window (k, k') says how many pieces are there at a time; what it loads when is piece_window.h. The order of
 * visits is reconstructed from the paper's claims. */
#include "core/checked.h"
#include "schedule/gen/gen.h"

/* Pattern: one worker, items M (any), pieces (or v), window k and k'. Forward over the pieces, backward in reverse. */
qn_status qn_gen_superpipe(qn_order *o, const qn_pattern *pat, qn_err *err)
{
    const int32_t k = pat->window > 0 ? pat->window : o->stages, group = pat->window_group > 0 ? pat->window_group : 1;
    if (pat->window < 0 || pat->window_group < 0 || group > k)
        return QN_FAIL(err, QN_EINVAL,
                       "superpipe with a window of %d pieces, %d replaced at a time: k of at least 1 and k' from 1 to k",
                       pat->window, pat->window_group);
    o->window = qn_min32(k, o->stages);
    o->window_group = qn_min32(group, o->window);
    for (int32_t s = 0; s < o->stages; s++) {
        for (int32_t i = 0; i < o->items; i++) qn_order_push(o, 0, QN_OP_F, s, i);
    }
    for (int32_t s = o->stages; s-- > 0;) {
        for (int32_t i = 0; i < o->items; i++) qn_order_push(o, 0, QN_OP_BW, s, i);
    }
    return qn_order_done(o, err);
}

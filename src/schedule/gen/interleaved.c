/* Interleaved 1F1B, Narayanan et al. 2021 (Megatron-LM), arXiv:2104.04473: worker r holds the stages c * P + r, c = 0 .. v - 1.
 */
#include "schedule/gen/gen.h"

#include "core/checked.h"

typedef struct virtual_item {
    int32_t item, chunk;
} virtual_item;

/* Entry k of the table of virtual micro-batches: groups of g items, in each group chunk by chunk. The last group of m items may
 * be shorter. */
static virtual_item entry(int64_t k, int32_t v, int32_t g, int64_t m)
{
    const int64_t group = k / ((int64_t)g * v), first = group * g;
    const int64_t size = qn_min64(g, m - first), rest = k - first * v;
    return (virtual_item){.item = (int32_t)(first + rest % size), .chunk = (int32_t)(rest / size)};
}

/* Pattern: workers P, items M (any), chunks v, group g (0: P). Worker r runs W = 2 (P - 1 - r) + (v - 1) g virtual forwards to
 * warm up, then one forward and one backward in turn. A last group of fewer than P items, which taken literally can deadlock, is
 * generated for the next multiple of P and the surplus dropped. At most W + 1 chunks in flight. */
qn_status qn_gen_interleaved(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    const int32_t P = pat->workers, v = pat->chunks, g = pat->group > 0 ? pat->group : P, M = pat->items;
    const int64_t m = M % g >= P ? M : M % g == 0 ? M : (int64_t)M - M % g + P;
    const int64_t all = m * v;
    for (int32_t r = 0; r < P; r++) {
        const int64_t warm = qn_min64(2 * (int64_t)(P - 1 - r) + (int64_t)(v - 1) * g, all);
        for (int64_t k = 0; k < all + warm; k++) {
            if (k < all) {
                const virtual_item f = entry(k, v, g, m);
                if (f.item < M) qn_order_push(order, r, QN_OP_F, f.chunk * P + r, f.item);
            }
            if (k >= warm) {
                const virtual_item b = entry(k - warm, v, g, m);
                if (b.item < M) qn_order_push(order, r, QN_OP_BW, (v - 1 - b.chunk) * P + r, b.item);
            }
        }
    }
    return qn_order_done(order, err);
}

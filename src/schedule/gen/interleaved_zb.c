/* Interleaved zero bubble, as PyTorch ships it (ScheduleInterleavedZeroBubble, after Qi et al. 2024, arXiv:2401.10241):
 * interleaved 1F1B with half the warm-up per hop and the backward split; worker r starts on its W once r backwards of its steady
 * phase are ahead. Worker r holds the stages c * P + r. */
#include "core/checked.h"
#include "schedule/gen/gen.h"

/* The smallest count from items on that is a multiple of its own number of rounds, max(1, count / P). */
static int32_t whole_rounds(int32_t items, int32_t P)
{
    while (items % qn_max32(1, items / P) != 0) items++;
    return items;
}

typedef struct rounds {
    int32_t P, v, per_round, r;
} rounds;

/* Task k of a worker's forwards or, counted from the last chunk, backwards. */
static void push(qn_order *o, const rounds *n, qn_op op, int64_t k)
{
    const int64_t round = k / ((int64_t)n->per_round * n->v);
    const int32_t within = (int32_t)(k % ((int64_t)n->per_round * n->v)), at = within / n->per_round;
    const int32_t chunk = op == QN_OP_F ? at : n->v - 1 - at, item = (int32_t)round * n->per_round + within % n->per_round;
    if (item < o->items) qn_order_push(o, n->r, op, chunk * n->P + n->r, item);
}

/* Pattern: workers P, items M (any), chunks v >= 2. Where M does not divide into rounds, the order of the next M that does is
 * made and the surplus dropped. Worker r: (v - 1) m + P - 1 - r forwards first, m items a round; at most that and r + 1 in
 * memory. */
qn_status qn_gen_interleaved_zb(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    const int32_t P = pat->workers, v = pat->chunks, M = whole_rounds(pat->items, P);
    rounds n = {.P = P, .v = v, .per_round = M / qn_max32(1, M / P)};
    const int64_t all = (int64_t)M * v;
    for (n.r = 0; n.r < P; n.r++) {
        const int64_t warm = qn_min64((int64_t)(v - 1) * n.per_round + P - 1 - n.r, all);
        int64_t w = 0;
        for (int64_t k = 0; k < all + warm; k++) {
            if (k < all) push(order, &n, QN_OP_F, k);
            if (k >= warm) push(order, &n, QN_OP_B, k - warm);
            if (k - warm >= n.r) push(order, &n, QN_OP_W, w++);
        }
        while (w < all) push(order, &n, QN_OP_W, w++);
    }
    return qn_order_done(order, err);
}

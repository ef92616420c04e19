/* Lowering, pass step tasks: what happens once per step after the last backward of a worker.
 *
 *   replica                 owner                        every worker w          worker 0
 *   SEND tgrad ---------->  RECV, TIE                     NORM, SEND stat w --->  RECV, FOLD (all sums in parameter order)
 *                                                         RECV <----------------  SEND stat (the result)
 *                           OPT, SEND tparam -> RECV      OPT of its stages
 *
 * STAT of worker w has stage = w; the result has none. The result and a replica's received parameters stay alive at the step's
 * end (carried). */
#include "core/alloc.h"
#include "lower_vocab.h"

static uint64_t tag_of(int32_t cls, int32_t index)
{
    return (uint64_t)(uint32_t)cls << 48 | (uint64_t)(uint32_t)index << 32 | UINT32_MAX;
}

/* The replica's gradient comes to the owner and is added to its own. */
static void add_tie(qni_lower *l, int32_t owner, int32_t replica)
{
    const int32_t to = l->order->worker_of[owner], from = l->order->worker_of[replica];
    qni_builder *b = &l->b;
    const int32_t tie = qni_lower_comp(l, QN_OP_TIE, owner, QN_NONE, to);
    int32_t other = l->pgrad[replica];
    if (from != to) {
        const int32_t channel = qni_lower_channel(l, from, to, QN_V_TGRAD, replica);
        other = qni_add_value(b, QN_V_TGRAD, replica, QN_NONE, to, l->how->tied_bytes);
        const int32_t sent = l->pgrad[replica];
        if (!b->failed) b->value[sent].bytes = l->how->tied_bytes; /* what travels; its home is elsewhere */
        qni_lower_message(l, channel, QN_NONE, sent, other, tag_of(QN_V_TGRAD, replica));
    }
    qni_add_link(b, tie, QNI_IN, other);
    qni_add_link(b, tie, QNI_ACC, l->pgrad[owner]);
}

static int32_t add_norm(qni_lower *l, int32_t w)
{
    const int32_t norm = qni_lower_comp(l, QN_OP_NORM, QN_NONE, QN_NONE, w);
    const int32_t stat = qni_add_value(&l->b, QN_V_STAT, w, QN_NONE, w, l->how->stat_bytes);
    for (int32_t s = 0; s < l->stages; s++) {
        if (l->order->worker_of[s] == w) qni_add_link(&l->b, norm, QNI_IN, l->pgrad[s]);
    }
    qni_vocab_pgrads(l, norm, w, QN_NONE);
    qni_add_link(&l->b, norm, QNI_OUT, stat);
    if (w == 0) return stat;
    const int32_t there = qni_add_value(&l->b, QN_V_STAT, w, QN_NONE, 0, l->how->stat_bytes);
    qni_lower_message(l, qni_lower_channel(l, w, 0, QN_V_STAT, w), norm, stat, there, tag_of(QN_V_STAT, w));
    return there;
}

/* stat: [workers] on entry each worker's sums as worker 0 sees them, on return each worker's copy of the result. */
static void add_fold(qni_lower *l, int32_t *stat)
{
    qni_builder *b = &l->b;
    const int32_t fold = qni_lower_comp(l, QN_OP_FOLD, QN_NONE, QN_NONE, 0);
    for (int32_t w = 0; w < l->workers; w++) qni_add_link(b, fold, QNI_IN, stat[w]);
    for (int32_t w = 0; w < l->workers; w++) {
        stat[w] = qni_add_value(b, QN_V_STAT, QN_NONE, QN_NONE, w, l->how->stat_bytes);
        if (!b->failed) b->value[stat[w]].carried = true;
        if (w == 0)
            qni_add_link(b, fold, QNI_OUT, stat[0]);
        else
            qni_lower_message(l, qni_lower_channel(l, 0, w, QN_V_STAT, w), fold, stat[0], stat[w], tag_of(QN_V_STAT, w));
    }
}

static void add_optimizer(qni_lower *l, int32_t w, int32_t result)
{
    qni_builder *b = &l->b;
    for (int32_t s = 0; s < l->stages; s++) {
        if (l->order->worker_of[s] != w) continue;
        const int32_t opt = qni_lower_comp(l, QN_OP_OPT, s, QN_NONE, w);
        qni_add_link(b, opt, QNI_IN, result);
        qni_add_link(b, opt, QNI_IN, l->pgrad[s]);
        qni_vocab_pgrads(l, opt, w, s);
        const int32_t first = s - qn_shard(qn_order_grid(l->order), s) * qn_depth(qn_order_grid(l->order));
        if (first != l->how->tied_owner || l->how->tied_replica == QN_NONE) continue;
        const int32_t replica = l->how->tied_replica + s - first, to = l->order->worker_of[replica]; /* of the same shard */
        if (to == w) continue;
        const int32_t sent = qni_add_value(b, QN_V_TPARAM, replica, QN_NONE, w, l->how->tied_bytes);
        const int32_t there = qni_add_value(b, QN_V_TPARAM, replica, QN_NONE, to, l->how->tied_bytes);
        qni_add_link(b, opt, QNI_OUT, sent);
        if (!b->failed) b->value[there].carried = true;
        qni_lower_message(l, qni_lower_channel(l, w, to, QN_V_TPARAM, replica), opt, sent, there, tag_of(QN_V_TPARAM, replica));
    }
}

void qni_lower_step(qni_lower *l)
{
    int32_t *stat = qn_calloc((size_t)l->workers, sizeof *stat);
    if (stat == NULL) {
        l->b.failed = true;
        return;
    }
    const int32_t owner = l->how->tied_owner, replica = l->how->tied_replica, depth = qn_depth(qn_order_grid(l->order));
    for (int32_t k = 0; owner != QN_NONE && replica != QN_NONE && k < l->order->shards; k++)
        add_tie(l, owner + k * depth, replica + k * depth);
    for (int32_t w = 0; w < l->workers; w++) stat[w] = add_norm(l, w);
    add_fold(l, stat);
    for (int32_t w = 0; w < l->workers; w++) add_optimizer(l, w, stat[w]);
    qn_free(stat);
}

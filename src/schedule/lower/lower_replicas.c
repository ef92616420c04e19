/* Lowering, pass step tasks, for several replicas: the gradients of a stage travel to their owners, are folded there, and what
 * comes of it goes back to all replicas. The parameters of a stage are dealt out to the replicas (the caller says how many bytes
 * each owns); q is any replica, r the owner:
 *
 *   q, after its last backward          r                              q
 *   SEND tgrad(q, r) ----------------->  RECV, SUM, (TIE)
 *                                        SEND pgrad(r) ------------->   RECV into its accumulators, OPT     every replica steps
 *                                        OPT, SEND tparam(r) ------->   RECV into its values                zero1: r alone steps
 *
 * The values that travel have the owner's number as item: PGRAD at the sender and where sums come back, TGRAD on its way in the
 * owner's arena, TPARAM at both ends (carried where received). Stages on one worker share values and hand gradients over in
 * place: of those on another worker one receives (qn_stepping_stage). */
#include "lower_vocab.h"

static int32_t stage_of(const qni_lower *l, int32_t replica, int32_t shard, int32_t s)
{
    const qn_grid g = qn_order_grid(l->order);
    return qn_stage_at(g, replica * g.shards + shard, s);
}

static int64_t owned_bytes(const qni_lower *l, const int64_t *table, int32_t s, int32_t replica)
{
    return table == NULL ? 1 : table[s * qn_replicas(qn_order_grid(l->order)) + replica];
}

static void in_pieces(qni_lower *l)
{
    enum { PIECE = 1 << 20 };
    if (!l->b.failed) l->message[l->messages - 1].most = l->how->piece_bytes > 0 ? l->how->piece_bytes : PIECE;
}

/* What one replica owns of one stage comes together. */
static void add_sum(qni_lower *l, int32_t shard, int32_t s, int32_t r)
{
    const int32_t *worker_of = l->order->worker_of;
    const int32_t owner = stage_of(l, r, shard, s), to = worker_of[owner];
    const int64_t bytes = owned_bytes(l, l->how->sum_bytes, s, r);
    qni_builder *b = &l->b;
    if (bytes == 0) return;
    const int32_t sum = qni_lower_comp(l, QN_OP_SUM, owner, QN_NONE, to);
    for (int32_t q = 0; q < qn_replicas(qn_order_grid(l->order)); q++) {
        const int32_t other = stage_of(l, q, shard, s), from = worker_of[other];
        if (q == r) continue;
        if (from == to) {
            qni_add_link(b, sum, QNI_IN, l->pgrad[other]);
            qni_vocab_pgrads(l, sum, from, other);
            continue;
        }
        const int32_t sent = qni_add_value(b, QN_V_PGRAD, other, r, from, bytes),
                      there = qni_add_value(b, QN_V_TGRAD, other, r, to, bytes);
        qni_add_link(b, l->last_add[other], QNI_OUT, sent);
        qni_lower_message(l, qni_lower_channel(l, from, to, QN_V_TGRAD, other), l->last_add[other], sent, there,
                          qni_lower_step_tag(QN_V_TGRAD, other, r));
        in_pieces(l);
        qni_add_link(b, sum, QNI_IN, there);
    }
    qni_add_link(b, sum, QNI_ACC, l->pgrad[owner]);
    l->sum_task[owner] = sum;
}

void qni_lower_sums(qni_lower *l)
{
    const qn_grid g = qn_order_grid(l->order);
    if (qn_replicas(g) == 1) return;
    for (int32_t k = 0; k < g.shards; k++)
        for (int32_t s = 0; s < qn_column_stages(g); s++)
            for (int32_t r = 0; r < qn_replicas(g); r++) add_sum(l, k, s, r);
    for (int32_t s = 0; s < l->stages; s++)
        if (l->sum_task[s] != QN_NONE) l->last_add[s] = l->sum_task[s];
}

/* Sends value `sent` of the owner to every other worker that has the stage; the values that arrive are of class cls. */
static void send_to_replicas(qni_lower *l, int32_t owner, int32_t sent, int32_t producer, int32_t cls, int64_t bytes)
{
    const qn_grid g = qn_order_grid(l->order);
    const int32_t *worker_of = l->order->worker_of;
    const int32_t r = qn_replica(g, owner), from = worker_of[owner];
    qni_builder *b = &l->b;
    for (int32_t q = 0; q < qn_replicas(g); q++) {
        const int32_t other = stage_of(l, q, qn_shard(g, owner), qn_chain_stage(g, owner)), to = worker_of[other];
        if (to == from || qn_stepping_stage(g, worker_of, other, r) != other) continue;
        const int32_t there = qni_add_value(b, cls, other, r, to, bytes);
        const int32_t on = cls == QN_V_PGRAD ? QN_V_TGRAD : QN_V_TPARAM;
        if (cls == QN_V_PGRAD) l->sum_back[other * qn_replicas(g) + r] = there;
        if (cls == QN_V_TPARAM && !b->failed) b->value[there].carried = true;
        qni_lower_message(l, qni_lower_channel(l, from, to, on, other), producer, sent, there, qni_lower_step_tag(on, other, r));
        in_pieces(l);
    }
}

void qni_lower_sums_back(qni_lower *l)
{
    const qn_grid g = qn_order_grid(l->order);
    if (qn_replicas(g) == 1 || l->how->zero1) return;
    for (int32_t k = 0; k < g.shards; k++) {
        for (int32_t s = 0; s < qn_column_stages(g); s++) {
            for (int32_t r = 0; r < qn_replicas(g); r++) {
                const int32_t owner = stage_of(l, r, k, s);
                const int64_t bytes = owned_bytes(l, l->how->value_bytes, s, r);
                if (bytes == 0) continue;
                const int32_t sent = qni_add_value(&l->b, QN_V_PGRAD, owner, r, l->order->worker_of[owner], bytes);
                qni_add_link(&l->b, l->last_add[owner], QNI_OUT, sent);
                l->sum_back[owner * qn_replicas(g) + r] = sent; /* who clears it waits until it has left */
                send_to_replicas(l, owner, sent, l->last_add[owner], QN_V_PGRAD, bytes);
            }
        }
    }
}

void qni_lower_replica_reads(qni_lower *l, int32_t task, int32_t stage)
{
    const qn_grid g = qn_order_grid(l->order);
    if (qn_replicas(g) == 1) return;
    for (int32_t q = 0; q < qn_replicas(g); q++) {
        const int32_t back = l->sum_back[stage * qn_replicas(g) + q];
        if (back != QN_NONE) qni_add_link(&l->b, task, QNI_IN, back);
    }
}

void qni_lower_replica_done(qni_lower *l, int32_t opt, int32_t stage)
{
    const qn_grid g = qn_order_grid(l->order);
    const int32_t r = qn_replica(g, stage);
    qni_builder *b = &l->b;
    if (qn_replicas(g) == 1) return;
    const int64_t bytes = owned_bytes(l, l->how->value_bytes, qn_chain_stage(g, stage), r);
    if (!l->how->zero1 || bytes == 0) return;
    const int32_t sent = qni_add_value(b, QN_V_TPARAM, stage, r, l->order->worker_of[stage], bytes);
    qni_add_link(b, opt, QNI_OUT, sent);
    send_to_replicas(l, stage, sent, opt, QN_V_TPARAM, bytes);
}

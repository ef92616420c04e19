/* Lowering, pass step tasks: what happens once per step after the last backward of a worker.
 *
 *   replica                 owner                        every worker w          worker 0
 *   SEND tgrad ---------->  RECV, SUM                     (with several replicas: lower_replicas.c)
 *   SEND tgrad ---------->  RECV, TIE                     NORM, SEND stat w --->  RECV, FOLD (all sums in parameter order)
 *                                                         RECV <----------------  SEND stat (the result)
 *                           OPT, SEND tparam -> RECV      OPT of its stages
 *
 * STAT of worker w has stage = w; the result has none. The result and a replica's received parameters stay alive at the step's
 * end (carried). */
#include "core/alloc.h"
#include "lower_vocab.h"

uint64_t qni_lower_step_tag(int32_t cls, int32_t index, int32_t item)
{
    return (uint64_t)(uint32_t)cls << 48 | (uint64_t)(uint32_t)index << 32 | (uint32_t)item;
}

static bool is_tied(const qni_lower *l)
{
    return l->how->tied_owner != QN_NONE && l->how->tied_replica != QN_NONE;
}

/* The other use's gradient comes to the owner and is added to its own, once per shard, in the replica that owns the weight. */
static void add_tie(qni_lower *l, int32_t shard)
{
    const qn_grid g = qn_order_grid(l->order);
    const int32_t column = l->how->tied_home * g.shards + shard;
    const int32_t owner = qn_stage_at(g, column, l->how->tied_owner), replica = qn_stage_at(g, column, l->how->tied_replica);
    const int32_t to = l->order->worker_of[owner], from = l->order->worker_of[replica];
    qni_builder *b = &l->b;
    const int32_t tie = qni_lower_comp(l, QN_OP_TIE, owner, QN_NONE, to);
    int32_t other = l->pgrad[replica];
    if (from != to) {
        const int32_t channel = qni_lower_channel(l, from, to, QN_V_TGRAD, replica);
        other = qni_add_value(b, QN_V_TGRAD, replica, QN_NONE, to, l->how->tied_bytes);
        const int32_t sent = l->pgrad[replica];
        if (!b->failed) b->value[sent].bytes = l->how->tied_bytes; /* what travels; its home is elsewhere */
        qni_lower_message(l, channel, QN_NONE, sent, other, qni_lower_step_tag(QN_V_TGRAD, replica, QN_NONE));
    }
    qni_add_link(b, tie, QNI_IN, other);
    qni_add_link(b, tie, QNI_ACC, l->pgrad[owner]);
    l->last_add[owner] = tie;
}

int32_t qni_lower_norm(qni_lower *l, int32_t w, int32_t *stat)
{
    const int32_t norm = qni_lower_comp(l, QN_OP_NORM, QN_NONE, QN_NONE, w);
    *stat = qni_add_value(&l->b, QN_V_STAT, w, QN_NONE, w, l->how->stat_bytes);
    for (int32_t s = 0; s < l->stages; s++) {
        if (l->order->worker_of[s] == w) qni_add_link(&l->b, norm, QNI_IN, l->pgrad[s]);
    }
    qni_vocab_pgrads(l, norm, w, QN_NONE);
    qni_add_link(&l->b, norm, QNI_OUT, *stat);
    return norm;
}

/* The sums of a worker as worker 0 has them. */
static int32_t sums_for_fold(qni_lower *l, int32_t w)
{
    int32_t stat;
    const int32_t norm = qni_lower_norm(l, w, &stat);
    if (w == 0) return stat;
    const int32_t there = qni_add_value(&l->b, QN_V_STAT, w, QN_NONE, 0, l->how->stat_bytes);
    qni_lower_message(l, qni_lower_channel(l, w, 0, QN_V_STAT, w), norm, stat, there, qni_lower_step_tag(QN_V_STAT, w, QN_NONE));
    return there;
}

void qni_lower_fold(qni_lower *l, int32_t root, int32_t count, int32_t *stat)
{
    qni_builder *b = &l->b;
    const int32_t fold = qni_lower_comp(l, QN_OP_FOLD, QN_NONE, QN_NONE, root);
    for (int32_t i = 0; i < count; i++) qni_add_link(b, fold, QNI_IN, stat[i]);
    const int32_t made = qni_add_value(b, QN_V_STAT, QN_NONE, QN_NONE, root, l->how->stat_bytes);
    qni_add_link(b, fold, QNI_OUT, made);
    for (int32_t w = 0; w < l->workers; w++) {
        stat[w] = w == root ? made : qni_add_value(b, QN_V_STAT, QN_NONE, QN_NONE, w, l->how->stat_bytes);
        if (!b->failed) b->value[stat[w]].carried = true;
        if (w != root)
            qni_lower_message(l, qni_lower_channel(l, root, w, QN_V_STAT, w), fold, made, stat[w],
                              qni_lower_step_tag(QN_V_STAT, w, QN_NONE));
    }
}

/* Does a stage of the chain that is on worker w in some replica hold the owner's use of the tied weight there? */
static bool holds_tied(const qni_lower *l, int32_t shard, int32_t w)
{
    const qn_grid g = qn_order_grid(l->order);
    for (int32_t r = 0; r < qn_replicas(g); r++)
        if (l->order->worker_of[qn_stage_at(g, r * g.shards + shard, l->how->tied_owner)] == w) return true;
    return false;
}

/* The tied weight goes from where it is stepped to workers that have its other use alone. */
static void send_tied(qni_lower *l, int32_t opt, int32_t stage)
{
    const qn_grid g = qn_order_grid(l->order);
    const int32_t shard = qn_shard(g, stage), w = l->order->worker_of[stage];
    qni_builder *b = &l->b;
    int32_t sent = QN_NONE;
    for (int32_t r = 0; r < qn_replicas(g); r++) {
        const int32_t use = qn_stage_at(g, r * g.shards + shard, l->how->tied_replica), to = l->order->worker_of[use];
        bool first = true;
        for (int32_t q = 0; q < r; q++)
            first = first && l->order->worker_of[qn_stage_at(g, q * g.shards + shard, l->how->tied_replica)] != to;
        const int32_t from = qn_stage_at(g, (l->how->zero1 ? l->how->tied_home : r) * g.shards + shard, l->how->tied_owner);
        const int32_t steps = qn_stepping_stage(g, l->order->worker_of, from, l->how->tied_home);
        if (!first || steps != stage || holds_tied(l, shard, to)) continue;
        if (sent == QN_NONE) {
            sent = qni_add_value(b, QN_V_TPARAM, use, QN_NONE, w, l->how->tied_bytes);
            qni_add_link(b, opt, QNI_OUT, sent);
        }
        const int32_t there = qni_add_value(b, QN_V_TPARAM, use, QN_NONE, to, l->how->tied_bytes);
        if (!b->failed) b->value[there].carried = true;
        qni_lower_message(l, qni_lower_channel(l, w, to, QN_V_TPARAM, use), opt, sent, there,
                          qni_lower_step_tag(QN_V_TPARAM, use, QN_NONE));
    }
}

void qni_lower_stage_done(qni_lower *l, int32_t task, int32_t stage)
{
    const qn_grid g = qn_order_grid(l->order);
    qni_lower_replica_done(l, task, stage);
    if (is_tied(l) && qn_chain_stage(g, stage) == l->how->tied_owner) send_tied(l, task, stage);
}

static void add_optimizer(qni_lower *l, int32_t w, int32_t result)
{
    for (int32_t s = 0; s < l->stages; s++) {
        if (l->order->worker_of[s] != w) continue;
        const int32_t opt = qni_lower_comp(l, QN_OP_OPT, s, QN_NONE, w);
        qni_add_link(&l->b, opt, QNI_IN, result);
        qni_add_link(&l->b, opt, QNI_IN, l->pgrad[s]);
        qni_vocab_pgrads(l, opt, w, s);
        qni_lower_replica_reads(l, opt, s);
        qni_lower_stage_done(l, opt, s);
    }
}

void qni_lower_step(qni_lower *l)
{
    const qn_grid g = qn_order_grid(l->order);
    qni_lower_sums(l);
    qni_lower_joins(l);
    for (int32_t k = 0; is_tied(l) && k < g.shards; k++) add_tie(l, k);
    qni_lower_sums_back(l);
    if (l->how->post_validate) {
        qni_lower_validated(l);
        return;
    }
    int32_t *stat = qn_calloc((size_t)l->workers, sizeof *stat);
    if (stat == NULL) {
        l->b.failed = true;
        return;
    }
    for (int32_t w = 0; w < l->workers; w++) stat[w] = sums_for_fold(l, w);
    qni_lower_fold(l, 0, l->workers, stat);
    for (int32_t w = 0; w < l->workers; w++) add_optimizer(l, w, stat[w]);
    qn_free(stat);
}

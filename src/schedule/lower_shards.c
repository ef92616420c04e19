/* Lowering, pass shards: the channels on which workers exchange parts of sums while joint tasks run. One for each ordered pair of
 * workers that hold shards of one stage; no SEND and no RECV uses them. All joint sets of a pair share its channel, since both
 * workers run these sets in the same order.
 *
 * And the links between stages: shard k of a stage sends the k-th slice of what all its shards have alike (scatter/gather,
 * Narayanan et al. 2021, arXiv:2104.04473, section 4.1). */
#include "core/alloc.h"
#include "lower.h"

/* Is chain stage c of the replica on other workers than the stage before it, in every shard? */
static bool moves(const qn_order *o, int32_t replica, int32_t c)
{
    const qn_grid g = qn_order_grid(o);
    for (int32_t k = 0; k < o->shards; k++) {
        const int32_t s = qn_stage_at(g, replica * o->shards + k, c);
        if (o->worker_of[s] == o->worker_of[s - 1]) return false;
    }
    return true;
}

/* Outputs and their gradients are equal in all shards: each sends one slice. */
static void scatter(qni_lower *l)
{
    const qn_order *o = l->order;
    const qn_grid g = qn_order_grid(o);
    for (int32_t s = 0; s < o->stages && !l->b.failed; s++) {
        if (qn_first_in_column(g, s) || !moves(o, qn_replica(g, s), qn_chain_stage(g, s))) continue;
        qn_channel *act = &l->b.channel[l->act_channel[s]], *grad = &l->b.channel[l->grad_channel[s]];
        act->slice = qn_shard(g, s);
        act->slices = o->shards;
        if (!l->training) continue;
        grad->slice = qn_shard(g, s);
        grad->slices = o->shards;
    }
}

void qni_lower_shards(qni_lower *l)
{
    const qn_order *o = l->order;
    const qn_grid g = qn_order_grid(o);
    const size_t W = (size_t)o->workers;
    if (o->shards < 2 || l->how->part_bytes == 0) return;
    bool *meet = qn_calloc(W * W, sizeof *meet);
    if (meet == NULL) {
        l->b.failed = true;
        return;
    }
    for (int32_t s = 0; s < o->stages; s++) {
        const int32_t first = qn_replica(g, s) * o->shards;
        for (int32_t k = 0; k < o->shards; k++)
            meet[(size_t)o->worker_of[s] * W + (size_t)o->worker_of[qn_stage_at(g, first + k, qn_chain_stage(g, s))]] = true;
    }
    for (int32_t from = 0; from < o->workers; from++) {
        for (int32_t to = 0; to < o->workers; to++) {
            if (from == to || !meet[(size_t)from * W + (size_t)to]) continue;
            const int32_t c = qni_lower_channel(l, from, to, QN_V_PART, from);
            if (!l->b.failed) l->b.channel[c].slot_bytes = l->how->part_bytes;
        }
    }
    qn_free(meet);
    if (!l->how->whole_links) scatter(l);
}

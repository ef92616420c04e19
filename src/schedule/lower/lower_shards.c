/* Lowering, pass shards: the channels on which workers exchange parts of sums while joint tasks run. One for each ordered pair of
 * workers that hold shards of one stage; no SEND and no RECV uses them. All joint sets of a pair share its channel, since both
 * workers run these sets in the same order.
 *
 * And the links between stages: shard k of a stage sends the k-th slice of what all its shards have alike (scatter/gather,
 * Narayanan et al. 2021, arXiv:2104.04473, section 4.1). */
#include "core/alloc.h"
#include "lower.h"

/* By this table: is chain stage c of the replica on other workers than the stage before it, in every shard? */
static bool moves(const qn_order *o, const int32_t *worker_of, int32_t replica, int32_t c)
{
    const qn_grid g = qn_order_grid(o);
    for (int32_t k = 0; k < o->shards; k++) {
        const int32_t s = qn_stage_at(g, replica * o->shards + k, c);
        if (worker_of[s] == worker_of[s - 1]) return false;
    }
    return true;
}

static void slice(qn_channel *c, qn_grid g, int32_t stage)
{
    c->slice = qn_shard(g, stage);
    c->slices = g.shards;
}

/* Outputs and their gradients are equal in all shards: each sends one slice. */
static void scatter(qni_lower *l)
{
    const qn_order *o = l->order;
    const qn_grid g = qn_order_grid(o);
    for (int32_t s = 0; s < o->stages && !l->b.failed; s++) {
        if (qn_first_in_column(g, s) || qn_is_side(g, s)) continue;
        const int32_t replica = qn_replica(g, s), c = qn_chain_stage(g, s);
        const bool forward = moves(o, o->worker_of, replica, c);
        if (forward) slice(&l->b.channel[l->act_channel[s]], g, s);
        if (l->training && (o->backward_of != NULL ? moves(o, o->backward_of, replica, c) : forward))
            slice(&l->b.channel[l->grad_channel[s]], g, s);
    }
}

/* Marks all pairs of workers that hold shards of one stage. */
static void mark_meetings(bool *meet, const qn_order *o, const int32_t *worker_of)
{
    const qn_grid g = qn_order_grid(o);
    const size_t W = (size_t)o->workers;
    for (int32_t s = 0; s < o->stages; s++) {
        if (qn_is_side(g, s)) continue; /* meet nobody */
        const int32_t first = qn_replica(g, s) * o->shards;
        for (int32_t k = 0; k < o->shards; k++)
            meet[(size_t)worker_of[s] * W + (size_t)worker_of[qn_stage_at(g, first + k, qn_chain_stage(g, s))]] = true;
    }
}

void qni_lower_shards(qni_lower *l)
{
    const qn_order *o = l->order;
    const size_t W = (size_t)o->workers;
    if (o->shards < 2 || l->how->part_bytes == 0) return;
    bool *meet = qn_calloc(W * W, sizeof *meet);
    if (meet == NULL) {
        l->b.failed = true;
        return;
    }
    mark_meetings(meet, o, o->worker_of);
    if (o->backward_of != NULL) mark_meetings(meet, o, o->backward_of);
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

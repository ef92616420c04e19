/* Lowering, pass step tasks, for shards that have parts of gradients (sequence parallelism, adapters): JOIN adds the parts up on
 * all shards of a stage. It is a joint task, so workers exchange inside it, on their part channels:
 *
 *   shard 0   last W or BW, (SUM)   JOIN 0    (TIE)   NORM
 *                                    meets
 *   shard 1   last W or BW, (SUM)   JOIN 1    (TIE)   NORM
 *
 * All workers have their JOINs behind their backwards and SUMs, in the order of replicas and stages of the chain. */
#include "lower.h"

void qni_lower_joins(qni_lower *l)
{
    const qn_order *o = l->order;
    const qn_grid g = qn_order_grid(o);
    if (!l->how->joins || o->shards < 2) return;
    for (int32_t r = 0; r < qn_replicas(g); r++) {
        for (int32_t s = 0; s < qn_depth(g); s++) {
            for (int32_t k = 0; k < o->shards; k++) {
                const int32_t stage = qn_stage_at(g, r * o->shards + k, s);
                const int32_t join = qni_lower_comp(l, QN_OP_JOIN, stage, QN_NONE, o->worker_of[stage]);
                qni_add_link(&l->b, join, QNI_ACC, l->pgrad[stage]);
                l->last_add[stage] = join;
            }
        }
    }
}

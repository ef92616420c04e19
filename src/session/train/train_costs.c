/* What a run's tasks cost, for the generators that look at it (zb-1p, zb-2p, ...): said by --cost, measured by another run
 * (--cost-from), or else from the model's floating-point operations. The same configuration gives the same costs, so the same
 * plan; losses do not depend on it. */
#include <string.h>

#include "core/checked.h"
#include "model/cost.h"
#include "session/schedules/schedule_costs.h"
#include "train_run.h"

/* Every stage as the mean of them; numbers small enough that no sum over a step overflows. */
static void costs_of_flops(qn_pattern *pat, const qni_train_run *r, int64_t stages)
{
    const qn_train_options *o = r->opt;
    const int64_t samples = (o->batch + o->micro_batches - 1) / o->micro_batches;
    int64_t sum[3] = {0}, shard = 0;
    for (int32_t i = 0; i < qn_model_layers(r->model); i++) {
        const qn_layer_flops f = qn_layer_cost(r->model, i, samples, o->context);
        if (pat->vocab > 0 && i == qn_model_layers(r->model) - 1) { /* three products, in shards of their own */
            shard = (f.input + f.weight) / 3 / (pat->sides > 0 ? pat->sides : pat->workers);
            continue;
        }
        sum[0] += f.forward / stages;
        sum[1] += f.input / stages;
        sum[2] += f.weight / stages;
    }
    for (; sum[0] + sum[1] + sum[2] > 1000000; shard /= 2)
        for (int k = 0; k < 3; k++) sum[k] /= 2;
    pat->cost[QN_OP_VS] = qn_max64(pat->vocab == 2 ? 2 * shard : shard, 1);
    pat->cost[QN_OP_VT] = qn_max64(pat->vocab == 2 ? shard : 2 * shard, 1);
    pat->cost[QN_OP_F] = pat->cost[QN_OP_R] = qn_max64(sum[0], 1);
    pat->cost[QN_OP_B] = qn_max64(sum[1], 1);
    pat->cost[QN_OP_W] = qn_max64(sum[2], 1);
    pat->cost[QN_OP_BW] = pat->cost[QN_OP_B] + pat->cost[QN_OP_W];
}

qn_status qni_train_costs(qn_pattern *pat, const qni_train_run *r, qn_err *err)
{
    const qn_train_options *o = r->opt;
    const int64_t stages = (int64_t)pat->workers * pat->chunks;
    if (o->cost == NULL && o->cost_from == NULL) {
        costs_of_flops(pat, r, qn_max64(stages, 1));
        return QN_OK;
    }
    qni_costs c;
    const qn_status st = qni_costs_parse(&c, o->cost, o->cost_from, -1, err);
    if (st != QN_OK) return st;
    if (pat->vocab > 0) { /* shards that nothing is said of: as the operations have them beside a forward */
        costs_of_flops(pat, r, qn_max64(stages, 1));
        const double tick = (double)qn_max64(c.tick[QN_OP_F], 1) / (double)pat->cost[QN_OP_F];
        for (int op = QN_OP_VI; op <= QN_OP_VJ; op++)
            pat->cost[op] = c.tick[op] >= 0 ? c.tick[op] : (int64_t)((double)pat->cost[op] * tick);
    }
    for (int op = QN_OP_F; op <= QN_OP_R; op++) pat->cost[op] = qn_max64(c.tick[op], 1);
    pat->cost[QN_OP_SEND] = c.latency;
    const int32_t rows = c.stages > 0 ? c.stages : 1;
    int64_t stash = 0;
    for (int32_t i = 0; i < rows && c.size[QNI_SIZE_STASH] != NULL; i++) stash += c.size[QNI_SIZE_STASH][i] / rows;
    /* the stash stays until W, so that as much is held between B and W as before */
    if (stash > 0 && stash < (int64_t)1 << 40) pat->stash_size = pat->pending_size = stash;
    qni_costs_fini(&c);
    return QN_OK;
}

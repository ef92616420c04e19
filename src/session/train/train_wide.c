/* How a run's workers and micro-batches are shared out to replicas and shards, and how the schedule of one chain becomes that of
 * all. */
#include <inttypes.h>

#include "core/checked.h"
#include "schedule/gen/gen.h"
#include "train_run.h"

/* Replicas that a schedule consists of by itself: DualPipe's two directions. */
static int64_t own_replicas(const qn_train_options *o)
{
    const qn_generator *g = qn_generator_find(o->schedule);
    return g != NULL ? qn_generator_replicas(g) : 1;
}

/* Workers that share a stage: the largest number that divides both the shards and the workers of a replica, and leaves as many
 * workers of a shard as two directions need. */
static int64_t shard_workers(const qn_train_options *o)
{
    const int64_t t = qn_max64(o->tensor, 1), workers = o->workers / qn_max64(o->data_parallel, 1), own = own_replicas(o);
    int64_t n = t;
    while (n > 1 && (t % n != 0 || workers % n != 0 || workers / n % own != 0)) n--;
    return n;
}

qn_status qni_train_share(qn_pattern *pattern, const qn_train_options *o, qn_err *err)
{
    const int64_t d = qn_max64(o->data_parallel, 1);
    if (o->workers % d != 0 || o->micro_batches % d != 0)
        return QN_FAIL(err, QN_EINVAL,
                       "%" PRId64 " workers and %" PRId64 " micro-batches for --data-parallel %" PRId64
                       ": both must be multiples of it, for instance --workers %" PRId64 " --micro-batches %" PRId64,
                       o->workers, o->micro_batches, d, qn_max64(o->workers / d, 1) * d, qn_max64(o->micro_batches / d, 1) * d);
    pattern->workers = (int32_t)(o->workers / d / shard_workers(o));
    pattern->items = (int32_t)(o->micro_batches / d);
    return QN_OK;
}

qn_status qni_train_widen(qni_train_run *r, qn_err *err)
{
    const int64_t d = qn_max64(r->opt->data_parallel, 1), t = qn_max64(r->opt->tensor, 1);
    qn_order *wide;
    if (d == 1 && t == 1) return QN_OK;
    const qn_status st = qn_order_widen(&wide, r->order, (int32_t)d, (int32_t)t, (int32_t)shard_workers(r->opt), err);
    if (st != QN_OK) return st;
    qn_order_close(r->order);
    r->order = wide;
    return QN_OK;
}

int64_t qni_train_groups(const qn_train_options *o)
{
    const int64_t replicas = qn_max64(o->data_parallel, 1) * own_replicas(o),
                  groups = o->grad_groups > 0 ? o->grad_groups : replicas;
    return groups == 1 && replicas == 1 ? 0 : groups;
}

/* Columns: copies of the chain as replicas and shards. What they must divide, which tasks are joint, and how the order of one
 * chain becomes the order of many. */
#include <string.h>

#include "core/alloc.h"
#include "schedule_internal.h"

qn_status qni_check_grid(qn_grid g, qn_err *err)
{
    if (g.columns < 1 || g.shards < 1 || g.stages % g.columns != 0)
        return QN_FAIL(err, QN_EINVAL, "%d stages do not make %d columns of equal depth", g.stages, g.columns);
    if (g.columns % g.shards != 0)
        return QN_FAIL(err, QN_EINVAL, "%d columns do not make replicas of %d shards", g.columns, g.shards);
    if (g.sides < 0 || qn_depth(g) < 1)
        return QN_FAIL(err, QN_ESCHEDULE, "%d vocabulary shards of %d stages: at least one stage of the chain must be left",
                       g.sides, qn_column_stages(g));
    const int32_t replicas = qn_replicas(g), below = g.items / replicas * replicas;
    if (below == g.items) return QN_OK;
    if (below == 0)
        return QN_FAIL(err, QN_EINVAL, "%d micro-batches for %d replicas: %d, %d or another multiple of %d would do", g.items,
                       replicas, replicas, 2 * replicas, replicas);
    return QN_FAIL(err, QN_EINVAL, "%d micro-batches for %d replicas: %d, %d or another multiple of %d would do", g.items,
                   replicas, below, below + replicas, replicas);
}

int32_t qn_stepping_stage(qn_grid g, const int32_t *worker_of, int32_t stage, int32_t replica)
{
    const int32_t shard = qn_shard(g, stage), s = qn_chain_stage(g, stage), w = worker_of[stage];
    const int32_t owner = qn_stage_at(g, replica * g.shards + shard, s);
    if (worker_of[owner] == w) return owner;
    int32_t r = 0;
    while (worker_of[qn_stage_at(g, r * g.shards + shard, s)] != w) r++;
    return qn_stage_at(g, r * g.shards + shard, s);
}

/* ---- joint tasks */

bool qn_tasks_joint(const qn_plan *p, int32_t a, int32_t b)
{
    const qn_task *x = &p->task[a], *y = &p->task[b];
    const qn_grid g = qn_plan_grid(p);
    if (a == b) return true;
    return p->shards > 1 && qni_is_joint(x->op) && x->op == y->op && x->item == y->item && x->step == y->step && x->stage >= 0 &&
           y->stage >= 0 && qn_chain_stage(g, x->stage) == qn_chain_stage(g, y->stage) &&
           qn_replica(g, x->stage) == qn_replica(g, y->stage);
}

int32_t qn_joint_last(const qn_plan *p, int32_t t)
{
    if (p->shards < 2) return t;
    while (t + 1 < p->tasks && p->task[t + 1].worker == p->task[t].worker && qn_tasks_joint(p, t, t + 1)) t++;
    return t;
}

int32_t qn_joint_first(const qn_plan *p, int32_t t)
{
    if (p->shards < 2) return t;
    while (t > 0 && p->task[t - 1].worker == p->task[t].worker && qn_tasks_joint(p, t - 1, t)) t--;
    return t;
}

/* ---- from one chain to many */

static qn_status check_numbers(const qn_order *base, int32_t replicas, int32_t shards, int32_t shard_workers, qn_err *err)
{
    if (base->shards != 1)
        return QN_FAIL(err, QN_EINVAL,
                       "this schedule has %d shards of a stage already: replicas and shards are made of schedules without",
                       base->shards);
    if (replicas < 1 || shards < 1 || shard_workers < 1 || shards % shard_workers != 0)
        return QN_FAIL(
            err, QN_EINVAL,
            "%d replicas of %d shards, %d workers for the shards of a stage: at least 1 of each, and the last must divide "
            "the second",
            replicas, shards, shard_workers);
    if ((int64_t)base->stages * replicas * shards > 65536 || (int64_t)base->items * replicas > INT32_MAX)
        return QN_FAIL(err, QN_ERANGE, "%d replicas of %d shards of %d stages are too many", replicas, shards, base->stages);
    return QN_OK;
}

/* Shard k of a stage of copy r of base: each column of base becomes o->shards neighbouring ones. */
static int32_t wide_stage(const qn_order *o, const qn_order *base, int32_t r, int32_t stage, int32_t k)
{
    const int32_t each = base->stages / base->columns, column = stage / each;
    return ((r * base->columns + column) * o->shards + k) * each + stage % each;
}

/* The shards of a stage are spread over shard_workers workers, from the first of those that worker w of base in copy r becomes.
 */
static int32_t wide_worker(const qn_order *o, const qn_order *base, int32_t r, int32_t w, int32_t k, int32_t shard_workers)
{
    return (r * base->workers + w) * shard_workers + k / (o->shards / shard_workers);
}

/* A table of the base order's stages for all their copies; NULL stays NULL. */
static bool widen_sizes(int64_t **out, const qn_order *o, const qn_order *base, const int64_t *from, int32_t replicas)
{
    if (from == NULL) return true;
    *out = qn_malloc((size_t)o->stages, sizeof **out);
    for (int32_t r = 0; *out != NULL && r < replicas; r++)
        for (int32_t s = 0; s < base->stages; s++)
            for (int32_t k = 0; k < o->shards; k++) (*out)[wide_stage(o, base, r, s, k)] = from[s];
    return *out != NULL;
}

/* Every worker that one of base becomes has its limit. */
static bool widen_limits(qn_order *o, const qn_order *base, int32_t shard_workers)
{
    if (base->arena_limit == NULL) return true;
    o->arena_limit = qn_malloc((size_t)o->workers, sizeof *o->arena_limit);
    for (int32_t w = 0; o->arena_limit != NULL && w < o->workers; w++)
        o->arena_limit[w] = base->arena_limit[w / shard_workers % base->workers];
    return o->arena_limit != NULL;
}

static void place_stages(qn_order *o, const qn_order *base, int32_t r, int32_t shard_workers)
{
    for (int32_t s = 0; s < base->stages; s++) {
        for (int32_t k = 0; k < o->shards; k++) {
            const int32_t wide = wide_stage(o, base, r, s, k);
            o->worker_of[wide] = wide_worker(o, base, r, base->worker_of[s], k, shard_workers);
            if (base->backward_of != NULL) o->backward_of[wide] = wide_worker(o, base, r, base->backward_of[s], k, shard_workers);
        }
    }
}

/* Worker w of base in copy r. */
static void push_worker(qn_order *o, const qn_order *base, int32_t r, int32_t w, int32_t shard_workers)
{
    for (int32_t i = 0; i < base->count[w]; i++) {
        const qn_order_task *t = &base->task[w][i];
        for (int32_t k = 0; k < o->shards; k++)
            qn_order_push(o, wide_worker(o, base, r, w, k, shard_workers), (qn_op)t->op, wide_stage(o, base, r, t->stage, k),
                          r * base->items + t->item);
    }
}

qn_status qn_order_widen(qn_order **out, const qn_order *base, int32_t replicas, int32_t shards, int32_t shard_workers,
                         qn_err *err)
{
    qn_order *o = NULL;
    qn_status st = QN_OK;
    QN_TRY(st, check_numbers(base, replicas, shards, shard_workers, err), out);
    if (qn_rounds(base->items, base->round) > 1) {
        st = QN_FAIL(err, QN_EINVAL, "copies of an order in %d rounds: one round is possible (no --group)",
                     qn_rounds(base->items, base->round));
        goto out;
    }
    const int64_t workers = (int64_t)base->workers * replicas * shard_workers;
    if (workers > QN_MAX_WORKERS) {
        st = QN_FAIL(err, QN_ERANGE, "%lld workers: 1 to %d are possible", (long long)workers, QN_MAX_WORKERS);
        goto out;
    }
    const int32_t copies = replicas * shards; /* of every stage */
    QN_TRY(st, qn_order_open(&o, (int32_t)workers, base->stages * copies, base->items * replicas, err), out);
    o->columns = base->columns * copies;
    o->shards = shards;
    o->sides = base->sides;
    o->vocab = base->vocab;
    o->window = base->window;
    o->window_group = base->window_group;
    QN_TRY(st, qni_check_grid(qn_order_grid(o), err), out);
    memcpy(o->cost, base->cost, sizeof o->cost);
    if (!widen_limits(o, base, shard_workers) || !widen_sizes(&o->act_bytes, o, base, base->act_bytes, replicas) ||
        !widen_sizes(&o->stash_bytes, o, base, base->stash_bytes, replicas) ||
        !widen_sizes(&o->wstash_bytes, o, base, base->wstash_bytes, replicas)) {
        st = QN_FAIL(err, QN_ENOMEM, "order of %d stages", o->stages);
        goto out;
    }
    if (base->backward_of != NULL) QN_TRY(st, qn_order_split_backward(o, err), out);
    for (int32_t r = 0; r < replicas; r++) place_stages(o, base, r, shard_workers);
    for (int32_t r = 0; r < replicas; r++)
        for (int32_t w = 0; w < base->workers; w++) push_worker(o, base, r, w, shard_workers);
    QN_TRY(st, qn_order_done(o, err), out);
    *out = o;
    o = NULL;
out:
    qn_order_close(o);
    return st;
}

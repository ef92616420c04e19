/* The trainer's tasks: what the executor asks to be run, where a message's value is, how many bytes of it are there.
 *
 * A task finds its memory by the class of the values in its spans:
 *
 *   task        reads                                          writes
 *   F, R        x = act                                        y = act, stash
 *   B, BW       dy = grad, x = act, stash                      dx = grad, wstash (B)
 *   W           x = act, stash, wstash                         gradients in the homes
 *
 * Worker data (tokens, sums, result) is written by that worker's thread alone; the caller reads it between steps. */
#include <string.h>

#include "core/checked.h"
#include "core/clock.h"
#include "model/vocab.h"
#include "trainer_internal.h"

/* --- items */
static int64_t first_sample(const qn_trainer *t, int32_t item)
{
    return qn_min64(item * t->item_samples, t->desc.source->batch);
}

static int64_t sample_count(const qn_trainer *t, int32_t item)
{
    return first_sample(t, item + 1) - first_sample(t, item);
}

/* Which step of the flight a task is of. */
static int32_t step_of(const qn_trainer *t, const qn_task *task)
{
    return task->step - t->phase;
}

/* The step's samples, read by each worker that needs them before its first task. */
void qni_trainer_read(qn_trainer *t, train_worker *w, int32_t k)
{
    const qn_source *s = t->desc.source;
    const int64_t step = t->step + k, at = t->tiered ? k * s->batch : 0;
    if (w->read_step == step) return;
    w->read_step = step;
    if (w->tokens == NULL) return;
    for (int64_t i = 0; i < s->batch; i++) s->ops->read(s, step, i, w->tokens + (at + i) * s->T, w->targets + (at + i) * s->T);
}

/* Of step k of the flight. */
static qn_mb micro_batch(const qn_trainer *t, const train_worker *w, int32_t item, int32_t k)
{
    const int64_t first = first_sample(t, item), T = t->desc.source->T, at = first + (t->tiered ? k * t->desc.source->batch : 0);
    return (qn_mb){.B = sample_count(t, item),
                   .T = T,
                   .tokens = w->tokens != NULL ? w->tokens + at * T : NULL,
                   .targets = w->targets != NULL ? w->targets + at * T : NULL,
                   .seed = t->desc.seed,
                   .step = (uint32_t)(t->step + k),
                   .first_sample = (uint32_t)first,
                   .loss = &t->loss[k * t->plan->items + item]};
}

/* --- tasks */
static train_worker *worker_of(qn_trainer *t, const qn_task *task)
{
    return &t->worker[t->tiered ? 0 : task->worker];
}

static qn_stage *stage_of(qn_trainer *t, qn_executor *ex, int32_t index)
{
    return t->tiered ? qni_tier_bind(&t->tier, ex, index) : t->set.stage[t->plan->task[index].stage];
}

static void *value_in(qn_executor *ex, const qn_plan *p, qn_span span, qn_value_class cls)
{
    const int32_t v = qni_span_find(p, span, cls);
    return v == QN_NONE ? NULL : qn_executor_value(ex, v);
}

static qni_ports ports_of(const qn_trainer *t, qn_executor *ex, const qn_task *task, const qn_mb *mb)
{
    const qn_plan *p = t->plan;
    if (p->sides > 0) return qni_vocab_ports(t->set.stage[task->stage], p, ex, task, mb);
    return (qni_ports){.x = value_in(ex, p, task->in, QN_V_ACT),
                       .y = value_in(ex, p, task->out, QN_V_ACT),
                       .dy = value_in(ex, p, task->in, QN_V_GRAD),
                       .dx = value_in(ex, p, task->out, QN_V_GRAD)};
}

/* The pass of an F, R, B or BW. */
static qn_pass pass_of(void *ctx, qn_executor *ex, int32_t index, qn_mb *mb)
{
    qn_trainer *t = ctx;
    const qn_plan *p = t->plan;
    const qn_task *task = &p->task[index];
    qn_stage *stage = stage_of(t, ex, index);
    *mb = micro_batch(t, worker_of(t, task), task->item, step_of(t, task));
    const qni_ports io = ports_of(t, ex, task, mb);
    if (qn_shard(qn_plan_grid(p), task->stage) > 0)
        mb->loss = t->tiered ? &t->tier.unwanted[8 * task->worker] : &t->worker[task->worker].copied_loss;
    const bool part = qni_span_find(p, task->out, QN_V_RSTASH) != QN_NONE; /* R makes a part again */
    mb->rstash = value_in(ex, p, part ? task->out : task->in, QN_V_RSTASH);
    void *const made = value_in(ex, p, task->out, QN_V_STASH);
    if (part && made != NULL) return qn_pass_remake(stage, mb, io.x, made); /* on devices, of a stash that did not stay */
    if (part) return qn_pass_recompute(stage, mb, io.x, value_in(ex, p, task->in, QN_V_STASH));
    if (task->op == QN_OP_W)
        return qn_pass_backward_weight(stage, mb, io.x, value_in(ex, p, task->in, QN_V_STASH),
                                       value_in(ex, p, task->in, QN_V_WSTASH));
    if (task->op == QN_OP_F || task->op == QN_OP_R)
        return qn_pass_forward(stage, mb, io.y, io.x, value_in(ex, p, task->out, QN_V_STASH));
    return qn_pass_backward(stage, mb, io.dx, io.dy, io.x, value_in(ex, p, task->in, QN_V_STASH),
                            value_in(ex, p, task->out, QN_V_WSTASH));
}

static void add_value(const qn_trainer *t, void *grad)
{
    if (grad != NULL && t->homes.element == sizeof(double))
        *(double *)grad += t->spoil.value;
    else if (grad != NULL)
        *(float *)grad += (float)t->spoil.value;
}

/* Test hook: task has added to the gradient of a use. QN_NONE: to all of its stage, of which it is the first. */
static void spoil(qn_trainer *t, const qn_task *task, int32_t use)
{
    const qni_homes *h = &t->homes;
    const int32_t replica = qn_replica(h->grid, task->stage), first = qn_stage_at(h->grid, replica * h->grid.shards, 0);
    if (t->spoil.value == 0.0 || t->spoil.step != t->step + step_of(t, task) || t->spoil.item != task->item ||
        t->spoil.stage != task->stage - first)
        return;
    for (int32_t u = 0; u < h->uses && use == QN_NONE; u++)
        if (qni_use_stage(h, replica, u) == task->stage) use = u;
    if (use != QN_NONE) add_value(t, h->grad[replica][use]);
}

/* The same on devices: all gradients of a stage have come to the host. The first one that it owns is spoilt. */
static void spoil_landed(qn_trainer *t, int32_t k)
{
    const qni_homes *h = &t->homes;
    if (t->spoil.value == 0.0 || t->spoil.step != t->step + k) return;
    for (int32_t p = 0; p < h->params; p++) {
        if (h->owner[p] != t->spoil.stage || qni_homes_frozen(h, p)) continue;
        add_value(t, h->sum[0][h->first_use[p]]);
        return;
    }
}

static qn_status run_compute(qn_trainer *t, qn_executor *ex, int32_t index, qn_err *err)
{
    const qn_plan *p = t->plan;
    const qn_task *task = &p->task[index];
    qn_mb mb;
    if (p->shards > 1 && (task->op != QN_OP_W || t->set.sequence)) { /* W meets nobody else otherwise */
        const qn_status st = qni_shards_run(&t->shards, ex, index, pass_of, t, err);
        if (st != QN_OK || qn_joint_last(p, index) != index) return st; /* its part comes with the last one's */
    } else {
        qn_pass pass = pass_of(t, ex, index, &mb);
        while (qn_pass_step(&pass)) continue;
    }
    if (t->tiered || (task->op != QN_OP_BW && task->op != QN_OP_W)) return QN_OK; /* on devices: when they have landed */
    const bool alone = task->op == QN_OP_W && !t->set.sequence;
    for (int32_t i = alone ? index : qn_joint_first(p, index); i <= index; i++) {
        spoil(t, &p->task[i], QN_NONE);
        qni_homes_added(&t->homes, p->task[i].stage, task->item);
    }
    return QN_OK;
}

/* Of a vocabulary shard, whose two gradients come at different times. */
static void run_side(qn_trainer *t, qn_executor *ex, const qn_task *task)
{
    qn_mb mb = micro_batch(t, &t->worker[task->worker], task->item, step_of(t, task));
    const qn_grid g = qn_plan_grid(t->plan);
    if (qn_shard(g, task->stage) > 0) mb.loss = &t->worker[task->worker].copied_loss;
    qni_vocab_side_task(&t->set, t->plan, ex, task, &mb);
    if (task->op != QN_OP_VT && task->op != QN_OP_VJ) return;
    const int32_t side = qn_chain_stage(g, task->stage) - qn_depth(g);
    const int32_t use = qn_vocab_use(t->sharded, side, task->op == QN_OP_VJ) * g.shards + qn_shard(g, task->stage);
    if (task->op == QN_OP_VT) spoil(t, task, use);
    qni_homes_added_to(&t->homes, use, task->stage, task->item);
}

/* Targets of an item that count. */
static int64_t targets_of(const qn_trainer *t, const train_worker *w, int32_t item, int32_t k)
{
    const qn_mb mb = micro_batch(t, w, item, k);
    int64_t n = 0;
    for (int64_t i = 0; i < mb.B * mb.T; i++) n += mb.targets[i] >= 0;
    return n;
}

/* All uses of a shared weight in one stage: the plan has no TIE for it. */
static void tie_within(qn_trainer *t, int32_t stage)
{
    const qn_grid g = t->homes.grid;
    if (stage - qn_shard(g, stage) * qn_depth(g) != t->tied_stage) qni_tie(&t->homes, stage, NULL);
}

/* Of all stages of a worker, or of a stage of the host's alone, in all replicas. */
static bool takes_norm(const qn_trainer *t, const qn_task *task, int32_t stage)
{
    return t->set.worker_of[stage] == task->worker &&
           (task->stage == QN_NONE || task->stage == qn_in_first_replica(t->homes.grid, stage));
}

static void run_norm(qn_trainer *t, const qn_task *task)
{
    train_worker *w = &t->worker[task->worker];
    const int32_t items = t->plan->items, k = step_of(t, task);
    double *loss = w->sums + t->homes.params, *targets = loss + items;
    if (t->tiered && takes_norm(t, task, t->spoil.stage)) spoil_landed(t, k);
    for (int32_t s = 0; s < t->set.stages && qn_replicas(t->homes.grid) == 1; s++)
        if (takes_norm(t, task, s)) tie_within(t, s);
    qni_norm(&t->homes, task->worker, task->stage, w->sums);
    for (int32_t i = 0; i < items; i++) {
        const bool head = takes_norm(t, task, qni_head_of_item(&t->homes, i));
        loss[i] = head ? t->loss[k * items + i] : 0.0;
        targets[i] = head ? (double)targets_of(t, w, i, k) : 0.0;
    }
}

static void run_tie(qn_trainer *t, qn_executor *ex, const qn_task *task)
{
    qni_tie(&t->homes, task->stage, value_in(ex, t->plan, task->in, QN_V_TGRAD));
}

/* The replicas' gradients: as they came, or in place where they are on this worker. */
static void run_sum(qn_trainer *t, qn_executor *ex, const qn_task *task)
{
    const qn_plan *p = t->plan;
    const qn_grid g = qn_plan_grid(p);
    void *from[QN_MAX_WORKERS] = {NULL};
    for (int32_t i = 0; i < task->in.count; i++) {
        const int32_t v = p->ref[task->in.first + i];
        const qn_value *x = &p->value[v];
        from[qn_replica(g, x->stage)] =
            x->cls == QN_V_TGRAD ? qn_executor_value(ex, v) : qni_homes_sums(&t->homes, x->stage, qn_replica(g, task->stage));
    }
    qni_homes_reduce(&t->homes, task->stage, from);
    if (!t->joins || qn_is_side(g, task->stage)) tie_within(t, task->stage); /* before the sums go back; others: JOIN */
}

/* The same on the host, which has all of them: the parts of one stage that each replica owns. */
static void run_host_sum(qn_trainer *t, int32_t stage)
{
    const qn_grid g = t->homes.grid;
    void *from[QN_MAX_WORKERS];
    for (int32_t r = 0; r < qn_replicas(g); r++) {
        const int32_t owner = qn_stage_at(g, r * g.shards + qn_shard(g, stage), qn_chain_stage(g, stage));
        if (qni_homes_bundle(&t->homes, owner, r).bytes == 0) continue;
        for (int32_t q = 0; q < qn_replicas(g); q++)
            from[q] = qni_homes_sums(&t->homes, qn_stage_at(g, q * g.shards + qn_shard(g, stage), qn_chain_stage(g, stage)), r);
        qni_homes_reduce(&t->homes, owner, from);
        tie_within(t, owner);
    }
}

static void *array_to_join(void *ctx, int32_t task, int32_t index, int64_t *count)
{
    const qn_trainer *t = ctx;
    return qni_homes_join(&t->homes, t->plan->task[task].stage, index, count);
}

/* The parts of gradients that shards have; each use of a shared weight by itself, wherever it is. */
static qn_status run_join(qn_trainer *t, qn_executor *ex, int32_t index, qn_err *err)
{
    const qn_status st = qni_shards_join(&t->shards, ex, index, array_to_join, t, err);
    if (st != QN_OK || qn_joint_last(t->plan, index) != index || qn_replicas(t->homes.grid) == 1) return st;
    for (int32_t i = qn_joint_first(t->plan, index); i <= index; i++) tie_within(t, t->plan->task[i].stage);
    return QN_OK;
}

/* Each sum is of one worker's and zero at all others, so that adding them changes no bit; but squares may be there already, from
 * another replica that steps the same. */
static void run_guess(qn_trainer *t, const qn_task *task)
{
    const qn_plan *p = t->plan;
    train_worker *w = &t->worker[task->worker];
    const double *before = NULL;
    int64_t tokens = 0;
    for (int32_t i = 0; i < task->in.count; i++) {
        const qn_value *v = &p->value[p->ref[task->in.first + i]];
        if (v->cls == QN_V_STAT && v->item != QN_NONE) before = t->tiered ? w->partial : t->inbox[v->stage];
    }
    for (int64_t i = 0; i < t->sums_count; i++) {
        const double own = w->sums[i];
        w->partial[i] = before == NULL || (i < t->homes.params && own != 0.0) ? own : before[i] + own;
    }
    for (int32_t i = 0; i < p->items; i++) tokens += targets_of(t, w, i, step_of(t, task));
    if (qn_replicas(t->homes.grid) > 1) qni_norm_rest(&t->homes, task->worker, w->partial);
    qni_speculation_guess(&t->speculation, task->worker, w->partial, tokens);
}

/* Asked on the caller's thread, which is worker 0's. */
static void ask_to_stop(qn_trainer *t, const qn_task *task)
{
    const bool asks = t->desc.stop != NULL && t->steps > 1 && task->worker == 0 && task->lane == QN_LANE_COMP;
    if (asks && !atomic_load(&t->stopping) && t->desc.stop(t->desc.stop_ctx)) atomic_store(&t->stopping, true);
}

/* Whether the next step may stand on this one. A lagging optimizer cannot stop in the middle: devices are ahead of it. */
static bool goes_on(const qn_trainer *t, const qni_verdict *v)
{
    if (t->lag.h == NULL && atomic_load(&t->stopping)) return false;
    return t->desc.post_validate != QN_UNDO_NONE ? qni_speculation_agrees(&t->speculation, v) : v->finding == QNI_GOOD;
}

/* The decision: worker 0 has everybody's sums; in a post-validated step the last in line has them all in one. When the steps
 * that follow would stand on something else, it ends the flight (speculate.h); nobody has acted on it yet. */
static void run_fold(qn_trainer *t, qn_executor *ex, int32_t worker, int32_t k)
{
    qni_verdict v;
    const double *sums[QN_MAX_WORKERS];
    const bool partial = t->desc.post_validate != QN_UNDO_NONE;
    for (int32_t w = 0; w < t->set.workers; w++) sums[w] = partial ? t->worker[worker].partial : t->inbox[w];
    qni_fold(&v, &t->homes, sums, t->plan->items, t->desc.hyper.clip);
    memcpy(t->worker[worker].result, &v, sizeof(v));
    t->verdict[k] = v;
    t->decided_ns[k] = qn_now_ns();
    if (t->lag.h != NULL) qni_lag_note(&t->lag, &v, t->step + k, t->lr[k]);
    if (k + 1 == t->steps || goes_on(t, &v)) return;
    t->ended = k;
    qn_executor_cancel(ex);
}

/* OPT or VALIDATE of a post-validated step; on the host, of the stage in all replicas. Returns false when a step that was taken
 * turned out to be another one. */
static bool run_speculated(qn_trainer *t, const qn_task *task, int64_t step, double lr)
{
    const qn_grid g = t->homes.grid;
    qni_verdict v;
    bool held = true;
    memcpy(&v, worker_of(t, task)->result, sizeof(v));
    for (int32_t c = qn_column(g, task->stage); c < g.columns; c += g.shards) {
        const int32_t stage = qn_stage_at(g, c, qn_chain_stage(g, task->stage));
        if (task->op == QN_OP_OPT)
            qni_speculation_step(&t->speculation, stage, step, lr);
        else
            held &= qni_speculation_validate(&t->speculation, stage, &v, step, lr);
        if (!t->tiered) break;
    }
    return held;
}

static qn_status run_opt(qn_trainer *t, const qn_task *task, qn_err *err)
{
    const int32_t k = step_of(t, task);
    const int64_t step = t->step + k;
    const double lr = t->lr[k];
    if (t->desc.post_validate != QN_UNDO_NONE) {
        if (run_speculated(t, task, step, lr) || k + 1 == t->steps) return QN_OK;
        return QN_FAIL(err, QN_EINTERNAL, "step %lld: stage %d guessed otherwise than was decided, but the next step has begun",
                       (long long)step + 1, task->stage);
    }
    qni_verdict v;
    if (t->lag.h != NULL) {
        qni_lag_opt(&t->lag, task->stage, &t->desc.hyper);
        return QN_OK;
    }
    memcpy(&v, worker_of(t, task)->result, sizeof(v));
    if (t->tiered)
        qni_optimize_all(&t->homes, task->stage, &v, &t->desc.hyper, step, lr);
    else
        qni_optimize(&t->homes, task->stage, &v, &t->desc.hyper, step, lr);
    return QN_OK;
}

static qn_status run_task(void *ctx, qn_executor *ex, int32_t index, qn_err *err)
{
    qn_trainer *t = ctx;
    const qn_task *task = &t->plan->task[index];
    /* A decision on the step before may come while this worker's samples are those of the next one. */
    if (!t->tiered && task->op != QN_OP_VALIDATE) qni_trainer_read(t, &t->worker[task->worker], step_of(t, task));
    ask_to_stop(t, task);
    switch (task->op) {
    case QN_OP_F:
    case QN_OP_R:
    case QN_OP_B:
    case QN_OP_W:
    case QN_OP_BW:
        return run_compute(t, ex, index, err);
    case QN_OP_VI:
    case QN_OP_VS:
    case QN_OP_VT:
    case QN_OP_VJ:
        run_side(t, ex, task);
        return QN_OK;
    case QN_OP_PACK:
        qn_stage_pack(stage_of(t, ex, index));
        return QN_OK;
    case QN_OP_PCOPY:
        qni_lag_pcopy(&t->lag, task->stage);
        return QN_OK;
    case QN_OP_GCOPY:
        qni_lag_gcopy(&t->lag, task->stage);
        return QN_OK;
    case QN_OP_SUM:
        if (t->tiered)
            run_host_sum(t, task->stage);
        else
            run_sum(t, ex, task);
        return QN_OK;
    case QN_OP_JOIN:
        return run_join(t, ex, index, err);
    case QN_OP_TIE:
        run_tie(t, ex, task);
        return QN_OK;
    case QN_OP_NORM:
        run_norm(t, task);
        return QN_OK;
    case QN_OP_GUESS:
        run_guess(t, task);
        return QN_OK;
    case QN_OP_FOLD:
        run_fold(t, ex, task->worker, step_of(t, task));
        return QN_OK;
    case QN_OP_OPT:
    case QN_OP_VALIDATE:
        return run_opt(t, task, err);
    default:
        return QN_FAIL(err, QN_EINTERNAL, "the plan holds a task of kind %d on the compute lane", task->op);
    }
}

static void *tier_home(void *ctx, int32_t value, size_t *bytes)
{
    const qn_trainer *t = ctx;
    return qni_tier_home(&t->tier, value, bytes);
}

static qn_status tier_copy(void *ctx, qn_executor *ex, int32_t task, size_t at, size_t bytes, qn_err *err)
{
    qn_trainer *t = ctx;
    return qni_tier_copy(&t->tier, ex, task, at, bytes, err);
}

/* A message's value that is no part of an arena. */
static void *home_of(void *ctx, int32_t value, size_t *bytes)
{
    qn_trainer *t = ctx;
    const qn_value *v = &t->plan->value[value];
    qni_homes *h = &t->homes;
    const int32_t k = v->stage == QN_NONE || v->cls == QN_V_STAT ? 0 : qn_shard(qn_plan_grid(t->plan), v->stage);
    switch (v->cls) {
    case QN_V_STAT: /* stage: whose sums, with an item those of all workers up to it; none: the result */
        *bytes = (size_t)t->sums_count * sizeof(double);
        if (v->stage == QN_NONE) return t->worker[v->worker].result;
        if (v->item != QN_NONE && v->worker == v->stage) return t->worker[v->worker].partial;
        return v->worker == v->stage ? t->worker[v->worker].sums : t->inbox[v->stage];
    case QN_V_TPARAM: /* item: the owner whose part of the stage's values it is; none: the shared weight */
        *bytes = (size_t)v->bytes;
        return v->item == QN_NONE ? h->value[v->worker][h->tied + k] : qni_homes_values(h, v->stage, v->item);
    case QN_V_PGRAD: /* the same of the gradients, which leave from their sums and come back there */
        *bytes = (size_t)v->bytes;
        if (v->item != QN_NONE) return qni_homes_sums(h, v->stage, v->item);
        return h->tied == QN_NONE ? NULL : h->sum[qn_replica(h->grid, v->stage)][h->tied_use + k];
    default:
        *bytes = 0;
        return NULL;
    }
}

static size_t actual_bytes(void *ctx, int32_t value)
{
    const qn_trainer *t = ctx;
    const qn_value *v = &t->plan->value[value];
    if (t->plan->sides > 0 && v->item != QN_NONE)
        return qni_vocab_actual(&t->set, t->plan, v, sample_count(t, v->item) * t->desc.source->T);
    if (v->cls != QN_V_ACT && v->cls != QN_V_GRAD) return (size_t)v->bytes;
    return (size_t)qni_stage_set_act_bytes(&t->set, v->stage, sample_count(t, v->item) * t->desc.source->T);
}

qn_task_fns qni_trainer_fns(const qn_trainer *t)
{
    return (qn_task_fns){
        .run = run_task, .home = t->tiered ? tier_home : home_of, .actual = actual_bytes, .copy = t->tiered ? tier_copy : NULL};
}

/* The trainer: binds a plan's tasks to stages, homes and source.
 *
 * A task finds its memory by the class of the values in its spans:
 *
 *   task        reads                                          writes
 *   F, R        x = act                                        y = act, stash
 *   B, BW       dy = grad, x = act, stash                      dx = grad, wstash (B)
 *   W           x = act, stash, wstash                         gradients in the homes
 *
 * Worker data (tokens, sums, result) is written by that worker's thread alone; the caller reads it between steps. */
#include "trainer.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
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

/* The step's samples, read by each worker that needs them before its first task. */
static void read_samples(qn_trainer *t, train_worker *w)
{
    const qn_source *s = t->desc.source;
    if (w->read_step == t->step) return;
    w->read_step = t->step;
    if (w->tokens == NULL) return;
    for (int64_t i = 0; i < s->batch; i++) s->ops->read(s, t->step, i, w->tokens + i * s->T, w->targets + i * s->T);
}

static qn_mb micro_batch(const qn_trainer *t, const train_worker *w, int32_t item)
{
    const int64_t first = first_sample(t, item), T = t->desc.source->T;
    return (qn_mb){.B = sample_count(t, item),
                   .T = T,
                   .tokens = w->tokens != NULL ? w->tokens + first * T : NULL,
                   .targets = w->targets != NULL ? w->targets + first * T : NULL,
                   .seed = t->desc.seed,
                   .step = (uint32_t)t->step,
                   .first_sample = (uint32_t)first,
                   .loss = &t->loss[item]};
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

/* The pass of an F, R, B or BW. */
static qn_pass pass_of(void *ctx, qn_executor *ex, int32_t index, qn_mb *mb)
{
    qn_trainer *t = ctx;
    const qn_plan *p = t->plan;
    const qn_task *task = &p->task[index];
    qn_stage *stage = stage_of(t, ex, index);
    const void *x = value_in(ex, p, task->in, QN_V_ACT);
    *mb = micro_batch(t, worker_of(t, task), task->item);
    if (qn_shard(qn_plan_grid(p), task->stage) > 0) mb->loss = &t->worker[task->worker].copied_loss;
    const bool part = qni_span_find(p, task->out, QN_V_RSTASH) != QN_NONE; /* R makes a part again */
    mb->rstash = value_in(ex, p, part ? task->out : task->in, QN_V_RSTASH);
    if (part) return qn_pass_recompute(stage, mb, x, value_in(ex, p, task->in, QN_V_STASH));
    if (task->op == QN_OP_F || task->op == QN_OP_R)
        return qn_pass_forward(stage, mb, value_in(ex, p, task->out, QN_V_ACT), x, value_in(ex, p, task->out, QN_V_STASH));
    return qn_pass_backward(stage, mb, value_in(ex, p, task->out, QN_V_GRAD), value_in(ex, p, task->in, QN_V_GRAD), x,
                            value_in(ex, p, task->in, QN_V_STASH), value_in(ex, p, task->out, QN_V_WSTASH));
}

static qn_status run_compute(qn_trainer *t, qn_executor *ex, int32_t index, qn_err *err)
{
    const qn_plan *p = t->plan;
    const qn_task *task = &p->task[index];
    qn_mb mb;
    if (p->sides > 0) {
        mb = micro_batch(t, &t->worker[task->worker], task->item);
        qni_vocab_chain_task(&t->set, p, ex, task, &mb, false);
        return QN_OK;
    }
    if (task->op == QN_OP_W) {
        mb = micro_batch(t, worker_of(t, task), task->item);
        mb.rstash = value_in(ex, p, task->in, QN_V_RSTASH);
        qn_stage_backward_weight(stage_of(t, ex, index), &mb, value_in(ex, p, task->in, QN_V_ACT),
                                 value_in(ex, p, task->in, QN_V_STASH), value_in(ex, p, task->in, QN_V_WSTASH));
        qni_homes_added(&t->homes, task->stage, task->item);
        return QN_OK;
    }
    if (p->shards > 1) {
        const qn_status st = qni_shards_run(&t->shards, ex, index, pass_of, t, err);
        if (st != QN_OK || qn_joint_last(p, index) != index) return st; /* its part comes with the last one's */
    } else {
        qn_pass pass = pass_of(t, ex, index, &mb);
        while (qn_pass_step(&pass)) continue;
    }
    for (int32_t i = qn_joint_first(p, index); task->op == QN_OP_BW && i <= index; i++)
        qni_homes_added(&t->homes, p->task[i].stage, task->item);
    return QN_OK;
}

/* Targets of an item that count. */
static int64_t targets_of(const qn_trainer *t, const train_worker *w, int32_t item)
{
    const qn_mb mb = micro_batch(t, w, item);
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

/* Test hook: the first gradient of a stage. */
static void spoil(qn_trainer *t, int32_t worker)
{
    qni_homes *h = &t->homes;
    for (int32_t u = 0; u < h->uses && t->spoil.value != 0.0 && t->spoil.step == t->step; u++) {
        const int32_t stage = t->spoil.stage;
        if (qni_homes_worker(h, stage) != worker || qni_use_stage(h, 0, u) != stage) continue;
        if (h->element == sizeof(double))
            *(double *)h->sum[0][u] += t->spoil.value;
        else
            *(float *)h->sum[0][u] += (float)t->spoil.value;
        return;
    }
}

static void run_norm(qn_trainer *t, int32_t worker)
{
    train_worker *w = &t->worker[worker];
    const int32_t items = t->plan->items;
    double *loss = w->sums + t->homes.params, *targets = loss + items;
    for (int32_t s = 0; s < t->set.stages && qn_replicas(t->homes.grid) == 1; s++)
        if (t->set.worker_of[s] == worker) tie_within(t, s);
    spoil(t, worker);
    qni_norm(&t->homes, worker, w->sums);
    for (int32_t i = 0; i < items; i++) {
        const bool head = t->set.worker_of[qni_head_of_item(&t->homes, i)] == worker;
        loss[i] = head ? t->loss[i] : 0.0;
        targets[i] = head ? (double)targets_of(t, w, i) : 0.0;
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
    tie_within(t, task->stage); /* before the sums go back */
}

/* Each sum is of one worker's and zero at all others, so that adding them changes no bit. */
static void run_guess(qn_trainer *t, int32_t worker)
{
    train_worker *w = &t->worker[worker];
    const double *before = worker > 0 ? t->inbox[worker - 1] : NULL;
    int64_t tokens = 0;
    for (int64_t i = 0; i < t->sums_count; i++) w->partial[i] = before != NULL ? before[i] + w->sums[i] : w->sums[i];
    for (int32_t i = 0; i < t->plan->items; i++) tokens += targets_of(t, w, i);
    qni_speculation_guess(&t->speculation, worker, w->partial, tokens);
}

/* The decision: worker 0 has everybody's sums; in a post-validated step the last worker has them all in one. */
static void run_fold(qn_trainer *t, int32_t worker)
{
    qni_verdict v;
    const double *sums[QN_MAX_WORKERS];
    const bool partial = t->desc.post_validate != QN_UNDO_NONE;
    for (int32_t w = 0; w < t->set.workers; w++) sums[w] = partial ? t->worker[worker].partial : t->inbox[w];
    qni_fold(&v, &t->homes, sums, t->plan->items, t->desc.hyper.clip);
    memcpy(t->worker[worker].result, &v, sizeof(v));
}

static void run_opt(qn_trainer *t, const qn_task *task)
{
    if (t->desc.post_validate != QN_UNDO_NONE && task->op == QN_OP_OPT) {
        qni_speculation_step(&t->speculation, task->stage, t->step, t->lr);
        return;
    }
    qni_verdict v;
    if (t->lag.h != NULL) {
        qni_lag_opt(&t->lag, task->stage, &t->desc.hyper);
        return;
    }
    memcpy(&v, worker_of(t, task)->result, sizeof(v));
    if (task->op == QN_OP_VALIDATE)
        qni_speculation_validate(&t->speculation, task->stage, &v, t->step, t->lr);
    else
        qni_optimize(&t->homes, task->stage, &v, &t->desc.hyper, t->step, t->lr);
}

static qn_status run_task(void *ctx, qn_executor *ex, int32_t index, qn_err *err)
{
    qn_trainer *t = ctx;
    const qn_task *task = &t->plan->task[index];
    if (!t->tiered) read_samples(t, &t->worker[task->worker]);
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
    case QN_OP_VJ: {
        const qn_mb mb = micro_batch(t, &t->worker[task->worker], task->item);
        qni_vocab_side_task(&t->set, t->plan, ex, task, &mb);
        return QN_OK;
    }
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
        run_sum(t, ex, task);
        return QN_OK;
    case QN_OP_TIE:
        run_tie(t, ex, task);
        return QN_OK;
    case QN_OP_NORM:
        run_norm(t, task->worker);
        return QN_OK;
    case QN_OP_GUESS:
        run_guess(t, task->worker);
        return QN_OK;
    case QN_OP_FOLD:
        run_fold(t, task->worker);
        return QN_OK;
    case QN_OP_OPT:
    case QN_OP_VALIDATE:
        run_opt(t, task);
        return QN_OK;
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
    return (size_t)qni_stage_set_act_bytes(&t->set, sample_count(t, v->item) * t->desc.source->T);
}

/* --- opening */
static qn_status check_source(const qn_trainer_desc *d, qn_err *err)
{
    const qn_model_config *c = qn_model_config_of(d->model);
    const qn_source *s = d->source;
    if (s->batch < 1 || s->T < 1 || s->batch > INT32_MAX)
        return QN_FAIL(err, QN_EINVAL, "the source gives %lld samples of %lld tokens a step; at least one of each is needed",
                       (long long)s->batch, (long long)s->T);
    if (s->T > c->context)
        return QN_FAIL(err, QN_EINVAL, "samples of %lld tokens do not fit into the model's context of %d", (long long)s->T,
                       c->context);
    if (s->vocab > c->vocab)
        return QN_FAIL(err, QN_EINVAL, "the data has tokens up to %d; the model knows %d: it needs the model's own tokenizer",
                       s->vocab - 1, c->vocab);
    return QN_OK;
}

/* Whether a worker has an embedding or a head. */
static bool needs_samples(const qn_trainer *t, int32_t worker)
{
    if (t->sharded != NULL) return qni_vocab_reads(&t->set, worker);
    const qn_grid g = qn_plan_grid(t->plan);
    if (t->desc.post_validate != QN_UNDO_NONE) return true; /* who steps early counts the targets for itself */
    for (int32_t s = 0; s < t->set.stages; s++)
        if (t->set.worker_of[s] == worker && (qn_first_in_column(g, s) || qn_last_in_column(g, s))) return true;
    return false;
}

static qn_status take_workers(qn_trainer *t, qn_err *err)
{
    const int32_t P = t->set.workers;
    const size_t rows = (size_t)(t->desc.source->batch * t->desc.source->T);
    t->worker_bytes = (size_t)P * sizeof(*t->worker);
    t->worker = qn_alloc_pages(t->worker_bytes);
    t->inbox = qn_calloc((size_t)P, sizeof(*t->inbox));
    t->loss = qn_calloc((size_t)t->desc.order->items, sizeof(*t->loss));
    bool room = t->worker != NULL && t->inbox != NULL && t->loss != NULL;
    for (int32_t w = 0; room && w < P; w++) {
        train_worker *at = &t->worker[w];
        at->read_step = -1;
        at->sums = qn_calloc((size_t)t->sums_count, sizeof(double));
        at->result = qn_calloc((size_t)t->sums_count, sizeof(double));
        at->partial = qn_calloc((size_t)t->sums_count, sizeof(double));
        t->inbox[w] = w == 0 ? at->sums : qn_calloc((size_t)t->sums_count, sizeof(double));
        room = at->sums != NULL && at->result != NULL && at->partial != NULL && t->inbox[w] != NULL;
        if (!needs_samples(t, w)) continue;
        at->tokens = qn_calloc(rows, sizeof(int32_t));
        at->targets = qn_calloc(rows, sizeof(int32_t));
        room = room && at->tokens != NULL && at->targets != NULL;
    }
    return room ? QN_OK : QN_FAIL(err, QN_ENOMEM, "no memory for a step's samples, %zu tokens", rows);
}

static void free_workers(qn_trainer *t)
{
    for (int32_t w = 0; t->worker != NULL && w < t->set.workers; w++) {
        qn_free(t->worker[w].tokens);
        qn_free(t->worker[w].targets);
        qn_free(t->worker[w].sums);
        qn_free(t->worker[w].partial);
        qn_free(t->worker[w].result);
        if (t->inbox != NULL && w > 0) qn_free(t->inbox[w]);
    }
    if (t->worker != NULL) qn_free_pages(t->worker, t->worker_bytes);
    qn_free(t->inbox);
    qn_free(t->loss);
}

static qn_status open_executor(qn_trainer *t, qn_err *err)
{
    const qn_trainer_desc *d = &t->desc;
    const qn_executor_desc ex = {.plan = t->plan,
                                 .transport = d->transport,
                                 .faults = d->faults,
                                 .driver = d->driver,
                                 .fns = {.run = run_task,
                                         .home = t->tiered ? tier_home : home_of,
                                         .actual = actual_bytes,
                                         .copy = t->tiered ? tier_copy : NULL},
                                 .link_bytes_per_s = t->tiered ? d->tiers->link_bytes_per_s : 0,
                                 .jitter = d->jitter,
                                 .ctx = t,
                                 .threads_per_worker = d->threads,
                                 .pin = d->pin,
                                 .spins = -1};
    return qn_executor_open(&t->ex, &ex, err);
}

/* The model that the order asks for, with its cuts: the whole one, or one with vocabulary shards. cut: freed with qn_free. */
static qn_status shard_vocabulary(qn_trainer *t, int32_t **cut, qn_err *err)
{
    const qn_order *o = t->desc.order;
    qn_model_config c = *qn_model_config_of(t->desc.model);
    if (o->sides == 0) return QN_OK;
    for (int32_t p = 0; p < qn_model_params(t->desc.model); p++)
        if (qn_model_param(t->desc.model, p)->frozen)
            return QN_FAIL(err, QN_EUNSUPPORTED, "vocabulary shards with frozen parameters ('%s'): train all of the model",
                           qn_model_param(t->desc.model, p)->name);
    if (t->desc.groups > 1)
        return QN_FAIL(err, QN_EUNSUPPORTED, "vocabulary shards with %d groups of gradients: one group is possible",
                       t->desc.groups);
    c.vocab_shards = o->sides;
    const qn_status st = qn_model_open(&t->sharded, &c, err);
    return st == QN_OK ? qni_vocab_cuts(cut, t->desc.first_layer, o, t->sharded, err) : st;
}

static qn_status check_tiers(const qn_trainer_desc *d, qn_err *err)
{
    const qn_order *o = d->order;
    if (d->tiers == NULL || (o->columns <= 1 && o->sides == 0 && d->groups <= 1 && !d->zero1 && d->again == NULL)) return QN_OK;
    return QN_FAIL(
        err, QN_EUNSUPPORTED,
        "device memory goes with one replica, one group of gradients and a whole vocabulary, without zero1 and without "
        "selective recomputation");
}

/* Devices, and the copies of the state that they load from and put their gradients into. */
static qn_status open_tier(qn_trainer *t, qn_err *err)
{
    const qn_trainer_desc *d = &t->desc;
    const qni_tier_desc desc = {.model = d->model,
                                .k = t->set.k,
                                .order = d->order,
                                .first_layer = d->first_layer,
                                .limits = t->set.limits,
                                .threads = d->threads,
                                .chunks = d->order->items,
                                .pin = d->pin};
    qn_status st = qni_tier_init(&t->tier, &desc, err);
    if (st == QN_OK && d->tiers->lag > 0) st = qni_lag_init(&t->lag, &t->homes, err);
    if (st != QN_OK) return st;
    t->tier.value = d->tiers->lag > 0 ? t->lag.loaded : t->homes.value[0];
    t->tier.grad = d->tiers->lag > 0 ? t->lag.landed : t->homes.grad[0];
    return QN_OK;
}

qn_status qn_trainer_open(qn_trainer **out, const qn_trainer_desc *desc, qn_err *err)
{
    int32_t groups = 1;
    qn_status st = check_source(desc, err);
    *out = NULL;
    if (st == QN_OK) st = qni_trainer_groups(&groups, desc, err);
    if (st != QN_OK) return st;
    qn_trainer *t = qn_calloc(1, sizeof(*t));
    if (t == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a trainer");
    int32_t *cut = NULL;
    const qn_order *o = desc->order;
    int32_t *host = NULL;
    t->desc = *desc;
    if (t->desc.transport == NULL) t->desc.transport = qn_transport_find(desc->driver == QN_DRIVE_LOOP ? "self" : "thread");
    t->item_samples = (desc->source->batch + o->items - 1) / o->items;
    t->tiered = desc->tiers != NULL;
    host = qn_calloc((size_t)o->stages, sizeof(*host)); /* all stages on one worker: the host */
    st = host != NULL ? check_tiers(desc, err) : QN_FAIL(err, QN_ENOMEM, "no memory for %d stages", o->stages);
    if (st != QN_OK) goto out;
    QN_TRY(st, shard_vocabulary(t, &cut, err), out);
    const qn_stage_set_desc set = {.model = t->sharded != NULL ? t->sharded : desc->model,
                                   .first_layer = cut != NULL ? cut : desc->first_layer,
                                   .worker_of = t->tiered ? host : o->worker_of,
                                   .workers = t->tiered ? 1 : o->workers,
                                   .stages = o->stages,
                                   .unpacked = t->tiered,
                                   .columns = o->columns,
                                   .shards = o->shards,
                                   .threads = desc->threads,
                                   .mode = desc->mode,
                                   .limits = {.B = t->item_samples,
                                              .T = desc->source->T,
                                              .train = true,
                                              .again = desc->recompute == QN_RECOMPUTE_PART ? desc->again : NULL,
                                              .again_early = !desc->recompute_late},
                                   .pin = desc->pin};
    QN_TRY(st, qni_stage_set_init(&t->set, &set, err), out);
    QN_TRY(st, qni_homes_init(&t->homes, &t->set, o->items, groups, desc->zero1, err), out);
    if (t->tiered) QN_TRY(st, open_tier(t, err), out);
    QN_TRY(st, qni_trainer_plan(t, err), out);
    QN_TRY(st, take_workers(t, err), out);
    if (desc->post_validate != QN_UNDO_NONE)
        QN_TRY(st, qni_speculation_init(&t->speculation, &t->homes, &t->desc.hyper, desc->post_validate, err), out);
    QN_TRY(st, qni_shards_init(&t->shards, t->plan, &t->set, err), out);
    QN_TRY(st, open_executor(t, err), out);
    if (!t->tiered) qni_stage_set_bind(&t->set, (void *const *const *)t->homes.value, (void *const *const *)t->homes.grad);
    qni_homes_set_initial(&t->homes, desc->seed);
    qni_lag_restart(&t->lag);
    t->desc.order = NULL; /* the plan has taken its place */
    t->desc.first_layer = NULL;
    t->desc.again = NULL;
    t->desc.arena_limit = NULL;
    *out = t;
    t = NULL;
out:
    qn_free(cut);
    qn_free(host);
    qn_trainer_close(t);
    return st;
}

void qn_trainer_close(qn_trainer *t)
{
    if (t == NULL) return;
    if (t->eval_open) qni_forward_fini(&t->eval);
    qn_executor_close(t->ex);
    qni_shards_fini(&t->shards);
    qn_plan_close(t->plan);
    qni_tier_fini(&t->tier);
    qni_lag_fini(&t->lag);
    free_workers(t);
    qni_speculation_fini(&t->speculation);
    if (t->homes.set != NULL) qni_homes_fini(&t->homes);
    qni_stage_set_fini(&t->set);
    qn_model_close(t->sharded);
    qn_free(t);
}

/* --- steps */
static qn_status refusal(const qn_trainer *t, const qni_verdict *v, qn_err *err)
{
    const long long step = t->step + 1; /* counted from 1, as people do */
    char what[160], where[160];
    if (v->finding == QNI_NO_TARGETS)
        return QN_FAIL(err, QN_EINVAL, "step %lld has no targets: nothing can be learned from it", step);
    if (v->finding == QNI_BAD_LOSS)
        snprintf(what, sizeof(what), "the loss of micro-batch %d is %g", (int)v->where, t->loss[v->where]);
    else if (v->finding == QNI_BAD_GRADIENT)
        snprintf(what, sizeof(what), "the gradient of '%s' is not finite", qni_home_param(&t->homes, (int32_t)v->where)->name);
    else
        snprintf(what, sizeof(what), "the norm of the gradient is not finite");
    const int32_t p = qni_homes_not_finite(&t->homes);
    if (p == QN_NONE)
        snprintf(where, sizeof(where), "all parameters are finite, so a lower learning rate or clipping may help");
    else
        snprintf(where, sizeof(where), "parameter '%s' holds a number that is not finite", qni_home_param(&t->homes, p)->name);
    return QN_FAIL(err, QN_ENONFINITE, "step %lld: %s; %s. Nothing was changed by this step", step, what, where);
}

qn_status qn_trainer_step(qn_trainer *t, int64_t step, double lr, qn_step_result *result, qn_trace *trace, qn_err *err)
{
    const int64_t began = qn_now_ns();
    if (t->dirty) qni_homes_clear_grads(&t->homes);
    if (t->dirty) qni_lag_restart(&t->lag);
    t->dirty = true;
    t->step = step;
    t->lr = lr;
    memset(t->loss, 0, (size_t)t->plan->items * sizeof(*t->loss));
    for (int32_t w = 0; w < t->set.workers; w++) {
        t->worker[w].read_step = -1;
    }
    if (t->tiered) read_samples(t, &t->worker[0]);
    qni_shards_reset(&t->shards);
    const qn_status st = qn_executor_step(t->ex, trace, err);
    if (st != QN_OK) return st;
    t->dirty = false;
    qni_verdict v;
    memcpy(&v, t->worker[0].result, sizeof(v));
    if (t->desc.post_validate != QN_UNDO_NONE) qni_speculation_settle(&t->speculation, &v);
    if (t->lag.h != NULL) qni_lag_note(&t->lag, &v, step, lr);
    if (v.finding != QNI_GOOD) return refusal(t, &v, err);
    *result =
        (qn_step_result){.loss = v.loss / (double)v.tokens, .grad_norm = v.norm, .tokens = v.tokens, .ns = qn_now_ns() - began};
    return QN_OK;
}

qn_speculated qn_trainer_speculated(const qn_trainer *t)
{
    return (qn_speculated){.steps = t->speculation.steps, .wrong = t->speculation.wrong};
}

void qn_trainer_cancel(qn_trainer *t)
{
    qn_executor_cancel(t->ex);
    if (t->eval_open) qn_executor_cancel(t->eval.ex);
}

qn_status qn_trainer_evaluate(qn_trainer *t, const qn_tokens *tokens, qn_split_range part, int64_t max_windows, double *loss,
                              int64_t *targets, qn_err *err)
{
    if (t->tiered)
        return QN_FAIL(err, QN_EUNSUPPORTED, "evaluation on devices with little memory: use quern eval on a checkpoint");
    if (!t->eval_open) {
        const qni_forward_desc d = {.set = &t->set,
                                    .transport = t->desc.transport,
                                    .faults = t->desc.faults,
                                    .driver = t->desc.driver,
                                    .items = QNI_EVAL_ITEMS,
                                    .threads = t->desc.threads,
                                    .T = t->desc.source->T,
                                    .pin = t->desc.pin};
        const qn_status st = qni_forward_init(&t->eval, &d, err);
        if (st != QN_OK) {
            qni_forward_fini(&t->eval);
            return st;
        }
        t->eval_open = true;
    }
    t->eval.repack = true; /* the weights have moved since the last time */
    return qni_forward_evaluate(&t->eval, tokens, part, max_windows, loss, targets, err);
}

/* --- views */
const qn_plan *qn_trainer_plan(const qn_trainer *t)
{
    return t->plan;
}

static int64_t arenas_of(const qn_plan *p)
{
    int64_t bytes = 0;
    for (int32_t w = 0; w < p->workers; w++) bytes += p->arena_bytes[w];
    return bytes;
}

qn_memory qn_trainer_memory(const qn_trainer *t)
{
    return (qn_memory){.params = qni_homes_bytes(&t->homes, QNI_BLOCK_VALUES),
                       .grads = qni_homes_bytes(&t->homes, QNI_BLOCK_GRADS),
                       .moments = qni_homes_bytes(&t->homes, QNI_BLOCK_MOMENTS),
                       .packed = qni_stage_set_packed(&t->set),
                       .arenas = arenas_of(t->plan) + (t->eval_open ? arenas_of(t->eval.plan) : 0),
                       .scratch = qni_stage_set_scratch(&t->set),
                       .most_moments = qni_homes_most(&t->homes, QNI_BLOCK_MOMENTS)};
}

int32_t qn_trainer_shards(const qn_trainer *t)
{
    return t->homes.shards;
}

qn_param_home qn_trainer_shard_home(qn_trainer *t, int32_t param, int32_t shard)
{
    const qni_homes *h = &t->homes;
    int32_t p = param * h->shards + shard; /* with vocabulary shards the first part: the others follow it */
    while (t->sharded != NULL && qn_model_param(t->sharded, p % h->params)->origin != param) p++;
    p %= h->params;
    const int32_t w = qni_homes_worker(h, h->owner[p]);
    return (qn_param_home){.part = t->sharded != NULL ? qn_model_param(t->desc.model, param) : qni_home_param(h, p),
                           .value = h->value[w][p],
                           .m = h->m[w][p],
                           .v = h->v[w][p],
                           .element = h->element};
}

qn_param_home qn_trainer_home(qn_trainer *t, int32_t param)
{
    return qn_trainer_shard_home(t, param, 0);
}

void qn_trainer_refresh(qn_trainer *t)
{
    qni_homes_refresh(&t->homes);
    qni_lag_restart(&t->lag);
}

void qn_trainer_settle(qn_trainer *t)
{
    qni_lag_settle(&t->lag, &t->desc.hyper);
}

int64_t qn_trainer_high_water(const qn_trainer *t, int32_t worker)
{
    return qn_executor_high_water(t->ex, worker);
}

int64_t qn_trainer_moved(const qn_trainer *t, int32_t worker, int32_t lane, int32_t cls)
{
    return qn_executor_moved(t->ex, worker, lane, cls);
}

/* The trainer: opens what a run stands on, and takes its steps. What a task does is in trainer_tasks.c. */
#include "trainer.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "trainer_internal.h"

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
    if (t->tiered) return true;                             /* the host */
    if (t->desc.post_validate != QN_UNDO_NONE) return true; /* who steps early counts the targets for itself */
    return qni_vocab_reads(t->plan, worker);
}

static qn_status take_workers(qn_trainer *t, qn_err *err)
{
    const int32_t P = t->set.workers;
    const size_t rows = (size_t)(t->desc.source->batch * t->desc.source->T) * (size_t)(t->tiered ? t->most : 1);
    t->worker_bytes = (size_t)P * sizeof(*t->worker);
    t->worker = qn_alloc_pages(t->worker_bytes);
    t->inbox = qn_calloc((size_t)P, sizeof(*t->inbox));
    t->loss = qn_calloc((size_t)t->most * (size_t)t->desc.order->items, sizeof(*t->loss));
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
                                 .fns = qni_trainer_fns(t),
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
    if (o->sides == 0) return QN_OK;
    const qn_status st = qn_model_open_vocab(&t->sharded, t->desc.model, o->sides, err);
    return st == QN_OK ? qni_vocab_cuts(cut, t->desc.first_layer, o, t->sharded, err) : st;
}

/* What devices have no use for, or cannot do. */
static qn_status check_tiers(const qn_trainer_desc *d, qn_err *err)
{
    const qn_order *o = d->order;
    if (d->tiers == NULL) return QN_OK;
    if (o->sides > 0)
        return QN_FAIL(err, QN_EUNSUPPORTED,
                       "device memory with vocabulary shards: they spread the tables over the workers, here the host has them");
    return QN_OK;
}

static void gradients_landed(void *ctx, int32_t stage, int32_t group)
{
    qn_trainer *t = ctx;
    if (t->lag.h != NULL)
        qni_lag_landed(&t->lag, stage, group);
    else
        qni_homes_landed(&t->homes, stage, group);
}

/* Devices, and the copies of the state that they load from and put their gradients into. */
static qn_status open_tier(qn_trainer *t, qn_err *err)
{
    const qn_trainer_desc *d = &t->desc;
    qn_stage_limits limits = t->set.limits;
    limits.again = d->recompute == QN_RECOMPUTE_PART ? d->again : NULL;
    const qni_tier_desc desc = {.model = d->model,
                                .part_model = t->set.part,
                                .k = t->set.k,
                                .order = d->order,
                                .first_layer = d->first_layer,
                                .limits = limits,
                                .threads = d->threads,
                                .chunks = d->order->items,
                                .pin = d->pin};
    qn_status st = qni_tier_init(&t->tier, &desc, err);
    if (st == QN_OK && d->tiers->lag > 0) st = qni_lag_init(&t->lag, &t->homes, err);
    if (st != QN_OK) return st;
    t->link_bytes_per_s = d->tiers->link_bytes_per_s;
    t->tier.value = d->tiers->lag > 0 ? t->lag.loaded : t->homes.value[0];
    t->tier.grad = (void *const *const *)(d->tiers->lag > 0 ? t->lag.landed : t->homes.grad);
    t->tier.landed = t->homes.groups > 1 ? gradients_landed : NULL;
    t->tier.landed_ctx = t;
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
    t->most = qn_max32(desc->flight, 1);
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
                                   .sequence = desc->sequence,
                                   .threads = desc->threads,
                                   .mode = desc->mode,
                                   .limits = {.B = t->item_samples,
                                              .T = desc->source->T,
                                              .train = true,
                                              .again = desc->recompute == QN_RECOMPUTE_PART ? desc->again : NULL,
                                              .again_early = !desc->recompute_late},
                                   .pin = desc->pin};
    const qni_homes_shape shape = {
        .items = o->items, .groups = groups, .zero1 = desc->zero1, .tokens = desc->source->batch * desc->source->T};
    QN_TRY(st, qni_stage_set_init(&t->set, &set, err), out);
    QN_TRY(st, qni_homes_init(&t->homes, &t->set, &shape, err), out);
    if (t->tiered) QN_TRY(st, open_tier(t, err), out);
    QN_TRY(st, qni_trainer_plan(t, err), out);
    QN_TRY(st, qni_trainer_flights_open(t, err), out);
    QN_TRY(st, take_workers(t, err), out);
    if (desc->post_validate != QN_UNDO_NONE)
        QN_TRY(st, qni_speculation_init(&t->speculation, &t->homes, &t->desc.hyper, desc->post_validate, err), out);
    QN_TRY(st, qni_shards_init(&t->shards, t->plan, &t->set, err), out);
    if (t->tiered) t->shards.exec = t->tier.exec;
    QN_TRY(st, open_executor(t, err), out);
    if (!t->tiered)
        qni_stage_set_bind(&t->set, (void *const *const *)t->homes.value, (void *const *const *)t->homes.grad,
                           t->homes.rows_use != QN_NONE ? &t->homes.rows : NULL, t->homes.rows_use);
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
    qni_trainer_flights_close(t);
    qni_tier_fini(&t->tier);
    qni_lag_fini(&t->lag);
    free_workers(t);
    qni_speculation_fini(&t->speculation);
    if (t->homes.set != NULL) qni_homes_fini(&t->homes);
    qni_stage_set_fini(&t->set);
    qn_model_close(t->sharded);
    qn_free(t);
}

/* --- views of steps */
qn_speculated qn_trainer_speculated(const qn_trainer *t)
{
    return (qn_speculated){.steps = t->speculation.steps, .wrong = t->speculation.wrong};
}

/* On devices: within so many bytes of each; in the arenas of training, which stand still meanwhile, or in others. */
static qn_status open_evaluation(qn_trainer *t, const int64_t *limit, bool own_arenas, qn_err *err)
{
    const qni_forward_tiers tiers = {.devices = qn_min32(t->plan->workers, qn_depth(t->homes.grid) * t->homes.shards),
                                     .replace = 1,
                                     .limit = limit,
                                     .link_bytes_per_s = t->link_bytes_per_s,
                                     .value = t->homes.value[0],
                                     .arenas = own_arenas ? NULL : t->ex};
    const qni_forward_desc d = {.set = &t->set,
                                .transport = t->desc.transport,
                                .faults = t->desc.faults,
                                .driver = t->desc.driver,
                                .items = QNI_EVAL_ITEMS,
                                .threads = t->desc.threads,
                                .T = t->desc.source->T,
                                .pin = t->desc.pin,
                                .tiers = t->tiered ? &tiers : NULL};
    const qn_status st = qni_forward_init(&t->eval, &d, err);
    if (st != QN_OK) qni_forward_fini(&t->eval);
    t->eval_open = st == QN_OK;
    return st;
}

qn_status qn_trainer_ready_evaluation(qn_trainer *t, qn_err *err)
{
    const qn_plan *p = t->plan;
    if (t->eval_open) return QN_OK;
    qn_status st = open_evaluation(t, p->arena_bytes, false, err);
    if (st != QN_EINVAL || !t->tiered) return st;
    /* Evaluation deals the pieces out otherwise: a device may need more than it trains in. What its limit leaves may do. */
    int64_t *left = qn_calloc((size_t)p->workers, sizeof(*left));
    if (left == NULL) return QN_FAIL(err, QN_ENOMEM, "limits of %d devices", p->workers);
    for (int32_t w = 0; w < p->workers; w++)
        left[w] = p->arena_limit[w] < INT64_MAX ? p->arena_limit[w] - p->arena_bytes[w] : INT64_MAX;
    st = open_evaluation(t, left, true, err);
    qn_free(left);
    return st;
}

qn_status qn_trainer_evaluate(qn_trainer *t, const qn_tokens *tokens, qn_split_range part, int64_t max_windows, double *loss,
                              int64_t *targets, qn_err *err)
{
    qn_trainer_settle(t);
    const qn_status st = qn_trainer_ready_evaluation(t, err);
    if (st != QN_OK) return st;
    t->eval.repack = true; /* the weights have moved since the last time */
    return qni_forward_evaluate(&t->eval, tokens, part, max_windows, loss, targets, err);
}

/* --- views */
const qn_plan *qn_trainer_plan(const qn_trainer *t)
{
    return t->one;
}

const qn_plan *qn_trainer_run_plan(const qn_trainer *t)
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
                       .arenas = arenas_of(t->plan) + (t->eval_open && !t->tiered ? arenas_of(t->eval.plan) : 0),
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
    const qn_model *m = h->set->model;
    int32_t at = t->sharded == NULL ? param : 0;
    while (qn_model_param(m, at)->origin != param) at++;
    const bool whole = qn_model_param(m, at)->layer >= qn_model_chain(m); /* a table, which lies whole where its first rows do */
    const int32_t p = at * h->shards + (whole ? 0 : shard), w = qni_homes_worker(h, h->owner[p]);
    return (qn_param_home){.part = whole ? qn_model_param(t->desc.model, param) : qni_home_param(h, p),
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

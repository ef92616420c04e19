#include "forward.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "runtime/trainer/vocab_tasks.h"

/* One op of the vocabulary shards of each column from its stage `from` on. */
static void add_shards(qn_order *o, qn_op op, int32_t from, int32_t first_item, int32_t end)
{
    const int32_t each = o->stages / o->columns;
    for (int32_t i = 0; i < o->stages; i++)
        for (int32_t m = first_item; o->sides > 0 && i % each >= from && m < end; m++)
            qn_order_push(o, o->worker_of[i], op, i, m);
}

/* Groups of P items pass through all of a worker's stages before the next group: with several stages per worker nobody waits for
 * an item to come round. (group, stage, item) ascends on every worker, so no order of workers can lock up. All shards of the
 * first replica take part. */
static qn_status forward_order(qn_order **out, const qn_stage_set *s, int32_t items, qn_err *err)
{
    qn_order *o = NULL;
    const int32_t depth = s->stages / s->columns, stages = depth * s->shards;
    const qn_status st = qn_order_open(&o, s->workers, stages, items, err);
    if (st != QN_OK) return st;
    o->columns = o->shards = s->shards;
    for (int32_t i = 0; i < stages; i++) o->worker_of[i] = s->worker_of[i];
    o->sides = qn_model_config_of(s->model)->vocab_shards;
    o->vocab = o->sides > 0 ? 1 : 0;
    for (int32_t group = 0; group < items; group += s->workers) {
        const int32_t end = qn_min32(items, group + s->workers);
        add_shards(o, QN_OP_VI, s->chain, group, end);
        for (int32_t i = 0; i < depth - o->sides; i++)
            for (int32_t m = group; m < end; m++)
                for (int32_t at = i; at < stages; at += depth) qn_order_push(o, s->worker_of[at], QN_OP_F, at, m);
        add_shards(o, QN_OP_VS, s->chain, group, end);
        if (o->sides > 0) add_shards(o, QN_OP_VT, depth - 1, group, end);
    }
    const qn_status done = qn_order_done(o, err);
    if (done != QN_OK) {
        qn_order_close(o);
        return done;
    }
    *out = o;
    return QN_OK;
}

static qn_pass pass_of(void *ctx, qn_executor *ex, int32_t index, qn_mb *mb)
{
    qni_forward *f = ctx;
    const qn_stage_set *s = f->set;
    const qn_plan *p = f->plan;
    const qn_task *t = &p->task[index];
    qn_stage *stage = f->tiered ? qni_tier_bind(&f->tier, ex, index) : s->stage[t->stage];
    const int32_t stash = qni_span_find(p, t->out, QN_V_STASH);
    *mb = (qn_mb){.B = f->length[t->item] > 0,
                  .T = f->length[t->item],
                  .tokens = f->tokens + t->item * f->T,
                  .targets = f->targets + t->item * f->T,
                  .segment = f->infer ? f->segment + (int64_t)t->item * f->most_segments : NULL,
                  .segments = f->infer ? f->segments[t->item] : 0,
                  .loss = &f->loss[qn_shard(qn_plan_grid(p), t->stage) * f->items + t->item]};
    const int32_t x = qni_span_find(p, t->in, QN_V_ACT), y = qni_span_find(p, t->out, QN_V_ACT);
    const qni_ports io = p->sides > 0 ? qni_vocab_ports(stage, p, ex, t, mb)
                                      : (qni_ports){.y = y != QN_NONE ? qn_executor_value(ex, y) : NULL,
                                                    .x = x != QN_NONE ? qn_executor_value(ex, x) : NULL};
    if (f->infer)
        return qn_pass_infer(stage, mb, 0, io.y, io.x, f->cache[t->stage],
                             f->logits + f->logits_at[t->item] * qn_model_config_of(s->model)->vocab);
    return qn_pass_evaluate(stage, mb, io.y, io.x, stash != QN_NONE ? qn_executor_value(ex, stash) : NULL);
}

static void run_side(qni_forward *f, qn_executor *ex, const qn_task *t)
{
    const qn_mb mb = {.B = 1,
                      .T = f->length[t->item],
                      .tokens = f->tokens + t->item * f->T,
                      .targets = f->targets + t->item * f->T,
                      .loss = &f->loss[qn_shard(qn_plan_grid(f->plan), t->stage) * f->items + t->item]};
    qni_vocab_side_task(f->set, f->plan, ex, t, &mb);
}

static qn_status run_forward(qni_forward *f, qn_executor *ex, int32_t index, qn_err *err)
{
    qn_mb mb;
    if (f->length[f->plan->task[index].item] == 0) return QN_OK;
    if (f->plan->task[index].op != QN_OP_F) {
        run_side(f, ex, &f->plan->task[index]);
        return QN_OK;
    }
    if (f->plan->shards > 1) return qni_shards_run(&f->shards, ex, index, pass_of, f, err);
    qn_pass pass = pass_of(f, ex, index, &mb);
    while (qn_pass_step(&pass)) continue;
    return QN_OK;
}

static qn_status run_task(void *ctx, qn_executor *ex, int32_t task, qn_err *err)
{
    qni_forward *f = ctx;
    const qn_task *t = &f->plan->task[task];
    switch (t->op) {
    case QN_OP_PACK:
        if (f->repack) qn_stage_pack(f->set->stage[t->stage]); /* on devices there is none: weights come up packed */
        return QN_OK;
    case QN_OP_F:
    case QN_OP_VI:
    case QN_OP_VS:
    case QN_OP_VT:
        return run_forward(f, ex, task, err);
    default:
        return QN_FAIL(err, QN_EINTERNAL, "a forward plan holds a task of kind %d", t->op);
    }
}

static size_t actual_bytes(void *ctx, int32_t value)
{
    const qni_forward *f = ctx;
    const qn_value *v = &f->plan->value[value];
    if (f->plan->sides > 0 && v->item != QN_NONE) return qni_vocab_actual(f->set, f->plan, v, f->length[v->item]);
    if (f->tiered && v->cls == QN_V_PARAM) return qni_forward_tier_actual(f, value);
    return v->cls == QN_V_ACT ? (size_t)qni_stage_set_act_bytes(f->set, v->stage, f->length[v->item]) : (size_t)v->bytes;
}

static void *no_home(void *ctx, int32_t value, size_t *bytes)
{
    (void)ctx;
    (void)value;
    *bytes = 0;
    return NULL;
}

static qn_status make_plan(qni_forward *f, qn_err *err)
{
    const int32_t S = f->set->stages / f->set->columns * f->set->shards;
    qn_order *order = NULL;
    int64_t *bytes = qn_calloc((size_t)S * 2, sizeof(*bytes));
    qn_status st = bytes != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "no memory for %d stages", S);
    if (st == QN_OK) st = forward_order(&order, f->set, f->items, err);
    for (int32_t i = 0; st == QN_OK && i < S; i++) {
        bytes[i] = qni_stage_set_act_most(f->set, f->T);
        bytes[S + i] = f->infer ? 0 : (int64_t)qn_stage_need_of(f->set->stage[i])->stash_bytes;
    }
    qn_lowering how = {.act_bytes = bytes,
                       .stash_bytes = bytes != NULL ? bytes + S : NULL,
                       .forward_only = true,
                       .step_tasks = true,
                       .tied_owner = QN_NONE,
                       .tied_replica = QN_NONE,
                       .part_bytes = qni_part_bytes(qni_stage_set_act_most(f->set, f->T), f->set->shards),
                       .whole_links = f->set->sequence};
    if (st == QN_OK) qni_vocab_sizes(&how, bytes + S, S, f->set, f->T, 1);
    if (st == QN_OK) st = qn_lower(&f->plan, order, &how, err);
    qn_order_close(order);
    qn_free(bytes);
    return st;
}

/* What only inference has: segments, logits, and the caches of each stage. */
static bool take_caches(qni_forward *f)
{
    const size_t n = (size_t)f->items, V = (size_t)qn_model_config_of(f->set->model)->vocab;
    f->segment = qn_calloc(n * (size_t)f->most_segments, sizeof(*f->segment));
    f->segments = qn_calloc(n, sizeof(*f->segments));
    f->logits_at = qn_calloc(n, sizeof(*f->logits_at));
    f->logits = qn_calloc((size_t)f->most_logits * V, sizeof(*f->logits));
    bool room = f->segment != NULL && f->segments != NULL && f->logits_at != NULL && f->logits != NULL;
    for (int32_t i = 0; room && i < f->set->stages; i++) {
        size_t bytes = 0;
        room = qn_mul_size(&bytes, qn_stage_need_of(f->set->stage[i])->cache_bytes, (size_t)f->slots);
        if (room && bytes > 0) room = (f->cache[i] = qn_alloc_pages(bytes)) != NULL;
    }
    return room;
}

static qn_status take_buffers(qni_forward *f, qn_err *err)
{
    const size_t n = (size_t)f->items, rows = n * (size_t)f->T;
    f->tokens = qn_calloc(rows, sizeof(*f->tokens));
    f->targets = qn_calloc(rows, sizeof(*f->targets));
    f->length = qn_calloc(n, sizeof(*f->length));
    f->loss = qn_calloc(n * (size_t)f->set->shards, sizeof(*f->loss));
    f->cache = qn_calloc((size_t)f->set->stages, sizeof(*f->cache));
    const bool room = f->tokens != NULL && f->targets != NULL && f->length != NULL && f->loss != NULL && f->cache != NULL;
    if (room && (!f->infer || take_caches(f))) return QN_OK;
    return QN_FAIL(err, QN_ENOMEM, "no memory for the tokens and caches of %d items of %lld rows and %d sequences", f->items,
                   (long long)f->T, f->slots);
}

qn_status qni_forward_init(qni_forward *f, const qni_forward_desc *d, qn_err *err)
{
    *f = (qni_forward){.set = d->set,
                       .items = d->items,
                       .T = d->T,
                       .infer = d->infer,
                       .repack = true,
                       .slots = d->slots,
                       .most_segments = d->segments,
                       .most_logits = d->logits};
    const qni_forward_tiers *tiers = d->tiers;
    qn_status st = tiers != NULL ? qni_forward_tier_init(f, tiers, d->threads, d->pin, err) : make_plan(f, err);
    if (st == QN_OK) st = take_buffers(f, err);
    const qn_executor_desc ex = {.plan = f->plan,
                                 .transport = d->transport,
                                 .faults = d->faults,
                                 .driver = d->driver,
                                 .fns = {.run = run_task,
                                         .home = tiers != NULL ? qni_forward_tier_home : no_home,
                                         .actual = actual_bytes,
                                         .copy = tiers != NULL ? qni_forward_tier_copy : NULL},
                                 .link_bytes_per_s = tiers != NULL ? tiers->link_bytes_per_s : 0,
                                 .arenas = tiers != NULL ? tiers->arenas : NULL,
                                 .ctx = f,
                                 .threads_per_worker = d->threads,
                                 .pin = d->pin,
                                 .spins = -1};
    if (st == QN_OK) st = qni_shards_init(&f->shards, f->plan, f->set, err);
    if (f->tiered) f->shards.exec = f->tier.exec;
    if (st == QN_OK) st = qn_executor_open(&f->ex, &ex, err);
    return st;
}

void qni_forward_fini(qni_forward *f)
{
    qn_executor_close(f->ex);
    qni_shards_fini(&f->shards);
    qn_plan_close(f->plan);
    if (f->tiered) qni_tier_fini(&f->tier);
    for (int32_t i = 0; f->cache != NULL && i < f->set->stages; i++)
        if (f->cache[i] != NULL) qn_free_pages(f->cache[i], qn_stage_need_of(f->set->stage[i])->cache_bytes * (size_t)f->slots);
    qn_free(f->cache);
    qn_free(f->logits);
    qn_free(f->logits_at);
    qn_free(f->segments);
    qn_free(f->segment);
    qn_free(f->loss);
    qn_free(f->length);
    qn_free(f->targets);
    qn_free(f->tokens);
    *f = (qni_forward){0};
}

qn_status qni_forward_run(qni_forward *f, qn_err *err)
{
    memset(f->loss, 0, (size_t)f->items * (size_t)f->set->shards * sizeof(*f->loss));
    qni_shards_reset(&f->shards);
    if (f->tiered) qni_tier_reset_scratch(&f->tier);
    const qn_status st = qn_executor_step(f->ex, NULL, err);
    if (st == QN_OK) f->repack = false;
    return st;
}

qn_status qni_forward_evaluate(qni_forward *f, const qn_tokens *tokens, qn_split_range part, int64_t max_windows, double *loss,
                               int64_t *targets, qn_err *err)
{
    const int32_t V = qn_model_config_of(f->set->model)->vocab;
    const int64_t windows = qn_eval_windows(part, f->T), n = max_windows > 0 ? qn_min64(windows, max_windows) : windows;
    if (qn_tokens_vocab(tokens) > V)
        return QN_FAIL(err, QN_EINVAL, "the text has tokens up to %d; the model knows %d: it needs the model's own tokenizer",
                       qn_tokens_vocab(tokens) - 1, V);
    double sum = 0.0;
    int64_t count = 0;
    for (int64_t done = 0; done < n; done += f->items) {
        const int32_t here = (int32_t)qn_min64(f->items, n - done);
        for (int32_t i = 0; i < f->items; i++) {
            f->length[i] = i < here ? f->T : 0;
            if (i >= here) continue;
            const int64_t w = (done + i) * windows / n; /* evenly spread */
            count += qn_eval_read(tokens, part, f->T, w, f->tokens + i * f->T, f->targets + i * f->T);
        }
        const qn_status st = qni_forward_run(f, err);
        if (st != QN_OK) return st;
        for (int32_t i = 0; i < here; i++) sum += f->loss[i];
    }
    if (count == 0)
        return QN_FAIL(err, QN_EINVAL, "a part of %lld tokens has nothing to predict; 2 are needed", (long long)part.count);
    *loss = sum / (double)count;
    if (targets != NULL) *targets = count;
    return QN_OK;
}

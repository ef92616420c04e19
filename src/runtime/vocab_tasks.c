/* See vocab_tasks.h. */
#include "vocab_tasks.h"

#include "core/alloc.h"
#include "core/compiler.h"
#include "model/vocab.h"

qn_status qni_vocab_cuts(int32_t **out, const int32_t *first_layer, const qn_order *o, const qn_model *m, qn_err *err)
{
    const int32_t chain = o->stages - o->sides;
    int32_t *cut = qn_calloc((size_t)o->stages + 1, sizeof(*cut));
    if (cut == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %d stages", o->stages);
    for (int32_t s = 0; s <= chain; s++) cut[s] = first_layer[s];
    for (int32_t k = 1; k <= o->sides; k++) cut[chain + k] = qn_model_chain(m) + k;
    *out = cut;
    return QN_OK;
}

void qni_vocab_sizes(qn_lowering *how, int64_t *stash, const qn_stage_set *s, int64_t rows, int32_t algorithm)
{
    if (qn_model_config_of(s->model)->vocab_shards == 0) return;
    const qn_vocab_sizes size = qn_vocab_sizes_of(s->model, s->k, rows, algorithm);
    how->vocab_x_bytes = (int64_t)size.x;
    how->vocab_stats_bytes = (int64_t)size.stats;
    how->vocab_dx_bytes = (int64_t)size.dx;
    how->vocab_part_bytes = (int64_t)size.part;
    for (int32_t i = s->chain; i < s->stages; i++) stash[i] = (int64_t)size.p;
}

size_t qni_vocab_actual(const qn_stage_set *s, const qn_plan *p, const qn_value *v, int64_t rows)
{
    const qn_vocab_sizes size = qn_vocab_sizes_of(s->model, s->k, rows, p->vocab);
    switch (v->cls) {
    case QN_V_ACT:
        return v->stage >= s->chain ? size.x : size.part;
    case QN_V_GRAD:
    case QN_V_VIN:
        return size.part;
    case QN_V_VDX:
        return size.dx;
    case QN_V_VSTAT:
        return size.stats;
    default:
        return (size_t)v->bytes;
    }
}

/* The value of that class and stage in a span, its memory, or NULL. */
static void *find(qn_executor *ex, const qn_plan *p, qn_span span, qn_value_class cls, int32_t stage)
{
    for (int32_t i = 0; i < span.count; i++) {
        const int32_t v = p->ref[span.first + i];
        if (p->value[v].cls == (int32_t)cls && p->value[v].stage == stage) return qn_executor_value(ex, v);
    }
    return NULL;
}

/* The worker's copy of what goes to all shards, whichever of them it is labelled with. */
static void *find_side(qn_executor *ex, const qn_plan *p, qn_span span, qn_value_class cls, int32_t chain)
{
    for (int32_t i = 0; i < span.count; i++) {
        const int32_t v = p->ref[span.first + i];
        if (p->value[v].cls == (int32_t)cls && p->value[v].stage >= chain) return qn_executor_value(ex, v);
    }
    return NULL;
}

/* What each shard sent, in shard order. */
static void find_all(const void **part, const qn_stage_set *s, const qn_plan *p, qn_executor *ex, qn_span span,
                     qn_value_class cls)
{
    for (int32_t i = s->chain; i < s->stages; i++) part[i - s->chain] = find(ex, p, span, cls, i);
}

static void *first_input(const qn_stage_set *s, const qn_plan *p, qn_executor *ex, const qn_task *t, const qn_mb *mb)
{
    const void *part[QN_MAX_VOCAB_SHARDS];
    if (t->op == QN_OP_R) return find(ex, p, t->in, QN_V_ACT, 0);
    if (t->op != QN_OP_F) return NULL; /* its backward does not read it */
    void *x = find(ex, p, t->out, QN_V_ACT, 0);
    find_all(part, s, p, ex, t->in, QN_V_VIN);
    qn_vocab_input(s->stage[0], mb, x, part);
    return x;
}

static void *last_gradient(const qn_stage_set *s, const qn_plan *p, qn_executor *ex, const qn_task *t, const qn_mb *mb)
{
    const void *dx[QN_MAX_VOCAB_SHARDS], *stats[QN_MAX_VOCAB_SHARDS];
    void *dy = find(ex, p, t->out, QN_V_GRAD, s->chain - 1);
    find_all(dx, s, p, ex, t->in, QN_V_VDX);
    if (p->vocab == 2) find_all(stats, s, p, ex, t->in, QN_V_VSTAT);
    qn_vocab_join(s->stage[s->chain - 1], mb, dy, dx, p->vocab == 2 ? stats : NULL);
    return dy;
}

void qni_vocab_chain_task(const qn_stage_set *s, const qn_plan *p, qn_executor *ex, const qn_task *t, const qn_mb *mb,
                          bool evaluate)
{
    const int32_t i = t->stage, last = s->chain - 1;
    qn_stage *stage = s->stage[i];
    const void *x = i == 0 ? first_input(s, p, ex, t, mb) : find(ex, p, t->in, QN_V_ACT, i);
    void *stash = find(ex, p, t->op == QN_OP_F || t->op == QN_OP_R ? t->out : t->in, QN_V_STASH, i);
    switch (t->op) {
    case QN_OP_F:
    case QN_OP_R: {
        void *y = i == last ? find_side(ex, p, t->out, QN_V_ACT, s->chain) : find(ex, p, t->out, QN_V_ACT, i + 1);
        if (evaluate)
            qn_stage_evaluate(stage, mb, y, x, stash);
        else
            qn_stage_forward(stage, mb, y, x, stash);
        break;
    }
    case QN_OP_W:
        qn_stage_backward_weight(stage, mb, x, stash, find(ex, p, t->in, QN_V_WSTASH, i));
        break;
    default: {
        const void *dy = i == last ? last_gradient(s, p, ex, t, mb) : find(ex, p, t->in, QN_V_GRAD, i);
        void *dx = i == 0 ? find_side(ex, p, t->out, QN_V_GRAD, s->chain) : find(ex, p, t->out, QN_V_GRAD, i - 1);
        qn_stage_backward(stage, mb, dx, dy, x, stash, find(ex, p, t->out, QN_V_WSTASH, i));
    }
    }
}

void qni_vocab_side_task(const qn_stage_set *s, const qn_plan *p, qn_executor *ex, const qn_task *t, const qn_mb *mb)
{
    const void *stats[QN_MAX_VOCAB_SHARDS];
    const int32_t i = t->stage;
    qn_stage *side = s->stage[i];
    qn_mb own = *mb;
    if (i != s->stages - 1) own.loss = NULL;
    const void *x = find_side(ex, p, t->in, QN_V_ACT, s->chain);
    switch (t->op) {
    case QN_OP_VI:
        qn_vocab_lookup(side, &own, find(ex, p, t->out, QN_V_VIN, i));
        break;
    case QN_OP_VS:
        qn_vocab_scores(side, &own, find(ex, p, t->out, QN_V_STASH, i), find(ex, p, t->out, QN_V_VSTAT, i),
                        find(ex, p, t->out, QN_V_VDX, i), x);
        break;
    case QN_OP_VT:
        find_all(stats, s, p, ex, t->in, QN_V_VSTAT);
        if (t->acc.count > 0)
            qn_vocab_gradients(side, &own, find(ex, p, t->out, QN_V_VDX, i), find(ex, p, t->in, QN_V_STASH, i), x, stats);
        else
            qn_vocab_loss(side, &own, stats);
        break;
    default:
        qn_vocab_scatter(side, &own, find_side(ex, p, t->in, QN_V_GRAD, s->chain));
    }
}

bool qni_vocab_reads(const qn_stage_set *s, int32_t worker)
{
    if (s->worker_of[0] == worker || s->worker_of[s->chain - 1] == worker) return true;
    for (int32_t i = s->chain; i < s->stages; i++)
        if (s->worker_of[i] == worker) return true;
    return false;
}

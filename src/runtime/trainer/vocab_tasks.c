/* See vocab_tasks.h. */
#include "vocab_tasks.h"

#include "core/alloc.h"
#include "core/compiler.h"
#include "model/vocab.h"

qn_status qni_vocab_cuts(int32_t **out, const int32_t *first_layer, const qn_order *o, const qn_model *m, qn_err *err)
{
    const int32_t chain = qn_depth(qn_order_grid(o));
    int32_t *cut = qn_calloc((size_t)(chain + o->sides) + 1, sizeof(*cut));
    if (cut == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %d stages", o->stages);
    for (int32_t s = 0; s <= chain; s++) cut[s] = first_layer[s];
    for (int32_t k = 1; k <= o->sides; k++) cut[chain + k] = qn_model_chain(m) + k;
    *out = cut;
    return QN_OK;
}

void qni_vocab_sizes(qn_lowering *how, int64_t *stash, int32_t stages, const qn_stage_set *s, int64_t rows, int32_t algorithm)
{
    if (qn_model_config_of(s->model)->vocab_shards == 0) return;
    const qn_vocab_sizes size = qn_vocab_sizes_of(qni_stage_set_part(s, 0), s->k, rows, algorithm);
    how->vocab_x_bytes = (int64_t)size.x;
    how->vocab_stats_bytes = (int64_t)size.stats;
    how->vocab_dx_bytes = (int64_t)size.dx;
    how->vocab_part_bytes = (int64_t)size.part;
    const int32_t depth = s->stages / s->columns;
    for (int32_t i = 0; i < stages; i++)
        if (i % depth >= s->chain) stash[i] = (int64_t)size.p;
}

size_t qni_vocab_actual(const qn_stage_set *s, const qn_plan *p, const qn_value *v, int64_t rows)
{
    const qn_grid g = qn_plan_grid(p);
    const qn_vocab_sizes size = qn_vocab_sizes_of(qni_stage_set_part(s, 0), s->k, rows, p->vocab);
    const bool ends = v->cls == QN_V_ACT ? qn_first_in_column(g, v->stage) : qn_last_in_column(g, v->stage); /* all rows */
    switch (v->cls) {
    case QN_V_ACT:
        if (qn_is_side(g, v->stage)) return size.x;
        return ends ? size.part : (size_t)qni_stage_set_act_bytes(s, v->stage, rows);
    case QN_V_GRAD:
        return ends || qn_is_side(g, v->stage) ? size.part : (size_t)qni_stage_set_act_bytes(s, v->stage, rows);
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
static void *find_side(qn_executor *ex, const qn_plan *p, qn_span span, qn_value_class cls)
{
    for (int32_t i = 0; i < span.count; i++) {
        const int32_t v = p->ref[span.first + i];
        if (p->value[v].cls == (int32_t)cls && qn_is_side(qn_plan_grid(p), p->value[v].stage)) return qn_executor_value(ex, v);
    }
    return NULL;
}

/* What each shard of the task's column sent, or of so many columns from first on, in shard order. */
static void find_all(const void **part, const qn_plan *p, qn_executor *ex, const qn_task *t, qn_value_class cls, int32_t first,
                     int32_t columns)
{
    const qn_grid g = qn_plan_grid(p);
    for (int32_t k = 0; k < columns * g.sides; k++)
        part[k] = find(ex, p, t->in, cls, qn_stage_at(g, first + k / g.sides, qn_depth(g) + k % g.sides));
}

static void find_own(const void **part, const qn_plan *p, qn_executor *ex, const qn_task *t, qn_value_class cls)
{
    find_all(part, p, ex, t, cls, qn_column(qn_plan_grid(p), t->stage), 1);
}

static void find_stats(const void **part, const qn_plan *p, qn_executor *ex, const qn_task *t)
{
    const qn_grid g = qn_plan_grid(p);
    find_all(part, p, ex, t, QN_V_VSTAT, qn_replica(g, t->stage) * g.shards, g.shards);
}

/* The sum of the look-ups, made by F; later it is read where something is made again. */
static void *first_input(const qn_stage *stage, const qn_plan *p, qn_executor *ex, const qn_task *t, const qn_mb *mb)
{
    const void *part[QN_MAX_VOCAB_SHARDS];
    if (t->op != QN_OP_F) return find(ex, p, t->in, QN_V_ACT, t->stage);
    void *x = find(ex, p, t->out, QN_V_ACT, t->stage);
    find_own(part, p, ex, t, QN_V_VIN);
    qn_vocab_input(stage, mb, x, part);
    return x;
}

static void *last_gradient(const qn_stage *stage, const qn_plan *p, qn_executor *ex, const qn_task *t, const qn_mb *mb)
{
    const void *dx[QN_MAX_VOCAB_SHARDS], *stats[QN_MAX_VOCAB_SHARDS];
    void *dy = find(ex, p, t->out, QN_V_GRAD, t->stage);
    find_own(dx, p, ex, t, QN_V_VDX);
    if (p->vocab == 2) find_stats(stats, p, ex, t);
    qn_vocab_join(stage, mb, dy, dx, p->vocab == 2 ? stats : NULL);
    return dy;
}

qni_ports qni_vocab_ports(const qn_stage *stage, const qn_plan *p, qn_executor *ex, const qn_task *t, const qn_mb *mb)
{
    const qn_grid g = qn_plan_grid(p);
    const int32_t i = t->stage;
    const bool first = qn_first_in_column(g, i), last = qn_last_in_column(g, i);
    qni_ports io = {.x = first ? first_input(stage, p, ex, t, mb) : find(ex, p, t->in, QN_V_ACT, i)};
    if (t->op == QN_OP_F) io.y = last ? find_side(ex, p, t->out, QN_V_ACT) : find(ex, p, t->out, QN_V_ACT, i + 1);
    if (t->op != QN_OP_B && t->op != QN_OP_BW) return io;
    io.dy = last ? last_gradient(stage, p, ex, t, mb) : find(ex, p, t->in, QN_V_GRAD, i);
    io.dx = first ? find_side(ex, p, t->out, QN_V_GRAD) : find(ex, p, t->out, QN_V_GRAD, i - 1);
    return io;
}

void qni_vocab_side_task(const qn_stage_set *s, const qn_plan *p, qn_executor *ex, const qn_task *t, const qn_mb *mb)
{
    const void *stats[QN_MAX_VOCAB_SHARDS];
    const int32_t i = t->stage;
    qn_stage *side = s->stage[i];
    qn_mb own = *mb;
    if (qn_chain_stage(qn_plan_grid(p), i) != qn_column_stages(qn_plan_grid(p)) - 1) own.loss = NULL;
    const void *x = find_side(ex, p, t->in, QN_V_ACT);
    switch (t->op) {
    case QN_OP_VI:
        qn_vocab_lookup(side, &own, find(ex, p, t->out, QN_V_VIN, i));
        break;
    case QN_OP_VS:
        qn_vocab_scores(side, &own, find(ex, p, t->out, QN_V_STASH, i), find(ex, p, t->out, QN_V_VSTAT, i),
                        find(ex, p, t->out, QN_V_VDX, i), x);
        break;
    case QN_OP_VT:
        find_stats(stats, p, ex, t);
        if (t->acc.count > 0)
            qn_vocab_gradients(side, &own, find(ex, p, t->out, QN_V_VDX, i), find(ex, p, t->in, QN_V_STASH, i), x, stats);
        else
            qn_vocab_loss(side, &own, stats);
        break;
    default:
        qn_vocab_scatter(side, &own, find_side(ex, p, t->in, QN_V_GRAD));
    }
}

bool qni_vocab_reads(const qn_plan *p, int32_t worker)
{
    const qn_grid g = qn_plan_grid(p);
    for (int32_t s = 0; s < g.stages; s++)
        if (p->worker_of[s] == worker && (qn_first_in_column(g, s) || qn_last_in_column(g, s) || qn_is_side(g, s))) return true;
    return false;
}

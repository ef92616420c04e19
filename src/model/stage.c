/* A stage: opening it (primitives, layout), binding parameters, packing weights, and the passes run to their end. */
#include "stage.h"

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"

static const int64_t MAX_ROWS = INT32_MAX;

static qn_status check_limits(const qn_model *m, int32_t first, int32_t count, const qn_stage_limits *l, qn_err *err)
{
    int64_t rows;
    if (first < 0 || count < 0 || first > m->layers || count > m->layers - first)
        return QN_FAIL(err, QN_EINVAL, "a stage of layers %d .. %d is outside the chain of %d layers", first, first + count - 1,
                       m->layers);
    if (l->B < 0 || l->T < 0 || l->cache_len < 0)
        return QN_FAIL(err, QN_EINVAL,
                       "a stage for %lld samples of %lld tokens with %lld cached positions: no size may be negative",
                       (long long)l->B, (long long)l->T, (long long)l->cache_len);
    if (!qn_mul_i64(&rows, l->B, l->T) || rows > MAX_ROWS || l->B > MAX_ROWS || l->T > MAX_ROWS || l->cache_len > MAX_ROWS)
        return QN_FAIL(err, QN_EINVAL, "a micro-batch of %lld samples of %lld tokens is too large; %lld rows are possible",
                       (long long)l->B, (long long)l->T, (long long)MAX_ROWS);
    if (m->config.shards > 1 && (!l->train || l->cache_len > 0))
        return QN_FAIL(err, QN_EUNSUPPORTED,
                       "a tensor shard, which has its rows of the vocabulary, trains; it does not generate");
    if (l->kv != QN_F32 && l->kv != QN_BF16)
        return QN_FAIL(err, QN_EINVAL, "a cache of type %s; f32 and bf16 are possible", qn_dtype_name(l->kv));
    if (m->config.arch == QN_ARCH_GPT2 && l->T > m->config.context)
        return QN_FAIL(err, QN_EINVAL, "%lld tokens of a sample do not fit into the model's context of %d", (long long)l->T,
                       m->config.context);
    return QN_OK;
}

/* The primitive for a product of these sizes, opened once per stage. */
static qn_status find_linear(qn_stage *s, qn_linear **out, int64_t in, int64_t width, qn_err *err)
{
    for (int32_t i = 0; i < s->linears; i++) {
        if (s->linear[i].in == in && s->linear[i].out == width) {
            *out = s->linear[i].lin;
            return QN_OK;
        }
    }
    const qn_linear_shape shape = {.in = in, .out = width, .rows = qn_max64(s->rows, 1), .threads = qn_exec_threads(s->ex)};
    qn_status st = s->k->linear_open(out, &shape, err);
    if (st == QN_OK) s->linear[s->linears++] = (stage_linear){.in = in, .out = width, .lin = *out};
    return st;
}

static qn_status open_layers(qn_stage *s, qn_err *err)
{
    qn_status st = QN_OK;
    int32_t products = 0;
    s->layer = qn_calloc((size_t)s->count + 1, sizeof(*s->layer));
    for (int32_t i = 0; s->layer != NULL && i < s->count; i++) {
        s->layer[i].index = s->first + i;
        s->layer[i].layer = &s->m->layer[s->first + i];
        for (int32_t o = 0; o < s->layer[i].layer->ops; o++) products += s->layer[i].layer->op[o].kind->is_product;
        if (s->layer[i].layer->output < 0) s->has_head = true;
        if (s->layer[i].layer->off_stream) s->ends_off_stream = true;
    }
    s->linear = qn_calloc((size_t)products + 1, sizeof(*s->linear));
    if (s->layer == NULL || s->linear == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a stage of %d layers", s->count);
    s->lowest = qn_min32(s->count, qn_max32(0, qni_lowest_trained(s->m) - s->first));
    for (int32_t i = 0; i < s->count; i++) {
        stage_layer *sl = &s->layer[i];
        for (int32_t o = 0; o < sl->layer->ops; o++) {
            const qn_op *op = &sl->layer->op[o];
            sl->op[o].learns = qni_op_learns(s->m, op);
            if (op->kind->is_product) QN_TRY(st, find_linear(s, &sl->op[o].lin, op->size[0], op->size[1], err), out);
        }
    }
out:
    return st;
}

qn_status qn_stage_open(qn_stage **out, const qn_model *m, int32_t first, int32_t count, const qn_kernels *k, const qn_exec *ex,
                        const qn_stage_limits *limits, qn_err *err)
{
    qn_status st;
    qn_stage *s = NULL;
    *out = NULL;
    QN_TRY(st, check_limits(m, first, count, limits, err), out);
    s = qn_calloc(1, sizeof(*s));
    if (s == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for a stage");
        goto out;
    }
    s->m = m;
    s->k = k;
    s->ex = ex;
    s->first = first;
    s->count = count;
    s->limits = *limits;
    s->rows = limits->B * limits->T;
    QN_TRY(st, open_layers(s, err), out);
    QN_TRY(st, qni_stage_layout(s, err), out);
    s->limits.again = NULL; /* the caller's */
    *out = s;
    s = NULL;
out:
    qn_stage_close(s);
    return st;
}

void qn_stage_close(qn_stage *s)
{
    if (s == NULL) return;
    for (int32_t i = 0; i < s->linears; i++) s->k->linear_close(s->linear[i].lin);
    qn_free(s->linear);
    qn_free(s->layer);
    qn_free(s);
}

const qn_stage_need *qn_stage_need_of(const qn_stage *s)
{
    return &s->need;
}

bool qn_stage_has_use(const qn_stage *s, int32_t use)
{
    const int32_t layer = qn_model_use(s->m, use)->layer;
    return layer >= s->first && layer < s->first + s->count;
}

void qn_stage_bind(qn_stage *s, const qn_stage_binding *b)
{
    s->packed = b->packed;
    for (int32_t i = 0; i < s->count; i++) {
        const qn_layer *l = s->layer[i].layer;
        for (int32_t o = 0; o < l->ops; o++) {
            for (int32_t u = 0; u < l->op[o].uses; u++) {
                const int32_t use = l->op[o].use[u];
                stage_op *so = &s->layer[i].op[o];
                so->fresh = false;
                so->w[u] = use < 0 ? NULL : b->value[s->m->use[use].param];
                const bool frozen = use >= 0 && s->m->param[s->m->use[use].param].frozen;
                so->dw[u] = use < 0 || frozen || b->grad == NULL ? NULL : b->grad[use];
                if (u == 0) so->rows = use >= 0 && use == b->rows_use ? b->rows : NULL;
            }
        }
    }
}

void qn_stage_pack(qn_stage *s)
{
    const unsigned copies = s->limits.train ? QN_PACK_FORWARD | QN_PACK_BACKWARD : QN_PACK_FORWARD;
    for (int32_t i = 0; i < s->count; i++) {
        const qn_layer *l = s->layer[i].layer;
        for (int32_t o = 0; o < l->ops; o++) {
            stage_op *so = &s->layer[i].op[o];
            if (l->op[o].kind->is_product && !so->fresh)
                s->k->linear_pack(s->ex, so->lin, (char *)s->packed + so->packed_offset, so->w[0], copies);
            so->fresh = false;
        }
    }
}

bool qn_stage_step(qn_stage *s, void *value, void *g, void *m, void *v, const qn_adamw *hyper)
{
    for (int32_t i = 0; s->packed != NULL && i < s->count; i++) {
        const qn_layer *l = s->layer[i].layer;
        for (int32_t o = 0; o < l->ops; o++) {
            stage_op *so = &s->layer[i].op[o];
            if (!l->op[o].kind->is_product || so->w[0] != value) continue;
            s->k->linear_step(s->ex, so->lin, (char *)s->packed + so->packed_offset, value, g, m, v, hyper,
                              QN_PACK_FORWARD | QN_PACK_BACKWARD);
            so->fresh = true;
            return true;
        }
    }
    return false;
}

void qn_stage_forget_packs(qn_stage *s)
{
    for (int32_t i = 0; i < s->count; i++)
        for (int32_t o = 0; o < s->layer[i].layer->ops; o++) s->layer[i].op[o].fresh = false;
}

qn_status qn_stage_pack_part(const qn_stage *s, const qn_exec *ex, void *packed, size_t at, size_t bytes, qn_value_fn *value,
                             void *ctx, qn_err *err)
{
    const unsigned copies = s->limits.train ? QN_PACK_FORWARD | QN_PACK_BACKWARD : QN_PACK_FORWARD;
    for (int32_t i = 0; i < s->count; i++) {
        const qn_layer *l = s->layer[i].layer;
        for (int32_t o = 0; o < l->ops; o++) {
            const stage_op *so = &s->layer[i].op[o];
            const void *w = NULL;
            if (!l->op[o].kind->is_product || so->packed_offset < at || so->packed_offset - at >= bytes) continue;
            const qn_status st = value(ctx, &w, s->m->use[l->op[o].use[0]].param, err);
            if (st != QN_OK) return st;
            s->k->linear_pack(ex, so->lin, (char *)packed + so->packed_offset, w, copies);
        }
    }
    return QN_OK;
}

bool qn_stage_packs_whole(const qn_stage *s, int32_t param)
{
    bool packs = false;
    for (int32_t i = 0; i < s->count; i++) {
        const qn_layer *l = s->layer[i].layer;
        for (int32_t o = 0; o < l->ops; o++) {
            for (int32_t u = 0; u < l->op[o].uses; u++) {
                if (l->op[o].use[u] < 0 || s->m->use[l->op[o].use[u]].param != param) continue;
                if (u > 0 || !l->op[o].kind->is_product) return false;
                packs = true;
            }
        }
    }
    return packs;
}

void qn_stage_set_exchange(qn_stage *s, const qn_exchange *exchange)
{
    s->exchange = *exchange;
}

static void run(qn_pass p)
{
    while (qn_pass_step(&p)) QN_ASSERT(!p.waits);
}

void qn_stage_forward(qn_stage *s, const qn_mb *mb, void *y, const void *x, void *stash)
{
    run(qn_pass_forward(s, mb, y, x, stash));
}

void qn_stage_recompute(qn_stage *s, const qn_mb *mb, const void *x, void *stash)
{
    run(qn_pass_recompute(s, mb, x, stash));
}

void qn_stage_backward(qn_stage *s, const qn_mb *mb, void *dx, const void *dy, const void *x, void *stash, void *wstash)
{
    run(qn_pass_backward(s, mb, dx, dy, x, stash, wstash));
}

void qn_stage_backward_weight(qn_stage *s, const qn_mb *mb, const void *x, const void *stash, const void *wstash)
{
    run(qn_pass_backward_weight(s, mb, x, stash, wstash));
}

void qn_stage_evaluate(qn_stage *s, const qn_mb *mb, void *y, const void *x, void *stash)
{
    run(qn_pass_evaluate(s, mb, y, x, stash));
}

void qn_stage_infer(qn_stage *s, const qn_mb *mb, int64_t past, void *y, const void *x, void *cache, float *logits)
{
    run(qn_pass_infer(s, mb, past, y, x, cache, logits));
}

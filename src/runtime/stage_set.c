#include "stage_set.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"

static qn_status check_cut(const qn_stage_set_desc *d, qn_err *err)
{
    const int32_t layers = qn_model_layers(d->model), S = d->stages / qn_max32(d->columns, 1); /* of a column */
    if (d->workers < 1 || S < 1 || d->threads < 1)
        return QN_FAIL(err, QN_EINVAL, "%d workers of %d threads with %d stages; at least one of each is needed", d->workers,
                       d->threads, S);
    if (d->worker_of == NULL && d->stages != d->workers)
        return QN_FAIL(err, QN_EINVAL, "%d stages on %d workers: which worker has which stage must be given", d->stages,
                       d->workers);
    for (int32_t s = 0; s < S; s++) {
        if (d->first_layer[s + 1] < d->first_layer[s])
            return QN_FAIL(err, QN_EINVAL, "stage %d begins at layer %d and ends at layer %d; cuts must ascend", s,
                           d->first_layer[s], d->first_layer[s + 1]);
    }
    for (int32_t s = 0; s < d->stages; s++) {
        if (d->worker_of != NULL && (d->worker_of[s] < 0 || d->worker_of[s] >= d->workers))
            return QN_FAIL(err, QN_EINVAL, "stage %d is on worker %d; there are %d workers", s, d->worker_of[s], d->workers);
    }
    if (d->first_layer[0] != 0 || d->first_layer[S] != layers)
        return QN_FAIL(err, QN_EINVAL, "the stages cover layers %d to %d; the chain has layers 0 to %d", d->first_layer[0],
                       d->first_layer[S] - 1, layers - 1);
    const int32_t sides = qn_model_config_of(d->model)->vocab_shards, chain = S - sides;
    if (chain < 1 || (sides > 0 && d->first_layer[chain] != qn_model_chain(d->model)))
        return QN_FAIL(err, QN_EINVAL, "%d stages with %d vocabulary shards: the others must hold layers 0 to %d", S, sides,
                       qn_model_chain(d->model) - 1);
    if (chain > 1 && (d->first_layer[1] < 1 || d->first_layer[chain - 1] >= qn_model_chain(d->model)))
        return QN_FAIL(
            err, QN_EINVAL,
            "the first stage must hold the embedding and the last one the head: only stages between them may be empty");
    return QN_OK;
}

static qn_status take_arrays(qn_stage_set *s, const qn_stage_set_desc *d, qn_err *err)
{
    const size_t S = (size_t)d->stages, P = (size_t)d->workers, t = (size_t)s->shards, depth = S / (size_t)s->columns;
    s->worker_of = qn_calloc(S, sizeof(*s->worker_of));
    s->first_layer = qn_calloc(depth + 1, sizeof(*s->first_layer));
    s->stage = qn_calloc(S, sizeof(*s->stage));
    s->packed = qn_calloc(S, sizeof(*s->packed));
    s->exec = qn_calloc(P, sizeof(*s->exec));
    s->shard_exec = qn_calloc(P * t, sizeof(*s->shard_exec));
    s->scratch = qn_calloc(P * t, sizeof(*s->scratch));
    s->bound = qn_calloc((size_t)(qn_model_params(d->model) + qn_model_uses(d->model)), sizeof(*s->bound));
    if (s->worker_of == NULL || s->first_layer == NULL || s->stage == NULL || s->packed == NULL || s->exec == NULL ||
        s->shard_exec == NULL || s->scratch == NULL || s->bound == NULL)
        return QN_FAIL(err, QN_ENOMEM, "no memory for %d stages on %d workers", d->stages, d->workers);
    for (int32_t i = 0; i < d->stages; i++) s->worker_of[i] = d->worker_of != NULL ? d->worker_of[i] : i;
    memcpy(s->first_layer, d->first_layer, (depth + 1) * sizeof(*s->first_layer));
    s->workers = d->workers;
    s->stages = d->stages;
    s->chain = (int32_t)depth - qn_model_config_of(d->model)->vocab_shards;
    return QN_OK;
}

static qn_status open_workers(qn_stage_set *s, const qn_stage_set_desc *d, qn_err *err)
{
    for (int32_t w = 0; w < d->workers; w++) {
        s->exec[w].scratch = &s->scratch[w * s->shards];
        if (d->threads > 1) {
            const qn_status st = qn_team_open(&s->exec[w].team, d->threads, d->pin ? w * d->threads : -1, err);
            if (st != QN_OK) return st;
        }
        for (int32_t k = 0; k < s->shards; k++)
            s->shard_exec[w * s->shards + k] = (qn_exec){.team = s->exec[w].team, .scratch = &s->scratch[w * s->shards + k]};
    }
    return QN_OK;
}

static qn_status open_parts(qn_stage_set *s, qn_err *err)
{
    qn_status st = QN_OK;
    if (s->shards == 1 && s->sequence)
        return QN_FAIL(err, QN_EINVAL, "sequence parallelism cuts the rows between tensor shards: it needs at least 2 of them");
    if (s->shards == 1) return QN_OK;
    s->part = qn_calloc((size_t)s->shards, sizeof(*s->part));
    if (s->part == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %d shards", s->shards);
    for (int32_t k = 0; st == QN_OK && k < s->shards; k++)
        st = qn_model_open_shard(&s->part[k], s->model, s->shards, k, s->sequence, err);
    return st;
}

/* Which of its worker's execs a stage uses. */
static int32_t exec_of(const qn_stage_set *s, int32_t stage)
{
    return s->worker_of[stage] * s->shards + qn_shard(qni_stage_set_grid(s, 1), stage);
}

static qn_status open_stages(qn_stage_set *s, qn_err *err)
{
    qn_status st = QN_OK;
    for (int32_t i = 0; i < s->stages && st == QN_OK; i++) {
        const qn_grid g = qni_stage_set_grid(s, 1);
        const int32_t c = qn_chain_stage(g, i), first = s->first_layer[c], count = s->first_layer[c + 1] - first;
        const qn_model *m = qni_stage_set_part(s, qn_shard(g, i));
        st = qn_stage_open(&s->stage[i], m, first, count, s->k, &s->shard_exec[exec_of(s, i)], &s->limits, err);
        if (st != QN_OK) break;
        const size_t bytes = qn_stage_need_of(s->stage[i])->packed_bytes;
        if (bytes == 0 || s->unpacked) continue;
        s->packed[i] = qn_alloc_pages(bytes);
        if (s->packed[i] == NULL)
            st = QN_FAIL(err, QN_ENOMEM, "no memory for the %zu bytes of packed weights of stage %d", bytes, i);
    }
    return st;
}

/* One arena per worker and shard that it holds, as large as the hungriest stage asks. */
static qn_status open_scratch(qn_stage_set *s, qn_err *err)
{
    for (int32_t w = 0; w < s->workers * s->shards; w++) {
        size_t bytes = QN_CACHE_LINE;
        for (int32_t i = 0; i < s->stages; i++) {
            const size_t need = exec_of(s, i) == w ? qn_stage_need_of(s->stage[i])->scratch_bytes : 0;
            if (need > bytes) bytes = need;
        }
        const qn_status st = qn_arena_open(&s->scratch[w], bytes, err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

qn_status qni_stage_set_init(qn_stage_set *s, const qn_stage_set_desc *d, qn_err *err)
{
    *s = (qn_stage_set){.model = d->model,
                        .limits = d->limits,
                        .unpacked = d->unpacked,
                        .sequence = d->sequence,
                        .columns = qn_max32(d->columns, 1),
                        .shards = qn_max32(d->shards, 1)};
    qn_status st = check_cut(d, err);
    if (st == QN_OK) st = qn_kernels_infer(&s->k, d->mode, d->weights, err);
    if (st == QN_OK) st = take_arrays(s, d, err);
    if (st == QN_OK) st = open_workers(s, d, err);
    if (st == QN_OK) st = open_parts(s, err);
    if (st == QN_OK) st = open_stages(s, err);
    if (st == QN_OK) st = open_scratch(s, err);
    s->limits.again = NULL; /* the caller's */
    return st;
}

void qni_stage_set_fini(qn_stage_set *s)
{
    for (int32_t i = 0; i < s->stages; i++) {
        if (s->packed != NULL && s->packed[i] != NULL) qn_free_pages(s->packed[i], qn_stage_need_of(s->stage[i])->packed_bytes);
        if (s->stage != NULL) qn_stage_close(s->stage[i]);
    }
    for (int32_t w = 0; w < s->workers; w++) {
        if (s->exec != NULL && s->exec[w].team != NULL) qn_team_close(s->exec[w].team);
        for (int32_t k = 0; s->scratch != NULL && k < s->shards; k++) qn_arena_close(&s->scratch[w * s->shards + k]);
    }
    for (int32_t k = 0; s->part != NULL && k < s->shards; k++) qn_model_close(s->part[k]);
    qn_free(s->part);
    qn_free(s->bound);
    qn_free(s->shard_exec);
    qn_free(s->scratch);
    qn_free(s->exec);
    qn_free(s->packed);
    qn_free(s->stage);
    qn_free(s->first_layer);
    qn_free(s->worker_of);
    *s = (qn_stage_set){0};
}

void qni_stage_set_bind(qn_stage_set *s, void *const *const *value, void *const *const *grad, qn_row_sums *rows, int32_t rows_use)
{
    const int32_t n = qn_model_params(s->model), uses = qn_model_uses(s->model), t = s->shards;
    for (int32_t i = 0; i < s->stages; i++) {
        const int32_t w = s->worker_of[i], k = qn_shard(qni_stage_set_grid(s, 1), i);
        void **v = s->bound, **g = v + n;
        for (int32_t p = 0; p < n; p++) v[p] = value[w][p * t + k];
        for (int32_t u = 0; grad != NULL && u < uses; u++) g[u] = grad[qn_replica(qni_stage_set_grid(s, 1), i)][u * t + k];
        const qn_stage_binding b = {
            .value = v, .grad = grad != NULL ? g : NULL, .packed = s->packed[i], .rows = rows, .rows_use = rows_use};
        qn_stage_bind(s->stage[i], &b);
    }
}

void qni_stage_set_reset_scratch(qn_stage_set *s)
{
    for (int32_t w = 0; w < s->workers * s->shards; w++) qn_arena_release(&s->scratch[w], 0);
}

int64_t qni_stage_set_act_bytes(const qn_stage_set *s, int32_t stage, int64_t rows)
{
    int64_t first;
    if (s->sequence) rows = qn_shard_slice(s->shards, qn_shard(qni_stage_set_grid(s, 1), stage), rows, &first);
    return rows * qn_model_config_of(s->model)->width * (int64_t)qn_dtype_bytes(s->k->res);
}

int64_t qni_stage_set_act_most(const qn_stage_set *s, int64_t rows)
{
    if (s->sequence) rows = (rows + s->shards - 1) / s->shards;
    return rows * qn_model_config_of(s->model)->width * (int64_t)qn_dtype_bytes(s->k->res);
}

int64_t qni_stage_set_packed(const qn_stage_set *s)
{
    int64_t bytes = 0;
    for (int32_t i = 0; i < s->stages && !s->unpacked; i++) bytes += (int64_t)qn_stage_need_of(s->stage[i])->packed_bytes;
    return bytes;
}

int64_t qni_stage_set_scratch(const qn_stage_set *s)
{
    int64_t bytes = 0;
    for (int32_t w = 0; w < s->workers * s->shards; w++) bytes += (int64_t)s->scratch[w].cap;
    return bytes;
}

int32_t qni_span_find(const qn_plan *p, qn_span span, qn_value_class cls)
{
    for (int32_t i = 0; i < span.count; i++) {
        const int32_t v = p->ref[span.first + i];
        if (p->value[v].cls == (int32_t)cls) return v;
    }
    return QN_NONE;
}

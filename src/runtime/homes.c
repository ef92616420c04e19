#include "homes.h"

#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"

static int32_t stage_of_layer(const qn_stage_set *s, int32_t layer)
{
    int32_t i = 0;
    while (layer >= s->first_layer[i + 1]) i++;
    return i;
}

static int64_t count_of(const qni_homes *h, int32_t param)
{
    return qni_home_param(h, param)->count;
}

bool qni_homes_frozen(const qni_homes *h, int32_t param)
{
    return qni_home_param(h, param)->frozen;
}

/* Whether worker w holds a value of the parameter: it owns it or has a use of it. */
static bool holds(const qni_homes *h, int32_t w, int32_t param)
{
    if (h->owner[param] == w) return true;
    for (int32_t u = 0; u < h->uses; u++)
        if (qni_use_param(h, u) == param && h->use_worker[u] == w) return true;
    return false;
}

static qn_status take_tables(qni_homes *h, qn_err *err)
{
    const size_t W = (size_t)h->set->workers, N = (size_t)h->params, U = (size_t)h->uses;
    h->owner = qn_calloc(N, sizeof(*h->owner));
    h->first_use = qn_calloc(N, sizeof(*h->first_use));
    h->use_worker = qn_calloc(U, sizeof(*h->use_worker));
    h->use_stage = qn_calloc(U, sizeof(*h->use_stage));
    h->value = qn_calloc(W, sizeof(*h->value));
    h->grad = qn_calloc(W, sizeof(*h->grad));
    h->table = qn_calloc(W * (N + U) + 2 * N, sizeof(*h->table));
    h->block = qn_calloc(W * QNI_BLOCKS, sizeof(*h->block));
    if (h->owner == NULL || h->first_use == NULL || h->use_worker == NULL || h->use_stage == NULL || h->value == NULL ||
        h->grad == NULL || h->table == NULL || h->block == NULL)
        return QN_FAIL(err, QN_ENOMEM, "no memory for the tables of %d parameters", h->params);
    void **at = h->table;
    for (size_t w = 0; w < W; w++, at += N) h->value[w] = at;
    for (size_t w = 0; w < W; w++, at += U) h->grad[w] = at;
    h->m = at;
    h->v = at + N;
    return QN_OK;
}

/* Who has which use; a parameter's first use is where it lives. */
static qn_status find_owners(qni_homes *h, qn_err *err)
{
    const qn_model *m = h->set->model;
    const int32_t t = h->shards;
    h->tied = h->tied_use = QN_NONE;
    for (int32_t p = 0; p < h->params; p++) h->first_use[p] = QN_NONE;
    for (int32_t u = 0; u < h->uses; u++) {
        const int32_t p = qni_use_param(h, u), chain = stage_of_layer(h->set, qn_model_use(m, u / t)->layer);
        h->use_stage[u] = qn_stage_at(qni_stage_set_grid(h->set, 1), u % t, chain);
        h->use_worker[u] = h->set->worker_of[h->use_stage[u]];
        if (h->first_use[p] == QN_NONE) {
            h->first_use[p] = u;
            h->owner[p] = h->use_worker[u];
        } else if (h->use_worker[u] != h->owner[p] && !qni_homes_frozen(h, p)) {
            if (h->tied != QN_NONE && h->tied / t != p / t)
                return QN_FAIL(err, QN_EUNSUPPORTED, "parameters '%s' and '%s' are both shared between workers; one can be",
                               qni_home_param(h, h->tied)->name, qni_home_param(h, p)->name);
            h->tied = p / t * t;
            h->tied_use = u / t * t;
        }
    }
    return QN_OK;
}

static void lay_block(qni_homes *h, qn_arena *a, int32_t w, int32_t block)
{
    for (int32_t p = 0; block == QNI_BLOCK_VALUES && p < h->params; p++)
        if (holds(h, w, p)) h->value[w][p] = qn_arena_push(a, (size_t)count_of(h, p), h->element, QN_CACHE_LINE);
    for (int32_t u = 0; block == QNI_BLOCK_GRADS && u < h->uses; u++) {
        const int32_t p = qni_use_param(h, u);
        if (h->use_worker[u] == w && !qni_homes_frozen(h, p))
            h->grad[w][u] = qn_arena_push(a, (size_t)count_of(h, p), h->element, QN_CACHE_LINE);
    }
    for (int32_t p = 0; block == QNI_BLOCK_MOMENTS && p < h->params; p++) {
        if (h->owner[p] != w || qni_homes_frozen(h, p)) continue;
        h->m[p] = qn_arena_push(a, (size_t)count_of(h, p), h->element, QN_CACHE_LINE);
        h->v[p] = qn_arena_push(a, (size_t)count_of(h, p), h->element, QN_CACHE_LINE);
    }
}

static qn_status take_blocks(qni_homes *h, qn_err *err)
{
    for (int32_t w = 0; w < h->set->workers; w++) {
        for (int32_t b = 0; b < QNI_BLOCKS; b++) {
            qn_arena *a = &h->block[w * QNI_BLOCKS + b], probe = QN_ARENA_PROBE;
            lay_block(h, &probe, w, b);
            if (probe.used == 0) continue;
            const qn_status st = probe.failed
                                     ? QN_FAIL(err, QN_ENOMEM, "the parameters of worker %d do not fit into the address space", w)
                                     : qn_arena_open(a, probe.used, err);
            if (st != QN_OK) return st;
            lay_block(h, a, w, b);
        }
    }
    if (h->tied == QN_NONE) return QN_OK;
    h->inbox_bytes = (size_t)count_of(h, h->tied) * h->element;
    h->inbox = qn_alloc_pages(h->inbox_bytes * (size_t)h->shards);
    return h->inbox != NULL
               ? QN_OK
               : QN_FAIL(err, QN_ENOMEM, "no memory for the %zu bytes of a shared weight's gradient", h->inbox_bytes);
}

qn_status qni_homes_init(qni_homes *h, const qn_stage_set *set, qn_err *err)
{
    *h = (qni_homes){.set = set,
                     .shards = set->shards,
                     .params = qn_model_params(set->model) * set->shards,
                     .uses = qn_model_uses(set->model) * set->shards,
                     .element = qn_dtype_bytes(set->k->param)};
    qn_status st = take_tables(h, err);
    if (st == QN_OK) st = find_owners(h, err);
    if (st == QN_OK) st = take_blocks(h, err);
    return st;
}

void qni_homes_fini(qni_homes *h)
{
    for (int32_t i = 0; h->block != NULL && i < h->set->workers * QNI_BLOCKS; i++) qn_arena_close(&h->block[i]);
    if (h->inbox != NULL) qn_free_pages(h->inbox, h->inbox_bytes * (size_t)h->shards);
    qn_free(h->block);
    qn_free(h->table);
    qn_free(h->grad);
    qn_free(h->value);
    qn_free(h->use_stage);
    qn_free(h->use_worker);
    qn_free(h->first_use);
    qn_free(h->owner);
    *h = (qni_homes){0};
}

typedef struct initial_job {
    qni_homes *h;
    uint64_t seed;
    int32_t worker;
} initial_job;

static void initial_part(void *ctx, int32_t thread, int32_t threads)
{
    const initial_job *job = ctx;
    const qni_homes *h = job->h;
    int32_t turn = 0;
    for (int32_t p = 0; p < h->params; p++) {
        if (h->owner[p] != job->worker || turn++ % threads != thread) continue;
        qn_model_init_param(qni_stage_set_part(h->set, p % h->shards), p / h->shards, job->seed, h->set->k->param,
                            h->value[job->worker][p]);
    }
}

void qni_homes_set_initial(qni_homes *h, uint64_t seed)
{
    for (int32_t w = 0; w < h->set->workers; w++) {
        initial_job job = {.h = h, .seed = seed, .worker = w};
        qn_exec_run(&h->set->exec[w], initial_part, &job);
    }
    qni_homes_refresh(h);
}

void qni_homes_refresh(qni_homes *h)
{
    for (int32_t w = 0; w < h->set->workers; w++)
        for (int32_t p = 0; p < h->params; p++)
            if (h->value[w][p] != NULL && h->owner[p] != w)
                memcpy(h->value[w][p], h->value[h->owner[p]][p], (size_t)count_of(h, p) * h->element);
}

void qni_homes_clear_grads(qni_homes *h)
{
    for (int32_t w = 0; w < h->set->workers; w++) {
        const qn_arena *a = &h->block[w * QNI_BLOCKS + QNI_BLOCK_GRADS];
        if (a->base != NULL) memset(a->base, 0, a->used);
    }
}

int64_t qni_homes_bytes(const qni_homes *h, int32_t block)
{
    int64_t bytes = block == QNI_BLOCK_GRADS ? (int64_t)h->inbox_bytes * h->shards : 0;
    for (int32_t w = 0; w < h->set->workers; w++) bytes += (int64_t)h->block[w * QNI_BLOCKS + block].used;
    return bytes;
}

int32_t qni_homes_not_finite(const qni_homes *h)
{
    for (int32_t p = 0; p < h->params; p++) {
        const void *value = h->value[h->owner[p]][p];
        for (int64_t i = 0; i < count_of(h, p); i++)
            if (!isfinite(h->element == sizeof(double) ? ((const double *)value)[i] : (double)((const float *)value)[i]))
                return p;
    }
    return QN_NONE;
}

#include "lag.h"

#include <string.h>

#include "core/alloc.h"
#include "core/compiler.h"

static size_t bytes_of(const qni_homes *h, int32_t param)
{
    return (size_t)qni_home_param(h, param)->count * h->element;
}

/* From one level of a use's landed gradients to the next. */
static size_t stride_of(const qni_homes *h, int32_t use)
{
    return (bytes_of(h, qni_use_param(h, use)) + QN_CACHE_LINE - 1) / QN_CACHE_LINE * QN_CACHE_LINE;
}

static void *top_of(const qni_lag *l, int32_t r, int32_t use)
{
    return (char *)l->landed[r][use] + (size_t)l->h->levels * stride_of(l->h, use);
}

static void lay(qni_lag *l, qn_arena *a)
{
    const qni_homes *h = l->h;
    for (int32_t p = 0; p < h->params; p++) l->loaded[p] = qn_arena_push(a, 1, bytes_of(h, p), QN_CACHE_LINE);
    for (int32_t i = 0; i < qn_replicas(h->grid) * h->uses; i++)
        if (h->grad[0][i % h->uses] != NULL)
            l->landed[i / h->uses][i % h->uses] =
                qn_arena_push(a, (size_t)h->levels + 1, stride_of(h, i % h->uses), QN_CACHE_LINE);
}

qn_status qni_lag_init(qni_lag *l, qni_homes *h, qn_err *err)
{
    qn_arena probe = QN_ARENA_PROBE;
    *l = (qni_lag){.h = h};
    const size_t R = (size_t)qn_replicas(h->grid);
    l->loaded = qn_calloc((size_t)h->params + R * (size_t)h->uses, sizeof(void *));
    l->landed = qn_calloc(R, sizeof(void **));
    if (l->loaded == NULL || l->landed == NULL)
        return QN_FAIL(err, QN_ENOMEM, "no memory for the tables of %d parameters", h->params);
    for (size_t r = 0; r < R; r++) l->landed[r] = l->loaded + (size_t)h->params + r * (size_t)h->uses;
    lay(l, &probe);
    const qn_status st = qn_arena_open(&l->block, probe.used, err);
    if (st == QN_OK) lay(l, &l->block);
    return st;
}

void qni_lag_fini(qni_lag *l)
{
    qn_arena_close(&l->block);
    qn_free(l->loaded);
    qn_free(l->landed);
    *l = (qni_lag){0};
}

/* Is the use in that stage's part of the layers, in any replica? */
static bool is_of(const qni_homes *h, int32_t u, int32_t stage)
{
    return h->use_chain[u] == qn_chain_stage(h->grid, stage) && u % h->shards == qn_shard(h->grid, stage);
}

void qni_lag_opt(qni_lag *l, int32_t stage, const qn_hyper *hyper)
{
    if (l->pending) qni_optimize_all(l->h, stage, &l->verdict, hyper, l->step, l->lr);
}

void qni_lag_pcopy(qni_lag *l, int32_t stage)
{
    const qni_homes *h = l->h;
    for (int32_t p = 0; p < h->params; p++)
        if (is_of(h, h->first_use[p], stage)) memcpy(l->loaded[p], h->value[0][p], bytes_of(h, p));
}

void qni_lag_gcopy(qni_lag *l, int32_t stage)
{
    const qni_homes *h = l->h;
    for (int32_t i = 0; i < qn_replicas(h->grid) * h->uses; i++) {
        const int32_t r = i / h->uses, u = i % h->uses;
        if (!is_of(h, u, stage) || l->landed[r][u] == NULL) continue;
        const size_t bytes = bytes_of(h, qni_use_param(h, u));
        memcpy(h->sum[r][u], top_of(l, r, u), bytes);
        if (h->levels > 0) memset(top_of(l, r, u), 0, bytes); /* else the next ones are put there */
    }
}

void qni_lag_landed(qni_lag *l, int32_t stage, int32_t group)
{
    const qni_homes *h = l->h;
    const qn_exec alone = {.team = NULL};
    void *const *landed = l->landed[qn_replica(h->grid, stage)];
    for (int32_t u = 0; u < h->uses && h->levels > 0; u++)
        if (is_of(h, u, stage) && landed[u] != NULL)
            qni_homes_count(h, &alone, landed[u], stride_of(h, u), group, bytes_of(h, qni_use_param(h, u)));
}

void qni_lag_note(qni_lag *l, const qni_verdict *v, int64_t step, double lr)
{
    l->pending = true;
    l->verdict = *v;
    l->step = step;
    l->lr = lr;
}

void qni_lag_settle(qni_lag *l, const qn_hyper *hyper)
{
    for (int32_t s = 0; l->h != NULL && s < qn_depth(l->h->grid) * l->h->shards; s++) qni_lag_opt(l, s, hyper);
    l->pending = false;
}

void qni_lag_restart(qni_lag *l)
{
    for (int32_t i = 0; l->h != NULL && i < qn_replicas(l->h->grid) * l->h->uses; i++) { /* what a step that stopped left there */
        const int32_t u = i % l->h->uses;
        void *tree = l->landed[i / l->h->uses][u];
        if (tree != NULL) memset(tree, 0, ((size_t)l->h->levels + 1) * stride_of(l->h, u));
    }
    for (int32_t s = 0; l->h != NULL && s < qn_depth(l->h->grid) * l->h->shards; s++) qni_lag_pcopy(l, s);
    l->pending = false;
}

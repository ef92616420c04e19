/* Attention over cached keys and values; the definition of a row is that of attention.c over what the cache holds, which may have
 * been rounded to bf16. Cache: k [len, K*D], then v, in the reference's own type or bf16. */
#ifndef QN_REAL
#define QN_SELF "attention_cached.c"
#include <string.h>

#include "reference.h"
#else

static size_t QN_REF(cached_elem)(qn_dtype kv)
{
    return kv == QN_BF16 ? 2 : sizeof(QN_REAL);
}

size_t QN_REF(cached_bytes)(const qn_attention_shape *s, int64_t len, qn_dtype kv)
{
    return 2 * (size_t)(s->K * s->D) * (size_t)len * QN_REF(cached_elem)(kv);
}

size_t QN_REF(cached_scratch)(const qn_attention_shape *s, int64_t len, int32_t threads)
{
    (void)len, (void)threads;
    return (size_t)s->D * sizeof(double) + QN_CACHE_LINE;
}

static double QN_REF(cached_at)(const void *cache, int64_t i, qn_dtype kv)
{
    return kv == QN_BF16 ? (double)qn_bf16_to_f32(((const qn_bf16 *)cache)[i]) : (double)((const QN_REAL *)cache)[i];
}

static void QN_REF(cached_append)(void *cache, const QN_REAL *x, int64_t ld, int64_t P, int64_t T, int64_t n, qn_dtype kv)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++) {
            if (kv == QN_BF16)
                ((qn_bf16 *)cache)[(P + t) * n + i] = qn_f32_to_bf16((float)x[t * ld + i]);
            else
                ((QN_REAL *)cache)[(P + t) * n + i] = x[t * ld + i];
        }
}

/* One query against the first n keys of head kv_head. */
static void QN_REF(cached_row)(QN_REAL *o, double *sum, const QN_REAL *q, const void *k, const void *v, int64_t n, int64_t at,
                               const qn_attention_shape *s, qn_dtype kv)
{
    const int64_t D = s->D, ld = s->K * D;
    double max = -INFINITY, total = 0;
    memset(sum, 0, (size_t)D * sizeof(*sum));
    for (int pass = 0; pass < 2; pass++)
        for (int64_t j = 0; j < n; j++) {
            double score = 0;
            for (int64_t d = 0; d < D; d++) score += (double)q[d] * QN_REF(cached_at)(k, j * ld + at + d, kv);
            score *= s->scale;
            if (pass == 0) {
                if (!(score <= max)) max = score;
                continue;
            }
            const double p = exp(score - max);
            total += p;
            for (int64_t d = 0; d < D; d++) sum[d] += p * QN_REF(cached_at)(v, j * ld + at + d, kv);
        }
    for (int64_t d = 0; d < D; d++) o[d] = (QN_REAL)(sum[d] / total);
}

void QN_REF(attention_cached)(const qn_exec *ex, void *o_, const void *q_, const void *k_, const void *v_,
                              const qn_attention_shape *s, const qn_cached_rows *rows, int64_t n, int64_t len, qn_dtype kv)
{
    QN_REAL *o = o_;
    const QN_REAL *q = q_, *k = k_, *v = v_;
    const int64_t width = s->K * s->D;
    const size_t mark = qn_arena_mark(ex->scratch);
    double *sum = qn_arena_push(ex->scratch, (size_t)s->D, sizeof(double), QN_CACHE_LINE);
    QN_ASSERT(sum != NULL);
    for (int64_t i = 0; i < n; i++) {
        const qn_cached_rows *g = &rows[i];
        char *kc = g->cache, *vc = kc + (size_t)(width * len) * QN_REF(cached_elem)(kv);
        QN_REF(cached_append)(kc, k + g->first * s->ldk, s->ldk, g->P, g->T, width, kv);
        QN_REF(cached_append)(vc, v + g->first * s->ldv, s->ldv, g->P, g->T, width, kv);
        for (int64_t t = 0; t < g->T; t++)
            for (int64_t h = 0; h < s->H; h++) QN_REF(cached_row)
        (o + (g->first + t) * s->ldo + h * s->D, sum, q + (g->first + t) * s->ldq + h * s->D, kc, vc, g->P + t + 1,
         h / (s->H / s->K) * s->D, s, kv);
    }
    qn_arena_release(ex->scratch, mark);
}

#endif

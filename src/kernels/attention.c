/* Causal attention with grouped queries. For query t of head h, with k, v of head h * K / H and j <= t:
 * s[j] = scale q.k[j], lse = log(sum(exp(s))), p = exp(s - lse), o = sum(p[j] v[j]).
 * Backward (Dao et al. 2022, arXiv:2205.14135): delta = dO.o, ds[j] = p[j] (dO.v[j] - delta), dq = scale sum(ds[j] k[j]),
 * dk[j] = scale sum(ds[j] q), dv[j] = sum(p[j] dO), the last two over all t >= j and all heads of the group, heads first. */
#ifndef QN_REAL
#define QN_SELF "attention.c"
#include <string.h>

#include "reference.h"
#else

size_t QN_REF(attention_scratch)(const qn_attention_shape *s, int32_t threads)
{
    (void)threads;
    return 2 * (size_t)s->D * sizeof(double) + QN_CACHE_LINE; /* two rows of sums */
}

static double QN_REF(dot)(const QN_REAL *a, const QN_REAL *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* One query against n keys: o [D] and its log-sum-exp. sum [D] is scratch. */
static double QN_REF(attend)(QN_REAL *o, double *sum, const QN_REAL *q, const QN_REAL *k, const QN_REAL *v, int64_t n,
                             int64_t ldk, int64_t ldv, int64_t D, double scale)
{
    double max = -INFINITY, total = 0;
    memset(sum, 0, (size_t)D * sizeof(*sum));
    for (int64_t j = 0; j < n; j++) {
        const double s = scale * QN_REF(dot)(q, k + j * ldk, D);
        if (!(s <= max)) max = s;
    }
    for (int64_t j = 0; j < n; j++) {
        const double p = exp(scale * QN_REF(dot)(q, k + j * ldk, D) - max);
        total += p;
        for (int64_t d = 0; d < D; d++) sum[d] += p * v[j * ldv + d];
    }
    for (int64_t d = 0; d < D; d++) o[d] = (QN_REAL)(sum[d] / total);
    return max + log(total);
}

void QN_REF(attention_forward)(const qn_exec *ex, void *o_, void *lse_, const void *q_, const void *k_, const void *v_,
                               const qn_attention_shape *s)
{
    QN_REAL *o = o_, *lse = lse_;
    const QN_REAL *q = q_, *k = k_, *v = v_;
    const size_t mark = qn_arena_mark(ex->scratch);
    double *sum = qn_arena_push(ex->scratch, (size_t)s->D, sizeof(double), QN_CACHE_LINE);
    QN_ASSERT(sum != NULL);
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t h = 0; h < s->H; h++) {
            const int64_t first = b * s->T, kv = h / (s->H / s->K) * s->D;
            for (int64_t t = 0; t < s->T; t++)
                lse[(b * s->H + h) * s->T + t] = (QN_REAL)QN_REF(attend)(
                    o + (first + t) * s->ldo + h * s->D, sum, q + (first + t) * s->ldq + h * s->D, k + first * s->ldk + kv,
                    v + first * s->ldv + kv, t + 1, s->ldk, s->ldv, s->D, s->scale);
        }
    qn_arena_release(ex->scratch, mark);
}

void QN_REF(attention_infer)(const qn_exec *ex, void *o_, const void *q_, const void *k_, const void *v_,
                             const qn_attention_shape *s, int64_t P)
{
    QN_REAL *o = o_;
    const QN_REAL *q = q_, *k = k_, *v = v_;
    const size_t mark = qn_arena_mark(ex->scratch);
    double *sum = qn_arena_push(ex->scratch, (size_t)s->D, sizeof(double), QN_CACHE_LINE);
    QN_ASSERT(sum != NULL);
    for (int64_t t = 0; t < s->T; t++)
        for (int64_t h = 0; h < s->H; h++) {
            const int64_t kv = h / (s->H / s->K) * s->D, ld = s->K * s->D;
            (void)QN_REF(attend)(o + t * s->ldo + h * s->D, sum, q + t * s->ldq + h * s->D, k + kv, v + kv, P + t + 1, ld, ld,
                                 s->D, s->scale);
        }
    qn_arena_release(ex->scratch, mark);
}

/* What the backward reads. */
typedef struct {
    const qn_attention_shape *s;
    const QN_REAL *dO, *o, *lse, *q, *k, *v;
} QN_REF(attention_saved);

/* p and ds of one (sample, head, query, key). */
static void QN_REF(score)(double *p, double *ds, const QN_REF(attention_saved) * a, int64_t b, int64_t h, int64_t t, int64_t j)
{
    const qn_attention_shape *s = a->s;
    const int64_t row = b * s->T + t, col = b * s->T + j, kv = h / (s->H / s->K) * s->D;
    const QN_REAL *dO = a->dO + row * s->ldo + h * s->D;
    const double score = s->scale * QN_REF(dot)(a->q + row * s->ldq + h * s->D, a->k + col * s->ldk + kv, s->D);
    const double delta = QN_REF(dot)(dO, a->o + row * s->ldo + h * s->D, s->D);
    *p = exp(score - a->lse[(b * s->H + h) * s->T + t]);
    *ds = *p * (QN_REF(dot)(dO, a->v + col * s->ldv + kv, s->D) - delta);
}

static void QN_REF(attention_dq)(QN_REAL *dq, double *sum, const QN_REF(attention_saved) * a, int64_t b, int64_t h, int64_t t)
{
    const qn_attention_shape *s = a->s;
    const int64_t kv = h / (s->H / s->K) * s->D;
    memset(sum, 0, (size_t)s->D * sizeof(*sum));
    for (int64_t j = 0; j <= t; j++) {
        double p, ds;
        QN_REF(score)(&p, &ds, a, b, h, t, j);
        for (int64_t d = 0; d < s->D; d++) sum[d] += ds * a->k[(b * s->T + j) * s->ldk + kv + d];
    }
    for (int64_t d = 0; d < s->D; d++) dq[d] = (QN_REAL)(s->scale * sum[d]);
}

static void QN_REF(attention_dkv)(QN_REAL *dk, QN_REAL *dv, double *sum, const QN_REF(attention_saved) * a, int64_t b, int64_t kv,
                                  int64_t j)
{
    const qn_attention_shape *s = a->s;
    double *sum_v = sum + s->D;
    memset(sum, 0, 2 * (size_t)s->D * sizeof(*sum));
    for (int64_t h = kv * (s->H / s->K); h < (kv + 1) * (s->H / s->K); h++)
        for (int64_t t = j; t < s->T; t++) {
            double p, ds;
            QN_REF(score)(&p, &ds, a, b, h, t, j);
            for (int64_t d = 0; d < s->D; d++) {
                sum[d] += ds * a->q[(b * s->T + t) * s->ldq + h * s->D + d];
                sum_v[d] += p * a->dO[(b * s->T + t) * s->ldo + h * s->D + d];
            }
        }
    for (int64_t d = 0; d < s->D; d++) {
        dk[d] = (QN_REAL)(s->scale * sum[d]);
        dv[d] = (QN_REAL)sum_v[d];
    }
}

void QN_REF(attention_backward)(const qn_exec *ex, void *dq_, void *dk_, void *dv_, const void *dO, const void *o,
                                const void *lse, const void *q, const void *k, const void *v, const qn_attention_shape *s)
{
    QN_REAL *dq = dq_, *dk = dk_, *dv = dv_;
    const QN_REF(attention_saved) a = {s, dO, o, lse, q, k, v};
    const size_t mark = qn_arena_mark(ex->scratch);
    double *sum = qn_arena_push(ex->scratch, 2 * (size_t)s->D, sizeof(double), QN_CACHE_LINE);
    QN_ASSERT(sum != NULL);
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t t = 0; t < s->T; t++) {
            const int64_t row = b * s->T + t;
            for (int64_t h = 0; h < s->H; h++) QN_REF(attention_dq)(dq + row * s->ldq + h * s->D, sum, &a, b, h, t);
            for (int64_t kv = 0; kv < s->K; kv++)
                QN_REF(attention_dkv)(dk + row * s->ldk + kv * s->D, dv + row * s->ldv + kv * s->D, sum, &a, b, kv, t);
        }
    qn_arena_release(ex->scratch, mark);
}

#endif

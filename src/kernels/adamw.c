/* AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), the squared norm of a gradient, and the fold of two accumulators. */
#ifndef QN_REAL
#define QN_SELF "adamw.c"
#include "reference.h"
#else

double QN_REF(sumsq)(const qn_exec *ex, const void *g_, int64_t n)
{
    (void)ex;
    const QN_REAL *g = g_;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)g[i] * g[i];
    return sum;
}

/* m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2, p -= lr (m / correct1 / (sqrt(v / correct2) + eps) + decay p). */
void QN_REF(adamw)(const qn_exec *ex, void *p_, void *g_, void *m_, void *v_, int64_t n, const qn_adamw *h)
{
    (void)ex;
    QN_REAL *p = p_, *g = g_, *m = m_, *v = v_;
    for (int64_t i = 0; i < n; i++) {
        const double d = g[i] * h->grad_scale;
        m[i] = (QN_REAL)(h->beta1 * m[i] + (1 - h->beta1) * d);
        v[i] = (QN_REAL)(h->beta2 * v[i] + (1 - h->beta2) * d * d);
        p[i] = (QN_REAL)(p[i] - h->lr * (m[i] / h->correct1 / (sqrt(v[i] / h->correct2) + h->eps) + h->decay * p[i]));
        if (!h->keep) g[i] = 0;
    }
}

/* From what is there after the step: p = (p + lr u) / (1 - lr decay) with the same u, v = (v - (1 - beta2) g^2) / beta2,
 * m = (m - (1 - beta1) g) / beta1 (Qi et al. 2024, arXiv:2401.10241, section 4). */
void QN_REF(adamw_undo)(const qn_exec *ex, void *p_, const void *g_, void *m_, void *v_, int64_t n, const qn_adamw *h)
{
    (void)ex;
    QN_REAL *p = p_, *m = m_, *v = v_;
    const QN_REAL *g = g_;
    for (int64_t i = 0; i < n; i++) {
        const double d = g[i] * h->grad_scale, before = (v[i] - (1 - h->beta2) * d * d) / h->beta2;
        const double step = m[i] / h->correct1 / (sqrt(v[i] / h->correct2) + h->eps);
        p[i] = (QN_REAL)((p[i] + h->lr * step) / (1 - h->lr * h->decay));
        v[i] = (QN_REAL)(before > 0 ? before : 0);
        m[i] = (QN_REAL)((m[i] - (1 - h->beta1) * d) / h->beta1);
    }
}

void QN_REF(fold)(const qn_exec *ex, void *a_, void *b_, int64_t n)
{
    (void)ex;
    QN_REAL *a = a_, *b = b_;
    for (int64_t i = 0; i < n; i++) {
        a[i] += b[i];
        b[i] = 0;
    }
}

#endif

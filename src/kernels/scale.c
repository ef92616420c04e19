/* A value times a number, and one value added to another: what a low-rank adapter needs besides products. */
#ifndef QN_REAL
#define QN_SELF "scale.c"
#include "reference.h"
#else

void QN_REF(scale_forward)(const qn_exec *ex, void *y_, const void *x_, int64_t n, double s)
{
    (void)ex;
    QN_REAL *y = y_;
    const QN_REAL *x = x_;
    for (int64_t i = 0; i < n; i++) y[i] = (QN_REAL)s * x[i];
}

void QN_REF(scale_backward)(const qn_exec *ex, void *dx, const void *dy, int64_t n, double s)
{
    QN_REF(scale_forward)(ex, dx, dy, n, s);
}

void QN_REF(accumulate)(const qn_exec *ex, void *y_, const void *x_, int64_t n)
{
    (void)ex;
    QN_REAL *y = y_;
    const QN_REAL *x = x_;
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

#endif

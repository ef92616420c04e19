/* RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467): with n = x * rstd, y = n * w for each row. */
#ifndef QN_REAL
#define QN_SELF "rmsnorm.c"
#include "reference.h"
#else

void QN_REF(rmsnorm_forward)(const qn_exec *ex, void *y_, void *rstd_, const void *x_, const void *w_, int64_t R, int64_t C,
                             double eps)
{
    (void)ex;
    QN_REAL *y = y_, *rstd = rstd_;
    const QN_REAL *x = x_, *w = w_;
    for (int64_t r = 0; r < R; r++, x += C, y += C) {
        double squares = 0;
        for (int64_t c = 0; c < C; c++) squares += (double)x[c] * x[c];
        const double s = 1 / sqrt(squares / (double)C + eps);
        for (int64_t c = 0; c < C; c++) y[c] = (QN_REAL)(x[c] * s * w[c]);
        rstd[r] = (QN_REAL)s;
    }
}

/* With g = dy * w: dx = rstd * (g - n * mean(g * n)). */
void QN_REF(rmsnorm_backward_input)(const qn_exec *ex, void *dx_, const void *dy_, const void *x_, const void *rstd_,
                                    const void *w_, int64_t R, int64_t C, bool add)
{
    (void)ex;
    QN_REAL *dx = dx_;
    const QN_REAL *dy = dy_, *x = x_, *rstd = rstd_, *w = w_;
    for (int64_t r = 0; r < R; r++, x += C, dy += C, dx += C) {
        const double s = rstd[r];
        double sum_gn = 0;
        for (int64_t c = 0; c < C; c++) sum_gn += (double)dy[c] * w[c] * (x[c] * s);
        for (int64_t c = 0; c < C; c++) {
            const double d = s * ((double)dy[c] * w[c] - x[c] * s * (sum_gn / (double)C));
            dx[c] = (QN_REAL)(add ? dx[c] + d : d);
        }
    }
}

/* dw += sum over rows of dy * n. */
void QN_REF(rmsnorm_backward_weight)(const qn_exec *ex, void *dw_, const void *dy_, const void *x_, const void *rstd_, int64_t R,
                                     int64_t C)
{
    (void)ex;
    QN_REAL *dw = dw_;
    const QN_REAL *dy = dy_, *x = x_, *rstd = rstd_;
    for (int64_t c = 0; c < C; c++) {
        double sum = 0;
        for (int64_t r = 0; r < R; r++) sum += dy[r * C + c] * ((double)x[r * C + c] * rstd[r]);
        dw[c] = (QN_REAL)(dw[c] + sum);
    }
}

#endif

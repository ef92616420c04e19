/* LayerNorm (Ba et al. 2016, arXiv:1607.06450): with n = (x - mean) * rstd, y = n * w + b for each row. */
#ifndef QN_REAL
#define QN_SELF "layernorm.c"
#include "reference.h"
#else

void QN_REF(layernorm_forward)(const qn_exec *ex, void *y_, void *mean_, void *rstd_, const void *x_, const void *w_,
                               const void *b_, int64_t R, int64_t C, double eps)
{
    (void)ex;
    QN_REAL *y = y_, *mean = mean_, *rstd = rstd_;
    const QN_REAL *x = x_, *w = w_, *b = b_;
    for (int64_t r = 0; r < R; r++, x += C, y += C) {
        double sum = 0, squares = 0;
        for (int64_t c = 0; c < C; c++) sum += x[c];
        const double m = sum / (double)C;
        for (int64_t c = 0; c < C; c++) squares += (x[c] - m) * (x[c] - m);
        const double s = 1 / sqrt(squares / (double)C + eps);
        for (int64_t c = 0; c < C; c++) y[c] = (QN_REAL)((x[c] - m) * s * w[c] + b[c]);
        mean[r] = (QN_REAL)m;
        rstd[r] = (QN_REAL)s;
    }
}

/* With g = dy * w: dx = rstd * (g - mean(g) - n * mean(g * n)). */
void QN_REF(layernorm_backward_input)(const qn_exec *ex, void *dx_, const void *dy_, const void *x_, const void *mean_,
                                      const void *rstd_, const void *w_, int64_t R, int64_t C, bool add)
{
    (void)ex;
    QN_REAL *dx = dx_;
    const QN_REAL *dy = dy_, *x = x_, *mean = mean_, *rstd = rstd_, *w = w_;
    for (int64_t r = 0; r < R; r++, x += C, dy += C, dx += C) {
        const double m = mean[r], s = rstd[r];
        double sum_g = 0, sum_gn = 0;
        for (int64_t c = 0; c < C; c++) {
            const double g = (double)dy[c] * w[c];
            sum_g += g;
            sum_gn += g * ((x[c] - m) * s);
        }
        for (int64_t c = 0; c < C; c++) {
            const double g = (double)dy[c] * w[c], n = (x[c] - m) * s;
            const double d = s * (g - sum_g / (double)C - n * (sum_gn / (double)C));
            dx[c] = (QN_REAL)(add ? dx[c] + d : d);
        }
    }
}

/* dw += sum over rows of dy * n, db += sum over rows of dy. */
void QN_REF(layernorm_backward_weight)(const qn_exec *ex, void *dw_, void *db_, const void *dy_, const void *x_,
                                       const void *mean_, const void *rstd_, int64_t R, int64_t C)
{
    (void)ex;
    QN_REAL *dw = dw_, *db = db_;
    const QN_REAL *dy = dy_, *x = x_, *mean = mean_, *rstd = rstd_;
    for (int64_t c = 0; c < C; c++) {
        double sum_w = 0, sum_b = 0;
        for (int64_t r = 0; r < R; r++) {
            const double n = ((double)x[r * C + c] - mean[r]) * rstd[r];
            sum_w += dy[r * C + c] * n;
            sum_b += dy[r * C + c];
        }
        if (dw != NULL) dw[c] = (QN_REAL)(dw[c] + sum_w);
        if (db != NULL) db[c] = (QN_REAL)(db[c] + sum_b);
    }
}

#endif

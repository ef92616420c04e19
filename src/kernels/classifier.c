/* Fused linear + softmax + cross-entropy: with logits l = x W^T and p = softmax(l), loss = sum over rows of log(sum(exp(l))) -
 * l[target], and g = p - onehot(target) gives dx = g W and dw = g^T x. Rows with a negative target count for nothing. */
#ifndef QN_REAL
#define QN_SELF "classifier.c"
#include <string.h>

#include "reference.h"
#else

/* V logits of a row, log-sum-exp of each row, one row of dw. */
size_t QN_REF(classifier_scratch)(const qn_linear *lin)
{
    return (size_t)(lin->shape.out + lin->shape.rows + lin->shape.in) * sizeof(double) + 3 * QN_CACHE_LINE;
}

static double QN_REF(dot)(const QN_REAL *a, const QN_REAL *b, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* One row: its loss, *lse, and dx unless NULL. logits [V] is scratch. */
static double QN_REF(classify)(double *lse, QN_REAL *dx, double *logits, const QN_REAL *x, const QN_REAL *w, int32_t target,
                               int64_t V, int64_t C)
{
    double max = -INFINITY, sum = 0;
    for (int64_t v = 0; v < V; v++) {
        logits[v] = QN_REF(dot)(x, w + v * C, C);
        if (!(logits[v] <= max)) max = logits[v];
    }
    for (int64_t v = 0; v < V; v++) sum += exp(logits[v] - max);
    *lse = max + log(sum);
    if (dx != NULL)
        for (int64_t c = 0; c < C; c++) {
            double d = 0;
            for (int64_t v = 0; v < V; v++) d += (exp(logits[v] - *lse) - (v == target)) * w[v * C + c];
            dx[c] = (QN_REAL)d;
        }
    return *lse - logits[target];
}

/* dw[v] += sum over rows of g x, from the rows' log-sum-exp. */
static void QN_REF(classifier_weight)(QN_REAL *dw, double *sum, const double *lse, const QN_REAL *x, const QN_REAL *w,
                                      const int32_t *target, int64_t R, int64_t V, int64_t C)
{
    for (int64_t v = 0; v < V; v++) {
        memset(sum, 0, (size_t)C * sizeof(*sum));
        for (int64_t r = 0; r < R; r++) {
            if (target[r] < 0) continue;
            const double g = exp(QN_REF(dot)(x + r * C, w + v * C, C) - lse[r]) - (v == target[r]);
            for (int64_t c = 0; c < C; c++) sum[c] += g * x[r * C + c];
        }
        for (int64_t c = 0; c < C; c++) dw[v * C + c] = (QN_REAL)(dw[v * C + c] + sum[c]);
    }
}

void QN_REF(classifier)(const qn_exec *ex, qn_linear *lin, double *loss, void *dx_, void *dw, const void *x_, const void *packed,
                        const int32_t *target, int64_t R, unsigned what)
{
    const int64_t C = lin->shape.in, V = lin->shape.out;
    QN_REAL *dx = what & QN_CLASS_INPUT ? dx_ : NULL;
    const QN_REAL *x = x_, *w = packed;
    const size_t mark = qn_arena_mark(ex->scratch);
    double *logits = qn_arena_push(ex->scratch, (size_t)V, sizeof(double), QN_CACHE_LINE);
    double *lse = qn_arena_push(ex->scratch, (size_t)R, sizeof(double), QN_CACHE_LINE);
    double *sum = qn_arena_push(ex->scratch, (size_t)C, sizeof(double), QN_CACHE_LINE);
    QN_ASSERT(!ex->scratch->failed);
    for (int64_t r = 0; r < R; r++) {
        if (target[r] < 0) {
            if (dx != NULL) memset(dx + r * C, 0, (size_t)C * sizeof(*dx));
            continue;
        }
        const double row = QN_REF(classify)(&lse[r], dx != NULL ? dx + r * C : NULL, logits, x + r * C, w, target[r], V, C);
        if (what & QN_CLASS_LOSS) *loss += row;
    }
    if (what & QN_CLASS_WEIGHT) QN_REF(classifier_weight)(dw, sum, lse, x, w, target, R, V, C);
    qn_arena_release(ex->scratch, mark);
}

#endif

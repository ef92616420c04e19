/* Linear map: y = x W^T + b, dx = dy W, dw = dy^T x, db = column sums of dy. A pack is a plain copy of W. */
#ifndef QN_REAL
#define QN_SELF "linear.c"
#include <string.h>

#include "core/alloc.h"
#include "reference.h"
#else

qn_status QN_REF(linear_open)(qn_linear **out, const qn_linear_shape *shape, qn_err *err)
{
    qn_linear *lin = qn_malloc(1, sizeof(*lin));
    if (lin == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a linear map of %zu bytes", sizeof(*lin));
    lin->shape = *shape;
    *out = lin;
    return QN_OK;
}

void QN_REF(linear_close)(qn_linear *lin)
{
    qn_free(lin);
}

size_t QN_REF(linear_packed_bytes)(const qn_linear *lin, unsigned copies)
{
    return copies != 0 ? (size_t)lin->shape.out * (size_t)lin->shape.in * sizeof(QN_REAL) : 0;
}

size_t QN_REF(linear_scratch)(const qn_linear *lin)
{
    (void)lin;
    return 0;
}

void QN_REF(linear_pack)(const qn_exec *ex, qn_linear *lin, void *packed, const void *w, unsigned copies)
{
    (void)ex;
    memcpy(packed, w, QN_REF(linear_packed_bytes)(lin, copies));
}

void QN_REF(linear_step)(const qn_exec *ex, qn_linear *lin, void *packed, void *w, void *g, void *m, void *v,
                         const qn_adamw *hyper, unsigned copies)
{
    QN_REF(adamw)(ex, w, g, m, v, lin->shape.in * lin->shape.out, hyper);
    QN_REF(linear_pack)(ex, lin, packed, w, copies);
}

void QN_REF(linear_forward)(const qn_exec *ex, qn_linear *lin, void *y_, const void *x_, const void *packed, const void *bias,
                            int64_t R)
{
    (void)ex;
    const int64_t C = lin->shape.in, O = lin->shape.out;
    QN_REAL *y = y_;
    const QN_REAL *x = x_, *w = packed, *b = bias;
    for (int64_t r = 0; r < R; r++)
        for (int64_t o = 0; o < O; o++) {
            double sum = b != NULL ? b[o] : 0;
            for (int64_t c = 0; c < C; c++) sum += (double)x[r * C + c] * w[o * C + c];
            y[r * O + o] = (QN_REAL)sum;
        }
}

void QN_REF(linear_backward_input)(const qn_exec *ex, qn_linear *lin, void *dx_, const void *dy_, const void *packed, int64_t R,
                                   bool add)
{
    (void)ex;
    const int64_t C = lin->shape.in, O = lin->shape.out;
    QN_REAL *dx = dx_;
    const QN_REAL *dy = dy_, *w = packed;
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++) {
            double sum = add ? dx[r * C + c] : 0;
            for (int64_t o = 0; o < O; o++) sum += (double)dy[r * O + o] * w[o * C + c];
            dx[r * C + c] = (QN_REAL)sum;
        }
}

void QN_REF(linear_backward_weight)(const qn_exec *ex, qn_linear *lin, void *dw_, void *db_, const void *dy_, const void *x_,
                                    int64_t R)
{
    (void)ex;
    const int64_t C = lin->shape.in, O = lin->shape.out;
    QN_REAL *dw = dw_, *db = db_;
    const QN_REAL *dy = dy_, *x = x_;
    for (int64_t o = 0; o < O; o++) {
        for (int64_t c = 0; dw != NULL && c < C; c++) {
            double sum = 0;
            for (int64_t r = 0; r < R; r++) sum += (double)dy[r * O + o] * x[r * C + c];
            dw[o * C + c] = (QN_REAL)(dw[o * C + c] + sum);
        }
        if (db == NULL) continue;
        double sum = 0;
        for (int64_t r = 0; r < R; r++) sum += dy[r * O + o];
        db[o] = (QN_REAL)(db[o] + sum);
    }
}

#endif

/* Activations, with s(u) = 1 / (1 + exp(-u)).
 * GELU, tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415): y = x/2 (1 + tanh(u)), which is x s(2u), u = k (x + 0.044715
 * x^3). SwiGLU (Shazeer 2020, arXiv:2002.05202): y = gate s(gate) up. */
#ifndef QN_REAL
#define QN_SELF "activation.c"
#include <math.h>

static const double GELU_K = 0.79788456080286535588, GELU_CUBE = 0.044715; /* sqrt(2 / pi) */

static double sigmoid(double u)
{
    return 1 / (1 + exp(-u));
}

#include "reference.h"
#else

void QN_REF(gelu_forward)(const qn_exec *ex, void *y_, const void *x_, int64_t n)
{
    (void)ex;
    QN_REAL *y = y_;
    const QN_REAL *x = x_;
    for (int64_t i = 0; i < n; i++) {
        const double v = x[i];
        y[i] = (QN_REAL)(v * sigmoid(2 * GELU_K * (v + GELU_CUBE * v * v * v)));
    }
}

/* With s = s(2u): dx = dy (s + x s (1 - s) 2u'), u' = k (1 + 3 * 0.044715 x^2). */
void QN_REF(gelu_backward)(const qn_exec *ex, void *dx_, const void *dy_, const void *x_, int64_t n)
{
    (void)ex;
    QN_REAL *dx = dx_;
    const QN_REAL *dy = dy_, *x = x_;
    for (int64_t i = 0; i < n; i++) {
        const double v = x[i], s = sigmoid(2 * GELU_K * (v + GELU_CUBE * v * v * v));
        dx[i] = (QN_REAL)(dy[i] * (s + v * s * (1 - s) * 2 * GELU_K * (1 + 3 * GELU_CUBE * v * v)));
    }
}

void QN_REF(swiglu_forward)(const qn_exec *ex, void *y_, const void *gate_, const void *up_, int64_t n)
{
    (void)ex;
    QN_REAL *y = y_;
    const QN_REAL *gate = gate_, *up = up_;
    for (int64_t i = 0; i < n; i++) y[i] = (QN_REAL)(gate[i] * sigmoid(gate[i]) * up[i]);
}

/* dup = dy gate s, dgate = dy up s (1 + gate (1 - s)). */
void QN_REF(swiglu_backward)(const qn_exec *ex, void *dgate_, void *dup_, const void *dy_, const void *gate_, const void *up_,
                             int64_t n)
{
    (void)ex;
    QN_REAL *dgate = dgate_, *dup = dup_;
    const QN_REAL *dy = dy_, *gate = gate_, *up = up_;
    for (int64_t i = 0; i < n; i++) {
        const double a = gate[i], s = sigmoid(a);
        dup[i] = (QN_REAL)(dy[i] * a * s);
        dgate[i] = (QN_REAL)(dy[i] * up[i] * s * (1 + a * (1 - s)));
    }
}

#endif

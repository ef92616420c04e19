/* GELU and SwiGLU, fast: one exponential an element, one pass over memory. Definition: activation.c. */
#ifndef QN_ACT
#define QN_SELF "lanes_activation.c"
#include "kernels/cpu/vectors.h"

enum { GRAIN = 1024 }; /* elements: a multiple of every W */

#define GELU_2K   1.59576912160573071176f /* 2 sqrt(2 / pi) */
#define GELU_CUBE 0.044715f

/* s(2u) of activation.c */
QN_INLINE vf gelu_gate(vf x)
{
    return v_sigmoid(x * v_fma(x * x, v_of(GELU_2K * GELU_CUBE), v_of(GELU_2K)));
}

typedef struct job {
    void *a, *b; /* outputs */
    const void *dy, *x, *up;
    int64_t n;
} job;

#include "kernels/cpu/lanes_twice.h"
#else

static void QN_LANES(gelu_part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    QN_ACT *y = j->a;
    const QN_ACT *x = j->x;
    const share part = lanes_share(j->n, GRAIN, thread, threads);
    for (int64_t i = part.begin; i < part.end; i += W) {
        const vf v = v_load(x + i, part.end - i);
        v_store(y + i, v * gelu_gate(v), part.end - i);
    }
}

void QN_LANES(gelu_forward)(const qn_exec *ex, void *y, const void *x, int64_t n)
{
    job j = {.a = y, .x = x, .n = n};
    lanes_run(ex, QN_LANES(gelu_part), &j, n);
}

static void QN_LANES(gelu_backward_part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    QN_ACT *dx = j->a;
    const QN_ACT *x = j->x;
    const float *dy = j->dy;
    const share part = lanes_share(j->n, GRAIN, thread, threads);
    for (int64_t i = part.begin; i < part.end; i += W) {
        /* beyond 30 the derivative is 0 or 1, and nothing overflows before */
        const vf v = v_max(v_of(-30), v_min(v_of(30), v_load(x + i, part.end - i))), s = gelu_gate(v);
        const vf du = v_fma(v * v, v_of(3 * GELU_2K * GELU_CUBE), v_of(GELU_2K));
        v_store(dx + i, v_load(dy + i, part.end - i) * v_fma(v * du, s * (1 - s), s), part.end - i);
    }
}

void QN_LANES(gelu_backward)(const qn_exec *ex, void *dx, const void *dy, const void *x, int64_t n)
{
    job j = {.a = dx, .dy = dy, .x = x, .n = n};
    lanes_run(ex, QN_LANES(gelu_backward_part), &j, n);
}

static void QN_LANES(swiglu_part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    QN_ACT *y = j->a;
    const QN_ACT *gate = j->x, *up = j->up;
    const share part = lanes_share(j->n, GRAIN, thread, threads);
    for (int64_t i = part.begin; i < part.end; i += W) {
        const vf g = v_load(gate + i, part.end - i);
        v_store(y + i, g * v_sigmoid(g) * v_load(up + i, part.end - i), part.end - i);
    }
}

void QN_LANES(swiglu_forward)(const qn_exec *ex, void *y, const void *gate, const void *up, int64_t n)
{
    job j = {.a = y, .x = gate, .up = up, .n = n};
    lanes_run(ex, QN_LANES(swiglu_part), &j, n);
}

static void QN_LANES(swiglu_backward_part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    QN_ACT *dgate = j->a, *dup = j->b;
    const QN_ACT *gate = j->x, *up = j->up;
    const float *dy = j->dy;
    const share part = lanes_share(j->n, GRAIN, thread, threads);
    for (int64_t i = part.begin; i < part.end; i += W) {
        const vf g = v_load(gate + i, part.end - i), s = v_sigmoid(g), ds = v_load(dy + i, part.end - i) * s;
        v_store(dup + i, ds * g, part.end - i);
        v_store(dgate + i, ds * v_load(up + i, part.end - i) * v_fma(g, 1 - s, v_of(1)), part.end - i);
    }
}

void QN_LANES(swiglu_backward)(const qn_exec *ex, void *dgate, void *dup, const void *dy, const void *gate, const void *up,
                               int64_t n)
{
    job j = {.a = dgate, .b = dup, .dy = dy, .x = gate, .up = up, .n = n};
    lanes_run(ex, QN_LANES(swiglu_backward_part), &j, n);
}

#endif

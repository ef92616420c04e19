/* Scaling and accumulation, fast. Definition: scale.c. */
#ifndef QN_ACT
#define QN_SELF "lanes_scale.c"
#include "kernels/cpu/vectors.h"

enum { GRAIN = 1024 }; /* elements: a multiple of every W */

typedef struct job {
    void *y;
    const void *x;
    int64_t n;
    float s;
} job;

#include "kernels/cpu/lanes_twice.h"
#else

static void QN_LANES(scale_part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    QN_ACT *y = j->y;
    const QN_ACT *x = j->x;
    const share part = lanes_share(j->n, GRAIN, thread, threads);
    for (int64_t i = part.begin; i < part.end; i += W) v_store(y + i, j->s * v_load(x + i, part.end - i), part.end - i);
}

void QN_LANES(scale_forward)(const qn_exec *ex, void *y, const void *x, int64_t n, double s)
{
    job j = {.y = y, .x = x, .n = n, .s = (float)s};
    lanes_run(ex, QN_LANES(scale_part), &j, n);
}

static void QN_LANES(scale_backward_part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    QN_ACT *dx = j->y;
    const float *dy = j->x;
    const share part = lanes_share(j->n, GRAIN, thread, threads);
    for (int64_t i = part.begin; i < part.end; i += W) v_store(dx + i, j->s * v_load(dy + i, part.end - i), part.end - i);
}

void QN_LANES(scale_backward)(const qn_exec *ex, void *dx, const void *dy, int64_t n, double s)
{
    job j = {.y = dx, .x = dy, .n = n, .s = (float)s};
    lanes_run(ex, QN_LANES(scale_backward_part), &j, n);
}

static void QN_LANES(accumulate_part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    QN_ACT *y = j->y;
    const QN_ACT *x = j->x;
    const share part = lanes_share(j->n, GRAIN, thread, threads);
    for (int64_t i = part.begin; i < part.end; i += W) {
        const int64_t n = part.end - i;
        v_store(y + i, v_load(y + i, n) + v_load(x + i, n), n);
    }
}

void QN_LANES(accumulate)(const qn_exec *ex, void *y, const void *x, int64_t n)
{
    job j = {.y = y, .x = x, .n = n};
    lanes_run(ex, QN_LANES(accumulate_part), &j, n);
}

#endif

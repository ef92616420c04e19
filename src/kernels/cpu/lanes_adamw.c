/* Optimizer kernels, fast: one pass over memory. Definition: adamw.c. */
#include "kernels/cpu/vectors.h"
#include "kernels/linear_dnnl.h"

enum { GRAIN = 1024, SLICES = 64 }; /* elements, a multiple of every W; parts of a sum */

/* --- sumsq: the gradient is cut into SLICES by its length alone, each is summed in double, and the sums are added in order. */
typedef struct sum_job {
    double sum[SLICES];
    const float *g;
    int64_t n;
} sum_job;

static double sum_slice(const float *g, int64_t begin, int64_t end)
{
    vd low = {0}, high = {0};
    for (int64_t i = begin; i < end; i += W) {
        const vf v = v_load(g + i, end - i);
        const vd a = v_low_double(v), b = v_high_double(v);
        low += a * a;
        high += b * b;
    }
    low += high;
    double sum = 0;
    for (int k = 0; k < W / 2; k++) sum += low[k];
    return sum;
}

static void sum_part(void *ctx, int32_t thread, int32_t threads)
{
    sum_job *j = ctx;
    const share part = lanes_share(SLICES, 1, thread, threads);
    for (int64_t s = part.begin; s < part.end; s++) {
        const share slice = lanes_share(j->n, GRAIN, (int32_t)s, SLICES);
        j->sum[s] = sum_slice(j->g, slice.begin, slice.end);
    }
}

double QN_LANES_F32(sumsq)(const qn_exec *ex, const void *g, int64_t n)
{
    sum_job j = {.g = g, .n = n};
    lanes_run(ex, sum_part, &j, n);
    double total = 0;
    for (int s = 0; s < SLICES; s++) total += j.sum[s];
    return total;
}

/* --- adamw */
typedef struct adamw_job {
    float *p, *g, *m, *v;
    int64_t n;
    bool keep;
    float scale, beta1, rest1, beta2, rest2, unbias1, unbias2, eps, lr, decay;
} adamw_job;

QN_INLINE void adamw_range(const adamw_job h, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i += W) {
        const int64_t n = end - i;
        const vf g = v_load(h.g + i, n) * h.scale, p = v_load(h.p + i, n);
        const vf m = v_fma(v_load(h.m + i, n), v_of(h.beta1), g * h.rest1);
        const vf v = v_fma(v_load(h.v + i, n), v_of(h.beta2), g * g * h.rest2);
        const vf root = v_sqrt(v * h.unbias2);
        const vf step = v_fma(p, v_of(h.decay), m * h.unbias1 / (root + h.eps));
        v_store(h.m + i, m, n);
        v_store(h.v + i, v, n);
        v_store(h.p + i, v_fma(step, v_of(-h.lr), p), n);
        if (!h.keep) v_store(h.g + i, (vf){0}, n);
    }
}

static void adamw_part(void *ctx, int32_t thread, int32_t threads)
{
    const adamw_job *j = ctx;
    const share part = lanes_share(j->n, GRAIN, thread, threads);
    adamw_range(*j, part.begin, part.end);
}

static void undo_part(void *ctx, int32_t thread, int32_t threads)
{
    const adamw_job h = *(const adamw_job *)ctx;
    const share part = lanes_share(h.n, GRAIN, thread, threads);
    for (int64_t i = part.begin; i < part.end; i += W) {
        const int64_t n = part.end - i;
        const vf g = v_load(h.g + i, n) * h.scale, m = v_load(h.m + i, n), v = v_load(h.v + i, n);
        const vf step = m * h.unbias1 / (v_sqrt(v * h.unbias2) + h.eps);
        v_store(h.p + i, v_fma(step, v_of(h.lr), v_load(h.p + i, n)) / (1 - h.lr * h.decay), n);
        v_store(h.v + i, v_max(v_fma(g * g, v_of(-h.rest2), v), v_of(0)) / h.beta2, n);
        v_store(h.m + i, v_fma(g, v_of(-h.rest1), m) / h.beta1, n);
    }
}

static adamw_job adamw_job_of(void *p, void *g, void *m, void *v, int64_t n, const qn_adamw *h)
{
    return (adamw_job){.p = p,
                       .g = g,
                       .m = m,
                       .v = v,
                       .n = n,
                       .keep = h->keep,
                       .scale = (float)h->grad_scale,
                       .beta1 = (float)h->beta1,
                       .rest1 = (float)(1 - h->beta1),
                       .beta2 = (float)h->beta2,
                       .rest2 = (float)(1 - h->beta2),
                       .unbias1 = (float)(1 / h->correct1),
                       .unbias2 = (float)(1 / h->correct2),
                       .eps = (float)h->eps,
                       .lr = (float)h->lr,
                       .decay = (float)h->decay};
}

void QN_ENTRY_NAME(step_range, QN_ISA)(float *p, float *g, float *m, float *v, int64_t n, const qn_adamw *h)
{
    adamw_range(adamw_job_of(p, g, m, v, n, h), 0, n);
}

void QN_LANES_F32(adamw)(const qn_exec *ex, void *p, void *g, void *m, void *v, int64_t n, const qn_adamw *h)
{
    adamw_job j = adamw_job_of(p, g, m, v, n, h);
    lanes_run(ex, adamw_part, &j, n);
}

void QN_LANES_F32(adamw_undo)(const qn_exec *ex, void *p, const void *g, void *m, void *v, int64_t n, const qn_adamw *h)
{
    adamw_job j = adamw_job_of(p, (float *)g, m, v, n, h); /* read alone */
    lanes_run(ex, undo_part, &j, n);
}

/* --- fold */
typedef struct fold_job {
    float *a, *b;
    int64_t n;
} fold_job;

static void fold_part(void *ctx, int32_t thread, int32_t threads)
{
    const fold_job *j = ctx;
    const share part = lanes_share(j->n, GRAIN, thread, threads);
    for (int64_t i = part.begin; i < part.end; i += W) {
        v_store(j->a + i, v_load(j->a + i, part.end - i) + v_load(j->b + i, part.end - i), part.end - i);
        v_store(j->b + i, (vf){0}, part.end - i);
    }
}

void QN_LANES_F32(fold)(const qn_exec *ex, void *a, void *b, int64_t n)
{
    fold_job j = {.a = a, .b = b, .n = n};
    lanes_run(ex, fold_part, &j, n);
}

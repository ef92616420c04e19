/* Optimizer kernels, fast: one pass over memory. Definition: optimizer.c. */
#include "kernels/cpu/lanes.h"

enum { GRAIN = 1024, SLICES = 64 }; /* elements, a multiple of every W; parts of a sum */

typedef double vd __attribute__((vector_size(W * 8)));

/* --- sumsq: the gradient is cut into SLICES by its length alone, each is summed in double, and the sums are added in order. */
typedef struct sum_job {
    double sum[SLICES];
    const float *g;
    int64_t n;
} sum_job;

static void sum_part(void *ctx, int32_t thread, int32_t threads)
{
    sum_job *j = ctx;
    int64_t s, last;
    qn_split(&s, &last, SLICES, 1, thread, threads);
    for (; s < last; s++) {
        int64_t i, end;
        qn_split(&i, &end, j->n, GRAIN, (int32_t)s, SLICES);
        vd sum[2] = {{0}, {0}};
        for (; i < end; i += 2 * W) {
            const vd a = __builtin_convertvector(v_load(j->g + i, end - i), vd);
            sum[0] += a * a;
            if (i + W >= end) break;
            const vd b = __builtin_convertvector(v_load(j->g + i + W, end - i - W), vd);
            sum[1] += b * b;
        }
        const vd both = sum[0] + sum[1];
        double total = 0;
        for (int k = 0; k < W; k++) total += both[k];
        j->sum[s] = total;
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
    float scale, beta1, rest1, beta2, rest2, unbias1, unbias2, eps, lr, decay;
} adamw_job;

static void adamw_part(void *ctx, int32_t thread, int32_t threads)
{
    const adamw_job h = *(const adamw_job *)ctx;
    int64_t i, end;
    qn_split(&i, &end, h.n, GRAIN, thread, threads);
    for (; i < end; i += W) {
        const int64_t n = end - i;
        const vf g = v_load(h.g + i, n) * h.scale, p = v_load(h.p + i, n);
        const vf m = v_fma(v_load(h.m + i, n), v_of(h.beta1), g * h.rest1);
        const vf v = v_fma(v_load(h.v + i, n), v_of(h.beta2), g * g * h.rest2);
        const vf root = v_sqrt(v * h.unbias2);
        const vf step = v_fma(p, v_of(h.decay), m * h.unbias1 / (root + h.eps));
        v_store(h.m + i, m, n);
        v_store(h.v + i, v, n);
        v_store(h.p + i, v_fma(step, v_of(-h.lr), p), n);
        v_store(h.g + i, (vf){0}, n);
    }
}

void QN_LANES_F32(adamw)(const qn_exec *ex, void *p, void *g, void *m, void *v, int64_t n, const qn_adamw *h)
{
    adamw_job j = {.p = p,
                   .g = g,
                   .m = m,
                   .v = v,
                   .n = n,
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
    lanes_run(ex, adamw_part, &j, n);
}

/* --- fold */
typedef struct fold_job {
    float *a, *b;
    int64_t n;
} fold_job;

static void fold_part(void *ctx, int32_t thread, int32_t threads)
{
    const fold_job *j = ctx;
    int64_t i, end;
    qn_split(&i, &end, j->n, GRAIN, thread, threads);
    for (; i < end; i += W) {
        v_store(j->a + i, v_load(j->a + i, end - i) + v_load(j->b + i, end - i), end - i);
        v_store(j->b + i, (vf){0}, end - i);
    }
}

void QN_LANES_F32(fold)(const qn_exec *ex, void *a, void *b, int64_t n)
{
    fold_job j = {.a = a, .b = b, .n = n};
    lanes_run(ex, fold_part, &j, n);
}

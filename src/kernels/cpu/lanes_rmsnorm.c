/* RMSNorm, fast: as lanes_layernorm.c, without the mean. Definition: rmsnorm.c. */
#ifndef QN_ACT
#define QN_SELF "lanes_rmsnorm.c"
#include "kernels/cpu/vectors.h"

typedef struct input_job {
    float *dx;
    const float *dy, *x, *rstd, *w;
    int64_t R, C;
    bool add;
} input_job;

/* Sum over the row of dy * w * x. */
static float input_sum(const float *dy, const float *w, const float *x, int64_t C)
{
    vf a = {0}, b = {0};
    int64_t c = 0;
    for (; c + 2 * W <= C; c += 2 * W) {
        a = v_fma(v_load(dy + c, W) * v_load(w + c, W), v_load(x + c, W), a);
        b = v_fma(v_load(dy + c + W, W) * v_load(w + c + W, W), v_load(x + c + W, W), b);
    }
    for (; c < C; c += W) a = v_fma(v_load(dy + c, C - c) * v_load(w + c, C - c), v_load(x + c, C - c), a);
    return v_sum(a + b);
}

static void input_part(void *ctx, int32_t thread, int32_t threads)
{
    const input_job *j = ctx;
    const share part = lanes_share(j->R, 1, thread, threads);
    for (int64_t r = part.begin; r < part.end; r++) {
        const float *dy = j->dy + r * j->C, *x = j->x + r * j->C, rstd = j->rstd[r];
        float *dx = j->dx + r * j->C;
        const float mean_gn = input_sum(dy, j->w, x, j->C) * rstd / (float)j->C;
        for (int64_t c = 0; c < j->C; c += W) {
            const int64_t n = j->C - c;
            const vf xn = v_load(x + c, n) * rstd;
            const vf d = v_fma(xn, v_of(-mean_gn), v_load(dy + c, n) * v_load(j->w + c, n));
            const vf old = j->add ? v_load(dx + c, n) : (vf){0};
            v_store(dx + c, v_fma(d, v_of(rstd), old), n);
        }
    }
}

void QN_LANES_F32(rmsnorm_backward_input)(const qn_exec *ex, void *dx, const void *dy, const void *x, const void *rstd,
                                          const void *w, int64_t R, int64_t C, bool add)
{
    input_job job = {.dx = dx, .dy = dy, .x = x, .rstd = rstd, .w = w, .R = R, .C = C, .add = add};
    lanes_run(ex, input_part, &job, R * C);
}

/* Columns are split over threads, rows ascend: the sum of a column has one order. */
enum { STRIP = 512 }; /* columns whose sums stay in the first-level cache */

typedef struct weight_job {
    float *dw;
    const float *dy, *x, *rstd;
    int64_t R, C;
} weight_job;

/* Adds `rows` rows of columns [first, first + n) to the sums. */
QN_INLINE void weight_rows(vf *sum, const weight_job *j, int64_t r, int rows, int64_t first, int64_t n)
{
    for (int64_t c = 0; c < n; c += W) {
        vf s = sum[c / W];
        for (int i = 0; i < rows; i++) {
            const vf dy = v_load(j->dy + (r + i) * j->C + first + c, n - c);
            s = v_fma(dy, v_load(j->x + (r + i) * j->C + first + c, n - c) * j->rstd[r + i], s);
        }
        sum[c / W] = s;
    }
}

static void weight_part(void *ctx, int32_t thread, int32_t threads)
{
    const weight_job *j = ctx;
    const share part = lanes_share(j->C, QN_CACHE_LINE, thread, threads);
    for (int64_t c = part.begin; c < part.end; c += STRIP) {
        const int64_t n = qn_min64(STRIP, part.end - c);
        vf sum[STRIP / W] = {{0}};
        int64_t r = 0;
        for (; r + 4 <= j->R; r += 4) weight_rows(sum, j, r, 4, c, n);
        for (; r < j->R; r++) weight_rows(sum, j, r, 1, c, n);
        for (int64_t i = 0; i < n; i += W) v_store(j->dw + c + i, v_load(j->dw + c + i, n - i) + sum[i / W], n - i);
    }
}

void QN_LANES_F32(rmsnorm_backward_weight)(const qn_exec *ex, void *dw, const void *dy, const void *x, const void *rstd,
                                           int64_t R, int64_t C)
{
    weight_job job = {.dw = dw, .dy = dy, .x = x, .rstd = rstd, .R = R, .C = C};
    lanes_run(ex, weight_part, &job, R * C);
}

/* --- forward */
static float row_squares(const float *x, int64_t C)
{
    vf a = {0}, b = {0}, d = {0}, e = {0};
    int64_t c = 0;
    for (; c + 4 * W <= C; c += 4 * W) {
        a = v_fma(v_load(x + c, W), v_load(x + c, W), a);
        b = v_fma(v_load(x + c + W, W), v_load(x + c + W, W), b);
        d = v_fma(v_load(x + c + 2 * W, W), v_load(x + c + 2 * W, W), d);
        e = v_fma(v_load(x + c + 3 * W, W), v_load(x + c + 3 * W, W), e);
    }
    for (; c < C; c += W) a = v_fma(v_load(x + c, C - c), v_load(x + c, C - c), a);
    return v_sum((a + b) + (d + e));
}

typedef struct forward_job {
    void *y;
    float *rstd;
    const float *x, *w;
    int64_t R, C;
    float eps;
} forward_job;

#include "kernels/cpu/lanes_twice.h"
#else

static void QN_LANES(forward_part)(void *ctx, int32_t thread, int32_t threads)
{
    const forward_job *j = ctx;
    const share part = lanes_share(j->R, 1, thread, threads);
    for (int64_t r = part.begin; r < part.end; r++) {
        const float *x = j->x + r * j->C;
        QN_ACT *y = (QN_ACT *)j->y + r * j->C;
        const float rstd = 1 / sqrtf(row_squares(x, j->C) / (float)j->C + j->eps);
        for (int64_t c = 0; c < j->C; c += W)
            v_store(y + c, v_load(x + c, j->C - c) * rstd * v_load(j->w + c, j->C - c), j->C - c);
        j->rstd[r] = rstd;
    }
}

void QN_LANES(rmsnorm_forward)(const qn_exec *ex, void *y, void *rstd, const void *x, const void *w, int64_t R, int64_t C,
                               double eps)
{
    forward_job job = {.y = y, .rstd = rstd, .x = x, .w = w, .R = R, .C = C, .eps = (float)eps};
    lanes_run(ex, QN_LANES(forward_part), &job, R * C);
}

#endif

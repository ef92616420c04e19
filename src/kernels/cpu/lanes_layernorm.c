/* LayerNorm, fast: a row is read from memory once and stays in the first-level cache for its passes. Definition: layernorm.c. */
#ifndef QN_ACT
#define QN_SELF "lanes_layernorm.c"
#include "kernels/cpu/vectors.h"

typedef struct input_job {
    float *dx;
    const float *dy, *x, *mean, *rstd, *w;
    int64_t R, C;
    bool add;
} input_job;

/* Sums over the row of g and of g * n. */
static void input_sums(float *sum_g, float *sum_gn, const input_job *j, const float *dy, const float *x, float mean, float rstd)
{
    vf g0 = {0}, g1 = {0}, gn0 = {0}, gn1 = {0};
    int64_t c = 0;
    for (; c + 2 * W <= j->C; c += 2 * W) {
        const vf a = v_load(dy + c, W) * v_load(j->w + c, W), b = v_load(dy + c + W, W) * v_load(j->w + c + W, W);
        g0 = v_fma(v_load(dy + c, W), v_load(j->w + c, W), g0);
        g1 = v_fma(v_load(dy + c + W, W), v_load(j->w + c + W, W), g1);
        gn0 = v_fma(a, (v_load(x + c, W) - mean) * rstd, gn0);
        gn1 = v_fma(b, (v_load(x + c + W, W) - mean) * rstd, gn1);
    }
    for (; c < j->C; c += W) {
        const vf a = v_load(dy + c, j->C - c) * v_load(j->w + c, j->C - c);
        g0 = v_fma(v_load(dy + c, j->C - c), v_load(j->w + c, j->C - c), g0);
        gn0 = v_fma(a, (v_load(x + c, j->C - c) - mean) * rstd, gn0);
    }
    *sum_g = v_sum(g0 + g1);
    *sum_gn = v_sum(gn0 + gn1);
}

static void input_part(void *ctx, int32_t thread, int32_t threads)
{
    const input_job *j = ctx;
    const share part = lanes_share(j->R, 1, thread, threads);
    for (int64_t r = part.begin; r < part.end; r++) {
        const float *dy = j->dy + r * j->C, *x = j->x + r * j->C, mean = j->mean[r], rstd = j->rstd[r];
        float *dx = j->dx + r * j->C, sum_g, sum_gn;
        input_sums(&sum_g, &sum_gn, j, dy, x, mean, rstd);
        const float a = sum_g / (float)j->C, b = sum_gn / (float)j->C;
        for (int64_t c = 0; c < j->C; c += W) {
            const int64_t n = j->C - c;
            const vf xn = (v_load(x + c, n) - mean) * rstd;
            const vf d = v_fma(v_load(dy + c, n), v_load(j->w + c, n), v_fma(xn, v_of(-b), v_of(-a)));
            const vf old = j->add ? v_load(dx + c, n) : (vf){0};
            v_store(dx + c, v_fma(d, v_of(rstd), old), n);
        }
    }
}

void QN_LANES_F32(layernorm_backward_input)(const qn_exec *ex, void *dx, const void *dy, const void *x, const void *mean,
                                            const void *rstd, const void *w, int64_t R, int64_t C, bool add)
{
    input_job job = {.dx = dx, .dy = dy, .x = x, .mean = mean, .rstd = rstd, .w = w, .R = R, .C = C, .add = add};
    lanes_run(ex, input_part, &job, R * C);
}

/* Columns are split over threads, rows ascend: the sum of a column has one order. */
enum { STRIP = 512 }; /* columns whose sums stay in the first-level cache */

typedef struct weight_job {
    float *dw, *db;
    const float *dy, *x, *mean, *rstd;
    int64_t R, C;
} weight_job;

/* Adds `rows` rows of columns [first, first + n) to the sums. */
QN_INLINE void weight_rows(vf *sum_w, vf *sum_b, const weight_job *j, int64_t r, int rows, int64_t first, int64_t n)
{
    for (int64_t c = 0; c < n; c += W) {
        vf w = sum_w[c / W], b = sum_b[c / W];
        for (int i = 0; i < rows; i++) {
            const vf dy = v_load(j->dy + (r + i) * j->C + first + c, n - c);
            const vf x = v_load(j->x + (r + i) * j->C + first + c, n - c);
            w = v_fma(dy, (x - j->mean[r + i]) * j->rstd[r + i], w);
            b += dy;
        }
        sum_w[c / W] = w;
        sum_b[c / W] = b;
    }
}

static void weight_part(void *ctx, int32_t thread, int32_t threads)
{
    const weight_job *j = ctx;
    const share part = lanes_share(j->C, QN_CACHE_LINE, thread, threads);
    for (int64_t c = part.begin; c < part.end; c += STRIP) {
        const int64_t n = qn_min64(STRIP, part.end - c);
        vf sum_w[STRIP / W] = {{0}}, sum_b[STRIP / W] = {{0}};
        int64_t r = 0;
        for (; r + 4 <= j->R; r += 4) weight_rows(sum_w, sum_b, j, r, 4, c, n);
        for (; r < j->R; r++) weight_rows(sum_w, sum_b, j, r, 1, c, n);
        for (int64_t i = 0; i < n; i += W) {
            if (j->dw != NULL) v_store(j->dw + c + i, v_load(j->dw + c + i, n - i) + sum_w[i / W], n - i);
            if (j->db != NULL) v_store(j->db + c + i, v_load(j->db + c + i, n - i) + sum_b[i / W], n - i);
        }
    }
}

void QN_LANES_F32(layernorm_backward_weight)(const qn_exec *ex, void *dw, void *db, const void *dy, const void *x,
                                             const void *mean, const void *rstd, int64_t R, int64_t C)
{
    weight_job job = {.dw = dw, .db = db, .dy = dy, .x = x, .mean = mean, .rstd = rstd, .R = R, .C = C};
    lanes_run(ex, weight_part, &job, R * C);
}

/* --- forward */
static float row_mean(const float *x, int64_t C)
{
    vf a = {0}, b = {0}, d = {0}, e = {0};
    int64_t c = 0;
    for (; c + 4 * W <= C; c += 4 * W) {
        a += v_load(x + c, W);
        b += v_load(x + c + W, W);
        d += v_load(x + c + 2 * W, W);
        e += v_load(x + c + 3 * W, W);
    }
    for (; c < C; c += W) a += v_load(x + c, C - c);
    return v_sum((a + b) + (d + e)) / (float)C;
}

static float row_variance(const float *x, float mean, int64_t C)
{
    vf a = {0}, b = {0}, d = {0}, e = {0};
    int64_t c = 0;
    for (; c + 4 * W <= C; c += 4 * W) {
        const vf p = v_load(x + c, W) - mean, q = v_load(x + c + W, W) - mean;
        const vf r = v_load(x + c + 2 * W, W) - mean, s = v_load(x + c + 3 * W, W) - mean;
        a = v_fma(p, p, a);
        b = v_fma(q, q, b);
        d = v_fma(r, r, d);
        e = v_fma(s, s, e);
    }
    for (; c < C; c += W) {
        const vf p = v_keep(v_below(C - c), v_load(x + c, C - c) - mean);
        a = v_fma(p, p, a);
    }
    return v_sum((a + b) + (d + e)) / (float)C;
}

typedef struct forward_job {
    void *y;
    float *mean, *rstd;
    const float *x, *w, *b;
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
        const float mean = row_mean(x, j->C), rstd = 1 / sqrtf(row_variance(x, mean, j->C) + j->eps);
        for (int64_t c = 0; c < j->C; c += W) {
            const int64_t n = j->C - c;
            v_store(y + c, v_fma((v_load(x + c, n) - mean) * rstd, v_load(j->w + c, n), v_load(j->b + c, n)), n);
        }
        j->mean[r] = mean;
        j->rstd[r] = rstd;
    }
}

void QN_LANES(layernorm_forward)(const qn_exec *ex, void *y, void *mean, void *rstd, const void *x, const void *w, const void *b,
                                 int64_t R, int64_t C, double eps)
{
    forward_job job = {.y = y, .mean = mean, .rstd = rstd, .x = x, .w = w, .b = b, .R = R, .C = C, .eps = (float)eps};
    lanes_run(ex, QN_LANES(forward_part), &job, R * C);
}

#endif

/* Rotary embedding, fast: angles are reduced in double, so that positions of any size turn exactly; sine and cosine are
 * polynomials, computed once for all heads of a row. Definition: rope.c. */
#ifndef QN_ACT
#define QN_SELF "lanes_rope.c"
#include "kernels/cpu/vectors.h"

enum { PAIRS = 64 }; /* of a strip: a multiple of every W */

typedef struct job {
    void *y;
    const void *x;
    const int32_t *pos;
    int64_t R, H, D, ld;
    double theta;
    bool inverse;
} job;

/* The sine and cosine of n angles of pos * turn[i] full turns. Polynomials in a quarter turn: absolute error below 2e-7. */
static void sine_cosine(float *sine, float *cosine, const double *turn, int32_t pos, int64_t n, bool inverse)
{
    float part[PAIRS], sign[PAIRS]; /* turns in [-1/4, 1/4]; -1 where half a turn was taken off */
    for (int64_t i = 0; i < n; i++) {
        const double magic = 0x1.8p52, t = pos * turn[i], half = (t + t + magic) - magic; /* rounds to an integer */
        const double odd = half - 2 * ((half * 0.5 + magic) - magic);
        part[i] = (float)(t - half * 0.5);
        sign[i] = odd != 0 ? -1.0f : 1.0f;
    }
    for (int64_t i = 0; i < n; i += W) {
        const vf a = v_load(part + i, n - i) * 6.28318530717958648f, z = a * a, s = v_load(sign + i, n - i);
        vf p = v_of(1.60590438e-10f); /* 1 / 13! and so on down */
        p = v_fma(p, z, v_of(-2.50521084e-8f));
        p = v_fma(p, z, v_of(2.75573192e-6f));
        p = v_fma(p, z, v_of(-1.98412698e-4f));
        p = v_fma(p, z, v_of(8.33333333e-3f));
        p = v_fma(p, z, v_of(-1.66666667e-1f));
        p = v_fma(p, a * z, a);
        vf q = v_of(2.08767570e-9f); /* 1 / 12! and so on down */
        q = v_fma(q, z, v_of(-2.75573192e-7f));
        q = v_fma(q, z, v_of(2.48015873e-5f));
        q = v_fma(q, z, v_of(-1.38888889e-3f));
        q = v_fma(q, z, v_of(4.16666667e-2f));
        q = v_fma(q, z, v_of(-0.5f));
        q = v_fma(q, z, v_of(1));
        v_store(sine + i, p * (inverse ? -s : s), n - i);
        v_store(cosine + i, q * s, n - i);
    }
}

#include "kernels/cpu/lanes_twice.h"
#else

static void QN_LANES(part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    const int64_t half = j->D / 2;
    const share part = lanes_share(j->R, 1, thread, threads);
    for (int64_t d = 0; d < half && part.begin < part.end; d += PAIRS) {
        const int64_t n = qn_min64(PAIRS, half - d);
        double turn[PAIRS];
        float sine[PAIRS], cosine[PAIRS];
        for (int64_t i = 0; i < n; i++) turn[i] = pow(j->theta, -2 * (double)(d + i) / (double)j->D) / 6.28318530717958647693;
        for (int64_t r = part.begin; r < part.end; r++) {
            sine_cosine(sine, cosine, turn, j->pos[r], n, j->inverse);
            for (int64_t h = 0; h < j->H; h++) {
                QN_ACT *y = (QN_ACT *)j->y + r * j->ld + h * j->D + d;
                const QN_ACT *x = (const QN_ACT *)j->x + r * j->ld + h * j->D + d;
                for (int64_t i = 0; i < n; i += W) {
                    const vf a = v_load(x + i, n - i), b = v_load(x + half + i, n - i);
                    const vf s = v_load(sine + i, n - i), c = v_load(cosine + i, n - i);
                    v_store(y + i, v_fma(a, c, -(b * s)), n - i);
                    v_store(y + half + i, v_fma(a, s, b * c), n - i);
                }
            }
        }
    }
}

void QN_LANES(rope)(const qn_exec *ex, void *y, const void *x, const int32_t *pos, int64_t R, int64_t H, int64_t D, int64_t ld,
                    double theta, bool inverse)
{
    job j = {.y = y, .x = x, .pos = pos, .R = R, .H = H, .D = D, .ld = ld, .theta = theta, .inverse = inverse};
    lanes_run(ex, QN_LANES(part), &j, R * H * D);
}

#endif

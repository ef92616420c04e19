/* Residual join and dropout, fast: the random words of 4 W elements come from one vector Philox. Definition: residual.c. */
#ifndef QN_ACT
#define QN_SELF "lanes_residual.c"
#include "kernels/cpu/vectors.h"
#include "kernels/dropout.h"

/* High and low halves of the 64-bit products of each lane with m. */
QN_INLINE vu multiply(vu *low, vu a, uint32_t m)
{
    *low = a * m;
#if defined(QN_ISA_avx512)
    const __m512i b = _mm512_set1_epi32((int32_t)m), v = (__m512i)a;
    const __m512i even = _mm512_mul_epu32(v, b), odd = _mm512_mul_epu32(_mm512_srli_epi64(v, 32), b);
    return (vu)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
#elif defined(QN_ISA_avx2)
    const __m256i b = _mm256_set1_epi32((int32_t)m), v = (__m256i)a;
    const __m256i even = _mm256_mul_epu32(v, b), odd = _mm256_mul_epu32(_mm256_srli_epi64(v, 32), b);
    return (vu)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
#elif defined(__SSE2__)
    const __m128i b = _mm_set1_epi32((int32_t)m), v = (__m128i)a;
    const __m128i even = _mm_mul_epu32(v, b), odd = _mm_mul_epu32(_mm_srli_epi64(v, 32), b);
    return (vu)_mm_or_si128(_mm_srli_epi64(even, 32), _mm_and_si128(odd, _mm_set_epi32(-1, 0, -1, 0)));
#else
    vu high;
    for (int i = 0; i < W; i++) high[i] = (uint32_t)((uint64_t)a[i] * m >> 32);
    return high;
#endif
}

/* Words 4 * block .. 4 * (block + W) - 1 of the stream, in their order: qn_rng_block for W blocks at once. */
QN_INLINE void random_words(vu out[4], const qn_rng_key *key, uint32_t block)
{
#if defined(QN_ISA_avx512)
    vu c0 = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif defined(QN_ISA_avx2)
    vu c0 = {0, 1, 2, 3, 4, 5, 6, 7};
#else
    vu c0 = {0, 1, 2, 3};
#endif
    const vu zero = {0};
    vu c1 = zero + key->sample, c2 = zero + key->step, c3 = zero + ((uint32_t)key->layer << 16 | key->op);
    uint32_t k0 = (uint32_t)key->seed, k1 = (uint32_t)(key->seed >> 32);
    c0 += block;
    for (int round = 0; round < 10; round++) {
        vu low0, low1;
        const vu high0 = multiply(&low0, c0, 0xD2511F53u), high1 = multiply(&low1, c2, 0xCD9E8D57u);
        c0 = high1 ^ c1 ^ k0;
        c2 = high0 ^ c3 ^ k1;
        c1 = low1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const vu even_low = QN_ZIP_LOW(c0, c2), even_high = QN_ZIP_HIGH(c0, c2);
    const vu odd_low = QN_ZIP_LOW(c1, c3), odd_high = QN_ZIP_HIGH(c1, c3);
    out[0] = QN_ZIP_LOW(even_low, odd_low);
    out[1] = QN_ZIP_HIGH(even_low, odd_low);
    out[2] = QN_ZIP_LOW(even_high, odd_high);
    out[3] = QN_ZIP_HIGH(even_high, odd_high);
}

enum { UNIT = 4096 }; /* elements of one sample that a thread takes at a time: a multiple of every 4 W */

typedef struct job {
    void *y;
    const float *a; /* the sum's other part; backward: NULL */
    const void *x;
    int64_t n, units; /* elements and units of a sample */
    int64_t all;      /* units */
    uint64_t limit;
    float scale;
    qn_rng_key key;
} job;

/* The elements of unit u: they start `first` elements into a sample that starts at `at`. */
typedef struct span {
    int64_t at, first, end;
    qn_rng_key key;
} span;

QN_INLINE span unit_span(const job *j, int64_t u)
{
    const int64_t sample = u / j->units, first = u % j->units * UNIT;
    span s = {.at = sample * j->n, .first = first, .end = qn_min64(first + UNIT, j->n), .key = j->key};
    s.key.sample += (uint32_t)sample;
    return s;
}

/* drop(v), with the random words of its lanes */
QN_INLINE vf drop(const job *j, vf v, vu word)
{
    return j->limit == 0 ? v : v_keep((vi)(word > (uint32_t)(j->limit - 1)), v * j->scale);
}

static void run(const qn_exec *ex, qn_team_fn *fn, void *y, const float *a, const void *x, int64_t B, int64_t n, double p,
                const qn_rng_key *key)
{
    job j = {.y = y, .a = a, .x = x, .n = n, .limit = qni_dropout_limit(p), .scale = (float)qni_dropout_scale(p)};
    if (j.limit != 0)
        j.key = *key;
    else
        j.n = B * n, B = 1;
    j.units = (j.n + UNIT - 1) / UNIT;
    j.all = B * j.units;
    if (j.all > 0) lanes_run(ex, fn, &j, B * j.n);
}

/* Between arrays of res, dropout is the backward of f32. */
void QN_LANES_F32(dropout)(const qn_exec *ex, void *y, const void *x, int64_t B, int64_t n, double p, const qn_rng_key *key)
{
    QN_LANES_F32(residual_backward)(ex, y, x, B, n, p, key);
}

#include "kernels/cpu/lanes_twice.h"
#else

/* y = a + drop(x) */
static void QN_LANES(forward_part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    const share part = lanes_share(j->all, 1, thread, threads);
    for (int64_t u = part.begin; u < part.end; u++) {
        const span s = unit_span(j, u);
        float *y = (float *)j->y + s.at;
        const float *a = j->a + s.at;
        const QN_ACT *x = (const QN_ACT *)j->x + s.at;
        for (int64_t e = s.first; e < s.end; e += 4 * W) {
            vu word[4] = {{0}};
            if (j->limit != 0) random_words(word, &s.key, (uint32_t)(e / 4));
            for (int64_t k = 0, i = e; k < 4 && i < s.end; k++, i += W) {
                const vf v = drop(j, v_load(x + i, s.end - i), word[k]);
                v_store(y + i, v_load(a + i, s.end - i) + v, s.end - i);
            }
        }
    }
}

void QN_LANES(residual_forward)(const qn_exec *ex, void *y, const void *a, const void *b, int64_t B, int64_t n, double p,
                                const qn_rng_key *key)
{
    run(ex, QN_LANES(forward_part), y, a, b, B, n, p, key);
}

/* y = drop(x) */
static void QN_LANES(backward_part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    const share part = lanes_share(j->all, 1, thread, threads);
    for (int64_t u = part.begin; u < part.end; u++) {
        const span s = unit_span(j, u);
        QN_ACT *y = (QN_ACT *)j->y + s.at;
        const float *x = (const float *)j->x + s.at;
        for (int64_t e = s.first; e < s.end; e += 4 * W) {
            vu word[4] = {{0}};
            if (j->limit != 0) random_words(word, &s.key, (uint32_t)(e / 4));
            for (int64_t k = 0, i = e; k < 4 && i < s.end; k++, i += W)
                v_store(y + i, drop(j, v_load(x + i, s.end - i), word[k]), s.end - i);
        }
    }
}

void QN_LANES(residual_backward)(const qn_exec *ex, void *db, const void *dy, int64_t B, int64_t n, double p,
                                 const qn_rng_key *key)
{
    run(ex, QN_LANES(backward_part), db, NULL, dy, B, n, p, key);
}

#endif

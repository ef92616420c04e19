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
    int64_t first, count; /* elements of all samples; y, a and x begin with the first of them */
    int64_t n, units;     /* elements and units of a sample */
    int64_t all;          /* units */
    uint64_t limit;
    float scale;
    qn_rng_key key;
} job;

/* Elements first .. end - 1 of a sample; element e is number at + e of the arrays. */
typedef struct span {
    int64_t at, first, end;
    qn_rng_key key;
} span;

QN_INLINE span unit_span(const job *j, int64_t u)
{
    const int64_t sample = u / j->units, unit = u % j->units * UNIT, at = sample * j->n - j->first;
    span s = {.at = at, .first = qn_max64(unit, -at), .end = qn_min64(qn_min64(unit + UNIT, j->n), j->count - at), .key = j->key};
    s.key.sample += (uint32_t)sample;
    return s;
}

/* drop(v), with the random words of its lanes */
QN_INLINE vf drop(const job *j, vf v, vu word)
{
    return j->limit == 0 ? v : v_keep((vi)(word > (uint32_t)(j->limit - 1)), v * j->scale);
}

/* The word of one element, in all lanes. */
QN_INLINE vu random_word(const qn_rng_key *key, int64_t e)
{
    uint32_t block[4];
    qn_rng_block(block, key, (uint32_t)(e / 4));
    return (vu){0} + block[e % 4];
}

static void run(const qn_exec *ex, qn_team_fn *fn, void *y, const float *a, const void *x, int64_t first, int64_t count,
                int64_t n, double p, const qn_rng_key *key)
{
    job j = {.y = y, .a = a, .x = x, .n = n, .limit = qni_dropout_limit(p), .scale = (float)qni_dropout_scale(p)};
    if (count == 0) return;
    j.count = count;
    if (j.limit != 0) {
        j.key = *key;
        j.key.sample += (uint32_t)(first / n);
        j.first = first % n;
    } else
        j.n = count;
    j.units = (j.n + UNIT - 1) / UNIT;
    j.all = (j.first + count + j.n - 1) / j.n * j.units;
    lanes_run(ex, fn, &j, count);
}

/* Between arrays of res, dropout is the backward of f32. */
void QN_LANES_F32(dropout)(const qn_exec *ex, void *y, const void *x, int64_t first, int64_t count, int64_t n, double p,
                           const qn_rng_key *key)
{
    QN_LANES_F32(residual_backward)(ex, y, x, first, count, n, p, key);
}

#include "kernels/cpu/lanes_twice.h"
#else

/* y = a + drop(x) */
QN_INLINE void QN_LANES(join)(const job *j, int64_t i, int64_t n, vu word)
{
    float *y = (float *)j->y + i;
    v_store(y, v_load(j->a + i, n) + drop(j, v_load((const QN_ACT *)j->x + i, n), word), n);
}

static void QN_LANES(forward_part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    const share part = lanes_share(j->all, 1, thread, threads);
    for (int64_t u = part.begin; u < part.end; u++) {
        const span s = unit_span(j, u);
        int64_t e = s.first;
        for (; e < s.end && e % 4 != 0; e++) QN_LANES(join)(j, s.at + e, 1, j->limit != 0 ? random_word(&s.key, e) : (vu){0});
        for (; e < s.end; e += 4 * W) {
            vu word[4] = {{0}};
            if (j->limit != 0) random_words(word, &s.key, (uint32_t)(e / 4));
            for (int64_t k = 0, i = e; k < 4 && i < s.end; k++, i += W) QN_LANES(join)(j, s.at + i, s.end - i, word[k]);
        }
    }
}

void QN_LANES(residual_forward)(const qn_exec *ex, void *y, const void *a, const void *b, int64_t first, int64_t count, int64_t n,
                                double p, const qn_rng_key *key)
{
    run(ex, QN_LANES(forward_part), y, a, b, first, count, n, p, key);
}

/* y = drop(x) */
QN_INLINE void QN_LANES(back)(const job *j, int64_t i, int64_t n, vu word)
{
    QN_ACT *y = (QN_ACT *)j->y + i;
    v_store(y, drop(j, v_load((const float *)j->x + i, n), word), n);
}

static void QN_LANES(backward_part)(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    const share part = lanes_share(j->all, 1, thread, threads);
    for (int64_t u = part.begin; u < part.end; u++) {
        const span s = unit_span(j, u);
        int64_t e = s.first;
        for (; e < s.end && e % 4 != 0; e++) QN_LANES(back)(j, s.at + e, 1, j->limit != 0 ? random_word(&s.key, e) : (vu){0});
        for (; e < s.end; e += 4 * W) {
            vu word[4] = {{0}};
            if (j->limit != 0) random_words(word, &s.key, (uint32_t)(e / 4));
            for (int64_t k = 0, i = e; k < 4 && i < s.end; k++, i += W) QN_LANES(back)(j, s.at + i, s.end - i, word[k]);
        }
    }
}

void QN_LANES(residual_backward)(const qn_exec *ex, void *db, const void *dy, int64_t first, int64_t count, int64_t n, double p,
                                 const qn_rng_key *key)
{
    run(ex, QN_LANES(backward_part), db, NULL, dy, first, count, n, p, key);
}

#endif

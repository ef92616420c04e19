/* Vectors for the fast kernels: one source, compiled once for each instruction set (cmake/modules.cmake).
 *
 * W is the native number of f32 lanes: 16 (avx512), 8 (avx2), 4 (portable). A kernel is written with vf and the v_ functions
 * below and is right for any W; memory may be f32 or bf16, unaligned, and every load and store takes the number of elements that
 * remain, so that a tail runs through the same code as the rest.
 *
 * An element's result must not depend on where in a call it stands, and the compiler may contract a * b + c into one rounding
 * (-ffp-contract=fast). So a sum of two products is always written with v_fma, which leaves it no choice.
 *
 * QN_LANES_F32(name) is the symbol of an entry that exists once (entries.h); those that exist for each type of act are written
 * below lanes_twice.h. */
#ifndef QN_KERNELS_VECTORS_H
#define QN_KERNELS_VECTORS_H

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/checked.h"
#include "core/compiler.h"
#include "kernels/fast.h"

#if defined(QN_ISA_avx512)
enum { W = 16 };
#elif defined(QN_ISA_avx2)
enum { W = 8 };
#else
enum { W = 4 };
#endif

#define QN_LANES_JOIN(act, isa)   act##_##isa
#define QN_LANES_SUFFIX(act, isa) QN_LANES_JOIN(act, isa)
#define QN_LANES_F32(name)        QN_ENTRY_NAME(name, QN_LANES_SUFFIX(f32, QN_ISA))

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));
typedef uint16_t vh __attribute__((vector_size(W * 2)));
typedef float vf_any __attribute__((vector_size(W * 4), aligned(4), may_alias));    /* in memory */
typedef uint16_t vh_any __attribute__((vector_size(W * 2), aligned(2), may_alias)); /* in memory */

/* --- arithmetic. v_fma rounds once where the machine can. v_max and v_min return b when either is NaN. */
#if defined(QN_ISA_avx512)
QN_INLINE vf v_fma(vf a, vf b, vf c)
{
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
QN_INLINE vf v_max(vf a, vf b)
{
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
}
QN_INLINE vf v_min(vf a, vf b)
{
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
}
QN_INLINE vf v_sqrt(vf a)
{
    return (vf)_mm512_sqrt_ps((__m512)a);
}
#elif defined(QN_ISA_avx2)
QN_INLINE vf v_fma(vf a, vf b, vf c)
{
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
QN_INLINE vf v_max(vf a, vf b)
{
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
}
QN_INLINE vf v_min(vf a, vf b)
{
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
}
QN_INLINE vf v_sqrt(vf a)
{
    return (vf)_mm256_sqrt_ps((__m256)a);
}
#elif defined(__SSE2__)
QN_INLINE vf v_fma(vf a, vf b, vf c)
{
    return a * b + c;
}
QN_INLINE vf v_max(vf a, vf b)
{
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
}
QN_INLINE vf v_min(vf a, vf b)
{
    return (vf)_mm_min_ps((__m128)a, (__m128)b);
}
QN_INLINE vf v_sqrt(vf a)
{
    return (vf)_mm_sqrt_ps((__m128)a);
}
#else
QN_INLINE vf v_fma(vf a, vf b, vf c)
{
    return a * b + c;
}
QN_INLINE vf v_max(vf a, vf b)
{
    const vi m = a > b;
    return (vf)(((vi)a & m) | ((vi)b & ~m));
}
QN_INLINE vf v_min(vf a, vf b)
{
    const vi m = a < b;
    return (vf)(((vi)a & m) | ((vi)b & ~m));
}
QN_INLINE vf v_sqrt(vf a)
{
    for (int i = 0; i < W; i++) a[i] = sqrtf(a[i]);
    return a;
}
#endif

QN_INLINE vf v_of(float x)
{
    return x - (vf){0};
}
/* mask (all ones or all zeroes in each lane) ? a : b */
QN_INLINE vf v_select(vi mask, vf a, vf b)
{
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}
QN_INLINE vf v_keep(vi mask, vf a)
{
    return (vf)(mask & (vi)a);
}

/* All ones in the lanes below n. */
QN_INLINE vi v_below(int64_t n)
{
#if defined(QN_ISA_avx512)
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif defined(QN_ISA_avx2)
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7};
#else
    const vi lane = {0, 1, 2, 3};
#endif
    return lane < (int32_t)(n < W ? n : W);
}

/* --- sums over the lanes, in a fixed tree: lane i + lane i + W/2, and so on down. */
#if defined(QN_ISA_avx512)
#define QN_FOLD_8(v)      __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)
#define QN_FOLD_4(v)      __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)
#define QN_FOLD_2(v)      __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)
#define QN_FOLD_1(v)      __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14)
#define QN_ZIP_LOW(a, b)  __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define QN_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif defined(QN_ISA_avx2)
#define QN_FOLD_4(v)      __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3)
#define QN_FOLD_2(v)      __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5)
#define QN_FOLD_1(v)      __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6)
#define QN_ZIP_LOW(a, b)  __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define QN_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define QN_FOLD_2(v)      __builtin_shufflevector(v, v, 2, 3, 0, 1)
#define QN_FOLD_1(v)      __builtin_shufflevector(v, v, 1, 0, 3, 2)
#define QN_ZIP_LOW(a, b)  __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define QN_ZIP_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif

QN_INLINE float v_sum(vf v)
{
#if defined(QN_FOLD_8)
    v += QN_FOLD_8(v);
#endif
#if defined(QN_FOLD_4)
    v += QN_FOLD_4(v);
#endif
    v += QN_FOLD_2(v);
    v += QN_FOLD_1(v);
    return v[0];
}

QN_INLINE float v_highest(vf v) /* NaN in a lane may or may not show */
{
#if defined(QN_FOLD_8)
    v = v_max(v, QN_FOLD_8(v));
#endif
#if defined(QN_FOLD_4)
    v = v_max(v, QN_FOLD_4(v));
#endif
    v = v_max(v, QN_FOLD_2(v));
    v = v_max(v, QN_FOLD_1(v));
    return v[0];
}

#if defined(__clang__)
#define QN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define QN_UNROLL _Pragma("GCC unroll 16")
#endif

/* W x W, in place: log2(W) perfect shuffles of the rows. Moves bits: the lanes may hold anything. */
QN_INLINE void v_transpose(vf *r)
{
    vf t[W];
    QN_UNROLL for (int step = 1; step < W; step *= 2)
    {
        QN_UNROLL for (int i = 0; i < W / 2; i++)
        {
            t[2 * i] = QN_ZIP_LOW(r[i], r[i + W / 2]);
            t[2 * i + 1] = QN_ZIP_HIGH(r[i], r[i + W / 2]);
        }
        QN_UNROLL for (int i = 0; i < W; i++) r[i] = t[i];
    }
}

/* The nearest integers, halves to even, as lrintf; |v| < 2^31. */
QN_INLINE vi v_round(vf v)
{
#if defined(QN_ISA_avx512)
    return (vi)_mm512_cvtps_epi32((__m512)v);
#elif defined(QN_ISA_avx2)
    return (vi)_mm256_cvtps_epi32((__m256)v);
#elif defined(__SSE2__)
    return (vi)_mm_cvtps_epi32((__m128)v);
#else
    vi r;
    for (int i = 0; i < W; i++) r[i] = (int32_t)lrintf(v[i]);
    return r;
#endif
}

/* --- memory. Of the n elements that remain the first W are touched; missing lanes load as 0. */
QN_INLINE vf v_widen(vh h)
{
#if defined(QN_ISA_avx512)
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#elif defined(QN_ISA_avx2)
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16);
#else
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}

/* As qn_f32_to_bf16 in every lane. */
QN_INLINE vh v_narrow(vf v)
{
    const vu u = (vu)v, rounded = u + 0x7fff + (u >> 16 & 1), quiet = u | 0x400000;
#if defined(QN_ISA_avx512)
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
    return (vh)_mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32((__m512i)rounded, nan, (__m512i)quiet), 16));
#else
    const vi nan = v != v, half = (vi)((quiet & (vu)nan) | (rounded & ~(vu)nan)) >> 16; /* signed, so that the packs are exact */
#if defined(QN_ISA_avx2)
    return (vh)_mm_packs_epi32(_mm256_castsi256_si128((__m256i)half), _mm256_extracti128_si256((__m256i)half, 1));
#else
    return __builtin_convertvector((vu)half, vh);
#endif
#endif
}

QN_INLINE vf v_load_f32(const float *p, int64_t n)
{
    if (QN_LIKELY(n >= W)) return *(const vf_any *)p;
#if defined(QN_ISA_avx512)
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    vf v = {0};
    for (int64_t i = 0; i < n; i++) v[i] = p[i];
    return v;
#endif
}

QN_INLINE vf v_load_bf16(const qn_bf16 *p, int64_t n)
{
    if (QN_LIKELY(n >= W)) return v_widen(*(const vh_any *)p);
#if defined(QN_ISA_avx512)
    return v_widen((vh)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p));
#else
    vh v = {0};
    for (int64_t i = 0; i < n; i++) v[i] = p[i];
    return v_widen(v);
#endif
}

QN_INLINE void v_store_f32(float *p, vf v, int64_t n)
{
    if (QN_LIKELY(n >= W)) {
        *(vf_any *)p = v;
        return;
    }
#if defined(QN_ISA_avx512)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    for (int64_t i = 0; i < n; i++) p[i] = v[i];
#endif
}

QN_INLINE void v_store_bf16(qn_bf16 *p, vf v, int64_t n)
{
    const vh h = v_narrow(v);
    if (QN_LIKELY(n >= W)) {
        *(vh_any *)p = h;
        return;
    }
#if defined(QN_ISA_avx512)
    _mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)h);
#else
    for (int64_t i = 0; i < n; i++) p[i] = h[i];
#endif
}

#define v_load(p, n)     _Generic((p), float * : v_load_f32, const float * : v_load_f32, default : v_load_bf16)(p, n)
#define v_store(p, v, n) _Generic((p), float * : v_store_f32, default : v_store_bf16)(p, v, n)

/* A whole vector of 32-bit units to memory, past the caches where the machine can and at is aligned to a line; behind the last of
 * them v_stream_end, so that other threads see them. */
QN_INLINE void v_put(void *at, vf v, bool stream)
{
#if defined(QN_ISA_avx512)
    if (stream) {
        _mm512_stream_ps(at, (__m512)v);
        return;
    }
#endif
    (void)stream;
    memcpy(at, &v, sizeof(v));
}
QN_INLINE void v_stream_end(void)
{
#if defined(QN_ISA_avx512)
    _mm_sfence();
#endif
}

/* The lower and the upper half of the lanes in double. */
typedef double vd __attribute__((vector_size(W * 4)));
#if defined(QN_ISA_avx512)
QN_INLINE vd v_low_double(vf v)
{
    return (vd)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
}
QN_INLINE vd v_high_double(vf v)
{
    return (vd)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
}
#elif defined(QN_ISA_avx2)
QN_INLINE vd v_low_double(vf v)
{
    return (vd)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
}
QN_INLINE vd v_high_double(vf v)
{
    return (vd)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
}
#else
QN_INLINE vd v_low_double(vf v)
{
    return (vd){v[0], v[1]};
}
QN_INLINE vd v_high_double(vf v)
{
    return (vd){v[2], v[3]};
}
#endif

/* --- functions. e^x: error below 2 units in the last place; above 88.72 infinity, below -87.34 zero (avx512: denormals, then
 * zero), NaN stays NaN. Reduction to |r| <= ln(2)/2 and the polynomial of Cephes' expf (Moshier). */
QN_INLINE vf v_exp(vf x)
{
    const float log2e = 1.44269504088896341f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, magic = 0x1.8p23f;
    const float low = -87.3365402f, high = 88.7228394f;
#if defined(QN_ISA_avx512)
    const vf t = v_min(v_of(high + 1), v_max(v_of(low - 20), x)); /* scalef over- and underflows by itself */
#else
    const vf t = v_min(v_of(high), v_max(v_of(low), x));
#endif
    const vf shifted = v_fma(t, v_of(log2e), v_of(magic)), n = shifted - magic;
    const vf r = v_fma(n, v_of(-ln2_low), v_fma(n, v_of(-ln2_high), t));
    vf y = v_of(1.9875691500e-4f);
    y = v_fma(y, r, v_of(1.3981999507e-3f));
    y = v_fma(y, r, v_of(8.3334519073e-3f));
    y = v_fma(y, r, v_of(4.1665795894e-2f));
    y = v_fma(y, r, v_of(1.6666665459e-1f));
    y = v_fma(y, r, v_of(5.0000001201e-1f));
    y = v_fma(y, r * r, r) + 1;
#if defined(QN_ISA_avx512)
    return (vf)_mm512_scalef_ps((__m512)y, (__m512)n);
#else
    y = (vf)((vi)y + ((vi)shifted << 23)); /* the low bits of shifted are n */
    y = v_keep(~(x < low), y);
    return v_select(x > high, v_of(INFINITY), v_select(x != x, x, y));
#endif
}

/* 1 / (1 + e^-x) */
QN_INLINE vf v_sigmoid(vf x)
{
    return 1 / (1 + v_exp(-x));
}

/* --- work. What thread i of k does of n, in multiples of grain. */
typedef struct share {
    int64_t begin, end;
} share;

QN_INLINE share lanes_share(int64_t n, int64_t grain, int32_t thread, int32_t threads)
{
    int64_t begin, end;
    qn_split(&begin, &end, n, grain, thread, threads);
    return (share){begin, end};
}

/* Runs fn on the team, or here when elements are too few to pay for waking it. */
QN_INLINE void lanes_run(const qn_exec *ex, qn_team_fn *fn, void *ctx, int64_t elements)
{
    if (elements < 16384)
        fn(ctx, 0, 1);
    else
        qn_exec_run(ex, fn, ctx);
}

#endif

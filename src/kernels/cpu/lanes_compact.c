/* Linear maps on compact weights; see compact.h for the layouts. A tile is MR rows by one panel of 4 vectors of outputs.
 *
 * With one row the weights stream from memory. With several tiles of rows each of them asks for a part of the next panel, so that
 * reading it from memory and multiplying with this one go on at the same time; all tiles then find their panel in the cache.
 *
 * The set avx512_bf16 multiplies bf16 pairs, and bytes, as such. Elsewhere pairs are widened, and bytes go through 16-bit
 * products, which gives the same integers. */
#include "vectors.h"

#include "kernels/compact.h"

enum { NV = 4, PC = NV * W, LINES = PC * 4 / QN_CACHE_LINE, MR = W == 16 ? 6 : 2, UNITS = QNI_Q8_BLOCK / 4 };
/* 8 bits keep an integer and an f32 for each output: MB rows of a whole panel, or 2 MB rows of half of it. */
enum { MB = W == 16 ? 3 : 1, WIDE = W == 16 ? 2 * MB : MB, NH = NV / 2 };
enum { MOST_AHEAD = 1 << 19 }; /* bytes of a panel: two have to fit into the cache of a core */
#define QN_COMPACT(name) QN_ENTRY_NAME(name, QN_ISA)

typedef struct q8_row { /* a prepared row, blocks apart */
    const int8_t *q;    /* [blocks, 32] */
    const float *scale; /* [blocks] */
    const int32_t *sum; /* [blocks]: -128 times the sum */
} q8_row;

typedef struct compact_call {
    qni_compact_view v;
    char *y;
    const char *x; /* act, or f32 where it was widened */
    const char *packed;
    const float *bias;
    int64_t R, blocks;
    bool x_bf16; /* x is bf16 and is multiplied as such */
    int8_t *q;   /* q8: [R, blocks, 32] */
    float *scale;
    int32_t *sum;
} compact_call;

/* What a tile asks for: `lines` cache lines (0 .. 2) of the next panel for each vector row of its own. */
typedef struct look_ahead {
    uintptr_t at; /* an address only: it may run past the weights */
    int lines;
} look_ahead;

QN_INLINE void ask_ahead(look_ahead *a)
{
    if (a->lines > 0) __builtin_prefetch((const void *)a->at, 0, 2);
    if (a->lines > 1) __builtin_prefetch((const void *)(a->at + QN_CACHE_LINE), 0, 2);
    a->at += PC * 4;
}

QN_INLINE vf load_vector(const void *p)
{
    return *(const vf_any *)p;
}

QN_INLINE vi vi_of(int32_t x)
{
    return x - (vi){0};
}

/* --- f32: c [mr, PC] = x w */
QN_INLINE void tile_f32(float *c, const float *x, int64_t ldx, const float *w, int64_t C, const int mr, look_ahead ahead)
{
    vf acc[MR][NV];
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = v_of(0);
    for (int64_t k = 0; k < C; k++, w += PC) {
        vf row[NV];
        ask_ahead(&ahead);
        QN_UNROLL for (int j = 0; j < NV; j++) row[j] = load_vector(w + j * W);
        QN_UNROLL for (int i = 0; i < mr; i++)
        {
            const vf a = v_of(x[i * ldx + k]);
            QN_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = v_fma(a, row[j], acc[i][j]);
        }
    }
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < NV; j++) * (vf_any *)(c + i * PC + j * W) = acc[i][j];
}

/* --- bf16, widened: the even k of a pair, then the odd one */
QN_INLINE void tile_bf16(float *c, const float *x, int64_t ldx, const uint32_t *w, int64_t C, const int mr, look_ahead ahead)
{
    vf acc[MR][NV];
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = v_of(0);
    for (int64_t k = 0; k + 1 < C; k += 2, w += PC) {
        ask_ahead(&ahead);
        QN_UNROLL for (int j = 0; j < NV; j++)
        {
            const vu pair = (vu)load_vector(w + j * W);
            const vf even = (vf)(pair << 16), odd = (vf)(pair & 0xffff0000u);
            QN_UNROLL for (int i = 0; i < mr; i++) acc[i][j] =
                v_fma(v_of(x[i * ldx + k + 1]), odd, v_fma(v_of(x[i * ldx + k]), even, acc[i][j]));
        }
    }
    for (int j = 0; C % 2 != 0 && j < NV; j++)
        for (int i = 0; i < mr; i++)
            acc[i][j] = v_fma(v_of(x[i * ldx + C - 1]), (vf)((vu)load_vector(w + j * W) << 16), acc[i][j]);
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < NV; j++) * (vf_any *)(c + i * PC + j * W) = acc[i][j];
}

/* --- q8. STEP adds the products of four unsigned bytes of w and four signed bytes of x, in every lane. */
#if defined(__SSE2__)
QN_INLINE vi madd16(vi a, vi b)
{
#if defined(QN_ISA_avx512)
    return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(QN_ISA_avx2)
    return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#endif
}
#else
QN_INLINE vi madd16(vi a, vi b)
{
    return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
}
#endif

QN_INLINE vi step_words(vi acc, vi w, vi x)
{
    const vi even = w & 0x00ff00ff, odd = (vi)((vu)w >> 8) & 0x00ff00ff; /* each byte as a word */
    const vi low = (((x << 24) >> 24) & 0xffff) | (((x << 8) >> 24) << 16),
             high = (((x << 16) >> 24) & 0xffff) | ((x >> 24) << 16);
    return acc + madd16(even, low) + madd16(odd, high);
}

QN_INLINE vf load_scales(const char *p)
{
#if defined(QN_ISA_avx512)
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
#elif defined(QN_ISA_avx2)
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
#else
    vf s;
    for (int i = 0; i < W; i++) {
        qn_f16 h;
        memcpy(&h, p + (size_t)i * sizeof(h), sizeof(h));
        s[i] = qn_f16_to_f32(h);
    }
    return s;
#endif
}

QN_INLINE vf to_float(vi v)
{
    return __builtin_convertvector(v, vf);
}

/* nv vectors of the panel from vector `first` on. */
#define TILE_Q8(name, attributes, STEP)                                                                                          \
    attributes void name(float *c, const q8_row *x, const char *w, int64_t blocks, const int mr, const int first, const int nv,  \
                         look_ahead ahead)                                                                                       \
    {                                                                                                                            \
        vf acc[WIDE][NV];                                                                                                        \
        QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < nv; j++) acc[i][j] = v_of(0);                       \
        for (int64_t b = 0; b < blocks; b++, w += PC * ((int)sizeof(qn_f16) + QNI_Q8_BLOCK)) {                                   \
            const char *bytes = w + PC * sizeof(qn_f16) + first * W * 4, *scales = w + first * W * (int)sizeof(qn_f16);          \
            vi sum[WIDE][NV];                                                                                                    \
            QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < nv; j++) sum[i][j] = vi_of(x[i].sum[b]);        \
            for (int l = 0; l < ahead.lines; l++)                                                                                \
                __builtin_prefetch((const void *)(ahead.at - PC * sizeof(qn_f16) + (size_t)l * QN_CACHE_LINE), 0, 2);            \
            QN_UNROLL for (int u = 0; u < UNITS; u++)                                                                            \
            {                                                                                                                    \
                ask_ahead(&ahead);                                                                                               \
                QN_UNROLL for (int i = 0; i < mr; i++)                                                                           \
                {                                                                                                                \
                    int32_t four;                                                                                                \
                    memcpy(&four, x[i].q + b * QNI_Q8_BLOCK + u * 4, sizeof(four));                                              \
                    QN_UNROLL for (int j = 0; j < nv; j++) sum[i][j] =                                                           \
                        STEP(sum[i][j], (vi)load_vector(bytes + (u * NV + j) * W * 4), vi_of(four));                             \
                }                                                                                                                \
            }                                                                                                                    \
            ahead.at += PC * sizeof(qn_f16);                                                                                     \
            QN_UNROLL for (int j = 0; j < nv; j++)                                                                               \
            {                                                                                                                    \
                const vf scale = load_scales(scales + j * W * (int)sizeof(qn_f16));                                              \
                QN_UNROLL for (int i = 0; i < mr; i++) acc[i][j] = v_fma(to_float(sum[i][j]), scale * x[i].scale[b], acc[i][j]); \
            }                                                                                                                    \
        }                                                                                                                        \
        QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < nv; j++) *                                          \
            (vf_any *)(c + i * PC + (first + j) * W) = acc[i][j];                                                                \
    }

TILE_Q8(tile_q8_words, QN_INLINE, step_words)

#if defined(QN_ISA_avx512)
#define DOT_BF16 __attribute__((target("avx512bf16")))
#define DOT_Q8   __attribute__((target("avx512vnni")))

DOT_BF16 QN_INLINE void tile_dot(float *c, const qn_bf16 *x, int64_t ldx, const uint32_t *w, int64_t C, const int mr,
                                 look_ahead ahead)
{
    __m512 acc[MR][NV];
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = _mm512_setzero_ps();
    for (int64_t k = 0; k < C; k += 2, w += PC) {
        __m512i row[NV];
        ask_ahead(&ahead);
        QN_UNROLL for (int j = 0; j < NV; j++) row[j] = _mm512_loadu_si512(w + j * W);
        QN_UNROLL for (int i = 0; i < mr; i++)
        {
            uint32_t pair = x[i * ldx + k];
            if (QN_LIKELY(k + 1 < C)) memcpy(&pair, x + i * ldx + k, sizeof(pair));
            const __m512bh a = (__m512bh)_mm512_set1_epi32((int)pair);
            QN_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], (__m512bh)row[j], a);
        }
    }
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < NV; j++) _mm512_storeu_ps(c + i * PC + j * W, acc[i][j]);
}

DOT_Q8 QN_INLINE vi step_bytes(vi acc, vi w, vi x)
{
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)x);
}
TILE_Q8(tile_q8_bytes, DOT_Q8 QN_INLINE, step_bytes)
#endif

/* --- rows of a panel. One function for each number of rows, so that the tile stays in registers. */
#define ROWS(n, call)                                                                                                            \
    case n:                                                                                                                      \
        call;                                                                                                                    \
        break;
#if defined(QN_ISA_avx512)
#define EACH_MR(CALL)   ROWS(1, CALL(1)) ROWS(2, CALL(2)) ROWS(3, CALL(3)) ROWS(4, CALL(4)) ROWS(5, CALL(5)) ROWS(6, CALL(6))
#define EACH_MB(CALL)   ROWS(1, CALL(1)) ROWS(2, CALL(2)) ROWS(3, CALL(3))
#define EACH_HALF(CALL) ROWS(4, CALL(4)) ROWS(5, CALL(5)) ROWS(6, CALL(6))
#else
#define EACH_MR(CALL) ROWS(1, CALL(1)) ROWS(2, CALL(2))
#define EACH_MB(CALL) ROWS(1, CALL(1))
#define EACH_HALF(CALL)
#endif

static QN_NOINLINE void rows_f32(float *c, const float *x, int64_t C, const void *w, int64_t rows, look_ahead ahead)
{
#define CALL(n) tile_f32(c, x, C, w, C, n, ahead)
    switch (rows) {
        EACH_MR(CALL)
    }
#undef CALL
}

static QN_NOINLINE void rows_bf16(float *c, const float *x, int64_t C, const void *w, int64_t rows, look_ahead ahead)
{
#define CALL(n) tile_bf16(c, x, C, w, C, n, ahead)
    switch (rows) {
        EACH_MR(CALL)
    }
#undef CALL
}

/* half 0 or 1: that half of the panel, else the whole */
#define ROWS_Q8(name, tile, attributes)                                                                                          \
    attributes static QN_NOINLINE void name(float *c, const q8_row *x, const char *w, int64_t blocks, int64_t rows, int half,    \
                                            look_ahead ahead)                                                                    \
    {                                                                                                                            \
        switch (rows + (half == 1 ? WIDE : 0)) {                                                                                 \
            EACH_MB(WHOLE_##tile) EACH_HALF(LOW_##tile) default : switch (rows)                                                  \
            {                                                                                                                    \
                EACH_HALF(HIGH_##tile)                                                                                           \
            }                                                                                                                    \
        }                                                                                                                        \
    }
#define WHOLE_words(n) tile_q8_words(c, x, w, blocks, n, 0, NV, ahead)
#define LOW_words(n)   tile_q8_words(c, x, w, blocks, n, 0, NH, ahead)
#define HIGH_words(n)  tile_q8_words(c, x, w, blocks, n, NH, NH, ahead)
ROWS_Q8(rows_words, words, )

#if defined(QN_ISA_avx512)
DOT_BF16 static QN_NOINLINE void rows_dot(float *c, const qn_bf16 *x, int64_t C, const void *w, int64_t rows, look_ahead ahead)
{
#define CALL(n) tile_dot(c, x, C, w, C, n, ahead)
    switch (rows) {
        EACH_MR(CALL)
    }
#undef CALL
}

#define WHOLE_bytes(n) tile_q8_bytes(c, x, w, blocks, n, 0, NV, ahead)
#define LOW_bytes(n)   tile_q8_bytes(c, x, w, blocks, n, 0, NH, ahead)
#define HIGH_bytes(n)  tile_q8_bytes(c, x, w, blocks, n, NH, NH, ahead)
ROWS_Q8(rows_bytes, bytes, DOT_Q8)
#endif

static void store_rows(const compact_call *call, const float *c, int64_t r, int64_t rows, int64_t o)
{
    const int64_t O = call->v.O;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < PC && o + j < O; j += W) {
            const int64_t left = O - o - j, at = (r + i) * O + o + j;
            vf y = load_vector(c + i * PC + j);
            if (call->bias != NULL) y += v_load(call->bias + o + j, left);
            if (call->v.act_bf16)
                v_store((qn_bf16 *)(void *)call->y + at, y, left);
            else
                v_store((float *)(void *)call->y + at, y, left);
        }
}

/* The part of the next panel that the pass-th pass over this one asks for. */
static look_ahead part_of_next(const char *next, int32_t pass, int lines)
{
    if (lines == 0 || pass * lines >= LINES) return (look_ahead){.lines = 0};
    return (look_ahead){.at = (uintptr_t)next + (size_t)(pass * lines) * QN_CACHE_LINE, .lines = lines};
}

/* A tile of 8 bits, in two halves of the panel where the rows are too many for the whole. */
static void q8_tile(const compact_call *call, float *c, const char *w, int64_t r, int64_t rows, int32_t *pass, const char *next,
                    int lines)
{
    q8_row x[WIDE];
    const int halves = rows > MB ? 2 : 1;
    for (int64_t i = 0; i < rows; i++)
        x[i] = (q8_row){call->q + (r + i) * call->blocks * QNI_Q8_BLOCK, call->scale + (r + i) * call->blocks,
                        call->sum + (r + i) * call->blocks};
    for (int half = 0; half < halves; half++) {
        look_ahead ahead = part_of_next(next, (*pass)++, lines);
        ahead.at += PC * sizeof(qn_f16);
#if defined(QN_ISA_avx512)
        if (call->v.dots && __builtin_cpu_supports("avx512vnni")) {
            rows_bytes(c, x, w, call->blocks, rows, half, ahead);
            continue;
        }
#endif
        rows_words(c, x, w, call->blocks, rows, half, ahead);
    }
}

/* How often the tiles of a call go through a panel. */
static int64_t passes_of(const compact_call *call)
{
    const bool q8 = call->v.weights == QN_WEIGHTS_Q8;
    const int64_t most = q8 ? WIDE : MR, whole = call->R / most, rest = call->R % most;
    return whole * (q8 && most > MB ? 2 : 1) + (rest > 0) * (q8 && rest > MB ? 2 : 1);
}

/* next: the panel that this thread takes then, or NULL. */
static void one_panel(const compact_call *call, int64_t panel, const char *next)
{
    QN_ALIGNED(64) float c[MR * PC];
    const char *w = call->packed + (size_t)panel * call->v.panel_bytes;
    const int64_t C = call->v.C, most = call->v.weights == QN_WEIGHTS_Q8 ? WIDE : MR, passes = passes_of(call);
    const int lines = next == NULL || passes < 2 ? 0 : passes < LINES ? 2 : 1;
    int32_t pass = 0;
    for (int64_t r = 0, rows; r < call->R; r += rows) {
        rows = qn_min64(most, call->R - r);
        if (call->v.weights == QN_WEIGHTS_Q8) {
            q8_tile(call, c, w, r, rows, &pass, next, lines);
        } else {
            const look_ahead ahead = part_of_next(next, pass++, lines);
            if (call->v.weights == QN_WEIGHTS_F32) rows_f32(c, (const float *)(const void *)call->x + r * C, C, w, rows, ahead);
#if defined(QN_ISA_avx512)
            else if (call->x_bf16)
                rows_dot(c, (const qn_bf16 *)(const void *)call->x + r * C, C, w, rows, ahead);
#endif
            else
                rows_bf16(c, (const float *)(const void *)call->x + r * C, C, w, rows, ahead);
        }
        store_rows(call, c, r, rows, panel * PC);
    }
}

static void panels_part(void *ctx, int32_t thread, int32_t threads)
{
    const compact_call *call = ctx;
    const share s = lanes_share(call->v.panels, 1, thread, threads);
    const bool fits = call->v.panel_bytes <= MOST_AHEAD;
    for (int64_t p = s.begin; p < s.end; p++)
        one_panel(call, p, fits && p + 1 < s.end ? call->packed + (size_t)(p + 1) * call->v.panel_bytes : NULL);
}

/* --- preparing x */
QN_INLINE vf load_act(const compact_call *call, const void *x, int64_t i, int64_t left)
{
    return call->v.act_bf16 ? v_load((const qn_bf16 *)x + i, left) : v_load((const float *)x + i, left);
}

static void widen_rows(compact_call *call, const void *x, float *to)
{
    const int64_t n = call->R * call->v.C;
    for (int64_t i = 0; i < n; i += W) v_store(to + i, load_act(call, x, i, n - i), n - i);
    call->x = (const char *)to;
}

/* A block of n <= 32 elements to 8 bits. A scale that is no number makes its products none. */
QN_INLINE void quantize_block(const compact_call *call, const void *x, int64_t from, int64_t n, int8_t *q, float *scale,
                              int32_t *sum)
{
    typedef int8_t bytes __attribute__((vector_size(W)));
    vf v[QNI_Q8_BLOCK / W], most = v_of(0), all = v_of(0);
    vi total = {0};
    for (int i = 0; i < QNI_Q8_BLOCK / W; i++) {
        v[i] = i * W < n ? load_act(call, x, from + i * W, n - i * W) : v_of(0);
        const vf magnitude = (vf)((vi)v[i] & 0x7fffffff);
        most = v_max(magnitude, most);
        all += magnitude; /* shows what is not a number */
    }
    const float top = v_highest(most), check = v_sum(all);
    const bool finite = check - check == 0, nothing = !(top > 0) || !finite;
    const float inverse = nothing ? 0 : 127 / top;
    for (int i = 0; i < QNI_Q8_BLOCK / W; i++) {
        const vi r = v_round((nothing ? v_of(0) : v[i]) * inverse);
        const bytes narrow = __builtin_convertvector(r, bytes);
        memcpy(q + i * W, &narrow, W);
        total += r;
    }
    int32_t total_q = 0;
    for (int i = 0; i < W; i++) total_q += total[i];
    *scale = finite ? top / 127 : check - check;
    *sum = -QNI_Q8_BIAS * total_q;
}

typedef struct quantize_call {
    const compact_call *call;
    const void *x;
} quantize_call;

static void quantize_part(void *ctx, int32_t thread, int32_t threads)
{
    const quantize_call *c = ctx;
    const compact_call *call = c->call;
    const int64_t C = call->v.C;
    const share s = lanes_share(call->R * call->blocks, 2, thread, threads); /* a thread's bytes are whole cache lines */
    for (int64_t at = s.begin; at < s.end; at++) {
        const int64_t b = at % call->blocks;
        quantize_block(call, c->x, at / call->blocks * C + b * QNI_Q8_BLOCK, qn_min64(QNI_Q8_BLOCK, C - b * QNI_Q8_BLOCK),
                       call->q + at * QNI_Q8_BLOCK, &call->scale[at], &call->sum[at]);
    }
}

static void quantize_rows(const qn_exec *ex, compact_call *call, const void *x, char *room)
{
    const int64_t blocks = call->blocks;
    quantize_call q = {.call = call, .x = x};
    call->q = (int8_t *)room;
    call->scale = (float *)(void *)(room + call->R * blocks * QNI_Q8_BLOCK);
    call->sum = (int32_t *)(void *)(call->scale + call->R * blocks);
    lanes_run(ex, quantize_part, &q, call->R * call->v.C);
}

void QN_COMPACT(compact_forward)(const qn_exec *ex, const qn_linear *lin, void *y, const void *x, const void *packed,
                                 const float *bias, int64_t R, void *room)
{
    compact_call call = {.v = qni_compact_view_of(lin), .y = y, .x = x, .packed = packed, .bias = bias, .R = R};
    QN_ASSERT(call.v.columns == PC);
    call.blocks = qni_q8_blocks(call.v.C);
    call.x_bf16 = call.v.act_bf16 && call.v.weights == QN_WEIGHTS_BF16 && call.v.dots;
    if (call.v.weights == QN_WEIGHTS_Q8)
        quantize_rows(ex, &call, x, room);
    else if (call.v.act_bf16 && !call.x_bf16)
        widen_rows(&call, x, room);
    lanes_run(ex, panels_part, &call, R * call.v.C * call.v.O / 4);
}

/* Causal attention in blocks of QB queries by KB keys with online softmax, and its backward (Dao et al. 2022, arXiv:2205.14135).
 * Definition: attention.c.
 *
 * All products add in f32, on register tiles of MR rows by one panel; a panel is 2 W columns wide and lies in memory as its rows,
 * one after the other, so that the right-hand side of every product streams. Keys are packed transposed, values as they are, once
 * per head and block. Blocks and tiles above the diagonal are skipped.
 *
 * What is multiplied are f32 operands; or, where the machine multiplies pairs of bf16 and adds them to f32 (QN_DOT), bf16 ones:
 * then p, ds and dO are rounded to bf16, and STEP = 2 neighbours along the sum lie side by side in memory. Rows that would be
 * half a pair end in zeros.
 *
 * A query's result is one chain of multiply-adds in ascending order inside blocks that start at multiples of KB, whatever
 * tile it was computed in; masked keys add exact zeros. So attention_forward and attention_infer give a row the same bits, for
 * any number of rows in a call. Threads split (sample, key/value head), or heads where those are too few (forward only): no sum
 * crosses them. */
#ifndef QN_ACT
#define QN_SELF "lanes_attention.c"
#include "kernels/cpu/vectors.h"

enum { QB = 64, KB = 128, PANEL = 2 * W, MR = W == 16 ? 8 : 4, ROW_PANELS = 4 };

QN_INLINE vf whole(const float *p)
{
    return *(const vf_any *)p;
}

/* --- operands: STEP along the sum in each of W lanes */
#if defined(QN_DOT)
typedef qn_bf16 operand;
typedef __m512bh factors;
enum { STEP = 2 };

QN_INLINE factors factors_at(const operand *p)
{
    return (factors)_mm512_loadu_si512(p);
}

QN_INLINE factors factors_of(const operand *p)
{
    int32_t pair;
    memcpy(&pair, p, sizeof(pair));
    return (factors)_mm512_set1_epi32(pair);
}

QN_INLINE vf multiply_add(factors a, factors b, vf sum)
{
    return (vf)_mm512_dpbf16_ps((__m512)sum, a, b);
}

QN_INLINE __m256i narrowed(vf v)
{
    return (__m256i)_mm512_cvtneps_pbh((__m512)v);
}
#else
typedef float operand;
typedef vf factors;
enum { STEP = 1 };

QN_INLINE factors factors_at(const operand *p)
{
    return whole(p);
}

QN_INLINE factors factors_of(const operand *p)
{
    return v_of(*p);
}

QN_INLINE vf multiply_add(factors a, factors b, vf sum)
{
    return v_fma(a, b, sum);
}
#endif

/* Up to a multiple of STEP. */
QN_INLINE int64_t stepped(int64_t n)
{
    return (n + STEP - 1) / STEP * STEP;
}

/* --- products. c [mr, np panels] = or += a [mr, k] b [k, np panels]; step j of a's row i is at a[i * am + j * ak]. */
QN_INLINE void tile(float *c, int64_t ldc, const operand *a, int64_t am, int64_t ak, const operand *b, int64_t bp, int64_t k,
                    bool add, const int mr, const int np)
{
    vf acc[MR > 1 ? MR : 1][2 * ROW_PANELS];
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < 2 * np; j++) acc[i][j] =
        add ? whole(c + i * ldc + j * W) : v_of(0);
    for (int64_t n = 0; n < k; n += STEP) {
        factors row[2 * ROW_PANELS];
        QN_UNROLL for (int j = 0; j < 2 * np; j++) row[j] = factors_at(b + n * PANEL + j / 2 * bp + j % 2 * W * STEP);
        QN_UNROLL for (int i = 0; i < mr; i++)
        {
            const factors x = factors_of(a + i * am + n / STEP * ak);
            QN_UNROLL for (int j = 0; j < 2 * np; j++) acc[i][j] = multiply_add(x, row[j], acc[i][j]);
        }
    }
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < 2 * np; j++) * (vf_any *)(c + i * ldc + j * W) =
        acc[i][j];
}

static QN_NOINLINE void tile_rows(float *c, int64_t ldc, const operand *a, int64_t lda, const operand *b, int64_t k, bool add)
{
    tile(c, ldc, a, lda, STEP, b, 0, k, add, MR, 1);
}

static QN_NOINLINE void tile_columns(float *c, int64_t ldc, const operand *a, int64_t lda, const operand *b, int64_t k, bool add)
{
    tile(c, ldc, a, STEP, lda, b, 0, k, add, MR, 1);
}

static QN_NOINLINE void row_wide(float *c, const operand *a, int64_t ak, const operand *b, int64_t bp, int64_t k, bool add)
{
    tile(c, 0, a, 0, ak, b, bp, k, add, 1, ROW_PANELS);
}

static QN_NOINLINE void row_narrow(float *c, const operand *a, int64_t ak, const operand *b, int64_t k, bool add)
{
    tile(c, 0, a, 0, ak, b, 0, k, add, 1, 1);
}

/* m rows: MR of them, or any smaller number one by one. bp: from a panel of b to the next. */
static void product(float *c, int64_t ldc, const operand *a, int64_t am, int64_t ak, const operand *b, int64_t bp, int64_t m,
                    int64_t panels, int64_t k, bool add)
{
    if (m == MR) {
        for (int64_t p = 0; p < panels; p++)
            if (ak == STEP)
                tile_rows(c + p * PANEL, ldc, a, am, b + p * bp, k, add);
            else
                tile_columns(c + p * PANEL, ldc, a, ak, b + p * bp, k, add);
        return;
    }
    for (int64_t i = 0; i < m; i++) {
        int64_t p = 0;
        for (; p + ROW_PANELS <= panels; p += ROW_PANELS)
            row_wide(c + i * ldc + p * PANEL, a + i * am, ak, b + p * bp, bp, k, add);
        for (; p < panels; p++) row_narrow(c + i * ldc + p * PANEL, a + i * am, ak, b + p * bp, k, add);
    }
}

static int64_t padded(int64_t n)
{
    return (n + PANEL - 1) / PANEL * PANEL;
}

/* Rows of the next tile when left remain. */
static int64_t tile_height(int64_t left)
{
    return left >= MR ? MR : left;
}

/* --- the softmax of a tile ------------------------------------------------------------------------------------------------ */

typedef struct online { /* of each query so far: the highest score, the sum of exp(score - max) */
    float *max, *sum;
} online;

#if defined(QN_DOT)
#include "kernels/cpu/attention_pairs.h"

QN_INLINE double scaled(float max, double scale)
{
    return (double)max * scale;
}
#else
/* rows <= MR rows of s [rows, KB], of which width hold q.k; row i counts its first seen + i, at most keys, maybe none. Returns
 * exp(score - max), zeros beyond, as the left-hand side of the next product (here s itself; p is room for one that differs), and
 * rescales o [rows, wide_o]. */
static const operand *online_rows(online st, operand *p_room, float *s, float *o, int64_t rows, int64_t seen, int64_t keys,
                                  int64_t width, int64_t wide_o, float scale)
{
    (void)p_room;
    float high[W], shrink[W], part[W];
    for (int64_t i = 0; i < rows; i++) {
        const int64_t n = qn_max64(0, qn_min64(seen + i, keys));
        vf top = v_of(-INFINITY);
        for (int64_t j = 0; j < width; j += W) {
            const vf t = v_select(v_below(qn_max64(0, n - j)), whole(s + i * KB + j) * scale, v_of(-INFINITY));
            *(vf_any *)(s + i * KB + j) = t;
            top = v_max(t, top);
        }
        high[i] = v_highest(top);
    }
    const vf before = v_load(st.max, rows), max = v_max(v_load(high, rows), before);
    v_store(st.max, max, rows);
    v_store(shrink, v_exp(before - max), rows);
    for (int64_t i = 0; i < rows; i++) {
        vf sum = v_of(0);
        for (int64_t j = 0; j < width; j += W) {
            const vf p = v_exp(whole(s + i * KB + j) - st.max[i]);
            *(vf_any *)(s + i * KB + j) = p;
            sum += p;
        }
        part[i] = v_sum(sum);
    }
    v_store(st.sum, v_fma(v_load(st.sum, rows), v_load(shrink, rows), v_load(part, rows)), rows);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t d = 0; d < wide_o && shrink[i] != 1; d += W) *(vf_any *)(o + i * wide_o + d) *= shrink[i];
    return s;
}

/* The highest score from what online_rows keeps of it. */
QN_INLINE double scaled(float max, double scale)
{
    (void)scale;
    return (double)max;
}
#endif

/* n queries q [n, D] against keys of one block: row r sees the first visible + r of them. o [n, wide_o] += p v. */
static void attend_block(online st, float *o, float *s, operand *p, const operand *q, int64_t ldq, const operand *kt,
                         const operand *v, int64_t n, int64_t keys, int64_t visible, int64_t D, float scale)
{
    const int64_t wide_o = padded(D);
    for (int64_t r = 0, rows; r < n; r += rows) {
        rows = tile_height(n - r);
        const int64_t most = qn_min64(visible + r + rows - 1, keys), width = padded(most);
        if (most <= 0) continue;
        product(s, KB, q + r * ldq, ldq, STEP, kt, stepped(D) * PANEL, rows, width / PANEL, D, false);
        const operand *left =
            online_rows((online){st.max + r, st.sum + r}, p, s, o + r * wide_o, rows, visible + r, keys, width, wide_o, scale);
        product(o + r * wide_o, wide_o, left, KB, STEP, v, KB * PANEL, rows, wide_o / PANEL, most, true);
    }
}

/* --- the backward of a block ---------------------------------------------------------------------------------------------- */

typedef struct back_rows {   /* a block of queries of one head */
    const operand *q, *dO;   /* [n, wide] */
    const operand *qp, *dOp; /* the same in panels of QB rows */
    const float *lse;
    float *dq, *delta; /* [n, wide], [n] */
    int64_t n;
} back_rows;

typedef struct back_keys { /* all keys of one head */
    operand *kt, *vt;      /* panels of transposed keys and values [D, PANEL] */
    operand *kp;           /* keys in panels of room rows */
    float *dk, *dv;        /* [T, wide] */
    int64_t room;
} back_keys;

/* A block of queries against a block of keys: scores of SCORE_ROWS rows [SCORE_ROWS, KB], and p and ds of all [QB, KB] as the
 * left-hand sides of products that run down their columns. */
typedef struct back_scores {
    float *p, *ds;
    operand *rows, *p_columns, *ds_columns;
} back_scores;

#if defined(QN_DOT)
enum { SCORE_ROWS = MR };

/* rows of scores from the block's row r on, of which the first sees n of the keys, become p and ds; zeros from there to room.
 * Returns ds as the left-hand side of dq. */
static const operand *back_softmax(const back_rows *b, const back_scores *x, int64_t r, int64_t rows, int64_t n, int64_t keys,
                                   int64_t width, float scale)
{
    const back_tile t = {x->p, x->ds, b->lse + r, b->delta + r, x->rows, x->p_columns + r * KB, x->ds_columns + r * KB};
    back_tile_rows(&t, rows, n, keys, width, padded(keys), scale);
    return x->rows;
}
#else
enum { SCORE_ROWS = QB };

/* In place: s = q.k becomes p, dp = dO.v becomes ds; zeros from n on. p <= 1, whatever the rounding of a huge score. */
static void back_row(float *s, float *dp, int64_t n, int64_t width, float lse, float delta, float scale)
{
    for (int64_t j = 0; j < width; j += W) {
        const vi seen = v_below(qn_max64(0, n - j));
        const vf p = v_keep(seen, v_exp(v_min(v_of(0), v_fma(whole(s + j), v_of(scale), v_of(-lse)))));
        const vf ds = p * ((whole(dp + j) - delta) * scale);
        *(vf_any *)(s + j) = p;
        *(vf_any *)(dp + j) = v_keep(seen, ds);
    }
}

static const operand *back_softmax(const back_rows *b, const back_scores *x, int64_t r, int64_t rows, int64_t n, int64_t keys,
                                   int64_t width, float scale)
{
    for (int64_t i = r; i < r + rows; i++)
        back_row(x->p + i * KB, x->ds + i * KB, qn_min64(keys, n + i - r), width, b->lse[i], b->delta[i], scale);
    return x->ds + r * KB;
}
#endif

/* Queries at q0 .. q0 + n - 1 against keys from k0 <= q0 on. */
static void back_block(const back_rows *b, const back_keys *k, const back_scores *x, int64_t q0, int64_t k0, int64_t D,
                       float scale)
{
    const int64_t wide = padded(D), keys = qn_min64(KB, q0 + b->n - k0), bp = stepped(D) * PANEL;
    for (int64_t r = 0, rows; r < b->n; r += rows) {
        rows = tile_height(b->n - r);
        const int64_t seen = q0 + r + 1 - k0, most = qn_min64(keys, seen + rows - 1), width = padded(most);
        float *p = x->p + r % SCORE_ROWS * KB, *ds = x->ds + r % SCORE_ROWS * KB;
        product(p, KB, b->q + r * wide, wide, STEP, k->kt + k0 * stepped(D), bp, rows, width / PANEL, D, false);
        product(ds, KB, b->dO + r * wide, wide, STEP, k->vt + k0 * stepped(D), bp, rows, width / PANEL, D, false);
        product(b->dq + r * wide, wide, back_softmax(b, x, r, rows, seen, keys, width, scale), KB, STEP, k->kp + k0 * PANEL,
                k->room * PANEL, rows, wide / PANEL, most, true);
    }
    for (int64_t j = 0, rows; j < keys; j += rows) { /* a key is seen by the queries from its own position on */
        rows = tile_height(keys - j);
        const int64_t from = qn_max64(0, k0 + j - q0) / STEP * STEP, n = b->n - from, at = from * KB + j * STEP;
        product(k->dv + (k0 + j) * wide, wide, x->p_columns + at, STEP, KB * STEP, b->dOp + from * PANEL, QB * PANEL, rows,
                wide / PANEL, n, true);
        product(k->dk + (k0 + j) * wide, wide, x->ds_columns + at, STEP, KB * STEP, b->qp + from * PANEL, QB * PANEL, rows,
                wide / PANEL, n, true);
    }
}

/* --- a call ---------------------------------------------------------------------------------------------------------------- */

typedef struct attention_call {
    const qn_attention_shape *s;
    const void *q, *k, *v, *o, *dO;
    void *out, *dq, *dk, *dv;
    float *lse;          /* NULL: not wanted */
    int64_t P, ldk, ldv; /* positions before the first query; row strides of keys and values */
    int64_t heads;       /* query heads of an item of work */
    char *scratch;
    size_t thread_bytes;
} attention_call;

typedef struct forward_room {
    float *o, *s;
    operand *q, *kt, *v, *p;
    online st;
} forward_room;

static void forward_layout(forward_room *f, qn_arena *a, const qn_attention_shape *s)
{
    const size_t wide = (size_t)padded(s->D), rows = (size_t)(s->T * (s->H / s->K));
    f->o = qn_arena_push(a, rows * wide, sizeof(float), QN_CACHE_LINE);
    f->st.max = qn_arena_push(a, rows, sizeof(float), QN_CACHE_LINE);
    f->st.sum = qn_arena_push(a, rows, sizeof(float), QN_CACHE_LINE);
    f->q = qn_arena_push(a, QB * wide, sizeof(operand), QN_CACHE_LINE);
    f->kt = qn_arena_push(a, (size_t)(KB * stepped(s->D)), sizeof(operand), QN_CACHE_LINE);
    f->v = qn_arena_push(a, KB * wide, sizeof(operand), QN_CACHE_LINE);
    f->s = qn_arena_push(a, MR * KB, sizeof(float), QN_CACHE_LINE);
    f->p = STEP > 1 ? qn_arena_push(a, MR * KB, sizeof(operand), QN_CACHE_LINE) : NULL;
}

typedef struct backward_room {
    back_keys keys;
    back_scores scores;
    operand *q, *dO, *qp, *dOp;
    float *dq, *delta;
} backward_room;

static void backward_layout(backward_room *b, qn_arena *a, const qn_attention_shape *s)
{
    const size_t wide = (size_t)padded(s->D), room = (size_t)padded(s->T), D = (size_t)stepped(s->D);
    operand **const packed[] = {&b->keys.kt, &b->keys.vt}, **const rows[] = {&b->q, &b->dO, &b->qp, &b->dOp};
    float **const keys[] = {&b->keys.dk, &b->keys.dv}, **const blocks[] = {&b->scores.p, &b->scores.ds};
    for (size_t i = 0; i < QN_COUNT(packed); i++) *packed[i] = qn_arena_push(a, room * D, sizeof(operand), QN_CACHE_LINE);
    b->keys.kp = qn_arena_push(a, room * wide, sizeof(operand), QN_CACHE_LINE);
    for (size_t i = 0; i < QN_COUNT(keys); i++) *keys[i] = qn_arena_push(a, room * wide, sizeof(float), QN_CACHE_LINE);
    for (size_t i = 0; i < QN_COUNT(rows); i++) *rows[i] = qn_arena_push(a, QB * wide, sizeof(operand), QN_CACHE_LINE);
    for (size_t i = 0; i < QN_COUNT(blocks); i++) *blocks[i] = qn_arena_push(a, SCORE_ROWS * KB, sizeof(float), QN_CACHE_LINE);
#if defined(QN_DOT)
    b->scores.rows = qn_arena_push(a, MR * KB, sizeof(operand), QN_CACHE_LINE);
    b->scores.p_columns = qn_arena_push(a, QB * KB, sizeof(operand), QN_CACHE_LINE);
    b->scores.ds_columns = qn_arena_push(a, QB * KB, sizeof(operand), QN_CACHE_LINE);
#else
    b->scores.p_columns = b->scores.p;
    b->scores.ds_columns = b->scores.ds;
#endif
    b->dq = qn_arena_push(a, QB * wide, sizeof(float), QN_CACHE_LINE);
    b->delta = qn_arena_push(a, QB, sizeof(float), QN_CACHE_LINE);
    b->keys.room = (int64_t)room;
}

static size_t room_bytes(const qn_attention_shape *s)
{
    qn_arena forward = QN_ARENA_PROBE, backward = QN_ARENA_PROBE;
    forward_room f;
    backward_room b;
    forward_layout(&f, &forward, s);
    backward_layout(&b, &backward, s);
    return ((forward.used > backward.used ? forward.used : backward.used) + QN_CACHE_LINE) / QN_CACHE_LINE * QN_CACHE_LINE;
}

static qn_arena thread_room(const attention_call *c, int32_t thread)
{
    return (qn_arena){.base = c->scratch + (size_t)thread * c->thread_bytes, .cap = c->thread_bytes};
}

static void run(const qn_exec *ex, attention_call *c, qn_team_fn *fn)
{
    const size_t mark = qn_arena_mark(ex->scratch);
    c->thread_bytes = room_bytes(c->s);
    c->scratch = qn_arena_push(ex->scratch, (size_t)qn_exec_threads(ex), c->thread_bytes, QN_CACHE_LINE);
    QN_ASSERT(c->scratch != NULL);
    qn_exec_run(ex, fn, c);
    qn_arena_release(ex->scratch, mark);
}

/* Items of work of the forward: whole groups of heads, or single heads where groups are fewer than threads. */
static void choose_heads(attention_call *c, const qn_exec *ex, int64_t samples)
{
    c->heads = samples * c->s->K >= qn_exec_threads(ex) ? c->s->H / c->s->K : 1;
}

#if defined(QN_DOT) /* bf16 alone: for f32 there is nothing better than the plain source */
#define QN_ACT         qn_bf16
#define QN_LANES(name) QN_ENTRY_NAME(name, QN_LANES_SUFFIX(bf16, QN_ISA))
#include QN_SELF
#undef QN_LANES
#undef QN_ACT
#else
#include "kernels/cpu/lanes_twice.h"
#endif
#else

#if defined(QN_DOT)
#define QN_LANES_OPERAND(name) QN_LANES(name)

QN_INLINE __m256i half_of(const qn_bf16 *x, int64_t n)
{
    return _mm256_maskz_loadu_epi16(n >= W ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1), x);
}

/* W elements of x, n of them there, as operands. */
QN_INLINE void take_act(operand *out, const qn_bf16 *x, int64_t n)
{
    _mm256_storeu_si256((void *)out, half_of(x, n));
}

QN_INLINE void take_f32(operand *out, const float *x, int64_t n)
{
    _mm256_storeu_si256((void *)out, narrowed(v_load(x, n)));
}

/* STEP rows side by side, W columns of which n are there; fewer rows end in zeros. */
QN_INLINE vf step_of(const qn_bf16 *x, int64_t ld, int64_t rows, int64_t n)
{
    const __m512i even = _mm512_cvtepu16_epi32(half_of(x, n));
    const __m512i odd = rows > 1 ? _mm512_cvtepu16_epi32(half_of(x + ld, n)) : _mm512_setzero_si512();
    return (vf)_mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

/* W * STEP elements of one row, of which n are there. */
QN_INLINE vf run_of(const qn_bf16 *x, int64_t n)
{
    return (vf)_mm512_maskz_loadu_epi16(n >= 2 * W ? 0xffffffffu : (1u << n) - 1, x);
}
#else
#define QN_LANES_OPERAND(name) QN_LANES_F32(name)
#define take_act(out, x, n)    *(vf_any *)(out) = v_load(x, n)
#define take_f32(out, x, n)    *(vf_any *)(out) = v_load(x, n)
#define step_of(x, ld, r, n)   v_load(x, n)
#define run_of(x, n)           v_load(x, n)
#endif

/* n rows of D as operands [n, wide], zeros beyond D. */
static void QN_LANES(take)(operand *out, const QN_ACT *x, int64_t ld, int64_t n, int64_t D)
{
    for (int64_t r = 0; r < n; r++)
        for (int64_t d = 0; d < D; d += W) take_act(out + r * padded(D) + d, x + r * ld + d, D - d);
}

/* Panels along D of n rows, each room rows long; zeros beyond D. */
static void QN_LANES(pack_rows)(operand *out, const QN_ACT *x, int64_t ld, int64_t n, int64_t D, int64_t room)
{
    for (int64_t d = 0; d < padded(D); d += W) {
        operand *to = out + d / PANEL * room * PANEL + d % PANEL * STEP;
        for (int64_t r = 0; r < n; r += STEP)
            *(vf_any *)(to + r * PANEL) = d < D ? step_of(x + r * ld + d, ld, n - r, D - d) : v_of(0);
    }
}

/* Panels along n of the transpose, each D rows long; zeros beyond n. */
static void QN_LANES(pack_columns)(operand *out, const QN_ACT *x, int64_t ld, int64_t n, int64_t D)
{
    for (int64_t r = 0; r < padded(n); r += W) {
        operand *to = out + r / PANEL * stepped(D) * PANEL + r % PANEL * STEP;
        for (int64_t d = 0; d < D; d += W * STEP) {
            vf block[W];
            for (int i = 0; i < W; i++) block[i] = r + i < n ? run_of(x + (r + i) * ld + d, D - d) : v_of(0);
            v_transpose(block);
            for (int i = 0; i < W && d + i * STEP < D; i++) *(vf_any *)(to + (d + i * STEP) * PANEL) = block[i];
        }
    }
}

/* Rows of one head, given as (first row of the sample, head). */
static void QN_LANES(forward_head)(const attention_call *c, const forward_room *f, float *o, online st, int64_t row, int64_t h,
                                   int64_t k0, int64_t keys)
{
    const qn_attention_shape *s = c->s;
    const int64_t D = s->D, wide = padded(D), first = qn_max64(0, k0 - c->P) / QB * QB;
    for (int64_t t = first; t < s->T; t += QB) {
        const int64_t n = qn_min64(QB, s->T - t);
        const QN_ACT *q = (const QN_ACT *)c->q + (row + t) * s->ldq + h * D;
        if (c->P + t + n <= k0) continue;
        QN_LANES(take)(f->q, q, s->ldq, n, D);
        attend_block((online){st.max + t, st.sum + t}, o + t * wide, f->s, f->p, f->q, wide, f->kt, f->v, n, keys,
                     c->P + t + 1 - k0, D, (float)s->scale);
    }
}

static void QN_LANES(forward_store)(const attention_call *c, const float *o, online st, int64_t b, int64_t h)
{
    const qn_attention_shape *s = c->s;
    const int64_t D = s->D, wide = padded(D);
    for (int64_t t = 0; t < s->T; t++) {
        QN_ACT *out = (QN_ACT *)c->out + (b * s->T + t) * s->ldo + h * D;
        const float inverse = 1 / st.sum[t];
        for (int64_t d = 0; d < D; d += W) v_store(out + d, whole(o + t * wide + d) * inverse, D - d);
        if (c->lse != NULL) c->lse[(b * s->H + h) * s->T + t] = (float)(scaled(st.max[t], s->scale) + log((double)st.sum[t]));
    }
}

static void QN_LANES(forward_part)(void *ctx, int32_t thread, int32_t threads)
{
    const attention_call *c = ctx;
    const qn_attention_shape *s = c->s;
    const int64_t D = s->D, wide = padded(D), T = s->T, group = s->H / s->K, items = s->B * s->H / c->heads;
    int64_t begin, end;
    qn_arena a = thread_room(c, thread);
    forward_room f;
    forward_layout(&f, &a, s);
    qn_split(&begin, &end, items, 1, thread, threads);
    for (int64_t i = begin; i < end; i++) {
        const int64_t b = i * c->heads / s->H, h = i * c->heads % s->H, kv = h / group * D;
        memset(f.o, 0, (size_t)(c->heads * T * wide) * sizeof(float));
        for (int64_t r = 0; r < c->heads * T; r++) f.st.max[r] = -INFINITY;
        memset(f.st.sum, 0, (size_t)(c->heads * T) * sizeof(float));
        for (int64_t k0 = 0; k0 < c->P + T; k0 += KB) {
            const int64_t keys = qn_min64(KB, c->P + T - k0), row = b * T + k0;
            QN_LANES(pack_columns)(f.kt, (const QN_ACT *)c->k + row * c->ldk + kv, c->ldk, keys, D);
            QN_LANES(pack_rows)(f.v, (const QN_ACT *)c->v + row * c->ldv + kv, c->ldv, keys, D, KB);
            for (int64_t g = 0; g < c->heads; g++) QN_LANES(forward_head)
            (c, &f, f.o + g * T * wide, (online){f.st.max + g * T, f.st.sum + g * T}, b * T, h + g, k0, keys);
        }
        for (int64_t g = 0; g < c->heads; g++)
            QN_LANES(forward_store)(c, f.o + g * T * wide, (online){f.st.max + g * T, f.st.sum + g * T}, b, h + g);
    }
}

size_t QN_LANES(attention_scratch)(const qn_attention_shape *s, int32_t threads)
{
    return (size_t)threads * room_bytes(s) + QN_CACHE_LINE;
}

void QN_LANES(attention_forward)(const qn_exec *ex, void *o, void *lse, const void *q, const void *k, const void *v,
                                 const qn_attention_shape *s)
{
    if (s->B == 0 || s->T == 0) return;
    attention_call c = {.s = s, .q = q, .k = k, .v = v, .out = o, .lse = lse, .ldk = s->ldk, .ldv = s->ldv};
    choose_heads(&c, ex, s->B);
    run(ex, &c, QN_LANES(forward_part));
}

void QN_LANES(attention_infer)(const qn_exec *ex, void *o, const void *q, const void *kcache, const void *vcache,
                               const qn_attention_shape *s, int64_t P)
{
    if (s->T == 0) return;
    qn_attention_shape one = *s;
    one.B = 1;
    attention_call c = {.s = &one, .q = q, .k = kcache, .v = vcache, .out = o, .P = P};
    c.ldk = c.ldv = s->K * s->D;
    choose_heads(&c, ex, 1);
    run(ex, &c, QN_LANES(forward_part));
}

/* One head's queries against the packed keys of its group. */
static void QN_LANES(backward_head)(const attention_call *c, const backward_room *w, int64_t b, int64_t h)
{
    const qn_attention_shape *s = c->s;
    const int64_t D = s->D, wide = padded(D);
    for (int64_t q0 = 0; q0 < s->T; q0 += QB) {
        const int64_t n = qn_min64(QB, s->T - q0), row = b * s->T + q0;
        const QN_ACT *q = (const QN_ACT *)c->q + row * s->ldq + h * D, *o = (const QN_ACT *)c->o + row * s->ldo + h * D;
        const float *dO = (const float *)c->dO + row * s->ldo + h * D;
        const back_rows rows = {w->q, w->dO, w->qp, w->dOp, c->lse + (b * s->H + h) * s->T + q0, w->dq, w->delta, n};
        QN_LANES(take)(w->q, q, s->ldq, n, D);
        QN_LANES(pack_rows)(w->qp, q, s->ldq, n, D, QB);
        for (int64_t i = 0; i < n; i++) {
            vf sum = v_of(0);
            for (int64_t d = 0; d < D; d += W) {
                sum = v_fma(v_load(dO + i * s->ldo + d, D - d), v_load(o + i * s->ldo + d, D - d), sum);
                take_f32(w->dO + i * wide + d, dO + i * s->ldo + d, D - d);
            }
            w->delta[i] = v_sum(sum);
        }
        QN_LANES_OPERAND(pack_rows)(w->dOp, w->dO, wide, n, D, QB);
        memset(w->dq, 0, (size_t)(n * wide) * sizeof(float));
        for (int64_t k0 = 0; k0 < q0 + n; k0 += KB) back_block(&rows, &w->keys, &w->scores, q0, k0, D, (float)s->scale);
        for (int64_t i = 0; i < n; i++)
            for (int64_t d = 0; d < D; d += W)
                v_store((QN_ACT *)c->dq + (row + i) * s->ldq + h * D + d, whole(w->dq + i * wide + d), D - d);
    }
}

static void QN_LANES(backward_part)(void *ctx, int32_t thread, int32_t threads)
{
    const attention_call *c = ctx;
    const qn_attention_shape *s = c->s;
    const int64_t D = s->D, wide = padded(D), T = s->T, group = s->H / s->K;
    int64_t begin, end;
    qn_arena a = thread_room(c, thread);
    backward_room w;
    backward_layout(&w, &a, s);
    qn_split(&begin, &end, s->B * s->K, 1, thread, threads);
    for (int64_t i = begin; i < end; i++) {
        const int64_t b = i / s->K, kv = i % s->K, row = b * T;
        const QN_ACT *k = (const QN_ACT *)c->k + row * s->ldk + kv * D, *v = (const QN_ACT *)c->v + row * s->ldv + kv * D;
        QN_LANES(pack_columns)(w.keys.kt, k, s->ldk, T, D);
        QN_LANES(pack_columns)(w.keys.vt, v, s->ldv, T, D);
        QN_LANES(pack_rows)(w.keys.kp, k, s->ldk, T, D, w.keys.room);
        memset(w.keys.dk, 0, (size_t)(T * wide) * sizeof(float));
        memset(w.keys.dv, 0, (size_t)(T * wide) * sizeof(float));
        for (int64_t h = kv * group; h < (kv + 1) * group; h++) QN_LANES(backward_head)(c, &w, b, h);
        for (int64_t t = 0; t < T; t++)
            for (int64_t d = 0; d < D; d += W) {
                v_store((QN_ACT *)c->dk + (row + t) * s->ldk + kv * D + d, whole(w.keys.dk + t * wide + d), D - d);
                v_store((QN_ACT *)c->dv + (row + t) * s->ldv + kv * D + d, whole(w.keys.dv + t * wide + d), D - d);
            }
    }
}

void QN_LANES(attention_backward)(const qn_exec *ex, void *dq, void *dk, void *dv, const void *dO, const void *o, const void *lse,
                                  const void *q, const void *k, const void *v, const qn_attention_shape *s)
{
    if (s->B == 0 || s->T == 0) return;
    attention_call c = {.s = s, .q = q, .k = k, .v = v, .o = o, .dO = dO, .dq = dq, .dk = dk, .dv = dv, .lse = (float *)lse};
    run(ex, &c, QN_LANES(backward_part));
}

#undef QN_LANES_OPERAND
#if !defined(QN_DOT)
#undef take_act
#undef take_f32
#undef step_of
#undef run_of
#endif
#endif

/* Attention over caches of sequences that go on together. Definition: attention_cached.c.
 *
 * A cache, per key/value head: keys in panels of PC positions, transposed [len / PC][D][PC], so that a lane is a position; then
 * values [len][wide], so that a lane is a column. f32, or bf16 that is widened as it is loaded. Nothing is packed or transposed
 * when a token comes; it is written once to its place.
 *
 * A query's result is a chain of fused multiply-adds per position over ascending columns, the exact maximum, a sum of lanes over
 * ascending panels, and a chain per column over ascending positions: the same bits whatever the rows, sequences and threads of
 * the call. Positions that a row does not see are never multiplied with. Threads split (sequence, key/value head). */
#ifndef QN_ACT
#define QN_SELF "lanes_cached.c"
#include "kernels/cpu/vectors.h"

enum { NV = 4, PC = NV * W, MR = W == 16 ? 4 : 2 };

typedef struct cached_call {
    const qn_attention_shape *s;
    const void *q, *k, *v;
    void *o;
    const qn_cached_rows *rows;
    int64_t n, len;
    bool half; /* the cache is bf16 */
    char *scratch;
    size_t thread_bytes;
} cached_call;

static int64_t up_to(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static size_t elem(const cached_call *c)
{
    return c->half ? 2 : 4;
}

/* Bytes of the keys of a head, and of its values. */
static size_t key_bytes(int64_t D, int64_t len, size_t e)
{
    return (size_t)(up_to(len, PC) * D) * e;
}

static size_t value_bytes(int64_t D, int64_t len, size_t e)
{
    return (size_t)(len * up_to(D, W)) * e;
}

static char *head_keys(const cached_call *c, char *cache, int64_t head)
{
    return cache + (size_t)head * up_to((int64_t)(key_bytes(c->s->D, c->len, elem(c)) + value_bytes(c->s->D, c->len, elem(c))),
                                        QN_CACHE_LINE);
}

QN_INLINE vf load_cached(const char *p, int64_t i, const bool half)
{
    return half ? v_load_bf16((const qn_bf16 *)(const void *)p + i, W) : v_load_f32((const float *)(const void *)p + i, W);
}

/* Scores of mr queries q [mr, D] at the positions of a panel: s [mr, lds]. */
QN_INLINE void score_tile(float *s, int64_t lds, const float *q, int64_t D, const char *panel, const bool half, const int mr)
{
    vf acc[MR][NV];
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < NV; j++) acc[i][j] = v_of(0);
    for (int64_t d = 0; d < D; d++) {
        QN_UNROLL for (int j = 0; j < NV; j++)
        {
            const vf keys = load_cached(panel, d * PC + j * W, half);
            QN_UNROLL for (int i = 0; i < mr; i++) acc[i][j] = v_fma(v_of(q[i * D + d]), keys, acc[i][j]);
        }
    }
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < NV; j++) * (vf_any *)(s + i * lds + j * W) = acc[i][j];
}

/* o [mr, wide], nv vectors from column d on: += p [mr, ldp] times the values of positions from .. to. */
QN_INLINE void value_tile(float *o, int64_t wide, const float *p, int64_t ldp, const char *values, int64_t from, int64_t to,
                          int64_t d, const bool half, const int mr, const int nv)
{
    vf acc[MR][NV];
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < nv; j++) acc[i][j] =
        v_load_f32(o + i * wide + d + j * W, W);
    for (int64_t t = from; t < to; t++) {
        QN_UNROLL for (int j = 0; j < nv; j++)
        {
            const vf v = load_cached(values, t * wide + d + j * W, half);
            QN_UNROLL for (int i = 0; i < mr; i++) acc[i][j] = v_fma(v_of(p[i * ldp + t]), v, acc[i][j]);
        }
    }
    QN_UNROLL for (int i = 0; i < mr; i++) QN_UNROLL for (int j = 0; j < nv; j++)
        v_store_f32(o + i * wide + d + j * W, acc[i][j], W);
}

#define SCORES(n, half)                                                                                                          \
    case n:                                                                                                                      \
        score_tile(s, lds, q, D, panel, half, n);                                                                                \
        break;
#define VALUES(n, half)                                                                                                          \
    case n:                                                                                                                      \
        for (; d + NV * W <= wide; d += NV * W) value_tile(o, wide, p, ldp, values, from, to, d, half, n, NV);                   \
        for (; d < wide; d += W) value_tile(o, wide, p, ldp, values, from, to, d, half, n, 1);                                   \
        break;
#if defined(QN_ISA_avx512)
#define EACH(CASE, half) CASE(1, half) CASE(2, half) CASE(3, half) CASE(4, half)
#else
#define EACH(CASE, half) CASE(1, half) CASE(2, half)
#endif

static QN_NOINLINE void scores(float *s, int64_t lds, const float *q, int64_t D, const char *panel, bool half, int64_t mr)
{
    switch (mr + (half ? MR : 0)) {
        EACH(SCORES, false)
    default:
        switch (mr) {
            EACH(SCORES, true)
        }
    }
}

static QN_NOINLINE void add_values(float *o, int64_t wide, const float *p, int64_t ldp, const char *values, int64_t from,
                                   int64_t to, bool half, int64_t mr)
{
    int64_t d = 0;
    switch (mr + (half ? MR : 0)) {
        EACH(VALUES, false)
    default:
        switch (mr) {
            EACH(VALUES, true)
        }
    }
}

/* Scores of n positions become exp(score - highest); returns 1 / their sum. What lies behind, up to a panel, is written over. */
static float soften(float *s, int64_t n, float scale)
{
    vf top = v_of(-INFINITY), sum = v_of(0);
    for (int64_t j = 0; j < n; j += W) {
        const vf t = v_select(v_below(n - j), v_load_f32(s + j, W) * scale, v_of(-INFINITY));
        v_store_f32(s + j, t, W);
        top = v_max(t, top);
    }
    const float high = v_highest(top);
    for (int64_t j = 0; j < n; j += W) {
        const vf p = v_exp(v_load_f32(s + j, W) - high);
        v_store_f32(s + j, p, W);
        sum += p;
    }
    return 1 / v_sum(sum);
}

typedef struct cached_room {
    float *q, *s, *o;
} cached_room;

static void room_layout(cached_room *m, qn_arena *a, const qn_attention_shape *s, int64_t len)
{
    m->q = qn_arena_push(a, (size_t)(MR * s->D), sizeof(float), QN_CACHE_LINE);
    m->s = qn_arena_push(a, (size_t)(MR * up_to(len, PC)), sizeof(float), QN_CACHE_LINE);
    m->o = qn_arena_push(a, (size_t)(MR * up_to(s->D, W)), sizeof(float), QN_CACHE_LINE);
}

static size_t room_bytes(const qn_attention_shape *s, int64_t len)
{
    qn_arena probe = QN_ARENA_PROBE;
    cached_room m;
    room_layout(&m, &probe, s, len);
    return (probe.used + QN_CACHE_LINE) / QN_CACHE_LINE * QN_CACHE_LINE;
}

/* mr queries, of which row i sees seen[i] positions, ascending: o [mr, wide] before the division by the sum, which is in inverse.
 */
static void attend(const cached_call *c, const cached_room *m, const char *keys, const char *values, const int64_t *seen,
                   int64_t mr, float *inverse)
{
    const int64_t D = c->s->D, wide = up_to(D, W), lds = up_to(c->len, PC);
    for (int64_t j = 0; j < seen[mr - 1]; j += PC) scores(m->s + j, lds, m->q, D, keys + (size_t)(j * D) * elem(c), c->half, mr);
    for (int64_t i = 0; i < mr; i++) inverse[i] = soften(m->s + i * lds, seen[i], (float)c->s->scale);
    memset(m->o, 0, (size_t)(mr * wide) * sizeof(float));
    add_values(m->o, wide, m->s, lds, values, 0, seen[0], c->half, mr);
    for (int64_t i = 1; i < mr; i++)
        if (seen[i] > seen[0]) add_values(m->o + i * wide, wide, m->s + i * lds, lds, values, seen[0], seen[i], c->half, 1);
}

/* Asks for the beginning of what is read next; behind it the machine sees a stream by itself. */
static void ask(const char *p, size_t bytes)
{
    const size_t most = 8192;
    for (size_t i = 0; i < bytes && i < most; i += QN_CACHE_LINE) __builtin_prefetch(p + i, 0, 2);
}

#include "kernels/cpu/lanes_twice.h"
#else

/* The new keys and values of one head to their places. */
static void QN_LANES(put)(const cached_call *c, const qn_cached_rows *g, char *keys, char *values, int64_t head)
{
    const qn_attention_shape *s = c->s;
    const int64_t D = s->D, wide = up_to(D, W);
    for (int64_t t = 0; t < g->T; t++) {
        const QN_ACT *k = (const QN_ACT *)c->k + (g->first + t) * s->ldk + head * D;
        const QN_ACT *v = (const QN_ACT *)c->v + (g->first + t) * s->ldv + head * D;
        const int64_t at = g->P + t, to = at / PC * PC * D + at % PC;
        for (int64_t d = 0; d < D; d += W) {
            const vf x = v_load(k + d, D - d), y = v_load(v + d, D - d);
            if (c->half)
                v_store((qn_bf16 *)(void *)values + at * wide + d, y, W);
            else
                v_store((float *)(void *)values + at * wide + d, y, W);
            qn_bf16 narrow[W];
            v_store(narrow, x, W);
            for (int i = 0; i < W && d + i < D; i++) {
                if (c->half)
                    ((qn_bf16 *)(void *)keys)[to + (d + i) * PC] = narrow[i];
                else
                    ((float *)(void *)keys)[to + (d + i) * PC] = x[i];
            }
        }
    }
}

/* All queries of one sequence that share a key/value head: rows ascending, the heads of the group inside. */
static void QN_LANES(attend_head)(const cached_call *c, const cached_room *m, const qn_cached_rows *g, const char *keys,
                                  const char *values, int64_t head)
{
    const qn_attention_shape *s = c->s;
    const int64_t D = s->D, group = s->H / s->K, wide = up_to(D, W), queries = g->T * group;
    for (int64_t i = 0, mr; i < queries; i += mr) {
        int64_t seen[MR];
        float inverse[MR];
        mr = qn_min64(MR, queries - i);
        for (int64_t j = 0; j < mr; j++) {
            const int64_t t = (i + j) / group, h = head * group + (i + j) % group;
            const QN_ACT *q = (const QN_ACT *)c->q + (g->first + t) * s->ldq + h * D;
            seen[j] = g->P + t + 1;
            for (int64_t d = 0; d < D; d += W) v_store(m->q + j * D + d, v_load(q + d, D - d), D - d);
        }
        attend(c, m, keys, values, seen, mr, inverse);
        for (int64_t j = 0; j < mr; j++) {
            const int64_t t = (i + j) / group, h = head * group + (i + j) % group;
            QN_ACT *o = (QN_ACT *)c->o + (g->first + t) * s->ldo + h * D;
            for (int64_t d = 0; d < D; d += W) v_store(o + d, v_load(m->o + j * wide + d, W) * inverse[j], D - d);
        }
    }
}

static void QN_LANES(cached_part)(void *ctx, int32_t thread, int32_t threads)
{
    const cached_call *c = ctx;
    const share work = lanes_share(c->n * c->s->K, 1, thread, threads);
    qn_arena a = {.base = c->scratch + (size_t)thread * c->thread_bytes, .cap = c->thread_bytes};
    cached_room m;
    room_layout(&m, &a, c->s, c->len);
    for (int64_t i = work.begin; i < work.end; i++) {
        const qn_cached_rows *g = &c->rows[i / c->s->K];
        const int64_t head = i % c->s->K;
        char *keys = head_keys(c, g->cache, head), *values = keys + key_bytes(c->s->D, c->len, elem(c));
        const bool more = i + 1 < work.end;
        const qn_cached_rows *next = &c->rows[(i + more) / c->s->K];
        const char *next_keys = head_keys(c, next->cache, (i + more) % c->s->K);
        const int64_t held = next->P + next->T;
        if (more) ask(next_keys, key_bytes(c->s->D, held, elem(c)));
        QN_LANES(put)(c, g, keys, values, head);
        if (more) ask(next_keys + key_bytes(c->s->D, c->len, elem(c)), value_bytes(c->s->D, held, elem(c)));
        QN_LANES(attend_head)(c, &m, g, keys, values, head);
    }
}

size_t QN_LANES(cached_bytes)(const qn_attention_shape *s, int64_t len, qn_dtype kv)
{
    const size_t e = kv == QN_BF16 ? 2 : 4;
    return (size_t)s->K * (size_t)up_to((int64_t)(key_bytes(s->D, len, e) + value_bytes(s->D, len, e)), QN_CACHE_LINE);
}

size_t QN_LANES(cached_scratch)(const qn_attention_shape *s, int64_t len, int32_t threads)
{
    return (size_t)threads * room_bytes(s, len) + QN_CACHE_LINE;
}

void QN_LANES(attention_cached)(const qn_exec *ex, void *o, const void *q, const void *k, const void *v,
                                const qn_attention_shape *s, const qn_cached_rows *rows, int64_t n, int64_t len, qn_dtype kv)
{
    cached_call c = {.s = s, .q = q, .k = k, .v = v, .o = o, .rows = rows, .n = n, .len = len, .half = kv == QN_BF16};
    const size_t mark = qn_arena_mark(ex->scratch);
    int64_t work = 0;
    for (int64_t i = 0; i < n; i++) work += rows[i].T * (rows[i].P + rows[i].T);
    c.thread_bytes = room_bytes(s, len);
    c.scratch = qn_arena_push(ex->scratch, (size_t)qn_exec_threads(ex), c.thread_bytes, QN_CACHE_LINE);
    QN_ASSERT(c.scratch != NULL);
    lanes_run(ex, QN_LANES(cached_part), &c, work * s->H * s->D); /* mostly waiting for memory */
    qn_arena_release(ex->scratch, mark);
}

#endif

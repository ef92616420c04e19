/* The softmax of attention where products take pairs of bf16 (lanes_attention.c includes this for QN_DOT alone): the tile of
 * scores that a product leaves is read once for its highest and once to become the next product's operand, already rounded.
 *
 * Powers are of 2: p = 2^((score - highest) scale log2(e)), highest and score before scaling, so that the highest score's p is 1
 * whatever its size. Off the diagonal nothing is masked. A row's bits do not depend on the other rows of its tile. */
#ifndef QN_KERNELS_ATTENTION_PAIRS_H
#define QN_KERNELS_ATTENTION_PAIRS_H

/* 2^x: error below 2 units in the last place; 1 at 0, 0 at -infinity and far below, NaN stays NaN. 2^r on 0 <= r <= 1 by a
 * polynomial of degree 5 that is 1 at 0 and elsewhere off by at most 8.3e-8 of itself (fitted for the smallest such bound). */
QN_INLINE vf exp2_of(vf x)
{
    const vf r = (vf)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF); /* x - floor(x); 0 at -infinity */
    vf y = v_of(1.867131686863685e-3f);
    y = v_fma(y, r, v_of(9.017026900221867e-3f));
    y = v_fma(y, r, v_of(5.579991554793576e-2f));
    y = v_fma(y, r, v_of(2.4016444948625035e-1f));
    y = v_fma(y, r, v_of(6.931513118593233e-1f));
    y = v_fma(y, r, v_of(1));
    return (vf)_mm512_scalef_ps((__m512)y, (__m512)x);
}

/* The two halves of the lanes of MR vectors brought together by op, and so on down: lane i of the result is vector i's. */
#define QN_FOLD_ROWS(name, op)                                                                                                   \
    QN_INLINE vf name(const vf *r)                                                                                               \
    {                                                                                                                            \
        __m512 t[MR];                                                                                                            \
        QN_UNROLL for (int i = 0; i < MR; i++) t[i] = (__m512)r[i];                                                              \
        QN_UNROLL for (int n = MR / 2; n >= MR / 4; n /= 2)                                                                      \
        {                                                                                                                        \
            QN_UNROLL for (int i = 0; i < n; i++)                                                                                \
            {                                                                                                                    \
                const __m512 a = t[2 * i], b = t[2 * i + 1];                                                                     \
                t[i] = n == MR / 2 ? op(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee))                      \
                                   : op(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));                     \
            }                                                                                                                    \
        }                                                                                                                        \
        const __m512 w = op(_mm512_shuffle_ps(t[0], t[1], 0x88), _mm512_shuffle_ps(t[0], t[1], 0xdd));                           \
        const __m512 all = op(w, _mm512_permute_ps(w, 0xb1));                                                                    \
        const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 4, 8, 12, 2, 6, 10, 14);                           \
        return (vf)_mm512_permutexvar_ps(order, all);                                                                            \
    }
QN_FOLD_ROWS(highest_of_rows, _mm512_max_ps)
QN_FOLD_ROWS(sum_of_rows, _mm512_add_ps)
#undef QN_FOLD_ROWS

/* a's W elements, then b's, in bf16. */
QN_INLINE __m512i narrowed_both(vf a, vf b)
{
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
}

static const float LOG2E = 1.44269504088896341f;

/* --- forward. See online_rows of lanes_attention.c: the same, for scores before scaling, and p goes to p [rows, KB]. */
QN_INLINE void exp_row(operand *p, vf *sum, const float *s, float max, float factor, int64_t n, int64_t width, bool masked)
{
    vf total = v_of(0);
    for (int64_t j = 0; j < width; j += PANEL) {
        vf a = exp2_of((whole(s + j) - max) * factor), b = exp2_of((whole(s + j + W) - max) * factor);
        if (masked) {
            a = v_keep(v_below(qn_max64(0, n - j)), a);
            b = v_keep(v_below(qn_max64(0, n - j - W)), b);
        }
        total += a;
        total += b;
        _mm512_storeu_si512(p + j, narrowed_both(a, b));
    }
    *sum = total;
}

QN_INLINE vf highest_in_row(const float *s, int64_t n, int64_t width, bool masked)
{
    vf even = v_of(-INFINITY), odd = even;
    for (int64_t j = 0; j < width; j += PANEL) {
        vf a = whole(s + j), b = whole(s + j + W);
        if (masked) {
            a = v_select(v_below(qn_max64(0, n - j)), a, v_of(-INFINITY));
            b = v_select(v_below(qn_max64(0, n - j - W)), b, v_of(-INFINITY));
        }
        even = v_max(a, even);
        odd = v_max(b, odd);
    }
    return v_max(even, odd);
}

static const operand *online_rows(online st, operand *p, float *s, float *o, int64_t rows, int64_t seen, int64_t keys,
                                  int64_t width, int64_t wide_o, float scale)
{
    const float factor = scale * LOG2E;
    const bool masked = qn_min64(seen, keys) < width;
    float shrink[W];
    vf part[MR];
    for (int64_t i = 0; i < MR; i++) {
        const int64_t n = qn_max64(0, qn_min64(seen + i, keys));
        if (i >= rows)
            part[i] = v_of(0);
        else if (masked)
            part[i] = highest_in_row(s + i * KB, n, width, true);
        else
            part[i] = highest_in_row(s + i * KB, n, width, false);
    }
    const vf before = v_load(st.max, rows), max = v_max(highest_of_rows(part), before);
    v_store(st.max, max, rows);
    v_store(shrink, exp2_of((before - max) * factor), W);
    for (int64_t i = 0; i < rows; i++) {
        if (masked)
            exp_row(p + i * KB, &part[i], s + i * KB, st.max[i], factor, qn_max64(0, qn_min64(seen + i, keys)), width, true);
        else
            exp_row(p + i * KB, &part[i], s + i * KB, st.max[i], factor, width, width, false);
    }
    v_store(st.sum, v_fma(v_load(st.sum, rows), v_load(shrink, W), sum_of_rows(part)), rows);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t d = 0; d < wide_o && shrink[i] != 1; d += W) *(vf_any *)(o + i * wide_o + d) *= shrink[i];
    return p;
}

/* --- backward: what a tile's rows need of the softmax, and where p and ds go. */
typedef struct back_tile {
    const float *s, *dp;         /* [MR, KB] q.k, dO.v */
    const float *lse, *delta;    /* [MR] */
    operand *ds;                 /* [MR, KB], the left-hand side of dq */
    operand *p_pairs, *ds_pairs; /* rows 2 i and 2 i + 1 side by side, as lay_columns of lanes_attention.c has them */
} back_tile;

/* Two rows, of which the first sees n keys and the second one more; one: there is only the first. */
QN_INLINE void back_pair(const back_tile *t, int64_t i, int64_t n, int64_t keys, int64_t width, float scale, bool one,
                         bool masked)
{
    static const uint16_t zip[2 * W] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i order = _mm512_loadu_si512(zip);
    const vf factor = v_of(scale * LOG2E);
    const vf top[2] = {v_of(-t->lse[i] * LOG2E), v_of(one ? 0 : -t->lse[i + 1] * LOG2E)};
    const vf shift[2] = {v_of(-t->delta[i] * scale), v_of(one ? 0 : -t->delta[i + 1] * scale)};
    for (int64_t j = 0; j < width; j += W) {
        vf p[2], ds[2];
        QN_UNROLL for (int k = 0; k < 2; k++)
        {
            if (k == 1 && one) {
                p[k] = ds[k] = v_of(0);
                continue;
            }
            const int64_t at = (i + k) * KB + j;
            p[k] = exp2_of(v_min(v_of(0), v_fma(whole(t->s + at), factor, top[k]))); /* <= 1, whatever a huge score rounds to */
            ds[k] = p[k] * v_fma(whole(t->dp + at), v_of(scale), shift[k]);
            if (masked) {
                const vi seen = v_below(qn_max64(0, qn_min64(n + k, keys) - j));
                p[k] = v_keep(seen, p[k]);
                ds[k] = v_keep(seen, ds[k]);
            }
        }
        const __m512i rows = narrowed_both(ds[0], ds[1]);
        _mm256_storeu_si256((void *)(t->ds + i * KB + j), _mm512_castsi512_si256(rows));
        if (!one) _mm256_storeu_si256((void *)(t->ds + (i + 1) * KB + j), _mm512_extracti64x4_epi64(rows, 1));
        _mm512_storeu_si512(t->ds_pairs + i * KB + j * STEP, _mm512_permutexvar_epi16(order, rows));
        _mm512_storeu_si512(t->p_pairs + i * KB + j * STEP, _mm512_permutexvar_epi16(order, narrowed_both(p[0], p[1])));
    }
}

/* rows <= MR rows, of which the first sees n keys of `keys` and each one more than the one before; the products gave width
 * columns, and zeros go up to room. */
static void back_tile_rows(const back_tile *t, int64_t rows, int64_t n, int64_t keys, int64_t width, int64_t room, float scale)
{
    for (int64_t i = 0; i < rows; i += STEP) {
        if (i + 1 == rows)
            back_pair(t, i, n + i, keys, width, scale, true, true);
        else if (n + i < width)
            back_pair(t, i, n + i, keys, width, scale, false, true);
        else
            back_pair(t, i, n + i, keys, width, scale, false, false);
        for (int64_t j = width; j < room; j += W) { /* read with a row that sees more */
            _mm512_storeu_si512(t->ds_pairs + i * KB + j * STEP, _mm512_setzero_si512());
            _mm512_storeu_si512(t->p_pairs + i * KB + j * STEP, _mm512_setzero_si512());
        }
    }
}

#endif

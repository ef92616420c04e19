/* A shard of the vocabulary: classifier and embedding where each holder has n rows of the [V, C] matrix, from row `first` on
 * (Yeung et al. 2024, arXiv:2411.05288, sections 3 and 4).
 *
 * scores: local softmax p = exp(l - max) / sum over the shard's own logits l, with max, sum and the target's logit beside it.
 * What all shards report gives the factor sum_k exp(max_k - max) / sum that turns p into the softmax restricted to the shard, and
 * the loss log(sum) + max - l[target]. A shard of padding alone reports the least number as its max and 0 as its sum. */
#ifndef QN_REAL
#define QN_SELF "vocab_shard.c"
#include <float.h>
#include <string.h>

#include "reference.h"
#else

/* The logits of a row in double. */
size_t QN_REF(vocab_scratch)(const qn_linear *lin)
{
    return (size_t)lin->shape.out * sizeof(double) + QN_CACHE_LINE;
}

void QN_REF(vocab_scores)(const qn_exec *ex, qn_linear *lin, void *p_, void *stats_, const void *x_, const void *packed,
                          const int32_t *target, int64_t first, int64_t n, int64_t R)
{
    const int64_t C = lin->shape.in, O = lin->shape.out;
    const QN_REAL *x = x_, *w = packed;
    QN_REAL *p = p_, *max = stats_, *sum = max + R, *hit = sum + R;
    const size_t mark = qn_arena_mark(ex->scratch);
    double *logit = qn_arena_push(ex->scratch, (size_t)O, sizeof(double), QN_CACHE_LINE);
    QN_ASSERT(logit != NULL || O == 0);
    for (int64_t r = 0; r < R; r++) {
        double top = -FLT_MAX, all = 0;
        for (int64_t o = 0; o < n; o++) {
            logit[o] = 0;
            for (int64_t c = 0; c < C; c++) logit[o] += (double)x[r * C + c] * w[o * C + c];
            if (!(logit[o] <= top)) top = logit[o];
        }
        for (int64_t o = 0; o < n; o++) all += exp(logit[o] - top);
        for (int64_t o = 0; o < O; o++) p[r * O + o] = o < n ? (QN_REAL)(exp(logit[o] - top) / all) : 0;
        max[r] = (QN_REAL)top;
        sum[r] = (QN_REAL)(all * exp(top - max[r])); /* of the max that is told */
        hit[r] = target[r] >= first && target[r] < first + n ? (QN_REAL)logit[target[r] - first] : 0;
    }
    qn_arena_release(ex->scratch, mark);
}

void QN_REF(vocab_scale)(const qn_exec *ex, void *p_, const void *factor_, const int32_t *target, int64_t first, int64_t n,
                         int64_t R, int64_t O)
{
    (void)ex;
    QN_REAL *p = p_;
    const QN_REAL *factor = factor_;
    for (int64_t r = 0; r < R; r++) {
        for (int64_t o = 0; o < O; o++) p[r * O + o] = p[r * O + o] * factor[r];
        if (target[r] >= first && target[r] < first + n) p[r * O + target[r] - first] -= 1;
    }
}

void QN_REF(vocab_fold)(void *factor_, double *loss, const void *const *stats, int32_t shards, int32_t shard,
                        const int32_t *target, int64_t R)
{
    QN_REAL *factor = factor_;
    for (int64_t r = 0; r < R; r++) {
        double top = -DBL_MAX, sum = 0, hit = 0;
        if (factor != NULL) factor[r] = 0;
        if (target[r] < 0) continue;
        for (int32_t k = 0; k < shards; k++) {
            const double max = ((const QN_REAL *)stats[k])[r];
            if (!(max <= top)) top = max;
        }
        for (int32_t k = 0; k < shards; k++) {
            const QN_REAL *s = stats[k];
            sum += (double)s[R + r] * exp((double)s[r] - top);
            hit += s[2 * R + r];
        }
        if (loss != NULL) *loss += log(sum) + top - hit;
        if (factor == NULL) continue;
        const QN_REAL *own = stats[shard];
        factor[r] = (QN_REAL)((double)own[R + r] * exp((double)own[r] - top) / sum);
    }
}

void QN_REF(vocab_join)(const qn_exec *ex, void *dy_, const void *part_, const void *factor_, int64_t R, int64_t C, bool add)
{
    (void)ex;
    QN_REAL *dy = dy_;
    const QN_REAL *part = part_, *factor = factor_, *own = part + R * C;
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++) {
            const int64_t i = r * C + c;
            const QN_REAL d = factor != NULL ? part[i] * factor[r] - own[i] : part[i];
            dy[i] = add ? dy[i] + d : d;
        }
}

void QN_REF(range_gather)(const qn_exec *ex, void *y_, const int32_t *index, int64_t first, int64_t n, const void *w_, int64_t R,
                          int64_t C)
{
    (void)ex;
    QN_REAL *y = y_;
    const QN_REAL *w = w_;
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++)
            y[r * C + c] = index[r] >= first && index[r] < first + n ? w[(index[r] - first) * C + c] : 0;
}

void QN_REF(range_scatter)(const qn_exec *ex, void *dw_, const int32_t *index, int64_t first, int64_t n, const void *dy_,
                           int64_t R, int64_t C)
{
    (void)ex;
    QN_REAL *dw = dw_;
    const QN_REAL *dy = dy_;
    for (int64_t r = 0; r < R; r++)
        for (int64_t c = 0; c < C; c++)
            if (index[r] >= first && index[r] < first + n) dw[(index[r] - first) * C + c] += dy[r * C + c];
}

#endif

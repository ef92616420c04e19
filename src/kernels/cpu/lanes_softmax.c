/* Rows of the classifier: softmax, its loss and its gradient over V logits in two passes; and column sums for bias gradients.
 *
 * Pass one keeps a maximum and a sum per lane and rescales the sum when a chunk raises the maximum, so every exponent is at most
 * 0 and finite logits give finite results. The loss is lse - logit[target] in double. A row's bits depend on that row alone. */
#include <float.h>

#include "vectors.h"

#include "kernels/linear_dnnl.h"

#define QN_SOFTMAX(name) QN_ENTRY_NAME(name, QN_ISA)

enum { CHUNK = 16 * W };

typedef struct row_stats {
    float max, sum; /* of exp(x - max) */
} row_stats;

static row_stats online_stats(const float *x, int64_t n)
{
    vf max = v_of(-FLT_MAX), sum = v_of(0);
    for (int64_t i = 0; i < n; i += CHUNK) {
        const int64_t end = qn_min64(n, i + CHUNK);
        vf top = max;
        for (int64_t j = i; j < end; j += W) top = v_max(v_select(v_below(end - j), v_load(x + j, end - j), max), top);
        sum *= v_exp(max - top);
        max = top;
        for (int64_t j = i; j < end; j += W) sum += v_keep(v_below(end - j), v_exp(v_load(x + j, end - j) - max));
    }
    const float all = v_highest(max);
    return (row_stats){all, v_sum(sum * v_exp(max - all))};
}

/* softmax - onehot in the type of g; g may be x. rounded: f32 that holds bf16 values. */
#define QN_DEFINE_SOFTMAX(name, type, last)                                                                                      \
    double QN_SOFTMAX(name)(void *grad, const float *logits, int64_t V, int32_t target)                                          \
    {                                                                                                                            \
        type *g = grad;                                                                                                          \
        if (target < 0) {                                                                                                        \
            if (g != NULL) memset(g, 0, (size_t)V * sizeof(*g));                                                                 \
            return 0;                                                                                                            \
        }                                                                                                                        \
        const row_stats s = online_stats(logits, V);                                                                             \
        const double loss = (double)s.max + log((double)s.sum) - (double)logits[target];                                         \
        if (g == NULL) return loss;                                                                                              \
        const float inverse = 1 / s.sum, hit = expf(logits[target] - s.max) * inverse - 1;                                       \
        for (int64_t i = 0; i < V; i += W) {                                                                                     \
            const vf p = v_exp(v_load(logits + i, V - i) - s.max) * inverse;                                                     \
            v_store(g + i, last(p), V - i);                                                                                      \
        }                                                                                                                        \
        const vf one = last(v_of(hit));                                                                                          \
        v_store(g + target, one, 1);                                                                                             \
        return loss;                                                                                                             \
    }

#define QN_AS_IT_IS(p) (p)
#define QN_ROUNDED(p)  v_widen(v_narrow(p))
QN_DEFINE_SOFTMAX(softmax_loss_f32, float, QN_AS_IT_IS)
QN_DEFINE_SOFTMAX(softmax_loss_bf16, qn_bf16, QN_AS_IT_IS)
QN_DEFINE_SOFTMAX(softmax_loss_rounded, float, QN_ROUNDED)

/* Of a vocabulary shard, n of O columns real: p = exp(x - max) / sum, zeros behind them. */
#define QN_DEFINE_SOFTMAX_PART(name, type)                                                                                       \
    void QN_SOFTMAX(name)(void *out, float *max, float *sum, const float *logits, int64_t n, int64_t O)                          \
    {                                                                                                                            \
        type *p = out;                                                                                                           \
        const row_stats s = online_stats(logits, n);                                                                             \
        const float inverse = n > 0 ? 1 / s.sum : 0;                                                                             \
        for (int64_t i = 0; i < n; i += W) v_store(p + i, v_exp(v_load(logits + i, n - i) - s.max) * inverse, n - i);            \
        memset(p + n, 0, (size_t)(O - n) * sizeof(*p));                                                                          \
        *max = s.max;                                                                                                            \
        *sum = s.sum;                                                                                                            \
    }

QN_DEFINE_SOFTMAX_PART(softmax_part_f32, float)
QN_DEFINE_SOFTMAX_PART(softmax_part_bf16, qn_bf16)

/* Four vectors of columns at a time, rows in ascending order. */
#define QN_DEFINE_COLUMN_SUM(name, type)                                                                                         \
    void QN_SOFTMAX(name)(float *sum, const void *dy, int64_t R, int64_t n, int64_t ld)                                          \
    {                                                                                                                            \
        for (int64_t o = 0; o < n; o += 4 * W) {                                                                                 \
            const int64_t left = n - o;                                                                                          \
            vf acc[4] = {v_of(0), v_of(0), v_of(0), v_of(0)};                                                                    \
            for (int64_t r = 0; r < R; r++) {                                                                                    \
                const type *row = (const type *)dy + r * ld + o;                                                                 \
                for (int j = 0; j < 4; j++)                                                                                      \
                    if (left > j * W) acc[j] += v_load(row + j * W, left - j * W);                                               \
            }                                                                                                                    \
            for (int j = 0; j < 4; j++)                                                                                          \
                if (left > j * W) v_store(sum + o + j * W, v_load(sum + o + j * W, left - j * W) + acc[j], left - j * W);        \
        }                                                                                                                        \
    }

QN_DEFINE_COLUMN_SUM(column_sum_f32, float)
QN_DEFINE_COLUMN_SUM(column_sum_bf16, qn_bf16)

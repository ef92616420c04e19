/* A shard of the vocabulary, fast: rows of p, of the gradient's parts, and look-ups by range. Definition: vocab_shard.c. */
#ifndef QN_ACT
#define QN_SELF "lanes_vocab.c"
#include "kernels/cpu/vectors.h"

typedef struct job {
    float *y; /* what is written */
    const float *a, *factor;
    const int32_t *index;
    int64_t first, n, R, C;
    bool add;
} job;

static bool in_range(const job *j, int64_t r)
{
    return j->index[r] >= j->first && j->index[r] < j->first + j->n;
}

static void join_part(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    const share part = lanes_share(j->R, 1, thread, threads);
    for (int64_t r = part.begin; r < part.end; r++) {
        float *y = j->y + r * j->C;
        const float *a = j->a + r * j->C, *own = j->a + (j->R + r) * j->C;
        for (int64_t c = 0; c < j->C; c += W) {
            vf d = v_load(a + c, j->C - c);
            if (j->factor != NULL) d = d * j->factor[r] - v_load(own + c, j->C - c);
            if (j->add) d = v_load(y + c, j->C - c) + d;
            v_store(y + c, d, j->C - c);
        }
    }
}

void QN_LANES_F32(vocab_join)(const qn_exec *ex, void *dy, const void *part, const void *factor, int64_t R, int64_t C, bool add)
{
    job j = {.y = dy, .a = part, .factor = factor, .R = R, .C = C, .add = add};
    lanes_run(ex, join_part, &j, R * C);
}

static void gather_part(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    const share part = lanes_share(j->R, 1, thread, threads);
    for (int64_t r = part.begin; r < part.end; r++) {
        float *y = j->y + r * j->C;
        if (in_range(j, r))
            memcpy(y, j->a + (j->index[r] - j->first) * j->C, (size_t)j->C * sizeof(*y));
        else
            memset(y, 0, (size_t)j->C * sizeof(*y));
    }
}

void QN_LANES_F32(range_gather)(const qn_exec *ex, void *y, const int32_t *index, int64_t first, int64_t n, const void *w,
                                int64_t R, int64_t C)
{
    job j = {.y = y, .a = w, .index = index, .first = first, .n = n, .R = R, .C = C};
    lanes_run(ex, gather_part, &j, R * C);
}

/* Columns are split over threads, so that no two touch one element and rows ascend in each. */
static void scatter_part(void *ctx, int32_t thread, int32_t threads)
{
    const job *j = ctx;
    const share part = lanes_share(j->C, QN_CACHE_LINE, thread, threads);
    for (int64_t r = 0; r < j->R; r++) {
        if (!in_range(j, r)) continue;
        float *y = j->y + (j->index[r] - j->first) * j->C;
        const float *a = j->a + r * j->C;
        for (int64_t c = part.begin; c < part.end; c += W)
            v_store(y + c, v_load(y + c, part.end - c) + v_load(a + c, part.end - c), part.end - c);
    }
}

void QN_LANES_F32(range_scatter)(const qn_exec *ex, void *dw, const int32_t *index, int64_t first, int64_t n, const void *dy,
                                 int64_t R, int64_t C)
{
    job j = {.y = dw, .a = dy, .index = index, .first = first, .n = n, .R = R, .C = C};
    lanes_run(ex, scatter_part, &j, R * C);
}

#include "kernels/cpu/lanes_twice.h"
#else

typedef struct QN_LANES(scale_job) {
    QN_ACT *p;
    const float *factor;
    const int32_t *target;
    int64_t first, n, R, O;
} QN_LANES(scale_job);

static void QN_LANES(scale_part)(void *ctx, int32_t thread, int32_t threads)
{
    const QN_LANES(scale_job) *j = ctx;
    const share part = lanes_share(j->R, 1, thread, threads);
    for (int64_t r = part.begin; r < part.end; r++) {
        QN_ACT *p = j->p + r * j->O;
        const int64_t t = j->target[r] - j->first;
        const bool here = t >= 0 && t < j->n;
        vf one = v_of(0);
        if (here) one = v_of(v_load(p + t, 1)[0] * j->factor[r] - 1);
        for (int64_t o = 0; o < j->O; o += W) v_store(p + o, v_load(p + o, j->O - o) * j->factor[r], j->O - o);
        if (here) v_store(p + t, one, 1);
    }
}

void QN_LANES(vocab_scale)(const qn_exec *ex, void *p, const void *factor, const int32_t *target, int64_t first, int64_t n,
                           int64_t R, int64_t O)
{
    QN_LANES(scale_job) j = {.p = p, .factor = factor, .target = target, .first = first, .n = n, .R = R, .O = O};
    lanes_run(ex, QN_LANES(scale_part), &j, R * O);
}

#endif

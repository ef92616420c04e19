#include "kernels/shard_sum.h"

#include <string.h>

#include "core/checked.h"
#include "core/compiler.h"

enum { BLOCK = 64, GRAIN = 4096 };

typedef struct sum_job {
    void *const *out;
    const void *const *part;
    int32_t outs, parts;
    qn_dtype type;
    int64_t n;
} sum_job;

/* Row 0 becomes the sum of all rows. */
static void fold_f32(float (*a)[BLOCK], int32_t rows, int64_t n)
{
    for (int32_t step = 1; step < rows; step *= 2)
        for (int32_t r = 0; r + step < rows; r += 2 * step)
            for (int64_t i = 0; i < n; i++) a[r][i] += a[r + step][i];
}

static void fold_f64(double (*a)[BLOCK], int32_t rows, int64_t n)
{
    for (int32_t step = 1; step < rows; step *= 2)
        for (int32_t r = 0; r + step < rows; r += 2 * step)
            for (int64_t i = 0; i < n; i++) a[r][i] += a[r + step][i];
}

static void block_f32(const sum_job *j, int64_t at, int64_t n)
{
    float a[QN_MAX_SHARDS][BLOCK];
    for (int32_t p = 0; p < j->parts; p++) memcpy(a[p], (const float *)j->part[p] + at, (size_t)n * sizeof(float));
    fold_f32(a, j->parts, n);
    for (int32_t o = 0; o < j->outs; o++) memcpy((float *)j->out[o] + at, a[0], (size_t)n * sizeof(float));
}

static void block_f64(const sum_job *j, int64_t at, int64_t n)
{
    double a[QN_MAX_SHARDS][BLOCK];
    for (int32_t p = 0; p < j->parts; p++) memcpy(a[p], (const double *)j->part[p] + at, (size_t)n * sizeof(double));
    fold_f64(a, j->parts, n);
    for (int32_t o = 0; o < j->outs; o++) memcpy((double *)j->out[o] + at, a[0], (size_t)n * sizeof(double));
}

static void block_bf16(const sum_job *j, int64_t at, int64_t n)
{
    float a[QN_MAX_SHARDS][BLOCK];
    qn_bf16 sum[BLOCK];
    for (int32_t p = 0; p < j->parts; p++)
        for (int64_t i = 0; i < n; i++) a[p][i] = qn_bf16_to_f32(((const qn_bf16 *)j->part[p])[at + i]);
    fold_f32(a, j->parts, n);
    for (int64_t i = 0; i < n; i++) sum[i] = qn_f32_to_bf16(a[0][i]);
    for (int32_t o = 0; o < j->outs; o++) memcpy((qn_bf16 *)j->out[o] + at, sum, (size_t)n * sizeof(qn_bf16));
}

static void sum_part(void *ctx, int32_t thread, int32_t threads)
{
    const sum_job *j = ctx;
    int64_t begin, end;
    qn_split(&begin, &end, j->n, GRAIN, thread, threads);
    for (int64_t at = begin; at < end; at += BLOCK) {
        const int64_t n = qn_min64(BLOCK, end - at);
        if (j->type == QN_F32)
            block_f32(j, at, n);
        else if (j->type == QN_F64)
            block_f64(j, at, n);
        else
            block_bf16(j, at, n);
    }
}

void qn_shard_sum(const qn_exec *ex, void *const *out, int32_t outs, const void *const *part, int32_t parts, qn_dtype type,
                  int64_t n)
{
    sum_job job = {.out = out, .part = part, .outs = outs, .parts = parts, .type = type, .n = n};
    QN_ASSERT(parts >= 1 && parts <= QN_MAX_SHARDS && (type == QN_F32 || type == QN_F64 || type == QN_BF16));
    qn_exec_run(ex, sum_part, &job);
}

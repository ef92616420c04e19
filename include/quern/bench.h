/* Benchmarks: ratios to a ceiling that is measured in the same run. */
#ifndef QUERN_BENCH_H
#define QUERN_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/config.h"
#include "quern/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qn_bench_options {
    int32_t dtype; /* 0 f32, 1 bf16 */
    int32_t arch;
    int64_t layers, heads, kv_heads, width, context, vocab, batch, micro_batches, workers, threads, steps;
    int32_t weights; /* generate: 0 f32, 1 bf16, 2 q8 */
    int32_t kernels; /* pipeline: 0 the model's, 1 tasks that sleep */
    qn_list only;    /* pipeline: parts and schedules to measure, none: all */
    int json;
} qn_bench_options;

extern const qn_table qn_bench_table;

typedef void qn_line_fn(void *ctx, const char *line);

/* Each gives lines (JSON objects or text) as they are measured. Errors: QN_EINVAL, QN_ENOMEM. */
qn_status qn_bench_train(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;
qn_status qn_bench_kernels(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;
qn_status qn_bench_pipeline(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

qn_status qn_bench_generate(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif

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
    qn_list only;    /* pipeline: parts and schedules to measure; scale: axes and points; none: all */
    int json;
    int quick;           /* small sizes, to try it */
    const char *folder;  /* of files that are written and removed again; "" or NULL: the working directory */
    const char *svg;     /* scale: a file for the curves, or NULL */
    const char *points;  /* scale: a file of points, read before and written after each, or NULL */
    int64_t limit;       /* scale: seconds after which no other point is begun; 0: none */
    const char *compare; /* a file of earlier lines (--json), or NULL */
} qn_bench_options;

extern const qn_table qn_bench_table;

typedef void qn_line_fn(void *ctx, const char *line);

/* Each gives lines (JSON objects or text) as they are measured. Errors: QN_EINVAL, QN_ENOMEM. */
qn_status qn_bench_train(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;
qn_status qn_bench_kernels(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;
qn_status qn_bench_pipeline(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

qn_status qn_bench_generate(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* Memory and the optimizer's pass; the slot ring, hand-overs, the price of a trace; checkpoints against the disk, and starting.
 * Errors as above, QN_EIO. */
qn_status qn_bench_memory(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;
qn_status qn_bench_link(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;
qn_status qn_bench_disk(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* Time of a step, memory and start-up by workers, context and parameters; not part of qn_bench_all. Errors: QN_EINVAL (only),
 * QN_ENOMEM, QN_EIO (picture, points), QN_EFORMAT (points), what training returns. */
qn_status qn_bench_scale(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

typedef qn_status qn_bench_fn(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err);

/* All of them but scale in one run, ceilings first. Errors: of the first that fails; what came before is shown by then. */
qn_bench_fn qn_bench_all;

/* Runs `bench`, then holds its lines against those of the file opt->compare: a line for each figure that got worse by more than
 * the spread of both runs (at least 5 %), and one that counts them. Errors: of the benchmark; QN_ENOENT, QN_EFORMAT of the file,
 * before anything is measured. */
qn_status qn_bench_compare(qn_bench_fn *bench, const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

#ifdef __cplusplus
}
#endif
#endif

/* Parts of quern bench pipeline that go through all schedules. */
#ifndef QN_SESSION_BENCH_SCHEDULES_H
#define QN_SESSION_BENCH_SCHEDULES_H

#include "bench_common.h"

/* Tasks that sleep for some milliseconds (F 16, B 20, W 12 of a worker's share), median of opt->steps steps. workers,
 * micro_batches 0: 1 to 16, twice the workers. Errors: QN_ENOMEM, what the executor returns. */
qn_status qni_bench_sleepers(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* Real training steps of every schedule that given->only names (none: all), each against its simulation, one worker and 1f1b.
 * given: zeros stand for sizes of its own. Errors: QN_EINVAL, QN_ENOMEM. */
qn_status qni_bench_all_schedules(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* The dossiers' ratios of plain pipelines on two workers: gpipe's and 1f1b's throughput, interleaved's and zb-h1's over 1f1b's.
 */
qn_status qni_bench_pipelines(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* Two workers: the cut chosen by cost against its neighbours and the best of them simulated; the gain over one worker. opt:
 * without zeros. Errors: QN_EINVAL (so few layers that a neighbour leaves a stage empty). */
qn_status qni_bench_cuts(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* Interleaved stages against 1F1B, 2 to 4 micro-batches on two workers, with messages that take their time; tasks sleep. A claim
 * for each delay. */
qn_status qni_bench_messages(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* Twice as many workers as cores, with the model's kernels, against the simulator with shared cores. opt: without zeros. */
qn_status qni_bench_crowded(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

#endif

/* Parts of quern bench pipeline that go through all schedules. */
#ifndef QN_SESSION_BENCH_SCHEDULES_H
#define QN_SESSION_BENCH_SCHEDULES_H

#include "bench_common.h"

/* Tasks that sleep for some milliseconds (F 16, B 20, W 12 of a worker's share), median of opt->steps steps. workers,
 * micro_batches 0: 2 to 16, twice the workers. Errors: QN_ENOMEM, what the executor returns. */
qn_status qni_bench_sleepers(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* Real training steps of every schedule but gpipe and 1f1b (which the caller measures), each against 1f1b. opt: without zeros. */
qn_status qni_bench_all_schedules(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

#endif

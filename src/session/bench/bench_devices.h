/* quern bench pipeline: RoundPipe on devices with little memory. given: zeros stand for these benchmarks' own sizes. */
#ifndef QN_SESSION_BENCH_DEVICES_H
#define QN_SESSION_BENCH_DEVICES_H

#include "quern/bench.h"

/* RoundPipe against the best schedule that binds stages to workers, under the same device memory, with a heavy head: a line for
 * each, then the claims. Errors: QN_EINVAL, QN_ENOMEM. */
qn_status qni_bench_devices(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* The optimizer beside the next step (RoundPipe's event protocol) against the optimizer between steps. Errors: as above. */
qn_status qni_bench_lag(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* The same on a device that sleeps instead of computing on the host's cores. Errors: as above. */
qn_status qni_bench_protocol(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

#endif

/* quern bench pipeline: Superpipeline's window against all weights resident and against loading on demand. */
#ifndef QN_SESSION_BENCH_WINDOW_H
#define QN_SESSION_BENCH_WINDOW_H

#include "quern/bench.h"

/* Forward passes of one prompt on one device whose link is throttled to multiples of what hides it, for several windows: a line
 * for each, measured against the simulated time, then the claims. given: zeros stand for this benchmark's own sizes. Errors:
 * QN_EINVAL, QN_ENOMEM. */
qn_status qni_bench_window(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* 64 tokens of a model twice as large as the device's 512 MiB, from its file; opt->folder: where that is written (1.1 GB) and
 * removed again. Errors: QN_EINVAL (the file is there already), QN_EUNSUPPORTED (a system that does not say what a process
 * holds), QN_EIO, QN_ENOMEM (more memory than the bound). */
qn_status qni_bench_out_of_core(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

#endif

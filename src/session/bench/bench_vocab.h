/* quern bench pipeline: what a vocabulary cut into shards gains. */
#ifndef QN_SESSION_BENCH_VOCAB_H
#define QN_SESSION_BENCH_VOCAB_H

#include "quern/bench.h"

/* A line for each algorithm. given: zeros stand for this benchmark's own sizes. Errors: QN_EINVAL, QN_ENOMEM. */
qn_status qni_bench_vocab(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

/* Simulated on four workers with costs measured here, at sizes of its own: a line for each algorithm. Errors: as above. */
qn_status qni_bench_vocab_gain(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

#endif

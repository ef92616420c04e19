/* quern bench generate: where the time of a decoded token goes. */
#ifndef QN_SESSION_BENCH_DECODE_H
#define QN_SESSION_BENCH_DECODE_H

#include "model/model.h"
#include "quern/bench.h"

/* A line with the microseconds of each kind of operation in a pass of so many rows, each of a sequence of its own, and of
 * choosing the tokens. value [params] f32. opt: without zeros. Only while no other team of threads is open: they would take each
 * other's cores. Errors: QN_ENOMEM. */
qn_status qni_bench_decode_phases(const qn_bench_options *opt, int32_t rows, const qn_model *m, float *const *value,
                                  qn_line_fn *line, void *ctx, qn_err *err) QN_MUST_USE;

#endif

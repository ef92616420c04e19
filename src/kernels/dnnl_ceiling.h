/* The ceiling of a matrix product on this machine: oneDNN left alone with its own threads and its own layouts for all three
 * matrices. Benchmarks hold the kernels against it, so that poor blocking of ours cannot lower the bar. */
#ifndef QN_KERNELS_DNNL_CEILING_H
#define QN_KERNELS_DNNL_CEILING_H

#include <stdbool.h>
#include <stdint.h>

#include "quern/status.h"

typedef struct qni_ceiling qni_ceiling;

/* c [m, n] = a [m, k] b [k, n] in bf16 or f32 (c_f32: with an f32 result in bf16), on that many threads. */
qn_status qni_ceiling_open(qni_ceiling **out, int64_t m, int64_t n, int64_t k, bool bf16, bool c_f32, int32_t threads,
                           qn_err *err) QN_MUST_USE;
void qni_ceiling_close(qni_ceiling *c);
/* Runs the product once; the better of the library's layout and of plain rows is chosen by the first calls. ns it took. */
int64_t qni_ceiling_run(qni_ceiling *c);

#endif

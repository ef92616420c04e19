/* Weights of 8 bits: blocks of 32 of a row share a scale in f16; weight = scale * integer, integer -127 .. 127. The numbers are
 * those of GGUF's Q8_0. On disk: docs/weights.md. */
#ifndef QN_KERNELS_Q8_H
#define QN_KERNELS_Q8_H

#include "core/half.h"

enum { QNI_Q8_BLOCK = 32, QNI_Q8_BIAS = 128 }; /* where integers are kept as bytes, they are biased */

/* A block of n <= 32 weights: the scale, and q [32], zero beyond n. */
qn_f16 qni_q8_block(int8_t *q, const float *w, int64_t n);
int64_t qni_q8_blocks(int64_t C); /* of a row, the last may be short */

#endif

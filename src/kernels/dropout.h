/* Inverted dropout, as the reference and the fast kernels both define it: element e of a sample is dropped when word e of the
 * sample's random stream is below p * 2^32, and multiplied by 1 / (1 - p), rounded to float or double, when it is kept. */
#ifndef QN_KERNELS_DROPOUT_H
#define QN_KERNELS_DROPOUT_H

#include <stdint.h>

static inline uint64_t qni_dropout_limit(double p)
{
    return p >= 1 ? (uint64_t)1 << 32 : (uint64_t)(p * 0x1p32);
}
static inline double qni_dropout_scale(double p)
{
    return p >= 1 ? 0 : 1 / (1 - p);
}

#endif

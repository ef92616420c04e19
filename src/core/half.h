/* IEEE half precision as bits. */
#ifndef QN_CORE_HALF_H
#define QN_CORE_HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t qn_f16;

static inline float qn_f16_to_f32(qn_f16 h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ffu;
    uint32_t u = sign | (exponent + 112) << 23 | fraction << 13;
    float f;
    if (exponent == 31) u = sign | 0x7f800000u | fraction << 13;
    if (exponent == 0) return ldexpf((float)fraction, -24) * (sign != 0 ? -1.0f : 1.0f);
    memcpy(&f, &u, sizeof(f));
    return f;
}

/* Rounds to nearest, ties to even; too large becomes infinity, NaN stays NaN. */
static inline qn_f16 qn_f32_to_f16(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof(u));
    const uint32_t sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (qn_f16)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return (qn_f16)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) /* a multiple of 2^-24 */
        return (qn_f16)(sign | (uint32_t)lrintf(ldexpf(fabsf(x), 24)));
    return (qn_f16)(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
}

#endif

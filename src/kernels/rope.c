/* Rotary embedding (Su et al. 2021, arXiv:2104.09864): the pair (x[d], x[d + D/2]) of each head turns by the angle
 * pos * theta^(-2d/D). The backward turns it back. */
#ifndef QN_REAL
#define QN_SELF "rope.c"
#include "reference.h"
#else

void QN_REF(rope)(const qn_exec *ex, void *y_, const void *x_, const int32_t *pos, int64_t R, int64_t H, int64_t D, int64_t ld,
                  double theta, bool inverse)
{
    (void)ex;
    QN_REAL *y = y_;
    const QN_REAL *x = x_;
    for (int64_t r = 0; r < R; r++)
        for (int64_t d = 0; d < D / 2; d++) {
            const double angle = pos[r] * pow(theta, -2 * (double)d / (double)D);
            const double c = cos(angle), s = inverse ? -sin(angle) : sin(angle);
            for (int64_t h = 0; h < H; h++) {
                const int64_t low = r * ld + h * D + d, high = low + D / 2;
                const double a = x[low], b = x[high];
                y[low] = (QN_REAL)(a * c - b * s);
                y[high] = (QN_REAL)(a * s + b * c);
            }
        }
}

#endif

/* Residual join and dropout: y = a + drop(b), db = drop(dy). The mask comes from counters, so forward and backward agree without
 * storing it, and sample i of a call has the same mask in whatever call it appears. */
#ifndef QN_REAL
#define QN_SELF "residual.c"
#include <stdbool.h>

#include "core/rng.h"
#include "dropout.h"

/* Whether element e of all samples is kept; block holds the four words that e is one of, drawn when e enters them, or starts. */
static bool keep(uint32_t block[4], const qn_rng_key *key, int64_t e, int64_t n, bool starts, uint64_t limit)
{
    const int64_t in = e % n;
    if (in % 4 == 0 || starts) {
        qn_rng_key k = *key;
        k.sample += (uint32_t)(e / n);
        qn_rng_block(block, &k, (uint32_t)(in / 4));
    }
    return block[in % 4] >= limit;
}

#include "reference.h"
#else

void QN_REF(residual_forward)(const qn_exec *ex, void *y_, const void *a_, const void *b_, int64_t first, int64_t count,
                              int64_t n, double p, const qn_rng_key *key)
{
    (void)ex;
    QN_REAL *y = y_;
    const QN_REAL *a = a_, *b = b_;
    const uint64_t limit = qni_dropout_limit(p);
    const QN_REAL scale = (QN_REAL)qni_dropout_scale(p);
    uint32_t block[4];
    for (int64_t e = 0; e < count; e++)
        y[e] = a[e] + (limit == 0 ? b[e] : keep(block, key, first + e, n, e == 0, limit) ? scale * b[e] : 0);
}

void QN_REF(residual_backward)(const qn_exec *ex, void *db, const void *dy, int64_t first, int64_t count, int64_t n, double p,
                               const qn_rng_key *key)
{
    QN_REF(dropout)(ex, db, dy, first, count, n, p, key);
}

void QN_REF(dropout)(const qn_exec *ex, void *y_, const void *x_, int64_t first, int64_t count, int64_t n, double p,
                     const qn_rng_key *key)
{
    (void)ex;
    QN_REAL *y = y_;
    const QN_REAL *x = x_;
    const uint64_t limit = qni_dropout_limit(p);
    const QN_REAL scale = (QN_REAL)qni_dropout_scale(p);
    uint32_t block[4];
    for (int64_t e = 0; e < count; e++)
        y[e] = limit == 0 ? x[e] : keep(block, key, first + e, n, e == 0, limit) ? scale * x[e] : 0;
}

#endif

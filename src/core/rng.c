/* Philox4x32-10 and the streams on it. Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 *
 * Counter of a stream, least significant word first: block, sample, step, layer * 65536 + op; the key is the seed. */
#include "rng.h"

#include <math.h>

#include "compiler.h"

static const uint32_t MUL0 = 0xD2511F53u, MUL1 = 0xCD9E8D57u;   /* the paper's multipliers */
static const uint32_t WEYL0 = 0x9E3779B9u, WEYL1 = 0xBB67AE85u; /* golden ratio, sqrt(3) - 1 */
static const double TWO_PI = 6.283185307179586476925286766559;

void qn_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)MUL0 * c0, p1 = (uint64_t)MUL1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += WEYL0;
        k1 += WEYL1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void qn_rng_block(uint32_t out[4], const qn_rng_key *key, uint32_t block)
{
    const uint32_t counter[4] = {block, key->sample, key->step, (uint32_t)key->layer << 16 | key->op};
    const uint32_t seed[2] = {(uint32_t)key->seed, (uint32_t)(key->seed >> 32)};
    qn_philox(out, counter, seed);
}

qn_rng qn_rng_of(qn_rng_key key)
{
    return (qn_rng){.key = key, .used = 4};
}

uint32_t qn_rng_u32(qn_rng *r)
{
    if (r->used == 4) {
        qn_rng_block(r->word, &r->key, r->block++);
        r->used = 0;
    }
    return r->word[r->used++];
}

double qn_rng_unit(qn_rng *r)
{
    const uint64_t high = qn_rng_u32(r) >> 5, low = qn_rng_u32(r) >> 6;
    return (double)(high << 26 | low) * 0x1p-53;
}

double qn_rng_normal(qn_rng *r)
{
    const double u = 1.0 - qn_rng_unit(r); /* (0, 1]: the logarithm stays finite */
    const double v = qn_rng_unit(r);
    return sqrt(-2.0 * log(u)) * cos(TWO_PI * v);
}

uint64_t qn_rng_below(qn_rng *r, uint64_t n)
{
    QN_ASSERT(n >= 1);
    const uint64_t surplus = (0 - n) % n; /* 2^64 mod n: draws below it would favour the small results */
    for (;;) {
        const uint64_t high = qn_rng_u32(r), x = high << 32 | qn_rng_u32(r);
        if (x >= surplus) return x % n;
    }
}

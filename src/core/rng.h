/* Counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
 * A number depends on its key and counter alone, never on what was drawn before, so results do not depend on order. */
#ifndef QN_CORE_RNG_H
#define QN_CORE_RNG_H

#include <stdint.h>

/* out: four independent 32-bit words. */
void qn_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/* What a random number of a run is keyed by. sample is the index in the global batch, so micro-batching changes nothing. */
typedef struct qn_rng_key {
    uint64_t seed;
    uint32_t step, sample;
    uint16_t layer, op;
} qn_rng_key;

/* Words 4 * block .. 4 * block + 3 of the stream of that key. */
void qn_rng_block(uint32_t out[4], const qn_rng_key *key, uint32_t block);

/* A sequential view of a stream for set-up code (initialisation, shuffling, sampling). */
typedef struct qn_rng {
    qn_rng_key key;
    uint32_t block, used, word[4];
} qn_rng;

qn_rng qn_rng_of(qn_rng_key key);
uint32_t qn_rng_u32(qn_rng *r);
double qn_rng_unit(qn_rng *r);                /* [0, 1), 53 bits */
double qn_rng_normal(qn_rng *r);              /* standard normal, Box-Muller */
uint64_t qn_rng_below(qn_rng *r, uint64_t n); /* uniform in [0, n), n >= 1, without bias */

#endif

/* Windows: which tokens a training sample or a validation window holds. Both are pure functions of their number.
 *
 *   part    |<-- phase -->|<- T ->|<- T ->| ... |<- T ->|1|   rest   |
 *                         k = 0     1             n - 1
 *
 * An epoch visits its n windows once, in a permutation; the phase is drawn anew for each epoch from all that keep the n windows
 * inside. n leaves out one window that would fit, so that the phase has at least T values and no token is always at the same
 * place.
 *
 * The permutation is a balanced Feistel network over 2 h bits with Philox as its round function, restricted to 0 .. n - 1 by
 * walking the cycle (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): at most 4 n values, so about 4 steps. */
#include "data/dataset/shards.h"

#include <inttypes.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/rng.h"

enum { ROUNDS = 6, PHASE_ROUND = 255 };

typedef struct windows {
    qn_source base;
    const qn_tokens *tokens;
    int64_t first, n; /* of the part; windows of an epoch */
    uint64_t phases;  /* the phase is below */
    uint64_t seed;
    int half_bits;
} windows;

static uint64_t draw(const windows *w, uint64_t epoch, uint64_t x, uint32_t round)
{
    const uint32_t counter[4] = {(uint32_t)x, (uint32_t)epoch, (uint32_t)(epoch >> 32), round};
    const uint32_t key[2] = {(uint32_t)w->seed, (uint32_t)(w->seed >> 32)};
    uint32_t out[4];
    qn_philox(out, counter, key);
    return (uint64_t)out[1] << 32 | out[0];
}

/* Image of k < n under the permutation of this epoch. */
static uint64_t permute(const windows *w, uint64_t epoch, uint64_t k)
{
    const uint64_t mask = ((uint64_t)1 << w->half_bits) - 1;
    do {
        uint64_t left = k >> w->half_bits, right = k & mask;
        for (uint32_t r = 0; r < ROUNDS; r++) {
            const uint64_t next = left ^ (draw(w, epoch, right, r) & mask);
            left = right;
            right = next;
        }
        k = left << w->half_bits | right;
    } while (k >= (uint64_t)w->n);
    return k;
}

static void windows_read(const qn_source *s, int64_t step, int64_t sample, int32_t *inputs, int32_t *targets)
{
    const windows *w = (const windows *)s;
    QN_ASSERT(step >= 0 && sample >= 0 && sample < s->batch);
    const uint64_t index = (uint64_t)step * (uint64_t)s->batch + (uint64_t)sample;
    const uint64_t epoch = index / (uint64_t)w->n;
    const uint64_t phase = draw(w, epoch, 0, PHASE_ROUND) % w->phases;
    const int64_t at = w->first + (int64_t)phase + (int64_t)permute(w, epoch, index % (uint64_t)w->n) * s->T;
    int32_t next = qn_tokens_at(w->tokens, at);
    for (int64_t i = 0; i < s->T; i++) {
        inputs[i] = next;
        targets[i] = next = qn_tokens_at(w->tokens, at + i + 1);
    }
}

static void windows_close(qn_source *s)
{
    qn_free(s);
}

static const qn_source_ops windows_ops = {.read = windows_read, .close = windows_close};

qn_status qn_source_windows(qn_source **out, const qn_tokens *t, qn_split_range part, int64_t T, int64_t batch, uint64_t seed,
                            qn_err *err)
{
    *out = NULL;
    QN_ASSERT(part.first >= 0 && part.count >= 0 && part.count <= qn_tokens_count(t) - part.first);
    if (T < 1 || batch < 1)
        return QN_FAIL(err, QN_ERANGE, "context %" PRId64 " and batch %" PRId64 " must be at least 1", T, batch);
    if (part.count - 1 < T)
        return QN_FAIL(err, QN_ERANGE,
                       "the text has %" PRId64 " tokens in this part; a context of %" PRId64
                       " needs at least one more than that: give "
                       "more text or a smaller context",
                       part.count, T);
    windows *w = qn_calloc(1, sizeof(*w));
    if (w == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the data source");
    w->base = (qn_source){.ops = &windows_ops, .T = T, .batch = batch, .vocab = qn_tokens_vocab(t)};
    w->tokens = t;
    w->first = part.first;
    w->n = qn_max64(1, (part.count - 1) / T - 1);
    w->phases = (uint64_t)(part.count - w->n * T);
    w->seed = seed;
    while (w->half_bits < 31 && (uint64_t)1 << 2 * w->half_bits < (uint64_t)w->n) w->half_bits++;
    *out = &w->base;
    return QN_OK;
}

int64_t qn_eval_windows(qn_split_range part, int64_t T)
{
    QN_ASSERT(T >= 1);
    return part.count < 2 ? 0 : (part.count - 2) / T + 1;
}

int64_t qn_eval_read(const qn_tokens *t, qn_split_range part, int64_t T, int64_t w, int32_t *inputs, int32_t *targets)
{
    QN_ASSERT(w >= 0 && w < qn_eval_windows(part, T));
    const int64_t at = w * T, n = qn_min64(T, part.count - 1 - at);
    for (int64_t i = 0; i < T; i++) {
        inputs[i] = i < n ? qn_tokens_at(t, part.first + at + i) : 0;
        targets[i] = i < n ? qn_tokens_at(t, part.first + at + i + 1) : -1;
    }
    return n;
}

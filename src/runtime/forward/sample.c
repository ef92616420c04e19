/* Choosing the next token from logits. Deterministic: the only random number is that of (seed, position).
 *
 * Candidates are taken from the largest logit down by popping a heap of ids, so that a filter which keeps few of many tokens
 * costs little; without a filter the ids are walked in order and nothing is sorted. */
#include <math.h>
#include <stdbool.h>

#include "core/compiler.h"
#include "core/rng.h"
#include "runner.h"

/* Larger logit first, then the lower id. A logit that is not a number comes last. */
static bool comes_before(const float *logits, int32_t a, int32_t b)
{
    const float x = logits[a], y = logits[b];
    if (isnan(x) || isnan(y)) return isnan(x) == isnan(y) ? a < b : !isnan(x);
    return x > y || (x == y && a < b);
}

static void sift_down(int32_t *heap, int32_t n, int32_t i, const float *logits)
{
    const int32_t id = heap[i];
    for (;;) {
        int32_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && comes_before(logits, heap[child + 1], heap[child])) child++;
        if (!comes_before(logits, heap[child], id)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = id;
}

/* Moves the first k tokens in order to order[vocab - 1], order[vocab - 2], ...: the heap shrinks from its end. Returns how many
 * were kept: at most k, and no more than the filters leave. weight(id) = exp((logit - largest) / temperature); total is that of
 * all k candidates. */
static int32_t keep_best(int32_t *order, int32_t vocab, int32_t k, const float *logits, const qn_sampling *how, double total)
{
    const double largest = logits[order[0]];
    double sum = 0.0;
    int32_t kept = 0;
    for (int32_t n = vocab; kept < k; n--) {
        const int32_t id = order[0];
        const double weight = exp((logits[id] - largest) / how->temperature);
        if (kept > 0 && how->min_p > 0.0 && !(weight >= how->min_p)) break;
        if (kept > 0 && how->top_p < 1.0 && sum >= how->top_p * total) break;
        order[0] = order[n - 1];
        order[n - 1] = id;
        sift_down(order, n - 1, 0, logits);
        sum += weight;
        kept++;
    }
    return kept;
}

static double unit_of(const qn_sampling *how, int64_t position)
{
    const qn_rng_key key = {.seed = how->seed,
                            .step = (uint32_t)position,
                            .sample = (uint32_t)((uint64_t)position >> 32),
                            .layer = UINT16_MAX,
                            .op = 1};
    qn_rng rng = qn_rng_of(key);
    return qn_rng_unit(&rng);
}

/* In lanes, which the compiler turns into vectors: the first of the tokens that have the largest logit. A comparison with what is
 * not a number is false, so that such a logit is never the largest. */
static int32_t largest_of(const float *logits, int32_t vocab)
{
    enum { LANES = 32 };
    float high[LANES], top = -INFINITY;
    int32_t i = 0;
    for (int j = 0; j < LANES; j++) high[j] = -INFINITY;
    for (; i + LANES <= vocab; i += LANES)
        for (int j = 0; j < LANES; j++) high[j] = logits[i + j] > high[j] ? logits[i + j] : high[j];
    for (; i < vocab; i++) top = logits[i] > top ? logits[i] : top;
    for (int j = 0; j < LANES; j++) top = high[j] > top ? high[j] : top;
    for (i = 0; i < vocab; i++)
        if (logits[i] == top) return i;
    return 0; /* none is a number */
}

/* Weight of all tokens, or of the k largest when only those can be chosen. */
static double total_weight(const int32_t *order, int32_t vocab, int32_t kept, const float *logits, double largest,
                           double temperature)
{
    double total = 0.0;
    for (int32_t i = 0; i < kept; i++) total += exp((logits[order[vocab - 1 - i]] - largest) / temperature);
    return total;
}

static int32_t sample_all(const float *logits, int32_t vocab, const qn_sampling *how, double unit)
{
    const int32_t best = largest_of(logits, vocab);
    double total = 0.0, sum = 0.0;
    for (int32_t i = 0; i < vocab; i++)
        if (!isnan(logits[i])) total += exp(((double)logits[i] - logits[best]) / how->temperature);
    for (int32_t i = 0; i < vocab; i++) {
        if (!isnan(logits[i])) sum += exp(((double)logits[i] - logits[best]) / how->temperature);
        if (sum > unit * total) return i;
    }
    return best;
}

int32_t qn_sample(const float *logits, int32_t vocab, const qn_sampling *how, int64_t position, int32_t *order)
{
    QN_ASSERT(vocab > 0);
    if (!(how->temperature > 0.0)) return largest_of(logits, vocab);
    const double unit = unit_of(how, position);
    const bool top_k = how->top_k > 0 && how->top_k<vocab, top_p = how->top_p> 0.0 && how->top_p < 1.0;
    if (!top_k && !top_p && !(how->min_p > 0.0)) return sample_all(logits, vocab, how, unit);

    for (int32_t i = 0; i < vocab; i++) order[i] = i;
    for (int32_t i = vocab / 2 - 1; i >= 0; i--) sift_down(order, vocab, i, logits);
    const double largest = logits[order[0]];
    qn_sampling filter = *how;
    int32_t kept = top_k ? how->top_k : vocab;
    double total = 0.0;
    if (top_p && top_k) { /* the share is one of the k largest: take those first, then the share of them */
        filter.top_p = 1.0;
        kept = keep_best(order, vocab, kept, logits, &filter, 0.0);
        total = total_weight(order, vocab, kept, logits, largest, how->temperature);
        double sum = 0.0;
        for (int32_t i = 0; i < kept; i++) {
            sum += exp((logits[order[vocab - 1 - i]] - largest) / how->temperature);
            if (sum >= how->top_p * total) kept = i + 1;
        }
    } else {
        if (!top_p) filter.top_p = 1.0;
        for (int32_t i = 0; top_p && i < vocab; i++)
            if (!isnan(logits[i])) total += exp((logits[i] - largest) / how->temperature);
        kept = keep_best(order, vocab, kept, logits, &filter, total);
    }
    total = total_weight(order, vocab, kept, logits, largest, how->temperature);
    double sum = 0.0;
    for (int32_t i = 0; i < kept; i++) {
        sum += exp((logits[order[vocab - 1 - i]] - largest) / how->temperature);
        if (sum > unit * total) return order[vocab - 1 - i];
    }
    return order[vocab - 1];
}

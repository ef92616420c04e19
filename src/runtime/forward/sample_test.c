/* Choosing tokens: greedy with ties, frequencies against softmax, and each filter against a plain sort. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "runner.h"

enum { V = 40, DRAWS = 20000 };

static int32_t draw(const float *logits, int32_t vocab, const qn_sampling *how, int64_t position)
{
    float copy[V];
    int32_t order[V];
    memcpy(copy, logits, (size_t)vocab * sizeof(float));
    return qn_sample(copy, vocab, how, position, order);
}

static void greedy_takes_the_largest_and_the_lowest_id(void **unused)
{
    (void)unused;
    const qn_sampling how = {.temperature = 0};
    assert_int_equal(draw((float[]){1, 3, 2}, 3, &how, 0), 1);
    assert_int_equal(draw((float[]){1, 3, 3, 3}, 4, &how, 0), 1);
    assert_int_equal(draw((float[]){-INFINITY, -5}, 2, &how, 0), 1);
    assert_int_equal(draw((float[]){NAN, -5, NAN}, 3, &how, 0), 1);
    assert_int_equal(draw((float[]){7}, 1, &how, 0), 0);
}

static void random_logits(float *logits, uint64_t seed)
{
    qn_rng rng = qn_rng_of((qn_rng_key){.seed = seed});
    for (int32_t i = 0; i < V; i++) logits[i] = (float)(2.0 * qn_rng_normal(&rng));
}

static const float *sort_by;
static int by_logit(const void *pa, const void *pb)
{
    const int32_t a = *(const int32_t *)pa, b = *(const int32_t *)pb;
    if (sort_by[a] != sort_by[b]) return sort_by[a] > sort_by[b] ? -1 : 1;
    return (a > b) - (a < b);
}

/* What each token's probability is by definition: sort, cut, normalise. */
static void expected(double *p, const float *logits, const qn_sampling *how)
{
    int32_t order[V], kept = how->top_k > 0 && how->top_k < V ? how->top_k : V;
    double weight[V], total = 0, sum = 0;
    for (int32_t i = 0; i < V; i++) order[i] = i;
    sort_by = logits;
    qsort(order, V, sizeof(order[0]), by_logit);
    for (int32_t i = 0; i < V; i++) weight[i] = exp((logits[order[i]] - logits[order[0]]) / how->temperature);
    while (kept > 1 && how->min_p > 0 && weight[kept - 1] < how->min_p) kept--;
    const int32_t share_of = how->top_k > 0 ? kept : V; /* alone, the share is one of all tokens */
    for (int32_t i = 0; i < share_of; i++) total += weight[i];
    for (int32_t i = 0; how->top_p > 0 && how->top_p < 1 && i < kept; i++) {
        sum += weight[i];
        if (sum >= how->top_p * total) kept = i + 1;
    }
    total = 0;
    for (int32_t i = 0; i < kept; i++) total += weight[i];
    for (int32_t i = 0; i < V; i++) p[order[i]] = i < kept ? weight[i] / total : 0.0;
}

static void check_frequencies(const qn_sampling *how, uint64_t seed)
{
    float logits[V];
    double p[V];
    int32_t count[V] = {0};
    random_logits(logits, seed);
    expected(p, logits, how);
    for (int64_t i = 0; i < DRAWS; i++) count[draw(logits, V, how, i)]++;
    for (int32_t i = 0; i < V; i++) {
        const double deviation = sqrt(DRAWS * p[i] * (1 - p[i])) * 5 + 1; /* five standard deviations */
        if (p[i] == 0) assert_int_equal(count[i], 0);
        assert_true(fabs(count[i] - DRAWS * p[i]) <= deviation);
    }
}

static void frequencies_follow_softmax_and_filters(void **unused)
{
    static const qn_sampling hows[] = {
        {.temperature = 1.0},
        {.temperature = 0.5, .top_p = 1.0},
        {.temperature = 1.0, .top_k = 5},
        {.temperature = 1.5, .top_p = 0.8},
        {.temperature = 1.0, .min_p = 0.1},
        {.temperature = 1.0, .top_k = 10, .top_p = 0.7},
        {.temperature = 2.0, .top_k = 20, .min_p = 0.2, .top_p = 0.9},
        {.temperature = 1.0, .top_k = 1},
        {.temperature = 1.0, .top_k = V + 5},
        {.temperature = 1.0, .top_p = 1e-9},
    };
    (void)unused;
    for (size_t i = 0; i < sizeof(hows) / sizeof(hows[0]); i++) {
        qn_sampling how = hows[i];
        how.seed = 1234 + i;
        check_frequencies(&how, 7 + i);
    }
}

static void a_draw_is_a_function_of_seed_and_position(void **unused)
{
    (void)unused;
    float logits[V];
    bool moved = false;
    random_logits(logits, 3);
    for (int64_t i = 0; i < 50; i++) {
        const qn_sampling how = {.temperature = 1.0, .seed = 9}, other = {.temperature = 1.0, .seed = 10};
        assert_int_equal(draw(logits, V, &how, i), draw(logits, V, &how, i));
        moved |= draw(logits, V, &how, i) != draw(logits, V, &other, i);
    }
    assert_true(moved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_largest_and_the_lowest_id),
        cmocka_unit_test(frequencies_follow_softmax_and_filters),
        cmocka_unit_test(a_draw_is_a_function_of_seed_and_position),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

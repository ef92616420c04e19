/* Costs of layers, and cuts against trying them all. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/compiler.h"
#include "model/cost.h"
#include "model/model.h"

static int64_t part(const int64_t *cost, int32_t begin, int32_t end)
{
    int64_t sum = 0;
    for (int32_t i = begin; i < end; i++) sum += cost[i];
    return sum;
}

/* The smallest possible maximum over all cuts into stages non-empty parts, by trying them. */
static int64_t try_all(const int64_t *cost, int32_t begin, int32_t n, int32_t stages)
{
    if (stages == 1) return part(cost, begin, n);
    int64_t best = INT64_MAX;
    for (int32_t end = begin + 1; end <= n - (stages - 1); end++) {
        const int64_t here = part(cost, begin, end), rest = try_all(cost, end, n, stages - 1);
        const int64_t most = here > rest ? here : rest;
        if (most < best) best = most;
    }
    return best;
}

static void cuts_are_the_best_of_all(void **state)
{
    (void)state;
    uint32_t seed = 3;
    qn_err err;
    for (int32_t n = 1; n <= 8; n++) {
        for (int32_t stages = 1; stages <= 10; stages++) {
            for (int round = 0; round < 20; round++) {
                int64_t cost[8], most = 0;
                int32_t cut[11];
                for (int32_t i = 0; i < n; i++) {
                    seed = seed * 1664525u + 1013904223u;
                    cost[i] = (int64_t)((seed >> 8) % 10); /* zeros among them */
                }
                assert_int_equal(qn_cuts_of_costs(cost, n, stages, cut, &err), QN_OK);
                assert_int_equal(cut[0], 0);
                assert_int_equal(cut[stages], n);
                for (int32_t s = 0; s < stages; s++) {
                    const bool filled = s < n - 1 || s == stages - 1; /* empty ones just before the last alone */
                    assert_true((stages <= n || filled) ? cut[s] < cut[s + 1] : cut[s] == cut[s + 1]);
                    if (part(cost, cut[s], cut[s + 1]) > most) most = part(cost, cut[s], cut[s + 1]);
                }
                assert_int_equal(most, try_all(cost, 0, n, n < stages ? n : stages));
            }
        }
    }
}

static void equal_blocks_are_spread_evenly(void **state)
{
    (void)state;
    const int64_t cost[8] = {1, 1, 1, 1, 1, 1, 1, 9};
    int32_t cut[4];
    qn_err err;
    assert_int_equal(qn_cuts_of_costs(cost, 8, 3, cut, &err), QN_OK);
    assert_int_equal(cut[1], 4); /* 4, 3, 9 rather than 1, 6, 9 */
    assert_int_equal(cut[2], 7);
    assert_int_equal(qn_cuts_of_costs(cost, 8, 0, cut, &err), QN_EINVAL);
}

/* The sum over the chain against the usual count: 6 * parameters in products + 6 * L * C * T per token. */
static void whole_model_costs_what_is_usually_counted(void **state)
{
    (void)state;
    const qn_model_config c = {
        .arch = QN_ARCH_GPT2, .layers = 12, .heads = 12, .width = 768, .context = 1024, .vocab = 50257, .tied = true};
    const int64_t B = 4, T = 512, attention = c.layers * B * T * T * c.width;
    qn_model *m;
    qn_err err;
    int64_t sum = 0;
    int32_t cut[5];
    assert_int_equal(qn_model_open(&m, &c, &err), QN_OK);
    for (int32_t i = 0; i < qn_model_layers(m); i++) {
        const qn_layer_flops f = qn_layer_cost(m, i, B, T);
        sum += f.forward + f.input + f.weight;
    }
    /* 7 attention products instead of 6: backward computes the scores again */
    assert_int_equal(sum, 6 * qn_model_matmul_params(m) * B * T + 7 * attention);
    assert_int_equal(qn_model_default_cuts(m, B, T, 2, cut, &err), QN_OK);
    assert_in_range(cut[1], 7, 11); /* the head weighs as much as five blocks */
    assert_int_equal(qn_model_default_cuts(m, B, T, 4, cut, &err), QN_OK);
    assert_int_equal(cut[4], 14);
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_are_the_best_of_all),
        cmocka_unit_test(equal_blocks_are_spread_evenly),
        cmocka_unit_test(whole_model_costs_what_is_usually_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Costs of layers, and cuts against trying them all. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

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

/* torchgpipe's partitioner (after Barany and Grinberg, arXiv:1308.2452): the boundary elements between the largest cell and the
 * smallest move towards the smallest until the two differ by at most the range of the costs. Costs count from the smallest. */
static void block_partition(const int64_t *cost, int32_t n, int64_t range, int32_t stages, int32_t *cut)
{
    for (int32_t s = 0; s <= stages; s++) cut[s] = s < stages ? n / stages * s : n;
    for (bool again = true; again;) {
        int32_t p = 0;
        for (int32_t s = 1; s < stages; s++) {
            if (part(cost, cut[s], cut[s + 1]) >= part(cost, cut[p], cut[p + 1])) p = s;
        }
        for (int32_t donor = -1; donor != p;) {
            int32_t q = 0;
            for (int32_t s = 1; s < stages; s++) {
                if (part(cost, cut[s], cut[s + 1]) < part(cost, cut[q], cut[q + 1])) q = s;
            }
            if (part(cost, cut[p], cut[p + 1]) <= part(cost, cut[q], cut[q + 1]) + range) {
                again = false;
                break;
            }
            donor = p < q ? q - 1 : q + 1;
            if (p < q)
                cut[q]--;
            else
                cut[q + 1]++;
        }
    }
}

/* No cut of the heuristic is better, and its cells differ by at most one element. */
static void no_worse_than_block_partition(void **state)
{
    (void)state;
    enum { MOST = 24 };
    uint32_t seed = 5;
    qn_err err;
    for (int round = 0; round < 2000; round++) {
        int64_t cost[MOST], above[MOST], low = INT64_MAX, high = 0, most[2] = {0}, least = INT64_MAX, largest = 0;
        int32_t cut[9], other[9];
        const int32_t n = 1 + round % MOST, stages = 1 + round / MOST % (n < 8 ? n : 8);
        for (int32_t i = 0; i < n; i++) {
            seed = seed * 1664525u + 1013904223u;
            cost[i] = (int64_t)((seed >> 8) % (round % 3 == 0 ? 10 : 1000));
            if (cost[i] < low) low = cost[i];
            if (cost[i] > high) high = cost[i];
        }
        for (int32_t i = 0; i < n; i++) above[i] = cost[i] - low;
        assert_int_equal(qn_cuts_of_costs(cost, n, stages, cut, &err), QN_OK);
        block_partition(above, n, high - low, stages, other);
        for (int32_t s = 0; s < stages; s++) {
            const int64_t a = part(cost, cut[s], cut[s + 1]), b = part(cost, other[s], other[s + 1]),
                          c = part(above, other[s], other[s + 1]);
            if (a > most[0]) most[0] = a;
            if (b > most[1]) most[1] = b;
            if (c > largest) largest = c;
            if (c < least) least = c;
        }
        assert_true(most[0] <= most[1]);
        assert_true(largest - least <= high - low);
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

/* Parameters and operations of Megatron-LM's formulas (Narayanan et al. 2021, arXiv:2104.04473, section 5.1 and appendix; V
 * 51200, s 2048) against what is counted over real tensors and products. Theirs count the whole square of the scores; ours their
 * causal half and, in backward, the scores once more: attention is counted apart and brought to their rule. With recomputation
 * the blocks run forward twice, the logits once. */
typedef struct megatron_row {
    double billions;
    int32_t heads, width, layers;
} megatron_row;

static void check_row(const megatron_row *row)
{
    const int64_t V = 51200, s = 2048, B = 2;
    const qn_model_config c = {.arch = QN_ARCH_GPT2,
                               .layers = row->layers,
                               .heads = row->heads,
                               .width = row->width,
                               .context = (int32_t)s,
                               .vocab = (int32_t)V,
                               .tied = true};
    const double h = row->width, l = row->layers, P = 12 * l * h * h * (1 + 13 / (12 * h) + (double)(V + s) / (12 * l * h));
    const double block = (double)B * (double)s * l * h * h, scores = (double)s / (6 * h), logits = (double)V / l / h;
    const double F = 96 * block * (1 + scores + logits / 16), without = 72 * block * (1 + scores + logits / 12);
    qn_model *m;
    qn_err err;
    double forward = 0, all = 0;
    assert_int_equal(qn_model_open(&m, &c, &err), QN_OK);
    for (int32_t i = 0; i < qn_model_layers(m); i++) {
        const qn_layer_flops f = qn_layer_cost(m, i, B, s);
        const bool is_block = i > 0 && i <= c.layers;
        const double attention = is_block ? (double)B * (double)s * (double)s * h : 0; /* one causal product */
        if (is_block) forward += (double)f.forward + 2 * attention;                    /* 2 products, whole squares */
        all += (double)(f.forward + f.input + f.weight) + (2 + 8 - 5) * attention;     /* and 4 in backward for our 5 halves */
    }
    const double count = (double)qn_model_param_count(m);
    if (fabs(count / P - 1) > 1e-3 || fabs((all + forward) / F - 1) > 1e-3 || fabs(all / without - 1) > 1e-3 ||
        fabs(P / 1e9 - row->billions) > 0.05 + 1e-3 * row->billions)
        fail_msg("%g billion: %.6g parameters, formula %.6g; %.6g operations, formula %.6g; without recomputation %.6g, %.6g",
                 row->billions, count, P, all + forward, F, all, without);
    qn_model_close(m);
}

static void megatron_formulas_match_the_count(void **state)
{
    (void)state;
    static const megatron_row row[] = {{1.7, 24, 2304, 24},      {3.6, 32, 3072, 30},     {7.5, 32, 4096, 36},
                                       {18.4, 48, 6144, 40},     {39.1, 64, 8192, 48},    {76.1, 80, 10240, 60},
                                       {145.6, 96, 12288, 80},   {310.1, 128, 16384, 96}, {529.6, 128, 20480, 105},
                                       {1008.0, 160, 25600, 128}};
    for (size_t i = 0; i < QN_COUNT(row); i++) check_row(&row[i]);
    const double h = 25600, l = 128, P = 12 * l * h * h * (1 + 13 / (12 * h) + (51200.0 + 2048) / (12 * l * h));
    assert_true(fabs(P / 1.008e12 - 1) < 5e-4); /* 1.008e12, to the digits given */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_are_the_best_of_all),          cmocka_unit_test(no_worse_than_block_partition),
        cmocka_unit_test(equal_blocks_are_spread_evenly),    cmocka_unit_test(whole_model_costs_what_is_usually_counted),
        cmocka_unit_test(megatron_formulas_match_the_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

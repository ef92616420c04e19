/* Improved cuts of RoundPipe: still cuts, never longer than the partitioner's; and a head so heavy that the partitioner's cut can
 * be shortened. */
#include "schedule/schedule_rig.h"

#include "round_pipe.h"

enum { MOST = 12 };

static int64_t makespan(const qn_round_cut *cut, const qn_round_layers *in)
{
    int64_t scratch[3 * MOST], t;
    qn_err err;
    assert_int_equal(qn_round_cut_time(&t, cut, in, scratch, &err), QN_OK);
    return t;
}

/* Every layer once in each direction, no stage empty, none of several layers beyond half of the limit. */
static void assert_cut(const qn_round_cut *cut, const qn_round_layers *in)
{
    int32_t layer = 0;
    for (int32_t s = 0; s < cut->forward_stages; s++) {
        int64_t bytes = 0;
        assert_true(cut->forward[s] > 0);
        for (int32_t i = 0; i < cut->forward[s]; i++, layer++) bytes += in->forward_bytes != NULL ? in->forward_bytes[layer] : 0;
        assert_true(in->limit == 0 || cut->forward[s] == 1 || bytes <= in->limit / 2);
    }
    assert_int_equal(layer + cut->backward[0], in->layers);
    layer = in->layers;
    for (int32_t s = 0; s < cut->backward_stages; s++) {
        int64_t bytes = 0;
        assert_true(cut->backward[s] > 0);
        for (int32_t i = 0; i < cut->backward[s]; i++) bytes += in->backward_bytes != NULL ? in->backward_bytes[--layer] : 0;
        assert_true(in->limit == 0 || cut->backward[s] == 1 || bytes <= in->limit / 2);
    }
}

static void improved_cuts_are_cuts_and_no_longer(void **state)
{
    (void)state;
    qn_rng r = qn_rng_of((qn_rng_key){.seed = 11});
    for (int32_t k = 0; k < 600; k++) {
        int64_t f[MOST], b[MOST], fb[MOST], bb[MOST];
        const int32_t L = 1 + (int32_t)qn_rng_below(&r, MOST);
        const bool limited = qn_rng_below(&r, 2) == 1;
        for (int32_t i = 0; i < L; i++) {
            f[i] = (int64_t)qn_rng_below(&r, 20) + (i == L - 1 ? 30 : 0);
            b[i] = 2 * f[i] + (int64_t)qn_rng_below(&r, 5);
            fb[i] = 1 + (int64_t)qn_rng_below(&r, 9);
            bb[i] = fb[i] * 2;
        }
        const qn_round_layers in = {.layers = L,
                                    .workers = 1 + (int32_t)qn_rng_below(&r, 4),
                                    .items = 1 + (int32_t)qn_rng_below(&r, 8),
                                    .forward = f,
                                    .recompute = f,
                                    .backward = b,
                                    .forward_bytes = limited ? fb : NULL,
                                    .backward_bytes = limited ? bb : NULL,
                                    .limit = limited ? 60 : 0};
        int32_t list[2][MOST];
        qn_round_cut cut = {.forward = list[0], .backward = list[1]};
        qn_err err;
        assert_int_equal(qn_round_partition(&cut, NULL, &in, &err), QN_OK);
        const int64_t before = makespan(&cut, &in);
        assert_int_equal(qn_round_improve(&cut, &in, &err), QN_OK);
        assert_cut(&cut, &in);
        assert_true(makespan(&cut, &in) <= before);
    }
}

/* Eight equal layers and a head of 6.67 of them. */
static void a_heavy_head_on_two_workers(void **state)
{
    (void)state;
    int64_t f[9], b[9];
    int32_t list[2][9];
    for (int32_t i = 0; i < 9; i++) {
        f[i] = i < 8 ? 100 : 667;
        b[i] = 2 * f[i];
    }
    const qn_round_layers in = {.layers = 9, .workers = 2, .items = 8, .forward = f, .recompute = f, .backward = b};
    qn_round_cut cut = {.forward = list[0], .backward = list[1]};
    qn_err err;
    assert_int_equal(qn_round_partition(&cut, NULL, &in, &err), QN_OK);
    const int64_t before = makespan(&cut, &in);
    assert_int_equal(qn_round_improve(&cut, &in, &err), QN_OK);
    assert_cut(&cut, &in);
    assert_true(makespan(&cut, &in) < before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(improved_cuts_are_cuts_and_no_longer),
                                       cmocka_unit_test(a_heavy_head_on_two_workers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

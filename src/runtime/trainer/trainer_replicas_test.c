/* Data parallelism: with G groups of gradients the losses and the state are the same bits for every number of replicas that
 * divides G, every schedule, placement and order of arrival, with every replica stepping or each its part (zero1). */
#include "support/sanitized.h"
#include "support/trainer_rig.h"

enum { STEPS = QN_SANITIZED ? 4 : 20, ITEMS = 8 };

typedef rig_outcome outcome;

static outcome compute(const qn_model *m, qn_mode mode, const rig_way *way)
{
    return rig_compute(m, mode, way, ITEMS, STEPS);
}

static outcome reference(const qn_model *m, qn_mode mode, int32_t groups)
{
    const rig_way way = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .groups = groups};
    return compute(m, mode, &way);
}

static const char *const transports[] = {"thread", "self", "sim"};
static const char *const schedules[] = {"1f1b", "zb-h1", "split", "interleaved", "gpipe"};

static void sweep(const qn_model *m, qn_mode mode, uint32_t *turn)
{
    for (int32_t G = 1; G <= 4; G *= 2) {
        outcome want = reference(m, mode, G);
        assert_true(want.loss[STEPS - 1] < want.loss[0]);
        for (int32_t R = 1; R <= G; R *= 2) {
            for (int32_t P = 1; P <= 3; P++) {
                for (int32_t zero1 = 0; zero1 < 2; zero1++, (*turn)++) {
                    if ((*turn * 2654435761u >> 16) % (QN_SANITIZED ? 8 : 2) != 0) continue; /* a scattered half */
                    const rig_way way = {.schedule = schedules[*turn % 5],
                                         .workers = P,
                                         .threads = 1 + (int32_t)(*turn % 2),
                                         .recompute = (qn_recompute)(*turn % 3),
                                         .transport = transports[*turn / 2 % 3],
                                         .seed = *turn / 2 % 3 == 2 ? 1000u + *turn : 0,
                                         .replicas = R,
                                         .groups = G,
                                         .zero1 = zero1 != 0,
                                         .together = *turn % 7 == 3};
                    rig_assert_same(m, mode, &way, ITEMS, STEPS, &want);
                }
            }
        }
        free(want.state);
    }
}

static void same_bits_for_any_number_of_replicas(void **unused)
{
    (void)unused;
    uint32_t turn = 0;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        sweep(m, QN_MODE_F32, &turn);
        if (c == 0) sweep(m, QN_MODE_REF_F64, &turn);
        qn_model_close(m);
    }
}

/* Replicas of tensor shards: the same bits as one replica of as many shards. */
static void replicas_of_shards(void **unused)
{
    (void)unused;
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        const rig_way base = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .groups = 4, .shards = 2};
        outcome want = compute(m, QN_MODE_F32, &base);
        for (int32_t k = 0; k < 8; k++) {
            const rig_way way = {.schedule = schedules[k % 5],
                                 .workers = 1 + k / 4,
                                 .threads = 1,
                                 .transport = transports[k % 3],
                                 .seed = k % 3 == 2 ? 2000u + (uint64_t)k : 0,
                                 .replicas = 2 + k % 2 * 2,
                                 .groups = 4,
                                 .zero1 = k / 2 % 2 != 0,
                                 .shards = 2,
                                 .shard_workers = 1 + k / 2 % 2,
                                 .together = k == 5};
            rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
        }
        free(want.state);
        qn_model_close(m);
    }
}

/* DualPipe has two replicas of its own, which share workers in opposite directions. */
static void dualpipe_is_two_groups(void **unused)
{
    (void)unused;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        outcome want = reference(m, QN_MODE_F32, 2);
        for (int32_t k = 0; k < 6; k++) {
            const rig_way way = {.schedule = "dualpipe",
                                 .workers = 2 + k / 3 * 2,
                                 .threads = 1,
                                 .recompute = (qn_recompute)(k % 3),
                                 .transport = transports[k % 3],
                                 .seed = k % 3 == 2 ? 3000u + (uint64_t)k : 0,
                                 .groups = 2,
                                 .zero1 = k % 2 != 0};
            rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
        }
        free(want.state);
        qn_model_close(m);
    }
}

/* Pairs of directions side by side, each of shards: as many groups as there are directions in all, or twice as many. */
static void dualpipe_of_replicas_and_shards(void **unused)
{
    static const int32_t wide[][3] = {{2, 1, 1}, {1, 2, 1}, {1, 2, 2}, {2, 2, 2}, {2, 2, 1}};
    (void)unused;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (uint32_t k = 0; k < 2 * QN_COUNT(wide); k++) {
            const int32_t *w = wide[k / 2], groups = k % 2 ? 4 : 2 * w[0];
            if ((k + 3 * (uint32_t)c) % (QN_SANITIZED ? 6 : 3) != 0) continue; /* a scattered part */
            for (int32_t sequence = 0; sequence < (w[1] > 1 ? 2 : 1); sequence++) {
                const rig_way base = {.schedule = "gpipe",
                                      .workers = 1,
                                      .threads = 1,
                                      .transport = "self",
                                      .groups = groups,
                                      .shards = w[1],
                                      .sequence = sequence != 0},
                              way = {.schedule = "dualpipe",
                                     .workers = 2,
                                     .threads = 1 + (int32_t)(k % 2),
                                     .recompute = (qn_recompute)(k % 3),
                                     .transport = transports[k % 3],
                                     .seed = k % 3 == 2 ? 4000u + k : 0,
                                     .replicas = w[0],
                                     .shards = w[1],
                                     .shard_workers = w[2],
                                     .groups = groups,
                                     .sequence = sequence != 0,
                                     .zero1 = k % 2 != 0};
                outcome want = compute(m, QN_MODE_F32, &base);
                rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
                free(want.state);
            }
        }
        qn_model_close(m);
    }
}

static void frozen_parameters_do_not_travel(void **unused)
{
    static const char *const pattern[] = {"transformer.wte*", "*.mlp.*"};
    (void)unused;
    for (size_t i = 0; i < QN_COUNT(pattern); i++) {
        qn_err err;
        qn_model *m = rig_model(&rig_config[0]);
        rig_ok(qn_model_freeze(m, &pattern[i], 1, &err), &err);
        outcome want = reference(m, QN_MODE_F32, 4);
        for (int32_t k = 0; k < 4; k++) {
            const rig_way way = {.schedule = "1f1b",
                                 .workers = 2,
                                 .threads = 1,
                                 .transport = "thread",
                                 .replicas = 2 + k / 2 * 2,
                                 .groups = 4,
                                 .zero1 = k % 2 != 0};
            rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
        }
        free(want.state);
        qn_model_close(m);
    }
}

/* Groups change the bits (they are another order of additions), so they are not thrown in with anything else. */
static void groups_are_a_tree(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[0]);
    outcome one = reference(m, QN_MODE_F32, 1), two = reference(m, QN_MODE_F32, 2), eight = reference(m, QN_MODE_F32, 8);
    assert_memory_not_equal(one.state, two.state, rig_state_bytes(m, sizeof(float)));
    assert_memory_not_equal(two.state, eight.state, rig_state_bytes(m, sizeof(float)));
    free(one.state);
    free(two.state);
    free(eight.state);
    qn_model_close(m);
}

/* A replica holds 1 + log2(G / R) accumulators; zero1 leaves each worker about 1 / R of the moments. */
static void memory_of_groups_and_zero1(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[1]); /* untied: many parameters of like size */
    const outcome one = reference(m, QN_MODE_F32, 1), eight = reference(m, QN_MODE_F32, 8);
    assert_in_range(eight.memory.grads, 4 * one.memory.grads, 4 * one.memory.grads + 3 * 64);
    free(one.state);
    free(eight.state);
    for (int32_t R = 2; R <= 4; R *= 2) {
        rig_way way = {.schedule = "1f1b", .workers = 1, .threads = 1, .transport = "self", .replicas = R, .groups = 8};
        const outcome all = compute(m, QN_MODE_F32, &way);
        way.zero1 = true;
        const outcome part = compute(m, QN_MODE_F32, &way);
        print_message("%d replicas: %lld bytes of moments a worker, with zero1 at most %lld\n", R,
                      (long long)all.memory.most_moments, (long long)part.memory.most_moments);
        assert_int_equal(all.memory.most_moments, one.memory.most_moments);
        assert_int_equal(all.memory.moments, R * one.memory.moments);
        assert_in_range(part.memory.moments, one.memory.moments - 64, one.memory.moments + 64 * R);
        assert_in_range(part.memory.most_moments, one.memory.most_moments / R, one.memory.most_moments * 115 / 100 / R);
        int32_t log = 0;
        while (8 / R >> (log + 1) > 0) log++;
        assert_in_range(part.memory.grads, R * (1 + log) * one.memory.grads - 64, R * (1 + log) * (one.memory.grads + 64 * R));
        free(all.state);
        free(part.state);
    }
    qn_model_close(m);
}

/* A state taken over by a run with another number of replicas goes on with the same bits. */
static void state_moves_between_numbers_of_replicas(void **unused)
{
    static const rig_way ways[] = {
        {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "thread", .replicas = 2, .groups = 4, .zero1 = true},
        {.schedule = "zb-h1", .workers = 1, .threads = 1, .transport = "self", .replicas = 4, .groups = 4},
        {.schedule = "gpipe", .workers = 3, .threads = 1, .transport = "self", .replicas = 1, .groups = 4},
        {.schedule = "1f1b", .workers = 1, .threads = 1, .transport = "thread", .replicas = 4, .groups = 4, .zero1 = true},
    };
    (void)unused;
    qn_err err;
    qn_model *m = rig_model(&rig_config[0]);
    const size_t bytes = rig_state_bytes(m, sizeof(float));
    const outcome want = reference(m, QN_MODE_F32, 4);
    char *state = malloc(bytes);
    for (int64_t step = 0; step < STEPS; step++) {
        qn_step_result r;
        qn_trainer *t = rig_open(m, QN_MODE_F32, &ways[step % 4], ITEMS);
        if (step > 0) rig_state(state, t, m, sizeof(float), 1);
        rig_ok(qn_trainer_step(t, step, RIG_LR, &r, NULL, &err), &err);
        rig_state(state, t, m, sizeof(float), 0);
        assert_true(r.loss == want.loss[step]);
        qn_trainer_close(t);
    }
    assert_memory_equal(state, want.state, bytes);
    free(state);
    free(want.state);
    qn_model_close(m);
}

static void numbers_that_do_not_go_together(void **unused)
{
    static const struct {
        int32_t replicas, groups;
        const char *words;
    } bad[] = {{2, 1, "at least 2"}, {1, 3, "power of two"}, {1, 16, "divides the micro-batches"}, {4, 2, "at least 4"}};
    (void)unused;
    qn_model *m = rig_model(&rig_config[0]);
    for (size_t i = 0; i < QN_COUNT(bad); i++) {
        const rig_way way = {.schedule = "1f1b",
                             .workers = 1,
                             .threads = 1,
                             .transport = "self",
                             .replicas = bad[i].replicas,
                             .groups = bad[i].groups};
        rig_refused(m, &way, ITEMS, QN_EINVAL, bad[i].words);
    }
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_for_any_number_of_replicas),
        cmocka_unit_test(replicas_of_shards),
        cmocka_unit_test(dualpipe_is_two_groups),
        cmocka_unit_test(dualpipe_of_replicas_and_shards),
        cmocka_unit_test(frozen_parameters_do_not_travel),
        cmocka_unit_test(groups_are_a_tree),
        cmocka_unit_test(memory_of_groups_and_zero1),
        cmocka_unit_test(state_moves_between_numbers_of_replicas),
        cmocka_unit_test(numbers_that_do_not_go_together),
    };
    return cmocka_run_group_tests_name("trainer_replicas", tests, NULL, NULL);
}

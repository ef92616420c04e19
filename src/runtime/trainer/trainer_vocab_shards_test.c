/* Vocabulary shards of tensor shards: at one t, one number of vocabulary shards and one algorithm the same bits for any number of
 * workers, schedule, recomputation, replicas and transport, with slices of the rows and without; near the whole model; state and
 * evaluation. */
#include "model/lora.h"
#include "support/malloc_guard.c"
#include "support/quiet_rig.h"
#include "support/sanitized.h"

#include <math.h>

enum { STEPS = 4, ITEMS = 4 };

static const qn_model_config config[] = {
    RIG_SHARD_GPT2(16),
    RIG_SHARD_LLAMA(4),
    {.arch = QN_ARCH_GPT2, .layers = 2, .heads = 4, .width = 16, .context = 8, .vocab = RIG_VOCAB, .dropout = 0.1},
};
static const char *const transports[] = {"thread", "self", "sim"};
static const char *const schedules[] = {"1f1b", "v-half"};

/* A scattered part of all ways at one t, number of vocabulary shards and algorithm. */
static void sweep(const qn_model *m, int32_t t, int32_t sides, int32_t algorithm, bool sequence, const uint8_t *again,
                  uint32_t *turn)
{
    const rig_way whole = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .groups = 2};
    rig_way one = whole;
    one.schedule = "1f1b";
    one.vocab = algorithm;
    one.sides = sides;
    one.shards = t;
    one.sequence = sequence;
    rig_outcome want = rig_compute(m, QN_MODE_F32, &one, ITEMS, STEPS), plain = rig_compute(m, QN_MODE_F32, &whole, ITEMS, STEPS);
    rig_assert_near(&want, &plain, STEPS);
    for (int32_t P = 1; P <= 3; P++) {
        for (int32_t tw = 1; tw <= t; tw *= 2) {
            for (int32_t R = 1; R <= 2; R++, (*turn)++) {
                if ((*turn * 2654435761u >> 16) % (QN_SANITIZED ? 6 : 2) != 0) continue;
                rig_way way = one;
                way.schedule = schedules[*turn / 3 % 2];
                way.workers = P;
                way.shard_workers = tw;
                way.replicas = R;
                way.zero1 = *turn / 2 % 2 != 0;
                way.together = R > 1 && *turn % 5 == 3;
                way.threads = 1 + (int32_t)(*turn % 2);
                way.recompute = again != NULL && *turn % 2 ? QN_RECOMPUTE_PART : (qn_recompute)(*turn % 3);
                way.again = again;
                way.recompute_late = *turn / 2 % 2 != 0;
                way.transport = transports[*turn / 2 % 3];
                way.seed = *turn / 2 % 3 == 2 ? 1000u + *turn : 0;
                way.flight = 1 + (int32_t)(*turn % 4 == 1) * 3;
                rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
            }
        }
    }
    free(want.state);
    free(plain.state);
}

static void any_number_of_workers(void **unused)
{
    static const int32_t sides[] = {2, 3, 1};
    (void)unused;
    uint32_t turn = 0;
    for (int32_t c = 0; c < (int32_t)QN_COUNT(config); c++) {
        qn_model *m = rig_model(&config[c]);
        for (int32_t algorithm = 1; algorithm <= 2; algorithm++)
            for (int32_t t = 2; t <= 4; t *= 2) {
                if (t == 4 && algorithm != 1 + c % 2) continue;
                sweep(m, t, sides[c], algorithm, false, NULL, &turn);
            }
        qn_model_close(m);
    }
}

static void slices_of_the_rows(void **unused)
{
    (void)unused;
    uint32_t turn = 1;
    for (int32_t c = 0; c < (int32_t)QN_COUNT(config); c++) {
        qn_model *m = rig_model(&config[c]);
        for (int32_t algorithm = 1; algorithm <= 2; algorithm++) sweep(m, c == 1 ? 4 : 2, 1 + c, algorithm, true, NULL, &turn);
        qn_model_close(m);
    }
}

static void parts_made_again(void **unused)
{
    (void)unused;
    uint32_t turn = 0;
    qn_model *m = rig_model(&config[0]);
    const uint8_t again[] = {0, QN_AGAIN_ALL, QN_AGAIN_ATTENTION, QN_AGAIN_NORM | QN_AGAIN_ACTIVATION, 0};
    for (int32_t algorithm = 1; algorithm <= 2; algorithm++) sweep(m, 2, 2, algorithm, algorithm == 2, again, &turn);
    qn_model_close(m);
}

static void frozen_parameters_and_adapters(void **unused)
{
    static const char *const patterns[] = {"*.w[tp]e.*", "*lm_head*", "transformer.h*", "*embed*"};
    const char *target = "all-linear";
    (void)unused;
    uint32_t turn = 2;
    for (int32_t c = 0; c < (int32_t)QN_COUNT(config); c++) {
        for (size_t i = 0; i < QN_COUNT(patterns); i++) {
            qn_err err;
            qn_model *m = rig_model(&config[c]);
            if (qn_model_freeze(m, &patterns[i], 1, &err) == QN_OK) sweep(m, 2, 2, 1 + (int32_t)i % 2, c == 1, NULL, &turn);
            qn_model_close(m);
        }
        qn_model_config adapted = config[c];
        qn_err err;
        adapted.lora = (qn_lora){.rank = 2, .alpha = 8};
        rig_ok(qn_lora_targets(&adapted.lora.targets, adapted.arch, &target, 1, &err), &err);
        qn_model *m = rig_model(&adapted);
        sweep(m, 2, 2, 1 + c % 2, c == 2, NULL, &turn);
        qn_model_close(m);
    }
}

/* Whole parameters in and out, whatever the shards. */
static void state_goes_from_one_cut_to_another(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[0]);
    const size_t bytes = rig_state_bytes(m, sizeof(float));
    char *state = malloc(bytes), *again = malloc(bytes);
    double want = 0;
    assert_true(state != NULL && again != NULL);
    for (int32_t turn = 0; turn < 4; turn++) {
        qn_err err;
        qn_step_result r;
        const rig_way way = {.schedule = "1f1b",
                             .workers = 2,
                             .threads = 1,
                             .transport = "thread",
                             .shards = 1 << turn % 3,
                             .vocab = turn == 0 ? 0 : 1 + turn % 2,
                             .sides = turn};
        qn_trainer *t = rig_open(m, QN_MODE_F32, &way, ITEMS);
        for (int64_t step = 0; turn == 0 && step < 3; step++) rig_ok(qn_trainer_step(t, step, RIG_LR, &r, NULL, &err), &err);
        if (turn == 0) rig_state(state, t, m, sizeof(float), 0);
        rig_state(state, t, m, sizeof(float), 1);
        rig_state(again, t, m, sizeof(float), 0);
        assert_memory_equal(again, state, bytes);
        rig_ok(qn_trainer_step(t, 3, RIG_LR, &r, NULL, &err), &err);
        if (turn == 0) want = r.loss;
        assert_true(fabs(r.loss / want - 1) < 1e-5);
        qn_trainer_close(t);
    }
    free(state);
    free(again);
    qn_model_close(m);
}

static void steps_after_the_first_allocate_nothing(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[1]);
    for (int i = 0; i < 4; i++) {
        const rig_way way = {.schedule = schedules[i % 2],
                             .workers = 2,
                             .threads = 1 + i % 2,
                             .transport = transports[i % 3],
                             .shards = 2,
                             .shard_workers = 1 + i % 2,
                             .sequence = i / 2 != 0,
                             .vocab = 1 + i % 2};
        rig_quiet_after_the_first(m, &way, ITEMS);
    }
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_workers),
        cmocka_unit_test(slices_of_the_rows),
        cmocka_unit_test(parts_made_again),
        cmocka_unit_test(frozen_parameters_and_adapters),
        cmocka_unit_test(state_goes_from_one_cut_to_another),
        cmocka_unit_test(steps_after_the_first_allocate_nothing),
    };
    return cmocka_run_group_tests_name("trainer_vocab_shards", tests, NULL, NULL);
}

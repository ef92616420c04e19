/* Devices with groups of gradients, adapters, frozen parameters and recomputation in part or late: the bits of resident training
 * with the same groups, for every schedule and window; with a lagging optimizer the bits of one device. */
#include "model/lora.h"
#include "support/sanitized.h"
#include "support/trainer_rig.h"

enum { STEPS = 4, ITEMS = 8 };

static const char *const transports[] = {"thread", "self"};
static const char *const schedules[] = {"roundpipe", "1f1b", "gpipe", "zb-h1", "interleaved"};

/* again: what PART makes again, or NULL. */
static void sweep(const qn_model *m, int32_t groups, int32_t lag, const uint8_t *again, uint32_t *turn)
{
    const qn_trainer_tiers all = {.window = 16, .replace = 1, .lag = lag};
    rig_way base = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .groups = groups};
    if (lag > 0) base.tiers = &all; /* its definition is tier_trainer_test.c's business */
    rig_outcome want = rig_compute(m, QN_MODE_F32, &base, ITEMS, STEPS);
    for (size_t s = 0; s < QN_COUNT(schedules); s++) {
        for (int32_t P = 1; P <= 3; P++, (*turn)++) {
            if ((*turn * 2654435761u >> 16) % (QN_SANITIZED ? 6 : 2) != 0) continue; /* a scattered part */
            const qn_trainer_tiers tiers = {.window = 1 + (int32_t)(*turn % 3), .replace = 1, .lag = lag};
            const rig_way way = {.schedule = schedules[s],
                                 .workers = P,
                                 .threads = 1,
                                 .recompute = again != NULL ? QN_RECOMPUTE_PART : (qn_recompute)(*turn % 3),
                                 .again = again,
                                 .recompute_late = *turn / 3 % 2 != 0,
                                 .transport = transports[*turn % 2],
                                 .groups = groups,
                                 .zero1 = *turn % 4 == 1,
                                 .tiers = &tiers,
                                 .round = s == 0 && *turn % 3 > 0 ? P + (int32_t)(*turn % 4) : 0,
                                 .flight = 1 + (int32_t)(*turn % 5 == 2) * 3,
                                 .jitter = *turn % 3};
            rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
        }
    }
    free(want.state);
}

static void groups_go_down_in_turn(void **unused)
{
    (void)unused;
    uint32_t turn = 0;
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t G = 1; G <= ITEMS; G *= 2)
            for (int32_t lag = 0; lag < 2; lag++) sweep(m, G, lag, NULL, &turn);
        qn_model_close(m);
    }
}

static void parts_are_made_again(void **unused)
{
    static const uint8_t again[] = {0, QN_AGAIN_ALL, QN_AGAIN_ATTENTION, QN_AGAIN_NORM | QN_AGAIN_ACTIVATION, 0};
    (void)unused;
    uint32_t turn = 3;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        sweep(m, 1 + c % 2, c / 2, again, &turn);
        qn_model_close(m);
    }
}

static void little_is_trained(void **unused)
{
    const char *target = "all-linear", *most = "*.[hl]*";
    (void)unused;
    uint32_t turn = 1;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model_config config = rig_config[c];
        qn_err err;
        config.lora = (qn_lora){.rank = 2, .alpha = 8};
        rig_ok(qn_lora_targets(&config.lora.targets, config.arch, &target, 1, &err), &err);
        qn_model *adapted = rig_model(&config), *frozen = rig_model(&rig_config[c]);
        rig_ok(qn_model_freeze(frozen, &most, 1, &err), &err);
        sweep(adapted, 4, c % 2, NULL, &turn);
        sweep(frozen, 2, 1 - c % 2, NULL, &turn);
        qn_model_close(adapted);
        qn_model_close(frozen);
    }
}

/* What is left out says so in a sentence. */
static void the_rest_is_refused(void **unused)
{
    (void)unused;
    const qn_trainer_tiers tiers = {.window = 2, .replace = 1};
    qn_model *m = rig_model(&rig_config[0]);
    rig_way way = {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "self", .shards = 2, .tiers = &tiers};
    rig_refused(m, &way, ITEMS, QN_EUNSUPPORTED, "a device holds one");
    way.shards = 0;
    way.vocab = 1;
    rig_refused(m, &way, ITEMS, QN_EUNSUPPORTED, "vocabulary shards");
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(groups_go_down_in_turn), cmocka_unit_test(parts_are_made_again),
                                       cmocka_unit_test(little_is_trained), cmocka_unit_test(the_rest_is_refused)};
    return cmocka_run_group_tests_name("tier_mix", tests, NULL, NULL);
}

/* Tensor shards on devices, each of which holds one shard of its stages: the bits of resident training with as many shards, for
 * every schedule, window, recomputation and transport; with a lagging optimizer the bits of one device a shard; evaluation; and
 * what is left out. */
#include "support/malloc_guard.c"
#include "support/quiet_rig.h"
#include "support/sanitized.h"

enum { STEPS = 4, ITEMS = 8 };

static const qn_model_config config[] = {
    RIG_SHARD_GPT2(16),
    RIG_SHARD_LLAMA(4),
};
static const char *const transports[] = {"thread", "self"};
static const char *const schedules[] = {"roundpipe", "1f1b", "gpipe", "zb-h1", "interleaved", "superpipe"};

static void sweep(const qn_model *m, int32_t t, int32_t groups, int32_t lag, uint32_t *turn)
{
    static const uint8_t again[] = {0, QN_AGAIN_ALL, QN_AGAIN_ATTENTION, QN_AGAIN_NORM | QN_AGAIN_ACTIVATION, 0};
    const qn_trainer_tiers all = {.window = 16, .replace = 1, .lag = lag};
    rig_way base = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .groups = groups, .shards = t};
    if (lag > 0) base.tiers = &all; /* its definition is tier_trainer_test.c's business */
    if (lag > 0) base.shard_workers = t;
    rig_outcome want = rig_compute(m, QN_MODE_F32, &base, ITEMS, STEPS);
    for (size_t s = 0; s < QN_COUNT(schedules); s++) {
        for (int32_t P = 1; P <= (strcmp(schedules[s], "superpipe") == 0 ? 1 : 3); P++, (*turn)++) {
            if ((*turn * 2654435761u >> 16) % (QN_SANITIZED ? 6 : 2) != 0) continue; /* a scattered part */
            const qn_trainer_tiers tiers = {.window = 1 + (int32_t)(*turn % 3), .replace = 1, .lag = lag};
            const bool part = *turn % 4 == 3;
            const rig_way way = {.schedule = schedules[s],
                                 .workers = P,
                                 .threads = 1 + (int32_t)(*turn % 5 == 4),
                                 .recompute = part ? QN_RECOMPUTE_PART : (qn_recompute)(*turn % 3),
                                 .again = part ? again : NULL,
                                 .recompute_late = *turn / 2 % 2 != 0,
                                 .transport = transports[*turn % 2],
                                 .groups = groups,
                                 .shards = t,
                                 .shard_workers = t,
                                 .replicas = groups > 1 && s > 0 && *turn % 3 == 1 ? 2 : 1,
                                 .tiers = &tiers,
                                 .undo = lag == 0 && *turn % 4 == 2 ? QN_UNDO_COPY : QN_UNDO_NONE,
                                 .flight = 1 + (int32_t)(*turn % 5 == 2) * 3,
                                 .jitter = *turn % 3};
            rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
        }
    }
    free(want.state);
}

static void a_device_for_each_shard(void **unused)
{
    (void)unused;
    uint32_t turn = 0;
    for (size_t c = 0; c < QN_COUNT(config); c++) {
        qn_model *m = rig_model(&config[c]);
        for (int32_t t = 2; t <= 4; t *= 2)
            for (int32_t lag = 0; lag < 2; lag++) sweep(m, t, t == 2 ? 2 : 1, lag, &turn);
        qn_model_close(m);
    }
}

static void steps_after_the_first_allocate_nothing(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[0]);
    for (int i = 0; i < 2; i++) {
        const qn_trainer_tiers tiers = {.window = 2, .replace = 1};
        const rig_way way = {.schedule = "1f1b",
                             .workers = 2,
                             .threads = 1,
                             .transport = transports[i],
                             .shards = 2,
                             .shard_workers = 2,
                             .tiers = &tiers};
        rig_quiet_after_the_first(m, &way, ITEMS);
    }
    qn_model_close(m);
}

static void the_rest_is_refused(void **unused)
{
    (void)unused;
    const qn_trainer_tiers tiers = {.window = 2, .replace = 1};
    qn_model *m = rig_model(&config[0]);
    rig_way way = {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "self", .shards = 2, .tiers = &tiers};
    rig_refused(m, &way, ITEMS, QN_EUNSUPPORTED, "has to be a multiple of 2");
    way.shard_workers = 2;
    way.sequence = true;
    rig_refused(m, &way, ITEMS, QN_EUNSUPPORTED, "slices of the rows");
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_device_for_each_shard),
                                       cmocka_unit_test(steps_after_the_first_allocate_nothing),
                                       cmocka_unit_test(the_rest_is_refused)};
    return cmocka_run_group_tests_name("tier_shards", tests, NULL, NULL);
}

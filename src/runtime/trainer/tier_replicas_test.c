/* Replicas of devices: each loads the host's one copy of the weights and brings its gradients there. The bits of resident
 * training with the same groups, for every bound schedule, window and number of replicas; with a lagging optimizer those of one
 * device. DualPipe is two replicas on the same devices. */
#include "support/sanitized.h"
#include "support/trainer_rig.h"

enum { STEPS = 4, ITEMS = 8 };

static const char *const transports[] = {"thread", "self"};
static const char *const schedules[] = {"1f1b", "gpipe", "zb-h1", "interleaved", "zb-v", "superpipe", "dualpipe"};

/* The largest number of workers that the schedule takes, at most so many; 0: none. */
static int32_t most_workers(const qn_generator *g, int32_t workers, int32_t items)
{
    while (workers > 0 && !qn_generator_can(g, workers, items)) workers--;
    return workers;
}

static void sweep(const qn_model *m, int32_t groups, int32_t lag, uint32_t *turn)
{
    const qn_trainer_tiers all = {.window = 16, .replace = 1, .lag = lag};
    rig_way base = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .groups = groups};
    if (lag > 0) base.tiers = &all;
    rig_outcome want = rig_compute(m, QN_MODE_F32, &base, ITEMS, STEPS);
    for (int32_t R = 1; R <= groups; R *= 2) {
        for (size_t s = 0; s < QN_COUNT(schedules); s++) {
            const qn_generator *g = qn_generator_find(schedules[s]);
            if (R * qn_generator_replicas(g) > groups || R * qn_generator_replicas(g) == 1) continue;
            for (int32_t P = 1; P <= 3; P++, (*turn)++) {
                const int32_t workers = most_workers(g, P, ITEMS / R);
                if (workers < P || (*turn * 2654435761u >> 16) % (QN_SANITIZED ? 8 : 3) != 0) continue; /* a scattered part */
                const qn_trainer_tiers tiers = {.window = 1 + (int32_t)(*turn % 3), .replace = 1, .lag = lag};
                const rig_way way = {.schedule = schedules[s],
                                     .workers = P,
                                     .threads = 1,
                                     .recompute = (qn_recompute)(*turn % 3),
                                     .recompute_late = *turn % 2 != 0,
                                     .transport = transports[*turn % 2],
                                     .replicas = R,
                                     .groups = groups,
                                     .zero1 = *turn % 4 == 1,
                                     .together = R > 1 && *turn % 7 == 3,
                                     .tiers = &tiers,
                                     .undo = lag == 0 && *turn % 3 == 1 ? QN_UNDO_COPY : QN_UNDO_NONE,
                                     .flight = 1 + (int32_t)(*turn % 5 < 2) * 3,
                                     .jitter = *turn % 3};
                rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
            }
        }
    }
    free(want.state);
}

static void same_bits_for_any_number_of_replicas(void **unused)
{
    (void)unused;
    uint32_t turn = 0;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t G = 2; G <= ITEMS; G *= 2)
            for (int32_t lag = 0; lag < 2; lag++) sweep(m, G, lag, &turn);
        qn_model_close(m);
    }
}

/* The host steps once, whatever the number of replicas: one copy of values and moments. */
static void the_host_has_one_state(void **unused)
{
    const qn_trainer_tiers tiers = {.window = 1, .replace = 1};
    (void)unused;
    qn_model *m = rig_model(&rig_config[1]);
    rig_way way = {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "self", .groups = 4, .tiers = &tiers};
    const rig_outcome one = rig_compute(m, QN_MODE_F32, &way, ITEMS, 1);
    for (int32_t R = 2; R <= 4; R *= 2) {
        way.replicas = R;
        const rig_outcome got = rig_compute(m, QN_MODE_F32, &way, ITEMS, 1);
        assert_in_range(got.memory.params, one.memory.params, one.memory.params + 64 * R * 8);
        assert_in_range(got.memory.moments, one.memory.moments, one.memory.moments + 64 * R * 8);
        free(got.state);
    }
    free(one.state);
    qn_model_close(m);
}

/* Flights of replicas: LOADs of all of them wait for the one step of their weights, also of a weight in two stages. */
static void flights_of_replicas(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[0]);
    for (int32_t lag = 0; lag < 2; lag++) {
        const qn_trainer_tiers all = {.window = 16, .replace = 1, .lag = lag}, one = {.window = 1, .replace = 1, .lag = lag};
        const rig_way base = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .groups = 4, .tiers = &all};
        rig_outcome want = rig_compute(m, QN_MODE_F32, &base, ITEMS, STEPS);
        for (uint64_t jitter = 1; jitter <= (QN_SANITIZED ? 2 : 6); jitter++) {
            const rig_way way = {.schedule = jitter % 2 ? "1f1b" : "dualpipe",
                                 .workers = 2,
                                 .threads = 1,
                                 .transport = "thread",
                                 .replicas = jitter % 2 ? 4 : 2,
                                 .groups = 4,
                                 .tiers = &one,
                                 .flight = STEPS,
                                 .jitter = jitter};
            rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
        }
        free(want.state);
    }
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bits_for_any_number_of_replicas),
                                       cmocka_unit_test(the_host_has_one_state), cmocka_unit_test(flights_of_replicas)};
    return cmocka_run_group_tests_name("tier_replicas", tests, NULL, NULL);
}

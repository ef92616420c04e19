/* Results do not depend on how they were computed: losses of 20 steps and the final state, bit for bit, for any schedule, number
 * of workers and threads, recomputation and order of arrival. */
#include "support/sanitized.h"
#include "support/trainer_rig.h"

enum { STEPS = QN_SANITIZED ? 6 : 20, ARRIVALS = QN_SANITIZED ? 8 : 30 };

typedef rig_outcome outcome;

static outcome compute(const qn_model *m, qn_mode mode, const rig_way *way, int32_t items)
{
    return rig_compute(m, mode, way, items, STEPS);
}

static const rig_way base_way = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self"};

static const char *const schedules[] = {"gpipe", "1f1b", "interleaved", "split"};
static const char *const transports[] = {"thread", "self", "sim"};

/* Every schedule on 1 to 4 workers; threads, recomputation and transport take turns, so that over all models and item counts each
 * meets each. */
static void sweep(const qn_model *m, qn_mode mode, int32_t items, int32_t *turn)
{
    outcome want = compute(m, mode, &base_way, items);
    assert_true(want.loss[STEPS - 1] < want.loss[0]); /* and it learns */
    for (size_t s = 0; s < QN_COUNT(schedules); s++) {
        for (int32_t P = 1; P <= 4; P++, (*turn)++) {
            if (QN_SANITIZED && ((uint32_t)*turn * 2654435761u >> 16) % 4 != 0) continue; /* a scattered quarter */
            const rig_way way = {.schedule = schedules[s],
                                 .workers = P,
                                 .threads = 1 + *turn % 2,
                                 .recompute = (qn_recompute)(*turn % 3),
                                 .transport = transports[*turn / 2 % 3],
                                 .seed = *turn / 2 % 3 == 2 ? 1000u + (uint64_t)*turn : 0};
            rig_assert_same(m, mode, &way, items, STEPS, &want);
        }
    }
    free(want.state);
}

static void all_models(qn_mode mode, const int32_t *items, int32_t count)
{
    int32_t turn = 0;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t i = 0; i < count; i++, turn++) sweep(m, mode, items[i], &turn);
        qn_model_close(m);
    }
}

static void fast_kernels_give_the_same_bits_for_any_way(void **unused)
{
    static const int32_t items[] = {3, 4};
    (void)unused;
    all_models(QN_MODE_F32, items, QN_COUNT(items));
}

static void reference_kernels_give_the_same_bits_for_any_way(void **unused)
{
    static const int32_t items[] = {4};
    (void)unused;
    all_models(QN_MODE_REF_F32, items, QN_COUNT(items));
}

static void bf16_gives_the_same_bits_for_any_way(void **unused)
{
    static const int32_t items[] = {3};
    (void)unused;
    const qn_kernels *k;
    qn_err err;
    if (qn_kernels_get(&k, QN_MODE_BF16, &err) != QN_OK) {
        print_message("skipped: %s\n", err.text);
        skip();
    }
    all_models(QN_MODE_BF16, items, QN_COUNT(items));
}

/* Backwards in parts, V placements, stages that change their worker: fewer items than workers, and two per worker, where the last
 * ones are empty. */
static void every_published_schedule(void **unused)
{
    (void)unused;
    int32_t turn = 0;
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t items = 3; items <= 8; items += 5) {
            outcome want = compute(m, QN_MODE_F32, &base_way, items);
            for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
                if (g->host_state) continue; /* device_memory: not on workers that own their stages */
                const int32_t most = g->max_workers > 0 ? g->max_workers : 4;
                for (int32_t P = most < 2 ? most : 2; P <= most; P++, turn++) {
                    if (!qn_generator_can(g, P, items) || qn_generator_replicas(g) > 1 || (QN_SANITIZED && turn % 4 != 0))
                        continue;
                    const rig_way way = {.schedule = g->name,
                                         .workers = P,
                                         .threads = 1,
                                         .recompute = (qn_recompute)(turn % 3),
                                         .transport = transports[turn / 2 % 3],
                                         .seed = turn / 2 % 3 == 2 ? 1000u + (uint64_t)turn : 0};
                    rig_assert_same(m, QN_MODE_F32, &way, items, STEPS, &want);
                }
            }
            free(want.state);
        }
        qn_model_close(m);
    }
}

/* More items than samples: the last ones are empty. */
static void uneven_and_empty_items(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[0]);
    for (int32_t items = 2; items <= 10; items++) {
        const rig_way way = {
            .schedule = "1f1b", .workers = 2, .threads = 1, .recompute = QN_RECOMPUTE_EXCEPT_LAST, .transport = "thread"};
        outcome want = compute(m, QN_MODE_F32, &base_way, items);
        rig_assert_same(m, QN_MODE_F32, &way, items, STEPS, &want);
        free(want.state);
    }
    qn_model_close(m);
}

static void every_order_of_arrival(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[0]);
    outcome want = compute(m, QN_MODE_F32, &base_way, 4);
    for (uint64_t seed = 1; seed <= ARRIVALS; seed++) {
        const rig_way way = {
            .schedule = schedules[seed % 4], .workers = 2 + (int32_t)(seed % 3), .threads = 1, .transport = "sim", .seed = seed};
        rig_assert_same(m, QN_MODE_F32, &way, 4, STEPS, &want);
    }
    free(want.state);
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_kernels_give_the_same_bits_for_any_way),
        cmocka_unit_test(reference_kernels_give_the_same_bits_for_any_way),
        cmocka_unit_test(bf16_gives_the_same_bits_for_any_way),
        cmocka_unit_test(every_published_schedule),
        cmocka_unit_test(uneven_and_empty_items),
        cmocka_unit_test(every_order_of_arrival),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

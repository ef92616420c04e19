/* Sequence parallelism through the whole trainer: at a fixed t the same bits for any number of workers, schedule, recomputation,
 * thread count, transport and order of arrival; near t = 1; bytes and memory as they should be. */
#include <math.h>

#include "support/malloc_guard.c"
#include "support/quiet_rig.h"
#include "support/sanitized.h"

enum { STEPS = QN_SANITIZED ? 3 : 8, ITEMS = 4 };

static const qn_model_config config[] = {
    RIG_SHARD_GPT2(20),
    RIG_SHARD_LLAMA(8),
};
static const char *const schedules[] = {"gpipe", "1f1b", "split", "zb-h1", "v-half", "interleaved"};
static const char *const transports[] = {"thread", "self", "sim"};

/* Items of 12 rows (6 in the last), of 6 rows with 4 or 8 items, the last of these empty. */
static void same_bits_for_any_number_of_workers(void **unused)
{
    (void)unused;
    int32_t turn = 0;
    for (size_t c = 0; c < QN_COUNT(config); c++) {
        qn_model *m = rig_model(&config[c]);
        for (int32_t t = 2; t <= 4; t *= 2) {
            const int32_t items = t == 2 ? ITEMS : 2 * ITEMS;
            rig_way base = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .shards = t, .sequence = true};
            base.groups = 2;
            rig_outcome want = rig_compute(m, QN_MODE_F32, &base, items, STEPS);
            assert_true(want.loss[STEPS - 1] < want.loss[0]);
            for (int i = 0; i < (QN_SANITIZED ? 3 : 10); i++, turn++) {
                static const uint8_t again[] = {0, QN_AGAIN_ALL, QN_AGAIN_ATTENTION, QN_AGAIN_ALL | QN_AGAIN_NORM, 0};
                rig_way way = base;
                way.schedule = schedules[turn % 6];
                way.workers = 1 + turn % 3;
                way.threads = 1 + turn % 2;
                way.transport = transports[turn % 3];
                way.seed = turn % 3 == 2 ? 50u + (uint64_t)turn : 0;
                way.shard_workers = 1 << turn % (t == 2 ? 2 : 3);
                way.replicas = 1 + turn % 4 / 3;
                way.recompute = (qn_recompute)(turn % 4);
                way.again = way.recompute == QN_RECOMPUTE_PART ? again : NULL;
                way.recompute_late = turn % 5 < 2;
                way.zero1 = turn % 8 == 7;
                way.part_bytes = turn % 7 == 6 ? 64 : 0;
                rig_assert_same(m, QN_MODE_F32, &way, items, STEPS, &want);
            }
            free(want.state);
        }
        qn_model_close(m);
    }
}

/* Steps taken before all gradients are known, and taken back: the bits of those that wait. */
static void post_validated(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[0]);
    rig_way way = {.schedule = "zb-h1", .workers = 2, .threads = 1, .transport = "self", .shards = 2, .sequence = true};
    rig_outcome want = rig_compute(m, QN_MODE_F32, &way, ITEMS, STEPS);
    way.undo = QN_UNDO_COPY;
    for (int32_t tw = 1; tw <= 2; tw++) {
        way.shard_workers = tw;
        way.transport = transports[tw - 1];
        rig_assert_same(m, QN_MODE_F32, &way, ITEMS, STEPS, &want);
    }
    free(want.state);
    qn_model_close(m);
}

static void near_one_shard(void **unused)
{
    (void)unused;
    for (size_t c = 0; c < QN_COUNT(config); c++) {
        qn_model *m = rig_model(&config[c]);
        const rig_way one = {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "thread"};
        rig_outcome want = rig_compute(m, QN_MODE_F32, &one, ITEMS, STEPS);
        for (int32_t t = 2; t <= 4; t *= 2) {
            rig_way way = one;
            way.shards = t;
            way.shard_workers = 2;
            way.sequence = true;
            rig_outcome got = rig_compute(m, QN_MODE_F32, &way, ITEMS, STEPS);
            for (int32_t step = 0; step < STEPS; step++) {
                assert_true(fabs(got.loss[step] / want.loss[step] - 1) < 1e-5);
                assert_true(fabs(got.norm[step] / want.norm[step] - 1) < 1e-4);
            }
            free(got.state);
        }
        free(want.state);
        qn_model_close(m);
    }
}

static void steps_after_the_first_allocate_nothing(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[1]);
    for (int i = 0; i < 3; i++) {
        const rig_way way = {.schedule = i == 1 ? "split" : "1f1b",
                             .workers = 2,
                             .threads = 1 + i % 2,
                             .transport = transports[i],
                             .shards = 4,
                             .shard_workers = 1 << i,
                             .sequence = true};
        rig_quiet_after_the_first(m, &way, ITEMS);
    }
    qn_model_close(m);
}

/* The largest arena of the plan, and the bytes that go between workers. */
static int64_t peak_arena(const qn_model *m, int32_t t, bool sequence)
{
    const rig_way way = {.schedule = "1f1b",
                         .workers = 3,
                         .threads = 1,
                         .transport = "self",
                         .shards = t,
                         .shard_workers = t,
                         .sequence = sequence};
    qn_trainer *tr = rig_open(m, QN_MODE_F32, &way, ITEMS);
    const qn_plan *p = qn_trainer_plan(tr);
    int64_t most = 0;
    for (int32_t w = 0; w < p->workers; w++) most = p->arena_bytes[w] > most ? p->arena_bytes[w] : most;
    qn_trainer_close(tr);
    return most;
}

/* All that lies in arenas falls by t, up to rows that do not divide and lines of 64 bytes. */
static void arenas_fall_by_t(void **unused)
{
    (void)unused;
    qn_model_config c = config[1];
    c.width = 256;
    c.layers = 4;
    qn_model *m = rig_model(&c);
    const int64_t one = peak_arena(m, 1, false);
    for (int32_t t = 2; t <= 4; t *= 2) {
        const int64_t whole = peak_arena(m, t, false), slices = peak_arena(m, t, true);
        print_message("largest arena: %lld bytes with one shard, %lld with %d, %lld with slices of the rows\n", (long long)one,
                      (long long)whole, t, (long long)slices);
        assert_true(slices < whole && whole < one);
        assert_true((double)slices < 1.05 * (double)one / t);
    }
    qn_model_close(m);
}

static void one_shard_has_no_slices(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&config[0]);
    const rig_way way = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self", .sequence = true};
    rig_refused(m, &way, 2, QN_EINVAL, "at least 2");
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_for_any_number_of_workers),
        cmocka_unit_test(post_validated),
        cmocka_unit_test(near_one_shard),
        cmocka_unit_test(steps_after_the_first_allocate_nothing),
        cmocka_unit_test(arenas_fall_by_t),
        cmocka_unit_test(one_shard_has_no_slices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Post-validated steps of several replicas and of vocabulary shards: whatever spike, infinity or NaN appears in whatever stage's
 * gradient in whatever replica at whatever step, everything is as with one replica and the synchronous optimizer: bit for bit
 * with a copy, within rounding when undone in place. Whether every replica steps or each its part (zero1), on workers of their
 * own or shared, one step at a time or in flights. */
#include "support/fault_rig.h"
#include "support/sanitized.h"

enum { STEPS = 5, PATIENT = QNI_PATIENCE + 5, ITEMS = 8, SPARSE = QN_SANITIZED ? 12 : 1 };

static const char *const transports[] = {"thread", "self", "sim"};
static const double values[] = {1e4, INFINITY, NAN, 0};

static void unlike(const rig_way *way, rig_fault f)
{
    fail_msg(
        "%s, %d workers x %d replicas%s%s%s, vocabulary %d, groups %d, %s (seed %llu), flights of %d, undo %d, clip %g: %g in "
        "stage %d, item %d at step %d",
        way->schedule, way->workers, way->replicas, way->zero1 ? ", zero1" : "", way->together ? ", together" : "",
        way->sequence ? ", sequence" : "", way->vocab, way->groups, way->transport, (unsigned long long)way->seed, way->flight,
        (int)way->undo, way->clip, f.value, f.stage, f.item, (int)f.step);
}

/* Against one replica, one step at a time, every worker waiting for the decision. schedule: whose stages are the same. */
static rig_journey reference(const qn_model *m, const rig_way *way, const char *schedule, int32_t workers, int32_t steps,
                             rig_fault f)
{
    const rig_way one = {.schedule = schedule,
                         .workers = workers,
                         .threads = 1,
                         .transport = "self",
                         .groups = way->groups,
                         .vocab = way->vocab,
                         .sides = way->sides,
                         .shards = way->shards,
                         .sequence = way->sequence,
                         .clip = way->clip};
    return rig_fly(m, &one, ITEMS, steps, f, way->undo == QN_UNDO_IN_PLACE);
}

static void compare(const qn_model *m, const rig_way *way, const rig_journey *want, int32_t steps, rig_fault f,
                    qn_speculated *sum)
{
    const bool near = way->undo == QN_UNDO_IN_PLACE;
    const rig_journey got = rig_fly(m, way, ITEMS, steps, f, near);
    if (!rig_same_journey(&got, want, m, near)) unlike(way, f);
    sum->steps += got.early.steps;
    sum->wrong += got.early.wrong;
    free(got.state);
}

/* One fault, all ways of this base: replicas, groups are given. */
static void every_way(const qn_model *m, rig_way way, int32_t steps, rig_fault f, uint32_t *turn, qn_speculated *sum)
{
    const int32_t depth = way.workers * qn_generator_find(way.schedule)->usual_chunks;
    const rig_journey want = reference(m, &way, "gpipe", depth, steps, f);
    for (int32_t k = 0; k < 4; k++, (*turn)++) {
        way.zero1 = k % 2 != 0;
        way.together = k / 2 != 0;
        way.transport = transports[*turn % 3];
        way.seed = *turn % 3 == 2 ? 100u + *turn : 0;
        way.flight = 1 + (int32_t)(*turn / 3 % 4);
        compare(m, &way, &want, steps, f, sum);
    }
    free(want.state);
}

/* A fault in the last item of a group, which its replica adds to its sum before the replicas' sums meet. */
static int32_t spoilt_item(int32_t groups, uint32_t pick)
{
    const int32_t each = ITEMS / groups;
    return (int32_t)(pick % (uint32_t)groups) * each + each - 1;
}

static void sweep(qn_undo undo, const char *const schedule[3], double clip, uint32_t every)
{
    uint32_t turn = 0, pick = 0;
    qn_speculated sum = {0};
    const int32_t steps = clip > 0 ? PATIENT : STEPS, begin = clip > 0 ? QNI_PATIENCE - 1 : 0;
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t P = 1; P <= 3; P++) {
            const int32_t depth = P * qn_generator_find(schedule[P - 1])->usual_chunks;
            for (int32_t R = 2; R <= 4; R *= 2) {
                for (int32_t stage = 0; stage < depth; stage++) {
                    for (int32_t step = begin; step < steps; step++, pick++) {
                        if (pick * 2654435761u >> 16 & 1 || pick % (every * SPARSE) != 0) continue;
                        const int32_t groups = pick / every % 2 == 0 ? R : 4;
                        const rig_way way = {.schedule = schedule[P - 1],
                                             .workers = P,
                                             .threads = 1,
                                             .replicas = R,
                                             .groups = groups,
                                             .undo = undo,
                                             .clip = clip};
                        const rig_fault f = {.step = step,
                                             .stage = stage,
                                             .item = spoilt_item(groups, pick / every),
                                             .value = values[turn / 4 % QN_COUNT(values)]};
                        every_way(m, way, steps, f, &turn, &sum);
                    }
                }
            }
        }
        qn_model_close(m);
    }
    print_message("undo %d: %lld steps taken early, %lld taken back in %u runs\n", (int)undo, (long long)sum.steps,
                  (long long)sum.wrong, turn);
    assert_true(QN_SANITIZED || (sum.steps > 0 && sum.wrong > 0)); /* of few runs none may be early */
}

static void replicas_give_the_same_bits(void **unused)
{
    (void)unused;
    sweep(QN_UNDO_COPY, (const char *const[]){"zb-v", "zb-h2", "1f1b"}, -1, 2);
}

static void clipped_steps_of_replicas(void **unused)
{
    (void)unused;
    sweep(QN_UNDO_COPY, (const char *const[]){"1f1b", "zb-v", "zb-h1"}, 100, 2);
}

static void replicas_undone_in_place_are_close(void **unused)
{
    (void)unused;
    sweep(QN_UNDO_IN_PLACE, (const char *const[]){"1f1b", "zb-2p", "zb-h1"}, 100, 2);
}

/* Two replicas on the same workers, in opposite directions. */
static void both_directions(void **unused)
{
    (void)unused;
    uint32_t turn = 0;
    qn_speculated sum = {0};
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t P = 2; P <= 4; P += 2) {
            for (int32_t stage = 0; stage < P; stage++) {
                for (int32_t step = 0; step < STEPS; step++, turn++) {
                    if (turn % (2 * SPARSE) != 0) continue;
                    const rig_way way = {.schedule = "dualpipe",
                                         .workers = P,
                                         .threads = 1,
                                         .groups = 2,
                                         .clip = -1,
                                         .undo = QN_UNDO_COPY,
                                         .zero1 = turn / 2 % 2 != 0,
                                         .transport = transports[turn / 2 % 3],
                                         .seed = turn / 2 % 3 == 2 ? 100u + turn : 0,
                                         .flight = 1 + (int32_t)(turn / 6 % 3)};
                    const rig_fault f = {.step = step,
                                         .stage = stage,
                                         .item = spoilt_item(2, turn / 2),
                                         .value = values[turn / 4 % QN_COUNT(values)]};
                    const rig_journey want = reference(m, &way, "gpipe", P, STEPS, f);
                    compare(m, &way, &want, STEPS, f, &sum);
                    free(want.state);
                }
            }
        }
        qn_model_close(m);
    }
    assert_true(sum.wrong > 0 || QN_SANITIZED);
}

/* Vocabulary shards, alone and in replicas, whose tables are spoilt too. */
static void shards_of_the_vocabulary(void **unused)
{
    (void)unused;
    static const char *const schedule[] = {"1f1b", "v-half"};
    uint32_t turn = 0, pick = 0;
    qn_speculated sum = {0};
    for (int32_t c = 1; c < 3; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t P = 2; P <= 3; P++) {
            const char *const name = schedule[P % 2];
            const int32_t depth = P * qn_generator_find(name)->usual_chunks;
            for (int32_t stage = 0; stage < depth + P; stage++) {
                for (int32_t step = 0; step < STEPS; step++, pick++) {
                    if (pick % (2 * SPARSE) != 0) continue;
                    rig_way way = {.schedule = name,
                                   .workers = P,
                                   .threads = 1,
                                   .groups = 2,
                                   .vocab = 1 + (int32_t)(pick / 2 % 2),
                                   .clip = -1,
                                   .undo = QN_UNDO_COPY};
                    const rig_fault f = {.step = step,
                                         .stage = stage,
                                         .item = spoilt_item(2, pick / 2),
                                         .value = values[pick / 2 % QN_COUNT(values)]};
                    const rig_journey want = reference(m, &way, name, P, STEPS, f);
                    for (int32_t k = 0; k < 3; k++, turn++) {
                        way.replicas = 1 + k % 2;
                        way.zero1 = k == 2 || turn % 5 == 1;
                        way.transport = transports[turn % 3];
                        way.seed = turn % 3 == 2 ? 100u + turn : 0;
                        way.flight = 1 + (int32_t)(turn / 3 % 4);
                        compare(m, &way, &want, STEPS, f, &sum);
                    }
                    free(want.state);
                }
            }
        }
        qn_model_close(m);
    }
    print_message("vocabulary shards: %lld steps taken early, %lld taken back\n", (long long)sum.steps, (long long)sum.wrong);
    assert_true(sum.wrong > 0 || QN_SANITIZED);
}

/* Tensor shards in replicas, whose gradients are joined where each has a part. */
static void shards_of_layers(void **unused)
{
    (void)unused;
    static const char *const schedule[] = {"1f1b", "zb-h1"};
    uint32_t turn = 0;
    qn_speculated sum = {0};
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t P = 1; P <= 2; P++) {
            for (int32_t stage = 0; stage < P; stage++) { /* of shard 0: what is whole counts there */
                for (int32_t step = 0; step < STEPS; step++, turn++) {
                    if (turn % SPARSE != 0) continue;
                    rig_way way = {.schedule = schedule[turn % 2],
                                   .workers = P,
                                   .threads = 1,
                                   .groups = 2,
                                   .shards = 2,
                                   .sequence = turn / 2 % 2 != 0,
                                   .clip = -1,
                                   .undo = QN_UNDO_COPY};
                    const rig_fault f = {
                        .step = step, .stage = stage, .item = spoilt_item(2, turn / 2), .value = values[turn % QN_COUNT(values)]};
                    const rig_journey want = reference(m, &way, way.schedule, P, STEPS, f);
                    for (int32_t k = 0; k < 3; k++) {
                        way.replicas = 1 + (k + (int32_t)turn) % 2;
                        way.shard_workers = 1 + k % 2;
                        way.zero1 = k == 2;
                        way.transport = transports[(turn + (uint32_t)k) % 3];
                        way.seed = (turn + (uint32_t)k) % 3 == 2 ? 100u + turn : 0;
                        way.flight = 1 + (int32_t)(turn + (uint32_t)k) % 4;
                        compare(m, &way, &want, STEPS, f, &sum);
                    }
                    free(want.state);
                }
            }
        }
        qn_model_close(m);
    }
    print_message("tensor shards: %lld steps taken early, %lld taken back\n", (long long)sum.steps, (long long)sum.wrong);
    assert_true(sum.wrong > 0 || QN_SANITIZED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replicas_give_the_same_bits),        cmocka_unit_test(clipped_steps_of_replicas),
        cmocka_unit_test(replicas_undone_in_place_are_close), cmocka_unit_test(both_directions),
        cmocka_unit_test(shards_of_the_vocabulary),           cmocka_unit_test(shards_of_layers),
    };
    return cmocka_run_group_tests_name("trainer_validate_wide", tests, NULL, NULL);
}

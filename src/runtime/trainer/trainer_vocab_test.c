/* Training with a vocabulary cut into shards: the same bits for any number of workers, schedule, driver and recomputation at the
 * same number of shards and algorithm; near one shard, and near the whole model, for any number. */
#include "core/alloc.h"
#include "support/malloc_guard.c"
#include "support/quiet_rig.h"
#include "support/sanitized.h"

#include <math.h>

enum { STEPS = QN_SANITIZED ? 4 : 20, ITEMS = 4 };

typedef rig_outcome outcome;

static void take_steps(double *loss, double *norm, qn_trainer *t, int64_t first, int64_t end)
{
    qn_err err;
    for (int64_t step = first; step < end; step++) {
        qn_step_result r;
        rig_ok(qn_trainer_step(t, step, RIG_LR, &r, NULL, &err), &err);
        loss[step] = r.loss;
        norm[step] = r.grad_norm;
    }
}

static outcome compute(const qn_model *m, qn_mode mode, const rig_way *way, int32_t items)
{
    outcome out = {0};
    qn_trainer *t = rig_open(m, mode, way, items);
    take_steps(out.loss, out.norm, t, 0, STEPS);
    out.bytes = rig_state_bytes(m, rig_element(mode));
    out.state = malloc(out.bytes);
    assert_non_null(out.state);
    rig_state(out.state, t, m, rig_element(mode), 0);
    qn_trainer_close(t);
    return out;
}

static void assert_same(const qn_model *m, qn_mode mode, const rig_way *way, int32_t items, const outcome *want)
{
    const outcome got = compute(m, mode, way, items);
    rig_assert_equal(&got, want, mode, way, items);
}

static const char *const transports[] = {"thread", "self", "sim"};

static void sweep(const qn_model *m, qn_mode mode, int32_t items, int32_t sides, int32_t algorithm, int32_t *turn)
{
    static const char *const schedules[] = {"1f1b", "v-half"};
    const rig_way base = {
        .schedule = "1f1b", .workers = 1, .threads = 1, .transport = "self", .vocab = algorithm, .sides = sides};
    outcome want = compute(m, mode, &base, items);
    assert_true(want.loss[STEPS - 1] < want.loss[0]);
    for (size_t s = 0; s < QN_COUNT(schedules); s++) {
        for (int32_t P = 1; P <= 4; P++, (*turn)++) {
            if (QN_SANITIZED && *turn % 4 != 0) continue;
            const rig_way way = {.schedule = schedules[s],
                                 .workers = P,
                                 .threads = 1 + *turn % 2,
                                 .recompute = (qn_recompute)(*turn % 3),
                                 .transport = transports[*turn / 2 % 3],
                                 .seed = *turn / 2 % 3 == 2 ? 1000u + (uint64_t)*turn : 0,
                                 .vocab = algorithm,
                                 .sides = sides};
            assert_same(m, mode, &way, items, &want);
        }
    }
    free(want.state);
}

static void all_models(qn_mode mode)
{
    static const int32_t sides[] = {2, 3, 5, 1};
    int32_t turn = 0;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t algorithm = 1; algorithm <= 2; algorithm++) {
            if (mode != QN_MODE_F32 && algorithm != 1 + c % 2) continue; /* both in the usual mode */
            sweep(m, mode, c % 2 == 0 ? ITEMS : 3, sides[c], algorithm, &turn);
        }
        qn_model_close(m);
    }
}

static void fast_kernels_give_the_same_bits_for_any_way(void **unused)
{
    (void)unused;
    all_models(QN_MODE_F32);
}

static void reference_kernels_give_the_same_bits_for_any_way(void **unused)
{
    (void)unused;
    all_models(QN_MODE_REF_F32);
}

static void bf16_gives_the_same_bits_for_any_way(void **unused)
{
    (void)unused;
    const qn_kernels *k;
    qn_err err;
    if (qn_kernels_get(&k, QN_MODE_BF16, &err) != QN_OK) {
        print_message("skipped: %s\n", err.text);
        skip();
    }
    all_models(QN_MODE_BF16);
}

/* Against the whole model, which is the plain definition: to 1e-4 in f32 over all steps, to 1e-9 in f64. */
static void near_the_whole_model(void **unused)
{
    (void)unused;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int pass = 0; pass < 2; pass++) {
            const qn_mode mode = pass == 0 ? QN_MODE_F32 : QN_MODE_REF_F64;
            const double bound = pass == 0 ? 1e-4 : 1e-9;
            const rig_way whole = {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "self"};
            outcome want = compute(m, mode, &whole, ITEMS);
            for (int32_t sides = 1; sides <= 6; sides += 1 + QN_SANITIZED) {
                const rig_way way = {
                    .schedule = "1f1b", .workers = 2, .threads = 1, .transport = "self", .vocab = 1 + sides % 2, .sides = sides};
                outcome got = compute(m, mode, &way, ITEMS);
                for (int32_t i = 0; i < STEPS; i++) {
                    const double off = fabs(got.loss[i] - want.loss[i]) / want.loss[i];
                    if (!(off <= bound)) fail_msg("config %d, %d shards, step %d: loss off by %g", c, sides, i, off);
                }
                free(got.state);
            }
            free(want.state);
        }
        qn_model_close(m);
    }
}

/* The state moves on to another number of workers and shards: the same bits where the shards stay, near where they do not. */
static void goes_on_with_other_numbers(void **unused)
{
    (void)unused;
    const rig_way ways[] = {
        {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "self", .vocab = 1, .sides = 3},
        {.schedule = "v-half", .workers = 3, .threads = 1, .transport = "self", .vocab = 1, .sides = 3},
        {.schedule = "1f1b", .workers = 4, .threads = 1, .transport = "self", .vocab = 2, .sides = 4},
        {.schedule = "gpipe", .workers = 2, .threads = 1, .transport = "self"},
    };
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        const size_t bytes = rig_state_bytes(m, sizeof(float));
        char *half = malloc(bytes);
        double straight[STEPS], norm[STEPS];
        assert_non_null(half);
        qn_trainer *t = rig_open(m, QN_MODE_F32, &ways[0], ITEMS);
        take_steps(straight, norm, t, 0, STEPS / 2);
        rig_state(half, t, m, sizeof(float), 0);
        take_steps(straight, norm, t, STEPS / 2, STEPS);
        qn_trainer_close(t);
        for (size_t i = 0; i < QN_COUNT(ways); i++) {
            double loss[STEPS];
            t = rig_open(m, QN_MODE_F32, &ways[i], ITEMS);
            rig_state(half, t, m, sizeof(float), 1);
            take_steps(loss, norm, t, STEPS / 2, STEPS);
            qn_trainer_close(t);
            for (int32_t s = STEPS / 2; s < STEPS; s++) {
                if (i < 2)
                    assert_memory_equal(&loss[s], &straight[s], sizeof(double));
                else
                    assert_true(fabs(loss[s] - straight[s]) <= 1e-4 * straight[s]);
            }
        }
        free(half);
        qn_model_close(m);
    }
}

/* Shards hold the same number of rows, so parameter bytes per shard are equal; and no worker's arena is used beyond its plan. */
static void shards_are_equal(void **unused)
{
    (void)unused;
    for (int32_t n = 1; n <= 7; n++) {
        qn_model_config c = rig_config[2]; /* untied: two tables */
        c.vocab_shards = n;
        c.tied = n % 2 == 0;
        qn_model *m = rig_model(&c);
        int64_t count[8] = {0}, real = 0;
        for (int32_t p = 0; p < qn_model_params(m); p++) {
            const qn_param *q = qn_model_param(m, p);
            if (q->layer < qn_model_chain(m)) continue;
            count[q->layer - qn_model_chain(m)] += q->count;
            real += q->real;
        }
        for (int32_t k = 1; k < n; k++) assert_int_equal(count[k], count[0]);
        assert_int_equal(real, (int64_t)c.vocab * c.width * (c.tied ? 1 : 2));
        assert_int_equal(count[0], (c.vocab + n - 1) / n * (int64_t)c.width * (c.tied ? 1 : 2));
        qn_model_close(m);
    }
}

static void steps_after_the_first_allocate_nothing(void **unused)
{
    (void)unused;
    for (int32_t algorithm = 1; algorithm <= 2; algorithm++) {
        qn_model *m = rig_model(&rig_config[algorithm]);
        const rig_way way = {
            .schedule = "1f1b", .workers = 3, .threads = 1, .transport = "thread", .vocab = algorithm, .sides = 4};
        rig_quiet_after_the_first(m, &way, ITEMS);
        qn_model_close(m);
    }
}

static void any_allocation_may_fail_at_open(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[2]);
    const rig_way way = {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "self", .vocab = 2, .sides = 3};
    qn_order *order = rig_order(&way, 2);
    qn_status st = QN_ENOMEM;
    for (long n = 1; st != QN_OK; n++) {
        qn_trainer *t;
        qn_err err;
        qni_fault_arm(QN_FAULT_ALLOC, n);
        st = rig_try(&t, m, QN_MODE_REF_F32, &way, order, &err);
        qni_fault_arm(QN_FAULT_ALLOC, 0);
        if (st != QN_OK) assert_int_equal(st, QN_ENOMEM);
        qn_trainer_close(t);
    }
    qn_order_close(order);
    qn_model_close(m);
}

/* --- 200 steps with a vocabulary of 8192 */
enum { WIDE = 8192, LONG = QN_SANITIZED ? 5 : 200 };
static const qn_source wide_source = {.ops = &rig_source_ops, .T = 8, .batch = 4, .vocab = WIDE};

static void long_run(double *loss, int32_t workers, int32_t algorithm, int32_t sides)
{
    const qn_model_config c = {
        .arch = QN_ARCH_GPT2, .layers = 4, .heads = 2, .width = 16, .context = 8, .vocab = WIDE, .tied = true};
    qn_model *m = rig_model(&c);
    qn_order *order;
    qn_trainer *t;
    qn_err err;
    int32_t first[RIG_MAX_STAGES + 1];
    const qn_pattern pattern = {.workers = workers, .items = 4, .chunks = 1, .vocab = algorithm, .sides = sides};
    rig_ok(qn_generate(&order, "1f1b", &pattern, &err), &err);
    rig_cut(first, order->stages - order->sides, qn_model_layers(m));
    const qn_trainer_desc d = {.model = m,
                               .order = order,
                               .first_layer = first,
                               .mode = QN_MODE_F32,
                               .threads = 1,
                               .source = &wide_source,
                               .hyper = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .decay = 0.1, .clip = 1},
                               .seed = 5,
                               .driver = QN_DRIVE_LOOP,
                               .faults = {.dead_worker = -1}};
    rig_ok(qn_trainer_open(&t, &d, &err), &err);
    qn_order_close(order);
    for (int64_t step = 0; step < LONG; step++) {
        qn_step_result r;
        rig_ok(qn_trainer_step(t, step, 1e-3, &r, NULL, &err), &err);
        loss[step] = r.loss;
    }
    qn_trainer_close(t);
    qn_model_close(m);
}

static void two_hundred_steps_with_a_wide_vocabulary(void **unused)
{
    (void)unused;
    static double want[LONG], one[LONG], two[LONG], four[LONG];
    long_run(want, 1, 0, 0);
    long_run(one, 1, 1, 4);
    long_run(two, 4, 1, 4);
    long_run(four, 4, 2, 4);
    assert_memory_equal(one, two, sizeof one);
    double most = 0;
    for (int32_t i = 0; i < LONG; i++) {
        most = fmax(most, fabs(two[i] - want[i]) / want[i]);
        most = fmax(most, fabs(four[i] - want[i]) / want[i]);
    }
    print_message("largest difference of %d losses: %g of the loss\n", LONG, most);
    assert_true(most <= 1e-4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_kernels_give_the_same_bits_for_any_way),
        cmocka_unit_test(reference_kernels_give_the_same_bits_for_any_way),
        cmocka_unit_test(bf16_gives_the_same_bits_for_any_way),
        cmocka_unit_test(near_the_whole_model),
        cmocka_unit_test(goes_on_with_other_numbers),
        cmocka_unit_test(shards_are_equal),
        cmocka_unit_test(steps_after_the_first_allocate_nothing),
        cmocka_unit_test(any_allocation_may_fail_at_open),
        cmocka_unit_test(two_hundred_steps_with_a_wide_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

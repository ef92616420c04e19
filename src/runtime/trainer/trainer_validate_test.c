/* Post-validation (Qi et al. 2024, arXiv:2401.10241, section 4): whatever spike, infinity or NaN appears in whatever stage's
 * gradient at whatever step, the state after every step is that of the synchronous optimizer: bit for bit with a copy, within
 * rounding when undone in place. */
#include "support/fault_rig.h"
#include "support/sanitized.h"

enum { STEPS = QN_SANITIZED ? 13 : 16, ITEMS = 5 };

static double difference(const float *a, const float *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - b[i]) / (1e-3 + fabs((double)b[i])));
    return most;
}

/* Both ways, step by step, with the same fault; adds what was stepped early and taken back. */
static void compare(qn_speculated *sum, const qn_model *m, const rig_way *early, rig_fault f)
{
    rig_way late = *early;
    late.undo = QN_UNDO_NONE;
    qn_trainer *a = rig_open(m, QN_MODE_F32, early, ITEMS), *b = rig_open(m, QN_MODE_F32, &late, ITEMS);
    const size_t bytes = rig_state_bytes(m, sizeof(float));
    char *sa = malloc(bytes), *sb = malloc(bytes);
    assert_true(sa != NULL && sb != NULL);
    rig_spoil(a, f);
    rig_spoil(b, f);
    for (int64_t step = 0; step < STEPS; step++) {
        qn_step_result ra = {0}, rb = {0};
        const qn_status one = qn_trainer_step(a, step, RIG_LR, &ra, NULL, NULL),
                        two = qn_trainer_step(b, step, RIG_LR, &rb, NULL, NULL);
        assert_int_equal(one, two);
        assert_int_equal(two == QN_OK, !(step == f.step && f.value != 0.0 && !isfinite(f.value)));
        rig_state(sa, a, m, sizeof(float), 0);
        rig_state(sb, b, m, sizeof(float), 0);
        if (early->undo == QN_UNDO_COPY)
            assert_true(memcmp(sa, sb, bytes) == 0 && ra.loss == rb.loss && ra.grad_norm == rb.grad_norm);
        else
            assert_true(difference((const float *)(void *)sa, (const float *)(void *)sb, bytes / sizeof(float)) <= 1e-5);
        if (early->undo != QN_UNDO_COPY) rig_state(sb, a, m, sizeof(float), 1); /* so that one step's rounding is looked at */
    }
    const qn_speculated s = qn_trainer_speculated(a);
    qn_trainer_close(a);
    qn_trainer_close(b);
    free(sa);
    free(sb);
    sum->steps += s.steps;
    sum->wrong += s.wrong;
}

static const char *const transports[] = {"thread", "self", "sim"};
static const double values[] = {1e4, INFINITY, NAN};

/* Every stage, a scattered set of steps, each kind of fault. */
static void sweep(qn_undo undo, const char *schedule, int32_t workers, double clip)
{
    uint32_t turn = 0;
    qn_speculated sum = {0};
    for (int32_t c = 0; c < 2; c++) {
        qn_model *m = rig_model(&rig_config[c]);
        for (int32_t s = 0; s < workers; s++) {
            for (int64_t step = 0; step < STEPS; step++, turn++) {
                if (turn % (QN_SANITIZED ? 11 : 3) != 0 && step < QNI_PATIENCE + 1) continue;
                const rig_way way = {.schedule = schedule,
                                     .workers = workers,
                                     .threads = 1,
                                     .transport = transports[turn % 3],
                                     .seed = turn % 3 == 2 ? 1u + turn : 0,
                                     .undo = undo,
                                     .clip = clip};
                compare(&sum, m, &way,
                        (rig_fault){.step = step, .stage = s, .item = ITEMS - 1, .value = values[(turn + turn / 3) % 3]});
            }
        }
        qn_model_close(m);
    }
    assert_true(sum.steps > 0 && (workers == 1 || sum.wrong > 0));
    if (workers > 1)
        print_message("%s, %d workers: %lld steps taken early, %lld taken back\n", schedule, workers, (long long)sum.steps,
                      (long long)sum.wrong);
}

static void a_copy_gives_the_same_bits(void **unused)
{
    (void)unused;
    sweep(QN_UNDO_COPY, "zb-h1", 3, 100);
    sweep(QN_UNDO_COPY, "1f1b", 2, -1);
    sweep(QN_UNDO_COPY, "gpipe", 1, -1);
}

static void undone_in_place_is_close(void **unused)
{
    (void)unused;
    sweep(QN_UNDO_IN_PLACE, "zb-h1", 3, 100);
}

/* With clipping nobody steps early before ten steps in a row went unclipped. */
static void patience_comes_first(void **unused)
{
    (void)unused;
    qn_model *m = rig_model(&rig_config[0]);
    const rig_way way = {.schedule = "1f1b", .workers = 2, .threads = 1, .transport = "self", .undo = QN_UNDO_COPY, .clip = 1e9};
    qn_trainer *t = rig_open(m, QN_MODE_F32, &way, ITEMS);
    for (int64_t step = 0; step < QNI_PATIENCE + 2; step++) {
        qn_step_result r;
        assert_int_equal(qn_trainer_speculated(t).steps, step <= QNI_PATIENCE ? 0 : 2 * (step - QNI_PATIENCE));
        assert_int_equal(qn_trainer_step(t, step, RIG_LR, &r, NULL, NULL), QN_OK);
    }
    assert_int_equal(qn_trainer_speculated(t).wrong, 0);
    qn_trainer_close(t);
    qn_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_gives_the_same_bits),
        cmocka_unit_test(undone_in_place_is_close),
        cmocka_unit_test(patience_comes_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

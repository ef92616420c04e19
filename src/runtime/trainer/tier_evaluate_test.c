/* Evaluation between steps on devices with little memory: the bits of resident evaluation, in the arenas of training, which goes
 * on as if nothing had been. */
#include "support/device_rig.h"

#include "core/checked.h"

enum { BLOCKS = 4, PIECES = BLOCKS + 2, ITEMS = 3, STEPS = 4, COUNT = 150 };

static const qn_model_config models[] = RIG_DEVICE_MODELS(BLOCKS);

static qn_tokens *open_tokens(void)
{
    char path[512];
    const char *dir = getenv("QUERN_TEST_TMP");
    int32_t ids[COUNT];
    qn_tokens *t;
    qn_err err;
    for (int32_t i = 0; i < COUNT; i++) ids[i] = i * i % RIG_VOCAB;
    snprintf(path, sizeof(path), "%s/tier_evaluate.tokens", dir != NULL ? dir : ".");
    rig_ok(qn_tokens_write(path, ids, COUNT, RIG_VOCAB, &err), &err);
    rig_ok(qn_tokens_open(&t, path, &err), &err);
    remove(path);
    return t;
}

/* Pieces dealt to N devices, forward and back. */
static qn_order *dealt(int32_t N)
{
    qn_order *o;
    qn_err err;
    rig_ok(qn_order_open(&o, N, PIECES, ITEMS, &err), &err);
    for (int32_t i = 0; i < 2 * PIECES; i++) {
        const int32_t piece = i < PIECES ? i : 2 * PIECES - 1 - i;
        o->worker_of[piece] = piece % N;
        for (int32_t m = 0; m < ITEMS; m++) qn_order_push(o, piece % N, i < PIECES ? QN_OP_F : QN_OP_BW, piece, m);
    }
    return o;
}

static qn_trainer *open_on(const qn_model *m, const qn_order *o, bool threads, const qn_trainer_tiers *tiers)
{
    const rig_way way = {.threads = 1, .transport = threads ? "thread" : "self", .tiers = tiers};
    return rig_open_on(m, QN_MODE_F32, &way, o);
}

static void train(double loss[2 * STEPS], qn_trainer *t, const qn_tokens *tokens)
{
    const qn_split_range part = {.first = 0, .count = COUNT};
    for (int64_t step = 0; step < STEPS; step++) {
        qn_step_result r;
        qn_err err;
        int64_t targets;
        rig_ok(qn_trainer_step(t, step, RIG_LR, &r, NULL, &err), &err);
        rig_ok(qn_trainer_evaluate(t, tokens, part, 0, &loss[STEPS + step], &targets, &err), &err);
        assert_int_equal(targets, COUNT - 1);
        loss[step] = r.loss;
    }
    qn_trainer_close(t);
}

static void devices_evaluate_the_resident_bits(void **unused)
{
    (void)unused;
    qn_tokens *tokens = open_tokens();
    for (size_t c = 0; c < QN_COUNT(models); c++) {
        qn_model *m = rig_model(&models[c]);
        double want[2 * STEPS], got[2 * STEPS];
        qn_order *one = dealt(1);
        train(want, open_on(m, one, false, NULL), tokens);
        qn_order_close(one);
        assert_true(want[2 * STEPS - 1] != want[STEPS]);
        for (int32_t N = 1; N <= 3; N++) {
            qn_order *o = dealt(N);
            for (int32_t k = 1; k <= PIECES; k++) {
                const qn_trainer_tiers tiers = {.window = k, .replace = 1 + k / 2};
                train(got, open_on(m, o, k % 2 == 0, &tiers), tokens);
                assert_memory_equal(got, want, sizeof(want));
            }
            qn_order_close(o);
        }
        qn_model_close(m);
    }
    qn_tokens_close(tokens);
}

/* With the optimizer one step behind: what is evaluated is what the optimizer has made of all steps so far, to the bit of a
 * resident evaluation of the same parameters; and steps go on as if nobody had looked. */
static void a_lagged_run_evaluates_its_own_parameters(void **unused)
{
    (void)unused;
    qn_tokens *tokens = open_tokens();
    const qn_split_range part = {.first = 0, .count = COUNT};
    for (size_t c = 0; c < QN_COUNT(models); c++) {
        qn_model *m = rig_model(&models[c]);
        const size_t bytes = rig_state_bytes(m, sizeof(float));
        char *looked = malloc(bytes), *alone = malloc(bytes);
        qn_order *one = dealt(1);
        qn_trainer *resident = open_on(m, one, false, NULL);
        for (int32_t N = 1; N <= 3; N++) {
            qn_order *o = dealt(N);
            for (int32_t k = 1; k <= PIECES; k++) {
                const qn_trainer_tiers tiers = {.window = k, .replace = 1, .lag = 1};
                qn_trainer *a = open_on(m, o, k % 2 == 0, &tiers), *b = open_on(m, o, k % 2 == 1, &tiers);
                for (int64_t step = 0; step < STEPS; step++) {
                    qn_step_result x, y;
                    qn_err err;
                    double got, want;
                    rig_ok(qn_trainer_step(a, step, RIG_LR, &x, NULL, &err), &err);
                    rig_ok(qn_trainer_step(b, step, RIG_LR, &y, NULL, &err), &err);
                    assert_true(x.loss == y.loss && x.grad_norm == y.grad_norm);
                    if (step == 1) continue; /* not after every step */
                    rig_ok(qn_trainer_evaluate(a, tokens, part, 0, &got, NULL, &err), &err);
                    rig_state(looked, a, m, sizeof(float), 0);
                    rig_state(looked, resident, m, sizeof(float), 1);
                    rig_ok(qn_trainer_evaluate(resident, tokens, part, 0, &want, NULL, &err), &err);
                    if (got != want) fail_msg("N=%d k=%d step %d: %.17g, wanted %.17g", N, k, (int)step, got, want);
                }
                qn_trainer_settle(b);
                rig_state(alone, b, m, sizeof(float), 0);
                assert_memory_equal(looked, alone, bytes);
                qn_trainer_close(a);
                qn_trainer_close(b);
            }
            qn_order_close(o);
        }
        qn_trainer_close(resident);
        qn_order_close(one);
        free(looked);
        free(alone);
        qn_model_close(m);
    }
    qn_tokens_close(tokens);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(devices_evaluate_the_resident_bits),
                                       cmocka_unit_test(a_lagged_run_evaluates_its_own_parameters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Training with frozen parameters, and with adapters on a frozen base: their bits never change, they have neither gradients nor
 * moments, and the rest of the run has the same bits for any schedule, worker count and recomputation. */
#include "model/lora.h"
#include "support/sanitized.h"
#include "support/trainer_rig.h"

enum { STEPS = 4, ITEMS = 4 };

static const char *const patterns[][2] = {
    {"transformer.w*", "model.embed*"},           /* the first layer: nothing below to pass on to */
    {"*[!t]", "*norm*"},                          /* biases; norms */
    {"transformer.[wh]*", "model.[el]*"},         /* all but the end */
    {"transformer.h.1.*", "model.layers.1.*"},    /* the middle: gradients pass through */
    {"*.h.*.c_*.weight", "model.layers.*proj*t"}, /* all products of the blocks */
};

static qn_model *frozen_model(int32_t config, size_t i)
{
    qn_err err;
    qn_model *m = rig_model(&rig_config[config]);
    rig_ok(qn_model_freeze(m, &patterns[i][rig_config[config].arch], 1, &err), &err);
    return m;
}

/* The state after some steps; memory as the trainer accounts for it. */
static char *train(const qn_model *m, const rig_way *way, double loss[STEPS], qn_memory *memory)
{
    qn_err err;
    qn_trainer *t = rig_open(m, QN_MODE_F32, way, ITEMS);
    char *state = malloc(2 * rig_state_bytes(m, sizeof(float))); /* before and after */
    assert_non_null(state);
    rig_state(state, t, m, sizeof(float), 0);
    for (int64_t step = 0; step < STEPS; step++) {
        qn_step_result r;
        rig_ok(qn_trainer_step(t, step, RIG_LR, &r, NULL, &err), &err);
        loss[step] = r.loss;
    }
    rig_state(state + rig_state_bytes(m, sizeof(float)), t, m, sizeof(float), 0);
    *memory = qn_trainer_memory(t);
    qn_trainer_close(t);
    return state;
}

/* Frozen values are as they began; all others have moved. */
static void assert_moved(const qn_model *m, const char *state)
{
    const char *after = state + rig_state_bytes(m, sizeof(float));
    for (int32_t p = 0; p < qn_model_params(m); p++) {
        const size_t n = (size_t)qn_model_param(m, p)->count * sizeof(float);
        const bool same = memcmp(state, after, n) == 0;
        if (same != qn_model_param(m, p)->frozen) fail_msg("%s %s", qn_model_param(m, p)->name, same ? "stood still" : "moved");
        state += 3 * n;
        after += 3 * n;
    }
}

/* Bytes of the gradients of all parameters, a tied one's rows, and both moments on one worker: each array is padded to a cache
 * line. */
static void assert_memory(const qn_model *m, qn_memory got)
{
    int64_t grads = 0, moments = 0;
    qn_row_sums rows;
    for (int32_t i = 0; i < qn_model_params(m); i++) {
        const qn_param *p = qn_model_param(m, i);
        const int64_t bytes = (p->count * (int64_t)sizeof(float) + 63) / 64 * 64;
        int32_t uses = 0;
        for (int32_t u = 0; u < qn_model_uses(m); u++) uses += qn_model_use(m, u)->param == i;
        if (p->frozen) continue;
        qn_arena probe = QN_ARENA_PROBE;
        if (uses > 1) qn_row_sums_lay(&rows, &probe, p->dim[0], p->dim[1], rig_source.batch * rig_source.T, sizeof(float));
        grads += bytes + (int64_t)probe.used;
        moments += 2 * bytes;
    }
    assert_in_range(got.grads, grads - 63, grads); /* the last one needs no padding */
    assert_in_range(got.moments, moments - 63, moments);
}

static void same_bits_for_any_way(void **unused)
{
    static const char *const schedules[] = {"1f1b", "interleaved", "split"};
    (void)unused;
    uint32_t turn = 0;
    for (int32_t c = 0; c < 2; c++) {
        for (size_t i = 0; i < QN_COUNT(patterns); i++) {
            qn_model *m = frozen_model(c, i);
            const rig_way base = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self"};
            double want[STEPS], loss[STEPS];
            qn_memory memory;
            char *first = train(m, &base, want, &memory);
            assert_moved(m, first);
            assert_memory(m, memory);
            for (int32_t P = 1; P <= 3; P++) {
                for (size_t s = 0; s < QN_COUNT(schedules); s++, turn++) {
                    const rig_way way = {.schedule = schedules[s],
                                         .workers = P,
                                         .threads = 1,
                                         .recompute = (qn_recompute)(turn % 3),
                                         .transport = turn % 2 ? "thread" : "self"};
                    char *state = train(m, &way, loss, &memory);
                    assert_memory_equal(loss, want, sizeof(want));
                    assert_memory_equal(state, first, 2 * rig_state_bytes(m, sizeof(float)));
                    free(state);
                }
            }
            free(first);
            qn_model_close(m);
        }
    }
}

static void adapters_have_the_same_bits_for_any_way(void **unused)
{
    static const char *const schedules[] = {"1f1b", "interleaved", "split"}, *const transports[] = {"thread", "self", "sim"};
    const char *target = "all-linear";
    (void)unused;
    uint32_t turn = 0;
    for (int32_t c = 0; c < RIG_CONFIGS; c++) {
        qn_model_config config = rig_config[c];
        qn_err err;
        config.lora = (qn_lora){.rank = 2, .alpha = 8};
        rig_ok(qn_lora_targets(&config.lora.targets, config.arch, &target, 1, &err), &err);
        qn_model *m = rig_model(&config);
        const rig_way base = {.schedule = "gpipe", .workers = 1, .threads = 1, .transport = "self"};
        double want[STEPS], loss[STEPS];
        qn_memory memory;
        char *first = train(m, &base, want, &memory);
        assert_moved(m, first);
        assert_memory(m, memory);
        for (int32_t P = 1; P <= 4; P++) {
            for (size_t s = 0; s < QN_COUNT(schedules); s++, turn++) {
                const rig_way way = {.schedule = schedules[s],
                                     .workers = P,
                                     .threads = 1 + (int32_t)(turn % 2),
                                     .recompute = (qn_recompute)(turn % 3),
                                     .transport = transports[turn / 2 % 3]};
                char *state = train(m, &way, loss, &memory);
                assert_memory_equal(loss, want, sizeof(want));
                assert_memory_equal(state, first, 2 * rig_state_bytes(m, sizeof(float)));
                free(state);
            }
        }
        free(first);
        qn_model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_bits_for_any_way),
                                       cmocka_unit_test(adapters_have_the_same_bits_for_any_way)};
    return cmocka_run_group_tests_name("trainer_freeze", tests, NULL, NULL);
}

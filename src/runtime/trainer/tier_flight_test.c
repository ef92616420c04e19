/* Flights on devices with little memory: the bits of one step at a time, for windows, numbers of devices and both lags, under
 * random delays; a refused step changes nothing; what RoundPipe gains when steps follow each other. */
#include <math.h>

#include "support/sanitized.h"
#include "support/device_rig.h"
#include "trainer_internal.h"

enum { BLOCKS = 6, PIECES = BLOCKS + 2, ITEMS = 4, STEPS = QN_SANITIZED ? 4 : 9 };

static const qn_model_config models[] = RIG_DEVICE_MODELS(BLOCKS);

typedef struct way {
    int32_t devices, window, replace, lag, flight, groups;
    const char *transport;
    uint64_t jitter;
    double spoil; /* at step STEPS / 2 in the first piece; 0: not */
} way;

typedef struct journey {
    double loss[STEPS], norm[STEPS];
    char *state;
} journey;

static journey train(const qn_model *m, const way *x)
{
    journey out = {.state = malloc(rig_state_bytes(m, sizeof(float)))};
    qn_err err;
    qn_order *o = rig_dealt(x->devices, PIECES, ITEMS);
    const qn_trainer_tiers tiers = {.window = x->window, .replace = x->replace, .lag = x->lag};
    const rig_way on = {
        .threads = 1, .transport = x->transport, .groups = x->groups, .tiers = &tiers, .flight = x->flight, .jitter = x->jitter};
    qn_trainer *t = rig_open_on(m, QN_MODE_F32, &on, o);
    assert_non_null(out.state);
    t->spoil.step = STEPS / 2;
    t->spoil.value = x->spoil;
    double lr[STEPS];
    for (int32_t i = 0; i < STEPS; i++) lr[i] = RIG_LR;
    int32_t refused = 0;
    for (int32_t at = 0; at < STEPS;) {
        qn_step_result r[STEPS];
        int32_t done;
        const qn_status st = qn_trainer_flight(t, at, STEPS - at, lr + at, r, &done, NULL, &err);
        for (int32_t i = 0; i < done; i++) {
            out.loss[at + i] = r[i].loss;
            out.norm[at + i] = r[i].grad_norm;
        }
        at += done;
        if (st == QN_OK) break;
        assert_int_equal(st, QN_ENONFINITE);
        assert_int_equal(at, STEPS / 2);
        refused++;
        at++;
    }
    assert_int_equal(refused, x->spoil != 0.0);
    qn_trainer_settle(t);
    for (int32_t w = 0; w < o->workers; w++) assert_true(qn_trainer_high_water(t, w) <= qn_trainer_plan(t)->arena_bytes[w]);
    rig_state(out.state, t, m, sizeof(float), 0);
    qn_trainer_close(t);
    qn_order_close(o);
    return out;
}

static void same(const qn_model *m, const way *x)
{
    way alone = *x;
    alone.flight = 1;
    alone.transport = "self";
    alone.jitter = 0;
    const journey got = train(m, x), want = train(m, &alone);
    for (int32_t i = 0; i < STEPS; i++)
        if (got.loss[i] != want.loss[i] || got.norm[i] != want.norm[i])
            fail_msg("%d devices, window %d,%d, lag %d, flights of %d, %s, jitter %d: step %d has loss %.17g, wanted %.17g",
                     x->devices, x->window, x->replace, x->lag, x->flight, x->transport, (int)x->jitter, i, got.loss[i],
                     want.loss[i]);
    if (memcmp(got.state, want.state, rig_state_bytes(m, sizeof(float))) != 0)
        fail_msg("%d devices, window %d,%d, lag %d, flights of %d: another state", x->devices, x->window, x->replace, x->lag,
                 x->flight);
    free(got.state);
    free(want.state);
}

static void every_window_flies(void **state)
{
    (void)state;
    uint32_t turn = 0;
    for (size_t c = 0; c < QN_COUNT(models); c++) {
        qn_model *m = rig_model(&models[c]);
        for (int32_t N = 1; N <= 3; N++) {
            for (int32_t k = 1; k <= 4; k++) {
                for (int32_t r = 1; r <= k; r += 2) {
                    for (int32_t lag = 0; lag < 2; lag++, turn++) {
                        if (QN_SANITIZED && turn % 5 != 0) continue;
                        same(m, &(way){.devices = N,
                                       .window = k,
                                       .replace = r,
                                       .lag = lag,
                                       .flight = 2 + (int32_t)(turn % 4),
                                       .groups = 1 << turn / 2 % 3,
                                       .transport = turn / 2 % 2 == 0 ? "thread" : "self",
                                       .jitter = turn % 3});
                    }
                }
            }
        }
        qn_model_close(m);
    }
}

static void a_refused_step_changes_nothing(void **state)
{
    (void)state;
    for (size_t c = 0; c < QN_COUNT(models); c++) {
        qn_model *m = rig_model(&models[c]);
        for (int32_t lag = 0; lag < 2; lag++) {
            for (uint64_t jitter = 0; jitter < 3; jitter++) {
                same(m, &(way){.devices = 2,
                               .window = 2,
                               .replace = 1,
                               .lag = lag,
                               .flight = 3 + (int32_t)jitter,
                               .transport = jitter == 0 ? "self" : "thread",
                               .jitter = jitter,
                               .spoil = jitter == 1 ? INFINITY : NAN});
            }
        }
        qn_model_close(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_window_flies),
        cmocka_unit_test(a_refused_step_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* RoundPipe's cursor in training (arXiv:2604.27085): stages go round the devices from step to step, across flights of any length
 * and in several rounds within a step, and everything is to the bit what one worker gives; with a lagging optimizer, what one
 * device with that lag gives, whose definition is tier_trainer_test.c's. */
#include "support/malloc_guard.c"
#include "support/sanitized.h"
#include "support/device_rig.h"

enum { BLOCKS = 5, STEPS = QN_SANITIZED ? 7 : 20 };

static const qn_model_config models[] = RIG_DEVICE_MODELS(BLOCKS);

typedef struct way {
    int32_t devices, items, round, lag, flight, groups;
    bool uneven; /* cuts, and how many steps are asked for at a time */
    uint64_t jitter;
    const char *transport;
} way;

typedef struct journey {
    double loss[STEPS], norm[STEPS];
    char *state;
} journey;

/* A stage per layer each way: as many pieces as layers. Even: the generator's cuts for equal costs; uneven: three layers of the
 * forward are one stage. */
static qn_order *order_of(const way *x, int32_t layers)
{
    int32_t slot[2][RIG_MAX_STAGES];
    qn_order *o;
    qn_err err;
    for (int32_t i = 0; i < layers; i++) {
        slot[0][i] = i < 3 ? 0 : i - 2;
        slot[1][i] = 2 * layers - 4 - i;
    }
    qn_pattern pat = {.workers = x->devices, .items = x->items, .chunks = 1, .pieces = layers, .group = x->round};
    if (x->uneven) {
        pat.forward_slot = slot[0];
        pat.backward_slot = slot[1];
    }
    rig_ok(qn_generate(&o, "roundpipe", &pat, &err), &err);
    return o;
}

static qn_trainer *open_on(const qn_model *m, const qn_order *o, const way *x, const qn_trainer_tiers *tiers)
{
    const rig_way on = {
        .threads = 1, .transport = x->transport, .groups = x->groups, .tiers = tiers, .flight = x->flight, .jitter = x->jitter};
    assert_int_equal(o->stages, qn_model_layers(m));
    return rig_open_on(m, QN_MODE_F32, &on, o);
}

/* Every device is where every other was: after whole cycles all have moved the same and used the same memory. */
static void went_round(qn_trainer *t)
{
    const qn_plan *p = qn_trainer_run_plan(t);
    const int32_t period = qn_cursor_period(p);
    if (period == 1) return;
    for (int32_t w = 0; w < p->workers; w++) {
        assert_int_equal(qn_trainer_high_water(t, w), p->arena_bytes[w]);
        if (period < p->workers) continue;
        assert_int_equal(p->arena_bytes[w], p->arena_bytes[0]);
        if (STEPS % period == 0)
            assert_int_equal(qn_trainer_moved(t, w, QN_LANE_UP, QN_V_PARAM), qn_trainer_moved(t, 0, QN_LANE_UP, QN_V_PARAM));
    }
}

static journey train(const qn_model *m, const way *x)
{
    journey out = {.state = malloc(rig_state_bytes(m, sizeof(float)))};
    const qn_trainer_tiers tiers = {.window = 2, .replace = 1, .lag = x->lag};
    qn_order *o = order_of(x, qn_model_layers(m));
    qn_trainer *t = open_on(m, o, x, x->devices > 1 || x->lag > 0 ? &tiers : NULL);
    double lr[STEPS];
    qn_err err;
    assert_non_null(out.state);
    for (int32_t i = 0; i < STEPS; i++) lr[i] = RIG_LR;
    const int32_t cycle = qn_cursor_period(qn_trainer_run_plan(t));
    for (int32_t at = 0, turn = 0; at < STEPS; turn++) {
        qn_step_result r[STEPS];
        int32_t done, n = x->uneven ? 1 + turn % 4 : STEPS;
        if (at < cycle) n = cycle - at; /* one cycle first: what it takes is taken */
        n = n < STEPS - at ? n : STEPS - at;
        const bool guarded = at >= cycle && QN_SANITIZED == 0;
        if (guarded) qni_malloc_guard_begin();
        rig_ok(qn_trainer_flight(t, at, n, lr + at, r, &done, NULL, &err), &err);
        if (guarded) assert_int_equal(qni_malloc_guard_end(), 0);
        for (int32_t i = 0; i < done; i++) {
            out.loss[at + i] = r[i].loss;
            out.norm[at + i] = r[i].grad_norm;
        }
        at += done;
    }
    qn_trainer_settle(t);
    if (x->devices > 1) went_round(t);
    rig_state(out.state, t, m, sizeof(float), 0);
    qn_trainer_close(t);
    qn_order_close(o);
    return out;
}

static void same(const qn_model *m, const way *x, const journey *want)
{
    const journey got = train(m, x);
    for (int32_t i = 0; i < STEPS; i++)
        if (got.loss[i] != want->loss[i] || got.norm[i] != want->norm[i])
            fail_msg("%d devices, %d items in rounds of %d, lag %d, flights of %d, %d groups, jitter %d: step %d has loss %.17g, "
                     "wanted %.17g",
                     x->devices, x->items, x->round, x->lag, x->flight, x->groups, (int)x->jitter, i, got.loss[i], want->loss[i]);
    if (memcmp(got.state, want->state, rig_state_bytes(m, sizeof(float))) != 0)
        fail_msg("%d devices, %d items in rounds of %d, lag %d, flights of %d: another state", x->devices, x->items, x->round,
                 x->lag, x->flight);
    free(got.state);
}

static void all_rounds(const qn_model *m, int32_t items, int32_t lag, uint32_t *turn)
{
    {
        const int32_t G = items % 2 == 0 && *turn % 2 == 0 ? 2 : 1;
        const way alone = {.devices = 1, .items = items, .lag = lag, .flight = 1, .groups = G, .transport = "self"};
        const journey want = train(m, &alone);
        for (int32_t N = 2; N <= 4; N++) {
            for (int32_t round = 0; round < items; round = round == 0 ? N : round + 1, (*turn)++) {
                if (QN_SANITIZED && *turn % 6 != 0) continue;
                same(m,
                     &(way){.devices = N,
                            .items = items,
                            .round = round,
                            .lag = lag,
                            .flight = 1 + (int32_t)(*turn % 3),
                            .groups = G,
                            .uneven = *turn % 2 == 1,
                            .jitter = *turn % 5,
                            .transport = *turn % 3 == 2 ? "self" : "thread"},
                     &want);
            }
        }
        free(want.state);
    }
}

static void the_cursor_changes_no_bit(void **state)
{
    (void)state;
    static const int32_t items[] = {1, 3, 4, 6}; /* below, equal to and above the devices */
    uint32_t turn = 0;
    for (size_t c = 0; c < QN_COUNT(models); c++) {
        qn_model *m = rig_model(&models[c]);
        for (size_t i = 0; i < QN_COUNT(items); i++)
            for (int32_t lag = 0; lag < 2; lag++) all_rounds(m, items[i], lag, &turn);
        qn_model_close(m);
    }
    print_message("%u ways\n", turn);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cursor_changes_no_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

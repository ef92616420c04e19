/* Flights: every schedule's step in a row makes a plan that the validator and the token game accept, in the arenas of one step;
 * missing waits between steps are refused; what post-validation gains when no barrier stands between steps. */
#include "schedule_rig.h"

enum { STEPS = 3 };

static qn_plan *chain(const qn_plan *one, int32_t steps)
{
    qn_err err = {0};
    qn_plan *p = NULL;
    int32_t *place = calloc((size_t)steps * (size_t)one->tasks + 1, sizeof *place);
    if (qn_plan_chain(&p, one, steps, place, &err) != QN_OK) fail_msg("a flight of %d: %s", steps, err.text);
    for (int32_t i = 0; i < steps * one->tasks; i++) {
        const qn_task *x = &p->task[place[i]], *y = &one->task[i % one->tasks];
        const bool stays = y->lane == QN_LANE_HOST;
        const int32_t w = stays ? y->worker : qn_turned(y->worker, one->workers, qn_step_turn(one), i / one->tasks);
        assert_true(x->step == i / one->tasks && x->op == y->op && x->stage == y->stage && x->item == y->item);
        assert_true(x->worker == w && x->lane == y->lane && x->tag == y->tag);
    }
    free(place);
    return p;
}

static qn_lowering training(bool early)
{
    qn_lowering how = rig_plain();
    how.step_tasks = true;
    how.post_validate = how.ahead = early;
    how.stat_bytes = 8;
    return how;
}

/* Tasks and values are those of one step, as often as there are steps. */
static void same_steps(const qn_plan *p, const qn_plan *one)
{
    assert_int_equal(p->steps * one->tasks, p->tasks);
    assert_int_equal(p->steps * one->values, p->values);
    for (int32_t w = 0; w < p->workers; w++) assert_true(p->arena_bytes[w] >= one->arena_bytes[w]);
    if (one->turn == 0) assert_memory_equal(p->arena_bytes, one->arena_bytes, (size_t)p->workers * sizeof *p->arena_bytes);
    for (int32_t v = 0; v < p->values; v++) {
        qn_value x = one->value[v % one->values];
        if (!x.host) x.worker = qn_turned(x.worker, one->workers, qn_step_turn(one), v / one->values);
        assert_memory_equal(&p->value[v], &x, sizeof x);
    }
}

static void lives(const qn_plan *one)
{
    qn_plan *p = chain(one, STEPS), *again = NULL;
    qn_err err = {0};
    char *text = NULL;
    same_steps(p, one);
    assert_true(qn_token_game(p, 0));
    assert_int_equal(qn_plan_write(&text, p, &err), QN_OK);
    if (qn_plan_read(&again, text, strlen(text), &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_plan_validate(again, &err) != QN_OK) fail_msg("%s", err.text);
    char *twice = NULL;
    assert_int_equal(qn_plan_write(&twice, again, &err), QN_OK);
    assert_string_equal(text, twice);
    qn_free(text);
    qn_free(twice);
    qn_plan_close(again);
    qn_plan_close(p);
}

static void every_schedule_makes_flights(void **state)
{
    (void)state;
    int32_t turn = 0;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t P = 1; P <= 4; P++) {
            for (int32_t M = 1; M <= 8; M += 1 + M / 3) {
                if (!qn_generator_can(g, P, M) || rig_too_slow(g, P, M) || g->host_state) continue;
                for (int32_t early = 0; early < 2; early++, turn++) {
                    qn_lowering how = training(early == 1);
                    if (early && qn_generator_replicas(g) > 1) continue;
                    qn_order *o = rig_generate(g->name, P, M, g->usual_chunks, 0);
                    how.recompute = (qn_recompute)(turn / 2 % 3);
                    if (turn % 4 < 2 && qn_depth(qn_order_grid(o)) > 1) {
                        how.tied_owner = 0;
                        how.tied_replica = qn_depth(qn_order_grid(o)) - 1;
                        how.tied_bytes = 64;
                    }
                    qn_plan *p = rig_lower(o, &how);
                    lives(p);
                    qn_plan_close(p);
                    qn_order_close(o);
                }
            }
        }
    }
}

static void replicas_and_shards_make_flights(void **state)
{
    (void)state;
    for (int32_t R = 1; R <= 2; R++) {
        for (int32_t t = 1; t <= 2; t++) {
            for (int32_t zero1 = 0; zero1 < 2; zero1++) {
                qn_err err = {0};
                qn_order *base = rig_generate("1f1b", 2, 4, 1, 0), *o = NULL;
                qn_lowering how = training(false);
                how.zero1 = zero1 == 1;
                how.part_bytes = 64;
                how.tied_owner = 0;
                how.tied_replica = 1;
                how.tied_bytes = 64;
                if (qn_order_widen(&o, base, R, t, t, &err) != QN_OK) fail_msg("%s", err.text);
                qn_plan *p = rig_lower(o, &how);
                lives(p);
                qn_plan_close(p);
                qn_order_close(o);
                qn_order_close(base);
            }
        }
    }
}

/* The plan without the waits of step k for the one before, by its text. */
static void missing_waits_are_refused(void **state)
{
    (void)state;
    qn_lowering how = training(true);
    qn_err err = {0};
    how.tied_owner = 0;
    how.tied_replica = 1;
    how.tied_bytes = 64;
    qn_plan *one = rig_plan("zb-h1", 2, 3, 1, &how), *p = chain(one, 2);
    int32_t between = 0, refused = 0;
    for (int32_t t = 0; t < p->tasks; t++) {
        qn_task *x = &p->task[t];
        for (int32_t i = 0; i < x->wait.count; i++) {
            int32_t *from = &p->ref[x->wait.first + i];
            if (p->task[*from].step == x->step) continue;
            const int32_t was = *from;
            *from = p->lane[p->task[was].worker][p->task[was].lane][0]; /* the first of the lane in its place */
            refused += *from != was && qn_plan_validate(p, &err) == QN_ESCHEDULE;
            between += *from != was;
            *from = was;
        }
    }
    assert_true(between > 0 && refused > 0);
    assert_int_equal(qn_plan_validate(p, &err), QN_OK);
    print_message("%d of %d waits between two steps are needed by themselves\n", refused, between);
    for (int32_t t = 0; t < p->tasks; t++) { /* none at all */
        qn_task *x = &p->task[t];
        for (int32_t i = 0; i < x->wait.count; i++)
            if (p->task[p->ref[x->wait.first + i]].step != x->step) p->ref[x->wait.first + i] = p->ref[x->wait.first];
        if (x->wait.count > 0 && p->task[p->ref[x->wait.first]].step != x->step) x->wait.count = 0;
    }
    assert_int_equal(qn_plan_validate(p, &err), QN_ESCHEDULE);
    qn_plan *twice = NULL;
    assert_int_equal(qn_plan_chain(&twice, p, 2, NULL, &err), QN_EINVAL);
    assert_int_equal(qn_plan_chain(&twice, one, 0, NULL, &err), QN_ERANGE);
    assert_int_equal(qn_plan_chain(&twice, one, QN_MAX_STEPS + 1, NULL, &err), QN_ERANGE);
    assert_null(twice);
    qn_plan_close(p);
    qn_plan_close(one);
}

/* ---- what is gained: ticks that a worker idles per step when steps follow each other */
static int64_t makespan(const qn_plan *p, int64_t F, int64_t B, int64_t W)
{
    int64_t *c = rig_split_costs(p, F, B, W, F, 0);
    const int64_t m = rig_simulate(p, c, 0, 0)->makespan;
    free(c);
    return m;
}

static int64_t steady_idle(const char *name, int32_t P, int32_t M, int32_t v, bool early, int64_t work, int64_t *alone)
{
    const qn_lowering how = training(early);
    qn_plan *one = rig_plan(name, P, M, v, &how), *few = chain(one, 4), *more = chain(one, 8);
    const int64_t each = (makespan(more, 1, 1, 1) - makespan(few, 1, 1, 1)) / 4;
    *alone = makespan(one, 1, 1, 1) - work;
    qn_plan_close(one);
    qn_plan_close(few);
    qn_plan_close(more);
    return each - work;
}

/* Workers idle within their spans only (arXiv:2401.10241, table 1): with a barrier each step also has the parallelogram's sides.
 */
static void post_validated_steps_lose_their_idle_time(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t v, idle; /* times P - 1 */
    } of[] = {{"1f1b", 1, 3}, {"zb-h1", 1, 1}, {"zb-1p", 1, 1}, {"zb-h2", 1, 0}, {"zb-2p", 1, 0}, {"zb-v", 2, 0}};
    for (size_t i = 0; i < QN_COUNT(of); i++) {
        for (int32_t P = 2; P <= 8; P += 2) {
            const int32_t M = 3 * P;
            int64_t alone;
            const int64_t late = steady_idle(of[i].name, P, M, of[i].v, false, 3 * M * of[i].v, &alone);
            assert_int_equal(late, alone);
            assert_int_equal(alone, qn_max32(of[i].idle, 1) * (P - 1));
            const int64_t early = steady_idle(of[i].name, P, M, of[i].v, true, 3 * M * of[i].v, &alone);
            assert_int_equal(early, of[i].idle * (P - 1));
        }
    }
}

/* ---- tiers: devices with little memory, the optimizer on the host */
static qn_plan *on_devices(int32_t N, int32_t pieces, int32_t M, int32_t round, int32_t lag, int32_t groups)
{
    qn_err err = {0};
    qn_order *o = NULL;
    const qn_pattern pat = {.workers = N, .items = M, .chunks = 1, .pieces = pieces, .group = round};
    if (qn_generate(&o, N == 1 && round == 0 ? "superpipe" : "roundpipe", &pat, &err) != QN_OK) fail_msg("%s", err.text);
    const qn_tiers tiers = {.window = 2, .replace = 1, .lag = lag, .groups = groups};
    qn_lowering how = training(false);
    how.tiers = &tiers;
    qn_plan *p = rig_lower(o, &how);
    qn_order_close(o);
    return p;
}

/* A lagging optimizer leaves no barrier, and the cursor, which goes on from step to step, evens the workers out: steps follow
 * each other as fast as the workers' mean goes, or nearly (RoundPipe, arXiv:2604.27085). Without a lag every step waits for the
 * norm. */
static void devices_fly(void **state)
{
    (void)state;
    enum { FEW = 12 }; /* every cursor is where it was after so many */
    int32_t at_best = 0, faster = 0, cases = 0;
    for (int32_t N = 1; N <= 4; N++) {
        for (int32_t S = N < 2 ? 2 : N; S <= 9; S++) {
            for (int32_t lag = 0; lag < 2; lag++) {
                qn_plan *one = on_devices(N, S, 4, 0, lag, 1), *few = chain(one, FEW), *more = chain(one, 2 * FEW);
                int64_t t[5], busy = 0;
                const int32_t turn = one->turn;
                one->turn = 0;
                qn_plan *bound = chain(one, FEW), *bound2 = chain(one, 2 * FEW);
                one->turn = turn;
                const qn_plan *p[] = {one, few, more, bound, bound2};
                for (int i = 0; i < 5; i++) {
                    int64_t *c = rig_split_costs(p[i], 1, 1, 1, 1, 0);
                    const qn_trace_summary *sum = rig_simulate(p[i], c, 0, 0);
                    t[i] = sum->makespan;
                    if (i == 0) busy = sum->busy_total;
                    free(c);
                }
                assert_int_equal(FEW % qn_cursor_period(one), 0);
                if (lag == 0) assert_int_equal(t[2] - t[1], FEW * t[0]);
                assert_true(FEW * busy <= N * (t[2] - t[1]) && t[2] - t[1] <= FEW * t[0]);
                const int64_t each = t[2] - t[1], stays = t[4] - t[3];
                assert_true(each <= stays); /* never slower than stages that stay on their devices */
                cases += lag == 1;
                at_best += lag == 1 && FEW * busy == N * each;
                faster += lag == 1 && each < stays;
                qn_plan_close(bound);
                qn_plan_close(bound2);
                qn_plan_close(one);
                qn_plan_close(few);
                qn_plan_close(more);
            }
        }
    }
    print_message("%d of %d without idle time; %d faster than with stages that stay\n", at_best, cases, faster);
    assert_true(at_best >= 16 && faster >= 7); /* the others have stages of unequal length */
}

/* Rounds, cursors and groups of gradients on devices: plans and flights that live, as texts too. */
static void cursors_live(void **state)
{
    (void)state;
    int32_t turn = 0;
    for (int32_t N = 1; N <= 4; N++) {
        for (int32_t S = 2; S <= 7; S++) {
            for (int32_t round = 0; round <= 5; round++, turn++) {
                if (round > 0 && round < N) continue;
                for (int32_t G = 1; G <= 2; G++) {
                    qn_plan *one = on_devices(N, S, 6, round, turn % 2, G);
                    assert_true(qn_token_game(one, 0));
                    lives(one);
                    qn_plan_close(one);
                }
            }
        }
    }
}

/* Without one of the waits between steps whose layouts are those of other devices, a flight is refused. */
static void cursors_need_their_waits(void **state)
{
    (void)state;
    qn_err err = {0};
    int32_t between = 0, refused = 0;
    for (int32_t N = 2; N <= 4; N++) {
        qn_plan *one = on_devices(N, 4, 3, 0, 1, 1), *p = chain(one, 4);
        for (int32_t t = 0; t < p->tasks; t++) {
            for (int32_t i = 0; i < p->task[t].wait.count; i++) {
                int32_t *from = &p->ref[p->task[t].wait.first + i];
                const int32_t was = *from;
                *from = p->lane[p->task[was].worker][p->task[was].lane][0];
                if (p->task[was].step < p->task[t].step && *from != was) {
                    between++;
                    refused += qn_plan_validate(p, &err) == QN_ESCHEDULE;
                }
                *from = was;
            }
        }
        qn_plan_close(one);
        qn_plan_close(p);
    }
    print_message("%d of %d waits between steps of a cursor are needed by themselves\n", refused, between);
    assert_true(2 * refused > between);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_makes_flights),
        cmocka_unit_test(replicas_and_shards_make_flights),
        cmocka_unit_test(missing_waits_are_refused),
        cmocka_unit_test(post_validated_steps_lose_their_idle_time),
        cmocka_unit_test(devices_fly),
        cmocka_unit_test(cursors_live),
        cmocka_unit_test(cursors_need_their_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

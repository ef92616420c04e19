/* Random plans: the validator's graph and the token game must never disagree; and lowering finds a live plan for every order that
 * can run at all. */
#include "schedule_rig.h"

#include "schedule/schedule_internal.h"

static uint64_t seed_of_run(void)
{
    const char *s = getenv("QUERN_TEST_SEED");
    const uint64_t seed = s != NULL ? strtoull(s, NULL, 10) : 20240607u;
    print_message("seed %llu (QUERN_TEST_SEED)\n", (unsigned long long)seed);
    return seed;
}

static int32_t below(qn_rng *r, int32_t n)
{
    return (int32_t)qn_rng_below(r, (uint64_t)n);
}

/* Some tasks swapped with others at most reach away: 0 none, large: any order. */
static void shuffle(qn_order_task *t, int32_t n, int32_t reach, qn_rng *r)
{
    for (int32_t i = 0; reach > 0 && i + 1 < n; i++) {
        const int32_t j = i + below(r, qn_min32(reach, n - i));
        const qn_order_task x = t[i];
        t[i] = t[j];
        t[j] = x;
    }
}

static qn_order *random_order(qn_rng *r)
{
    static const char *const name[] = {"gpipe", "1f1b", "interleaved"};
    const int32_t k = below(r, 3), P = 1 + below(r, 6), M = 1 + below(r, 12);
    qn_order *o = rig_generate(name[k], P, M, k == 1 ? 1 : 1 + below(r, 2), 0);
    static const int32_t reach[] = {0, 2, 2, 2, 3, 100};
    for (int32_t w = 0; w < P; w++) {
        if (below(r, P) == 0) shuffle(o->task[w], o->count[w], reach[below(r, QN_COUNT(reach))], r);
    }
    return o;
}

/* A plan straight from the order: messages where chance puts them, capacities 0 to 2, one lane or three, waits that need not make
 * sense. */
static qn_plan *random_plan(const qn_order *o, qn_rng *r)
{
    qn_err err = {0};
    qni_builder b = {0};
    const int32_t S = o->stages, M = o->items;
    const bool one_lane = below(r, 3) == 0;
    const int32_t jitter = below(r, 3);
    int32_t *act = calloc((size_t)(S * M), sizeof *act), *grad = calloc((size_t)(S * M), sizeof *grad),
            *channel = calloc((size_t)(2 * S), sizeof *channel);
    for (int32_t s = 1; s < S; s++) {
        const int32_t a = o->worker_of[s - 1], c = o->worker_of[s];
        channel[2 * s] = qni_add_channel(&b, (qn_channel){a, c, QN_V_ACT, s, below(r, 3), 1});
        channel[2 * s + 1] = qni_add_channel(&b, (qn_channel){c, a, QN_V_GRAD, s, below(r, 3), 1});
        for (int32_t m = 0; m < M; m++) {
            act[s * M + m] = qni_add_value(&b, QN_V_ACT, s, m, c, 1);
            grad[(s - 1) * M + m] = qni_add_value(&b, QN_V_GRAD, s - 1, m, a, 1);
        }
    }
    for (int32_t w = 0; w < o->workers; w++) {
        for (int32_t i = 0; i < o->count[w]; i++) {
            const qn_order_task x = o->task[w][i];
            const bool forward = x.op == QN_OP_F;
            const int32_t t = qni_add_task(&b, x.op, x.stage, x.item, w, QN_LANE_COMP), to = forward ? x.stage + 1 : x.stage - 1;
            const bool needs = forward ? x.stage > 0 : x.stage < S - 1, gives = forward ? to < S : to >= 0;
            b.key[t] = 16 * i + 8;
            if (needs) {
                const int32_t from = forward ? x.stage - 1 : x.stage + 1,
                              v = forward ? act[x.stage * M + x.item] : grad[x.stage * M + x.item];
                qni_add_link(&b, t, QNI_IN, v);
                if (o->worker_of[from] != w) {
                    const int32_t recv = qni_add_task(&b, QN_OP_RECV, x.stage, x.item, w, one_lane ? QN_LANE_COMP : QN_LANE_RECV);
                    b.key[recv] = 16 * i + 4 - 16 * below(r, 1 + 2 * jitter) + below(r, 3);
                    b.task[recv].channel = channel[forward ? 2 * x.stage : 2 * x.stage + 3];
                    qni_add_link(&b, recv, QNI_OUT, v);
                }
            }
            if (!gives) continue;
            const int32_t v = forward ? act[to * M + x.item] : grad[to * M + x.item];
            if (o->worker_of[to] == w) {
                qni_add_link(&b, t, QNI_OUT, v);
                continue;
            }
            const int32_t sent = qni_add_value(&b, forward ? QN_V_ACT : QN_V_GRAD, to, x.item, w, 1);
            const int32_t send = qni_add_task(&b, QN_OP_SEND, to, x.item, w, one_lane ? QN_LANE_COMP : QN_LANE_SEND);
            b.key[send] = 16 * (i + below(r, 1 + jitter)) + 12;
            b.task[send].channel = channel[forward ? 2 * to : 2 * x.stage + 1];
            qni_add_link(&b, t, QNI_OUT, sent);
            qni_add_link(&b, send, QNI_IN, sent);
        }
    }
    qn_plan *p = NULL;
    assert_int_equal(qni_builder_plan(&p, &b, o->workers, S, M, o->worker_of, NULL, &err), QN_OK);
    if (qn_plan_finish(p, &err) != QN_OK) fail_msg("%s", err.text);
    int32_t(*extra)[QN_LANES] = malloc(((size_t)p->tasks + 1) * sizeof *extra);
    memset(extra, 0xff, (size_t)p->tasks * sizeof *extra);
    for (int32_t k = below(r, 3); k > 0 && p->tasks > 0; k--) { /* as slot reuse would add */
        const int32_t t = below(r, p->tasks), lane = below(r, QN_LANES), count = p->lane[p->task[t].worker][lane][1];
        if (lane != p->task[t].lane && count > 0) extra[t][lane] = below(r, count);
    }
    if (qni_plan_finish(p, (const int32_t(*)[QN_LANES])extra, &err) != QN_OK) fail_msg("%s", err.text);
    free(extra);
    free(act);
    free(grad);
    free(channel);
    qni_builder_fini(&b);
    return p;
}

static void graph_and_token_game_agree(void **state)
{
    (void)state;
    const uint64_t seed = seed_of_run();
    int32_t live_plans = 0;
    enum { PLANS = 10000 };
    for (uint32_t k = 0; k < PLANS; k++) {
        qn_rng r = qn_rng_of((qn_rng_key){.seed = seed, .sample = k});
        qn_order *o = random_order(&r);
        qn_plan *p = random_plan(o, &r);
        qni_graph g;
        qn_err err = {0};
        assert_int_equal(qni_graph_open(&g, p, 0, 0, &err), QN_OK);
        const bool live = qni_graph_live(&g, &err) == QN_OK, played = qn_token_game(p, 0);
        if (live != played)
            fail_msg("seed %llu plan %u: validator says %s, token game %s: %s", (unsigned long long)seed, k,
                     live ? "live" : "dead", played ? "live" : "dead", err.text);
        if (!live) assert_non_null(strstr(err.text, "deadlock: "));
        live_plans += live;
        qni_graph_close(&g);
        qn_plan_close(p);
        qn_order_close(o);
    }
    print_message("%d plans, %d live\n", PLANS, live_plans);
    assert_in_range(live_plans, PLANS / 10, PLANS - PLANS / 10); /* both kinds were seen */
}

/* Can the compute tasks run when messages cost nothing and wait for nobody? Repeated sweeps over the order alone. */
static bool order_can_run(const qn_order *o)
{
    const int32_t M = o->items;
    bool *forward = calloc((size_t)(o->stages * M), 1), *backward = calloc((size_t)(o->stages * M), 1), moved = true, all = true;
    int32_t *next = calloc((size_t)o->workers, sizeof *next);
    while (moved) {
        moved = false;
        for (int32_t w = 0; w < o->workers; w++) {
            for (; next[w] < o->count[w]; next[w]++, moved = true) {
                const qn_order_task *t = &o->task[w][next[w]];
                const int32_t cell = t->stage * M + t->item;
                if (t->op == QN_OP_F && t->stage > 0 && !forward[cell - M]) break;
                if (t->op != QN_OP_F && (!forward[cell] || (t->stage < o->stages - 1 && !backward[cell + M]))) break;
                *(t->op == QN_OP_F ? &forward[cell] : &backward[cell]) = true;
            }
        }
    }
    for (int32_t w = 0; w < o->workers; w++) all = all && next[w] == o->count[w];
    free(forward);
    free(backward);
    free(next);
    return all;
}

static void lowering_runs_what_can_run(void **state)
{
    (void)state;
    const uint64_t seed = seed_of_run();
    int32_t lowered = 0, refused = 0, incomplete = 0;
    for (uint32_t k = 0; k < 3000; k++) {
        qn_rng r = qn_rng_of((qn_rng_key){.seed = seed, .sample = k, .step = 1});
        qn_order *o = random_order(&r);
        const qn_lowering how = {.depth = 1 + below(&r, 2),
                                 .slot_bytes = 1 + below(&r, 3),
                                 .act_bytes = NULL,
                                 .step_tasks = below(&r, 2) != 0,
                                 .recompute = (qn_recompute)below(&r, 3),
                                 .tied_owner = 0,
                                 .tied_replica = o->stages - 1,
                                 .tied_bytes = 7};
        qn_plan *p = NULL;
        qn_err err = {0};
        const qn_status st = qn_lower(&p, o, &how, &err);
        const bool can = order_can_run(o);
        if (st == QN_OK) {
            lowered++;
            assert_true(can);
            assert_true(qn_token_game(p, 0));
        } else {
            assert_int_equal(st, QN_ESCHEDULE);
            const bool dead = strstr(err.text, "deadlock: ") != NULL;
            if (dead == can && dead) fail_msg("seed %llu order %u can run, but: %s", (unsigned long long)seed, k, err.text);
            if (!dead && strstr(err.text, "comes before") == NULL) fail_msg("order %u: unexpected message: %s", k, err.text);
            refused += dead;
            incomplete += !dead;
        }
        qn_plan_close(p);
        qn_order_close(o);
    }
    print_message("%d lowered, %d refused as dead, %d as out of order\n", lowered, refused, incomplete);
    assert_true(lowered > 100 && refused > 10 && incomplete > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(graph_and_token_game_agree),
                                       cmocka_unit_test(lowering_runs_what_can_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

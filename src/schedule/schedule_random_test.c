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

/* A third of the orders has replicas, shards, or both; a quarter has backwards on other workers than forwards. */
static qn_order *random_order(qn_rng *r)
{
    static const char *const name[] = {"gpipe", "1f1b", "interleaved", "roundpipe"};
    const int32_t k = below(r, QN_COUNT(name)), P = 1 + below(r, 6), M = 1 + below(r, 12);
    qn_order *o = rig_generate(name[k], P, M, k == 1 ? 1 : 1 + below(r, 2), 0);
    if (below(r, 3) == 0) {
        static const int32_t wide[][3] = {{2, 1, 1}, {1, 2, 2}, {1, 2, 1}, {2, 2, 2}, {1, 4, 2}};
        const int32_t *x = wide[below(r, QN_COUNT(wide))];
        qn_order *base = o;
        assert_int_equal(qn_order_widen(&o, base, x[0], x[1], x[2], NULL), QN_OK);
        qn_order_close(base);
    }
    static const int32_t reach[] = {0, 2, 2, 2, 3, 100};
    for (int32_t w = 0; w < o->workers; w++) {
        if (below(r, o->workers) == 0) shuffle(o->task[w], o->count[w], reach[below(r, QN_COUNT(reach))], r);
    }
    return o;
}

static int32_t place(const qn_order *o, int32_t op, int32_t stage)
{
    return op == QN_OP_F ? o->worker_of[stage] : qn_backward_worker(o->worker_of, o->backward_of, stage);
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
    const qn_grid g = qn_order_grid(o);
    for (int32_t s = 1; s < S; s++) {
        if (qn_first_in_column(g, s)) continue;
        const int32_t a = o->worker_of[s - 1], c = o->worker_of[s], back_a = place(o, QN_OP_B, s - 1),
                      back_c = place(o, QN_OP_B, s);
        channel[2 * s] = qni_add_channel(&b, (qn_channel){a, c, QN_V_ACT, s, below(r, 3), 1, 0, 0});
        channel[2 * s + 1] = qni_add_channel(&b, (qn_channel){back_c, back_a, QN_V_GRAD, s, below(r, 3), 1, 0, 0});
        for (int32_t m = 0; m < M; m++) {
            act[s * M + m] = qni_add_value(&b, QN_V_ACT, s, m, c, 1);
            grad[(s - 1) * M + m] = qni_add_value(&b, QN_V_GRAD, s - 1, m, back_a, 1);
        }
    }
    for (int32_t w = 0; w < o->workers; w++) {
        for (int32_t i = 0; i < o->count[w]; i++) {
            const qn_order_task x = o->task[w][i];
            const bool forward = x.op == QN_OP_F;
            const int32_t t = qni_add_task(&b, x.op, x.stage, x.item, w, QN_LANE_COMP), to = forward ? x.stage + 1 : x.stage - 1;
            const bool first = qn_first_in_column(g, x.stage), last = qn_last_in_column(g, x.stage);
            const bool again = x.op == QN_OP_R; /* of what is there already */
            const bool needs = !again && (forward ? !first : !last), gives = !again && (forward ? !last : !first);
            b.key[t] = 16 * i + 8;
            if (needs) {
                const int32_t from = forward ? x.stage - 1 : x.stage + 1,
                              v = forward ? act[x.stage * M + x.item] : grad[x.stage * M + x.item];
                qni_add_link(&b, t, QNI_IN, v);
                if (place(o, x.op, from) != w) {
                    const int32_t recv = qni_add_task(&b, QN_OP_RECV, x.stage, x.item, w, one_lane ? QN_LANE_COMP : QN_LANE_RECV);
                    b.key[recv] = 16 * i + 4 - 16 * below(r, 1 + 2 * jitter) + below(r, 3);
                    b.task[recv].channel = channel[forward ? 2 * x.stage : 2 * x.stage + 3];
                    qni_add_link(&b, recv, QNI_OUT, v);
                }
            }
            if (!gives) continue;
            const int32_t v = forward ? act[to * M + x.item] : grad[to * M + x.item];
            if (place(o, x.op, to) == w) {
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
    if (o->backward_of != NULL) {
        p->backward_of = qn_malloc((size_t)S, sizeof *p->backward_of);
        memcpy(p->backward_of, o->backward_of, (size_t)S * sizeof *p->backward_of);
    }
    p->columns = o->columns;
    p->shards = o->shards;
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

/* The tasks from i of worker w on that are one op of one item on shards of a stage. */
static int32_t joint_run(const qn_order *o, int32_t w, int32_t i)
{
    const qn_grid g = qn_order_grid(o);
    const qn_order_task *list = o->task[w], *t = &list[i];
    int32_t n = 1;
    while (o->shards > 1 && i + n < o->count[w] && list[i + n].op == t->op && list[i + n].item == t->item &&
           qn_chain_stage(g, list[i + n].stage) == qn_chain_stage(g, t->stage))
        n++;
    return n;
}

/* Is every member of the joint set among those that stand at the heads of the workers? */
static bool all_at_heads(const qn_order *o, const int32_t *next, const qn_order_task *t)
{
    const qn_grid g = qn_order_grid(o);
    int32_t found = 0;
    for (int32_t w = 0; w < o->workers; w++) {
        if (next[w] >= o->count[w]) continue;
        const qn_order_task *x = &o->task[w][next[w]];
        if (x->op != t->op || x->item != t->item || qn_chain_stage(g, x->stage) != qn_chain_stage(g, t->stage)) continue;
        found += joint_run(o, w, next[w]);
    }
    return found == o->shards;
}

/* Runs the task at the worker's head, with its partners of other shards, if all can. */
static bool run_heads(const qn_order *o, int32_t *next, int32_t w, bool *forward, bool *backward)
{
    const qn_grid g = qn_order_grid(o);
    const qn_order_task t = o->task[w][next[w]];
    const int32_t M = o->items;
    if (o->shards > 1 && !all_at_heads(o, next, &t)) return false;
    for (int pass = 0; pass < 2; pass++) { /* looks, then runs */
        for (int32_t v = 0; v < o->workers; v++) {
            if (next[v] >= o->count[v] || (o->shards == 1 && v != w)) continue;
            const qn_order_task *x = &o->task[v][next[v]];
            if (x->op != t.op || x->item != t.item || qn_chain_stage(g, x->stage) != qn_chain_stage(g, t.stage)) continue;
            const int32_t n = joint_run(o, v, next[v]);
            for (int32_t i = 0; i < n; i++) {
                const int32_t s = x[i].stage, cell = s * M + t.item;
                if (t.op == QN_OP_R) {
                    if (pass == 0 && !forward[cell]) return false;
                } else if (pass == 1) {
                    *(t.op == QN_OP_F ? &forward[cell] : &backward[cell]) = true;
                } else if (t.op == QN_OP_F) {
                    if (!qn_first_in_column(g, s) && !forward[cell - M]) return false;
                } else if (!forward[cell] || (!qn_last_in_column(g, s) && !backward[cell + M])) {
                    return false;
                }
            }
            if (pass == 1) next[v] += n;
        }
    }
    return true;
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
            while (next[w] < o->count[w] && run_heads(o, next, w, forward, backward)) moved = true;
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
                                 .step_tasks = below(&r, 2) != 0 && o->backward_of == NULL, /* state is not on a host */
                                 .recompute = (qn_recompute)below(&r, 3),
                                 .tied_owner = 0,
                                 .tied_replica = o->stages / o->columns - 1,
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

/* Columns: replicas and shards of a chain. Every schedule widened validates, runs in the token game, and comes back from its
 * text; what does not fit is refused with the tasks named. */
#include "schedule_rig.h"

#include "schedule/schedule_internal.h"

static qn_order *widened(const char *name, int32_t P, int32_t M, int32_t replicas, int32_t shards, int32_t shard_workers)
{
    qn_err err = {0};
    qn_order *o = NULL, *base = rig_generate(name, P, M, qn_generator_find(name)->usual_chunks, 0);
    if (qn_order_widen(&o, base, replicas, shards, shard_workers, &err) != QN_OK) fail_msg("%s", err.text);
    qn_order_close(base);
    return o;
}

static int64_t makespan(const qn_plan *p)
{
    int64_t *c = rig_costs(p, 1, 2, 1, 0);
    const int64_t m = rig_simulate(p, c, 0, 0)->makespan;
    free(c);
    return m;
}

static void assert_text_keeps(const qn_order *o, const qn_plan *p)
{
    qn_err err = {0};
    char *a = NULL, *b = NULL;
    qn_order *read = NULL, *of_plan = NULL;
    qn_plan *again = NULL;
    assert_int_equal(qn_order_write(&a, o, &err), QN_OK);
    if (qn_order_read(&read, a, strlen(a), &err) != QN_OK) fail_msg("%s", err.text);
    assert_int_equal(qn_order_write(&b, read, &err), QN_OK);
    assert_string_equal(a, b);
    qn_free(a);
    qn_free(b);
    assert_int_equal(qn_plan_write(&a, p, &err), QN_OK);
    if (qn_plan_read(&again, a, strlen(a), &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_plan_validate(again, &err) != QN_OK) fail_msg("%s", err.text);
    assert_int_equal(qn_plan_write(&b, again, &err), QN_OK);
    assert_string_equal(a, b);
    assert_int_equal(qn_plan_order(&of_plan, again, &err), QN_OK);
    assert_int_equal(of_plan->columns, o->columns);
    assert_int_equal(of_plan->shards, o->shards);
    qn_free(a);
    qn_free(b);
    qn_order_close(of_plan);
    qn_order_close(read);
    qn_plan_close(again);
}

/* With a worker per shard the time is that of the base; with all shards on one worker every task counts t times. */
static void every_schedule_widens(void **state)
{
    static const int32_t wide[][3] = {{1, 1, 1}, {2, 1, 1}, {4, 1, 1}, {1, 2, 2}, {1, 2, 1}, {2, 2, 1}, {2, 4, 2}};
    (void)state;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        const qn_lowering how = {.tied_owner = QN_NONE, .tied_replica = QN_NONE, .recompute = QN_RECOMPUTE_EXCEPT_LAST};
        const int32_t P = 2, M = 4, own_columns = qn_generator_replicas(g);
        if (g->max_workers > 0) continue;
        qn_plan *one = rig_plan(g->name, P, M, g->usual_chunks, &how);
        for (size_t i = 0; i < QN_COUNT(wide); i++) {
            const int32_t R = wide[i][0], t = wide[i][1], own = wide[i][1] / wide[i][2];
            qn_order *o = widened(g->name, P, M, R, t, wide[i][2]);
            assert_int_equal(o->columns, R * t * own_columns);
            assert_int_equal(o->items, R * M);
            assert_int_equal(o->workers, R * P * wide[i][2]);
            qn_plan *p = rig_lower(o, &how);
            assert_true(qn_token_game(p, 0));
            if (makespan(p) != makespan(one) * own)
                fail_msg("%s, %d replicas of %d shards: %lld ticks", g->name, R, t, (long long)makespan(p));
            assert_text_keeps(o, p);
            qn_plan_close(p);
            qn_order_close(o);
        }
        qn_plan_close(one);
    }
}

static void assert_refused(const qn_order *o, qn_status want, const char *const *words)
{
    qn_err err = {0};
    const qn_lowering how = rig_plain();
    qn_plan *p = NULL;
    const qn_status st = qn_lower(&p, o, &how, &err);
    if (st != want) fail_msg("%s instead of %s: %s", qn_status_name(st), qn_status_name(want), err.text);
    for (; *words != NULL; words++)
        if (strstr(err.text, *words) == NULL) fail_msg("'%s' is missing in: %s", *words, err.text);
    qn_plan_close(p);
}

static void swap(qn_order *o, int32_t w, int32_t a, int32_t b)
{
    const qn_order_task x = o->task[w][a];
    o->task[w][a] = o->task[w][b];
    o->task[w][b] = x;
}

/* Joint backwards on other workers than their forwards: the token game looks for partners where they run, and channels for parts
 * of sums join those workers too. */
static void joint_backwards_elsewhere(void **state)
{
    (void)state;
    for (int32_t P = 2; P <= 4; P++) {
        qn_order *o = widened("roundpipe", P, 5, 1, 2, 2);
        int32_t moved = 0;
        for (int32_t s = 0; s < o->stages; s++) moved += o->backward_of[s] != o->worker_of[s];
        assert_true(moved > 0);
        const qn_lowering how = {.part_bytes = 64, .tied_owner = QN_NONE, .tied_replica = QN_NONE};
        qn_plan *p = rig_lower(o, &how);
        assert_true(qn_token_game(p, 0));
        assert_true(qn_token_game(p, 1));
        for (int32_t t = 0; t < p->tasks; t++) {
            for (int32_t u = t + 1; u < p->tasks; u++) {
                if (!qn_tasks_joint(p, t, u) || p->task[t].worker == p->task[u].worker) continue;
                bool meet = false;
                for (int32_t c = 0; c < p->channels; c++)
                    meet = meet || (p->channel[c].cls == QN_V_PART && p->channel[c].from == p->task[t].worker &&
                                    p->channel[c].to == p->task[u].worker);
                assert_true(meet);
            }
        }
        assert_text_keeps(o, p);
        qn_plan_close(p);
        qn_order_close(o);
    }
    /* an R before the BW that its partner does first */
    qn_order *o = widened("roundpipe", 2, 2, 1, 2, 2);
    int32_t i = 0;
    while (o->task[1][i].op != QN_OP_BW || o->task[1][i + 1].op != QN_OP_R) i++;
    swap(o, 1, i, i + 1);
    const char *const words[] = {"deadlock", "R ", NULL};
    assert_refused(o, QN_ESCHEDULE, words);
    qn_order_close(o);
}

static void step_tasks_and_memory_of_shards(void **state)
{
    (void)state;
    for (int32_t own = 1; own <= 4; own *= 2) {
        qn_order *o = widened("1f1b", 3, 5, 1, 4, 4 / own);
        const qn_lowering how = {
            .step_tasks = true, .tied_owner = QN_NONE, .tied_replica = QN_NONE, .recompute = QN_RECOMPUTE_FULL, .depth = 1};
        qn_plan *p = rig_lower(o, &how);
        assert_true(qn_token_game(p, 0));
        qn_plan_close(p);
        qn_order_close(o);
    }
}

/* ---- what is refused */

static void an_order_swapped_on_one_member(void **state)
{
    (void)state;
    qn_order *o = widened("gpipe", 1, 2, 1, 2, 2);
    swap(o, 1, 0, 1);
    const char *const words[] = {"deadlock", "F 0.0 @0", "F 1.1 @1", "runs together with", NULL};
    assert_refused(o, QN_ESCHEDULE, words);
    qn_order_close(o);
}

static void members_on_one_worker_apart(void **state)
{
    (void)state;
    qn_order *o = widened("gpipe", 1, 2, 1, 2, 1); /* F 0.0, F 1.0, F 0.1, F 1.1, ... */
    swap(o, 0, 1, 2);
    const char *const words[] = {"deadlock", "F 0.", "F 1.", NULL};
    assert_refused(o, QN_ESCHEDULE, words);
    qn_order_close(o);
}

static void shards_that_do_other_tasks(void **state)
{
    (void)state;
    qn_order *o = widened("gpipe", 1, 1, 1, 2, 2);
    o->task[1][1].op = QN_OP_B;
    qn_order_push(o, 1, QN_OP_W, 1, 0);
    const char *const words[] = {"no partner", "B 1.0 @1", "B 0.0 @0", NULL};
    assert_refused(o, QN_ESCHEDULE, words);
    qn_order_close(o);
}

static void an_item_of_another_replica(void **state)
{
    (void)state;
    qn_order *o = widened("gpipe", 1, 2, 2, 1, 1);
    o->task[1][0].item = 0;
    const char *const words[] = {"F 1.0 @1", "replica 1", "2 to 3", NULL};
    assert_refused(o, QN_ESCHEDULE, words);
    qn_order_close(o);
}

static void numbers_that_do_not_divide(void **state)
{
    (void)state;
    qn_order *o = widened("gpipe", 2, 3, 2, 1, 1); /* 4 stages, 6 items */
    qn_err err = {0};
    const char *const depth[] = {"4 stages", "3 columns", NULL}, *const shards[] = {"4 columns", "3 shards", NULL},
                      *const items[] = {"6 micro-batches for 4 replicas", "4, 8", NULL};
    o->columns = 3;
    assert_refused(o, QN_EINVAL, depth);
    o->columns = 4;
    o->shards = 3;
    assert_refused(o, QN_EINVAL, shards);
    o->shards = 1;
    assert_refused(o, QN_EINVAL, items);
    o->columns = 2;
    qn_order *wide = NULL;
    o->shards = 2;
    assert_int_equal(qn_order_widen(&wide, o, 2, 1, 1, &err), QN_EINVAL);
    qn_order_close(o);
    o = rig_generate("gpipe", 2, 3, 1, 0);
    assert_int_equal(qn_order_widen(&wide, o, 1, 4, 3, &err), QN_EINVAL);
    assert_int_equal(qn_order_widen(&wide, o, 1024, 1, 1, &err), QN_ERANGE);
    qn_order_close(o);
}

/* Joint tasks start together, however late one of their workers is. */
static void joint_tasks_start_together(void **state)
{
    (void)state;
    qn_order *o = widened("1f1b", 2, 4, 1, 2, 2);
    const qn_lowering how = rig_plain();
    qn_plan *p = rig_lower(o, &how);
    qn_err err = {0};
    qn_trace trace = {.plan = p, .time = calloc((size_t)p->tasks, sizeof *trace.time)};
    int64_t *cost = calloc((size_t)p->tasks, sizeof *cost);
    for (int32_t t = 0; t < p->tasks; t++) cost[t] = qni_is_compute(p->task[t].op) ? 1 + (t * 7) % 5 : 0;
    const qn_sim_options opt = {.cost = cost};
    assert_int_equal(qn_simulate(&trace, p, &opt, &err), QN_OK);
    int32_t pairs = 0;
    for (int32_t a = 0; a < p->tasks; a++) {
        for (int32_t b = a + 1; b < p->tasks; b++) {
            if (!qn_tasks_joint(p, a, b)) continue;
            pairs++;
            assert_int_equal(trace.time[a].start, trace.time[b].start);
            assert_int_equal(trace.time[a].end, trace.time[b].end);
        }
    }
    assert_int_equal(pairs, 2 * 4 * 2);
    free(cost);
    free(trace.time);
    qn_plan_close(p);
    qn_order_close(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_schedule_widens),          cmocka_unit_test(step_tasks_and_memory_of_shards),
        cmocka_unit_test(an_order_swapped_on_one_member), cmocka_unit_test(members_on_one_worker_apart),
        cmocka_unit_test(shards_that_do_other_tasks),     cmocka_unit_test(an_item_of_another_replica),
        cmocka_unit_test(numbers_that_do_not_divide),     cmocka_unit_test(joint_tasks_start_together),
        cmocka_unit_test(joint_backwards_elsewhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

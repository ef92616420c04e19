/* Workers that share cores: with a core each nothing changes, on one core nothing is idle, and a small case by hand. */
#include "schedule/schedule_rig.h"

static int64_t end_of(const qn_trace *t)
{
    int64_t last = 0;
    for (int32_t i = 0; i < t->plan->tasks; i++) last = qn_max64(last, t->time[i].end);
    return last;
}

static qn_trace room_for(const qn_plan *p)
{
    return (qn_trace){.plan = p, .time = calloc((size_t)p->tasks + 1, sizeof(qn_span_time))};
}

static int64_t shared(const qn_plan *p, const int64_t *cost, int32_t cores)
{
    qn_err err = {0};
    qn_trace t = room_for(p);
    if (qn_simulate_shared(&t, p, cost, cores, &err) != QN_OK) fail_msg("%s", err.text);
    for (int32_t i = 0; i < p->tasks; i++) {
        if (t.time[i].end < t.time[i].start) fail_msg("task %d of %d did not run", i, p->tasks);
        if (cost[i] > t.time[i].end - t.time[i].start) fail_msg("task %d is shorter than its cost", i);
        for (int32_t k = 0; k < p->task[i].wait.count; k++)
            assert_true(t.time[p->ref[p->task[i].wait.first + k]].end <= t.time[i].start);
    }
    const int64_t end = end_of(&t);
    free(t.time);
    return end;
}

/* What the busiest core has to do at least, and the tasks that round a tick away. */
static void check(const qn_plan *p, const char *name, int32_t P, int32_t M)
{
    qn_err err = {0};
    int64_t *cost = rig_split_costs(p, 3000, 4000, 2000, 7000, 0), all = 0;
    const qn_sim_options plain = {.cost = cost};
    qn_trace t = room_for(p);
    if (qn_simulate(&t, p, &plain, &err) != QN_OK) fail_msg("%s", err.text);
    for (int32_t i = 0; i < p->tasks; i++) all += cost[i];
    const int64_t free_of_others = end_of(&t);
    if (shared(p, cost, P) != free_of_others) fail_msg("%s P=%d M=%d: a core each is not as without sharing", name, P, M);
    const int64_t one = shared(p, cost, 1);
    if (one < all || one > all + p->tasks) fail_msg("%s P=%d M=%d: %ld on one core, %ld to do", name, P, M, (long)one, (long)all);
    for (int32_t cores = 2; cores < P; cores++) {
        const int64_t end = shared(p, cost, cores);
        if (end > one || end + p->tasks < free_of_others || end < all / cores)
            fail_msg("%s P=%d M=%d: %ld on %d cores, %ld on one, %ld on %d", name, P, M, (long)end, cores, (long)one,
                     (long)free_of_others, P);
    }
    free(t.time);
    free(cost);
}

static void every_schedule_at_small_sizes(void **state)
{
    (void)state;
    const qn_lowering how = rig_plain();
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t P = 1; P <= 4; P++) {
            for (int32_t M = 1; M <= 8; M += 1 + M / 3) {
                if (!rig_possible(g, P, M)) continue;
                qn_plan *p = rig_plan(g->name, P, M, g->usual_chunks, &how);
                check(p, g->name, P, M);
                qn_plan_close(p);
            }
        }
    }
}

/* Two workers on one core, forwards alone: the second of worker 0 meets the first of worker 1, and both take twice as long. */
static void by_hand(void **state)
{
    (void)state;
    qn_err err = {0};
    const qn_lowering how = rig_plain();
    qn_plan *p = rig_plan("gpipe", 2, 2, 1, &how);
    int64_t *cost = rig_split_costs(p, 10, 0, 0, 0, 0);
    qn_trace t = room_for(p);
    if (qn_simulate_shared(&t, p, cost, 1, &err) != QN_OK) fail_msg("%s", err.text);
    for (int32_t i = 0; i < p->tasks; i++) {
        const qn_task *x = &p->task[i];
        if (x->op != QN_OP_F) continue;
        assert_int_equal(t.time[i].start, x->stage == 0 ? 10 * x->item : x->item == 0 ? 10 : 30);
        assert_int_equal(t.time[i].end, x->stage == 0 ? (x->item == 0 ? 10 : 30) : x->item == 0 ? 30 : 40);
    }
    assert_int_equal(qn_simulate_shared(&t, p, cost, 0, &err), QN_EINVAL);
    free(t.time);
    free(cost);
    qn_plan_close(p);
}

/* Devices: with a core for each lane nothing changes; with fewer it takes longer, but no longer than all there is to do. */
static void copies_want_cores(void **state)
{
    (void)state;
    for (int32_t N = 1; N <= 3; N++) {
        qn_err err = {0};
        qn_order *o = rig_generate(N == 1 ? "superpipe" : "roundpipe", N, 4, N == 1 ? 4 : 2, 0);
        const qn_tiers tiers = {.window = 2, .replace = 1, .lag = N % 2};
        qn_lowering how = rig_plain();
        how.tiers = &tiers;
        how.step_tasks = true;
        how.stat_bytes = 8;
        qn_plan *p = rig_lower(o, &how);
        int64_t *cost = calloc((size_t)p->tasks + 1, sizeof *cost), all = 0;
        for (int32_t i = 0; i < p->tasks; i++) all += cost[i] = p->task[i].lane == QN_LANE_COMP ? 3000 : 1100;
        qn_trace t = room_for(p);
        const qn_sim_options plain = {.cost = cost};
        if (qn_simulate(&t, p, &plain, &err) != QN_OK) fail_msg("%s", err.text);
        const int64_t apart = end_of(&t);
        int64_t before = apart;
        for (int32_t cores = N * QN_LANES; cores > 0; cores--) {
            if (qn_simulate_lanes(&t, p, cost, cores, &err) != QN_OK) fail_msg("%s", err.text);
            const int64_t end = end_of(&t);
            if (cores == N * QN_LANES) assert_int_equal(end, apart);
            if (end + p->tasks < before || end < all / cores || end > all + p->tasks)
                fail_msg("%d devices, %d cores: %ld, with one more %ld, all to do %ld", N, cores, (long)end, (long)before,
                         (long)all);
            before = end;
        }
        assert_true(before >= all);
        free(t.time);
        free(cost);
        qn_plan_close(p);
        qn_order_close(o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_schedule_at_small_sizes), cmocka_unit_test(by_hand),
                                       cmocka_unit_test(copies_want_cores)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

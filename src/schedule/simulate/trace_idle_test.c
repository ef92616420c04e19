/* The parts of idle time add up for every generator at small sizes, and are what the papers' pictures show; the critical path has
 * no holes. */
#include "schedule/schedule_rig.h"

typedef struct simulated {
    qn_plan *p;
    int64_t *cost;
    qn_trace trace;
    qn_trace_summary sum;
    int64_t (*part)[QN_IDLE_PARTS];
    int32_t *path, steps;
} simulated;

static void run_one(simulated *s, qn_order *o, const int64_t cost[4], int64_t latency, int32_t depth)
{
    qn_err err = {0};
    qn_lowering how = rig_plain();
    how.depth = depth; /* in the plan, so that what reads the trace sees it too */
    memset(s, 0, sizeof *s);
    s->p = rig_lower(o, &how);
    s->cost = rig_split_costs(s->p, cost[0], cost[1], cost[2], cost[3], 0);
    s->trace.time = calloc((size_t)s->p->tasks + 1, sizeof *s->trace.time);
    const qn_sim_options opt = {.latency = latency, .cost = s->cost};
    if (qn_simulate(&s->trace, s->p, &opt, &err) != QN_OK) fail_msg("%s", err.text);
    qn_trace_summarize(&s->sum, &s->trace);
    s->part = calloc((size_t)s->p->workers, sizeof *s->part);
    if (qn_trace_split_idle(s->part, &s->trace, latency, &err) != QN_OK) fail_msg("%s", err.text);
    if (qn_trace_critical(&s->path, &s->steps, &s->trace, latency, &err) != QN_OK) fail_msg("%s", err.text);
    qn_order_close(o);
}

static void close_one(simulated *s)
{
    qn_plan_close(s->p);
    free(s->cost);
    free(s->trace.time);
    free(s->part);
    qn_free(s->path);
}

static int64_t sum_of(const simulated *s, qn_idle_part part)
{
    int64_t all = 0;
    for (int32_t w = 0; w < s->p->workers; w++) all += s->part[w][part];
    return all;
}

static void check_parts(const simulated *s, const char *name)
{
    for (int32_t w = 0; w < s->p->workers; w++) {
        int64_t all = 0;
        for (int k = 0; k < QN_IDLE_PARTS; k++) {
            if (s->part[w][k] < 0) fail_msg("%s worker %d: part %d is %ld", name, w, k, (long)s->part[w][k]);
            all += s->part[w][k];
        }
        if (all != s->sum.idle_makespan[w])
            fail_msg("%s P=%d M=%d worker %d: parts of %ld, idle %ld", name, s->p->workers, s->p->items, w, (long)all,
                     (long)s->sum.idle_makespan[w]);
        assert_int_equal(s->sum.idle_makespan[w] - s->part[w][QN_IDLE_FILL] - s->part[w][QN_IDLE_DRAIN], s->sum.idle_span[w]);
    }
}

static void check_path(const simulated *s, int64_t latency, const char *name)
{
    int64_t at = 0;
    assert_true(s->steps > 0);
    for (int32_t i = 0; i < s->steps; i++) {
        const qn_span_time x = s->trace.time[s->path[i]];
        const bool flies = s->p->task[s->path[i]].op == QN_OP_RECV;
        if (x.start != at && !(flies && x.end == at + latency)) {
            char text[64];
            fail_msg("%s P=%d M=%d: %s starts at %ld, the one before it ends at %ld", name, s->p->workers, s->p->items,
                     qn_task_text(text, sizeof text, s->p, s->path[i]), (long)x.start, (long)at);
        }
        at = x.end;
    }
    assert_int_equal(at, s->sum.makespan);
}

static void parts_add_up(void **state)
{
    static const int64_t cost[][4] = {{1, 1, 1, 1}, {3, 4, 2, 3}, {10, 11, 7, 10}};
    (void)state;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t P = 1; P <= 5; P++) {
            for (int32_t M = 1; M <= 11; M += 2) {
                if (!rig_possible(g, P, M)) continue;
                for (int32_t k = 0; k < 3; k++) {
                    simulated s;
                    const int64_t latency = 3 * (k == 1) + (k == 2);
                    run_one(&s, rig_generate(g->name, P, M, g->usual_chunks, 0), cost[k], latency, 1 + (k & 1));
                    check_parts(&s, g->name);
                    check_path(&s, latency, g->name);
                    if (latency == 0 && k == 0 && !g->host_state) assert_int_equal(sum_of(&s, QN_IDLE_TRANSFER), 0);
                    close_one(&s);
                }
            }
        }
    }
}

/* GPipe turns once; 1F1B's first backward is waited for the same way, and nothing else. */
static void known_values(void **state)
{
    static const int64_t cost[4] = {2, 1, 2, 2}; /* F 2, BW 3 */
    (void)state;
    for (int32_t P = 1; P <= 6; P++) {
        for (int32_t M = P; M <= 9; M++) {
            simulated s;
            run_one(&s, rig_generate("gpipe", P, M, 1, 0), cost, 0, 2);
            for (int32_t r = 0; r < P; r++) {
                const int64_t want[QN_IDLE_PARTS] = {
                    [QN_IDLE_FILL] = 2 * r, [QN_IDLE_DRAIN] = 3 * r, [QN_IDLE_SWITCH] = 5 * (P - 1 - r)};
                assert_memory_equal(s.part[r], want, sizeof want);
            }
            close_one(&s);
            run_one(&s, rig_generate("1f1b", P, M, 1, 0), cost, 0, 2);
            for (int32_t r = 0; r < P; r++) {
                assert_int_equal(s.part[r][QN_IDLE_FILL], 2 * r);
                assert_int_equal(s.part[r][QN_IDLE_DRAIN], 3 * r);
            }
            close_one(&s);
        }
    }
}

/* Two workers; what a message takes is blamed on it, once: F 4, BW 4, latency 3. */
static void messages_are_blamed(void **state)
{
    static const int64_t cost[4] = {4, 2, 2, 4};
    (void)state;
    simulated s;
    run_one(&s, rig_generate("gpipe", 2, 1, 1, 0), cost, 3, 2);
    assert_int_equal(s.sum.makespan, 4 + 3 + 4 + 4 + 3 + 4);
    assert_int_equal(s.part[0][QN_IDLE_TRANSFER], 3); /* the gradient's way; worker 0 waits for 3 + 8 ticks of others first */
    assert_int_equal(s.part[0][QN_IDLE_SWITCH], 11);
    assert_int_equal(s.part[1][QN_IDLE_FILL], 7);
    close_one(&s);
}

/* A slow second worker: the first one's outputs do not leave, and their slots are not there for the next ones. */
static void room_is_blamed(void **state)
{
    qn_err err = {0};
    (void)state;
    qn_lowering how = rig_plain();
    how.forward_only = true;
    qn_plan *p = rig_plan("gpipe", 2, 24, 1, &how);
    qn_trace trace = {.time = calloc((size_t)p->tasks, sizeof *trace.time)};
    int64_t *cost = rig_costs(p, 1, 2, 1, 0), part[2][QN_IDLE_PARTS];
    for (int32_t t = 0; t < p->tasks; t++) cost[t] *= p->task[t].stage == 1 ? 30 : 1;
    const qn_sim_options opt = {.cost = cost};
    assert_int_equal(qn_simulate(&trace, p, &opt, &err), QN_OK);
    assert_int_equal(qn_trace_split_idle(part, &trace, 0, &err), QN_OK);
    assert_true(part[0][QN_IDLE_MEMORY] > 30);
    assert_int_equal(part[1][QN_IDLE_MEMORY], 0);
    free(trace.time);
    free(cost);
    qn_plan_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_add_up),
        cmocka_unit_test(known_values),
        cmocka_unit_test(messages_are_blamed),
        cmocka_unit_test(room_is_blamed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

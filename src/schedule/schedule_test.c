/* All schedules for all small sizes: valid, live at depth 1 and 2, idle time, bubble and peak as their papers say; the tables of
 * the papers. */
#include "schedule_rig.h"
#include "support/plan_peak.h"
#include "support/sanitized.h"

/* Narayanan et al. 2021: makespan where the schedule is regular, held micro-batches everywhere. */
static void check_published(const char *name, const qn_plan *p, int32_t P, int32_t M, int32_t v)
{
    int64_t *c = rig_costs(p, 1, 2, 0, 0);
    const qn_trace_summary *s = rig_simulate(p, c, 0, 0);
    const bool interleaved = strcmp(name, "interleaved") == 0, exact = M % P == 0 || !interleaved;
    const int64_t ideal = 3 * (int64_t)M * v + 3 * (P - 1);
    if ((M % P == 0 || v == 1) && s->makespan != ideal)
        fail_msg("%s P=%d M=%d v=%d: makespan %ld, not %ld", name, P, M, v, (long)s->makespan, (long)ideal);
    if (strcmp(name, "gpipe") == 0 && v == 1) { /* bubble (K-1)/(M+K-1), in integers */
        int64_t idle = 0;
        for (int32_t r = 0; r < P; r++) idle += s->idle_makespan[r];
        assert_int_equal(idle * (M + P - 1), (int64_t)(P - 1) * P * s->makespan);
    }
    for (int32_t r = 0; r < P; r++) {
        if (M % P == 0 || v == 1) assert_int_equal(s->idle_makespan[r], s->makespan - 3 * (int64_t)M * v);
        int64_t peak = (int64_t)M * v;
        if (strcmp(name, "1f1b") == 0) peak = qn_min32(P - r, M);
        if (interleaved) peak = qn_min64(2 * (P - 1 - r) + (int64_t)(v - 1) * P + 1, (int64_t)M * v);
        if (s->peak[r] > peak || (exact && s->peak[r] != peak))
            fail_msg("%s P=%d M=%d v=%d: worker %d holds %ld, not %ld", name, P, M, v, r, (long)s->peak[r], (long)peak);
    }
    free(c);
}

static void check_size(const char *name, int32_t P, int32_t M, int32_t v)
{
    static const char *const whole[] = {"gpipe", "1f1b", "interleaved", "looped-bfs"};
    qn_order *o = rig_generate(name, P, M, v, 0);
    qn_lowering how = rig_plain();
    how.depth = 1; /* the receive lane adapts to what it is planned for */
    qn_plan *p = rig_lower(o, &how);
    if (!qn_token_game(p, 1)) fail_msg("%s P=%d M=%d v=%d stops at depth 1", name, P, M, v);
    qn_plan_close(p);
    how.depth = 2;
    p = rig_lower(o, &how);
    if (!qn_token_game(p, 2)) fail_msg("%s P=%d M=%d v=%d stops at depth 2", name, P, M, v);
    qn_order_close(o);
    for (size_t i = 0; i < QN_COUNT(whole); i++) {
        if (strcmp(name, whole[i]) == 0) check_published(name, p, P, M, v);
    }
    qn_plan_close(p);
}

static void all_small_sizes(void **state)
{
    (void)state;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t P = 1; P <= 8; P++) {
            for (int32_t v = g->min_chunks; v <= (g->max_chunks > 0 ? g->max_chunks : 4); v++) {
                for (int32_t M = 1; M <= 24; M += QN_SANITIZED ? 5 : 1) {
                    if (rig_possible(g, P, M) && !rig_too_slow(g, P, M)) check_size(g->name, P, M, v);
                }
            }
        }
    }
}

/* Everything on: step tasks, a tied weight, recomputation, messages in parts. */
static void check_full(const char *name, int32_t P, int32_t v, int32_t M, int32_t k)
{
    int64_t act[16], stash[16];
    for (int32_t s = 0; s < P * v; s++) {
        act[s] = 640 + 64 * s;
        stash[s] = 1000 * (s + 1);
    }
    const qn_lowering how = {.act_bytes = act,
                             .stash_bytes = stash,
                             .recompute = (qn_recompute)(k % 3),
                             .step_tasks = k / 3 % 2 != 0,
                             .slot_bytes = k / 6 % 2 != 0 ? 128 : 0,
                             .forward_only = k / 12 % 2 != 0,
                             .tied_owner = M % 2 != 0 ? 0 : QN_NONE,
                             .tied_replica = M % 2 != 0 ? P * v - 1 : QN_NONE,
                             .tied_bytes = 100000,
                             .stat_bytes = 48};
    qn_plan *p = rig_plan(name, P, M, v, &how);
    assert_true(qn_token_game(p, 0));
    qn_plan_close(p);
}

static void full_plans(void **state)
{
    (void)state;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t P = 1; P <= 4; P++) {
            for (int32_t v = g->min_chunks; v <= (g->max_chunks > 0 ? g->max_chunks : 3); v++) {
                for (int32_t M = 1; M <= 6; M += QN_SANITIZED ? 2 : 1) {
                    if (!rig_possible(g, P, M) || rig_too_slow(g, P, M)) continue;
                    for (int32_t k = 0; k < 3 * 2 * 2 * 2; k++) {
                        const bool step = k / 3 % 2 != 0 && k / 12 % 2 == 0;
                        if (!step || !g->host_state) check_full(g->name, P, v, M, k);
                    }
                }
            }
        }
    }
}

/* Huang et al. 2018 and torchgpipe: F 1, backward 2, recompute 1. Late recomputation is one task of 3. */
static void gpipe_table(void **state)
{
    (void)state;
    static const int64_t row[][6] = {{2, 8, 27, 36, 35, 34},
                                     {4, 4, 21, 28, 25, 24},
                                     {4, 8, 33, 44, 41, 40},
                                     {4, 16, 57, 76, 73, 72},
                                     {8, 32, 117, 156, 149, 148}};
    for (size_t i = 0; i < QN_COUNT(row); i++) {
        for (int32_t mode = QN_RECOMPUTE_NONE; mode <= QN_RECOMPUTE_EXCEPT_LAST; mode++) {
            qn_lowering how = rig_plain();
            how.recompute = (qn_recompute)mode;
            qn_plan *p = rig_plan("gpipe", (int32_t)row[i][0], (int32_t)row[i][1], 1, &how);
            assert_int_equal(rig_makespan(p, 1, 2, 1, 0, 0, 0), row[i][mode == QN_RECOMPUTE_NONE   ? 2
                                                                       : mode == QN_RECOMPUTE_FULL ? 4
                                                                                                   : 5]);
            if (mode == QN_RECOMPUTE_NONE) assert_int_equal(rig_makespan(p, 1, 3, 0, 0, 0, 0), row[i][3]);
            qn_plan_close(p);
            if (mode != QN_RECOMPUTE_FULL) continue;
            how.recompute_late = true; /* or a task of its own that waits for the gradient */
            p = rig_plan("gpipe", (int32_t)row[i][0], (int32_t)row[i][1], 1, &how);
            assert_int_equal(rig_makespan(p, 1, 2, 1, 0, 0, 0), row[i][3]);
            qn_plan_close(p);
        }
    }
}

/* Huang et al. 2018: with all made again a worker holds M boundary inputs and one micro-batch of its cell's inside; with all but
 * the one whose backward comes first, that one besides; without, all M. */
static void gpipe_memory(void **state)
{
    enum { ACT = 1, INSIDE = 1000 };
    const uint64_t kept = 1u << QN_V_ACT | 1u << QN_V_STASH;
    int64_t act[8], inside[8];
    (void)state;
    for (int32_t s = 0; s < 8; s++) act[s] = ACT, inside[s] = INSIDE;
    for (int32_t P = 1; P <= 8; P++) {
        for (int32_t M = 1; M <= 12; M++) {
            for (int32_t mode = QN_RECOMPUTE_NONE; mode <= QN_RECOMPUTE_EXCEPT_LAST; mode++) {
                qn_lowering how = rig_plain();
                qn_err err;
                how.recompute = (qn_recompute)mode;
                how.act_bytes = act;
                how.stash_bytes = inside;
                qn_plan *p = rig_plan("gpipe", P, M, 1, &how);
                int64_t *cost = rig_costs(p, 1, 2, 1, 0);
                qn_trace t = {.plan = p, .time = calloc((size_t)p->tasks, sizeof *t.time)};
                assert_int_equal(qn_simulate(&t, p, &(qn_sim_options){.cost = cost}, &err), QN_OK);
                const int64_t insides = mode == QN_RECOMPUTE_NONE ? M : mode == QN_RECOMPUTE_FULL ? 1 : M > 1 ? 2 : 1;
                for (int32_t s = 0; s < P; s++)
                    assert_int_equal(plan_peak(&t, s, kept, true), (s > 0 ? M * ACT : 0) + insides * INSIDE);
                free(t.time);
                free(cost);
                qn_plan_close(p);
            }
        }
    }
}

static int64_t buffered(const qn_plan *p, const int64_t *cost, int32_t depth)
{
    return rig_simulate_with(p, &(qn_sim_options){.cost = cost, .depth = depth, .w_overtakes = true})->makespan;
}

/* The price of small buffers: messages on the one lane, F 3, B 4, W 2, a SEND keeps the lane for 3 unless a W is behind it. A
 * message costs the same for any capacity from 2 on, and nothing is lost by capacity 1 where messages are free. */
static void buffer_table(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int32_t v;
        int64_t one, unlimited;
    } row[] = {{"gpipe", 1, 459, 459},  {"1f1b", 1, 456, 456},    {"interleaved", 2, 810, 807},
               {"zb-h1", 1, 393, 393},  {"zb-h2", 1, 379, 378},   {"zb-v", 2, 695, 679},
               {"v-half", 2, 826, 823}, {"v-min", 2, 1163, 1163}, {"dualpipev", 2, 803, 787}};
    for (size_t i = 0; i < QN_COUNT(row); i++) {
        qn_lowering how = rig_plain();
        how.one_lane = true;
        qn_plan *p = rig_plan(row[i].name, 8, 24, row[i].v, &how);
        int64_t *c = rig_split_costs(p, 3, 4, 2, 0, 3), *free_messages = rig_split_costs(p, 3, 4, 2, 0, 0);
        const int64_t one = buffered(p, c, 1), two = buffered(p, c, 2), unlimited = buffered(p, c, INT32_MAX);
        if (one != row[i].one || two != row[i].unlimited || unlimited != row[i].unlimited)
            fail_msg("%s: %ld, %ld, %ld; %ld, %ld are published", row[i].name, (long)one, (long)two, (long)unlimited,
                     (long)row[i].one, (long)row[i].unlimited);
        assert_int_equal(buffered(p, free_messages, 1), buffered(p, free_messages, INT32_MAX));
        free(free_messages);
        free(c);
        qn_plan_close(p);
    }
}

/* Idle time (P-1)/v of a stage's forward and backward: chunks of F 1, BW 2, so that a stage takes 3 v. */
static void interleaved_idle(void **state)
{
    (void)state;
    static const int32_t row[][4] = {
        {4, 8, 2, 9}, {4, 8, 4, 9}, {8, 16, 2, 21}, {4, 16, 2, 9}}; /* idle in chunk ticks: v times the paper's */
    for (size_t i = 0; i < QN_COUNT(row); i++) {
        const qn_lowering how = rig_plain();
        qn_plan *p = rig_plan("interleaved", row[i][0], row[i][1], row[i][2], &how);
        int64_t *c = rig_costs(p, 1, 2, 0, 0);
        const qn_trace_summary *s = rig_simulate(p, c, 0, 0);
        for (int32_t r = 0; r < row[i][0]; r++) assert_int_equal(s->idle_makespan[r], row[i][3]);
        free(c);
        qn_plan_close(p);
    }
}

static void check_order_lines(int32_t P, int32_t v, int32_t M, int32_t g, const char *const *want)
{
    qn_order *o = rig_generate("interleaved", P, M, v, g);
    for (int32_t w = 0; w < P; w++) {
        char got[2048] = "";
        for (int32_t i = 0; i < o->count[w]; i++) {
            const qn_order_task *t = &o->task[w][i];
            const size_t used = strlen(got);
            snprintf(got + used, sizeof got - used, "%s%s%d.%d", i > 0 ? " " : "", t->op == QN_OP_F ? "F" : "B", t->stage,
                     t->item);
        }
        assert_string_equal(got, want[w]);
    }
    qn_order_close(o);
}

/* Golden issue orders (P, v, M, g), written out by hand from the published rule. */
static void golden_orders(void **state)
{
    (void)state;
    static const char *const a[] = {"F0.0 F0.1 F2.0 F2.1 F0.2 B2.0 F0.3 B2.1 F2.2 B0.0 F2.3 B0.1 B2.2 B2.3 B0.2 B0.3",
                                    "F1.0 F1.1 F3.0 B3.0 F3.1 B3.1 F1.2 B1.0 F1.3 B1.1 F3.2 B3.2 F3.3 B3.3 B1.2 B1.3"};
    static const char *const b[] = {
        "F0.0 F0.1 F0.2 F2.0 F2.1 F2.2 B2.0 F0.3 B2.1 F0.4 B2.2 F2.3 B0.0 F2.4 B0.1 B0.2 B2.3 B2.4 B0.3 B0.4",
        "F1.0 F1.1 F1.2 F3.0 B3.0 F3.1 B3.1 F3.2 B3.2 F1.3 B1.0 F1.4 B1.1 F3.3 B1.2 F3.4 B3.3 B3.4 B1.3 B1.4"};
    static const char *const c[] = {"F0.0 F0.1 F0.2 F0.3 F4.0 F4.1 F4.2 F4.3 F0.4 F0.5 F0.6 B4.0 F0.7 B4.1 F4.4 B4.2 F4.5 B4.3 "
                                    "F4.6 B0.0 F4.7 B0.1 B0.2 B0.3 B4.4 B4.5 B4.6 B4.7 "
                                    "B0.4 B0.5 B0.6 B0.7",
                                    "F1.0 F1.1 F1.2 F1.3 F5.0 F5.1 F5.2 F5.3 F1.4 B5.0 F1.5 B5.1 F1.6 B5.2 F1.7 B5.3 F5.4 B1.0 "
                                    "F5.5 B1.1 F5.6 B1.2 F5.7 B1.3 B5.4 B5.5 B5.6 B5.7 "
                                    "B1.4 B1.5 B1.6 B1.7",
                                    "F2.0 F2.1 F2.2 F2.3 F6.0 F6.1 F6.2 B6.0 F6.3 B6.1 F2.4 B6.2 F2.5 B6.3 F2.6 B2.0 F2.7 B2.1 "
                                    "F6.4 B2.2 F6.5 B2.3 F6.6 B6.4 F6.7 B6.5 B6.6 B6.7 "
                                    "B2.4 B2.5 B2.6 B2.7",
                                    "F3.0 F3.1 F3.2 F3.3 F7.0 B7.0 F7.1 B7.1 F7.2 B7.2 F7.3 B7.3 F3.4 B3.0 F3.5 B3.1 F3.6 B3.2 "
                                    "F3.7 B3.3 F7.4 B7.4 F7.5 B7.5 F7.6 B7.6 F7.7 B7.7 "
                                    "B3.4 B3.5 B3.6 B3.7"};
    check_order_lines(2, 2, 4, 0, a);
    check_order_lines(2, 2, 5, 3, b);
    check_order_lines(4, 2, 8, 0, c);
}

/* Larger groups, last groups of every length. */
static void groups(void **state)
{
    (void)state;
    for (int32_t P = 2; P <= 4; P++) {
        for (int32_t g = P; g <= P + 3; g++) {
            for (int32_t v = 2; v <= 3; v++) {
                for (int32_t M = 1; M <= 14; M++) {
                    qn_order *o = rig_generate("interleaved", P, M, v, g);
                    qn_lowering how = rig_plain();
                    qn_plan *p = rig_lower(o, &how);
                    assert_true(qn_token_game(p, 0));
                    qn_plan_close(p);
                    how.depth = 1; /* the receive lane adapts to what it is planned for */
                    p = rig_lower(o, &how);
                    assert_true(qn_token_game(p, 1));
                    qn_plan_close(p);
                    qn_order_close(o);
                }
            }
        }
    }
}

/* Sharing bytes between values makes tasks wait for each other; it must not cost time. Sizes of 0 share nothing. Not held where
 * inputs move on to another worker long before they are needed: there a slot may be waited for as long as a message takes. */
static void slots_cost_no_time(void **state)
{
    (void)state;
    static const int64_t zero[32];
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t P = 2; P <= 8; P += 2) {
            for (int32_t v = g->min_chunks; v <= (g->max_chunks > 0 ? g->max_chunks : 4); v++) {
                for (int32_t M = 1; M <= 24; M += QN_SANITIZED ? 11 : 3) {
                    if (!rig_possible(g, P, M) || g->host_state || rig_too_slow(g, P, M)) continue;
                    qn_lowering how = rig_plain();
                    qn_plan *p = rig_plan(g->name, P, M, v, &how);
                    how.act_bytes = how.stash_bytes = how.wstash_bytes = zero;
                    qn_plan *q = rig_plan(g->name, P, M, v, &how);
                    for (int64_t latency = 0; latency <= 3; latency++) {
                        const int64_t a = rig_makespan(p, 3, 6, 0, 0, latency, 0), b = rig_makespan(q, 3, 6, 0, 0, latency, 0);
                        if (a != b)
                            fail_msg("%s P=%d v=%d M=%d latency %ld: %ld with slots, %ld without", g->name, P, v, M,
                                     (long)latency, (long)a, (long)b);
                    }
                    qn_plan_close(p);
                    qn_plan_close(q);
                }
            }
        }
    }
}

/* Chen et al. 2016: with recomputation a worker holds the inputs of what is in flight and the inside of one stage. */
static void memory_is_exact(void **state)
{
    (void)state;
    static const int64_t zero[8];
    for (int32_t P = 1; P <= 8; P++) {
        for (int32_t M = 1; M <= 12; M++) {
            for (int32_t mode = QN_RECOMPUTE_NONE; mode <= QN_RECOMPUTE_EXCEPT_LAST; mode++) {
                qn_lowering how = rig_plain();
                how.act_bytes = zero; /* stashes alone */
                how.recompute = (qn_recompute)mode;
                qn_plan *p = rig_plan("gpipe", P, M, 1, &how);
                const int64_t want = mode == QN_RECOMPUTE_NONE ? M : mode == QN_RECOMPUTE_FULL || M == 1 ? 1 : 2;
                for (int32_t w = 0; w < P; w++) assert_int_equal(p->arena_bytes[w], want);
                qn_plan_close(p);
                how.recompute = QN_RECOMPUTE_NONE;
                p = rig_plan("1f1b", P, M, 1, &how);
                for (int32_t w = 0; w < P; w++) assert_int_equal(p->arena_bytes[w], qn_min32(P - w, M));
                qn_plan_close(p);
            }
        }
    }
}

static void generator_errors(void **state)
{
    (void)state;
    qn_err err = {0};
    qn_order *o = NULL;
    qn_pattern pat = {.workers = 2, .items = 4, .chunks = 1};
    assert_int_equal(qn_generate(&o, "1f2b", &pat, &err), QN_EINVAL);
    assert_non_null(strstr(err.text, "did you mean '1f1b'"));
    pat.chunks = 2;
    assert_int_equal(qn_generate(&o, "1f1b", &pat, &err), QN_EINVAL);
    pat = (qn_pattern){.workers = 4, .items = 4, .chunks = 2, .group = 3};
    assert_int_equal(qn_generate(&o, "interleaved", &pat, &err), QN_EINVAL);
    pat = (qn_pattern){.workers = 0, .items = 4, .chunks = 2};
    assert_int_equal(qn_generate(&o, "interleaved", &pat, &err), QN_EINVAL);
    pat = (qn_pattern){.workers = 2, .items = 0, .chunks = 2};
    assert_int_equal(qn_generate(&o, "interleaved", &pat, &err), QN_EINVAL);
    assert_null(o);
}

/* Pictures: well formed enough to hold what they must; looks are judged by eye. */
static void pictures(void **state)
{
    (void)state;
    qn_err err = {0};
    char *svg = NULL, *text = NULL;
    const qn_lowering how = rig_plain();
    qn_plan *p = rig_plan("1f1b", 2, 3, 1, &how);
    qn_trace t = {.plan = p, .time = calloc((size_t)p->tasks, sizeof *t.time)};
    const qn_sim_options opt = {0};
    assert_int_equal(qn_simulate(&t, p, &opt, &err), QN_OK);
    const qn_trace *const both[] = {&t, &t};
    const char *const titles[] = {"measured <b>", "simulated"};
    assert_int_equal(qn_trace_svg(&svg, both, titles, 2, &err), QN_OK);
    assert_non_null(strstr(svg, "measured &lt;b&gt;"));
    assert_non_null(strstr(svg, "F 1.2 @1: "));
    assert_non_null(strstr(svg, "</svg>"));
    assert_int_equal(qn_trace_ascii(&text, &t, 30, &err), QN_OK);
    assert_string_equal(text, "   0  0011....aaaa22bbbb..cccc\n   1  ..00aaaa11bbbb22cccc....\n");
    assert_int_equal(qn_trace_ascii(&text, &t, 3, &err), QN_ERANGE);
    qn_free(text);
    qn_free(svg);
    free(t.time);
    qn_plan_close(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_small_sizes), cmocka_unit_test(full_plans),       cmocka_unit_test(gpipe_table),
        cmocka_unit_test(gpipe_memory),    cmocka_unit_test(buffer_table),     cmocka_unit_test(interleaved_idle),
        cmocka_unit_test(golden_orders),   cmocka_unit_test(groups),           cmocka_unit_test(slots_cost_no_time),
        cmocka_unit_test(memory_is_exact), cmocka_unit_test(generator_errors), cmocka_unit_test(pictures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

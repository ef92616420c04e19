/* Costs as users write them: texts, files, traces; what is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "core/io.h"
#include "cost_file.h"
#include "quern/schedule.h"
#include "quern/session.h"
#include "schedule/gen/gen.h"
#include "schedule_costs.h"

static char file[64];

static int set_up(void **state)
{
    (void)state;
    snprintf(file, sizeof file, "costs-%ld.tmp", (long)getpid());
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(file) == 0 ? 0 : 0;
}

static qni_costs parsed(const char *text, const char *from, double latency)
{
    qni_costs c;
    qn_err err = {0};
    if (qni_costs_parse(&c, text, from, latency, &err) != QN_OK) fail_msg("%s: %s", text != NULL ? text : from, err.text);
    return c;
}

static void put(const char *text)
{
    qn_err err = {0};
    if (qn_file_write(file, text, strlen(text), &err) != QN_OK) fail_msg("%s", err.text);
}

static void texts(void **state)
{
    (void)state;
    qni_costs c = parsed("F=1.5,B=2.25", NULL, 0);
    assert_true(c.scale == 1000 && c.stages == 0); /* half of 2.25 has three decimals */
    assert_int_equal(c.tick[QN_OP_B] + c.tick[QN_OP_W], 2250);
    assert_int_equal(c.tick[QN_OP_R], 1500);
    qni_costs_fini(&c);
    c = parsed("0:F=3,B=6;1-3:F=1,B=2,W=1", NULL, -1);
    assert_int_equal(c.stages, 4);
    assert_int_equal(c.stage[0][QN_OP_W], 3);
    assert_int_equal(c.stage[3][QN_OP_BW], 3);
    int64_t(*cost)[QN_OPS], *size[QNI_SIZES];
    qn_err err = {0};
    assert_int_equal(qni_costs_spread(&cost, size, &c, 2, 0, &err), QN_OK);
    assert_int_equal(cost[0][QN_OP_F], 4);
    assert_int_equal(cost[1][QN_OP_BW], 6);
    qn_free(cost);
    assert_int_equal(qni_costs_spread(&cost, size, &c, 3, 0, &err), QN_EINVAL);
    assert_int_equal(qni_costs_sizes(&c, "act=2K,stash=1.5M", &err), QN_OK);
    assert_int_equal(qni_costs_spread(&cost, size, &c, 2, 0, &err), QN_OK);
    assert_int_equal(size[QNI_SIZE_ACT][1], 2048); /* of the first of its two parts */
    assert_int_equal(size[QNI_SIZE_STASH][1], 3 << 20);
    assert_null(size[QNI_SIZE_WSTASH]);
    qn_free(cost);
    for (int k = 0; k < QNI_SIZES; k++) qn_free(size[k]);
    qni_costs_fini(&c);
}

static void files(void **state)
{
    static const char *const form[] = {"{\"unit\": \"ms\", \"latency\": 0.25, \"stages\": [{\"F\": 1, \"B\": 2, \"W\": 1.5, "
                                       "\"stash\": 64}, {\"F\": 2, \"B\": 3, "
                                       "\"W\": 2, \"stash\": 128}]}",
                                       "stage,F,B,W,stash\n0,1,2,1.5,64\n1,2,3,2,128\n",
                                       "{\"stage\": 0, \"F\": 1, \"B\": 2, \"W\": 1.5, \"stash\": 64}\n{\"handover\": "
                                       "\"x\"}\n{\"stage\": 1, \"F\": 2, \"B\": 3, "
                                       "\"W\": 2, \"stash\": 128}\n"};
    (void)state;
    for (size_t i = 0; i < QN_COUNT(form); i++) {
        put(form[i]);
        qni_costs c = i == 0 ? parsed(NULL, file, -1) : parsed(file, NULL, 0.25);
        assert_int_equal(c.stages, 2);
        assert_true(c.scale == 100 && c.latency == 25);
        assert_int_equal(c.stage[0][QN_OP_W], 150);
        assert_int_equal(c.stage[1][QN_OP_BW], 500);
        assert_int_equal(c.tick[QN_OP_F], 150);
        assert_int_equal(c.size[QNI_SIZE_STASH][1], 128);
        qni_costs_fini(&c);
    }
    put("[{\"name\": \"process_name\", \"ph\": \"M\"}, {\"name\": \"F 0.0\", \"dur\": 10.5}, {\"name\": \"F 0.1\", \"dur\": 11}, "
        "{\"name\": \"F 0.2\", \"dur\": 90}, {\"name\": \"SEND act 1.0\", \"dur\": 4}, {\"name\": \"BW 0.0\", \"dur\": 20}]");
    qni_costs c = parsed(NULL, file, -1);
    assert_int_equal(c.stages, 1);
    assert_string_equal(c.unit, "ms");
    assert_true((double)c.stage[0][QN_OP_F] / c.scale == 0.011);
    assert_true((double)c.stage[0][QN_OP_BW] / c.scale == 0.020);
    qni_costs_fini(&c);
}

static void refusals(void **state)
{
    static const char *const text[] = {"F=1",       "F=1,B=2,F=3",         "X=1",         "F=1;B=2", "F=1e9,B=2",
                                       "1:F=1,B=2", "0:F=1,B=2;0:F=1,B=2", "0-x:F=1,B=1", "0:F=1",   "F=0.0000001,B=1",
                                       "nowhere"};
    static const char *const content[] = {"",
                                          "[]",
                                          "{",
                                          "{\"stages\": []}",
                                          "{\"stages\": [{\"F\": -1, \"B\": 1}]}",
                                          "{\"stages\": [{\"F\": \"1\", \"B\": 1}]}",
                                          "stage,F,B\n1,2,3\n",
                                          "F,B\n1\n",
                                          "F,Q\n1,2\n",
                                          "[{\"name\": \"F 0.0\", \"dur\": 1}]",
                                          "[{\"name\": \"F 2.0\", \"dur\": 1}]",
                                          "F,B\n"};
    (void)state;
    qni_costs c;
    qn_err err;
    for (size_t i = 0; i < QN_COUNT(text); i++) {
        err = (qn_err){0};
        if (qni_costs_parse(&c, text[i], NULL, 0, &err) == QN_OK) fail_msg("--cost %s passes", text[i]);
        assert_true(err.text[0] != '\0');
    }
    for (size_t i = 0; i < QN_COUNT(content); i++) {
        put(content[i]);
        err = (qn_err){0};
        if (qni_costs_parse(&c, NULL, file, 0, &err) != QN_EFORMAT) fail_msg("'%s': %s", content[i], err.text);
        assert_non_null(strstr(err.text, file));
    }
    assert_int_equal(qni_costs_parse(&c, "F=1,B=2", file, 0, &err), QN_EINVAL);
    assert_int_equal(qni_costs_parse(&c, NULL, "nowhere", 0, &err), QN_ENOENT);
    double memory;
    assert_int_equal(qni_memory_parse(&memory, "2G", &err), QN_OK);
    assert_true(memory == 2147483648.0);
    assert_int_equal(qni_memory_parse(&memory, "2.5", &err), QN_OK);
    assert_int_equal(qni_memory_parse(&memory, "0", &err), QN_EINVAL);
    assert_int_equal(qni_memory_parse(&memory, "2T", &err), QN_EINVAL);
}

/* A profile of a simulated run comes back as what it was simulated with. */
static void profiles(void **state)
{
    (void)state;
    static const int64_t size[] = {100, 200, 300};
    const qn_pattern pat = {.workers = 3, .items = 5, .chunks = 1};
    const qn_lowering how = {.stash_bytes = size, .tied_owner = QN_NONE, .tied_replica = QN_NONE};
    qn_order *o = NULL;
    qn_plan *p = NULL;
    qn_err err = {0};
    assert_int_equal(qn_generate(&o, "zb-h1", &pat, &err), QN_OK);
    assert_int_equal(qn_lower(&p, o, &how, &err), QN_OK);
    for (int32_t t = 0; t < p->tasks; t++)
        p->task[t].cost = p->task[t].lane == QN_LANE_COMP ? 1000 * p->task[t].stage + 17 * p->task[t].op + 5 : 0;
    qn_trace trace = {.time = qn_calloc((size_t)p->tasks, sizeof *trace.time)};
    const qn_sim_options opt = {.latency = 0};
    assert_int_equal(qn_simulate(&trace, p, &opt, &err), QN_OK);
    assert_int_equal(qni_profile_write(file, &trace, 1, NULL, NULL, &err), QN_OK);
    qni_costs c = parsed(NULL, file, -1);
    assert_int_equal(c.stages, 3);
    for (int32_t s = 0; s < 3; s++) {
        assert_true((double)c.stage[s][QN_OP_W] * 1e6 / c.scale == 1000 * s + 17 * QN_OP_W + 5);
        assert_int_equal(c.size[QNI_SIZE_STASH][s], size[s]);
    }
    qni_costs_fini(&c);
    qn_free(trace.time);
    qn_plan_close(p);
    qn_order_close(o);
}

static double makespan_of(const qn_schedule_options *opt)
{
    char *text = NULL;
    qn_err err = {0};
    if (qn_schedule_simulate(&text, opt, true, &err) != QN_OK)
        fail_msg("%s %s: %s", opt->schedule, opt->cost != NULL ? opt->cost : opt->cost_from, err.text);
    const char *at = strstr(text, "\"makespan\": ");
    assert_non_null(at);
    const double makespan = strtod(at + strlen("\"makespan\": "), NULL);
    qn_text_free(text);
    return makespan;
}

/* Costs out of a simulated trace give the same makespan to the last digit: every schedule, costs with decimals, per stage, with
 * recomputation, messages and vocabulary shards. */
static void a_simulated_trace_comes_back(void **state)
{
    (void)state;
    static const char *const cost[] = {"F=1,B=2", "F=9.261,B=9.043,W=4.6685,R=8.5", "F=3,B=4,W=2,BW=5.5", NULL};
    static const double latency[] = {0, 0.601, 0.25};
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        const int32_t P = g->max_workers > 0 ? g->max_workers : 4, stages = P * g->usual_chunks;
        char uneven[512];
        int at = 0;
        const int32_t depth = stages / qn_generator_replicas(g);
        for (int32_t s = 0; s < depth; s++)
            at += snprintf(uneven + at, sizeof uneven - (size_t)at, "%s%d:F=%d.%d,B=%d,W=%d", s > 0 ? ";" : "", s, 1 + s % 3,
                           s % 5, 2 + s % 2, 1 + (s * 7) % 4);
        for (size_t k = 0; k < QN_COUNT(cost) * QN_COUNT(latency); k++) {
            const char *mine = cost[k % QN_COUNT(cost)] != NULL ? cost[k % QN_COUNT(cost)] : uneven;
            qn_schedule_options opt = {.schedule = g->name,
                                       .workers = P,
                                       .micro_batches = 8,
                                       .pieces = g->host_state ? stages : 0, /* else it is cut anew by the costs of each stage */
                                       .cost = mine,
                                       .latency = latency[k / QN_COUNT(cost)],
                                       .depth = 2,
                                       .recompute = g->host_state ? 0 : (int32_t)(k % 3),
                                       .trace = file};
            const double want = makespan_of(&opt);
            opt.cost = NULL;
            opt.cost_from = file;
            opt.latency = -1;
            opt.trace = NULL;
            const double got = makespan_of(&opt);
            if (got != want) fail_msg("%s with %s: %.17g, and %.17g from its trace", g->name, mine, want, got);
        }
    }
    for (int k = 0; k < 4; k++) {
        qn_schedule_options opt = {.schedule = k < 2 ? "1f1b" : "v-half",
                                   .workers = 4,
                                   .micro_batches = 8,
                                   .vocab_parallel = 1 + k % 2,
                                   .cost = "F=1,B=1.5,W=1,S=0.7,T=1.2,VI=0.1,VJ=0.3",
                                   .latency = 0.05,
                                   .depth = 2,
                                   .trace = file};
        const double want = makespan_of(&opt);
        opt.cost = opt.trace = NULL;
        opt.cost_from = file;
        opt.latency = -1;
        const double got = makespan_of(&opt);
        if (got != want) fail_msg("vocabulary, case %d: %.17g, and %.17g from its trace", k, want, got);
    }
}

/* The profile of a run of shards and copies is that of one column; with its latency the plan takes as long again. */
static void profiles_of_wide_plans(void **state)
{
    (void)state;
    const qn_pattern pat = {.workers = 3, .items = 5, .chunks = 1, .vocab = 1};
    for (int k = 0; k < 2; k++) {
        const qn_pattern mine = {.workers = 3, .items = 5, .chunks = 1};
        const qn_lowering how = {.tied_owner = QN_NONE, .tied_replica = QN_NONE};
        qn_order *o = NULL, *wide = NULL;
        qn_plan *p = NULL;
        qn_err err = {0};
        assert_int_equal(qn_generate(&o, "1f1b", k == 0 ? &mine : &pat, &err), QN_OK);
        if (k == 0) {
            assert_int_equal(qn_order_widen(&wide, o, 2, 1, 1, &err), QN_OK);
            qn_order_close(o);
            o = wide;
        }
        if (qn_lower(&p, o, &how, &err) != QN_OK) fail_msg("%s", err.text);
        for (int32_t t = 0; t < p->tasks; t++)
            p->task[t].cost = p->task[t].lane == QN_LANE_COMP ? 1000 * (p->task[t].stage % 3 + 1) + p->task[t].op : 0;
        for (int32_t t = 0; t < p->tasks; t++)
            if (p->task[t].op >= QN_OP_VI && p->task[t].op <= QN_OP_VJ) p->task[t].cost = 700 + p->task[t].op;
        qn_trace trace = {.time = qn_calloc((size_t)p->tasks, sizeof *trace.time)};
        const qn_sim_options opt = {.latency = 41};
        assert_int_equal(qn_simulate(&trace, p, &opt, &err), QN_OK);
        assert_int_equal(qni_profile_write(file, &trace, 1, NULL, NULL, &err), QN_OK);
        qni_costs c = parsed(NULL, file, -1);
        assert_int_equal(c.stages, 3);
        assert_true((double)c.latency / c.scale * 1e6 == 41);
        for (int32_t s = 0; s < 3; s++) {
            assert_true((double)c.stage[s][QN_OP_F] / c.scale * 1e6 == 1000 * (s + 1) + QN_OP_F);
            assert_true((double)c.stage[s][QN_OP_BW] / c.scale * 1e6 == 1000 * (s + 1) + QN_OP_BW);
        }
        for (int op = QN_OP_VI; op <= QN_OP_VJ; op++)
            assert_true(k == 0 ? c.tick[op] < 0 : (double)c.tick[op] / c.scale * 1e6 == 700 + op);
        qni_costs_fini(&c);
        qn_free(trace.time);
        qn_plan_close(p);
        qn_order_close(o);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts),
        cmocka_unit_test(files),
        cmocka_unit_test(refusals),
        cmocka_unit_test(profiles),
        cmocka_unit_test(profiles_of_wide_plans),
        cmocka_unit_test(a_simulated_trace_comes_back),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}

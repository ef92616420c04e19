/* All schedules for all small sizes: valid, live at depth 1 and 2, idle and peak as their papers say. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/gen/gen.h"
#include "schedule/trace.h"

static qn_order *generate(const char *name, int32_t P, int32_t M, int32_t v)
{
    qn_err err = {0};
    qn_order *o = NULL;
    const qn_pattern pat = {.workers = P, .items = M, .chunks = v};
    if (qn_generate(&o, name, &pat, &err) != QN_OK) fail_msg("%s P=%d M=%d v=%d: %s", name, P, M, v, err.text);
    return o;
}

static qn_lowering plain(void)
{
    return (qn_lowering){.tied_owner = QN_NONE, .tied_replica = QN_NONE};
}

static qn_plan *lower(const qn_order *o, const qn_lowering *how)
{
    qn_err err = {0};
    qn_plan *p = NULL;
    if (qn_lower(&p, o, how, &err) != QN_OK) fail_msg("P=%d S=%d M=%d: %s", o->workers, o->stages, o->items, err.text);
    return p;
}

/* Costs by op; SEND and RECV take nothing. */
static int64_t *costs(const qn_plan *p, int64_t F, int64_t BW, int64_t R)
{
    int64_t *c = calloc((size_t)p->tasks + 1, sizeof *c);
    for (int32_t t = 0; t < p->tasks; t++) {
        const int32_t op = p->task[t].op;
        c[t] = op == QN_OP_F ? F : op == QN_OP_BW ? BW : op == QN_OP_R ? R : 0;
    }
    return c;
}

static qn_trace_summary simulate(const qn_plan *p, const int64_t *cost, int64_t latency, int32_t depth)
{
    static qn_trace_summary sum;
    qn_err err = {0};
    qn_trace trace = {.plan = p, .time = calloc((size_t)p->tasks + 1, sizeof *trace.time)};
    const qn_sim_options opt = {.latency = latency, .cost = cost, .depth = depth};
    if (qn_simulate(&trace, p, &opt, &err) != QN_OK) fail_msg("%s", err.text);
    qn_trace_summarize(&sum, &trace);
    free(trace.time);
    return sum;
}

static void check_size(const char *name, int32_t P, int32_t M, int32_t v)
{
    qn_order *o = generate(name, P, M, v);
    const qn_lowering how = plain();
    qn_plan *p = lower(o, &how);
    int64_t *c = costs(p, 1, 2, 0);
    for (int32_t depth = 1; depth <= 2; depth++) {
        if (!qn_token_game(p, depth)) fail_msg("%s P=%d M=%d v=%d stops at depth %d", name, P, M, v, depth);
    }
    const qn_trace_summary s = simulate(p, c, 0, 0);
    const int64_t ideal = 3 * (int64_t)M * v + 3 * (P - 1);
    if (M % P == 0 || strcmp(name, "1f1b") == 0 || (strcmp(name, "gpipe") == 0 && v == 1)) {
        const bool looped_gpipe = strcmp(name, "gpipe") == 0 && v > 1 && M < P;
        if (!looped_gpipe && s.makespan != ideal)
            fail_msg("%s P=%d M=%d v=%d: makespan %ld, not %ld", name, P, M, v, (long)s.makespan, (long)ideal);
    }
    for (int32_t r = 0; r < P; r++) {
        int64_t peak = (int64_t)M * v;
        if (strcmp(name, "1f1b") == 0) peak = qn_min32(P - r, M);
        if (strcmp(name, "interleaved") == 0 && M % P == 0)
            peak = qn_min64(2 * (P - 1 - r) + (int64_t)(v - 1) * P + 1, (int64_t)M * v);
        if (strcmp(name, "interleaved") == 0 && M % P != 0) continue;
        if (s.peak[r] != peak)
            fail_msg("%s P=%d M=%d v=%d: worker %d holds %ld, not %ld", name, P, M, v, r, (long)s.peak[r], (long)peak);
    }
    free(c);
    qn_plan_close(p);
    qn_order_close(o);
}

static void all_small_sizes(void **state)
{
    (void)state;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t P = 1; P <= 8; P++) {
            for (int32_t v = 1; v <= (g->max_chunks > 0 ? g->max_chunks : 4); v++) {
                for (int32_t M = 1; M <= 24; M++) check_size(g->name, P, M, v);
            }
        }
    }
}

/* Everything on: step tasks, a tied weight, recomputation, messages in parts. */
static void full_plans(void **state)
{
    (void)state;
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        for (int32_t P = 1; P <= 4; P++) {
            for (int32_t v = 1; v <= (g->max_chunks > 0 ? g->max_chunks : 3); v++) {
                for (int32_t M = 1; M <= 6; M++) {
                    for (int32_t k = 0; k < 3 * 2 * 2 * 2; k++) {
                        int64_t act[16], stash[16];
                        qn_order *o = generate(g->name, P, M, v);
                        for (int32_t s = 0; s < P * v; s++) {
                            act[s] = 640 + 64 * s;
                            stash[s] = 1000 * (s + 1);
                        }
                        qn_lowering how = {.act_bytes = act,
                                           .stash_bytes = stash,
                                           .recompute = (qn_recompute)(k % 3),
                                           .step_tasks = k / 3 % 2 != 0,
                                           .slot_bytes = k / 6 % 2 != 0 ? 128 : 0,
                                           .forward_only = k / 12 % 2 != 0,
                                           .tied_owner = M % 2 != 0 ? 0 : QN_NONE,
                                           .tied_replica = M % 2 != 0 ? P * v - 1 : QN_NONE,
                                           .tied_bytes = 100000,
                                           .stat_bytes = 48};
                        qn_plan *p = lower(o, &how);
                        assert_true(qn_token_game(p, 0));
                        qn_plan_close(p);
                        qn_order_close(o);
                    }
                }
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_small_sizes), cmocka_unit_test(full_plans)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

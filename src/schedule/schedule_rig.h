/* Shared by this folder's tests: generate, lower and simulate or fail with the message. */
#ifndef QN_SCHEDULE_RIG_H
#define QN_SCHEDULE_RIG_H

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
#include "core/compiler.h"
#include "core/rng.h"
#include "schedule/gen/gen.h"
#include "schedule/text/schedule_text.h"
#include "schedule/trace.h"

QN_UNUSED static qn_order *rig_generate(const char *name, int32_t P, int32_t M, int32_t v, int32_t group)
{
    qn_err err = {0};
    qn_order *o = NULL;
    const qn_pattern pat = {.workers = P, .items = M, .chunks = v, .group = group};
    if (qn_generate(&o, name, &pat, &err) != QN_OK) fail_msg("%s P=%d M=%d v=%d: %s", name, P, M, v, err.text);
    return o;
}

QN_UNUSED static qn_lowering rig_plain(void)
{
    return (qn_lowering){.tied_owner = QN_NONE, .tied_replica = QN_NONE};
}

QN_UNUSED static qn_plan *rig_lower(const qn_order *o, const qn_lowering *how)
{
    qn_err err = {0};
    qn_plan *p = NULL;
    if (qn_lower(&p, o, how, &err) != QN_OK) fail_msg("P=%d S=%d M=%d: %s", o->workers, o->stages, o->items, err.text);
    return p;
}

/* The plan of a generated schedule. */
QN_UNUSED static qn_plan *rig_plan(const char *name, int32_t P, int32_t M, int32_t v, const qn_lowering *how)
{
    qn_order *o = rig_generate(name, P, M, v, 0);
    qn_plan *p = rig_lower(o, how);
    qn_order_close(o);
    return p;
}

/* Can the schedule do these numbers? All can but DualPipeV with fewer than 2P micro-batches, and those for one worker. */
QN_UNUSED static bool rig_possible(const qn_generator *g, int32_t P, int32_t M)
{
    return qn_generator_can(g, P, M);
}

/* Sizes that are enough for a schedule that is searched for: every fourth. */
QN_UNUSED static bool rig_too_slow(const qn_generator *g, int32_t P, int32_t M)
{
    return strcmp(g->name, "v-adaptive") == 0 && (P > 6 || M % 4 != P % 4);
}

/* Can it run with its messages in the comp lane? Not where outputs of a worker's first stages pile up in front of the next.
 */
QN_UNUSED static bool rig_one_lane(const qn_generator *g)
{
    static const char *const not [] = {"looped-bfs", "interleaved-zb", "v-zb", "v-adaptive"};
    for (size_t i = 0; i < QN_COUNT(not ); i++) {
        if (strcmp(g->name, not [i]) == 0) return false;
    }
    return !g->host_state;
}

/* [tasks]; BW takes B and W together. */
QN_UNUSED static int64_t *rig_split_costs(const qn_plan *p, int64_t F, int64_t B, int64_t W, int64_t R, int64_t SEND)
{
    const int64_t of[QN_OPS] = {
        [QN_OP_F] = F, [QN_OP_B] = B, [QN_OP_W] = W, [QN_OP_BW] = B + W, [QN_OP_R] = R, [QN_OP_SEND] = SEND};
    int64_t *c = calloc((size_t)p->tasks + 1, sizeof *c);
    for (int32_t t = 0; t < p->tasks; t++) c[t] = of[p->task[t].op];
    return c;
}

/* The same where the backward is whole; split ones take half of it each, the odd tick with B. */
QN_UNUSED static int64_t *rig_costs(const qn_plan *p, int64_t F, int64_t BW, int64_t R, int64_t SEND)
{
    return rig_split_costs(p, F, BW - BW / 2, BW / 2, R, SEND);
}

QN_UNUSED static const qn_trace_summary *rig_simulate_with(const qn_plan *p, const qn_sim_options *opt)
{
    static qn_trace_summary sum;
    qn_err err = {0};
    qn_trace trace = {.plan = p, .time = calloc((size_t)p->tasks + 1, sizeof *trace.time)};
    if (qn_simulate(&trace, p, opt, &err) != QN_OK) fail_msg("%s", err.text);
    qn_trace_summarize(&sum, &trace);
    free(trace.time);
    return &sum;
}

QN_UNUSED static const qn_trace_summary *rig_simulate(const qn_plan *p, const int64_t *cost, int64_t latency, int32_t depth)
{
    return rig_simulate_with(p, &(qn_sim_options){.latency = latency, .cost = cost, .depth = depth});
}

/* Makespan with these costs. */
QN_UNUSED static int64_t rig_makespan(const qn_plan *p, int64_t F, int64_t BW, int64_t R, int64_t SEND, int64_t latency,
                                      int32_t depth)
{
    int64_t *c = rig_costs(p, F, BW, R, SEND);
    const int64_t m = rig_simulate(p, c, latency, depth)->makespan;
    free(c);
    return m;
}

#endif

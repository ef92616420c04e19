/* quern bench pipeline, every schedule: how long it really takes against what the simulator says.
 *
 *   model kernels   training steps of each schedule and of 1F1B in turn: measured against simulated makespan (with the costs of
 * that run), throughput over 1F1B's against the predicted ratio sleep kernels   tasks that sleep: no work, so that any number of
 * workers runs on any machine, and what is measured is the executor and the schedule */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "bench_schedules.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "cost_file.h"
#include "measured.h"
#include "runtime/executor.h"
#include "schedule/gen/gen.h"
#include "transport/transport.h"

/* ---- sleep kernels */

typedef struct sleeper {
    const qn_plan *plan;
    char nowhere[64];
} sleeper;

static qn_status sleep_task(void *ctx, qn_executor *ex, int32_t task, qn_err *err)
{
    const sleeper *s = ctx;
    const int64_t until = qn_now_ns() + s->plan->task[task].cost;
    const struct timespec at = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};
    (void)ex;
    (void)err;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) continue;
    return QN_OK;
}

static void *sleep_home(void *ctx, int32_t value, size_t *bytes)
{
    sleeper *s = ctx;
    (void)value;
    *bytes = sizeof s->nowhere;
    return s->nowhere;
}

static qn_status plan_of(qn_plan **out, const qn_generator *g, int32_t workers, int32_t items, const int64_t cost[QN_OPS],
                         qn_err *err)
{
    qn_pattern pat = {.workers = workers, .items = items, .chunks = g->usual_chunks};
    const qn_lowering how = {.tied_owner = QN_NONE, .tied_replica = QN_NONE};
    qn_order *order = NULL;
    qn_status st;
    for (int op = 0; op < QN_OPS; op++) pat.cost[op] = cost[op] / g->usual_chunks;
    QN_TRY(st, qn_generate(&order, g->name, &pat, err), out);
    QN_TRY(st, qn_lower(out, order, &how, err), out);
    for (int32_t t = 0; t < (*out)->tasks; t++)
        (*out)->task[t].cost = (*out)->task[t].lane == QN_LANE_COMP ? pat.cost[(*out)->task[t].op] : 0;
out:
    qn_order_close(order);
    return st;
}

static qn_status run_sleepers(double *ratio, double *simulated_ms, const qn_plan *plan, int32_t steps, qn_err *err)
{
    sleeper s = {.plan = plan};
    const qn_executor_desc desc = {.plan = plan,
                                   .transport = qn_transport_find("thread"),
                                   .faults = {.dead_worker = -1},
                                   .driver = QN_DRIVE_THREADS,
                                   .fns = {.run = sleep_task, .home = sleep_home},
                                   .ctx = &s,
                                   .spins = 0};
    qn_trace trace = {.plan = plan, .time = qn_calloc((size_t)plan->tasks + 1, sizeof *trace.time)};
    qn_executor *ex = NULL;
    double each[64];
    qn_status st;
    if (trace.time == NULL) return QN_FAIL(err, QN_ENOMEM, "trace");
    const qn_sim_options how = {.latency = 0};
    QN_TRY(st, qn_simulate(&trace, plan, &how, err), out);
    const double simulated = (double)qni_trace_makespan(&trace);
    QN_TRY(st, qn_executor_open(&ex, &desc, err), out);
    steps = qn_min32(steps, 64);
    for (int32_t i = -1; i < steps; i++) {
        QN_TRY(st, qn_executor_step(ex, &trace, err), out);
        if (i >= 0) each[i] = (double)qni_trace_makespan(&trace) / simulated;
    }
    *ratio = qni_median(each, steps);
    *simulated_ms = simulated * 1e-6;
out:
    qn_executor_close(ex);
    qn_free(trace.time);
    return st;
}

qn_status qni_bench_sleepers(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    static const int64_t cost[QN_OPS] = {
        [QN_OP_F] = 16000000, [QN_OP_B] = 20000000, [QN_OP_W] = 12000000, [QN_OP_BW] = 32000000, [QN_OP_R] = 16000000}; /* ns */
    const int32_t least = opt->workers > 0 ? (int32_t)opt->workers : 2, most = opt->workers > 0 ? least : 16;
    for (int32_t P = least; P <= most; P *= 2) {
        for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
            const int32_t M = opt->micro_batches > 0 ? (int32_t)opt->micro_batches : 2 * P;
            qn_plan *plan = NULL;
            double ratio = 0, ms = 0;
            if (!qn_generator_can(g, P, M)) continue;
            qn_status st = plan_of(&plan, g, P, M, cost, err);
            if (st == QN_OK) st = run_sleepers(&ratio, &ms, plan, (int32_t)opt->steps, err);
            qn_plan_close(plan);
            if (st == QN_EINVAL) continue; /* numbers this schedule does not do */
            if (st != QN_OK) return st;
            qni_line l = qni_line_begin(opt->json);
            qni_line_text(&l, "schedule", g->name);
            qni_line_text(&l, "kernels", "sleep");
            qni_line_number(&l, "workers", P);
            qni_line_number(&l, "micro_batches", M);
            qni_line_number(&l, "simulated_ms", ms);
            qni_line_number(&l, "measured_over_simulated", ratio);
            qni_line_end(&l, line, ctx);
        }
    }
    return QN_OK;
}

/* ---- model kernels */

typedef struct side {
    qni_bench_run run;
    double seconds[1000];
    double measured_ms, simulated_ms;
} side;

static qn_status judge(side *s, qn_err *err)
{
    const qni_bench_run *b = &s->run;
    qn_trace simulated = {.time = qn_calloc((size_t)b->trace->plan->tasks + 1, sizeof *simulated.time)};
    if (simulated.time == NULL) return QN_FAIL(err, QN_ENOMEM, "trace");
    const qn_status st = qni_simulate_measured(&simulated, b->trace, b->traces, err);
    s->measured_ms = (double)qni_trace_makespan(qni_trace_median(b->trace, b->traces)) * 1e-6;
    if (st == QN_OK) s->simulated_ms = (double)qni_trace_makespan(&simulated) * 1e-6;
    qn_free(simulated.time);
    return st;
}

/* Steps of both in turn, so that a machine whose speed drifts slows both. */
static qn_status race_pair(side *a, side *b, int32_t steps, qn_err *err)
{
    for (int32_t i = -1; i < steps; i++) {
        for (int k = 0; k < 2; k++) {
            side *s = k == 0 ? a : b;
            qn_step_result result;
            const qn_status st =
                qn_trainer_step(s->run.trainer, i + 1, 1e-4, &result, &s->run.trace[i < 0 ? 0 : i % s->run.traces], err);
            if (st != QN_OK) return st;
            if (i >= 0) s->seconds[i] = (double)result.ns * 1e-9;
        }
    }
    return QN_OK;
}

/* One line per stage that --cost-from reads back. */
static qn_status show_profile(const side *s, const char *name, const qn_bench_options *opt, qn_line_fn *line, void *ctx,
                              qn_err *err)
{
    qni_cost_rows rows;
    const qn_status st = qni_profile_of(&rows, s->run.trace, s->run.traces, err);
    if (st != QN_OK) return st;
    for (int32_t i = 0; i < rows.rows; i++) {
        qni_line l = qni_line_begin(opt->json);
        qni_line_text(&l, "profile", name);
        qni_line_number(&l, "stage", i);
        qni_line_number(&l, "F", (double)rows.micro[i][QN_OP_F] * 1e-6);
        qni_line_number(&l, "B", (double)rows.micro[i][QN_OP_B] * 1e-6);
        qni_line_number(&l, "W", (double)rows.micro[i][QN_OP_W] * 1e-6);
        qni_line_number(&l, "act", (double)rows.size[0][i]);
        qni_line_number(&l, "stash", (double)rows.size[1][i]);
        qni_line_number(&l, "wstash", (double)rows.size[2][i]);
        qni_line_end(&l, line, ctx);
    }
    qni_cost_rows_fini(&rows);
    return QN_OK;
}

static qn_status one_schedule(const qn_generator *g, const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    enum { TRACES = 15 };
    const int32_t steps = qn_min32((int32_t)opt->steps, 1000), traces = qn_min32(TRACES, steps);
    side *pair = qn_calloc(2, sizeof *pair);
    qn_status st;
    if (pair == NULL) return QN_FAIL(err, QN_ENOMEM, "results of %d steps", steps);
    QN_TRY(st, qni_bench_open(&pair[0].run, opt, "1f1b", traces, err), out);
    QN_TRY(st, qni_bench_open(&pair[1].run, opt, g->name, traces, err), out);
    QN_TRY(st, race_pair(&pair[0], &pair[1], steps, err), out);
    for (int k = 0; k < 2; k++) QN_TRY(st, judge(&pair[k], err), out);
    const double measured = qni_median(pair[0].seconds, steps) / qni_median(pair[1].seconds, steps);
    const double predicted = pair[0].simulated_ms / pair[1].simulated_ms;
    qni_line l = qni_line_begin(opt->json);
    qni_line_text(&l, "schedule", g->name);
    qni_line_text(&l, "kernels", "model");
    qni_line_number(&l, "workers", (double)opt->workers);
    qni_line_number(&l, "micro_batches", (double)opt->micro_batches);
    qni_line_number(&l, "measured_ms", pair[1].measured_ms);
    qni_line_number(&l, "simulated_ms", pair[1].simulated_ms);
    qni_line_number(&l, "measured_over_simulated", pair[1].measured_ms / pair[1].simulated_ms);
    qni_line_number(&l, "throughput_over_1f1b", measured);
    qni_line_number(&l, "predicted_over_1f1b", predicted);
    qni_line_number(&l, "ratio_over_predicted", measured / predicted);
    qni_line_end(&l, line, ctx);
    if (strcmp(g->name, "zb-h1") == 0) st = show_profile(&pair[1], g->name, opt, line, ctx, err);
out:
    for (int k = 0; k < 2; k++) qni_bench_close(&pair[k].run);
    qn_free(pair);
    return st;
}

qn_status qni_bench_all_schedules(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        if (strcmp(g->name, "1f1b") == 0 || strcmp(g->name, "gpipe") == 0 ||
            !qn_generator_can(g, (int32_t)opt->workers, (int32_t)opt->micro_batches))
            continue;
        const qn_status st = one_schedule(g, opt, line, ctx, err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

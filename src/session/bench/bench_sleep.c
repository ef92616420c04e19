/* quern bench pipeline --kernels sleep: tasks that sleep instead of computing, so that any number of workers runs on any machine,
 * and what is measured is the executor and the schedule. A task that takes d ends d after it really began: nothing is caught up.
 */
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "bench_schedules.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "session/schedules/measured.h"
#include "runtime/executor/executor.h"
#include "schedule/gen/gen.h"
#include "transport/transport.h"

enum { MOST_STEPS = 64, PIECES = 8, WINDOW = 2, PIECE_BYTES = 1 << 20, LINK = 128 << 20 };

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
    if (s->plan->task[task].cost == 0) return QN_OK;
    (void)prctl(PR_SET_TIMERSLACK, 1UL); /* of this thread; else the kernel adds up to 50 us to every sleep */
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

/* Bytes that are not there: the lane waits for the link all the same. */
static qn_status sleep_copy(void *ctx, qn_executor *ex, int32_t task, size_t at, size_t bytes, qn_err *err)
{
    (void)ctx;
    (void)ex;
    (void)task;
    (void)at;
    (void)bytes;
    (void)err;
    return QN_OK;
}

/* A schedule of one worker has its pieces on the host: loads and gradients take as long as a piece's forward does. */
static qn_status lower_window(qn_plan **out, const qn_order *order, qn_lowering how, qn_err *err)
{
    int64_t bytes[PIECES];
    for (int32_t i = 0; i < PIECES; i++) bytes[i] = PIECE_BYTES;
    const qn_tiers tiers = {.window = WINDOW, .replace = 1, .chunk_bytes = bytes, .pgrad_bytes = bytes};
    how.tiers = &tiers;
    const qn_status st = qn_lower(out, order, &how, err);
    for (int32_t t = 0; st == QN_OK && t < (*out)->tasks; t++) {
        qn_task *x = &(*out)->task[t];
        if (x->op != QN_OP_LOAD && x->op != QN_OP_OFFLOAD) continue;
        x->cost = (*out)->value[(*out)->ref[x->in.first]].bytes * 1000000000 / LINK;
    }
    return st;
}

static qn_status plan_of(qn_plan **out, const qn_generator *g, int32_t workers, int32_t items, const int64_t cost[QN_OPS],
                         qn_err *err)
{
    const bool window = g->max_workers == 1;
    const int32_t chunks = window ? PIECES : g->usual_chunks;
    qn_pattern pat = {.workers = workers, .items = items, .chunks = chunks};
    const qn_lowering how = {.tied_owner = QN_NONE, .tied_replica = QN_NONE};
    qn_order *order = NULL;
    qn_status st;
    for (int op = 0; op < QN_OPS; op++) pat.cost[op] = cost[op] / chunks;
    QN_TRY(st, qn_generate(&order, g->name, &pat, err), out);
    if (window)
        QN_TRY(st, lower_window(out, order, how, err), out);
    else
        QN_TRY(st, qn_lower(out, order, &how, err), out);
    for (int32_t t = 0; t < (*out)->tasks; t++) {
        qn_task *x = &(*out)->task[t];
        if (x->op != QN_OP_LOAD && x->op != QN_OP_OFFLOAD) x->cost = x->lane == QN_LANE_COMP ? pat.cost[x->op] : 0;
    }
out:
    qn_order_close(order);
    return st;
}

typedef struct result {
    double simulated_ms, ratio, least, most; /* measured / simulated: median, and its spread */
} result;

static qn_status run_sleepers(result *r, const qn_plan *plan, bool window, int32_t steps, qn_err *err)
{
    sleeper s = {.plan = plan};
    const qn_executor_desc desc = {.plan = plan,
                                   .transport = qn_transport_find("thread"),
                                   .faults = {.dead_worker = -1},
                                   .driver = QN_DRIVE_THREADS,
                                   .fns = {.run = sleep_task, .home = sleep_home, .copy = window ? sleep_copy : NULL},
                                   .ctx = &s,
                                   .link_bytes_per_s = window ? LINK : 0,
                                   .spins = 0};
    qn_trace trace = {.plan = plan, .time = qn_calloc((size_t)plan->tasks + 1, sizeof *trace.time)};
    qn_executor *ex = NULL;
    double each[MOST_STEPS];
    qn_status st;
    if (trace.time == NULL) return QN_FAIL(err, QN_ENOMEM, "trace");
    const qn_sim_options how = {.latency = 0};
    QN_TRY(st, qn_simulate(&trace, plan, &how, err), out);
    const double simulated = (double)qni_trace_makespan(&trace);
    QN_TRY(st, qn_executor_open(&ex, &desc, err), out);
    steps = qn_min32(steps, MOST_STEPS);
    for (int32_t i = -1; i < steps; i++) {
        if (i < 0 && steps > 1) continue; /* nothing to warm up but threads */
        QN_TRY(st, qn_executor_step(ex, &trace, err), out);
        each[qn_max32(i, 0)] = (double)qni_trace_makespan(&trace) / simulated;
    }
    *r = (result){.simulated_ms = simulated * 1e-6, .ratio = qni_median(each, steps)};
    r->least = each[0];
    r->most = each[steps - 1];
out:
    qn_executor_close(ex);
    qn_free(trace.time);
    return st;
}

static void show(const char *name, int32_t P, int32_t M, const result *r, int json, qn_line_fn *line, void *ctx)
{
    qni_line l = qni_line_begin(json);
    qni_line_text(&l, "schedule", name);
    qni_line_text(&l, "kernels", "sleep");
    qni_line_number(&l, "workers", P);
    qni_line_number(&l, "micro_batches", M);
    qni_line_number(&l, "simulated_ms", r->simulated_ms);
    qni_line_number(&l, "measured_over_simulated", r->ratio);
    qni_line_number(&l, "least", r->least);
    qni_line_number(&l, "most", r->most);
    qni_line_text(&l, "wanted", "0.97 to 1.03");
    qni_line_text(&l, "reached", r->ratio <= 1.03 && r->ratio >= 0.97 ? "yes" : "no");
    qni_line_end(&l, line, ctx);
}

static bool is_wanted(const qn_list *only, const char *name)
{
    bool all = only->count == 0;
    for (int32_t i = 0; i < only->count; i++)
        all = all || strcmp(only->item[i], name) == 0 || strcmp(only->item[i], "schedules") == 0;
    return all;
}

/* One worker for the schedules that have one, the others on 2 to 16. */
qn_status qni_bench_sleepers(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    static const int64_t cost[QN_OPS] = {
        [QN_OP_F] = 16000000, [QN_OP_B] = 20000000, [QN_OP_W] = 12000000, [QN_OP_BW] = 32000000, [QN_OP_R] = 16000000}; /* ns */
    const int32_t least = opt->workers > 0 ? (int32_t)opt->workers : 1, most = opt->workers > 0 ? least : 16;
    for (int32_t P = least; P <= most; P *= 2) {
        for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
            const int32_t M = opt->micro_batches > 0 ? (int32_t)opt->micro_batches : P == 1 ? 4 : 2 * P;
            qn_plan *plan = NULL;
            result r = {0};
            if (!is_wanted(&opt->only, g->name) || !qn_generator_can(g, P, M) || (P == 1) != (g->max_workers == 1)) continue;
            qn_status st = plan_of(&plan, g, P, M, cost, err);
            if (st == QN_OK) st = run_sleepers(&r, plan, g->max_workers == 1, (int32_t)opt->steps, err);
            qn_plan_close(plan);
            if (st != QN_OK) return st;
            show(g->name, P, M, &r, opt->json, line, ctx);
        }
    }
    return QN_OK;
}

/* quern bench pipeline --kernels sleep: tasks that sleep instead of computing, so that any number of workers runs on any machine,
 * and what is measured is the executor and the schedule. A task that takes d ends d after it really began: nothing is caught up.
 */
#include <string.h>

#include "bench_schedules.h"
#include "bench_sleeper.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "session/schedules/measured.h"

enum { MOST_STEPS = 64, PIECES = 8, WINDOW = 2, PIECE_BYTES = 1 << 20, LINK = 128 << 20 };

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

/* Superpipeline alone: on one worker. */
static qn_status window_plan(qn_plan **out, const qn_generator *g, int32_t items, const int64_t cost[QN_OPS], qn_err *err)
{
    qn_pattern pat = {.workers = 1, .items = items, .chunks = PIECES};
    const qn_lowering how = {.tied_owner = QN_NONE, .tied_replica = QN_NONE};
    qn_order *order = NULL;
    qn_status st;
    for (int op = 0; op < QN_OPS; op++) pat.cost[op] = cost[op] / PIECES;
    QN_TRY(st, qn_generate(&order, g->name, &pat, err), out);
    QN_TRY(st, lower_window(out, order, how, err), out);
    for (int32_t t = 0; t < (*out)->tasks; t++) {
        qn_task *x = &(*out)->task[t];
        if (x->op != QN_OP_LOAD && x->op != QN_OP_OFFLOAD) x->cost = x->lane == QN_LANE_COMP ? pat.cost[x->op] : 0;
    }
out:
    qn_order_close(order);
    return st;
}

static qn_status plan_of(qn_plan **out, const qn_generator *g, int32_t workers, int32_t items, const int64_t cost[QN_OPS],
                         qn_err *err)
{
    if (g->max_workers == 1) return window_plan(out, g, items, cost, err);
    return qni_sleep_plan(out, g->name, workers, g->usual_chunks, items, cost, err);
}

typedef struct result {
    double simulated_ms, ratio, least, most; /* measured / simulated: median, and its spread */
} result;

static qn_status run_sleepers(result *r, const qn_plan *plan, bool window, int32_t steps, qn_err *err)
{
    qni_sleeper s = {.plan = NULL};
    qn_trace trace = {.plan = plan, .time = qn_calloc((size_t)plan->tasks + 1, sizeof *trace.time)};
    double each[MOST_STEPS];
    qn_status st;
    if (trace.time == NULL) return QN_FAIL(err, QN_ENOMEM, "trace");
    const qn_sim_options how = {.latency = 0};
    QN_TRY(st, qn_simulate(&trace, plan, &how, err), out);
    const double simulated = (double)qni_trace_makespan(&trace);
    QN_TRY(st, qni_sleeper_open(&s, plan, window ? LINK : 0, 0, err), out);
    steps = qn_min32(steps, MOST_STEPS);
    for (int32_t i = -1; i < steps; i++) {
        if (i < 0 && steps > 1) continue; /* nothing to warm up but threads */
        QN_TRY(st, qn_executor_step(s.ex, &trace, err), out);
        each[qn_max32(i, 0)] = (double)qni_trace_makespan(&trace) / simulated;
    }
    *r = (result){.simulated_ms = simulated * 1e-6, .ratio = qni_median(each, steps)};
    r->least = each[0];
    r->most = each[steps - 1];
out:
    qni_sleeper_close(&s);
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

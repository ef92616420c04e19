/* The simulator: as soon as possible, integer ticks. Tasks make no choices, so that start times are longest paths in the plan's
 * graph: one pass over its order, linear in tasks and waits. */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"
#include "schedule/trace.h"

qn_status qn_simulate(qn_trace *out, const qn_plan *plan, const qn_sim_options *opt, qn_err *err)
{
    qni_graph g;
    if (opt->latency < 0) return QN_FAIL(err, QN_ERANGE, "a latency of %lld ticks", (long long)opt->latency);
    qn_status st = qni_graph_open(&g, plan, opt->depth, 0, err);
    if (st != QN_OK) return st;
    st = qni_graph_live(&g, err);
    if (st == QN_OK) {
        qni_graph_times(&g, out->time, opt);
        out->plan = plan;
    }
    qni_graph_close(&g);
    return st;
}

bool qni_shows_copies(const qn_trace *t)
{
    for (int32_t i = 0; i < t->plan->tasks; i++)
        if (qni_is_copy(t->plan->task[i].op) && t->time[i].end > t->time[i].start) return true;
    return false;
}

typedef struct worker_sums {
    int64_t busy, first, last, live, peak;
} worker_sums;

/* Stashes that a task makes, less those that it is the last to need. Where a backward runs elsewhere (RoundPipe) a forward that
 * drops its own stash leaves none; the recomputation on the backward's worker makes it. */
static int32_t stashes_made(const qn_plan *p, int32_t task)
{
    const qn_task *t = &p->task[task];
    if (t->op != QN_OP_F) return t->op == QN_OP_R;
    for (int32_t i = 0; i < t->free.count; i++) {
        const qn_value *v = &p->value[p->ref[t->free.first + i]];
        if (v->cls == QN_V_STASH && v->stage == t->stage && v->item == t->item) return 0;
    }
    return 1;
}

int32_t qni_task_stashes(const qn_plan *p, int32_t task)
{
    const int32_t op = p->task[task].op;
    if (op == QN_OP_W || op == QN_OP_BW) return -1;
    return p->backward_of == NULL ? op == QN_OP_F : stashes_made(p, task);
}

static worker_sums sum_worker(const qn_trace *t, int32_t w, bool tiers)
{
    const qn_plan *p = t->plan;
    worker_sums s = {.first = INT64_MAX, .last = INT64_MIN};
    const int32_t first = p->lane[w][QN_LANE_COMP][0], count = p->lane[w][QN_LANE_COMP][1];
    for (int32_t i = first; i < first + count; i++) {
        const int32_t op = p->task[i].op;
        const qn_span_time x = t->time[i];
        if (!qni_is_work(op) || x.end < x.start) continue;
        s.live += tiers && (op == QN_OP_F || op == QN_OP_R) ? stashes_made(p, i) : qni_task_stashes(p, i);
        s.peak = qn_max64(s.peak, s.live);
        if (x.end == x.start) continue;
        s.busy += x.end - x.start;
        s.first = qn_min64(s.first, x.start);
        s.last = qn_max64(s.last, x.end);
    }
    return s;
}

void qn_trace_summarize(qn_trace_summary *out, const qn_trace *t)
{
    memset(out, 0, sizeof *out);
    const int32_t workers = t->plan->workers;
    const bool tiers = qni_plan_has_tiers(t->plan);
    for (int32_t w = 0; w < workers; w++) {
        const worker_sums s = sum_worker(t, w, tiers);
        out->busy_total += s.busy;
        out->peak[w] = s.peak;
        out->idle_makespan[w] = -s.busy; /* completed below */
        out->idle_span[w] = s.busy > 0 ? s.last - s.first - s.busy : 0;
        if (s.busy > 0) out->makespan = qn_max64(out->makespan, s.last);
    }
    for (int32_t w = 0; w < workers; w++) out->idle_makespan[w] += out->makespan;
    const double whole = (double)workers * (double)out->makespan;
    out->bubble = whole > 0 ? (whole - (double)out->busy_total) / whole : 0;
}

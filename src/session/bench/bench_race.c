/* Training steps in turn; see bench_race.h. */
#include "bench_race.h"

#include <math.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/team.h"
#include "session/schedules/measured.h"

qn_status qni_racer_open(qni_racer *r, const qn_bench_options *opt, const qni_bench_how *how, qn_err *err)
{
    *r = (qni_racer){.opt = *opt, .how = *how};
    r->how.flight = qn_max32(r->how.flight, 1);
    r->how.traces = r->how.flight > 1 ? r->how.flight : qn_min32(QNI_RACE_TRACES, (int32_t)opt->steps);
    r->seconds = qn_calloc(2 * (size_t)opt->steps, sizeof(*r->seconds));
    r->stolen = r->seconds != NULL ? r->seconds + opt->steps : NULL;
    if (r->seconds == NULL) return QN_FAIL(err, QN_ENOMEM, "results of %lld steps", (long long)opt->steps);
    return qni_bench_open(&r->run, &r->opt, &r->how, err);
}

void qni_racer_close(qni_racer *r)
{
    if (r->seconds != NULL) qni_bench_close(&r->run);
    qn_free(r->seconds);
    r->seconds = NULL;
}

/* The median over the traces of makespan / simulated makespan when each task takes as long as it took in that very step: what the
 * executor itself adds. */
static qn_status replay(double *ratio, const qni_bench_run *b, qn_trace *room, int64_t *cost, qn_err *err)
{
    const qn_plan *p = b->trace->plan;
    double each[QNI_RACE_TRACES];
    for (int32_t i = 0; i < b->traces; i++) {
        const qn_trace *t = &b->trace[i];
        for (int32_t k = 0; k < p->tasks; k++) {
            const bool message = p->task[k].op == QN_OP_SEND || p->task[k].op == QN_OP_RECV;
            cost[k] = message ? 0 : qn_max64(t->time[k].end - t->time[k].start, 0);
        }
        const qn_sim_options opt = {.cost = cost};
        const qn_status st = qn_simulate(room, p, &opt, err);
        if (st != QN_OK) return st;
        each[i] = (double)qni_trace_makespan(t) / (double)qni_trace_makespan(room);
    }
    *ratio = qni_median(each, b->traces);
    return QN_OK;
}

/* The costs of one step: see bench_race.h. pooled, cost: [tasks] */
static qn_status step_costs(int64_t *cost, const int64_t *pooled, const qn_trace *trace, qn_err *err)
{
    const qn_plan *p = trace->plan;
    const qn_status st = qni_measured_costs(cost, trace, 1, err);
    for (int32_t k = 0; k < p->tasks && st == QN_OK; k++)
        if (p->task[k].lane != QN_LANE_COMP || p->task[k].item == QN_NONE) cost[k] = pooled[k];
    return st;
}

/* Bytes of a message that carries gradients between replicas, else 0. */
static int64_t bundle_bytes(const qn_plan *p, const qn_task *t)
{
    int64_t bytes = 0;
    if (t->op != QN_OP_SEND || p->channel[t->channel].cls != QN_V_TGRAD) return 0;
    for (int32_t i = 0; i < t->in.count; i++) bytes += p->value[p->ref[t->in.first + i]].bytes;
    return bytes;
}

/* Replicas exchange bundles of gradients, which take their time to copy: their SENDs cost the least time a byte that any of them
 * took, since a SEND whose receiver is not there yet lasts until it is. Other messages are short and cost nothing. */
static void price_bundles(int64_t *cost, const qn_trace *traces, int32_t n)
{
    const qn_plan *p = traces[0].plan;
    double least = INFINITY;
    for (int32_t k = 0; k < p->tasks; k++) {
        const int64_t bytes = bundle_bytes(p, &p->task[k]);
        for (int32_t i = 0; i < n && bytes > 0; i++)
            least = fmin(least, (double)qn_max64(traces[i].time[k].end - traces[i].time[k].start, 0) / (double)bytes);
    }
    for (int32_t k = 0; k < p->tasks; k++) {
        const int64_t bytes = bundle_bytes(p, &p->task[k]);
        if (bytes > 0) cost[k] = (int64_t)(least * (double)bytes);
    }
}

/* Do copies take processors from the tasks: on devices whose link is as fast as memory? A slower one sleeps. */
static bool copies_work(const qni_racer *r)
{
    const qn_plan *p = r->run.trace->plan;
    int32_t copies = 0;
    for (int32_t w = 0; w < p->workers; w++) copies += p->lane[w][QN_LANE_UP][1] + p->lane[w][QN_LANE_DOWN][1];
    return copies > 0 && (r->how.tiers == NULL || r->how.tiers->link_bytes_per_s == 0);
}

static qn_status judge(qni_racer *r, qn_err *err)
{
    const qni_bench_run *b = &r->run;
    const size_t tasks = (size_t)b->trace->plan->tasks + 1;
    qn_trace simulated = {.time = qn_calloc(tasks, sizeof(*simulated.time))};
    int64_t *cost = qn_calloc(2 * tasks, sizeof(*cost)), *pooled = cost != NULL ? cost + tasks : NULL;
    const qn_sim_options how = {.cost = cost};
    double each[QNI_RACE_TRACES];
    qn_trace_summary real, ideal;
    qn_status st = simulated.time != NULL && cost != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "trace");
    if (st == QN_OK) st = replay(&r->replayed, b, &simulated, cost, err);
    if (st == QN_OK) st = qni_measured_costs(pooled, b->trace, b->traces, err);
    if (st == QN_OK) price_bundles(pooled, b->trace, b->traces);
    for (int32_t i = 0; i < b->traces && st == QN_OK; i++) {
        st = step_costs(cost, pooled, &b->trace[i], err);
        if (st == QN_OK && copies_work(r))
            st = qn_simulate_lanes(&simulated, b->trace->plan, cost, qn_team_cores(), err);
        else if (st == QN_OK)
            st = qn_simulate(&simulated, b->trace->plan, &how, err);
        each[i] = (double)qni_trace_makespan(&b->trace[i]) / (double)qni_trace_makespan(&simulated);
    }
    if (st == QN_OK) st = qni_simulate_measured(&simulated, b->trace, b->traces, err);
    if (st != QN_OK) goto out;
    const qn_trace *typical = qni_trace_median(b->trace, b->traces);
    r->measured_ms = (double)qni_trace_makespan(typical) * 1e-6;
    r->simulated_ms = (double)qni_trace_makespan(&simulated) * 1e-6;
    r->ratio_middle = qni_median(each, b->traces);
    r->ratio_least = each[0];
    r->ratio_most = each[b->traces - 1];
    r->step_s = qni_median(r->seconds, (int32_t)r->opt.steps);
    qn_trace_summarize(&real, typical);
    qn_trace_summarize(&ideal, &simulated);
    r->bubble_measured = real.bubble;
    r->bubble_simulated = ideal.bubble;
out:
    qn_free(simulated.time);
    qn_free(cost);
    return st;
}

/* Of the makespan: what tasks of the worst worker lasted longer than their thread had a processor. */
static double stolen_share(const qn_trace *t)
{
    int64_t worst = 0;
    for (int32_t w = 0; w < t->plan->workers && t->cpu != NULL; w++) {
        const int32_t first = t->plan->lane[w][QN_LANE_COMP][0], count = t->plan->lane[w][QN_LANE_COMP][1];
        int64_t lost = 0;
        for (int32_t k = first; k < first + count; k++) lost += qn_max64(t->time[k].end - t->time[k].start - t->cpu[k], 0);
        worst = qn_max64(worst, lost);
    }
    return (double)worst / (double)qn_max64(qni_trace_makespan(t), 1);
}

/* Round i of a racer: one step, or one flight. */
static qn_status advance(qni_racer *r, int32_t i, qn_err *err)
{
    double lr[QNI_RACE_TRACES];
    qn_step_result result[QNI_RACE_TRACES];
    qni_bench_run *b = &r->run;
    const int32_t n = r->how.flight;
    int32_t done;
    for (int32_t k = 0; k < n; k++) lr[k] = 1e-4;
    qn_trace *trace = &b->trace[n > 1 || i < 0 ? 0 : i % b->traces];
    const int64_t began = qn_now_ns();
    const qn_status st = qn_trainer_flight(b->trainer, r->taken, n, lr, result, &done, trace, err);
    r->taken += n;
    if (st != QN_OK || i < 0) return st;
    r->seconds[i] = (double)(qn_now_ns() - began) * 1e-9 / n;
    r->stolen[i] = stolen_share(trace);
    return QN_OK;
}

enum { AGAIN = 3 }; /* rounds of repetitions at most */
static const double UNDISTURBED = 0.01;

/* One more step for each that was disturbed. */
static qn_status repeat(qni_racer *r, qn_err *err)
{
    const int32_t steps = (int32_t)r->opt.steps;
    double least = r->stolen[0];
    for (int32_t i = 1; i < steps; i++) least = fmin(least, r->stolen[i]);
    r->disturbed = 0;
    if (r->opt.workers * r->opt.threads > qn_team_cores()) return QN_OK; /* they take the cores from each other */
    for (int32_t i = 0; i < steps; i++) {
        if (r->stolen[i] <= least + UNDISTURBED) continue;
        r->disturbed++;
        if (r->left_out >= steps) continue;
        r->left_out++;
        const qn_status st = advance(r, i, err);
        if (st != QN_OK) return st;
        if (r->stolen[i] <= least + UNDISTURBED) r->disturbed--;
    }
    return QN_OK;
}

qn_status qni_race(qni_racer *r, int32_t n, qn_err *err)
{
    const int32_t steps = n > 0 ? (int32_t)r->opt.steps : 0;
    for (int32_t i = -1; i < steps + AGAIN; i++) {
        for (int32_t j = 0; j < n; j++) {
            const qn_status st = i < steps ? advance(&r[j], i, err) : repeat(&r[j], err);
            if (st != QN_OK) return st;
        }
    }
    for (int32_t j = 0; j < n; j++) {
        const qn_status st = judge(&r[j], err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

qn_status qni_racer_costs(int64_t *cost, const qni_racer *r, qn_err *err)
{
    return qni_measured_costs(cost, r->run.trace, r->run.traces, err);
}

void qni_line_steps(qni_line *l, const qni_racer *a, const qni_racer *b)
{
    qni_line_number(l, "steps_repeated", a->left_out + (b != NULL ? b->left_out : 0));
    qni_line_number(l, "steps_disturbed", a->disturbed + (b != NULL ? b->disturbed : 0));
}

void qni_line_gain(qni_line *l, const qni_racer *fast, const qni_racer *slow)
{
    const int32_t f = (int32_t)fast->opt.steps, s = (int32_t)slow->opt.steps;
    qni_line_number(l, "low", slow->seconds[s / 4] / fast->seconds[f - 1 - f / 4]);
    qni_line_number(l, "high", slow->seconds[s - 1 - s / 4] / fast->seconds[f / 4]);
    qni_line_steps(l, fast, slow);
}

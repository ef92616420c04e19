/* Training steps in turn; see bench_race.h. */
#include "bench_race.h"

#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "session/schedules/measured.h"

qn_status qni_racer_open(qni_racer *r, const qn_bench_options *opt, const qni_bench_how *how, qn_err *err)
{
    *r = (qni_racer){.opt = *opt, .how = *how};
    r->how.flight = qn_max32(r->how.flight, 1);
    r->how.traces = r->how.flight > 1 ? r->how.flight : qn_min32(QNI_RACE_TRACES, (int32_t)opt->steps);
    r->seconds = qn_calloc((size_t)opt->steps, sizeof(*r->seconds));
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

static qn_status judge(qni_racer *r, qn_err *err)
{
    const qni_bench_run *b = &r->run;
    const size_t tasks = (size_t)b->trace->plan->tasks + 1;
    qn_trace simulated = {.time = qn_calloc(tasks, sizeof(*simulated.time))};
    int64_t *cost = qn_calloc(tasks, sizeof(*cost));
    double each[QNI_RACE_TRACES];
    qn_trace_summary real, ideal;
    qn_status st = simulated.time != NULL && cost != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "trace");
    if (st == QN_OK) st = replay(&r->replayed, b, &simulated, cost, err);
    if (st == QN_OK) st = qni_simulate_measured(&simulated, b->trace, b->traces, err);
    if (st != QN_OK) goto out;
    const qn_trace *typical = qni_trace_median(b->trace, b->traces);
    r->measured_ms = (double)qni_trace_makespan(typical) * 1e-6;
    r->simulated_ms = (double)qni_trace_makespan(&simulated) * 1e-6;
    for (int32_t i = 0; i < b->traces; i++) each[i] = (double)qni_trace_makespan(&b->trace[i]) * 1e-6 / r->simulated_ms;
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

/* Round i of a racer: one step, or one flight. */
static qn_status advance(qni_racer *r, int32_t i, qn_err *err)
{
    double lr[QNI_RACE_TRACES];
    qn_step_result result[QNI_RACE_TRACES];
    qni_bench_run *b = &r->run;
    const int32_t n = r->how.flight;
    int32_t done;
    for (int32_t k = 0; k < n; k++) lr[k] = 1e-4;
    const int64_t began = qn_now_ns();
    qn_trace *trace = &b->trace[n > 1 || i < 0 ? 0 : i % b->traces];
    const qn_status st = qn_trainer_flight(b->trainer, (int64_t)(i + 1) * n, n, lr, result, &done, trace, err);
    if (st == QN_OK && i >= 0) r->seconds[i] = (double)(qn_now_ns() - began) * 1e-9 / n;
    return st;
}

qn_status qni_race(qni_racer *r, int32_t n, qn_err *err)
{
    const int32_t steps = n > 0 ? (int32_t)r->opt.steps : 0;
    for (int32_t i = -1; i < steps; i++) {
        for (int32_t j = 0; j < n; j++) {
            const qn_status st = advance(&r[j], i, err);
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

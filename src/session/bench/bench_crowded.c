/* quern bench pipeline: more workers than cores, with the model's kernels, against a simulator in which workers share cores.
 *
 *   costs      of each stage's tasks, and of its step tasks, from steps of the same stages on one worker, which has its core for
 *              itself: nothing of the crowded steps goes into what they are held against
 *   simulated  qn_simulate_shared: worker w on core w % cores, as the executor pins them
 *
 * All take their steps in turn. Tasks of a crowded step wait for their cores, so no step is taken for disturbed. */
#include <string.h>

#include "bench_race.h"
#include "bench_schedules.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/team.h"
#include "session/schedules/measured.h"

enum { TIMES = 2, MOST_STEPS = 5 }; /* workers for each core */
/* The stages of a worker, and whether backward is in two parts: how the same stages run on one worker. */
static const struct {
    const char *schedule;
    int32_t chunks;
    bool split;
} list[] = {{"gpipe", 1, false}, {"1f1b", 1, false}, {"zb-h1", 1, true}, {"interleaved", 2, false}, {"zb-v", 2, true}};
enum { CROWDED = QN_COUNT(list), ALONE = 4, RACERS = CROWDED + ALONE };

/* Its place among the racers. */
static int32_t alone_of(int32_t i)
{
    return CROWDED + 2 * (list[i].chunks - 1) + list[i].split;
}

/* The cost of a task like x in a run of one worker, whose costs are given; step tasks of a whole worker are shared out. */
static int64_t cost_alone(const qn_plan *p, const int64_t *cost, const qn_task *x, int32_t workers)
{
    for (int32_t i = 0; i < p->tasks; i++) {
        const qn_task *y = &p->task[i];
        if (y->op != x->op || y->lane != x->lane) continue;
        if (x->op == QN_OP_NORM || x->op == QN_OP_FOLD) return x->op == QN_OP_NORM ? cost[i] / workers : cost[i];
        if (y->stage == x->stage) return cost[i];
    }
    return 0;
}

typedef struct verdict {
    double shared_ms, unshared_ms, measured_ms, ratio, least, most;
} verdict;

static qn_status judge(verdict *v, const qni_racer *crowded, const qni_racer *alone, int32_t cores, qn_err *err)
{
    const qn_plan *p = crowded->run.trace->plan, *q = alone->run.trace->plan;
    int64_t *cost = qn_calloc((size_t)p->tasks + 1, sizeof(*cost)), *there = qn_calloc((size_t)q->tasks + 1, sizeof(*there));
    qn_trace room = {.plan = p, .time = qn_calloc((size_t)p->tasks + 1, sizeof(*room.time))};
    const qn_sim_options plain = {.cost = cost};
    double each[QNI_RACE_TRACES];
    qn_status st = QN_OK;
    if (cost == NULL || there == NULL || room.time == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "costs of %d tasks", p->tasks);
        goto out;
    }
    QN_TRY(st, qni_racer_costs(there, alone, err), out);
    for (int32_t i = 0; i < p->tasks; i++)
        if (p->task[i].lane == QN_LANE_COMP) cost[i] = cost_alone(q, there, &p->task[i], p->workers);
    QN_TRY(st, qn_simulate(&room, p, &plain, err), out);
    v->unshared_ms = (double)qni_trace_makespan(&room) * 1e-6;
    QN_TRY(st, qn_simulate_shared(&room, p, cost, cores, err), out);
    v->shared_ms = (double)qni_trace_makespan(&room) * 1e-6;
    const int32_t n = crowded->run.traces;
    for (int32_t i = 0; i < n; i++) each[i] = (double)qni_trace_makespan(&crowded->run.trace[i]) * 1e-6 / v->shared_ms;
    v->ratio = qni_median(each, n);
    v->least = each[0];
    v->most = each[n - 1];
    v->measured_ms = v->ratio * v->shared_ms;
out:
    qn_free(cost);
    qn_free(there);
    qn_free(room.time);
    return st;
}

static void show(const qni_racer *r, const verdict *v, int32_t cores, qn_line_fn *line, void *ctx)
{
    qni_line l = qni_line_begin(r->opt.json);
    qni_line_text(&l, "crowded", r->how.schedule);
    qni_line_number(&l, "workers", (double)r->opt.workers);
    qni_line_number(&l, "cores", cores);
    qni_line_number(&l, "stages", r->run.trace->plan->stages);
    qni_line_number(&l, "measured_ms", v->measured_ms);
    qni_line_number(&l, "simulated_ms", v->shared_ms);
    qni_line_number(&l, "simulated_with_a_core_each_ms", v->unshared_ms);
    qni_line_number(&l, "measured_over_simulated", v->ratio);
    qni_line_number(&l, "least", v->least);
    qni_line_number(&l, "most", v->most);
    qni_line_text(&l, "wanted", "0.85 to 1.15");
    qni_line_text(&l, "reached", v->ratio >= 0.85 && v->ratio <= 1.15 ? "yes" : "no");
    qni_line_end(&l, line, ctx);
}

static qn_status open_all(qni_racer *r, const qn_bench_options *crowd, qn_err *err)
{
    qn_bench_options one = *crowd;
    qn_status st = QN_OK;
    one.workers = 1;
    for (int32_t i = 0; i < CROWDED && st == QN_OK; i++) {
        const qni_bench_how how = {.schedule = list[i].schedule, .chunks = list[i].chunks};
        st = qni_racer_open(&r[i], crowd, &how, err);
    }
    for (int32_t i = 0; i < ALONE && st == QN_OK; i++) {
        const qni_bench_how how = {.schedule = i % 2 == 0 ? "interleaved" : "interleaved-zb",
                                   .chunks = (1 + i / 2) * (int32_t)crowd->workers};
        st = qni_racer_open(&r[CROWDED + i], &one, &how, err);
    }
    return st;
}

qn_status qni_bench_crowded(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    qn_bench_options crowd = *opt;
    const int32_t cores = qn_team_cores();
    qni_racer *r = qn_calloc(RACERS, sizeof(*r));
    qn_status st = r != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "results");
    crowd.workers = (int64_t)TIMES * cores;
    crowd.threads = 1;
    crowd.steps = qn_min64(opt->steps, MOST_STEPS);
    if (st == QN_OK) st = open_all(r, &crowd, err);
    if (st == QN_OK) st = qni_race(r, RACERS, err);
    for (int32_t i = 0; i < CROWDED && st == QN_OK; i++) {
        verdict v = {.ratio = 0};
        st = judge(&v, &r[i], &r[alone_of(i)], cores, err);
        if (st == QN_OK) show(&r[i], &v, cores, line, ctx);
    }
    for (int32_t i = 0; i < RACERS && r != NULL; i++) qni_racer_close(&r[i]);
    qn_free(r);
    return st;
}

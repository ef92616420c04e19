/* quern bench pipeline, where to cut: two workers run the model cut by cost, and cut one and two layers before and behind that,
 * all in turn with one worker. Each cut is simulated with the costs of its own steps; the best of these is what the choice could
 * have reached. `work` is the time of all compute tasks of a step over one worker's: above 1 the two slow each other down (they
 * share caches and memory), and what is left between that and the gain is waiting. */
#include <stdio.h>

#include "bench_race.h"
#include "bench_schedules.h"
#include "core/checked.h"
#include "core/compiler.h"

static const struct way {
    const char *schedule;
    int32_t workers, shift;
} ways[] = {{"1f1b", 1, 0}, {"1f1b", 2, 0}, {"1f1b", 2, -2}, {"1f1b", 2, -1},
            {"1f1b", 2, 1}, {"1f1b", 2, 2}, {"gpipe", 2, 0}, {"zb-h1", 2, 0}};
enum { WAYS = QN_COUNT(ways), ONE = 0, CHOSEN = 1, CUTS = 6, GPIPE = 6 };

/* ms of all compute tasks, the median over the traces. */
static double work_ms(const qni_racer *r)
{
    double each[QNI_RACE_TRACES];
    for (int32_t i = 0; i < r->run.traces; i++) {
        const qn_trace *t = &r->run.trace[i];
        each[i] = 0;
        for (int32_t k = 0; k < t->plan->tasks; k++)
            if (t->plan->task[k].lane == QN_LANE_COMP) each[i] += (double)(t->time[k].end - t->time[k].start) * 1e-6;
    }
    return qni_median(each, r->run.traces);
}

static void show_way(const qni_racer *r, int32_t i, const qni_racer *one, qn_line_fn *line, void *ctx)
{
    char name[64];
    snprintf(name, sizeof(name), "%s, %d and %d layers", ways[i].schedule, r->run.first_layer[1],
             r->run.first_layer[2] - r->run.first_layer[1]);
    qni_line l = qni_line_begin(r->opt.json);
    qni_line_text(&l, "cut", name);
    qni_line_number(&l, "from_chosen", ways[i].shift);
    qni_line_number(&l, "measured_ms", r->measured_ms);
    qni_line_number(&l, "simulated_ms", r->simulated_ms);
    qni_line_number(&l, "measured_over_simulated", r->ratio_middle);
    qni_line_number(&l, "least", r->ratio_least);
    qni_line_number(&l, "most", r->ratio_most);
    qni_line_steps(&l, r, NULL);
    qni_line_number(&l, "over_one_worker", one->step_s / r->step_s);
    qni_line_number(&l, "bubble", r->bubble_measured);
    qni_line_number(&l, "work", work_ms(r) / work_ms(one));
    qni_line_end(&l, line, ctx);
}

static void claim(const char *what, double measured, double predicted, double wanted, const qni_racer *r, qn_line_fn *line,
                  void *ctx)
{
    const int32_t n = (int32_t)r->opt.steps;
    qni_line l = qni_line_begin(r->opt.json);
    qni_line_text(&l, "claim", what);
    qni_line_claim(&l, measured, predicted, wanted);
    qni_line_range(&l, r->seconds, n, 1e3);
    qni_line_end(&l, line, ctx);
}

static void show(const qni_racer *r, qn_line_fn *line, void *ctx)
{
    const qni_racer *chosen = &r[CHOSEN], *one = &r[ONE], *best = chosen;
    for (int32_t i = CHOSEN; i < CUTS; i++)
        if (r[i].simulated_ms < best->simulated_ms) best = &r[i];
    for (int32_t i = CHOSEN; i < WAYS; i++) show_way(&r[i], i, one, line, ctx);
    claim("the chosen cut, of the simulator's best", best->simulated_ms / chosen->measured_ms,
          best->simulated_ms / chosen->simulated_ms, 0.97, chosen, line, ctx);
    claim("1f1b on 2 workers over one worker", one->step_s / chosen->step_s, one->simulated_ms / chosen->simulated_ms, 1.8,
          chosen, line, ctx);
    claim("gpipe on 2 workers over one worker", one->step_s / r[GPIPE].step_s, one->simulated_ms / r[GPIPE].simulated_ms, 1.8,
          &r[GPIPE], line, ctx);
}

qn_status qni_bench_cuts(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    qni_racer r[WAYS] = {{.seconds = NULL}};
    qn_status st = QN_OK;
    for (int32_t i = 0; i < WAYS && st == QN_OK; i++) {
        const qni_bench_how how = {.schedule = ways[i].schedule, .shift = ways[i].shift};
        qn_bench_options mine = *opt;
        mine.workers = ways[i].workers;
        if (opt->quick) mine.layers = qn_max64(mine.layers, 6); /* two before the middle and two behind it */
        st = qni_racer_open(&r[i], &mine, &how, err);
    }
    if (st == QN_OK) st = qni_race(r, WAYS, err);
    if (st == QN_OK) show(r, line, ctx);
    for (int32_t i = 0; i < WAYS; i++) qni_racer_close(&r[i]);
    return st;
}

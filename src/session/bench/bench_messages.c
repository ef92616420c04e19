/* Interleaved stages against 1F1B when messages take their time (Narayanan et al. 2021, arXiv:2104.04473): two workers, two
 * stages on each against one, the same work. Interleaving fills and drains in half the time, and sends three times as many
 * messages.
 *
 *   beside     a message is on its way while its sender computes on: lanes of their own, as Quern has them
 *   blocking   its sender waits until it has left: the delay is added to the task in front of it, once for each message
 *
 * Tasks sleep (a worker's forward 8 ms, its backward 16 ms) and delays are exact, so that the simulator's break-even, the least
 * delay from which on interleaving is slower, can be held against runs on both sides of it. The dossier says a quarter of a
 * forward; which of the two kinds it means is not known. */
#include <stdio.h>

#include "bench_common.h"
#include "bench_schedules.h"
#include "bench_sleeper.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "session/schedules/measured.h"

enum { PLAIN, INTERLEAVED, WAYS, WORKERS = 2, MOST_STEPS = 64 };
static const int64_t FORWARD = 8000000; /* ns of a worker's whole share */

typedef struct way {
    qn_plan *plan;
    qni_sleeper sleeper;
    qn_trace trace;
    double ms[MOST_STEPS], median;
} way;

static void close_way(way *w)
{
    qni_sleeper_close(&w->sleeper);
    qn_plan_close(w->plan);
    qn_free(w->trace.time);
}

static void close_ways(way *w)
{
    for (int32_t i = 0; i < WAYS; i++) {
        close_way(&w[i]);
        w[i] = (way){.plan = NULL};
    }
}

static qn_status open_plan(way *w, int32_t which, int32_t items, qn_err *err)
{
    static const int64_t cost[QN_OPS] = {[QN_OP_F] = FORWARD, [QN_OP_BW] = 2 * FORWARD};
    const qn_status st = qni_sleep_plan(&w->plan, which == PLAIN ? "1f1b" : "interleaved", WORKERS, 1 + which, items, cost, err);
    if (st != QN_OK) return st;
    w->trace = (qn_trace){.plan = w->plan, .time = qn_calloc((size_t)w->plan->tasks + 1, sizeof(*w->trace.time))};
    return w->trace.time != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "trace of %d tasks", w->plan->tasks);
}

/* To the task that writes what a SEND sends, once for each SEND. */
static void block_senders(qn_plan *p, int64_t delay)
{
    for (int32_t s = 0; s < p->tasks; s++) {
        const qn_task *x = &p->task[s];
        for (int32_t i = 0; x->op == QN_OP_SEND && i < x->wait.count; i++) {
            qn_task *writer = &p->task[p->ref[x->wait.first + i]];
            if (writer->lane == QN_LANE_COMP) writer->cost += delay;
        }
    }
}

static qn_status simulate(double *ms, way *w, int64_t delay, bool blocking, qn_err *err)
{
    const qn_sim_options how = {.latency = blocking ? 0 : delay};
    if (blocking) block_senders(w->plan, delay);
    const qn_status st = qn_simulate(&w->trace, w->plan, &how, err);
    if (blocking) block_senders(w->plan, -delay);
    *ms = st == QN_OK ? (double)qni_trace_makespan(&w->trace) * 1e-6 : 0;
    return st;
}

/* The least delay, as a share of a worker's forward, from which on interleaving takes longer; by halves of [0, 2]. */
static qn_status break_even(double *share, way *w, bool blocking, qn_err *err)
{
    int64_t low = 0, high = 2 * FORWARD;
    while (high - low > 1000) {
        const int64_t middle = low + (high - low) / 2;
        double ms[WAYS];
        for (int32_t i = 0; i < WAYS; i++) {
            const qn_status st = simulate(&ms[i], &w[i], middle, blocking, err);
            if (st != QN_OK) return st;
        }
        if (ms[INTERLEAVED] > ms[PLAIN])
            high = middle;
        else
            low = middle;
    }
    *share = (double)high / (double)FORWARD;
    return QN_OK;
}

/* Both in turn. */
static qn_status run_ways(way *w, int32_t steps, qn_err *err)
{
    for (int32_t i = 0; i < steps; i++) {
        for (int32_t k = 0; k < WAYS; k++) {
            const qn_status st = qn_executor_step(w[k].sleeper.ex, &w[k].trace, err);
            if (st != QN_OK) return st;
            w[k].ms[i] = (double)qni_trace_makespan(&w[k].trace) * 1e-6;
        }
    }
    for (int32_t k = 0; k < WAYS; k++) w[k].median = qni_median(w[k].ms, steps);
    return QN_OK;
}

typedef struct question {
    int32_t items;
    double delay; /* of a worker's forward */
    bool blocking;
    double even, simulated[WAYS];
} question;

static void show(const way *w, const question *q, int json, qn_line_fn *line, void *ctx)
{
    const double gain = w[PLAIN].median / w[INTERLEAVED].median, predicted = q->simulated[PLAIN] / q->simulated[INTERLEAVED];
    char what[96];
    snprintf(what, sizeof(what), "%s, %d micro-batches",
             q->delay > 0 ? "1f1b over interleaved, late messages" : "interleaved over 1f1b", q->items);
    qni_line l = qni_line_begin(json);
    qni_line_text(&l, "claim", what);
    qni_line_text(&l, "kernels", "sleep");
    qni_line_text(&l, "messages", q->blocking ? "blocking" : "beside");
    qni_line_number(&l, "delay_over_forward", q->delay);
    if (q->delay > 0) qni_line_number(&l, "simulated_break_even", q->even);
    qni_line_number(&l, "1f1b_ms", w[PLAIN].median);
    qni_line_number(&l, "interleaved_ms", w[INTERLEAVED].median);
    if (q->delay > 0)
        qni_line_claim(&l, 1 / gain, 1 / predicted, 1);
    else
        qni_line_claim(&l, gain, predicted, 1);
    qni_line_end(&l, line, ctx);
}

/* Plans of its own for each run, since a delay that blocks is in the tasks' costs. */
static qn_status ask(way *w, question *q, const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    const int64_t delay = (int64_t)(q->delay * (double)FORWARD);
    qn_status st = QN_OK;
    for (int32_t i = 0; i < WAYS; i++) {
        QN_TRY(st, open_plan(&w[i], i, q->items, err), out);
        QN_TRY(st, simulate(&q->simulated[i], &w[i], delay, q->blocking, err), out);
        if (q->blocking) block_senders(w[i].plan, delay);
        QN_TRY(st, qni_sleeper_open(&w[i].sleeper, w[i].plan, 0, q->blocking ? 0 : delay, err), out);
    }
    QN_TRY(st, run_ways(w, (int32_t)qn_min64(opt->steps, MOST_STEPS), err), out);
    show(w, q, opt->json, line, ctx);
out:
    close_ways(w);
    return st;
}

/* The dossier's delay, a little above a quarter of a forward, and where that is below the break-even one above it. */
static qn_status ask_delays(way *w, question *q, const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    qn_status st = QN_OK;
    for (int32_t i = 0; i < WAYS && st == QN_OK; i++) st = open_plan(&w[i], i, q->items, err);
    if (st == QN_OK) st = break_even(&q->even, w, q->blocking, err);
    close_ways(w);
    q->delay = 0.3;
    if (st == QN_OK) st = ask(w, q, opt, line, ctx, err);
    if (st != QN_OK || q->even < q->delay) return st;
    q->delay = 1.25 * q->even;
    return ask(w, q, opt, line, ctx, err);
}

qn_status qni_bench_messages(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    way *w = qn_calloc(WAYS, sizeof(*w));
    qn_status st = w != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "results");
    for (int32_t items = 2; items <= 4 && st == QN_OK; items++) {
        question cheap = {.items = items};
        st = ask(w, &cheap, opt, line, ctx, err);
        for (int blocking = 0; blocking < 2 && st == QN_OK; blocking++) {
            question late = {.items = items, .blocking = blocking != 0};
            st = ask_delays(w, &late, opt, line, ctx, err);
        }
    }
    qn_free(w);
    return st;
}

/* quern bench pipeline: a real run on several workers against the simulator with the costs measured in that run, against one
 * worker, and the time it takes to hand a message over. All schedules: bench_schedules.c. */
#include <pthread.h>
#include <string.h>

#include "bench_schedules.h"
#include "bench_vocab.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/team.h"
#include "measured.h"
#include "transport/transport.h"

enum { TRACES = 15, RUNS = 3 }; /* of the last steps; one worker, gpipe, 1f1b */

/* One way to do the same step, with its times. */
typedef struct contender {
    const char *schedule;
    qn_bench_options opt;
    qni_bench_run run;
    double *seconds; /* [steps] */
} contender;

static qn_status open_contender(contender *c, const char *schedule, const qn_bench_options *opt, int64_t workers, qn_err *err)
{
    *c = (contender){.schedule = schedule, .opt = *opt};
    c->opt.workers = workers;
    c->seconds = qn_calloc((size_t)opt->steps, sizeof(*c->seconds));
    if (c->seconds == NULL) return QN_FAIL(err, QN_ENOMEM, "results of %lld steps", (long long)opt->steps);
    return qni_bench_open(&c->run, &c->opt, schedule, qn_min32(TRACES, (int32_t)opt->steps), err);
}

static void close_contender(contender *c)
{
    qni_bench_close(&c->run);
    qn_free(c->seconds);
}

/* All take their steps in turn, so that a machine whose speed drifts slows all of them. The first step of each is not counted. */
static qn_status race(contender *c, int32_t n, int32_t steps, qn_err *err)
{
    for (int32_t i = -1; i < steps; i++) {
        for (int32_t j = 0; j < n; j++) {
            qn_step_result result;
            qn_trace *trace = &c[j].run.trace[i < 0 ? 0 : i % c[j].run.traces];
            const qn_status st = qn_trainer_step(c[j].run.trainer, i + 1, 1e-4, &result, trace, err);
            if (st != QN_OK) return st;
            if (i >= 0) c[j].seconds[i] = (double)result.ns * 1e-9;
        }
    }
    return QN_OK;
}

/* The median over the traces of makespan / simulated makespan when each task takes as long as it took in that very step: what the
 * executor itself adds. */
static qn_status replay_ratio(double *ratio, const contender *c, qn_trace *room, qn_err *err)
{
    const qn_plan *p = c->run.trace->plan;
    double each[TRACES];
    qn_status st = QN_OK;
    int64_t *cost = qn_calloc((size_t)p->tasks, sizeof(*cost));
    if (cost == NULL) return QN_FAIL(err, QN_ENOMEM, "costs of %d tasks", p->tasks);
    for (int32_t i = 0; i < c->run.traces; i++) {
        const qn_trace *t = &c->run.trace[i];
        for (int32_t k = 0; k < p->tasks; k++) {
            const bool message = p->task[k].op == QN_OP_SEND || p->task[k].op == QN_OP_RECV;
            cost[k] = message ? 0 : qn_max64(t->time[k].end - t->time[k].start, 0);
        }
        const qn_sim_options opt = {.cost = cost};
        QN_TRY(st, qn_simulate(room, p, &opt, err), out);
        each[i] = (double)qni_trace_makespan(t) / (double)qni_trace_makespan(room);
    }
    *ratio = qni_median(each, c->run.traces);
out:
    qn_free(cost);
    return st;
}

static qn_status show_contender(contender *c, double one_worker_s, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qni_bench_run *b = &c->run;
    qn_trace simulated = {.time = qn_calloc((size_t)b->trace->plan->tasks, sizeof(*simulated.time))};
    qn_status st;
    double replayed = 0;
    if (simulated.time == NULL) return QN_FAIL(err, QN_ENOMEM, "trace");
    QN_TRY(st, replay_ratio(&replayed, c, &simulated, err), out);
    QN_TRY(st, qni_simulate_measured(&simulated, b->trace, b->traces, err), out);
    const qn_trace *typical = qni_trace_median(b->trace, b->traces);
    const double measured = (double)qni_trace_makespan(typical), predicted = (double)qni_trace_makespan(&simulated);
    qn_trace_summary real, ideal;
    qn_trace_summarize(&real, typical);
    qn_trace_summarize(&ideal, &simulated);
    qni_line l = qni_line_begin(c->opt.json);
    qni_line_text(&l, "schedule", c->schedule);
    qni_line_number(&l, "workers", (double)c->opt.workers);
    qni_line_number(&l, "micro_batches", (double)c->opt.micro_batches);
    qni_line_number(&l, "measured_ms", measured * 1e-6);
    qni_line_number(&l, "simulated_ms", predicted * 1e-6);
    qni_line_number(&l, "measured_over_simulated", measured / predicted);
    qni_line_number(&l, "measured_over_replayed", replayed);
    qni_line_number(&l, "bubble_measured", real.bubble);
    qni_line_number(&l, "bubble_simulated", ideal.bubble);
    qni_line_number(&l, "speedup_over_one_worker", one_worker_s / qni_median(c->seconds, (int32_t)c->opt.steps));
    qni_line_end(&l, line, ctx);
out:
    qn_free(simulated.time);
    return st;
}

static qn_status measure_schedules(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    contender c[RUNS] = {{.schedule = NULL}};
    qn_status st;
    QN_TRY(st, open_contender(&c[0], "1f1b", opt, 1, err), out);
    QN_TRY(st, open_contender(&c[1], "gpipe", opt, opt->workers, err), out);
    QN_TRY(st, open_contender(&c[2], "1f1b", opt, opt->workers, err), out);
    QN_TRY(st, race(c, RUNS, (int32_t)opt->steps, err), out);
    const double one_worker_s = qni_median(c[0].seconds, (int32_t)opt->steps);
    for (int i = 1; i < RUNS; i++) QN_TRY(st, show_contender(&c[i], one_worker_s, line, ctx, err), out);
out:
    for (int i = 0; i < RUNS; i++) close_contender(&c[i]);
    return st;
}

/* ---- hand-over: a message goes there and back many times ---- */

typedef struct echo {
    const qn_transport *t;
    qn_world *world;
    int32_t rounds;
    int pin;
} echo;

static void move_one(const echo *e, int32_t worker, int32_t in, int32_t out, bool first)
{
    qn_slot_tag tag;
    const void *got;
    void *slot;
    if (!first) {
        for (;;) {
            const uint32_t seen = e->t->look(e->world, worker);
            if (e->t->get(e->world, in, &got, &tag, 1) == QN_RING_OK) break;
            if (e->t->wait(e->world, worker, seen, -1, NULL) != QN_OK) return;
        }
        e->t->release(e->world, in);
    }
    if (e->t->put_begin(e->world, out, &slot, 1) == QN_RING_OK)
        e->t->put_publish(e->world, out, (qn_slot_tag){.epoch = 1, .bytes = 0});
}

static void *answer(void *ctx)
{
    const echo *e = ctx;
    qn_team_pin_self(e->pin);
    for (int32_t i = 0; i < e->rounds; i++) move_one(e, 1, 0, 1, false);
    return NULL;
}

static qn_status measure_handover(const char *how, int shared_core, const qn_bench_options *opt, qn_line_fn *line, void *ctx,
                                  qn_err *err)
{
    const qn_channel_desc channel[2] = {{.from = 0, .to = 1, .depth = 2, .slot_bytes = 64},
                                        {.from = 1, .to = 0, .depth = 2, .slot_bytes = 64}};
    const qn_world_desc desc = {.workers = 2, .channels = 2, .channel = channel, .spins = shared_core ? 0 : 20000};
    echo e = {.t = qn_transport_find("thread"), .rounds = 20000, .pin = shared_core ? 0 : 1};
    pthread_t thread;
    qn_status st = e.t->open(&e.world, &desc, err);
    if (st != QN_OK) return st;
    e.t->set_epoch(e.world, 1);
    qn_team_pin_self(0);
    if (pthread_create(&thread, NULL, answer, &e) != 0) {
        e.t->close(e.world);
        return QN_FAIL(err, QN_ENOMEM, "a thread");
    }
    const int64_t began = qn_now_ns();
    for (int32_t i = 0; i < e.rounds; i++) move_one(&e, 0, 1, 0, i == 0);
    const double ns = (double)(qn_now_ns() - began) / (2.0 * e.rounds);
    pthread_join(thread, NULL);
    e.t->close(e.world);
    qni_line l = qni_line_begin(opt->json);
    qni_line_text(&l, "handover", how);
    qni_line_number(&l, "us", ns * 1e-3);
    qni_line_end(&l, line, ctx);
    return QN_OK;
}

qn_status qn_bench_pipeline(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qn_bench_options opt = qni_bench_defaults(given, true);
    qn_status st;
    if (given->kernels == 1) return qni_bench_sleepers(given, line, ctx, err);
    QN_TRY(st, measure_schedules(&opt, line, ctx, err), out);
    QN_TRY(st, qni_bench_all_schedules(&opt, line, ctx, err), out);
    QN_TRY(st, qni_bench_vocab(given, line, ctx, err), out);
    if (qn_team_cores() > 1) QN_TRY(st, measure_handover("between cores", 0, &opt, line, ctx, err), out);
    QN_TRY(st, measure_handover("on a shared core", 1, &opt, line, ctx, err), out);
out:
    return st;
}

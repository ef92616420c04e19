/* quern bench pipeline: a real run on several workers against the simulator with the costs measured in that run, against one
 * worker, and the time it takes to hand a message over. */
#include <pthread.h>
#include <string.h>

#include "bench_common.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/team.h"
#include "measured.h"
#include "transport/transport.h"

enum { TRACES = 15 };

static qn_status measure_schedule(const char *schedule, const qn_bench_options *opt, double one_worker_s, qn_line_fn *line,
                                  void *ctx, qn_err *err)
{
    qni_bench_run b;
    double seconds;
    qn_trace simulated = {.time = NULL};
    const int32_t traces = qn_min32(TRACES, (int32_t)opt->steps);
    qn_status st = qni_bench_open(&b, opt, schedule, traces, err);
    if (st != QN_OK) return st;
    QN_TRY(st, qni_bench_steps(&seconds, &b, (int32_t)opt->steps, err), out);
    simulated.time = qn_calloc((size_t)b.trace->plan->tasks, sizeof(*simulated.time));
    if (simulated.time == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "trace");
        goto out;
    }
    QN_TRY(st, qni_simulate_measured(&simulated, b.trace, b.traces, err), out);
    const double measured = (double)qni_trace_makespan(qni_trace_median(b.trace, b.traces)),
                 predicted = (double)qni_trace_makespan(&simulated);
    qn_trace_summary real, ideal;
    qn_trace_summarize(&real, qni_trace_median(b.trace, b.traces));
    qn_trace_summarize(&ideal, &simulated);
    qni_line l = qni_line_begin(opt->json);
    qni_line_text(&l, "schedule", schedule);
    qni_line_number(&l, "workers", (double)opt->workers);
    qni_line_number(&l, "micro_batches", (double)opt->micro_batches);
    qni_line_number(&l, "measured_ms", measured * 1e-6);
    qni_line_number(&l, "simulated_ms", predicted * 1e-6);
    qni_line_number(&l, "measured_over_simulated", measured / predicted);
    qni_line_number(&l, "bubble_measured", real.bubble);
    qni_line_number(&l, "bubble_simulated", ideal.bubble);
    qni_line_number(&l, "speedup_over_one_worker", one_worker_s / seconds);
    qni_line_end(&l, line, ctx);
out:
    qn_free(simulated.time);
    qni_bench_close(&b);
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
    qn_bench_options opt = qni_bench_defaults(given, true), one;
    qni_bench_run b;
    qn_status st;
    double one_worker_s;
    opt.steps = qn_max64(opt.steps, 2);
    one = opt;
    one.workers = 1;
    QN_TRY(st, qni_bench_open(&b, &one, "1f1b", 1, err), out);
    st = qni_bench_steps(&one_worker_s, &b, (int32_t)qn_min64(opt.steps, 5), err);
    qni_bench_close(&b);
    if (st != QN_OK) return st;
    QN_TRY(st, measure_schedule("gpipe", &opt, one_worker_s, line, ctx, err), out);
    QN_TRY(st, measure_schedule("1f1b", &opt, one_worker_s, line, ctx, err), out);
    if (qn_team_cores() > 1) QN_TRY(st, measure_handover("between cores", 0, &opt, line, ctx, err), out);
    QN_TRY(st, measure_handover("on a shared core", 1, &opt, line, ctx, err), out);
out:
    return st;
}

/* quern bench link: the slot ring between two threads, what a hand-over between stages costs on top, and what tracing costs.
 *
 *   ring latency   half of there and back through two bare rings, both sides looking all the time: the ceiling of a hand-over
 *   hand-over      the same through transport and doorbell: on cores of their own (wanted: 1 us), on one core that both share and
 *                  that nobody burns (9 us), and to a worker that has slept for a while (printed, not bounded)
 *   ring copy      messages of 1.5 MB: the sender's copy into a slot; ceiling: one thread's memcpy of the same bytes
 *   trace          steps of empty tasks with and without a trace, as a share of a training step with as many tasks */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "bench_common.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/ring.h"
#include "core/team.h"
#include "runtime/executor/executor.h"
#include "schedule/gen/gen.h"
#include "transport/transport.h"

enum {
    ROUNDS = 20000,
    QUICK_ROUNDS = 100,
    SHARED_ROUNDS = 2000,
    WAKES = 100,
    COPIES = 64,
    PAYLOAD = 4 * 128 * 768 * 4,
    MOST_RUNS = 1000,
    KINDS = 6
};

/* --- bare rings */

typedef struct rings {
    qn_ring *ring[2]; /* there and back */
    int32_t rounds;
    size_t bytes; /* of a message */
    const char *payload;
    int core; /* of the answering thread */
    bool echo;
} rings;

static void *ring_slot(qn_ring *r)
{
    void *slot;
    while (qn_ring_put_begin(r, &slot, 1) != QN_RING_OK) QN_PAUSE();
    return slot;
}

static void ring_take(qn_ring *r)
{
    const void *slot;
    qn_slot_tag tag;
    while (qn_ring_get(r, &slot, &tag, 1) != QN_RING_OK) QN_PAUSE();
    qn_ring_release(r);
}

static void ring_put(qn_ring *r, const void *payload, size_t bytes)
{
    void *slot = ring_slot(r);
    if (bytes > 0) memcpy(slot, payload, bytes);
    qn_ring_put_publish(r, (qn_slot_tag){.epoch = 1, .bytes = bytes});
}

static void *ring_answer(void *ctx)
{
    const rings *x = ctx;
    qn_team_pin_self(x->core);
    for (int32_t i = 0; i < x->rounds; i++) {
        ring_take(x->ring[0]);
        if (x->echo) ring_put(x->ring[1], NULL, 0);
    }
    return NULL;
}

/* ns of a round; a message goes there, and with echo an empty one back. */
static qn_status run_rings(double *ns, size_t bytes, int32_t rounds, bool echo, qn_err *err)
{
    const size_t room = qn_ring_bytes(2, bytes > 0 ? bytes : 64);
    rings x = {.rounds = rounds, .bytes = bytes, .core = 1, .echo = echo};
    char *memory[2] = {qn_alloc_pages(room), qn_alloc_pages(room)}, *payload = qn_alloc_pages(bytes + 64);
    pthread_t thread;
    qn_status st = memory[0] != NULL && memory[1] != NULL && payload != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "two rings");
    for (int i = 0; st == QN_OK && i < 2; i++) {
        x.ring[i] = qn_ring_init(memory[i], 2, bytes > 0 ? bytes : 64);
        qn_ring_set_epoch(x.ring[i], 1);
    }
    if (st == QN_OK) memset(payload, 1, bytes + 64);
    qn_team_pin_self(0);
    if (st == QN_OK && pthread_create(&thread, NULL, ring_answer, &x) != 0) st = QN_FAIL(err, QN_ENOMEM, "a thread");
    if (st == QN_OK) {
        const int64_t from = qn_now_ns();
        for (int32_t i = 0; i < rounds; i++) {
            ring_put(x.ring[0], payload, bytes);
            if (echo) ring_take(x.ring[1]);
        }
        *ns = (double)(qn_now_ns() - from) / rounds;
        pthread_join(thread, NULL);
    }
    qn_team_pin_self(-1);
    for (int i = 0; i < 2; i++) qn_free_pages(memory[i], room);
    qn_free_pages(payload, bytes + 64);
    return st;
}

/* ns of one thread's copy of the same bytes, from one buffer to two in turn. */
static qn_status run_copy(double *ns, size_t bytes, int32_t rounds, qn_err *err)
{
    char *from = qn_alloc_pages(bytes), *to = qn_alloc_pages(2 * bytes);
    const qn_status st = from != NULL && to != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "two buffers");
    if (st == QN_OK) {
        memset(from, 1, bytes);
        memset(to, 1, 2 * bytes);
        qn_team_pin_self(0);
        const int64_t began = qn_now_ns();
        for (int32_t i = 0; i < rounds; i++) memcpy(to + (size_t)(i % 2) * bytes, from, bytes);
        *ns = (double)(qn_now_ns() - began) / rounds;
        qn_team_pin_self(-1);
    }
    qn_free_pages(from, bytes);
    qn_free_pages(to, 2 * bytes);
    return st;
}

/* --- hand-over: transport and doorbell */

typedef struct echo {
    const qn_transport *t;
    qn_world *world;
    int32_t rounds;
    int core;
    int64_t heard[WAKES]; /* of a sleeper */
} echo;

static bool hear(const echo *e, int32_t worker, int32_t channel)
{
    qn_slot_tag tag;
    const void *got;
    for (;;) {
        const uint32_t seen = e->t->look(e->world, worker);
        if (e->t->get(e->world, channel, &got, &tag, 1) == QN_RING_OK) break;
        if (e->t->wait(e->world, worker, seen, -1, NULL) != QN_OK) return false;
    }
    e->t->release(e->world, channel);
    return true;
}

static void say(const echo *e, int32_t channel)
{
    void *slot;
    while (e->t->put_begin(e->world, channel, &slot, 1) != QN_RING_OK) sched_yield();
    e->t->put_publish(e->world, channel, (qn_slot_tag){.epoch = 1, .bytes = 0});
}

static void *answer(void *ctx)
{
    const echo *e = ctx;
    qn_team_pin_self(e->core);
    for (int32_t i = 0; i < e->rounds && hear(e, 1, 0); i++) say(e, 1);
    return NULL;
}

static void *listen_long(void *ctx)
{
    echo *e = ctx;
    qn_team_pin_self(e->core);
    for (int32_t i = 0; i < e->rounds && hear(e, 1, 0); i++) e->heard[i] = qn_now_ns();
    return NULL;
}

static void wake_it(const echo *e, int64_t *sent)
{
    for (int32_t i = 0; i < e->rounds; i++) {
        const struct timespec pause = {.tv_nsec = 1000000};
        nanosleep(&pause, NULL);
        sent[i] = qn_now_ns();
        say(e, 0);
    }
}

/* ns of a hand-over. core: of the other worker. sleeper: it sleeps until each message. */
static qn_status run_handover(double *ns, int core, bool sleeper, int32_t rounds, qn_err *err)
{
    const qn_channel_desc channel[2] = {{.from = 0, .to = 1, .depth = 2, .slot_bytes = 64},
                                        {.from = 1, .to = 0, .depth = 2, .slot_bytes = 64}};
    const qn_world_desc desc = {.workers = 2, .channels = 2, .channel = channel, .spins = core == 0 || sleeper ? 0 : 20000};
    echo e = {.t = qn_transport_find("thread"), .rounds = sleeper ? WAKES : rounds, .core = core};
    int64_t sent[WAKES];
    double each[WAKES];
    pthread_t thread;
    qn_status st = e.t->open(&e.world, &desc, err);
    if (st != QN_OK) return st;
    e.t->set_epoch(e.world, 1);
    qn_team_pin_self(0);
    if (pthread_create(&thread, NULL, sleeper ? listen_long : answer, &e) != 0) st = QN_FAIL(err, QN_ENOMEM, "a thread");
    if (st == QN_OK) {
        const int64_t began = qn_now_ns();
        if (sleeper) wake_it(&e, sent);
        for (int32_t i = 0; !sleeper && i < e.rounds; i++) {
            say(&e, 0);
            (void)hear(&e, 0, 1);
        }
        *ns = (double)(qn_now_ns() - began) / (2.0 * e.rounds);
        pthread_join(thread, NULL);
        for (int32_t i = 0; sleeper && i < WAKES; i++) each[i] = (double)(e.heard[i] - sent[i]);
        if (sleeper) *ns = qni_median(each, WAKES);
    }
    qn_team_pin_self(-1);
    e.t->close(e.world);
    return st;
}

/* --- tracing */

static qn_status nothing(void *ctx, qn_executor *ex, int32_t task, qn_err *err)
{
    (void)ctx, (void)ex, (void)task, (void)err;
    return QN_OK;
}

static void *nowhere(void *ctx, int32_t value, size_t *bytes)
{
    (void)value;
    *bytes = 64;
    return ctx;
}

/* ns a task of empty steps, without and with a trace. */
static qn_status run_empty(double ns[2], int32_t runs, double *room, qn_err *err)
{
    char home[64];
    const qn_pattern pattern = {.workers = 1, .items = 512, .chunks = 1};
    const qn_lowering how = {.tied_owner = QN_NONE, .tied_replica = QN_NONE};
    qn_order *order = NULL;
    qn_plan *plan = NULL;
    qn_executor *ex = NULL;
    qn_trace trace = {.time = NULL};
    qn_status st;
    QN_TRY(st, qn_generate(&order, "1f1b", &pattern, err), out);
    QN_TRY(st, qn_lower(&plan, order, &how, err), out);
    trace = (qn_trace){.plan = plan, .time = qn_calloc((size_t)plan->tasks, sizeof(*trace.time))};
    if (trace.time == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "trace of %d tasks", plan->tasks);
        goto out;
    }
    const qn_executor_desc desc = {.plan = plan,
                                   .transport = qn_transport_find("thread"),
                                   .faults = {.dead_worker = -1},
                                   .driver = QN_DRIVE_THREADS,
                                   .fns = {.run = nothing, .home = nowhere},
                                   .ctx = home,
                                   .spins = -1};
    QN_TRY(st, qn_executor_open(&ex, &desc, err), out);
    for (int32_t i = -1; i < runs; i++)
        for (int traced = 0; traced < 2; traced++) {
            const int64_t from = qn_now_ns();
            QN_TRY(st, qn_executor_step(ex, traced ? &trace : NULL, err), out);
            if (i >= 0) room[traced * runs + i] = (double)(qn_now_ns() - from) / plan->tasks;
        }
    for (int traced = 0; traced < 2; traced++) ns[traced] = qni_median(room + traced * runs, runs);
out:
    qn_executor_close(ex);
    qn_free(trace.time);
    qn_plan_close(plan);
    qn_order_close(order);
    return st;
}

static qn_status show_trace(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    enum { EMPTY_RUNS = 101, STEPS = 3 };
    qn_bench_options opt = qni_bench_defaults(given, true);
    double ns[2] = {0}, room[2 * EMPTY_RUNS], seconds = 0;
    qni_bench_run b;
    qn_status st = run_empty(ns, EMPTY_RUNS, room, err);
    if (st != QN_OK) return st;
    opt.workers = qn_min64(opt.workers, qn_team_cores());
    if (opt.quick) opt.layers = 4;
    st = qni_bench_open(&b, &opt, &(qni_bench_how){.schedule = "1f1b", .traces = 1}, err);
    if (st != QN_OK) return st;
    st = qni_bench_steps(&seconds, &b, STEPS, err);
    const int32_t tasks = b.trace->plan->tasks;
    qni_bench_close(&b);
    if (st != QN_OK) return st;
    const double extra = ns[1] > ns[0] ? ns[1] - ns[0] : 0, share = extra * tasks / (double)opt.workers / (seconds * 1e9);
    qni_line l = qni_line_begin(opt.json);
    qni_line_text(&l, "trace", "share of a step");
    qni_line_number(&l, "task_ns", ns[0]);
    qni_line_number(&l, "traced_task_ns", ns[1]);
    qni_line_number(&l, "tasks", tasks);
    qni_line_number(&l, "step_ms", seconds * 1e3);
    qni_line_number(&l, "cost_share", share);
    qni_line_number(&l, "wanted_below", 0.01);
    qni_line_end(&l, line, ctx);
    return QN_OK;
}

/* --- all of it */

static void show(const qn_bench_options *o, const char *verb, const char *how, const char *unit, double value, double ceiling,
                 double wanted, double spread, qn_line_fn *line, void *ctx)
{
    qni_line l = qni_line_begin(o->json);
    qni_line_text(&l, verb, how);
    qni_line_number(&l, unit, value);
    if (ceiling > 0) qni_line_number(&l, "ceiling", ceiling);
    if (ceiling > 0 && strcmp(unit, "gbs") == 0) qni_line_number(&l, "share", value / ceiling);
    if (wanted > 0) qni_line_number(&l, "wanted_below", wanted);
    qni_line_number(&l, "spread", spread);
    qni_line_end(&l, line, ctx);
}

/* The six kinds, or of them the three hand-overs, one after the other. What needs two cores is 0 where there is one. */
static qn_status run_kinds(double *out[KINDS], int32_t i, bool rings_too, bool quick, qn_err *err)
{
    const bool two = qn_team_cores() > 1;
    const int32_t own = quick ? QUICK_ROUNDS : ROUNDS;
    double round = 0;
    qn_status st = QN_OK;
    if (two && rings_too) st = run_rings(&round, 0, own, true, err);
    out[0][i] = round / 2;
    if (st == QN_OK && two) st = run_handover(&out[1][i], 1, false, own, err);
    if (st == QN_OK) st = run_handover(&out[2][i], 0, false, quick ? QUICK_ROUNDS : SHARED_ROUNDS, err);
    if (st == QN_OK && two) st = run_handover(&out[3][i], 1, true, WAKES, err);
    if (st == QN_OK && two && rings_too) st = run_rings(&out[4][i], PAYLOAD, COPIES, false, err);
    if (st == QN_OK && rings_too) st = run_copy(&out[5][i], PAYLOAD, COPIES, err);
    return st;
}

static qn_status measure(const qn_bench_options *given, bool rings_too, qn_line_fn *line, void *ctx, qn_err *err)
{
    const int32_t runs = (int32_t)given->steps;
    double *out[KINDS], median[KINDS], spread[KINDS], *room = qn_calloc((size_t)KINDS * (size_t)runs, sizeof(*room));
    if (room == NULL) return QN_FAIL(err, QN_ENOMEM, "results of %d runs", runs);
    qn_status st = QN_OK;
    for (int k = 0; k < KINDS; k++) out[k] = room + k * runs;
    for (int32_t i = -1; st == QN_OK && i < runs; i++) st = run_kinds(out, qn_max32(i, 0), rings_too, given->quick, err);
    for (int k = 0; k < KINDS; k++) {
        median[k] = qni_median(out[k], runs);
        spread[k] = qni_spread(out[k], runs);
    }
    qn_free(room);
    if (st != QN_OK) return st;
    const bool two = qn_team_cores() > 1;
    if (two && rings_too) show(given, "link", "ring latency", "us", median[0] * 1e-3, 0, 0, spread[0], line, ctx);
    if (two) show(given, "handover", "between cores", "us", median[1] * 1e-3, median[0] * 1e-3, 1, spread[1], line, ctx);
    show(given, "handover", "on a shared core", "us", median[2] * 1e-3, 0, 9, spread[2], line, ctx);
    if (two) show(given, "handover", "to a core that sleeps", "us", median[3] * 1e-3, 0, 0, spread[3], line, ctx);
    if (two && rings_too)
        show(given, "link", "ring copy", "gbs", PAYLOAD / median[4], PAYLOAD / median[5], 0, spread[4], line, ctx);
    return QN_OK;
}

qn_status qn_bench_link(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const qn_status st = measure(given, true, line, ctx, err);
    return st == QN_OK ? show_trace(given, line, ctx, err) : st;
}

qn_status qni_bench_handover(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    return measure(given, false, line, ctx, err);
}

/* RoundPipe's event protocol (arXiv:2604.27085) on a device that does not compute on the host's cores: device tasks sleep, all of
 * the host's work is real. That is how an accelerator looks to its host, and what the measurement beside it with the model's
 * kernels (bench_devices.c) cannot show on a machine whose devices and host share cores.
 *
 *   device    one, a window of two pieces in its arena; F, R, BW sleep
 *   link      LOAD and OFFLOAD copy weights and gradients between arena and host, throttled
 *   host      OPT is AdamW over a piece's parameters, PCOPY and GCOPY are copies of them, one thread, as fast as memory
 *
 *   blocking  a step, then for each piece gradients copied, AdamW, parameters copied, then the next step
 *   protocol  flights of steps with the optimizer one step behind, piece by piece between LOADs and OFFLOADs
 *
 * No norm and no clipping, in both. Saved is what a step of the protocol is shorter; what there is to save is what the host does
 * between two blocking steps, as measured there. */
#include <math.h>
#include <string.h>

#include "bench_common.h"
#include "bench_devices.h"
#include "bench_sleeper.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "kernels/kernels.h"
#include "session/schedules/measured.h"
#include "transport/transport.h"

enum { PIECES = 6, ITEMS = 4, FLIGHT = 12, WINDOW = 2, MOST_FLIGHTS = 15, SMALL = 64 };
enum { BLOCKING, PROTOCOL, WAYS };
enum { COUNT = 3 << 20 };               /* parameters of a piece */
static const int64_t LINK = 4000000000; /* bytes/s */
static const int64_t FORWARD = 1250000; /* ns of a piece and an item; backward twice as long */

enum { VALUE, MOMENT, SQUARE, GRADIENT, LOADED, LANDED, SETS };

typedef struct way {
    qn_plan *one, *plan; /* of a step, and what runs: a step or a flight */
    qn_executor *ex;
    qn_trace trace;
    float *set[SETS]; /* [PIECES * COUNT], one for both ways, which never run at once */
    char *small;      /* [values of a step][SMALL]: host copies of activations and sums */
    const qn_kernels *k;
    bool lag;
    double ms[MOST_FLIGHTS], host_ms[MOST_FLIGHTS]; /* of a step */
} way;

/* ---- what tasks do */

static float *part(const way *w, int32_t set, int32_t piece)
{
    return w->set[set] + (int64_t)piece * COUNT;
}

static void adamw(const way *w, int32_t piece)
{
    static const qn_adamw h = {
        .lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .correct1 = 1, .correct2 = 1, .grad_scale = 1};
    const qn_exec alone = {.team = NULL};
    w->k->adamw(&alone, part(w, VALUE, piece), part(w, GRADIENT, piece), part(w, MOMENT, piece), part(w, SQUARE, piece), COUNT,
                &h);
}

static void copy(const way *w, int32_t to, int32_t from, int32_t piece)
{
    memcpy(part(w, to, piece), part(w, from, piece), (size_t)COUNT * sizeof(float));
}

static qn_status run_task(void *ctx, qn_executor *ex, int32_t task, qn_err *err)
{
    const way *w = ctx;
    const qn_task *t = &w->plan->task[task];
    (void)ex;
    (void)err;
    if (t->lane == QN_LANE_COMP) qni_sleep(t->cost);
    if (t->op == QN_OP_GCOPY || (t->op == QN_OP_OPT && !w->lag)) copy(w, GRADIENT, LANDED, t->stage);
    if (t->op == QN_OP_OPT) adamw(w, t->stage);
    if (t->op == QN_OP_PCOPY || (t->op == QN_OP_OPT && !w->lag)) copy(w, LOADED, VALUE, t->stage);
    return QN_OK;
}

static void *home_of(void *ctx, int32_t value, size_t *bytes)
{
    const way *w = ctx;
    const qn_value *v = &w->plan->value[value];
    *bytes = (size_t)v->bytes;
    if (v->cls == QN_V_PARAM) return part(w, LOADED, v->stage);
    if (v->cls == QN_V_PGRAD) return part(w, LANDED, v->stage);
    return w->small + (size_t)(value % w->one->values) * SMALL;
}

/* ---- open, close */

static qn_status lower(way *w, const qn_order *order, qn_err *err)
{
    int64_t bytes[PIECES];
    for (int32_t i = 0; i < PIECES; i++) bytes[i] = COUNT * (int64_t)sizeof(float);
    const qn_tiers tiers = {.window = WINDOW, .replace = 1, .chunk_bytes = bytes, .pgrad_bytes = bytes, .lag = w->lag};
    const qn_lowering how = {
        .tied_owner = QN_NONE, .tied_replica = QN_NONE, .step_tasks = true, .stat_bytes = 8, .tiers = &tiers};
    qn_status st = qn_lower(&w->one, order, &how, err);
    if (st == QN_OK) st = qn_plan_chain(&w->plan, w->one, w->lag ? FLIGHT : 1, NULL, err);
    for (int32_t t = 0; st == QN_OK && t < w->plan->tasks; t++) {
        qn_task *x = &w->plan->task[t];
        x->cost = x->op == QN_OP_F || x->op == QN_OP_R ? FORWARD : x->op == QN_OP_BW ? 2 * FORWARD : 0;
    }
    return st;
}

/* A stage for each piece each way. */
static qn_status open_plan(way *w, qn_err *err)
{
    int32_t slot[2][PIECES];
    for (int32_t i = 0; i < PIECES; i++) {
        slot[0][i] = i;
        slot[1][i] = 2 * PIECES - 2 - i;
    }
    const qn_pattern pat = {
        .workers = 1, .items = ITEMS, .chunks = 1, .pieces = PIECES, .forward_slot = slot[0], .backward_slot = slot[1]};
    qn_order *order = NULL;
    qn_status st = qn_generate(&order, "roundpipe", &pat, err);
    if (st == QN_OK) st = lower(w, order, err);
    qn_order_close(order);
    return st;
}

static const size_t SET_BYTES = (size_t)PIECES * COUNT * sizeof(float);

static qn_status open_sets(way *w, qn_err *err)
{
    for (int32_t i = 0; i < SETS; i++) {
        w[0].set[i] = w[1].set[i] = qn_alloc_pages(SET_BYTES);
        if (w[0].set[i] == NULL) return QN_FAIL(err, QN_ENOMEM, "%d pieces of %lld parameters", PIECES, (long long)COUNT);
        memset(w[0].set[i], 0, SET_BYTES);
    }
    return QN_OK;
}

static qn_status open_way(way *w, bool lag, qn_err *err)
{
    qn_status st;
    w->lag = lag;
    QN_TRY(st, qn_kernels_get(&w->k, QN_MODE_F32, err), out);
    QN_TRY(st, open_plan(w, err), out);
    w->trace = (qn_trace){.plan = w->plan, .time = qn_calloc((size_t)w->plan->tasks + 1, sizeof(*w->trace.time))};
    w->small = qn_calloc((size_t)w->one->values + 1, SMALL);
    if (w->trace.time == NULL || w->small == NULL) return QN_FAIL(err, QN_ENOMEM, "plan of %d tasks", w->plan->tasks);
    const qn_executor_desc desc = {.plan = w->plan,
                                   .transport = qn_transport_find("thread"),
                                   .faults = {.dead_worker = -1},
                                   .driver = QN_DRIVE_THREADS,
                                   .fns = {.run = run_task, .home = home_of},
                                   .ctx = w,
                                   .link_bytes_per_s = LINK,
                                   .spins = 0};
    QN_TRY(st, qn_executor_open(&w->ex, &desc, err), out);
out:
    return st;
}

static void close_way(way *w)
{
    qn_executor_close(w->ex);
    qn_free(w->small);
    qn_free(w->trace.time);
    qn_plan_close(w->plan);
    qn_plan_close(w->one);
}

/* ---- measuring */

/* Steps per run of the plan; what the lanes of the host took of one step. */
static qn_status run_way(way *w, int32_t flight, qn_err *err)
{
    const int32_t runs = w->lag ? 1 : FLIGHT;
    double host = 0;
    const int64_t began = qn_now_ns();
    for (int32_t i = 0; i < runs; i++) {
        const qn_status st = qn_executor_step(w->ex, &w->trace, err);
        if (st != QN_OK) return st;
        for (int32_t t = 0; t < w->plan->tasks; t++)
            if (w->plan->task[t].lane == QN_LANE_HOST) host += (double)(w->trace.time[t].end - w->trace.time[t].start);
    }
    if (flight < 0) return QN_OK;
    w->ms[flight] = (double)(qn_now_ns() - began) * 1e-6 / FLIGHT;
    w->host_ms[flight] = host * 1e-6 / FLIGHT;
    return QN_OK;
}

/* A step of the plan, in ms, by the simulator with the tasks as long as the last run's were on the median. */
static qn_status simulate(double *ms, const way *w, qn_err *err)
{
    qn_trace room = {.plan = w->plan, .time = qn_calloc((size_t)w->plan->tasks + 1, sizeof(*room.time))};
    if (room.time == NULL) return QN_FAIL(err, QN_ENOMEM, "trace of %d tasks", w->plan->tasks);
    const qn_status st = qni_simulate_measured(&room, &w->trace, 1, err);
    if (st == QN_OK) *ms = (double)qni_trace_makespan(&room) * 1e-6 / w->plan->steps;
    qn_free(room.time);
    return st;
}

static qn_status race(way *w, int32_t flights, double simulated[WAYS], qn_err *err)
{
    qn_status st = QN_OK;
    for (int32_t i = -1; i < flights; i++)
        for (int32_t k = 0; k < WAYS && st == QN_OK; k++) st = run_way(&w[k], i, err);
    for (int32_t k = 0; k < WAYS && st == QN_OK; k++) st = simulate(&simulated[k], &w[k], err);
    return st;
}

static void show(way *w, int32_t flights, const double simulated[WAYS], int json, qn_line_fn *line, void *ctx)
{
    double ms[WAYS], host[WAYS];
    for (int32_t k = 0; k < WAYS; k++) {
        ms[k] = qni_median(w[k].ms, flights);
        host[k] = qni_median(w[k].host_ms, flights);
    }
    qni_line l = qni_line_begin(json);
    qni_line_text(&l, "claim", "time that the event protocol saves, over that of the optimizer and its copies");
    qni_line_text(&l, "device", "sleeps");
    qni_line_text(&l, "host", "real copies and AdamW");
    qni_line_number(&l, "parameters", (double)(PIECES * COUNT));
    qni_line_number(&l, "link_MB_per_s", (double)LINK * 1e-6);
    qni_line_number(&l, "host_ms", host[BLOCKING]);
    qni_line_number(&l, "host_beside_ms", host[PROTOCOL]);
    qni_line_number(&l, "blocking_ms", ms[BLOCKING]);
    qni_line_number(&l, "protocol_ms", ms[PROTOCOL]);
    qni_line_number(&l, "simulated_blocking_ms", simulated[BLOCKING]);
    qni_line_number(&l, "simulated_protocol_ms", simulated[PROTOCOL]);
    qni_line_claim(&l, (ms[BLOCKING] - ms[PROTOCOL]) / host[BLOCKING],
                   (simulated[BLOCKING] - simulated[PROTOCOL]) / host[BLOCKING], 0.8);
    qni_line_end(&l, line, ctx);
}

qn_status qni_bench_protocol(const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    const int32_t flights = (int32_t)qn_min64(opt->steps, MOST_FLIGHTS);
    double simulated[WAYS] = {0};
    way *w = qn_calloc(WAYS, sizeof(*w));
    qn_status st = w != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "results");
    if (st == QN_OK) st = open_sets(w, err);
    for (int32_t k = 0; k < WAYS && st == QN_OK; k++) st = open_way(&w[k], k == PROTOCOL, err);
    if (st == QN_OK) st = race(w, flights, simulated, err);
    if (st == QN_OK) show(w, flights, simulated, opt->json, line, ctx);
    for (int32_t i = 0; i < SETS && w != NULL; i++) qn_free_pages(w[0].set[i], SET_BYTES);
    for (int32_t k = 0; k < WAYS && w != NULL; k++) close_way(&w[k]);
    qn_free(w);
    return st;
}

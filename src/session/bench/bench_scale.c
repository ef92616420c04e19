/* quern bench scale: time of a step, memory and start-up, for three things that grow.
 *
 *   workers      1 to 64 with 1F1B and two micro-batches each; past the machine's cores they are simulated: tasks sleep as long
 * as a task of that share would take, so what is measured is executor, transport and schedule context      128 to 8192 tokens of
 * a sample at one model, the same tokens of a step as far as a sample allows: training parameters   1 M to 1.5 B: training while
 * weights, gradients, moments and packed copies fit into the memory that is free; above that forward passes alone on bf16
 * weights, and a line says which were left out altogether
 *
 * Memory is what the process grew by from before opening to after the last step, as the system counts it. --quick takes small
 * sizes; the whole takes tens of minutes. */
#include "bench_scale.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench_common.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/compiler.h"
#include "core/io.h"
#include "core/team.h"
#include "session/load.h"
#include "session/schedules/measured.h"
#include "runtime/executor/executor.h"
#include "runtime/forward/runner.h"
#include "schedule/gen/gen.h"
#include "transport/transport.h"

enum { MOST_STEPS = 64 };

typedef struct scale {
    const qn_bench_options *given;
    qn_line_fn *line;
    void *ctx;
    qni_scale_point point[QNI_SCALE_MOST];
    int32_t points;
} scale;

static double resident_bytes(void)
{
    char *text = NULL;
    size_t n = 0;
    long long all = 0, held = 0;
    if (qn_file_read(&text, &n, "/proc/self/statm", 4096, NULL) == QN_OK && sscanf(text, "%lld %lld", &all, &held) != 2) held = 0;
    qn_free(text);
    return (double)held * (double)sysconf(_SC_PAGESIZE);
}

static double free_bytes(void)
{
    return (double)sysconf(_SC_AVPHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
}

static double since(int64_t from)
{
    return (double)(qn_now_ns() - from) * 1e-9;
}

static void add(scale *s, qni_scale_point p, double tokens)
{
    static const char *const axis[QNI_SCALE_AXES] = {"workers", "context", "parameters"};
    if (s->points < QNI_SCALE_MOST) s->point[s->points++] = p;
    qni_line l = qni_line_begin(s->given->json);
    qni_line_text(&l, "scale", axis[p.axis]);
    qni_line_text(&l, "work", p.axis == QNI_SCALE_WORKERS ? "sleep" : p.forward_only ? "forward" : "train");
    qni_line_number(&l, axis[p.axis], p.x);
    qni_line_number(&l, "step_ms", p.step_s * 1e3);
    if (p.ideal_s > 0) qni_line_number(&l, "simulated_ms", p.ideal_s * 1e3);
    if (p.ideal_s > 0) qni_line_number(&l, "measured_over_simulated", p.step_s / p.ideal_s);
    if (tokens > 0) qni_line_number(&l, "tokens_per_s", tokens / p.step_s);
    qni_line_number(&l, "start_ms", p.start_s * 1e3);
    qni_line_number(&l, "memory_bytes", p.memory_bytes);
    qni_line_end(&l, s->line, s->ctx);
}

/* --- workers */

static qn_status sleep_task(void *ctx, qn_executor *ex, int32_t task, qn_err *err)
{
    const qn_plan *plan = ctx;
    const int64_t until = qn_now_ns() + plan->task[task].cost;
    const struct timespec at = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};
    (void)ex, (void)err;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) continue;
    return QN_OK;
}

static void *no_home(void *ctx, int32_t value, size_t *bytes)
{
    (void)value;
    *bytes = 0;
    return ctx;
}

static qn_status plan_of(qn_plan **out, int32_t workers, qn_err *err)
{
    const qn_pattern pattern = {.workers = workers, .items = 2 * workers, .chunks = 1};
    const qn_lowering how = {.tied_owner = QN_NONE, .tied_replica = QN_NONE};
    qn_order *order = NULL;
    qn_status st = qn_generate(&order, "1f1b", &pattern, err);
    if (st == QN_OK) st = qn_lower(out, order, &how, err);
    qn_order_close(order);
    for (int32_t t = 0; st == QN_OK && t < (*out)->tasks; t++) {
        qn_task *task = &(*out)->task[t];
        const int64_t unit = 4000000; /* ns */
        task->cost = task->lane != QN_LANE_COMP ? 0 : task->op == QN_OP_F ? unit : task->op == QN_OP_BW ? 2 * unit : 0;
    }
    return st;
}

static qn_status one_width(scale *s, int32_t workers, qn_err *err)
{
    const int32_t steps = qn_min32((int32_t)s->given->steps, MOST_STEPS);
    double each[MOST_STEPS];
    qn_plan *plan = NULL;
    qn_executor *ex = NULL;
    qn_trace trace = {.time = NULL};
    qni_scale_point p = {.axis = QNI_SCALE_WORKERS, .x = workers};
    const double before = resident_bytes();
    const int64_t from = qn_now_ns();
    qn_status st;
    QN_TRY(st, plan_of(&plan, workers, err), out);
    const qn_executor_desc desc = {.plan = plan,
                                   .transport = qn_transport_find("thread"),
                                   .faults = {.dead_worker = -1},
                                   .driver = QN_DRIVE_THREADS,
                                   .fns = {.run = sleep_task, .home = no_home},
                                   .ctx = plan,
                                   .spins = 0};
    QN_TRY(st, qn_executor_open(&ex, &desc, err), out);
    p.start_s = since(from);
    trace = (qn_trace){.plan = plan, .time = qn_calloc((size_t)plan->tasks, sizeof(*trace.time))};
    if (trace.time == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "trace of %d tasks", plan->tasks);
        goto out;
    }
    const qn_sim_options how = {.latency = 0};
    QN_TRY(st, qn_simulate(&trace, plan, &how, err), out);
    p.ideal_s = (double)qni_trace_makespan(&trace) * 1e-9;
    for (int32_t i = -1; i < steps; i++) {
        const int64_t began = qn_now_ns();
        QN_TRY(st, qn_executor_step(ex, NULL, err), out);
        if (i >= 0) each[i] = since(began);
    }
    p.step_s = qni_median(each, steps);
    p.memory_bytes = qn_max64(0, (int64_t)(resident_bytes() - before));
    add(s, p, 0);
out:
    qn_executor_close(ex);
    qn_free(trace.time);
    qn_plan_close(plan);
    return st;
}

/* --- training */

static qn_status train_point(scale *s, qni_scale_axis axis, double x, const qn_bench_options *o, qn_err *err)
{
    qni_scale_point p = {.axis = axis, .x = x};
    qni_bench_run b;
    const double before = resident_bytes();
    const int64_t from = qn_now_ns();
    qn_status st = qni_bench_open(&b, o, &(qni_bench_how){.schedule = "1f1b", .traces = 1}, err);
    if (st != QN_OK) return st;
    p.start_s = since(from);
    if (axis == QNI_SCALE_PARAMETERS) p.x = (double)qn_model_param_count(b.model);
    st = qni_bench_steps(&p.step_s, &b, qn_min32((int32_t)o->steps, MOST_STEPS), err);
    p.memory_bytes = resident_bytes() - before;
    qni_bench_close(&b);
    qn_team_pin_self(-1);
    if (st == QN_OK) add(s, p, (double)(o->batch * o->context));
    return st;
}

/* Forward passes over context tokens on bf16 weights. */
static qn_status forward_point(scale *s, const qn_bench_options *o, qn_model *m, qn_err *err)
{
    const int32_t cuts[2] = {0, qn_model_layers(m)}, steps = qn_min32((int32_t)o->steps, MOST_STEPS);
    qni_scale_point p = {.axis = QNI_SCALE_PARAMETERS, .forward_only = true, .x = (double)qn_model_param_count(m)};
    double each[MOST_STEPS];
    float **value = NULL;
    void *block = NULL;
    size_t bytes = 0;
    qn_runner *runner = NULL;
    int32_t *tokens = qn_calloc((size_t)o->context, sizeof(*tokens));
    const double before = resident_bytes();
    const int64_t from = qn_now_ns();
    qn_status st = tokens != NULL ? qni_values_open(&value, &block, &bytes, m, err) : QN_FAIL(err, QN_ENOMEM, "tokens");
    for (int32_t i = 0; st == QN_OK && i < qn_model_params(m); i++) qn_model_init_param(m, i, 1, QN_F32, value[i]);
    const qn_runner_desc d = {.model = m,
                              .value = (void *const *)value,
                              .first_layer = cuts,
                              .workers = 1,
                              .threads = (int32_t)o->threads,
                              .mode = QN_MODE_BF16,
                              .weights = QN_WEIGHTS_BF16,
                              .kv = QN_BF16,
                              .B = 1,
                              .T = o->context,
                              .cache_len = o->context,
                              .slots = 1};
    if (st == QN_OK) st = qn_runner_open(&runner, &d, err);
    p.start_s = since(from);
    for (int32_t i = -1; st == QN_OK && i < steps; i++) {
        const float *logits;
        const int64_t began = qn_now_ns();
        qn_runner_rewind(runner);
        st = qn_runner_feed(runner, tokens, o->context, &logits, err);
        if (i >= 0) each[i] = since(began);
    }
    p.memory_bytes = resident_bytes() - before;
    if (st == QN_OK) {
        p.step_s = qni_median(each, steps);
        add(s, p, (double)o->context);
    }
    qn_runner_close(runner);
    qni_values_close(value, block, bytes);
    qn_free(tokens);
    return st;
}

static const struct {
    int64_t layers, heads, width;
    bool quick;
} size_list[] = {{4, 4, 128, true},     {8, 8, 256, true},     {8, 8, 512, true},    {12, 12, 768, false},
                 {24, 16, 1024, false}, {36, 20, 1280, false}, {48, 25, 1600, false}};

static qn_status one_size(scale *s, int32_t i, qn_err *err)
{
    qn_bench_options o = *s->given;
    o.layers = size_list[i].layers;
    o.heads = size_list[i].heads;
    o.width = size_list[i].width;
    o.context = o.context > 0 ? o.context : 256;
    o.batch = o.batch > 0 ? o.batch : 1;
    o.vocab = o.vocab > 0 ? o.vocab : o.width < 768 ? 4096 : 50257;
    o = qni_bench_defaults(&o, false);
    o.dtype = 1;
    const qn_model_config config = {.arch = (qn_arch)o.arch,
                                    .layers = (int32_t)o.layers,
                                    .heads = (int32_t)o.heads,
                                    .width = (int32_t)o.width,
                                    .context = (int32_t)o.context,
                                    .vocab = (int32_t)o.vocab,
                                    .tied = o.arch == QN_ARCH_GPT2};
    qn_model *m = NULL;
    qn_status st = qn_model_open(&m, &config, err);
    if (st != QN_OK) return st;
    const double count = (double)qn_model_param_count(m), margin = 1.5e9, has = free_bytes();
    const double training = 20 * count + margin, forward = 6 * count + margin;
    if (training < has) {
        st = train_point(s, QNI_SCALE_PARAMETERS, count, &o, err);
    } else if (forward < has) {
        st = forward_point(s, &o, m, err);
    }
    if (training >= has) {
        qni_line l = qni_line_begin(o.json);
        qni_line_text(&l, "scale_left_out", forward < has ? "training" : "training and forward");
        qni_line_number(&l, "parameters", count);
        qni_line_number(&l, "needs_bytes", forward < has ? training : forward);
        qni_line_number(&l, "free_bytes", has);
        qni_line_end(&l, s->line, s->ctx);
    }
    qn_model_close(m);
    return st;
}

static qn_status one_context(scale *s, int64_t context, qn_err *err)
{
    const int64_t tokens = s->given->quick ? 1024 : 2048;
    qn_bench_options o = *s->given;
    if (s->given->quick) {
        o.layers = 2;
        o.width = 128;
        o.heads = 4;
    }
    o = qni_bench_defaults(&o, false);
    o.dtype = 1;
    o.context = context;
    o.batch = qn_max64(1, tokens / context);
    return train_point(s, QNI_SCALE_CONTEXT, (double)context, &o, err);
}

qn_status qn_bench_scale(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    const int32_t sizes = QN_COUNT(size_list), most = given->quick ? 16 : 64;
    scale s = {.given = given, .line = line, .ctx = ctx};
    qn_status st = QN_OK;
    for (int32_t w = 1; st == QN_OK && w <= most; w *= 2) st = one_width(&s, w, err);
    for (int64_t t = 128; st == QN_OK && t <= (given->quick ? 1024 : 8192); t *= 2) st = one_context(&s, t, err);
    for (int32_t i = 0; st == QN_OK && i < sizes; i++)
        if (size_list[i].quick || !given->quick) st = one_size(&s, i, err);
    if (st == QN_OK && given->svg != NULL) st = qni_scale_svg(given->svg, s.point, s.points, err);
    return st;
}

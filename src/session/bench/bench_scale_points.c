/* The points of quern bench scale.
 *
 * workers      1F1B with two micro-batches each; past the machine's cores they are simulated devices: tasks sleep as long as a
 *              task of that share would take, so what is measured is executor, transport and schedule
 * training     of all parameters, or of adapters on a frozen model; each step beside its matrix products alone
 * forward      passes on bf16 weights
 *
 * Memory is what the process grew by from before opening to after the last step, as the system counts it. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench_products.h"
#include "bench_scale.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/io.h"
#include "core/team.h"
#include "session/load.h"
#include "session/schedules/measured.h"
#include "runtime/executor/executor.h"
#include "runtime/forward/runner.h"
#include "schedule/gen/gen.h"
#include "transport/transport.h"

enum { MOST_STEPS = 64, MOST_ROWS = 2048 /* of the products: their rate does not grow with more */ };

static double resident_bytes(void)
{
    char *text = NULL;
    size_t n = 0;
    long long all = 0, held = 0;
    if (qn_file_read(&text, &n, "/proc/self/statm", 4096, NULL) == QN_OK && sscanf(text, "%lld %lld", &all, &held) != 2) held = 0;
    qn_free(text);
    return (double)held * (double)sysconf(_SC_PAGESIZE);
}

static double since(int64_t from)
{
    return (double)(qn_now_ns() - from) * 1e-9;
}

static void take_times(qni_scale_point *p, double *each, int32_t steps)
{
    p->step_s = qni_median(each, steps);
    p->least_s = each[0];
    p->most_s = each[steps - 1];
    p->spread = qni_spread(each, steps);
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

static qn_status simulated(double *seconds, qn_plan *plan, qn_err *err)
{
    const qn_sim_options how = {.latency = 0};
    qn_trace trace = {.plan = plan, .time = qn_calloc((size_t)plan->tasks, sizeof(*trace.time))};
    qn_status st =
        trace.time != NULL ? qn_simulate(&trace, plan, &how, err) : QN_FAIL(err, QN_ENOMEM, "trace of %d tasks", plan->tasks);
    *seconds = st == QN_OK ? (double)qni_trace_makespan(&trace) * 1e-9 : 0;
    qn_free(trace.time);
    return st;
}

qn_status qni_scale_workers(qni_scale_point *p, int32_t workers, int32_t steps, qn_err *err)
{
    double each[MOST_STEPS];
    qn_plan *plan = NULL;
    qn_executor *ex = NULL;
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
    p->start_s = since(from);
    for (int32_t i = -1; i < steps; i++) {
        const int64_t began = qn_now_ns();
        QN_TRY(st, qn_executor_step(ex, NULL, err), out);
        if (i >= 0) each[i] = since(began);
    }
    p->axis = QNI_SCALE_WORKERS;
    p->work = QNI_WORK_SLEEP;
    p->x = workers;
    p->memory_bytes = (double)qn_max64(0, (int64_t)(resident_bytes() - before));
    take_times(p, each, steps);
    st = simulated(&p->ideal_s, plan, err);
out:
    qn_executor_close(ex);
    qn_plan_close(plan);
    return st;
}

/* --- a model */

/* How long the operations of a pass or a step would take at the rate of its matrix products alone. */
static double ideal(qni_products *products, double flops)
{
    const double rate = qni_products_rate(products);
    return rate > 0 ? flops / rate * 1e-9 : 0;
}

/* 6 L C T a token: forward 2, backward 4, of attention's causal half. */
static double attention_flops(const qn_bench_options *o, double each)
{
    return each * (double)(o->layers * o->width * o->context) * (double)(o->batch * o->context);
}

static qn_status train_steps(qni_scale_point *p, qni_bench_run *b, qni_products *products, const qn_bench_options *o, qn_err *err)
{
    const int32_t steps = (int32_t)qn_min64(o->steps, MOST_STEPS);
    double each[MOST_STEPS];
    qn_step_result result;
    for (int32_t i = 0; i < steps; i++) {
        const qn_status st = qn_trainer_step(b->trainer, i + 1, 1e-4, &result, b->trace, err);
        if (st != QN_OK) return st;
        each[i] = (double)result.ns * 1e-9;
        qni_products_run(products);
    }
    take_times(p, each, steps);
    return QN_OK;
}

qn_status qni_scale_train(qni_scale_point *p, const qn_bench_options *o, int32_t lora, qn_err *err)
{
    qni_bench_run b;
    qni_products products = {.count = 0};
    qn_step_result first;
    const double before = resident_bytes();
    const int64_t from = qn_now_ns();
    qn_status st = qni_bench_open(&b, o, &(qni_bench_how){.schedule = "1f1b", .traces = 1, .lora = lora}, err);
    if (st != QN_OK) return st;
    p->start_s = since(from);
    const qni_products_of of = {.model = b.model,
                                .rows = qn_min64(o->batch * o->context, MOST_ROWS),
                                .bf16 = o->dtype != 0,
                                .input = true,
                                .weight = lora == 0,
                                .head = true,
                                .threads = (int32_t)(o->threads * o->workers),
                                .runs = (int32_t)qn_min64(o->steps, MOST_STEPS)};
    QN_TRY(st, qn_trainer_step(b.trainer, 0, 1e-4, &first, b.trace, err), out);
    p->memory_bytes = resident_bytes() - before;
    QN_TRY(st, qni_products_open(&products, &of, err), out);
    QN_TRY(st, train_steps(p, &b, &products, o, err), out);
    p->work = lora > 0 ? QNI_WORK_LORA : QNI_WORK_TRAIN;
    p->tokens = (double)(o->batch * o->context);
    const double count = (double)qn_model_param_count(b.model), matmul = (double)qn_model_matmul_params(b.model);
    p->x = p->axis == QNI_SCALE_PARAMETERS ? count : (double)o->context;
    p->floor_bytes = lora > 0 ? 2 * count : 16 * count;
    p->ideal_s = ideal(&products, (lora > 0 ? 4 : 6) * matmul * p->tokens + attention_flops(o, 6));
out:
    qni_products_close(&products);
    qni_bench_close(&b);
    qn_team_pin_self(-1);
    return st;
}

typedef struct forward_rig {
    qn_model *m;
    float **value;
    void *block;
    size_t bytes;
    int32_t *tokens;
    qn_runner *runner;
    atomic_int next; /* parameter without values */
} forward_rig;

/* Values by all threads, a parameter at a time. */
static void init_values(void *ctx, int32_t thread, int32_t threads)
{
    forward_rig *f = ctx;
    (void)thread, (void)threads;
    for (int32_t i; (i = atomic_fetch_add(&f->next, 1)) < qn_model_params(f->m);)
        qn_model_init_param(f->m, i, 1, QN_F32, f->value[i]);
}

static qn_status open_forward(forward_rig *f, const qn_bench_options *o, qn_err *err)
{
    const qn_model_config config = {.arch = (qn_arch)o->arch,
                                    .layers = (int32_t)o->layers,
                                    .heads = (int32_t)o->heads,
                                    .kv_heads = (int32_t)o->kv_heads,
                                    .width = (int32_t)o->width,
                                    .context = (int32_t)o->context,
                                    .vocab = (int32_t)o->vocab,
                                    .tied = o->arch == QN_ARCH_GPT2};
    qn_status st = qn_model_open(&f->m, &config, err);
    if (st == QN_OK) st = qni_values_open(&f->value, &f->block, &f->bytes, f->m, err);
    f->tokens = qn_calloc((size_t)o->context, sizeof(*f->tokens));
    if (st == QN_OK && f->tokens == NULL) st = QN_FAIL(err, QN_ENOMEM, "%lld tokens", (long long)o->context);
    if (st != QN_OK) return st;
    qn_team *team;
    st = qn_team_open(&team, (int32_t)o->threads, -1, err);
    if (st != QN_OK) return st;
    qn_team_run(team, init_values, f);
    qn_team_close(team);
    const int32_t cuts[2] = {0, qn_model_layers(f->m)};
    const qn_runner_desc d = {.model = f->m,
                              .value = (void *const *)f->value,
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
    return qn_runner_open(&f->runner, &d, err);
}

qn_status qni_scale_forward(qni_scale_point *p, const qn_bench_options *o, qn_err *err)
{
    const int32_t steps = (int32_t)qn_min64(o->steps, MOST_STEPS);
    double each[MOST_STEPS];
    forward_rig f = {.m = NULL};
    qni_products products = {.count = 0};
    qn_bench_options one = *o;
    const double before = resident_bytes();
    const int64_t from = qn_now_ns();
    qn_status st;
    one.batch = 1;
    QN_TRY(st, open_forward(&f, o, err), out);
    p->start_s = since(from);
    const qni_products_of of = {.model = f.m, .rows = o->context, .bf16 = true, .threads = (int32_t)o->threads, .runs = steps};
    for (int32_t i = -1; i < steps; i++) {
        const float *logits;
        const int64_t began = qn_now_ns();
        qn_runner_rewind(f.runner);
        QN_TRY(st, qn_runner_feed(f.runner, f.tokens, o->context, &logits, err), out);
        if (i >= 0) each[i] = since(began);
        if (i < 0) {
            p->memory_bytes = resident_bytes() - before;
            QN_TRY(st, qni_products_open(&products, &of, err), out);
        } else {
            qni_products_run(&products);
            qn_team_pin_self(-1);
        }
    }
    take_times(p, each, steps);
    p->work = QNI_WORK_FORWARD;
    p->tokens = (double)o->context;
    p->x = (double)qn_model_param_count(f.m);
    p->floor_bytes = 2 * p->x;
    const double blocks = (double)qn_model_matmul_params(f.m) - (double)(o->vocab * o->width);
    p->ideal_s = ideal(&products, 2 * blocks * p->tokens + attention_flops(&one, 2));
out:
    qni_products_close(&products);
    qn_runner_close(f.runner);
    qni_values_close(f.value, f.block, f.bytes);
    qn_free(f.tokens);
    qn_model_close(f.m);
    return st;
}

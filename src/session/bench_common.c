/* What the benchmarks share. */
#include "bench_common.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/rng.h"
#include "core/team.h"
#include "model/cost.h"
#include "schedule/gen/gen.h"

static void read_random(const qn_source *s, int64_t step, int64_t sample, int32_t *inputs, int32_t *targets)
{
    qn_rng r = qn_rng_of((qn_rng_key){.seed = 7, .step = (uint32_t)step, .sample = (uint32_t)sample});
    int32_t next = (int32_t)qn_rng_below(&r, (uint64_t)s->vocab);
    for (int64_t t = 0; t < s->T; t++) {
        inputs[t] = next;
        next = (int32_t)qn_rng_below(&r, (uint64_t)s->vocab);
        targets[t] = next;
    }
}

static void close_nothing(qn_source *s)
{
    (void)s;
}

static const qn_source_ops random_ops = {.read = read_random, .close = close_nothing};

static qn_status open_traces(qni_bench_run *b, int32_t traces, qn_err *err)
{
    const qn_plan *plan = qn_trainer_plan(b->trainer);
    b->trace = qn_calloc((size_t)traces, sizeof(*b->trace));
    if (b->trace == NULL) return QN_FAIL(err, QN_ENOMEM, "%d traces", traces);
    b->traces = traces;
    for (int32_t i = 0; i < traces; i++) {
        b->trace[i] = (qn_trace){.plan = plan, .time = qn_calloc((size_t)plan->tasks, sizeof(qn_span_time))};
        if (b->trace[i].time == NULL) return QN_FAIL(err, QN_ENOMEM, "trace of %d tasks", plan->tasks);
    }
    return QN_OK;
}

static void choose(int64_t *x, int64_t otherwise)
{
    if (*x == 0) *x = otherwise;
}

qn_bench_options qni_bench_defaults(const qn_bench_options *given, bool pipeline)
{
    qn_bench_options o = *given;
    choose(&o.layers, 12);
    choose(&o.heads, pipeline ? 6 : 12);
    choose(&o.width, pipeline ? 384 : 768);
    choose(&o.context, pipeline ? 256 : 512);
    choose(&o.vocab, pipeline ? 4096 : 50257);
    choose(&o.batch, pipeline ? 16 : 4);
    choose(&o.micro_batches, pipeline ? 16 : 1);
    choose(&o.workers, pipeline ? 2 : 1);
    choose(&o.threads, pipeline ? 1 : qn_max32(qn_team_cores() / (int32_t)o.workers, 1));
    return o;
}

/* Where the stages of the chain begin: by cost, or with as many blocks in each. */
static qn_status cut(qni_bench_run *b, const qn_bench_options *opt, bool even, qn_err *err)
{
    const int32_t stages = qn_depth(qn_order_grid(b->order)), layers = qn_model_layers(b->model);
    const int64_t samples = (opt->batch + opt->micro_batches - 1) / opt->micro_batches;
    b->first_layer = qn_calloc((size_t)stages + 1, sizeof(*b->first_layer));
    if (b->first_layer == NULL) return QN_FAIL(err, QN_ENOMEM, "cuts");
    if (!even) return qn_model_default_cuts(b->model, samples, opt->context, stages, b->first_layer, err);
    for (int32_t s = 1; s < stages; s++) b->first_layer[s] = 1 + s * (layers - 2) / stages;
    b->first_layer[stages] = layers;
    return QN_OK;
}

static qn_status open_run(qni_bench_run *b, const qn_bench_options *opt, const char *schedule, int32_t vocab, bool even,
                          int32_t traces, qn_err *err)
{
    qn_status st;
    memset(b, 0, sizeof(*b));
    const qn_model_config config = {.arch = (qn_arch)opt->arch,
                                    .layers = (int32_t)opt->layers,
                                    .heads = (int32_t)opt->heads,
                                    .kv_heads = (int32_t)opt->heads,
                                    .width = (int32_t)opt->width,
                                    .context = (int32_t)opt->context,
                                    .vocab = (int32_t)opt->vocab,
                                    .tied = opt->arch == QN_ARCH_GPT2};
    const qn_generator *g = qn_generator_find(schedule);
    const qn_pattern pattern = {.workers = (int32_t)opt->workers,
                                .items = (int32_t)opt->micro_batches,
                                .chunks = g != NULL ? g->usual_chunks : 1,
                                .cost = {[QN_OP_F] = vocab > 0 ? 1 : 0, [QN_OP_BW] = vocab > 0 ? 2 : 0},
                                .vocab = vocab};
    b->source = (qn_source){.ops = &random_ops, .T = opt->context, .batch = opt->batch, .vocab = (int32_t)opt->vocab};
    QN_TRY(st, qn_model_open(&b->model, &config, err), out);
    QN_TRY(st, qn_generate(&b->order, schedule, &pattern, err), out);
    QN_TRY(st, cut(b, opt, even, err), out);
    const qn_trainer_desc desc = {.model = b->model,
                                  .order = b->order,
                                  .first_layer = b->first_layer,
                                  .mode = opt->dtype == 0 ? QN_MODE_F32 : QN_MODE_BF16,
                                  .threads = (int32_t)opt->threads,
                                  .source = &b->source,
                                  .hyper = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .clip = 1.0},
                                  .seed = 1,

                                  .pin = true};
    QN_TRY(st, qn_trainer_open(&b->trainer, &desc, err), out);
    QN_TRY(st, open_traces(b, traces, err), out);
out:
    if (st != QN_OK) qni_bench_close(b);
    return st;
}

qn_status qni_bench_open(qni_bench_run *b, const qn_bench_options *opt, const char *schedule, int32_t traces, qn_err *err)
{
    return open_run(b, opt, schedule, 0, false, traces, err);
}

qn_status qni_bench_open_even(qni_bench_run *b, const qn_bench_options *opt, int32_t vocab, int32_t traces, qn_err *err)
{
    return open_run(b, opt, "1f1b", vocab, true, traces, err);
}

void qni_bench_close(qni_bench_run *b)
{
    for (int32_t i = 0; i < b->traces; i++) qn_free(b->trace[i].time);
    qn_free(b->trace);
    qn_trainer_close(b->trainer);
    qn_order_close(b->order);
    qn_model_close(b->model);
    qn_free(b->first_layer);
    memset(b, 0, sizeof(*b));
}

qn_status qni_bench_steps(double *seconds, qni_bench_run *b, int32_t steps, qn_err *err)
{
    double run[1000];
    qn_step_result result;
    for (int32_t i = -1; i < steps; i++) {
        const qn_status st = qn_trainer_step(b->trainer, i + 1, 1e-4, &result, &b->trace[i < 0 ? 0 : i % b->traces], err);
        if (st != QN_OK) return st;
        if (i >= 0) run[i] = (double)result.ns * 1e-9;
    }
    *seconds = qni_median(run, steps);
    return QN_OK;
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double qni_median(double *x, int32_t n)
{
    qsort(x, (size_t)n, sizeof(*x), by_size);
    return n == 0 ? NAN : n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
}

static void put(qni_line *l, const char *fmt, const char *a, const char *b)
{
    const size_t room = l->used < sizeof(l->text) ? sizeof(l->text) - l->used : 0;
    l->used += (size_t)snprintf(l->text + (room ? l->used : 0), room, fmt, a, b);
}

qni_line qni_line_begin(int json)
{
    qni_line l = {.json = json};
    if (json) put(&l, "{%s%s", "", "");
    return l;
}

static const char *separator(const qni_line *l)
{
    return l->json ? (l->used > 1 ? ", " : "") : (l->used > 0 ? "  " : "");
}

void qni_line_text(qni_line *l, const char *name, const char *value)
{
    put(l, "%s%s", separator(l), "");
    put(l, l->json ? "\"%s\": \"%s\"" : "%s %s", name, value);
}

void qni_line_number(qni_line *l, const char *name, double value)
{
    char number[40];
    if (l->json && isfinite(value))
        snprintf(number, sizeof(number), "%.17g", value);
    else if (l->json)
        snprintf(number, sizeof(number), "null");
    else if (fabs(value) >= 1000)
        snprintf(number, sizeof(number), "%.0f", value);
    else
        snprintf(number, sizeof(number), "%.4g", value);
    put(l, "%s%s", separator(l), "");
    put(l, l->json ? "\"%s\": %s" : "%s %s", name, number);
}

void qni_line_end(qni_line *l, qn_line_fn *line, void *ctx)
{
    if (l->json) put(l, "%s%s", "}", "");
    line(ctx, l->text);
}

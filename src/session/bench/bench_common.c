/* What the benchmarks share. */
#include "bench_common.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/rng.h"
#include "core/team.h"
#include "model/cost.h"
#include "model/lora.h"
#include "session/round_cut.h"
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

/* Flights cut their traces out of one, which knows no processor time. */
static qn_status open_traces(qni_bench_run *b, int32_t traces, bool cpu, qn_err *err)
{
    const qn_plan *plan = qn_trainer_plan(b->trainer);
    b->trace = qn_calloc((size_t)traces, sizeof(*b->trace));
    if (b->trace == NULL) return QN_FAIL(err, QN_ENOMEM, "%d traces", traces);
    b->traces = traces;
    for (int32_t i = 0; i < traces; i++) {
        b->trace[i] = (qn_trace){.plan = plan,
                                 .time = qn_calloc((size_t)plan->tasks, sizeof(qn_span_time)),
                                 .cpu = cpu ? qn_calloc((size_t)plan->tasks, sizeof(int64_t)) : NULL};
        if (b->trace[i].time == NULL || (cpu && b->trace[i].cpu == NULL))
            return QN_FAIL(err, QN_ENOMEM, "trace of %d tasks", plan->tasks);
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
    if (o.quick) choose(&o.layers, 2);
    choose(&o.layers, 12);
    choose(&o.heads, pipeline ? 4 : 12);
    choose(&o.kv_heads, o.heads);
    choose(&o.width, pipeline ? 256 : 768);
    choose(&o.context, pipeline ? 128 : 512);
    choose(&o.vocab, pipeline ? 2048 : o.quick ? 4096 : 50257);
    choose(&o.batch, pipeline ? 16 : 4);
    choose(&o.micro_batches, pipeline ? 16 : 1);
    choose(&o.workers, pipeline ? 2 : 1);
    choose(&o.threads, pipeline ? 1 : qn_max32(qn_team_cores() / (int32_t)o.workers, 1));
    return o;
}

qn_bench_options qni_bench_usual(const qn_bench_options *given, qn_bench_options usual)
{
    qn_bench_options o = *given;
    choose(&o.layers, usual.layers);
    choose(&o.heads, usual.heads);
    choose(&o.width, usual.width);
    choose(&o.context, usual.context);
    choose(&o.vocab, usual.vocab);
    choose(&o.batch, usual.batch);
    choose(&o.micro_batches, usual.micro_batches);
    choose(&o.workers, usual.workers);
    return qni_bench_defaults(&o, true);
}

/* Where the stages of the chain begin: by cost, or with as many blocks in each. */
static qn_status cut(qni_bench_run *b, const qn_bench_options *opt, const qni_bench_how *how, qn_err *err)
{
    const int32_t stages = qn_depth(qn_order_grid(b->order)), layers = qn_model_layers(b->model);
    const int64_t samples = (opt->batch + opt->micro_batches - 1) / opt->micro_batches;
    qn_status st = QN_OK;
    b->first_layer = qn_calloc((size_t)stages + 1, sizeof(*b->first_layer));
    if (b->first_layer == NULL) return QN_FAIL(err, QN_ENOMEM, "cuts");
    if (!how->even) st = qn_model_default_cuts(b->model, samples, opt->context, stages, b->first_layer, err);
    for (int32_t s = 1; how->even && s < stages; s++) b->first_layer[s] = 1 + s * (layers - 2) / stages;
    b->first_layer[stages] = layers;
    if (st != QN_OK || how->shift == 0) return st;
    b->first_layer[1] += how->shift;
    if (stages < 2 || b->first_layer[1] < 1 || b->first_layer[1] >= b->first_layer[2])
        return QN_FAIL(err, QN_EINVAL, "a cut before layer %d of %d leaves a stage empty", b->first_layer[1], layers);
    return QN_OK;
}

/* Pieces that a device loads: RoundPipe's stages, or a layer each. room [2 * layers]. */
static qn_status cut_pieces(qni_bench_run *b, qn_pattern *pat, int32_t *room, const qn_bench_options *opt,
                            const qni_bench_how *how, bool round, qn_err *err)
{
    const int32_t L = qn_model_layers(b->model);
    b->first_layer = qn_calloc((size_t)L + 1, sizeof(*b->first_layer));
    if (b->first_layer == NULL) return QN_FAIL(err, QN_ENOMEM, "pieces of %d layers", L);
    if (round && !how->layers) {
        const qni_round_wish wish = {.model = b->model,
                                     .samples = (opt->batch + opt->micro_batches - 1) / opt->micro_batches,
                                     .T = opt->context,
                                     .memory = how->memory,
                                     .costs = how->costs};
        return qni_round_cut(pat, b->first_layer, room, &wish, err);
    }
    pat->pieces = L;
    for (int32_t i = 0; i <= L; i++) b->first_layer[i] = i;
    for (int32_t i = 0; i < L; i++) {
        room[i] = i;
        room[L + i] = 2 * L - 2 - i;
    }
    if (!round) {
        pat->window = how->tiers != NULL ? how->tiers->window : 0;
        pat->window_group = how->tiers != NULL && pat->window > 0 ? how->tiers->replace : 0;
        return QN_OK;
    }
    pat->forward_slot = room;
    pat->backward_slot = room + L;
    return QN_OK;
}

static qn_status open_order(qni_bench_run *b, const qn_bench_options *opt, const qni_bench_how *how, qn_err *err)
{
    const qn_generator *g = qn_generator_find(how->schedule);
    const int32_t usual = g != NULL ? g->usual_chunks : 1;
    const bool round = g != NULL && g->host_state, pieces = round || (g != NULL && g->max_workers == 1);
    int32_t *room = qn_calloc(2 * (size_t)qn_model_layers(b->model), sizeof(*room));
    qn_pattern pattern = {.workers = (int32_t)opt->workers,
                          .items = (int32_t)opt->micro_batches,
                          .chunks = how->chunks > 0 ? how->chunks : usual,
                          .cost = {[QN_OP_F] = how->vocab > 0 ? 1 : 0, [QN_OP_BW] = how->vocab > 0 ? 2 : 0},
                          .vocab = how->vocab,
                          .sides = how->sides};
    qn_status st = room != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "pieces");
    if (st == QN_OK && pieces) st = cut_pieces(b, &pattern, room, opt, how, round, err);
    if (st == QN_OK) st = qn_generate(&b->order, how->schedule, &pattern, err);
    if (st == QN_OK && !pieces) st = cut(b, opt, how, err);
    qn_free(room);
    return st;
}

static qn_status open_trainer(qni_bench_run *b, const qn_bench_options *opt, const qni_bench_how *how, qn_err *err)
{
    static const qn_trainer_tiers resident = {.replace = 1};
    const qn_generator *g = qn_generator_find(how->schedule);
    const bool tiered = how->tiers != NULL || g->host_state || g->max_workers == 1;
    int64_t *limit = how->memory > 0 ? qn_calloc((size_t)opt->workers, sizeof(*limit)) : NULL;
    if (how->memory > 0 && limit == NULL) return QN_FAIL(err, QN_ENOMEM, "limits");
    for (int64_t w = 0; limit != NULL && w < opt->workers; w++) limit[w] = how->memory;
    const qn_trainer_desc desc = {.model = b->model,
                                  .order = b->order,
                                  .first_layer = b->first_layer,
                                  .mode = opt->dtype == 0 ? QN_MODE_F32 : QN_MODE_BF16,
                                  .threads = (int32_t)opt->threads,
                                  .source = b->source,
                                  .hyper = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .clip = 1.0},
                                  .seed = 1,
                                  .arena_limit = limit,
                                  .tiers = !tiered              ? NULL
                                           : how->tiers != NULL ? how->tiers
                                                                : &resident,
                                  .flight = how->flight,
                                  .pin = true};
    qn_team_pin_self(-1); /* threads that are not pinned inherit this */
    const qn_status st = qn_trainer_open(&b->trainer, &desc, err);
    qn_free(limit);
    return st;
}

qn_status qni_bench_open(qni_bench_run *b, const qn_bench_options *opt, const qni_bench_how *how, qn_err *err)
{
    qn_status st;
    memset(b, 0, sizeof(*b));
    static const char *const targets[] = {"q", "v"};
    qn_model_config config = {.arch = (qn_arch)opt->arch,
                              .layers = (int32_t)opt->layers,
                              .heads = (int32_t)opt->heads,
                              .kv_heads = (int32_t)opt->kv_heads,
                              .width = (int32_t)opt->width,
                              .context = (int32_t)opt->context,
                              .vocab = (int32_t)opt->vocab,
                              .tied = opt->arch == QN_ARCH_GPT2};
    if (how->lora > 0) {
        config.lora = (qn_lora){.rank = how->lora, .alpha = how->lora};
        st = qn_lora_targets(&config.lora.targets, config.arch, targets, QN_COUNT(targets), err);
        if (st != QN_OK) return st;
    }
    b->source = qn_calloc(1, sizeof(*b->source));
    if (b->source == NULL) return QN_FAIL(err, QN_ENOMEM, "a source of tokens");
    *b->source = (qn_source){.ops = &random_ops, .T = opt->context, .batch = opt->batch, .vocab = (int32_t)opt->vocab};
    QN_TRY(st, qn_model_open(&b->model, &config, err), out);
    QN_TRY(st, open_order(b, opt, how, err), out);
    QN_TRY(st, open_trainer(b, opt, how, err), out);
    QN_TRY(st, open_traces(b, how->traces, how->flight <= 1, err), out);
out:
    if (st != QN_OK) qni_bench_close(b);
    return st;
}

void qni_bench_close(qni_bench_run *b)
{
    for (int32_t i = 0; i < b->traces; i++) {
        qn_free(b->trace[i].time);
        qn_free(b->trace[i].cpu);
    }
    qn_free(b->trace);
    qn_trainer_close(b->trainer);
    qn_order_close(b->order);
    qn_model_close(b->model);
    qn_free(b->first_layer);
    qn_free(b->source);
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

double qni_spread(const double *x, int32_t n)
{
    const double middle = n < 2 ? 0 : n % 2 ? x[n / 2] : 0.5 * (x[n / 2 - 1] + x[n / 2]);
    return middle > 0 ? (x[n - 1 - n / 4] - x[n / 4]) / middle : 0;
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

/* pair: as it is to be shown. */
static void put_pair(qni_line *l, const char *pair)
{
    const size_t width = strlen(pair), indent = 4;
    if (l->json) {
        put(l, "%s%s", l->used > 1 ? ", " : "", pair);
    } else if (l->column > 0 && l->column + 2 + width > QNI_COLUMNS) {
        put(l, "\n    %s%s", pair, "");
        l->column = indent + width;
    } else {
        put(l, "%s%s", l->column > 0 ? "  " : "", pair);
        l->column += width + (l->column > 0 ? 2 : 0);
    }
}

void qni_line_text(qni_line *l, const char *name, const char *value)
{
    char pair[512];
    snprintf(pair, sizeof(pair), l->json ? "\"%s\": \"%s\"" : "%s %s", name, value);
    put_pair(l, pair);
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
    char pair[256];
    snprintf(pair, sizeof(pair), l->json ? "\"%s\": %s" : "%s %s", name, number);
    put_pair(l, pair);
}

void qni_line_range(qni_line *l, const double *sorted, int32_t n, double in_ms)
{
    if (n < 1) return;
    qni_line_number(l, "least_ms", sorted[0] * in_ms);
    qni_line_number(l, "most_ms", sorted[n - 1] * in_ms);
    qni_line_number(l, "spread", qni_spread(sorted, n));
}

void qni_line_end(qni_line *l, qn_line_fn *line, void *ctx)
{
    if (l->json) put(l, "%s%s", "}", "");
    line(ctx, l->text);
}

void qni_line_claim(qni_line *l, double measured, double predicted, double wanted)
{
    qni_line_number(l, "ratio", measured);
    if (isfinite(predicted)) qni_line_number(l, "predicted", predicted);
    qni_line_number(l, "wanted_at_least", wanted);
    qni_line_text(l, "reached", measured >= wanted ? "yes" : "no");
}

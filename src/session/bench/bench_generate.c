/* quern bench generate: prompts and tokens a second, each beside the ceiling that this machine sets in the same run.
 *
 * decode   a token of each sequence a pass. Ceiling at batch 1: the bytes of all matrices that a pass multiplies with, in their
 *          packed form, read at the rate at which the same threads sum up a large array
 * prefill  rows of prompts. Ceiling: the products of the blocks at the rows of a pass, as oneDNN alone does them
 *
 * The kinds of run take turns, so that a machine whose speed drifts slows all of them. Sampling is part of decoding. */
#include <stdio.h>
#include <string.h>

#include "bench_common.h"
#include "bench_decode.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/compiler.h"
#include "core/team.h"
#include "kernels/dnnl_ceiling.h"
#include "session/load.h"
#include "model/cost.h"
#include "runtime/forward/runner.h"

enum { PROMPT = 32, TOKENS = 32, PREFILL = 256, PASS = 128, READ_MB = 512, PRODUCTS = 16, MOST_RUNS = 1000 };

typedef struct generate_bench {
    qn_bench_options opt;
    qn_model *model;
    float **value;
    void *block;
    size_t block_bytes;
    qn_runner *runner;
    int32_t slots, vocab;
    int32_t *next, *order; /* [slots], [vocab] */
    qn_feed *feed;         /* [slots] */
    uint64_t *array;
    struct {
        int64_t times;
        qni_ceiling *c;
    } product[PRODUCTS];
    int32_t products;
} generate_bench;

/* --- the rate of reading */
typedef uint64_t wide __attribute__((vector_size(64), aligned(64)));

typedef struct read_call {
    const uint64_t *array;
    uint64_t sum[64][8]; /* a cache line a thread */
} read_call;

static void read_part(void *ctx, int32_t thread, int32_t threads)
{
    read_call *c = ctx;
    int64_t begin, end;
    wide sum[4] = {{0}};
    qn_split(&begin, &end, ((int64_t)READ_MB << 20) / (int64_t)sizeof(wide), 4, thread, threads);
    const wide *p = (const wide *)(const void *)c->array;
    for (int64_t i = begin; i < end; i += 4)
        for (int j = 0; j < 4; j++) sum[j] += p[i + j];
    const wide all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    memcpy(c->sum[thread % 64], &all, sizeof(all));
}

/* Bytes a nanosecond. The team lives for the measurement alone: with more threads in all teams than cores nobody spins, and the
 * decoder's threads would be woken through the kernel for every product. */
static qn_status read_rate(double *rate, generate_bench *b, qn_err *err)
{
    read_call call = {.array = b->array};
    qn_team *team;
    const qn_status st = qn_team_open(&team, (int32_t)(b->opt.threads * b->opt.workers), -1, err);
    if (st != QN_OK) return st;
    qn_team_run(team, read_part, &call); /* the threads are there */
    const int64_t from = qn_now_ns();
    qn_team_run(team, read_part, &call);
    *rate = (double)((int64_t)READ_MB << 20) / (double)(qn_now_ns() - from);
    qn_team_close(team);
    return QN_OK;
}

/* --- open and close */

/* Bytes of what products read a pass: matrices as they are packed, without the padding. */
static double weight_bytes(const qn_model *m, int32_t weights)
{
    static const double each[] = {4, 2, 34.0 / 32};
    return (double)qn_model_matmul_params(m) * each[weights];
}

static qn_status open_products(generate_bench *b, qn_err *err)
{
    int64_t size[PRODUCTS][2];
    for (int32_t u = 0; u < qn_model_uses(b->model); u++) {
        const qn_use *use = qn_model_use(b->model, u);
        const qn_param *p = qn_model_param(b->model, use->param);
        if (p->rank != 2 || use->layer == 0 || use->layer + 1 == qn_model_layers(b->model)) continue; /* blocks alone */
        int32_t at = 0;
        while (at < b->products && (size[at][0] != p->dim[0] || size[at][1] != p->dim[1])) at++;
        if (at == PRODUCTS) continue;
        if (at == b->products) {
            const qn_status st = qni_ceiling_open(&b->product[at].c, PASS, p->dim[0], p->dim[1], b->opt.dtype != 0, false,
                                                  (int32_t)(b->opt.threads * b->opt.workers), err);
            if (st != QN_OK) return st;
            size[at][0] = p->dim[0];
            size[at][1] = p->dim[1];
            b->products++;
        }
        b->product[at].times++;
    }
    return QN_OK;
}

static qn_status open_model(generate_bench *b, qn_err *err)
{
    const qn_bench_options *o = &b->opt;
    const qn_model_config config = {.arch = (qn_arch)o->arch,
                                    .layers = (int32_t)o->layers,
                                    .heads = (int32_t)o->heads,
                                    .width = (int32_t)o->width,
                                    .context = (int32_t)o->context,
                                    .vocab = (int32_t)o->vocab,
                                    .tied = o->arch == QN_ARCH_GPT2};
    qn_status st = qn_model_open(&b->model, &config, err);
    if (st == QN_OK) st = qni_values_open(&b->value, &b->block, &b->block_bytes, b->model, err);
    for (int32_t i = 0; st == QN_OK && i < qn_model_params(b->model); i++)
        qn_model_init_param(b->model, i, 1, QN_F32, b->value[i]);
    return st;
}

static qn_status open_runner(generate_bench *b, qn_err *err)
{
    const qn_bench_options *o = &b->opt;
    int32_t *cuts = qn_calloc((size_t)o->workers + 1, sizeof(*cuts));
    if (cuts == NULL) return QN_FAIL(err, QN_ENOMEM, "cuts");
    qn_status st = qn_model_default_cuts(b->model, 1, 1, (int32_t)o->workers, cuts, err);
    const qn_runner_desc d = {.model = b->model,
                              .value = (void *const *)b->value,
                              .first_layer = cuts,
                              .workers = (int32_t)o->workers,
                              .threads = (int32_t)o->threads,
                              .mode = o->dtype == 0 ? QN_MODE_F32 : QN_MODE_BF16,
                              .weights = (qn_weights)(QN_WEIGHTS_F32 + o->weights),
                              .kv = o->dtype == 0 ? QN_F32 : QN_BF16,
                              .B = 1,
                              .T = qn_max64(PASS, b->slots),
                              .cache_len = o->context,
                              .slots = b->slots,
                              .pin = qni_pin(true, o->workers, o->threads)};
    if (st == QN_OK) st = qn_runner_open(&b->runner, &d, err);
    qn_free(cuts);
    return st;
}

static qn_status open_bench(generate_bench *b, qn_err *err)
{
    const qn_bench_options *o = &b->opt;
    qn_status st;
    if (o->context < PREFILL || o->batch > QN_RUNNER_SLOTS)
        return QN_FAIL(err, QN_EINVAL, "a context of %lld and a batch of %lld; at least %d and at most %d are needed",
                       (long long)o->context, (long long)o->batch, PREFILL, QN_RUNNER_SLOTS);
    b->slots = (int32_t)o->batch;
    b->vocab = (int32_t)o->vocab;
    QN_TRY(st, open_model(b, err), out);
    QN_TRY(st, open_runner(b, err), out);
    QN_TRY(st, open_products(b, err), out);
    b->next = qn_calloc((size_t)b->slots, sizeof(*b->next));
    b->order = qn_calloc((size_t)b->vocab, sizeof(*b->order));
    b->feed = qn_calloc((size_t)b->slots, sizeof(*b->feed));
    b->array = qn_alloc_pages((size_t)READ_MB << 20);
    if (b->next == NULL || b->order == NULL || b->feed == NULL || b->array == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for %d MB to read and %d sequences", READ_MB, b->slots);
        goto out;
    }
    for (int64_t i = 0; i < ((int64_t)READ_MB << 20) / 8; i += 512) b->array[i] = 1; /* pages of its own */
out:
    return st;
}

static void close_bench(generate_bench *b)
{
    for (int32_t i = 0; i < b->products; i++) qni_ceiling_close(b->product[i].c);
    qn_free_pages(b->array, (size_t)READ_MB << 20);
    qn_free(b->feed);
    qn_free(b->order);
    qn_free(b->next);
    qn_runner_close(b->runner);
    qni_values_close(b->value, b->block, b->block_bytes);
    qn_model_close(b->model);
}

/* --- runs */

/* Seconds for a prompt of PREFILL tokens, in passes of PASS. */
static qn_status prefill(double *seconds, generate_bench *b, qn_err *err)
{
    int32_t tokens[PASS];
    qn_runner_rewind(b->runner);
    const int64_t from = qn_now_ns();
    for (int32_t at = 0; at < PREFILL; at += PASS) {
        for (int32_t i = 0; i < PASS; i++) tokens[i] = (at + i * 7) % b->vocab;
        qn_feed f = {.logits = at + PASS >= PREFILL, .tokens = tokens, .count = PASS};
        const qn_status st = qn_runner_feed_all(b->runner, &f, 1, err);
        if (st != QN_OK) return st;
    }
    *seconds = (double)(qn_now_ns() - from) * 1e-9;
    return QN_OK;
}

/* Seconds of a pass that gives n sequences a token each: the median of TOKENS passes after a prompt of PROMPT tokens. */
static qn_status decode(double *seconds, generate_bench *b, int32_t n, qn_err *err)
{
    const qn_sampling greedy = {.temperature = 0};
    double pass[TOKENS];
    int32_t prompt[PROMPT];
    qn_runner_rewind(b->runner);
    for (int32_t s = 0; s < n; s++) {
        for (int32_t i = 0; i < PROMPT; i++) prompt[i] = (s * 31 + i) % b->vocab;
        qn_feed f = {.slot = s, .tokens = prompt, .count = PROMPT};
        const qn_status st = qn_runner_feed_all(b->runner, &f, 1, err);
        if (st != QN_OK) return st;
        b->next[s] = s % b->vocab;
    }
    for (int32_t t = 0; t < TOKENS; t++) {
        const int64_t from = qn_now_ns();
        for (int32_t s = 0; s < n; s++) b->feed[s] = (qn_feed){.slot = s, .logits = 1, .tokens = &b->next[s], .count = 1};
        const qn_status st = qn_runner_feed_all(b->runner, b->feed, n, err);
        if (st != QN_OK) return st;
        for (int32_t s = 0; s < n; s++) b->next[s] = qn_sample(b->feed[s].row, b->vocab, &greedy, PROMPT + t, b->order);
        pass[t] = (double)(qn_now_ns() - from) * 1e-9;
    }
    *seconds = qni_median(pass, TOKENS);
    return QN_OK;
}

/* Seconds of the blocks' products of one pass. On threads of the library's own, which take over this thread's affinity. */
static double products_once(generate_bench *b)
{
    double ns = 0;
    for (int32_t i = 0; i < b->products; i++) ns += (double)qni_ceiling_run(b->product[i].c) * (double)b->product[i].times;
    return ns * 1e-9;
}

typedef struct results {
    double read[MOST_RUNS], one[MOST_RUNS], many[MOST_RUNS], prompt[MOST_RUNS], products[MOST_RUNS];
} results;

static qn_status measure(results *r, generate_bench *b, qn_err *err)
{
    const bool pinned = qni_pin(true, b->opt.workers, b->opt.threads);
    const int32_t runs = (int32_t)b->opt.steps;
    for (int32_t i = -1; i < runs; i++) { /* the first is not counted */
        const int32_t at = qn_max32(i, 0);
        qn_status st = decode(&r->one[at], b, 1, err);
        if (st == QN_OK) st = decode(&r->many[at], b, b->slots, err);
        if (st == QN_OK) st = prefill(&r->prompt[at], b, err);
        qn_team_pin_self(-1);
        if (st == QN_OK) st = read_rate(&r->read[at], b, err);
        if (st == QN_OK) r->products[at] = products_once(b);
        if (pinned) qn_team_pin_self(0);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

static void show(results *r, const generate_bench *b, qn_line_fn *line, void *ctx)
{
    static const char *const kinds[] = {"f32", "bf16", "q8"};
    const qn_bench_options *o = &b->opt;
    const int32_t runs = (int32_t)o->steps;
    const double bytes = weight_bytes(b->model, o->weights), read = qni_median(r->read, runs) * 1e9;
    const double one = qni_median(r->one, runs), many = qni_median(r->many, runs), prompt = qni_median(r->prompt, runs);
    const double products = qni_median(r->products, runs) * PREFILL / PASS;
    qni_line l = qni_line_begin(o->json);
    qni_line_text(&l, "dtype", o->dtype == 0 ? "f32" : "bf16");
    qni_line_text(&l, "weights", kinds[o->weights]);
    qni_line_number(&l, "parameters", (double)qn_model_param_count(b->model));
    qni_line_number(&l, "weight_bytes", bytes);
    qni_line_number(&l, "read_gb_per_s", read * 1e-9);
    qni_line_number(&l, "least_gb_per_s", r->read[0]);
    qni_line_number(&l, "most_gb_per_s", r->read[runs - 1]);
    qni_line_number(&l, "spread", qni_spread(r->read, runs));
    qni_line_end(&l, line, ctx);
    l = qni_line_begin(o->json);
    qni_line_text(&l, "decode", "batch 1");
    qni_line_number(&l, "tokens_per_s", 1 / one);
    qni_line_number(&l, "ceiling_tokens_per_s", read / bytes);
    qni_line_number(&l, "ratio", bytes / read / one);
    qni_line_range(&l, r->one, runs, 1e3);
    qni_line_end(&l, line, ctx);
    l = qni_line_begin(o->json);
    qni_line_text(&l, "decode", "batch n");
    qni_line_number(&l, "batch", b->slots);
    qni_line_number(&l, "tokens_per_s", b->slots / many);
    qni_line_number(&l, "times_batch_1", b->slots / many * one);
    qni_line_range(&l, r->many, runs, 1e3);
    qni_line_end(&l, line, ctx);
    l = qni_line_begin(o->json);
    qni_line_text(&l, "prefill", "rows of 128");
    qni_line_number(&l, "tokens_per_s", PREFILL / prompt);
    qni_line_number(&l, "ceiling_tokens_per_s", PREFILL / products);
    qni_line_number(&l, "ratio", products / prompt);
    qni_line_range(&l, r->prompt, runs, 1e3);
    qni_line_end(&l, line, ctx);
}

qn_status qn_bench_generate(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    qn_bench_options opt = qni_bench_defaults(given, false);
    if (given->batch == 0) opt.batch = 16;
    generate_bench b = {.opt = opt};
    results *r = qn_calloc(1, sizeof(*r));
    qn_status st = r != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "results of %lld runs", (long long)opt.steps);
    if (st == QN_OK) st = open_bench(&b, err);
    if (st == QN_OK) st = measure(r, &b, err);
    if (st == QN_OK) show(r, &b, line, ctx);
    if (st == QN_OK && opt.workers == 1) {
        qn_runner_close(b.runner);
        b.runner = NULL;
        st = qni_bench_decode_phases(&opt, 1, b.model, b.value, line, ctx, err);
        if (st == QN_OK && b.slots > 1) st = qni_bench_decode_phases(&opt, b.slots, b.model, b.value, line, ctx, err);
    }
    close_bench(&b);
    qn_free(r);
    return st;
}

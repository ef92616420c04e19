/* Superpipeline (arXiv:2410.08791, reconstructed): one device, its weights on the host, a window of k pieces.
 *
 *   link   the time its weights take on the link, over the time it computes: u/c, for a piece in the middle of the chain
 *   c      measured where the link is as fast as memory, so that packing the weights of each pass counts as computing
 *   simulated   piece_window.h's recurrence with c shared out by operations and bytes / rate
 *
 * Passes of all kinds in turn, medians. On demand is k = 1: a piece is loaded when the one before it has been computed. */
#include "bench_window.h"

#include <math.h>

#include "bench_common.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/clock.h"
#include "core/compiler.h"
#include "core/team.h"
#include "model/cost.h"
#include "runtime/forward/runner.h"
#include "schedule/round/piece_window.h"

enum { RESIDENT = 0, HIDDEN = 1, FIRST = 2, SWEEP = 5, MOST = 40, MOST_STEPS = 64 };
static const double over[SWEEP] = {0.25, 0.5, 1, 2, 4};

typedef struct entry {
    int32_t window;   /* 0: resident without devices */
    double link;      /* u/c; 0: as fast as memory */
    double rate;      /* bytes/s */
    double predicted; /* s */
    double seconds[MOST_STEPS], median, least, most;
    qn_runner *runner;
} entry;

typedef struct bench {
    qn_bench_options opt;
    qn_model *model;
    void **value;     /* [params] */
    int64_t *bytes;   /* [layers] weights */
    int64_t *compute; /* [layers] ns */
    int64_t all_bytes;
    int32_t *tokens;
    entry e[MOST];
    int32_t n;
} bench;

static qn_bench_options sizes(const qn_bench_options *given)
{
    qn_bench_options o =
        qni_bench_usual(given, (qn_bench_options){.layers = 16, .width = 192, .heads = 3, .context = 2048, .vocab = 256});
    o.steps = qn_min64(o.steps, MOST_STEPS);
    return o;
}

static qn_status open_model(bench *b, qn_err *err)
{
    const qn_bench_options *o = &b->opt;
    const qn_model_config config = {.arch = (qn_arch)o->arch,
                                    .layers = (int32_t)o->layers,
                                    .heads = (int32_t)o->heads,
                                    .kv_heads = (int32_t)o->heads,
                                    .width = (int32_t)o->width,
                                    .context = (int32_t)o->context,
                                    .vocab = (int32_t)o->vocab,
                                    .tied = o->arch == QN_ARCH_GPT2};
    qn_status st = qn_model_open(&b->model, &config, err);
    if (st != QN_OK) return st;
    const int32_t params = qn_model_params(b->model), L = qn_model_layers(b->model);
    b->value = qn_calloc((size_t)params, sizeof(void *));
    b->bytes = qn_calloc(2 * (size_t)L, sizeof(*b->bytes));
    b->tokens = qn_calloc((size_t)o->context, sizeof(*b->tokens));
    bool room = b->value != NULL && b->bytes != NULL && b->tokens != NULL;
    b->compute = room ? b->bytes + L : NULL;
    for (int32_t i = 0; i < params && room; i++) {
        const int64_t count = qn_model_param(b->model, i)->count;
        float *x = qn_malloc((size_t)count, sizeof(*x));
        b->value[i] = x;
        room = x != NULL;
        for (int64_t k = 0; k < count && room; k++) x[k] = 0.01F * (float)(k % 7 - 3);
    }
    if (!room) return QN_FAIL(err, QN_ENOMEM, "a model of %d layers", L);
    for (int32_t u = 0; u < qn_model_uses(b->model); u++) {
        const qn_use *use = qn_model_use(b->model, u);
        b->bytes[use->layer] += qn_model_param(b->model, use->param)->count * (int64_t)sizeof(float);
    }
    for (int32_t i = 0; i < L; i++) b->all_bytes += b->bytes[i];
    for (int64_t i = 0; i < o->context; i++) b->tokens[i] = (int32_t)(i * 7 % o->vocab);
    return QN_OK;
}

static qn_status add(bench *b, int32_t window, double link, double rate, qn_err *err)
{
    const int32_t all[] = {0, qn_model_layers(b->model)};
    entry *e = &b->e[b->n];
    *e = (entry){.window = window, .link = link, .rate = rate};
    const qn_runner_tiers tiers = {.window = window, .replace = 1, .link_bytes_per_s = (int64_t)rate};
    const qn_runner_desc d = {.model = b->model,
                              .value = b->value,
                              .first_layer = all,
                              .workers = 1,
                              .threads = (int32_t)b->opt.threads,
                              .mode = QN_MODE_F32,
                              .weights = QN_WEIGHTS_F32,
                              .B = 1,
                              .T = b->opt.context,
                              .cache_len = b->opt.context,
                              .pin = true,
                              .tiers = window > 0 ? &tiers : NULL};
    qn_team_pin_self(-1); /* lanes are to run where the worker does not */
    const qn_status st = qn_runner_open(&e->runner, &d, err);
    if (st == QN_OK) b->n++;
    return st;
}

/* Passes of the entries from `first` on in turn; the first of each is not counted. */
static qn_status run(bench *b, int32_t first, qn_err *err)
{
    const int32_t steps = (int32_t)b->opt.steps;
    const float *logits;
    for (int32_t i = -1; i < steps; i++) {
        for (int32_t k = first; k < b->n; k++) {
            qn_runner_rewind(b->e[k].runner);
            const int64_t began = qn_now_ns();
            const qn_status st = qn_runner_feed(b->e[k].runner, b->tokens, b->opt.context, &logits, err);
            if (st != QN_OK) return st;
            if (i >= 0) b->e[k].seconds[i] = (double)(qn_now_ns() - began) * 1e-9;
        }
    }
    for (int32_t k = first; k < b->n; k++) {
        entry *e = &b->e[k];
        e->median = qni_median(e->seconds, steps);
        e->least = e->seconds[0];
        e->most = e->seconds[steps - 1];
    }
    return QN_OK;
}

/* The compute time of each piece: by operations, of what a pass with hidden transfers takes. */
static void share_out(bench *b)
{
    const int32_t L = qn_model_layers(b->model);
    double sum = 0;
    for (int32_t i = 0; i < L; i++) sum += (double)qn_layer_cost(b->model, i, 1, b->opt.context).forward;
    for (int32_t i = 0; i < L; i++)
        b->compute[i] =
            (int64_t)(b->e[HIDDEN].median * 1e9 * (double)qn_layer_cost(b->model, i, 1, b->opt.context).forward / sum);
}

static qn_status predict(entry *e, const bench *b, qn_err *err)
{
    const int32_t L = qn_model_layers(b->model);
    const qn_window w = {.pieces = L, .resident = qn_min32(e->window, L), .group = 1, .passes = 1};
    qn_window_visit *visit = qn_calloc((size_t)L, sizeof(*visit));
    int64_t *up = qn_calloc((size_t)L, sizeof(*up)), makespan = 0;
    qn_status st = visit != NULL && up != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "window of %d pieces", L);
    for (int32_t i = 0; i < L && st == QN_OK; i++) /* all that fit stay from pass to pass */
        up[i] = w.resident == L ? 0 : (int64_t)((double)b->bytes[i] * 1e9 / e->rate);
    const qn_window_costs c = {.forward = b->compute, .up = up};
    if (st == QN_OK) st = qn_window_plan(visit, &w, err);
    if (st == QN_OK) st = qn_window_makespan(&makespan, NULL, &w, visit, &c, err);
    e->predicted = (double)makespan * 1e-9;
    if (w.resident == L) e->predicted = b->e[RESIDENT].median;
    qn_free(visit);
    qn_free(up);
    return st;
}

static void show(const entry *e, const bench *b, qn_line_fn *line, void *ctx)
{
    const qn_runner_devices d = qn_runner_devices_of(e->runner);
    const double ratio = e->median / e->predicted;
    qni_line l = qni_line_begin(b->opt.json);
    qni_line_text(&l, "superpipe", e->window == 1 ? "on demand" : "window");
    qni_line_number(&l, "pieces", (double)d.pieces);
    qni_line_number(&l, "k", e->window);
    qni_line_number(&l, "link_over_compute", e->link);
    qni_line_number(&l, "link_MB_per_s", e->rate * 1e-6);
    qni_line_number(&l, "arena_over_weights", (double)d.high_water / (double)b->all_bytes);
    qni_line_number(&l, "measured_ms", e->median * 1e3);
    qni_line_number(&l, "simulated_ms", e->predicted * 1e3);
    qni_line_number(&l, "measured_over_simulated", ratio);
    qni_line_number(&l, "least", e->least / e->predicted);
    qni_line_number(&l, "most", e->most / e->predicted);
    qni_line_text(&l, "wanted", "0.9 to 1.1");
    qni_line_text(&l, "reached", ratio >= 0.9 && ratio <= 1.1 ? "yes" : "no");
    qni_line_number(&l, "of_resident_speed", b->e[RESIDENT].median / e->median);
    qni_line_end(&l, line, ctx);
}

static const entry *find(const bench *b, int32_t window, double link)
{
    for (int32_t i = FIRST; i < b->n; i++)
        if (b->e[i].window == window && b->e[i].link == link) return &b->e[i];
    return NULL;
}

static void claim(const bench *b, const char *what, double measured, double predicted, double wanted, qn_line_fn *line, void *ctx)
{
    qni_line l = qni_line_begin(b->opt.json);
    qni_line_text(&l, "claim", what);
    qni_line_claim(&l, measured, predicted, wanted);
    qni_line_end(&l, line, ctx);
}

static void show_claims(const bench *b, qn_line_fn *line, void *ctx)
{
    const entry *naive = find(b, 1, 1), *balance = find(b, 4, 1), *fast = find(b, 4, 0.25), *slow = find(b, 4, 4);
    const qn_runner_devices d = qn_runner_devices_of(find(b, 6, 0.5)->runner),
                            all = qn_runner_devices_of(find(b, b->e[b->n - 1].window, 1)->runner);
    claim(b, "superpipe, k = 4, over loading on demand where the link takes as long as computing",
          naive->median / balance->median, naive->predicted / balance->predicted, 1.7, line, ctx);
    claim(b, "superpipe, k = 4, of resident speed where the link takes a quarter as long as computing",
          b->e[RESIDENT].median / fast->median, b->e[HIDDEN].median / fast->predicted, 0.95, line, ctx);
    claim(b, "superpipe, k = 4, of the link's bandwidth where it takes four times as long as computing",
          (double)b->all_bytes / slow->rate / slow->median, (double)b->all_bytes / slow->rate / slow->predicted, 0.9, line, ctx);
    claim(b, "memory of all weights resident over that of k = 6", (double)all.high_water / (double)d.high_water, NAN, 1 / 0.42,
          line, ctx);
}

static qn_status measure(bench *b, qn_line_fn *line, void *ctx, qn_err *err)
{
    static const int32_t windows[] = {2, 4, 6, 8};
    const int32_t L = qn_model_layers(b->model), middle = L / 2;
    qn_status st;
    QN_TRY(st, add(b, 0, 0, 0, err), out);
    QN_TRY(st, add(b, qn_min32(8, L - 1), 0, 0, err), out);
    QN_TRY(st, run(b, 0, err), out);
    share_out(b);
    const double balance = (double)b->bytes[middle] * 1e9 / (double)b->compute[middle];
    for (int32_t i = 0; i < SWEEP; i++)
        for (size_t k = 0; k < QN_COUNT(windows); k++) QN_TRY(st, add(b, windows[k], over[i], balance / over[i], err), out);
    QN_TRY(st, add(b, 1, 1, balance, err), out);
    QN_TRY(st, add(b, L, 1, balance, err), out);
    QN_TRY(st, run(b, 0, err), out);
    share_out(b);
    for (int32_t i = FIRST; i < b->n; i++) {
        QN_TRY(st, predict(&b->e[i], b, err), out);
        show(&b->e[i], b, line, ctx);
    }
    show_claims(b, line, ctx);
out:
    return st;
}

qn_status qni_bench_window(const qn_bench_options *given, qn_line_fn *line, void *ctx, qn_err *err)
{
    bench *b = qn_calloc(1, sizeof(*b));
    if (b == NULL) return QN_FAIL(err, QN_ENOMEM, "results");
    b->opt = sizes(given);
    qn_status st;
    if (b->opt.layers < 8) {
        st = QN_FAIL(err, QN_EINVAL, "superpipe-window with %lld layers; windows of 8 pieces need at least 8",
                     (long long)b->opt.layers);
        goto out;
    }
    QN_TRY(st, open_model(b, err), out);
    QN_TRY(st, measure(b, line, ctx, err), out);
out:
    for (int32_t i = 0; i < b->n; i++) qn_runner_close(b->e[i].runner);
    for (int32_t i = 0; b->value != NULL && i < qn_model_params(b->model); i++) qn_free(b->value[i]);
    qn_free(b->value);
    qn_free(b->bytes);
    qn_free(b->tokens);
    qn_model_close(b->model);
    qn_free(b);
    return st;
}

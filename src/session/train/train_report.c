/* What a finished run leaves to look at: trace.json, profile.json (costs for the schedule tools), report.html, a sample of text.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"
#include "session/schedules/cost_file.h"
#include "session/schedules/measured.h"
#include "session/report/report.h"
#include "train_run.h"
#include "window.h"

/* The traces that were kept, moved to the front of a list of their own. */
static int32_t kept_traces(qn_trace out[QNI_TRACES], const qni_train_run *r)
{
    int32_t n = 0;
    for (int i = 0; i < QNI_TRACES; i++)
        if (r->traced_ns[i] > 0) out[n++] = r->trace[i];
    return n;
}

typedef struct facts {
    qn_report_fact fact[24];
    char text[24][160];
    int32_t count;
} facts;

static void add_fact(facts *f, const char *name, const char *fmt, ...) QN_PRINTF(3, 4);
static void add_fact(facts *f, const char *name, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(f->text[f->count], sizeof(f->text[0]), fmt, args);
    va_end(args);
    f->fact[f->count] = (qn_report_fact){.name = name, .value = f->text[f->count]};
    f->count++;
}

/* Arenas of the workers: predicted by the plan, and used. */
static void add_arenas(facts *f, const qn_train_done *done)
{
    enum { MOST = 8 };
    char text[256] = "";
    size_t used = 0;
    for (int32_t w = 0; w < done->workers && w < MOST; w++)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%.2f / %.2f", w > 0 ? ", " : "",
                                 (double)done->arena_bytes[w] / (1 << 20), (double)done->arena_high[w] / (1 << 20));
    add_fact(f, "arenas, predicted / used", "%s MB%s", text, done->workers > MOST ? ", ..." : "");
}

static void collect_facts(facts *f, const qni_train_run *r, const qn_train_done *done)
{
    const qn_train_options *o = r->opt;
    const qn_memory mem = qn_trainer_memory(r->trainer);
    const double mb = 1.0 / (1 << 20);
    add_fact(f, "model", "%s, %d layers, %d wide, %d heads, context %d, vocabulary %d",
             r->config.arch == QN_ARCH_GPT2 ? "gpt2" : "llama", r->config.layers, r->config.width, r->config.heads,
             r->config.context, r->config.vocab);
    add_fact(f, "parameters", "%" PRId64, qn_model_param_count(r->model));
    add_fact(f, "text", "%" PRId64 " tokens (%s), the last tenth held out", qn_tokens_count(r->tokens),
             qn_tokenizer_kind(r->tokenizer));
    add_fact(f, "steps", "%" PRId64 " of %" PRId64 "%s", done->steps, o->steps, done->interrupted ? ", interrupted" : "");
    add_fact(f, "batch", "%" PRId64 " samples of %" PRId64 " tokens in %" PRId64 " micro-batches", o->batch, o->context,
             o->micro_batches);
    add_fact(f, "workers", "%" PRId64 " with %" PRId64 " thread%s each", o->workers, o->threads, o->threads == 1 ? "" : "s");
    if (r->order->sides > 0)
        add_fact(f, "schedule", "%s, %d stages, %d vocabulary shards", o->schedule,
                 r->order->columns * qn_depth(qn_order_grid(r->order)), r->order->sides);
    else
        add_fact(f, "schedule", "%s, %d stages", o->schedule, r->order->stages);
    if (o->post_validate)
        add_fact(f, "post-validation", "%" PRId64 " optimizer steps of a stage taken early, %" PRId64 " of them taken back",
                 done->early, done->taken_back);
    add_fact(f, "products in", "%s", o->dtype == 0 ? "f32" : "bf16");
    add_fact(f, "speed", "%.0f tokens/s", done->tokens_per_s);
    if (!done->interrupted) add_fact(f, "validation loss", "%.4f", done->val_loss);
    add_fact(f, "memory",
             "%.1f MB of parameters, gradients and moments; %.1f MB packed weights; %.1f MB activations; %.1f MB scratch",
             (double)(mem.params + mem.grads + mem.moments) * mb, (double)mem.packed * mb, (double)mem.arenas * mb,
             (double)mem.scratch * mb);
    add_arenas(f, done);
}

/* A weight that a stage uses twice is there once; its gradients are one a use. size: [2][depth] weights, gradients. */
static void weigh_stages(int64_t *size, const qni_train_run *r, int32_t depth)
{
    for (int32_t s = 0; s < depth; s++) {
        for (int32_t u = 0; u < qn_model_uses(r->model); u++) {
            const qn_use *use = qn_model_use(r->model, u);
            const qn_param *param = qn_model_param(r->model, use->param);
            bool again = false;
            if (use->layer < r->first_layer[s] || use->layer >= r->first_layer[s + 1]) continue;
            for (int32_t v = 0; v < u; v++) {
                const qn_use *other = qn_model_use(r->model, v);
                again = again || (other->param == use->param && other->layer >= r->first_layer[s]);
            }
            if (!again) size[s] += param->count * (int64_t)sizeof(float);
            if (!param->frozen) size[depth + s] += param->count * (int64_t)sizeof(float);
        }
    }
}

static qn_status write_profile(const char *path, const qni_train_run *r, const qn_trace *traces, int32_t n, qn_err *err)
{
    const int32_t depth = qn_depth(qn_order_grid(r->order));
    int64_t *size = qn_calloc(2 * (size_t)depth, sizeof(*size));
    if (size == NULL) return QN_FAIL(err, QN_ENOMEM, "profile of %d stages", depth);
    weigh_stages(size, r, depth);
    const qn_status st = qni_profile_write(path, traces, n, size, size + depth, err);
    qn_free(size);
    return st;
}

static qn_status read_metrics(qn_report_data *d, const char *path, int64_t steps, qn_metrics_row **rows, int64_t **eval_step,
                              double **eval_loss, qn_err *err)
{
    enum { EVALS = 4096 };
    *rows = qn_calloc((size_t)steps + 1, sizeof(**rows));
    *eval_step = qn_calloc(EVALS, sizeof(**eval_step));
    *eval_loss = qn_calloc(EVALS, sizeof(**eval_loss));
    if (*rows == NULL || *eval_step == NULL || *eval_loss == NULL)
        return QN_FAIL(err, QN_ENOMEM, "metrics of %" PRId64 " steps", steps);
    d->rows = qn_metrics_read(path, *rows, steps, err);
    d->evals = qn_metrics_read_evals(path, *eval_step, *eval_loss, EVALS, err);
    d->row = *rows;
    d->eval_step = *eval_step;
    d->eval_loss = *eval_loss;
    return d->rows < 0 || d->evals < 0 ? QN_EIO : QN_OK;
}

qn_status qni_train_report(qni_train_run *r, qn_train_done *done, qn_err *err)
{
    qn_status st;
    char path[QNI_PATH], title[128];
    facts f = {.count = 0};
    qn_metrics_row *rows = NULL;
    int64_t *eval_step = NULL;
    double *eval_loss = NULL;
    qn_trace simulated = {.time = NULL};
    qn_trace kept[QNI_TRACES];
    const int32_t traces = kept_traces(kept, r);
    const qn_trace *measured = qni_trace_median(kept, traces);
    collect_facts(&f, r, done);
    snprintf(title, sizeof(title), "%s, %d layers, %d wide, on %" PRId64 " worker%s",
             r->config.arch == QN_ARCH_GPT2 ? "gpt2" : "llama", r->config.layers, r->config.width, r->opt->workers,
             r->opt->workers == 1 ? "" : "s");
    qn_report_data d = {.title = title, .fact = f.fact, .facts = f.count, .sample = done->sample};
    QN_TRY(st, qn_path_join(path, sizeof(path), r->opt->out, "metrics.sqlite", err), out);
    QN_TRY(st, read_metrics(&d, path, done->steps, &rows, &eval_step, &eval_loss, err), out);
    if (measured != NULL) {
        simulated.time = qn_calloc((size_t)measured->plan->tasks, sizeof(qn_span_time));
        if (simulated.time == NULL) {
            st = QN_FAIL(err, QN_ENOMEM, "trace of %d tasks", measured->plan->tasks);
            goto out;
        }
        QN_TRY(st, qni_simulate_measured(&simulated, kept, traces, err), out);
        d.measured = measured;
        d.simulated = &simulated;
        QN_TRY(st, qn_path_join(path, sizeof(path), r->opt->out, "trace.json", err), out);
        QN_TRY(st, qn_trace_write_chrome(path, measured, 1000, err), out);
        QN_TRY(st, qn_path_join(path, sizeof(path), r->opt->out, "profile.json", err), out);
        QN_TRY(st, write_profile(path, r, kept, traces, err), out);
    }
    QN_TRY(st, qn_path_join(done->report, sizeof(done->report), r->opt->out, "report.html", err), out);
    QN_TRY(st, qn_report_write(done->report, &d, err), out);
out:
    qn_free(rows);
    qn_free(eval_step);
    qn_free(eval_loss);
    qn_free(simulated.time);
    return st;
}

enum { SAMPLE = 400 }; /* tokens */

/* Draws ids one by one; ids [most] begin with count given ones. */
static qn_status draw(int32_t *ids, int64_t *count, int64_t most, const qni_train_run *r, qni_window *window, qn_err *err)
{
    const int32_t vocab = r->config.vocab;
    qn_status st = QN_OK;
    const qn_sampling how = {.temperature = 0.8, .top_p = 1, .seed = (uint64_t)r->opt->seed};
    int32_t *order = qn_calloc((size_t)vocab, sizeof(*order));
    float *own = qn_calloc((size_t)vocab, sizeof(*own));
    if (order == NULL || own == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "sampling over %d tokens", vocab);
        goto out;
    }
    while (*count < most) {
        const float *logits;
        QN_TRY(st, qni_window_feed(window, ids, *count, &logits, err), out);
        memcpy(own, logits, (size_t)vocab * sizeof(*own));
        ids[*count] = qn_sample(own, qn_tokenizer_vocab(r->tokenizer), &how, *count, order);
        ++*count;
    }
out:
    qn_free(order);
    qn_free(own);
    return st;
}

/* Where a sample starts: after a line break, or where the tokenizer has none, with the first token held out. */
static int32_t first_id(const qni_train_run *r)
{
    int32_t *ids = NULL, first = qn_tokens_at(r->tokens, r->valid.count > 0 ? r->valid.first : 0);
    int64_t count = 0;
    if (qn_tokenizer_encode(&ids, &count, r->tokenizer, "\n", 1, NULL) == QN_OK && count > 0) first = ids[count - 1];
    qn_free(ids);
    return first;
}

/* The sample is made on a device as the run's, which may have to load the model for every token: a few seconds' worth. */
static int64_t sample_tokens(const qn_runner *runner, const qn_runner_tiers *tiers)
{
    enum { SECONDS = 5, LEAST = 32 };
    const qn_runner_devices d = qn_runner_devices_of(runner);
    if (tiers->link_bytes_per_s == 0 || d.pass <= tiers->memory || tiers->memory == 0) return SAMPLE;
    return qn_max64(LEAST, qn_min64(SAMPLE, SECONDS * (tiers->link_bytes_per_s / qn_max64(d.pass, 1))));
}

qn_status qni_train_sample(qni_train_run *r, qn_train_done *done, qn_err *err)
{
    int32_t ids[SAMPLE] = {first_id(r)}, first_layer[2] = {0, qn_model_layers(r->model)};
    int64_t count = 1;
    char *text = NULL;
    size_t bytes = 0;
    qn_runner *runner = NULL;
    const qn_runner_tiers tiers = {.memory = r->device.memory, .link_bytes_per_s = r->device.link_bytes_per_s};
    qn_runner_desc desc = {.model = r->model,
                           .value = (void *const *)r->value,
                           .first_layer = first_layer,
                           .workers = 1,
                           .threads = 1,
                           .mode = QN_MODE_F32,
                           .B = 1,
                           .T = qn_min64(r->opt->context, 128),
                           .cache_len = r->opt->context,
                           .tiers = r->tiered ? &tiers : NULL};
    qn_status st;
    qni_train_views_take(r);
    st = qn_runner_open(&runner, &desc, err);
    for (; st == QN_EINVAL && tiers.memory > 0 && desc.T > 1; st = qn_runner_open(&runner, &desc, err)) desc.T /= 2;
    if (st != QN_OK) goto out;
    const int64_t most = sample_tokens(runner, &tiers);
    qni_window window = {.runner = runner, .cache_len = desc.cache_len, .most = desc.T};
    QN_TRY(st, draw(ids, &count, most, r, &window, err), out);
    QN_TRY(st, qn_tokenizer_decode(&text, &bytes, r->tokenizer, ids, count, err), out);
    const char *from = text + strspn(text, "\n");
    snprintf(done->sample, sizeof(done->sample), "%s", from);
out:
    qn_free(text);
    qn_runner_close(runner);
    return st;
}

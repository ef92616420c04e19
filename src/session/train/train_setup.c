/* From options to a trainer that can take its next step: text, tokens, model, run directory, state. */
#include "train_run.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "core/io.h"
#include "core/log.h"
#include "data/text/text.h"
#include "runtime/checkpoint/peft.h"

/* Settings that must be the same when a run is resumed: they decide the numbers. How the work is spread may differ. */
static const char *const must_fit[] = {
    "tokenizer", "arch",      "layers",       "heads",      "kv-heads",    "width",         "hidden", "context",
    "tied",      "untied",    "batch",        "steps",      "lr",          "min-lr",        "warmup", "beta1",
    "beta2",     "eps",       "weight-decay", "clip",       "dropout",     "micro-batches", "dtype",  "seed",
    "freeze",    "lora-rank", "lora-targets", "lora-alpha", "grad-groups", "optimizer-lag", NULL};

static qn_status check_options(const qn_train_options *o, qn_err *err)
{
    if (o->out == NULL) return QN_FAIL(err, QN_EINVAL, "--out is missing: name the directory for this run");
    if (o->data.count == 0 && !o->resume)
        return QN_FAIL(err, QN_EINVAL, "--data is missing: name one or more text files to learn from");
    if (o->resume && o->force) return QN_FAIL(err, QN_EINVAL, "--resume goes on with a run and --force replaces it; choose one");
    if (o->resume && o->init != NULL && qn_path_exists(o->out) == 0)
        return QN_FAIL(err, QN_EINVAL, "--resume needs an existing run in --out; %s does not exist", o->out);
    if (o->vocab_shards > 0 && o->vocab_parallel == 0)
        return QN_FAIL(err, QN_EINVAL, "--vocab-shards %" PRId64 " needs --vocab-parallel 1 or 2", o->vocab_shards);
    if (o->sequence_parallel && o->tensor < 2)
        return QN_FAIL(err, QN_EINVAL,
                       "--sequence-parallel cuts the tokens between the shards of a layer: it needs --tensor 2 or more");
    if (o->tied && o->untied) return QN_FAIL(err, QN_EINVAL, "--tied and --untied exclude each other");
    if (o->kv_heads != 0 && o->arch == QN_ARCH_GPT2 && o->kv_heads != o->heads)
        return QN_FAIL(err, QN_EINVAL, "--kv-heads %" PRId64 " needs --arch llama; gpt2 has as many key heads as heads",
                       o->kv_heads);
    if (strcmp(o->transport, "thread") != 0 && strcmp(o->transport, "self") != 0)
        return QN_FAIL(err, QN_EINVAL, "--transport is %s; thread or self was wanted", o->transport);
    const int there = qn_path_exists(o->out);
    if (there == 1) return QN_FAIL(err, QN_EEXIST, "--out %s is a file, not a directory", o->out);
    if (there == 2 && !o->resume && !o->force)
        return QN_FAIL(err, QN_EEXIST, "--out %s exists; use --resume to go on with it, --force to replace it, or another name",
                       o->out);
    if (there == 0 && o->resume) return QN_FAIL(err, QN_ENOENT, "--resume: there is no run in %s", o->out);
    return QN_OK;
}

static qn_status open_tokenizer(qni_train_run *r, const char *text, size_t bytes, const char *init_dir, qn_err *err)
{
    const char *name = r->opt->tokenizer;
    qn_status st;
    char path[QNI_PATH];
    if (name == NULL && init_dir != NULL) {
        QN_TRY(st, qn_path_join(path, sizeof(path), init_dir, "tokenizer.json", err), out);
        QN_TRY(st, qn_tokenizer_open(&r->tokenizer, path, err), out);
    } else if (name == NULL || strcmp(name, "chars") == 0) {
        QN_TRY(st, qn_tokenizer_open_chars(&r->tokenizer, text, bytes, err), out);
    } else if (strcmp(name, "bytes") == 0) {
        QN_TRY(st, qn_tokenizer_open_bytes(&r->tokenizer, err), out);
    } else {
        QN_TRY(st, qn_tokenizer_open(&r->tokenizer, name, err), out);
    }
    QN_TRY(st, qn_tokenizer_json(&r->tokenizer_json, &r->tokenizer_bytes, r->tokenizer, err), out);
out:
    return st;
}

/* Tokenizer, tokens and settings of a new run, in a directory beside the one asked for: what is there stays until all is well. */
static qn_status write_tokens(qni_train_run *r, const int32_t *ids, int64_t count, qn_err *err)
{
    char path[QNI_PATH];
    qn_status st;
    if ((size_t)snprintf(r->dir, sizeof(r->dir), "%s.new", r->opt->out) >= sizeof(r->dir))
        return QN_FAIL(err, QN_ERANGE, "the path --out %s is too long", r->opt->out);
    r->is_new = true;
    if (qn_path_exists(r->dir) == 2) QN_TRY(st, qn_remove_tree(r->dir, err), out);
    QN_TRY(st, qn_path_join(path, sizeof(path), r->dir, "checkpoints", err), out);
    QN_TRY(st, qn_make_dirs(path, err), out);
    QN_TRY(st, qn_path_join(path, sizeof(path), r->dir, "tokenizer.json", err), out);
    QN_TRY(st, qn_file_write(path, r->tokenizer_json, r->tokenizer_bytes, err), out);
    QN_TRY(st, qn_path_join(path, sizeof(path), r->dir, "tokens.bin", err), out);
    QN_TRY(st, qn_tokens_write(path, ids, count, qn_tokenizer_vocab(r->tokenizer), err), out);
    QN_TRY(st, qn_path_join(path, sizeof(path), r->dir, "config.json", err), out);
    QN_TRY(st, qn_file_write(path, r->settings, strlen(r->settings), err), out);
out:
    return st;
}

/* The new run takes its place; with --force it replaces what was there. */
static qn_status move_in(qni_train_run *r, qn_err *err)
{
    const qn_status st = qn_replace_dir(r->opt->out, r->dir, err);
    if (st != QN_OK) return st;
    r->is_new = false;
    snprintf(r->dir, sizeof(r->dir), "%s", r->opt->out);
    return QN_OK;
}

/* A new run: everything is checked before the directory is touched. */
static qn_status begin_new(qni_train_run *r, const char *init_dir, qn_err *err)
{
    const qn_train_options *o = r->opt;
    qn_status st;
    char *text = NULL;
    size_t bytes = 0;
    int32_t *ids = NULL;
    int64_t count = 0;
    QN_TRY(st, qn_text_read(&text, &bytes, o->data.item, o->data.count, err), out);
    QN_TRY(st, open_tokenizer(r, text, bytes, init_dir, err), out);
    QN_TRY(st, qni_train_model(r, init_dir, err), out);
    QN_TRY(st, qni_train_plan(r, err), out);
    QN_TRY(st, qn_tokenizer_encode(&ids, &count, r->tokenizer, text, bytes, err), out);
    if (count - count / 10 < o->context + 1) {
        st = QN_FAIL(err, QN_ERANGE, "the text has %" PRId64 " tokens; at least %" PRId64 " are needed for --context %" PRId64,
                     count, (o->context + 1) * 10 / 9 + 1, o->context);
        goto out;
    }
    QN_TRY(st, write_tokens(r, ids, count, err), out);
out:
    qn_free(text);
    qn_free(ids);
    return st;
}

/* The run's own tokenizer and settings. */
static qn_status begin_resumed(qni_train_run *r, const char *checkpoint, qn_err *err)
{
    const qn_train_options *o = r->opt;
    qn_status st;
    char path[QNI_PATH], *saved = NULL;
    size_t bytes = 0;
    QN_TRY(st, qn_path_join(path, sizeof(path), o->out, "config.json", err), out);
    QN_TRY(st, qn_file_read(&saved, &bytes, path, 1 << 20, err), out);
    QN_TRY(st, qni_settings_fit(saved, bytes, &qn_train_table, o, must_fit, err), out);
    if (r->first_step >= o->steps) {
        st = QN_FAIL(err, QN_ESTATE,
                     "the run in %s is finished (%" PRId64 " of %" PRId64
                     " steps); start a new one with --init %s to train further",
                     o->out, r->first_step, o->steps, o->out);
        goto out;
    }
    QN_TRY(st, qn_path_join(path, sizeof(path), o->out, "tokenizer.json", err), out);
    QN_TRY(st, qn_tokenizer_open(&r->tokenizer, path, err), out);
    QN_TRY(st, qn_tokenizer_json(&r->tokenizer_json, &r->tokenizer_bytes, r->tokenizer, err), out);
    QN_TRY(st, qni_train_model_resumed(r, checkpoint, err), out);
    QN_TRY(st, qni_train_plan(r, err), out);
out:
    qn_free(saved);
    return st;
}

static qn_status open_trainer(qni_train_run *r, qn_err *err)
{
    const qn_train_options *o = r->opt;
    qn_status st;
    char path[QNI_PATH];
    QN_TRY(st, qn_path_join(path, sizeof(path), r->dir, "tokens.bin", err), out);
    QN_TRY(st, qn_tokens_open(&r->tokens, path, err), out);
    if (qn_tokens_vocab(r->tokens) > r->config.vocab) {
        st = QN_FAIL(err, QN_EFORMAT, "%s holds tokens up to %d, but the model's vocabulary is %d", path,
                     qn_tokens_vocab(r->tokens), r->config.vocab);
        goto out;
    }
    r->train = qn_tokens_train_part(r->tokens);
    r->valid = qn_tokens_valid_part(r->tokens);
    QN_TRY(st, qn_source_windows(&r->source, r->tokens, r->train, o->context, o->batch, (uint64_t)o->seed, err), out);
    const bool looped = strcmp(o->transport, "self") == 0;
    const qn_trainer_tiers tiers = {.window = r->device.window,
                                    .replace = r->device.replace,
                                    .lag = (int32_t)o->optimizer_lag,
                                    .link_bytes_per_s = r->device.link_bytes_per_s};
    qn_trainer_desc desc = {
        .model = r->model,
        .order = r->order,
        .first_layer = r->first_layer,
        .groups = (int32_t)o->grad_groups,
        .zero1 = o->zero1 != 0,
        .sequence = o->sequence_parallel != 0,
        .recompute = r->recompute.how,
        .recompute_late = r->recompute.late,
        .again = r->recompute.again,
        .post_validate = !o->post_validate ? QN_UNDO_NONE
                         : o->undo == 0    ? QN_UNDO_COPY
                                           : QN_UNDO_IN_PLACE,
        .mode = o->dtype == 0 ? QN_MODE_F32 : QN_MODE_BF16,
        .threads = (int32_t)o->threads,
        .source = r->source,
        .hyper = {.beta1 = o->beta1, .beta2 = o->beta2, .eps = o->eps, .decay = o->weight_decay, .clip = o->clip},
        .seed = (uint64_t)o->seed,
        .arena_limit = r->arena_limit,
        .transport = qn_transport_find(o->transport),
        .driver = looped ? QN_DRIVE_LOOP : QN_DRIVE_THREADS,
        .faults = {.dead_worker = -1},
        .pin = qni_pin(o->pin && !looped, o->workers, o->threads),
        .tiers = r->tiered ? &tiers : NULL,
        .flight = qni_train_flight(r),
        .stop = qni_train_stops,
        .stop_ctx = r,
    };
    st = qn_trainer_open(&r->trainer, &desc, err);
    if (st == QN_EINVAL && qni_train_has_pieces(r) && r->device.memory > 0 &&
        r->order->backward_of != NULL) { /* smaller stages may fit, or be what is said */
        QN_TRY(st, qni_train_tighten(r, err), out);
        desc.order = r->order;
        desc.first_layer = r->first_layer;
        st = qn_trainer_open(&r->trainer, &desc, err);
    }
    if (st == QN_ESCHEDULE && qni_train_adapts(r)) st = qni_train_adapt(r, &desc, err);
    if (st != QN_OK) goto out;
    if (r->tiered) QN_TRY(st, qn_trainer_ready_evaluation(r->trainer, err), out);
    QN_TRY(st, qni_train_views_open(r, err), out);
out:
    return st;
}

static qn_status open_records(qni_train_run *r, qn_err *err)
{
    qn_status st;
    char path[QNI_PATH];
    QN_TRY(st, qn_path_join(path, sizeof(path), r->opt->out, "metrics.sqlite", err), out);
    QN_TRY(st, qn_metrics_open(&r->metrics, path, r->first_step > 0 ? r->first_step : -1, err), out);
    QN_TRY(st, qn_path_join(path, sizeof(path), r->opt->out, "log.jsonl", err), out);
    r->log = fopen(path, "a");
    if (r->log == NULL) st = QN_FAIL(err, QN_EIO, "cannot write %s", path);
out:
    return st;
}

static qn_status open_traces(qni_train_run *r, qn_err *err)
{
    const qn_plan *plan = qn_trainer_plan(r->trainer);
    for (int i = 0; i < QNI_TRACES; i++) {
        r->trace[i] = (qn_trace){.plan = plan, .time = qn_calloc((size_t)plan->tasks, sizeof(qn_span_time))};
        if (r->trace[i].time == NULL) return QN_FAIL(err, QN_ENOMEM, "traces of %d tasks", plan->tasks);
    }
    return QN_OK;
}

static qn_status plain_model_dir(char out[QNI_PATH], const char *path, qn_err *err)
{
    const qn_status st = qni_model_dir(out, path, err);
    if (st != QN_OK || !qn_adapter_is(out)) return st;
    return QN_FAIL(err, QN_EINVAL, "--init %s is an adapter; merge it into its base first: quern convert --lora %s --out DIR",
                   path, path);
}

qn_status qni_train_open(qni_train_run *r, qn_err *err)
{
    r->own = *r->opt;
    r->own.grad_groups = qni_train_groups(r->opt);
    r->opt = &r->own;
    const qn_train_options *o = r->opt;
    qn_status st;
    char start[QNI_PATH] = "";
    QN_TRY(st, check_options(o, err), out);
    QN_TRY(st, qni_settings_json(&r->settings, &qn_train_table, o, err), out);
    if (o->resume) {
        snprintf(r->dir, sizeof(r->dir), "%s", o->out);
        QN_TRY(st, qni_run_newest_checkpoint(start, &r->first_step, o->out, err), out);
        QN_TRY(st, begin_resumed(r, start, err), out);
    } else {
        if (o->init != NULL) QN_TRY(st, plain_model_dir(start, o->init, err), out);
        QN_TRY(st, begin_new(r, o->init != NULL ? start : NULL, err), out);
    }
    QN_TRY(st, open_trainer(r, err), out);
    if (start[0] != '\0') QN_TRY(st, qni_train_load(r, start, err), out);
    QN_TRY(st, open_traces(r, err), out);
    if (r->is_new) QN_TRY(st, move_in(r, err), out);
    QN_TRY(st, open_records(r, err), out);
out:
    return st;
}

void qni_train_run_fini(qni_train_run *r)
{
    if (r->is_new && qn_path_exists(r->dir) == 2 && qn_remove_tree(r->dir, NULL) != QN_OK)
        qn_log(QN_LOG_WARN, "%s could not be removed", r->dir);
    for (int i = 0; i < QNI_TRACES; i++) qn_free(r->trace[i].time);
    qn_metrics_close(r->metrics);
    if (r->log != NULL) fclose(r->log);
    qn_trainer_close(r->trainer);
    if (r->source != NULL) r->source->ops->close(r->source);
    qn_tokens_close(r->tokens);
    qn_order_close(r->order);
    qn_model_close(r->model);
    qn_tokenizer_close(r->tokenizer);
    qni_train_views_close(r);
    qn_free(r->first_layer);
    qni_recompute_fini(&r->recompute);
    qn_free(r->arena_limit);
    qn_free(r->tokenizer_json);
    qn_free(r->settings);
}

qn_status qn_train_adopt(qn_config *config, const char *run, qn_err *err)
{
    /* What belongs to one call and not to the run. */
    static const char *const own[] = {"resume", "force", "out", "init", "data", "cost-from"};
    char path[QNI_PATH], *text = NULL;
    size_t bytes;
    json_t *saved = NULL;
    const char *name;
    json_t *value;
    json_error_t where;
    qn_status st;
    QN_TRY(st, qn_path_join(path, sizeof(path), run, "config.json", err), out);
    if (qn_path_exists(path) != 1) {
        st = QN_FAIL(err, QN_ENOENT, "--resume: there is no run in %s", run);
        goto out;
    }
    QN_TRY(st, qn_file_read(&text, &bytes, path, 1 << 20, err), out);
    saved = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    if (!json_is_object(saved)) {
        st = QN_FAIL(err, QN_EFORMAT, "%s, line %d: %s", path, where.line, where.text);
        goto out;
    }
    const bool respread = qn_config_given(config, "workers") || qn_config_given(config, "schedule") ||
                          qn_config_given(config, "chunks") || qn_config_given(config, "tensor") ||
                          qn_config_given(config, "data-parallel");
    json_object_foreach(saved, name, value)
    {
        if (respread && strcmp(name, "cuts") == 0) continue; /* they were for other stages */
        if (qn_config_given(config, "schedule") && strcmp(name, "group") == 0) continue;
        if (qn_config_given(config, "tensor") && strcmp(name, "sequence-parallel") == 0) continue; /* said anew with it */
        bool skip = qn_config_given(config, name) || !json_is_string(value);
        for (size_t i = 0; i < QN_COUNT(own); i++) skip |= strcmp(own[i], name) == 0;
        if (skip || json_string_length(value) == 0) continue;
        QN_TRY(st, qn_config_set(config, name, json_string_value(value), err), out);
    }
out:
    json_decref(saved);
    qn_free(text);
    return st;
}

/* Reading a model directory. */
#include "load.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"
#include "core/team.h"
#include "gguf_model.h"
#include "run_dir.h"
#include "runtime/checkpoint/peft.h"

qn_status qni_model_dir(char out[QNI_PATH], const char *path, qn_err *err)
{
    if (qn_path_exists(path) != 2)
        return QN_FAIL(err, QN_ENOENT,
                       "%s is no directory; a model directory (config.json, model.safetensors) or a run was wanted", path);
    qn_status st = qni_run_newest_checkpoint(out, NULL, path, err);
    if (st != QN_ENOENT) return st;
    if (!qn_checkpoint_is(path) && !qn_adapter_is(path))
        return QN_FAIL(err, QN_ENOENT, "%s holds neither a config.json nor an adapter_config.json nor checkpoints of a run",
                       path);
    if ((size_t)snprintf(out, QNI_PATH, "%s", path) >= QNI_PATH) return QN_FAIL(err, QN_ERANGE, "the path %s is too long", path);
    return QN_OK;
}

bool qni_pin(bool allowed, int64_t workers, int64_t threads)
{
    return allowed && workers * threads >= qn_team_cores();
}

qn_status qni_values_open(float ***value, void **block, size_t *bytes, const qn_model *m, qn_err *err)
{
    const int32_t n = qn_model_params(m);
    size_t total = 0;
    for (int32_t i = 0; i < n; i++) {
        size_t one;
        if (!qn_mul_size(&one, (size_t)qn_model_param(m, i)->count, sizeof(float)) || !qn_align_size(&one, one, 64) ||
            !qn_add_size(&total, total, one))
            return QN_FAIL(err, QN_ERANGE, "the model's parameters do not fit into memory");
    }
    *value = qn_calloc((size_t)n, sizeof(float *));
    *block = qn_alloc_pages(total);
    *bytes = total;
    if (*value == NULL || *block == NULL) {
        qni_values_close(*value, *block, total);
        *value = NULL;
        *block = NULL;
        return QN_FAIL(err, QN_ENOMEM, "the model's parameters need %zu bytes", total);
    }
    char *at = *block;
    for (int32_t i = 0; i < n; i++) {
        (*value)[i] = (float *)(void *)at;
        at += ((size_t)qn_model_param(m, i)->count * sizeof(float) + 63) & ~(size_t)63;
    }
    return QN_OK;
}

void qni_values_close(float **value, void *block, size_t bytes)
{
    qn_free(value);
    qn_free_pages(block, bytes);
}

static bool only_adapter(const char *dir)
{
    return qn_adapter_is(dir) && !qn_checkpoint_is(dir);
}

/* Where the model is and where its adapter ("" for none). */
static qn_status find_dirs(char model[QNI_PATH], char adapter[QNI_PATH], const char *path, const char *lora, qn_err *err)
{
    char base[QNI_PATH];
    qn_status st;
    adapter[0] = '\0';
    if (lora != NULL) {
        QN_TRY(st, qni_model_dir(adapter, lora, err), out);
        if (!qn_adapter_is(adapter)) return QN_FAIL(err, QN_ENOENT, "%s holds no adapter (adapter_config.json)", adapter);
    }
    if (path != NULL) {
        QN_TRY(st, qni_model_dir(model, path, err), out);
        if (!only_adapter(model)) return QN_OK;
        if (lora != NULL) return QN_FAIL(err, QN_EINVAL, "both %s and %s are adapters; one can be merged at a time", path, lora);
        memcpy(adapter, model, QNI_PATH);
    }
    QN_TRY(st, qn_adapter_base(base, sizeof(base), adapter, err), out);
    if (base[0] == '\0' || qn_path_exists(base) != 2)
        return QN_FAIL(err, QN_ENOENT,
                       "the adapter %s names '%s' as its base model, which is no directory here; name the base with "
                       "--model and the adapter with --lora",
                       adapter, base);
    st = qni_model_dir(model, base, err);
out:
    return st;
}

/* The tokenizer in either place; the adapter's was trained with. */
static qn_status find_tokenizer(char file[QNI_PATH], const char *model, const char *adapter, qn_err *err)
{
    qn_status st = qn_path_join(file, QNI_PATH, adapter[0] != '\0' ? adapter : model, "tokenizer.json", err);
    if (st == QN_OK && adapter[0] != '\0' && qn_path_exists(file) != 1)
        st = qn_path_join(file, QNI_PATH, model, "tokenizer.json", err);
    return st;
}

/* Model, values and tokenizer out of one GGUF file. A file without a tokenizer gives none. */
static qn_status load_gguf(qni_loaded *out, const char *path, qn_err *err)
{
    qn_status st;
    qn_model_config config;
    qn_gguf *f = NULL;
    snprintf(out->dir, QNI_PATH, "%s", path);
    QN_TRY(st, qn_gguf_open(&f, path, err), out);
    QN_TRY(st, qni_gguf_config(&config, f, err), out);
    QN_TRY(st, qn_model_open(&out->model, &config, err), out);
    QN_TRY(st, qni_values_open(&out->value, &out->block, &out->block_bytes, out->model, err), out);
    QN_TRY(st, qni_gguf_values(out->value, out->model, f, err), out);
    if (!qn_gguf_has(f, "tokenizer.ggml.model")) goto out;
    QN_TRY(st, qn_gguf_tokenizer(&out->tokenizer, f, err), out);
    if (qn_tokenizer_vocab(out->tokenizer) > config.vocab)
        st = QN_FAIL(err, QN_EFORMAT, "%s has a tokenizer of %d tokens, but the model's vocabulary is %d", path,
                     qn_tokenizer_vocab(out->tokenizer), config.vocab);
out:
    qn_gguf_close(f);
    return st;
}

static qn_status load_tokenizer(qni_loaded *out, const char *adapter, qn_err *err)
{
    char file[QNI_PATH];
    const int32_t vocab = qn_model_config_of(out->model)->vocab;
    qn_status st = find_tokenizer(file, out->dir, adapter, err);
    if (st != QN_OK || qn_path_exists(file) != 1) return st;
    st = qn_tokenizer_open(&out->tokenizer, file, err);
    if (st == QN_OK && qn_tokenizer_vocab(out->tokenizer) > vocab)
        st = QN_FAIL(err, QN_EFORMAT, "%s has %d tokens, but the model's vocabulary is %d", file,
                     qn_tokenizer_vocab(out->tokenizer), vocab);
    return st;
}

qn_status qni_load_bare(qni_loaded *out, const char *path, qn_err *err)
{
    qn_status st;
    qn_model_config config;
    memset(out, 0, sizeof(*out));
    if (qn_gguf_is(path)) {
        st =
            QN_FAIL(err, QN_EINVAL, "%s is a GGUF file; weights are read piece by piece from a directory with safetensors", path);
        goto out;
    }
    QN_TRY(st, qni_model_dir(out->dir, path, err), out);
    if (only_adapter(out->dir)) {
        st = QN_FAIL(err, QN_EINVAL,
                     "%s is an adapter, which is merged in memory; merge it into a model first (quern convert --lora)", path);
        goto out;
    }
    QN_TRY(st, qn_checkpoint_read_config(&config, out->dir, err), out);
    QN_TRY(st, qn_model_open(&out->model, &config, err), out);
    st = load_tokenizer(out, "", err);
out:
    if (st != QN_OK) {
        qni_load_fini(out);
        memset(out, 0, sizeof(*out));
    }
    return st;
}

qn_status qni_load(qni_loaded *out, const char *path, const char *lora, qn_err *err)
{
    qn_status st;
    qn_model_config config;
    char adapter[QNI_PATH];
    memset(out, 0, sizeof(*out));
    if (path != NULL && qn_gguf_is(path)) {
        st = load_gguf(out, path, err);
        if (st == QN_OK && lora != NULL) {
            const qn_state_view merged = {.model = out->model, .value = out->value};
            QN_TRY(st, qni_model_dir(adapter, lora, err), out);
            st = qn_adapter_merge(adapter, &merged, err);
        }
        goto out;
    }
    QN_TRY(st, find_dirs(out->dir, adapter, path, lora, err), out);
    QN_TRY(st, qn_checkpoint_read_config(&config, out->dir, err), out);
    QN_TRY(st, qn_model_open(&out->model, &config, err), out);
    QN_TRY(st, qni_values_open(&out->value, &out->block, &out->block_bytes, out->model, err), out);
    const qn_state_view view = {.model = out->model, .value = out->value};
    QN_TRY(st, qn_checkpoint_read(out->dir, &view, err), out);
    if (adapter[0] != '\0') QN_TRY(st, qn_adapter_merge(adapter, &view, err), out);
    st = load_tokenizer(out, adapter, err);
out:
    if (st != QN_OK) {
        qni_load_fini(out);
        memset(out, 0, sizeof(*out));
    }
    return st;
}

void qni_load_fini(qni_loaded *l)
{
    qni_values_close(l->value, l->block, l->block_bytes);
    qn_tokenizer_close(l->tokenizer);
    qn_model_close(l->model);
}

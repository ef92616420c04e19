/* Reading a model directory. */
#include "load.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"
#include "core/team.h"
#include "run_dir.h"
#include "runtime/checkpoint.h"

qn_status qni_model_dir(char out[QNI_PATH], const char *path, qn_err *err)
{
    if (qn_path_exists(path) != 2)
        return QN_FAIL(err, QN_ENOENT,
                       "%s is no directory; a model directory (config.json, model.safetensors) or a run was wanted", path);
    qn_status st = qni_run_newest_checkpoint(out, NULL, path, err);
    if (st != QN_ENOENT) return st;
    QN_TRY(st, qn_path_join(out, QNI_PATH, path, "config.json", err), out);
    if (qn_path_exists(out) != 1) return QN_FAIL(err, QN_ENOENT, "%s holds neither a config.json nor checkpoints of a run", path);
    if ((size_t)snprintf(out, QNI_PATH, "%s", path) >= QNI_PATH) return QN_FAIL(err, QN_ERANGE, "the path %s is too long", path);
    st = QN_OK;
out:
    return st;
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

qn_status qni_load(qni_loaded *out, const char *path, qn_err *err)
{
    qn_status st;
    qn_model_config config;
    char file[QNI_PATH];
    memset(out, 0, sizeof(*out));
    QN_TRY(st, qni_model_dir(out->dir, path, err), out);
    QN_TRY(st, qn_checkpoint_read_config(&config, out->dir, err), out);
    QN_TRY(st, qn_model_open(&out->model, &config, err), out);
    QN_TRY(st, qni_values_open(&out->value, &out->block, &out->block_bytes, out->model, err), out);
    const qn_state_view view = {.model = out->model, .value = out->value};
    QN_TRY(st, qn_checkpoint_read(out->dir, &view, err), out);
    QN_TRY(st, qn_path_join(file, sizeof(file), out->dir, "tokenizer.json", err), out);
    if (qn_path_exists(file) == 1) {
        QN_TRY(st, qn_tokenizer_open(&out->tokenizer, file, err), out);
        if (qn_tokenizer_vocab(out->tokenizer) > config.vocab)
            st = QN_FAIL(err, QN_EFORMAT, "%s has %d tokens, but the model's vocabulary is %d", file,
                         qn_tokenizer_vocab(out->tokenizer), config.vocab);
    }
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

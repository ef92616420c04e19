/* Checkpoints. Tensors stream between the homes and the file in pieces, so there is never a second copy of the model.
 *
 * Writing goes to DIR.tmp and ends with one exchange of names; any failure before it removes DIR.tmp and leaves DIR alone.
 * GPT-2's matrices lie transposed in the file (Conv1D holds [in, out], memory holds [out, in]); everything of Quern's own is
 * written as it lies in memory. */
#include "checkpoint.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint_parts.h"
#include "checkpoint_compact.h"
#include "checkpoint_stream.h"
#include "checkpoint_tile.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/io.h"
#include "data/safetensors/safetensors.h"
#include "hf_config.h"

enum { CONFIG_LIMIT = 16 << 20, STATE_LIMIT = 64 << 20 };
#define DEFAULT_SHARD_BYTES ((size_t)4 << 30)

/* --- writing tensors */

/* Elements [first, first + count) of the transpose of w [O, I] as the file holds it, [I, O]. Whole rows of the file go in bands,
 * so that a line of w is read for all of them. */
static void copy_transposed(float *to, const float *w, int64_t O, int64_t I, int64_t first, int64_t count)
{
    int64_t done = 0;
    while (done < count) {
        const int64_t e = first + done, row = e / O, column = e % O;
        if (column != 0 || count - done < O) { /* part of a row */
            const int64_t n = qn_min64(O - column, count - done);
            for (int64_t i = 0; i < n; i++) to[done + i] = w[(column + i) * I + row];
            done += n;
            continue;
        }
        const int64_t rows = qn_min64(QNI_TILE, (count - done) / O);
        for (int64_t o = 0; o < O; o += QNI_TILE)
            qni_copy_tile(to + done + o, O, w + o * I + row, I, rows, qn_min64(QNI_TILE, O - o));
        done += rows * O;
    }
}

/* The parameters that a file holds. */
typedef struct param_list {
    const qn_state_view *state;
    int32_t *param;
    int32_t count;
} param_list;

static qn_status fill_values(void *ctx, int32_t i, int64_t first, int64_t count, void *to, qn_err *err)
{
    const param_list *list = ctx;
    const float *value = list->state->value[list->param[i]];
    const qn_param *p = qn_model_param(list->state->model, list->param[i]);
    (void)err;
    if (p->file_transposed)
        copy_transposed(to, value, p->dim[0], p->dim[1], first, count);
    else
        memcpy(to, value + first, (size_t)count * sizeof(float));
    return QN_OK;
}

static qn_status fill_moments(void *ctx, int32_t i, int64_t first, int64_t count, void *to, qn_err *err)
{
    const param_list *list = ctx;
    float *const *from = i % 2 == 0 ? list->state->m : list->state->v;
    (void)err;
    memcpy(to, from[list->param[i / 2]] + first, (size_t)count * sizeof(float));
    return QN_OK;
}

qn_shape qni_file_shape(const qn_param *p)
{
    qn_shape s = {.rank = p->rank, .dim = {p->dim[0], p->dim[1]}};
    if (p->file_transposed) {
        s.dim[0] = p->dim[1];
        s.dim[1] = p->dim[0];
    }
    return s;
}

/* A file of the parameters in list, copies tensors each, named prefix NAME suffix[copy]. */
static qn_status write_tensors(const char *dir, const char *base, param_list *list, int32_t copies, const char *prefix,
                               const char *const *suffix, size_t shard_bytes, qn_err *err)
{
    enum { NAME = QNI_TENSOR_NAME + 2 };
    const int32_t n = copies * list->count;
    qn_tensor_desc *desc = qn_calloc((size_t)n, sizeof(*desc));
    char(*name)[NAME] = qn_calloc((size_t)n, NAME);
    qn_status st = QN_OK;
    if ((desc == NULL || name == NULL) && n > 0) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for the list of %d tensors", (int)n);
        goto out;
    }
    for (int32_t i = 0; i < n; i++) {
        const qn_param *p = qn_model_param(list->state->model, list->param[i / copies]);
        const qn_shape own = {.rank = p->rank, .dim = {p->dim[0], p->dim[1]}};
        snprintf(name[i], NAME, "%s%s%s", prefix, p->name, suffix[i % copies]);
        desc[i] = (qn_tensor_desc){.name = name[i], .dtype = QN_F32, .shape = copies == 1 ? qni_file_shape(p) : own};
    }
    st = qn_safetensors_write(dir, base, desc, n, shard_bytes, copies == 1 ? fill_values : fill_moments, list, err);
out:
    qn_free(name);
    qn_free(desc);
    return st;
}

/* Values: of a model with adapters those alone; of a plain model all. Moments: of all that have some. */
static qn_status write_state(const char *dir, const qn_state_view *s, bool moments, size_t shard_bytes, qn_err *err)
{
    static const char *const none[] = {""}, *const both[] = {".m", ".v"};
    const bool adapters = qn_model_config_of(s->model)->lora.rank > 0;
    const int32_t n = qn_model_params(s->model);
    param_list list = {.state = s, .param = qn_calloc((size_t)n, sizeof(*list.param))};
    if (list.param == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the list of %d parameters", (int)n);
    for (int32_t p = 0; p < n; p++)
        if (moments ? s->m[p] != NULL : !adapters || qn_model_param(s->model, p)->adapter) list.param[list.count++] = p;
    const qn_status st = moments    ? write_tensors(dir, "optimizer", &list, 2, "", both, 0, err)
                         : adapters ? write_tensors(dir, "adapter_model", &list, 1, QNI_ADAPTER_PREFIX, none, 0, err)
                                    : write_tensors(dir, "model", &list, 1, "", none, shard_bytes, err);
    qn_free(list.param);
    return st;
}

/* --- writing the directory */
static qn_status write_text(const char *dir, const char *name, const char *text, size_t bytes, qn_err *err)
{
    char path[PATH_MAX];
    const qn_status st = qn_path_join(path, sizeof(path), dir, name, err);
    return st != QN_OK ? st : qn_file_write(path, text, bytes, err);
}

static bool is_compact(const qn_checkpoint_desc *d)
{
    return d->store == QN_WEIGHTS_BF16 || d->store == QN_WEIGHTS_Q8;
}

static qn_status write_texts(const char *dir, const qn_state_view *s, const qn_checkpoint_desc *d, qn_err *err)
{
    const qn_model_config *c = qn_model_config_of(s->model);
    const bool adapters = c->lora.rank > 0;
    char *text = NULL;
    qn_status st =
        adapters ? qni_adapter_config_text(&text, c, d->base_model, err) : qni_hf_config_text(&text, c, d->bos, d->eos, err);
    if (st == QN_OK && !adapters && is_compact(d)) st = qni_compact_config(&text, d->store, err);
    if (st == QN_OK) st = write_text(dir, adapters ? "adapter_config.json" : "config.json", text, strlen(text), err);
    qn_free(text);
    if (st != QN_OK) return st;
    text = NULL;
    if (!adapters) st = qni_hf_generation_text(&text, d->bos, d->eos, err);
    if (st == QN_OK && text != NULL) st = write_text(dir, "generation_config.json", text, strlen(text), err);
    qn_free(text);
    if (st != QN_OK || d->tokenizer_json == NULL) return st;
    text = NULL;
    st = qni_hf_tokenizer_text(&text, c, d->tokenizer_json, d->tokenizer_bytes, d->bos, d->eos, err);
    if (st == QN_OK) st = write_text(dir, "tokenizer_config.json", text, strlen(text), err);
    qn_free(text);
    return st != QN_OK ? st : write_text(dir, "tokenizer.json", d->tokenizer_json, d->tokenizer_bytes, err);
}

static qn_status write_into(const char *dir, const qn_state_view *s, const qn_checkpoint_desc *d, qn_err *err)
{
    char own[PATH_MAX];
    const bool moments = s->m != NULL && s->v != NULL;
    qn_status st = qn_make_dirs(dir, err);
    if (st == QN_OK) st = write_texts(dir, s, d, err);
    const size_t shard_bytes = d->shard_bytes != 0 ? d->shard_bytes : DEFAULT_SHARD_BYTES;
    const bool compact = is_compact(d) && qn_model_config_of(s->model)->lora.rank == 0;
    if (st == QN_OK)
        st = compact ? qni_write_compact(dir, s, d->store, shard_bytes, err) : write_state(dir, s, false, shard_bytes, err);
    if (st != QN_OK || (!moments && d->state_json == NULL)) return st;
    st = qn_path_join(own, sizeof(own), dir, "quern", err);
    if (st == QN_OK) st = qn_make_dirs(own, err);
    if (st == QN_OK && moments) st = write_state(own, s, true, 0, err);
    if (st == QN_OK && d->state_json != NULL) st = write_text(own, "state.json", d->state_json, strlen(d->state_json), err);
    return st;
}

qn_status qn_checkpoint_write(const char *dir, const qn_state_view *state, const qn_checkpoint_desc *desc, qn_err *err)
{
    char tmp[PATH_MAX];
    const int n = snprintf(tmp, sizeof(tmp), "%s.tmp", dir);
    if (n < 0 || (size_t)n >= sizeof(tmp)) return QN_FAIL(err, QN_EINVAL, "the path %s is too long for a checkpoint", dir);
    qn_status st = qn_remove_tree(tmp, err); /* what an interrupted write left */
    if (st == QN_OK) st = write_into(tmp, state, desc, err);
    if (st == QN_OK) st = qn_replace_dir(dir, tmp, err);
    if (st != QN_OK && qn_remove_tree(tmp, NULL) != QN_OK) return st; /* the first failure is the one to tell */
    return st;
}

/* --- reading */
qn_status qni_join_existing(char *path, size_t cap, const char *dir, const char *name, qn_err *err)
{
    const qn_status st = qn_path_join(path, cap, dir, name, err);
    if (st != QN_OK) return st;
    if (qn_path_exists(path) == 1) return QN_OK;
    return QN_FAIL(err, QN_ENOENT, "%s does not exist; a directory with %s is needed", path, name);
}

bool qn_checkpoint_is(const char *dir)
{
    char path[PATH_MAX];
    return qn_path_join(path, sizeof(path), dir, "config.json", NULL) == QN_OK && qn_path_exists(path) == 1;
}

qn_status qn_checkpoint_read_config(qn_model_config *out, const char *dir, qn_err *err)
{
    char path[PATH_MAX], *text = NULL;
    size_t bytes = 0;
    qn_status st = qni_join_existing(path, sizeof(path), dir, "config.json", err);
    if (st == QN_OK) st = qn_file_read(&text, &bytes, path, CONFIG_LIMIT, err);
    if (st == QN_OK) st = qni_hf_config_parse(out, text, bytes, path, err);
    qn_free(text);
    return st;
}

qn_status qn_checkpoint_read_state(char **out, size_t *bytes, const char *dir, qn_err *err)
{
    char path[PATH_MAX];
    *out = NULL;
    *bytes = 0;
    const qn_status st = qni_join_existing(path, sizeof(path), dir, "quern/state.json", err);
    return st != QN_OK ? st : qn_file_read(out, bytes, path, STATE_LIMIT, err);
}

static const char *without_prefix(const char *name)
{
    static const char *const prefix[] = {"transformer.", "model."};
    for (size_t i = 0; i < QN_COUNT(prefix); i++)
        if (strncmp(name, prefix[i], strlen(prefix[i])) == 0) return name + strlen(prefix[i]);
    return name;
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* Tensors of a file that are no parameters: masks and tables that old versions saved, and the head of a tied model. */
static bool is_known_buffer(const qn_model *m, const char *name)
{
    return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias") || ends_with(name, ".rotary_emb.inv_freq") ||
           (qn_model_config_of(m)->tied && strcmp(name, "lm_head.weight") == 0);
}

static void shape_text(char *buf, size_t cap, const qn_shape *s)
{
    size_t used = (size_t)snprintf(buf, cap, "[");
    for (int32_t i = 0; i < s->rank && used < cap; i++)
        used += (size_t)snprintf(buf + used, cap - used, "%s%lld", i > 0 ? ", " : "", (long long)s->dim[i]);
    if (used < cap) snprintf(buf + used, cap - used, "]");
}

qn_status qni_find_tensor(const qn_tensor_view **out, const qn_safetensors *f, const char *dir, const char *name,
                          const qn_shape *want, qn_err *err)
{
    char found[128], wanted[128];
    const qn_tensor_view *t = qn_safetensors_find(f, name);
    if (t == NULL) t = qn_safetensors_find(f, without_prefix(name));
    shape_text(wanted, sizeof(wanted), want);
    if (t == NULL)
        return QN_FAIL(err, QN_EFORMAT, "%s: tensor '%s' is missing among %d tensors; wanted: shape %s", dir, name,
                       (int)qn_safetensors_count(f), wanted);
    bool same = t->shape.rank == want->rank;
    for (int32_t i = 0; same && i < want->rank; i++) same = t->shape.dim[i] == want->dim[i];
    if (!same) {
        shape_text(found, sizeof(found), &t->shape);
        return QN_FAIL(err, QN_EFORMAT, "%s: tensor '%s' has shape %s; wanted: %s", dir, t->name, found, wanted);
    }
    if (t->dtype != QN_F32 && t->dtype != QN_F16 && t->dtype != QN_BF16)
        return QN_FAIL(err, QN_EFORMAT, "%s: tensor '%s' has type %s; wanted: f32, f16 or bf16", dir, t->name,
                       qn_dtype_name(t->dtype));
    *out = t;
    return QN_OK;
}

qn_status qni_refuse_unknown(const qn_safetensors *f, const qn_model *m, const char *dir, qn_err *err)
{
    for (int32_t i = 0; i < qn_safetensors_count(f); i++) {
        const char *name = qn_safetensors_at(f, i)->name;
        bool known = is_known_buffer(m, name);
        for (int32_t p = 0; p < qn_model_params(m) && !known; p++) {
            const char *want = qn_model_param(m, p)->name;
            known = strcmp(name, want) == 0 || strcmp(name, without_prefix(want)) == 0 || qni_is_scale_of(name, want);
        }
        if (!known)
            return QN_FAIL(err, QN_EFORMAT,
                           "%s: tensor '%s' is no parameter of the model that config.json describes; wanted: its %d tensors only",
                           dir, name, (int)qn_model_params(m));
    }
    return QN_OK;
}

static qn_status list_of(qni_stream_item **out, int32_t most, qn_err *err)
{
    *out = qn_calloc((size_t)most + 1, sizeof(**out));
    return *out == NULL ? QN_FAIL(err, QN_ENOMEM, "no memory for the list of %d tensors", (int)most) : QN_OK;
}

static qn_status read_values(const char *dir, const qn_state_view *s, qn_err *err)
{
    qn_safetensors *f = NULL;
    qni_stream_item *item = NULL;
    int32_t items = 0;
    qn_status st;
    QN_TRY(st, list_of(&item, qn_model_params(s->model), err), out);
    QN_TRY(st, qn_safetensors_open(&f, dir, err), out);
    QN_TRY(st, qni_refuse_unknown(f, s->model, dir, err), out);
    for (int32_t i = 0; i < qn_model_params(s->model); i++) {
        const qn_param *p = qn_model_param(s->model, i);
        const qn_shape shape = qni_file_shape(p);
        qni_stream_item *next = &item[items];
        if (p->adapter) continue; /* the base has none */
        if (qni_has_q8(f, p)) {
            QN_TRY(st, qni_read_q8(s->value[i], f, p, err), out);
            continue;
        }
        QN_TRY(st, qni_find_tensor(&next->tensor, f, dir, p->name, &shape, err), out);
        next->to = s->value[i];
        if (p->file_transposed) {
            next->O = p->dim[0];
            next->I = p->dim[1];
        }
        items++;
    }
    st = qni_stream_tensors(item, items, err);
out:
    qn_safetensors_close(f);
    qn_free(item);
    return st;
}

qn_status qni_read_moments(const char *dir, const qn_state_view *s, qn_err *err)
{
    char path[PATH_MAX];
    qn_safetensors *f = NULL;
    qni_stream_item *item = NULL;
    int32_t items = 0;
    qn_status st;
    QN_TRY(st, list_of(&item, 2 * qn_model_params(s->model), err), out);
    QN_TRY(st, qni_join_existing(path, sizeof(path), dir, "quern/optimizer.safetensors", err), out);
    QN_TRY(st, qn_safetensors_open(&f, path, err), out);
    for (int32_t i = 0; i < 2 * qn_model_params(s->model); i++) {
        const qn_param *p = qn_model_param(s->model, i / 2);
        const qn_shape shape = {.rank = p->rank, .dim = {p->dim[0], p->dim[1]}};
        char name[QNI_TENSOR_NAME + 2];
        if (s->m[i / 2] == NULL) continue; /* frozen */
        snprintf(name, sizeof(name), "%s.%c", p->name, i % 2 == 0 ? 'm' : 'v');
        QN_TRY(st, qni_find_tensor(&item[items].tensor, f, path, name, &shape, err), out);
        item[items++].to = (i % 2 == 0 ? s->m : s->v)[i / 2];
    }
    st = qni_stream_tensors(item, items, err);
out:
    qn_safetensors_close(f);
    qn_free(item);
    return st;
}

qn_status qn_checkpoint_read(const char *dir, const qn_state_view *state, qn_err *err)
{
    const qn_status st = read_values(dir, state, err);
    return st != QN_OK || state->m == NULL || state->v == NULL ? st : qni_read_moments(dir, state, err);
}

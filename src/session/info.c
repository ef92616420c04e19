/* qn_info: recognises what lies at a path, opens it with the reader that everything else uses, and says what it holds.
 *
 *   directory  checkpoints/          a run
 *              quern/state.json      a checkpoint
 *              config.json           a model
 *              adapter_config.json   an adapter
 *              tokenizer.json, encoder.json      a tokenizer
 *   file       "QNTOKENS"            a token shard             "quern-order", "quern-plan", NAME.csv   a schedule
 *              length, then '{'      safetensors               '{'                                     a tokenizer.json
 *              seven small integers  llama2.c's weights        else as tokenizers recognise            llama2.c's tokenizer
 *
 * Facts are collected as one JSON object; the lines for people are made from it, so that both say the same. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/cursor.h"
#include "core/io.h"
#include "data/dataset/shards.h"
#include "data/llama2c.h"
#include "data/safetensors/safetensors.h"
#include "data/text/text.h"
#include "gguf_model.h"
#include "load.h"
#include "session/report/page.h"
#include "quern/session.h"
#include "run_dir.h"
#include "runtime/checkpoint/peft.h"
#include "session/schedules/schedule_file.h"
#include "store/metrics.h"

/* The object in the making; bad: a fact did not fit into memory (or is no UTF-8). */
typedef struct facts {
    json_t *all;
    bool bad;
} facts;

static void put(facts *f, const char *name, json_t *value)
{
    f->bad |= json_object_set_new(f->all, name, value) != 0;
}

static void put_int(facts *f, const char *name, int64_t x)
{
    put(f, name, json_integer(x));
}

static void put_real(facts *f, const char *name, double x)
{
    put(f, name, isfinite(x) ? json_real(x) : json_null());
}

static void put_text(facts *f, const char *name, const char *text)
{
    put(f, name, json_string(text));
}

static bool holds(const char *dir, const char *name, int what)
{
    char path[QNI_PATH];
    return qn_path_join(path, sizeof(path), dir, name, NULL) == QN_OK && qn_path_exists(path) == what;
}

/* --- tokenizers */

/* A token's text as it may stand in JSON: bytes that are no UTF-8 as <0xE2>. */
static json_t *token_text(const qn_tokenizer *t, int32_t id)
{
    char *text = NULL, hex[64] = "";
    size_t bytes = 0, at = 0;
    if (qn_tokenizer_decode(&text, &bytes, t, &id, 1, NULL) != QN_OK) return json_string("?");
    json_t *out = NULL;
    if (qn_utf8_check(text, bytes) < 0) {
        out = json_stringn(text, bytes);
    } else {
        for (size_t i = 0; i < bytes && at + 8 < sizeof(hex); i++)
            at += (size_t)snprintf(hex + at, sizeof(hex) - at, "<0x%02X>", (unsigned char)text[i]);
        out = json_string(hex);
    }
    qn_free(text);
    return out;
}

static void add_tokenizer(facts *f, const qn_tokenizer *t)
{
    enum { SHOWN = 12 };
    const int32_t vocab = qn_tokenizer_vocab(t);
    put_text(f, "tokenizer", qn_tokenizer_kind(t));
    put_int(f, "vocabulary", vocab);
    if (qn_tokenizer_bos(t) >= 0) put_int(f, "bos", qn_tokenizer_bos(t));
    if (qn_tokenizer_eos(t) >= 0) put_int(f, "eos", qn_tokenizer_eos(t));
    json_t *some = json_array();
    for (int32_t i = 0; i < SHOWN && i < vocab; i++) /* evenly spread over the vocabulary */
        f->bad |= json_array_append_new(
                      some, token_text(t, (int32_t)((int64_t)(2 * i + 1) * vocab / (2 * qn_min32(SHOWN, vocab))))) != 0;
    put(f, "some_tokens", some);
}

static qn_status info_tokenizer(facts *f, const char *path, qn_err *err)
{
    qn_tokenizer *t = NULL;
    const qn_status st = qn_tokenizer_open(&t, path, err);
    if (st == QN_OK) {
        put_text(f, "kind", "tokenizer");
        add_tokenizer(f, t);
    }
    qn_tokenizer_close(t);
    return st;
}

/* --- models, checkpoints, runs */

static void add_config(facts *f, const qn_model *m)
{
    const qn_model_config *c = qn_model_config_of(m);
    put_text(f, "architecture", c->arch == QN_ARCH_GPT2 ? "gpt2" : "llama");
    put_int(f, "parameters", qn_model_param_count(m));
    put_int(f, "layers", c->layers);
    put_int(f, "width", c->width);
    put_int(f, "hidden", c->hidden);
    put_int(f, "heads", c->heads);
    put_int(f, "kv_heads", c->kv_heads);
    put_int(f, "context", c->context);
    put_int(f, "model_vocabulary", c->vocab);
    put(f, "tied", json_boolean(c->tied));
}

static void add_tensor_sums(facts *f, const qn_safetensors *file)
{
    int64_t bytes = 0;
    char types[128] = "";
    bool seen[QN_DTYPES] = {false};
    for (int32_t i = 0; i < qn_safetensors_count(file); i++) {
        const qn_tensor_view *v = qn_safetensors_at(file, i);
        bytes += (int64_t)v->bytes;
        if (seen[v->dtype]) continue;
        seen[v->dtype] = true;
        snprintf(types + strlen(types), sizeof(types) - strlen(types), "%s%s", types[0] ? ", " : "", qn_dtype_name(v->dtype));
    }
    put_int(f, "tensors", qn_safetensors_count(file));
    put_int(f, "tensor_bytes", bytes);
    put_text(f, "types", types);
}

/* An adapter on its own: what it is for and how large. */
static qn_status info_adapter(facts *f, const char *dir, qn_err *err)
{
    char path[QNI_PATH], base[QNI_PATH];
    qn_safetensors *file = NULL;
    qn_status st;
    put_text(f, "kind", "adapter");
    QN_TRY(st, qn_adapter_base(base, sizeof(base), dir, err), out);
    put_text(f, "base_model", base);
    QN_TRY(st, qn_path_join(path, sizeof(path), dir, "adapter_model.safetensors", err), out);
    QN_TRY(st, qn_safetensors_open(&file, path, err), out);
    add_tensor_sums(f, file);
out:
    qn_safetensors_close(file);
    return st;
}

/* A model directory, with its step when it is a checkpoint of a run. */
static qn_status info_model(facts *f, const char *dir, qn_err *err)
{
    qn_model_config config;
    qn_model *m = NULL;
    qn_safetensors *file = NULL;
    qn_tokenizer *t = NULL;
    char path[QNI_PATH], *state_text = NULL;
    size_t bytes = 0;
    json_t *state = NULL;
    qn_status st;
    const bool checkpoint = holds(dir, "quern/state.json", 1);
    put_text(f, "kind", checkpoint ? "checkpoint" : "model");
    QN_TRY(st, qn_checkpoint_read_config(&config, dir, err), out);
    QN_TRY(st, qn_model_open(&m, &config, err), out);
    add_config(f, m);
    QN_TRY(st, qn_safetensors_open(&file, dir, err), out);
    add_tensor_sums(f, file);
    if (checkpoint) {
        QN_TRY(st, qn_checkpoint_read_state(&state_text, &bytes, dir, err), out);
        state = json_loadb(state_text, bytes, 0, NULL);
        static const char *const keys[] = {"step", "steps", "seed"};
        for (int i = 0; i < 3; i++)
            if (json_is_integer(json_object_get(state, keys[i]))) put(f, keys[i], json_incref(json_object_get(state, keys[i])));
        put(f, "optimizer_state",
            json_boolean(holds(dir, "quern/optimizer.safetensors", 1) ||
                         holds(dir, "quern/optimizer.safetensors.index.json", 1)));
    }
    QN_TRY(st, qn_path_join(path, sizeof(path), dir, "tokenizer.json", err), out);
    if (qn_path_exists(path) == 1) {
        QN_TRY(st, qn_tokenizer_open(&t, path, err), out);
        add_tokenizer(f, t);
    }
out:
    json_decref(state);
    qn_free(state_text);
    qn_tokenizer_close(t);
    qn_safetensors_close(file);
    qn_model_close(m);
    return st;
}

static qn_status add_metrics(facts *f, const char *run, qn_err *err)
{
    char path[QNI_PATH];
    qn_metrics_row row;
    int64_t step[4096];
    double loss[4096];
    qn_status st = qn_path_join(path, sizeof(path), run, "metrics.sqlite", err);
    if (st != QN_OK || qn_path_exists(path) != 1) return st;
    const int64_t rows = qn_metrics_last(path, &row, err);
    const int64_t evals = rows < 0 ? -1 : qn_metrics_read_evals(path, step, loss, 4096, err);
    if (evals < 0) return QN_EIO;
    if (rows > 0) {
        put_int(f, "last_step", row.step);
        put_real(f, "loss", row.loss);
        put_real(f, "tokens_per_s", row.tokens_per_s);
        put_real(f, "step_ms", row.step_ms);
    }
    if (evals > 0) {
        put_real(f, "val_loss", loss[evals - 1]);
        put_int(f, "val_step", step[evals - 1]);
    }
    return QN_OK;
}

static qn_status info_run(facts *f, const char *run, qn_err *err)
{
    char path[QNI_PATH], newest[QNI_PATH], *text = NULL;
    size_t bytes = 0;
    int64_t step = -1;
    json_error_t where;
    qn_status st;
    put_text(f, "kind", "run");
    QN_TRY(st, qn_path_join(path, sizeof(path), run, "config.json", err), out);
    if (qn_path_exists(path) == 1) {
        QN_TRY(st, qn_file_read(&text, &bytes, path, 1 << 20, err), out);
        json_t *settings = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
        if (!json_is_object(settings)) {
            json_decref(settings);
            st = QN_FAIL(err, QN_EFORMAT, "%s, line %d: %s", path, where.line,
                         settings == NULL ? where.text : "an object was wanted");
            goto out;
        }
        put(f, "settings", settings);
    }
    QN_TRY(st, add_metrics(f, run, err), out);
    st = qni_run_newest_checkpoint(newest, &step, run, err);
    if (st == QN_OK) {
        put_text(f, "checkpoint", newest);
        put_int(f, "checkpoint_step", step);
    } else if (st == QN_ENOENT) {
        st = QN_OK;
        put(f, "checkpoint", json_null());
    }
out:
    qn_free(text);
    return st;
}

/* --- files */

static qn_status info_safetensors(facts *f, const char *path, qn_err *err)
{
    qn_safetensors *file = NULL;
    const qn_status st = qn_safetensors_open(&file, path, err);
    if (st != QN_OK) return st;
    put_text(f, "kind", "safetensors");
    add_tensor_sums(f, file);
    json_t *list = json_array();
    for (int32_t i = 0; i < qn_safetensors_count(file); i++) {
        const qn_tensor_view *v = qn_safetensors_at(file, i);
        json_t *shape = json_array();
        for (int32_t d = 0; d < v->shape.rank; d++) f->bad |= json_array_append_new(shape, json_integer(v->shape.dim[d])) != 0;
        f->bad |= json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", v->name, "type", qn_dtype_name(v->dtype),
                                                        "shape", shape, "bytes", (json_int_t)v->bytes)) != 0;
    }
    put(f, "list", list);
    qn_safetensors_close(file);
    return QN_OK;
}

static qn_status info_llama2c(facts *f, const char *path, qn_err *err)
{
    qn_llama2c *file = NULL;
    const qn_status st = qn_llama2c_open(&file, path, err);
    if (st != QN_OK) return st;
    const qn_llama2c_header *h = qn_llama2c_header_of(file);
    put_text(f, "kind", "llama2.c weights");
    put_int(f, "layers", h->layers);
    put_int(f, "width", h->width);
    put_int(f, "hidden", h->hidden);
    put_int(f, "heads", h->heads);
    put_int(f, "kv_heads", h->kv_heads);
    put_int(f, "context", h->context);
    put_int(f, "vocabulary", h->vocab);
    put(f, "tied", json_boolean(h->tied));
    qn_llama2c_close(file);
    return QN_OK;
}

static qn_status info_gguf(facts *f, const char *path, qn_err *err)
{
    qn_gguf *file = NULL;
    qn_model_config c;
    qn_status st = qn_gguf_open(&file, path, err);
    if (st != QN_OK) return st;
    st = qni_gguf_config(&c, file, err);
    if (st == QN_OK) {
        put_text(f, "kind", "GGUF model");
        put_text(f, "arch", c.arch == QN_ARCH_GPT2 ? "gpt2" : "llama");
        put_int(f, "layers", c.layers);
        put_int(f, "width", c.width);
        put_int(f, "hidden", c.hidden);
        put_int(f, "heads", c.heads);
        put_int(f, "kv_heads", c.kv_heads);
        put_int(f, "context", c.context);
        put_int(f, "vocabulary", c.vocab);
        put(f, "tied", json_boolean(c.tied));
        put_int(f, "tensors", qn_gguf_tensors(file));
    }
    qn_gguf_close(file);
    return st;
}

static qn_status info_tokens(facts *f, const char *path, qn_err *err)
{
    qn_tokens *t = NULL;
    const qn_status st = qn_tokens_open(&t, path, err);
    if (st != QN_OK) return st;
    put_text(f, "kind", "token shard");
    put_int(f, "tokens", qn_tokens_count(t));
    put_int(f, "vocabulary", qn_tokens_vocab(t));
    put_int(f, "training", qn_tokens_train_part(t).count);
    put_int(f, "validation", qn_tokens_valid_part(t).count);
    qn_tokens_close(t);
    return QN_OK;
}

static qn_status info_schedule(facts *f, const char *path, qn_err *err)
{
    qni_schedule s;
    int64_t tasks = 0;
    const qn_status st = qni_schedule_read(&s, path, err);
    if (st == QN_OK) {
        const qn_order *o = s.order;
        const qn_plan *p = s.plan;
        for (int32_t w = 0; o != NULL && w < o->workers; w++) tasks += o->count[w];
        put_text(f, "kind", "schedule");
        put_text(f, "form", qni_schedule_form_name(s.form));
        put_int(f, "workers", p != NULL ? p->workers : o->workers);
        put_int(f, "stages", p != NULL ? p->stages : o->stages);
        put_int(f, "micro_batches", p != NULL ? p->items : o->items);
        put_int(f, "tasks", p != NULL ? p->tasks : tasks);
    }
    qni_schedule_fini(&s);
    return st;
}

/* llama2.c's header: seven integers that can be sizes of a model. */
static bool looks_like_llama2c(const uint8_t *data, size_t bytes)
{
    qn_cursor c = qn_cursor_of(data, bytes);
    for (int i = 0; i < 7; i++) {
        const int32_t x = (int32_t)qn_cursor_u32(&c);
        const int32_t size = i == 5 && x < 0 && x > INT32_MIN ? -x : x; /* the vocabulary's sign says whether the head is tied */
        if (c.failed || size < 1 || size > 1 << 24) return false;
    }
    return true;
}

typedef qn_status info_fn(facts *f, const char *path, qn_err *err);

/* Which reader a file asks for by its first bytes, or NULL. */
static info_fn *reader_of(const char *path, const uint8_t *data, size_t bytes)
{
    const char *text = (const char *)data, *dot = strrchr(path, '.');
    size_t blank = 0;
    if (bytes >= 8 && memcmp(text, "QNTOKENS", 8) == 0) return info_tokens;
    if (bytes >= 4 && memcmp(text, "GGUF", 4) == 0) return info_gguf;
    if (bytes > 8 && data[8] == '{') {
        qn_cursor c = qn_cursor_of(data, bytes);
        if (qn_cursor_u64(&c) < (uint64_t)1 << 32) return info_safetensors;
    }
    const bool csv = dot != NULL && strcasecmp(dot, ".csv") == 0;
    const size_t head = bytes < 65536 ? bytes : 65536;
    const qn_schedule_form form = memchr(text, '\0', head) == NULL ? qn_schedule_form_of(text, head) : QN_FORM_UNKNOWN;
    if (form == QN_FORM_ORDER || form == QN_FORM_PLAN || (csv && form == QN_FORM_CSV)) return info_schedule;
    while (blank < bytes && strchr(" \t\r\n", text[blank]) != NULL && text[blank] != '\0') blank++;
    if (blank < bytes && text[blank] == '{') return info_tokenizer;
    if (looks_like_llama2c(data, bytes)) return info_llama2c;
    return NULL;
}

static qn_status info_file(facts *f, const char *path, qn_err *err)
{
    qn_map map;
    qn_status st = qn_map_open(&map, path, err);
    if (st != QN_OK) return st;
    const size_t bytes = map.bytes;
    info_fn *reader = bytes > 0 ? reader_of(path, map.data, bytes) : NULL;
    qn_map_close(&map);
    if (reader != NULL)
        st = reader(f, path, err);
    else if (bytes == 0 || info_tokenizer(f, path, NULL) != QN_OK)
        st = QN_FAIL(err, QN_EFORMAT,
                     "%s%s is nothing that Quern knows; a safetensors or GGUF file, a tokenizer.json, llama2.c weights or "
                     "tokenizer, a schedule "
                     "(quern-order, quern-plan, .csv), or a token shard was wanted",
                     path, bytes == 0 ? " (an empty file)" : "");
    return st;
}

static qn_status info_dir(facts *f, const char *path, qn_err *err)
{
    if (holds(path, "checkpoints", 2)) return info_run(f, path, err);
    if (holds(path, "config.json", 1)) return info_model(f, path, err);
    if (qn_adapter_is(path)) return info_adapter(f, path, err);
    if (holds(path, "tokenizer.json", 1) || holds(path, "encoder.json", 1)) return info_tokenizer(f, path, err);
    return QN_FAIL(err, QN_EFORMAT,
                   "%s holds nothing that Quern knows; a run (checkpoints/), a model or checkpoint (config.json, "
                   "model.safetensors), an adapter, or a "
                   "tokenizer (tokenizer.json, or encoder.json with vocab.bpe) was wanted",
                   path);
}

/* --- lines for people */

static void value_text(qni_page *p, const json_t *v)
{
    size_t i;
    json_t *one;
    if (json_is_string(v)) {
        qni_page_add(p, "%s", json_string_value(v));
    } else if (json_is_integer(v)) {
        qni_page_count(p, json_integer_value(v));
    } else if (json_is_real(v)) {
        qni_page_add(p, "%.6g", json_real_value(v));
    } else if (json_is_array(v)) {
        json_array_foreach(v, i, one)
        {
            if (i > 0) qni_page_add(p, json_is_string(one) ? " " : " x ");
            if (json_is_string(one)) {
                char *quoted = json_dumps(one, JSON_ENCODE_ANY); /* blanks and line breaks are to be seen */
                qni_page_add(p, "%s", quoted != NULL ? quoted : "?");
                free(quoted);
            } else {
                qni_page_add(p, "%lld", (long long)json_integer_value(one));
            }
        }
    } else {
        qni_page_add(p, "%s", json_is_true(v) ? "yes" : json_is_false(v) ? "no" : "none");
    }
}

static void name_text(qni_page *p, const char *name, int width)
{
    char buf[64];
    snprintf(buf, sizeof(buf), "%s", name);
    for (char *c = buf; *c != '\0'; c++)
        if (*c == '_') *c = ' ';
    qni_page_add(p, "%-*s ", width, buf);
}

static void lines(qni_page *p, json_t *all)
{
    const char *name, *inner;
    json_t *v, *one;
    size_t i;
    json_object_foreach(all, name, v)
    {
        if (json_is_object(v)) {
            qni_page_add(p, "%s\n", name);
            json_object_foreach(v, inner, one)
            {
                if (json_is_string(one) && json_string_length(one) == 0) continue;
                qni_page_add(p, "  ");
                name_text(p, inner, 16);
                value_text(p, one);
                qni_page_add(p, "\n");
            }
        } else if (json_is_array(v) && json_is_object(json_array_get(v, 0))) {
            json_array_foreach(v, i, one)
            {
                qni_page_add(p, "  %-48s %-5s ", json_string_value(json_object_get(one, "name")),
                             json_string_value(json_object_get(one, "type")));
                value_text(p, json_object_get(one, "shape"));
                qni_page_add(p, "\n");
            }
        } else {
            name_text(p, name, 18);
            value_text(p, v);
            qni_page_add(p, "\n");
        }
    }
}

static qn_status show(char **out, const facts *f, bool json, qn_err *err)
{
    qni_page p = {.text = NULL};
    if (f->bad) return QN_FAIL(err, QN_ENOMEM, "facts about a file");
    if (json) {
        char *text = json_dumps(f->all, JSON_REAL_PRECISION(17));
        if (text == NULL) return QN_FAIL(err, QN_ENOMEM, "facts about a file");
        qni_page_add(&p, "%s\n", text);
        free(text);
    } else {
        lines(&p, f->all);
    }
    return qni_page_done(out, &p, err);
}

qn_status qn_info(char **out, const char *path, bool json, qn_err *err)
{
    facts f = {.all = json_object()};
    qn_status st;
    const int there = qn_path_exists(path);
    if (f.all == NULL) return QN_FAIL(err, QN_ENOMEM, "facts about a file");
    if (there == 0)
        st = QN_FAIL(err, QN_ENOENT, "there is no %s", path);
    else
        st = there == 2 ? info_dir(&f, path, err) : info_file(&f, path, err);
    if (st == QN_OK) st = show(out, &f, json, err);
    json_decref(f.all);
    return st;
}

/* Adapters on disk. Writing follows peft's own files (tests/golden/peft_layout.txt); reading refuses what would change the
 * numbers without a word: other kinds of adapters, ranks per module, biases, parts of the model saved whole. */
#include "peft.h"

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint_parts.h"
#include "core/alloc.h"
#include "core/compiler.h"
#include "core/io.h"
#include "hf_config.h"

enum { CONFIG_LIMIT = 1 << 20 };

/* --- adapter_config.json */
static json_t *whole_or_real(double x)
{
    return x == floor(x) && fabs(x) < 1e9 ? json_integer((json_int_t)x) : json_real(x);
}

qn_status qni_adapter_config_text(char **out, const qn_model_config *c, const char *base, qn_err *err)
{
    const char *module[QN_LORA_MODULES];
    const int32_t n = qn_lora_modules(module, c->arch, c->lora.targets);
    json_t *targets = json_array();
    for (int32_t i = 0; targets != NULL && i < n; i++) json_array_append_new(targets, json_string(module[i]));
    json_t *root =
        json_pack("{s:n, s:s?, s:s, s:b, s:n, s:b, s:b, s:n, s:n, s:o, s:f, s:n, s:s, s:i, s:{}, s:{}, s:n, s:o, s:s, s:b, s:b}",
                  "auto_mapping", "base_model_name_or_path", base, "bias", "none", "fan_in_fan_out", c->arch == QN_ARCH_GPT2,
                  "layer_replication", "inference_mode", 1, "init_lora_weights", 1, "layers_pattern", "layers_to_transform",
                  "lora_alpha", whole_or_real(c->lora.alpha), "lora_dropout", 0.0, "modules_to_save", "peft_type", "LORA", "r",
                  (int)c->lora.rank, "rank_pattern", "alpha_pattern", "revision", "target_modules", targets, "task_type",
                  "CAUSAL_LM", "use_dora", 0, "use_rslora", 0);
    return qni_hf_dump(out, root, "adapter_config.json", err);
}

bool qn_adapter_is(const char *dir)
{
    char path[PATH_MAX];
    return qn_path_join(path, sizeof(path), dir, "adapter_config.json", NULL) == QN_OK && qn_path_exists(path) == 1;
}

static qn_status read_object(json_t **out, char path[PATH_MAX], const char *dir, qn_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    json_error_t where;
    *out = NULL;
    qn_status st = qni_join_existing(path, PATH_MAX, dir, "adapter_config.json", err);
    if (st == QN_OK) st = qn_file_read(&text, &bytes, path, CONFIG_LIMIT, err);
    if (st == QN_OK) *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    qn_free(text);
    if (st == QN_OK && !json_is_object(*out)) {
        st = QN_FAIL(err, QN_EFORMAT, "%s: %s; wanted: a JSON object", path,
                     *out == NULL ? where.text : "the file holds no object");
        json_decref(*out);
        *out = NULL;
    }
    return st;
}

qn_status qn_adapter_base(char *out, size_t cap, const char *dir, qn_err *err)
{
    char path[PATH_MAX];
    json_t *root;
    const qn_status st = read_object(&root, path, dir, err);
    if (st != QN_OK) return st;
    const char *base = json_string_value(json_object_get(root, "base_model_name_or_path"));
    const int n = snprintf(out, cap, "%s", base != NULL ? base : "");
    json_decref(root);
    return n >= 0 && (size_t)n < cap ? QN_OK : QN_FAIL(err, QN_ERANGE, "%s: base_model_name_or_path is too long", path);
}

/* Keys whose value must be absent, null, false, 0, "none" or empty. */
static qn_status refuse_variants(const json_t *root, const char *path, qn_err *err)
{
    static const char *const plain[] = {"use_rslora",        "use_dora",      "use_qalora",     "modules_to_save",
                                        "rank_pattern",      "alpha_pattern", "layers_pattern", "layers_to_transform",
                                        "layer_replication", "bias",          "lora_bias",      "target_parameters"};
    for (size_t i = 0; i < QN_COUNT(plain); i++) {
        const json_t *v = json_object_get(root, plain[i]);
        const char *text = json_string_value(v);
        const bool none = v == NULL || json_is_null(v) || json_is_false(v) || (text != NULL && strcmp(text, "none") == 0) ||
                          (json_is_array(v) && json_array_size(v) == 0) || (json_is_object(v) && json_object_size(v) == 0);
        if (!none)
            return QN_FAIL(err, QN_EUNSUPPORTED,
                           "%s: '%s' is set; adapters of one rank on whole products, without biases, are read", path, plain[i]);
    }
    const char *type = json_string_value(json_object_get(root, "peft_type"));
    if (type == NULL || strcmp(type, "LORA") != 0)
        return QN_FAIL(err, QN_EUNSUPPORTED, "%s: peft_type is %s; wanted: LORA", path, type != NULL ? type : "missing");
    return QN_OK;
}

static qn_status read_targets(qn_lora *out, const json_t *targets, const char *path, qn_arch arch, qn_err *err)
{
    enum { MOST = 64 };
    const char *name[MOST];
    const size_t n = json_is_string(targets) ? 1 : json_array_size(targets);
    if (n < 1 || n > MOST)
        return QN_FAIL(err, QN_EFORMAT, "%s: target_modules has %zu names; wanted: 1 to %d", path, n, (int)MOST);
    for (size_t i = 0; i < n; i++) {
        name[i] = json_string_value(json_is_string(targets) ? targets : json_array_get(targets, i));
        if (name[i] == NULL)
            return QN_FAIL(err, QN_EFORMAT, "%s: target_modules[%zu] is no text; wanted: a module's name", path, i);
    }
    return qn_lora_targets(&out->targets, arch, name, (int32_t)n, err);
}

qn_status qn_adapter_read_config(qn_lora *out, const char *dir, qn_arch arch, qn_err *err)
{
    char path[PATH_MAX];
    json_t *root;
    qn_status st = read_object(&root, path, dir, err);
    if (st != QN_OK) return st;
    const json_t *r = json_object_get(root, "r"), *alpha = json_object_get(root, "lora_alpha");
    st = refuse_variants(root, path, err);
    if (st == QN_OK && (!json_is_integer(r) || json_integer_value(r) < 1 || json_integer_value(r) > INT32_MAX))
        st = QN_FAIL(err, QN_EFORMAT, "%s: r is missing or no rank; wanted: a whole number from 1", path);
    if (st == QN_OK && !(json_is_number(alpha) && json_number_value(alpha) > 0))
        st = QN_FAIL(err, QN_EFORMAT, "%s: lora_alpha is missing or not positive; wanted: a positive number", path);
    if (st == QN_OK) {
        *out = (qn_lora){.rank = (int32_t)json_integer_value(r), .alpha = json_number_value(alpha)};
        st = read_targets(out, json_object_get(root, "target_modules"), path, arch, err);
    }
    json_decref(root);
    return st;
}

/* --- tensors */
static qn_status open_tensors(qn_safetensors **out, const char *dir, qn_err *err)
{
    char path[PATH_MAX];
    *out = NULL;
    const qn_status st = qni_join_existing(path, sizeof(path), dir, "adapter_model.safetensors", err);
    return st != QN_OK ? st : qn_safetensors_open(out, path, err);
}

qn_status qn_adapter_read(const char *dir, const qn_state_view *s, qn_err *err)
{
    qn_safetensors *f = NULL;
    int32_t found = 0;
    qn_status st = open_tensors(&f, dir, err);
    for (int32_t i = 0; st == QN_OK && i < qn_model_params(s->model); i++) {
        const qn_param *p = qn_model_param(s->model, i);
        const qn_shape want = {.rank = p->rank, .dim = {p->dim[0], p->dim[1]}};
        const qn_tensor_view *t = NULL;
        char name[QNI_TENSOR_NAME];
        if (!p->adapter) continue;
        snprintf(name, sizeof(name), "%s%s", QNI_ADAPTER_PREFIX, p->name);
        st = qni_find_tensor(&t, f, dir, name, &want, err);
        if (st == QN_OK) st = qn_tensor_read_f32(s->value[i], t, 0, p->count, err);
        found++;
    }
    if (st == QN_OK && qn_safetensors_count(f) != found)
        st = QN_FAIL(err, QN_EFORMAT, "%s: the adapter has %d tensors; wanted: the %d of this model's targets", dir,
                     (int)qn_safetensors_count(f), (int)found);
    qn_safetensors_close(f);
    return st != QN_OK || s->m == NULL || s->v == NULL ? st : qni_read_moments(dir, s, err);
}

/* W [O, I] += scale * B [O, r] A [r, I] */
static void add_product(float *w, const float *a, const float *b, int64_t O, int64_t I, int64_t r, double scale)
{
    for (int64_t o = 0; o < O; o++)
        for (int64_t i = 0; i < I; i++) {
            double sum = 0;
            for (int64_t k = 0; k < r; k++) sum += (double)b[o * r + k] * a[k * I + i];
            w[o * I + i] = (float)(w[o * I + i] + scale * sum);
        }
}

/* The adapter of one matrix, if there is one; *found tells. */
static qn_status merge_one(bool *found, const char *dir, const qn_safetensors *f, const qn_param *p, float *w, const qn_lora *l,
                           qn_err *err)
{
    const qn_shape shape_a = {.rank = 2, .dim = {l->rank, p->dim[1]}}, shape_b = {.rank = 2, .dim = {p->dim[0], l->rank}};
    const int64_t count_a = l->rank * p->dim[1], count_b = l->rank * p->dim[0];
    const qn_tensor_view *a = NULL, *b = NULL;
    char module[sizeof(p->name)], name_a[QNI_TENSOR_NAME + 16], name_b[QNI_TENSOR_NAME + 16];
    const char *end = strstr(p->name, ".weight");
    *found = false;
    if (p->rank != 2 || end == NULL) return QN_OK;
    snprintf(module, sizeof(module), "%.*s", (int)(end - p->name), p->name);
    snprintf(name_a, sizeof(name_a), QNI_ADAPTER_PREFIX "%s.lora_A.weight", module);
    snprintf(name_b, sizeof(name_b), QNI_ADAPTER_PREFIX "%s.lora_B.weight", module);
    if (qn_safetensors_find(f, name_a) == NULL && qn_safetensors_find(f, name_b) == NULL) return QN_OK;
    qn_status st = qni_find_tensor(&a, f, dir, name_a, &shape_a, err);
    if (st == QN_OK) st = qni_find_tensor(&b, f, dir, name_b, &shape_b, err);
    if (st != QN_OK) return st;
    float *values = qn_malloc((size_t)(count_a + count_b), sizeof(float));
    if (values == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the adapter of '%s'", p->name);
    st = qn_tensor_read_f32(values, a, 0, count_a, err);
    if (st == QN_OK) st = qn_tensor_read_f32(values + count_a, b, 0, count_b, err);
    if (st == QN_OK) add_product(w, values, values + count_a, p->dim[0], p->dim[1], l->rank, l->alpha / l->rank);
    qn_free(values);
    *found = st == QN_OK;
    return st;
}

qn_status qn_adapter_merge(const char *dir, const qn_state_view *s, qn_err *err)
{
    qn_lora l;
    qn_safetensors *f = NULL;
    int32_t used = 0;
    qn_status st = qn_adapter_read_config(&l, dir, qn_model_config_of(s->model)->arch, err);
    if (st == QN_OK) st = open_tensors(&f, dir, err);
    for (int32_t i = 0; st == QN_OK && i < qn_model_params(s->model); i++) {
        bool found;
        st = merge_one(&found, dir, f, qn_model_param(s->model, i), s->value[i], &l, err);
        used += found ? 2 : 0;
    }
    if (st == QN_OK && (used == 0 || used != qn_safetensors_count(f)))
        st = QN_FAIL(
            err, QN_EFORMAT,
            "%s: %d of the adapter's %d tensors belong to matrices of the base model; wanted: all (is it another model's?)", dir,
            (int)used, (int)qn_safetensors_count(f));
    qn_safetensors_close(f);
    return st;
}

/* config.json between Quern's model configuration and the keys of GPT2LMHeadModel and LlamaForCausalLM.
 *
 * Writing gives every key that transformers gives (tests/golden/hf_layout.txt), so that nothing depends on a reader's defaults.
 * Reading takes transformers' default where a key is missing, refuses a value of another type with key, found and wanted, and
 * refuses what would silently change the model: another architecture or activation, biases in LLaMA, scaled rotary embeddings,
 * scaled attention. */
#include "hf_config.h"

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/compiler.h"

/* --- writing */

/* Whether 15 significant digits give every real of the object back; then 0.1 is written as people write it. */
static bool short_reals(json_t *root)
{
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        char text[64];
        if (!json_is_real(value)) continue;
        snprintf(text, sizeof(text), "%.15g", json_real_value(value));
        if (strtod(text, NULL) != json_real_value(value)) return false;
    }
    return true;
}

/* Takes root (NULL: a failed build). */
qn_status qni_hf_dump(char **out, struct json_t *root, const char *what, qn_err *err)
{
    *out = NULL;
    if (root != NULL) {
        const size_t flags = JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(short_reals(root) ? 15u : 17u);
        const size_t n = json_dumpb(root, NULL, 0, flags);
        char *text = qn_malloc(n + 2, 1);
        if (text != NULL && n > 0) {
            json_dumpb(root, text, n, flags);
            text[n] = '\n';
            text[n + 1] = '\0';
            *out = text;
        } else {
            qn_free(text);
        }
        json_decref(root);
    }
    return *out != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "no memory for the text of %s", what);
}

static json_t *id_or_null(int32_t id)
{
    return id >= 0 ? json_integer(id) : json_null();
}

static json_t *gpt2_object(const qn_model_config *c, int32_t bos, int32_t eos)
{
    return json_pack(
        "{s:s, s:[s], s:f, s:o, s:f, s:o, s:f, s:f, s:s, s:i, s:i, s:o, s:i, s:i, s:b, s:f, s:b, s:b, s:b, s:s, s:b, s:i}",
        "activation_function", "gelu_new", "architectures", "GPT2LMHeadModel", "attn_pdrop", 0.0, "bos_token_id", id_or_null(bos),
        "embd_pdrop", c->dropout, "eos_token_id", id_or_null(eos), "initializer_range", 0.02, "layer_norm_epsilon", c->norm_eps,
        "model_type", "gpt2", "n_embd", c->width, "n_head", c->heads, "n_inner",
        c->hidden == 4 * c->width ? json_null() : json_integer(c->hidden), "n_layer", c->layers, "n_positions", c->context,
        "reorder_and_upcast_attn", 0, "resid_pdrop", c->dropout, "scale_attn_by_inverse_layer_idx", 0, "scale_attn_weights", 1,
        "tie_word_embeddings", c->tied, "torch_dtype", "float32", "use_cache", 1, "vocab_size", c->vocab);
}

static json_t *llama_object(const qn_model_config *c, int32_t bos, int32_t eos)
{
    return json_pack(
        "{s:[s], s:b, s:f, s:o, s:o, s:s, s:i, s:f, s:i, s:i, s:s, s:i, s:i, s:i, s:i, s:f, s:n, s:f, s:b, s:s, s:b, s:i}",
        "architectures", "LlamaForCausalLM", "attention_bias", 0, "attention_dropout", 0.0, "bos_token_id", id_or_null(bos),
        "eos_token_id", id_or_null(eos), "hidden_act", "silu", "hidden_size", c->width, "initializer_range", 0.02,
        "intermediate_size", c->hidden, "max_position_embeddings", c->context, "model_type", "llama", "num_attention_heads",
        c->heads, "num_hidden_layers", c->layers, "num_key_value_heads", c->kv_heads, "pretraining_tp", 1, "rms_norm_eps",
        c->norm_eps, "rope_scaling", "rope_theta", c->rope_theta, "tie_word_embeddings", c->tied, "torch_dtype", "float32",
        "use_cache", 1, "vocab_size", c->vocab);
}

qn_status qni_hf_config_text(char **out, const qn_model_config *c, int32_t bos, int32_t eos, qn_err *err)
{
    return qni_hf_dump(out, c->arch == QN_ARCH_GPT2 ? gpt2_object(c, bos, eos) : llama_object(c, bos, eos), "config.json", err);
}

qn_status qni_hf_generation_text(char **out, int32_t bos, int32_t eos, qn_err *err)
{
    json_t *root =
        json_pack("{s:b, s:o, s:o}", "_from_model_config", 1, "bos_token_id", id_or_null(bos), "eos_token_id", id_or_null(eos));
    return qni_hf_dump(out, root, "generation_config.json", err);
}

/* The text of token id in a parsed tokenizer.json, or NULL. */
static const char *token_name(const json_t *tokenizer, int32_t id)
{
    size_t i;
    const char *key;
    json_t *entry;
    if (id < 0) return NULL;
    json_array_foreach(json_object_get(tokenizer, "added_tokens"), i, entry)
    {
        const json_t *number = json_object_get(entry, "id");
        if (json_is_integer(number) && json_integer_value(number) == id)
            return json_string_value(json_object_get(entry, "content"));
    }
    json_t *vocab = json_object_get(json_object_get(tokenizer, "model"), "vocab");
    json_object_foreach(vocab, key, entry)
    {
        if (json_is_integer(entry) && json_integer_value(entry) == id) return key;
    }
    return NULL;
}

qn_status qni_hf_tokenizer_text(char **out, const qn_model_config *c, const char *tokenizer, size_t bytes, int32_t bos,
                                int32_t eos, qn_err *err)
{
    json_error_t where;
    *out = NULL;
    json_t *parsed = json_loadb(tokenizer, bytes, JSON_ALLOW_NUL, &where);
    if (parsed == NULL)
        return QN_FAIL(err, QN_EFORMAT, "tokenizer.json, line %d, column %d: %s; a JSON object is needed", where.line,
                       where.column, where.text);
    json_t *root = json_pack("{s:b, s:i, s:s}", "clean_up_tokenization_spaces", 0, "model_max_length", c->context,
                             "tokenizer_class", "PreTrainedTokenizerFast");
    const char *name = token_name(parsed, bos);
    if (root != NULL && name != NULL) json_object_set_new(root, "bos_token", json_string(name));
    name = token_name(parsed, eos);
    if (root != NULL && name != NULL) json_object_set_new(root, "eos_token", json_string(name));
    json_decref(parsed);
    return qni_hf_dump(out, root, "tokenizer_config.json", err);
}

/* --- reading: a failure sticks, so that the callers read on and look once */
typedef struct config_reader {
    const json_t *root;
    const char *path;
    qn_status status;
    qn_err *err;
} config_reader;

static const char *type_text(const json_t *v)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "a list", [JSON_STRING] = "a string", [JSON_INTEGER] = "a whole number",
        [JSON_REAL] = "a real number", [JSON_TRUE] = "true",    [JSON_FALSE] = "false",     [JSON_NULL] = "null"};
    return v == NULL ? "nothing" : names[json_typeof(v)];
}

static void refuse(config_reader *r, const char *key, const char *wanted)
{
    if (r->status != QN_OK) return;
    const json_t *v = json_object_get(r->root, key);
    if (json_is_integer(v))
        r->status = QN_FAIL(r->err, QN_EFORMAT, "%s: key '%s' is %" JSON_INTEGER_FORMAT "; wanted: %s", r->path, key,
                            json_integer_value(v), wanted);
    else if (json_is_real(v))
        r->status = QN_FAIL(r->err, QN_EFORMAT, "%s: key '%s' is %g; wanted: %s", r->path, key, json_real_value(v), wanted);
    else
        r->status = QN_FAIL(r->err, QN_EFORMAT, "%s: key '%s' is %s; wanted: %s", r->path, key, type_text(v), wanted);
}

/* A missing or null key gives otherwise; otherwise < 0: the key is needed. */
static int32_t read_size(config_reader *r, const char *key, int32_t otherwise)
{
    const json_t *v = json_object_get(r->root, key);
    if ((v == NULL || json_is_null(v)) && otherwise >= 0) return otherwise;
    if (json_is_integer(v) && json_integer_value(v) >= 1 && json_integer_value(v) <= INT32_MAX)
        return (int32_t)json_integer_value(v);
    refuse(r, key, "a whole number from 1 to 2147483647");
    return 1;
}

static double read_real(config_reader *r, const json_t *in, const char *key, double low, double high, double otherwise)
{
    const json_t *v = json_object_get(in, key);
    if (v == NULL || json_is_null(v)) return otherwise;
    const double x = json_number_value(v);
    if (json_is_number(v) && x >= low && x < high) return x;
    char wanted[64];
    snprintf(wanted, sizeof(wanted), "a number from %g to below %g", low, high);
    refuse(r, key, wanted);
    return low;
}

static bool read_flag(config_reader *r, const char *key, bool otherwise)
{
    const json_t *v = json_object_get(r->root, key);
    if (v == NULL || json_is_null(v)) return otherwise;
    if (!json_is_boolean(v)) refuse(r, key, "true or false");
    return json_is_true(v);
}

static void unsupported(config_reader *r, const char *key, const char *found, const char *wanted)
{
    if (r->status == QN_OK)
        r->status = QN_FAIL(r->err, QN_EUNSUPPORTED, "%s: key '%s' is %s; supported: %s", r->path, key, found, wanted);
}

/* The flag must have this value, which is also the default. */
static void need_flag(config_reader *r, const char *key, bool value)
{
    if (read_flag(r, key, value) != value) unsupported(r, key, value ? "false" : "true", value ? "true" : "false");
}

/* The key, when it is there, must be one of the strings a and b. */
static void need_text(config_reader *r, const char *key, const char *a, const char *b)
{
    const json_t *v = json_object_get(r->root, key);
    if (v == NULL || json_is_null(v)) return;
    const char *text = json_string_value(v);
    if (text == NULL)
        refuse(r, key, a);
    else if (strcmp(text, a) != 0 && strcmp(text, b) != 0)
        unsupported(r, key, text, a);
}

static void parse_gpt2(config_reader *r, qn_model_config *c)
{
    c->arch = QN_ARCH_GPT2;
    c->layers = read_size(r, "n_layer", 12);
    c->heads = read_size(r, "n_head", 12);
    c->kv_heads = c->heads;
    c->width = read_size(r, "n_embd", 768);
    c->hidden = read_size(r, "n_inner", 0);
    c->context = read_size(r, "n_positions", read_size(r, "n_ctx", 1024));
    c->vocab = read_size(r, "vocab_size", 50257);
    c->norm_eps = read_real(r, r->root, "layer_norm_epsilon", 0.0, 1.0, 1e-5);
    c->dropout = read_real(r, r->root, "resid_pdrop", 0.0, 1.0, 0.1);
    c->tied = read_flag(r, "tie_word_embeddings", true);
    need_text(r, "activation_function", "gelu_new", "gelu_pytorch_tanh");
    need_flag(r, "scale_attn_weights", true);
    need_flag(r, "scale_attn_by_inverse_layer_idx", false);
    need_flag(r, "add_cross_attention", false);
}

/* Rotary parameters: a key of their own, or (newer files) an object that also names the kind. */
static void parse_rope(config_reader *r, qn_model_config *c)
{
    c->rope_theta = read_real(r, r->root, "rope_theta", 1.0, 1e12, 10000.0);
    const json_t *scaling = json_object_get(r->root, "rope_scaling");
    if (scaling != NULL && !json_is_null(scaling)) unsupported(r, "rope_scaling", type_text(scaling), "null");
    const json_t *rope = json_object_get(r->root, "rope_parameters");
    if (rope == NULL || json_is_null(rope)) return;
    const char *kind = json_string_value(json_object_get(rope, "rope_type"));
    if (kind != NULL && strcmp(kind, "default") != 0) unsupported(r, "rope_parameters.rope_type", kind, "default");
    c->rope_theta = read_real(r, rope, "rope_theta", 1.0, 1e12, c->rope_theta);
}

static void parse_llama(config_reader *r, qn_model_config *c)
{
    c->arch = QN_ARCH_LLAMA;
    c->layers = read_size(r, "num_hidden_layers", 32);
    c->heads = read_size(r, "num_attention_heads", 32);
    c->kv_heads = read_size(r, "num_key_value_heads", c->heads);
    c->width = read_size(r, "hidden_size", 4096);
    c->hidden = read_size(r, "intermediate_size", 11008);
    c->context = read_size(r, "max_position_embeddings", 2048);
    c->vocab = read_size(r, "vocab_size", 32000);
    c->norm_eps = read_real(r, r->root, "rms_norm_eps", 0.0, 1.0, 1e-6);
    c->tied = read_flag(r, "tie_word_embeddings", false);
    parse_rope(r, c);
    need_text(r, "hidden_act", "silu", "swish");
    need_flag(r, "attention_bias", false);
    need_flag(r, "mlp_bias", false);
    const int32_t head = read_size(r, "head_dim", 0);
    if (head != 0 && (int64_t)head * c->heads != c->width) {
        char found[16];
        snprintf(found, sizeof(found), "%d", (int)head);
        unsupported(r, "head_dim", found, "hidden_size / num_attention_heads");
    }
}

/* The family: from architectures, or from model_type where that is missing. */
static const char *family(config_reader *r)
{
    const json_t *list = json_object_get(r->root, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    const char *type = json_string_value(json_object_get(r->root, "model_type"));
    if (name == NULL && type == NULL) {
        r->status =
            QN_FAIL(r->err, QN_EFORMAT,
                    "%s: neither 'architectures' nor 'model_type' names a model; wanted: a Hugging Face config.json", r->path);
        return "";
    }
    if (name != NULL) {
        if (strcmp(name, "GPT2LMHeadModel") == 0 || strcmp(name, "GPT2Model") == 0) return "gpt2";
        if (strcmp(name, "LlamaForCausalLM") == 0 || strcmp(name, "LlamaModel") == 0) return "llama";
    } else if (strcmp(type, "gpt2") == 0 || strcmp(type, "llama") == 0) {
        return type;
    }
    unsupported(r, name != NULL ? "architectures" : "model_type", name != NULL ? name : type,
                "GPT2LMHeadModel, LlamaForCausalLM");
    return "";
}

qn_status qni_hf_config_parse(qn_model_config *out, const char *text, size_t bytes, const char *path, qn_err *err)
{
    json_error_t where;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    if (root == NULL) return QN_FAIL(err, QN_EFORMAT, "%s, line %d, column %d: %s", path, where.line, where.column, where.text);
    config_reader r = {.root = root, .path = path, .status = QN_OK, .err = err};
    qn_model_config c = {0};
    if (!json_is_object(root)) {
        r.status = QN_FAIL(err, QN_EFORMAT, "%s holds %s; wanted: an object", path, type_text(root));
    } else {
        const char *kind = family(&r);
        if (strcmp(kind, "gpt2") == 0) parse_gpt2(&r, &c);
        if (strcmp(kind, "llama") == 0) parse_llama(&r, &c);
    }
    json_decref(root);
    if (r.status == QN_OK) *out = c;
    return r.status;
}

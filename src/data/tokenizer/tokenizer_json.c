/* Reads Hugging Face's tokenizer.json. Every component type is either understood or refused by name; nothing is skipped silently
 * but what does not change ids (padding, truncation, the post-processor, which adds BOS). The text is kept, so that writing the
 * tokenizer gives back what was read.
 *
 * Order: components first (they say how vocabulary keys are written), then vocabulary, added tokens, merges. */
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "core/alloc.h"
#include "data/text/text.h"
#include "tokenizer_internal.h"

enum { MAX_DEPTH = 4 };

static const char mark[] = "\xe2\x96\x81"; /* U+2581 */

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s == NULL ? "" : s;
}

/* A flag that may be absent. */
static bool flag(const json_t *o, const char *key, bool otherwise)
{
    const json_t *v = json_object_get(o, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

static qn_status unsupported(qn_err *err, const char *what, const char *type)
{
    return QN_FAIL(err, QN_EUNSUPPORTED, "tokenizer.json: %s of type '%.64s' is not supported", what, type);
}

typedef qn_status component_fn(qn_tokenizer *t, const json_t *o, int depth, qn_err *err);

/* The members of a Sequence, one by one. */
static qn_status each(qn_tokenizer *t, const json_t *list, component_fn *fn, int depth, qn_err *err)
{
    if (!json_is_array(list) || depth >= MAX_DEPTH)
        return QN_FAIL(err, QN_EFORMAT, "tokenizer.json: a Sequence needs a list, nested at most %d deep", MAX_DEPTH);
    qn_status st = QN_OK;
    for (size_t i = 0; i < json_array_size(list) && st == QN_OK; i++) st = fn(t, json_array_get(list, i), depth + 1, err);
    return st;
}

static qn_status read_normalizer(qn_tokenizer *t, const json_t *o, int depth, qn_err *err)
{
    const char *type = text_of(o, "type");
    if (o == NULL || json_is_null(o)) return QN_OK;
    if (strcmp(type, "Sequence") == 0) return each(t, json_object_get(o, "normalizers"), read_normalizer, depth, err);
    if (strcmp(type, "NFC") == 0) {
        t->nfc = true;
        return QN_OK;
    }
    if (strcmp(type, "Prepend") == 0 && strcmp(text_of(o, "prepend"), mark) == 0) {
        t->prefix = QNI_PREFIX_ALWAYS;
        return QN_OK;
    }
    if (strcmp(type, "Replace") == 0 && strcmp(text_of(o, "content"), mark) == 0 &&
        strcmp(text_of(json_object_get(o, "pattern"), "String"), " ") == 0) {
        t->mark = mark;
        return QN_OK;
    }
    if (strcmp(type, "Prepend") == 0 || strcmp(type, "Replace") == 0)
        return QN_FAIL(err, QN_EUNSUPPORTED,
                       "tokenizer.json: a normalizer %s with other text than the blank and U+2581 is not supported", type);
    return unsupported(err, "a normalizer", type);
}

static qn_status add_split(qn_tokenizer *t, const char *pattern, size_t bytes, bool keep_gaps, qn_err *err)
{
    if (t->splits == QNI_MAX_SPLITS)
        return QN_FAIL(err, QN_EUNSUPPORTED, "tokenizer.json: more than %d splitting steps are not supported", QNI_MAX_SPLITS);
    const qn_status st = qni_split_open(&t->split[t->splits], pattern, bytes, keep_gaps, err);
    if (st == QN_OK) t->splits++;
    return st;
}

static qn_status read_split(qn_tokenizer *t, const json_t *o, qn_err *err)
{
    const json_t *pattern = json_object_get(o, "pattern"), *regex = json_object_get(pattern, "Regex");
    const char *behavior = text_of(o, "behavior");
    const bool invert = flag(o, "invert", false);
    if (!json_is_string(regex))
        return QN_FAIL(err, QN_EUNSUPPORTED, "tokenizer.json: a Split whose pattern is not a Regex is not supported");
    const bool isolated = strcmp(behavior, "Isolated") == 0, matches = strcmp(behavior, "Removed") == 0 && invert;
    if (!isolated && !matches)
        return QN_FAIL(err, QN_EUNSUPPORTED, "tokenizer.json: a Split with behavior '%.32s'%s is not supported", behavior,
                       invert ? ", inverted," : "");
    return add_split(t, json_string_value(regex), json_string_length(regex), isolated, err);
}

static qn_status read_metaspace(qn_tokenizer *t, const json_t *o, qn_err *err)
{
    const char *scheme = text_of(o, "prepend_scheme");
    if (strcmp(text_of(o, "replacement"), mark) != 0)
        return QN_FAIL(err, QN_EUNSUPPORTED, "tokenizer.json: a Metaspace with another replacement than U+2581 is not supported");
    if (*scheme == '\0') scheme = flag(o, "add_prefix_space", true) ? "always" : "never";
    if (strcmp(scheme, "always") != 0 && strcmp(scheme, "first") != 0 && strcmp(scheme, "never") != 0)
        return QN_FAIL(err, QN_EUNSUPPORTED, "tokenizer.json: the prepend_scheme '%.32s' is not supported", scheme);
    t->mark = mark;
    t->prefix = *scheme == 'a' ? QNI_PREFIX_ALWAYS : *scheme == 'f' ? QNI_PREFIX_FIRST : QNI_PREFIX_NEVER;
    t->prefix_once = true;
    t->cut_each_mark = flag(o, "split", true);
    return QN_OK;
}

static qn_status read_pre_tokenizer(qn_tokenizer *t, const json_t *o, int depth, qn_err *err)
{
    const char *type = text_of(o, "type");
    if (o == NULL || json_is_null(o)) return QN_OK;
    if (t->byte_level || t->cut_each_mark)
        return QN_FAIL(err, QN_EUNSUPPORTED,
                       "tokenizer.json: a pre_tokenizer '%.64s' behind ByteLevel or Metaspace is not supported", type);
    if (strcmp(type, "Sequence") == 0) return each(t, json_object_get(o, "pretokenizers"), read_pre_tokenizer, depth, err);
    if (strcmp(type, "Split") == 0) return read_split(t, o, err);
    if (strcmp(type, "Metaspace") == 0 && t->splits == 0) return read_metaspace(t, o, err);
    if (strcmp(type, "Digits") == 0)
        return flag(o, "individual_digits", false) ? add_split(t, "\\p{N}", 5, true, err) : add_split(t, "\\p{N}+", 6, true, err);
    if (strcmp(type, "ByteLevel") != 0) return unsupported(err, "a pre_tokenizer", type);
    t->byte_level = true;
    if (flag(o, "add_prefix_space", true)) {
        if (t->splits > 0 || t->mark != NULL)
            return QN_FAIL(err, QN_EUNSUPPORTED,
                           "tokenizer.json: a ByteLevel with add_prefix_space behind another step is not supported");
        t->prefix_space = t->prefix_once = true;
        t->prefix = QNI_PREFIX_ALWAYS;
    }
    return flag(o, "use_regex", true) ? add_split(t, qni_gpt2_pattern, strlen(qni_gpt2_pattern), true, err) : QN_OK;
}

static qn_status read_decoder(qn_tokenizer *t, const json_t *o, int depth, qn_err *err)
{
    const char *type = text_of(o, "type");
    if (o == NULL || json_is_null(o)) return QN_OK;
    if (strcmp(type, "Sequence") == 0) return each(t, json_object_get(o, "decoders"), read_decoder, depth, err);
    if (strcmp(type, "ByteLevel") == 0 || strcmp(type, "ByteFallback") == 0 || strcmp(type, "Fuse") == 0) return QN_OK;
    if (strcmp(type, "Metaspace") == 0) {
        t->strip = t->prefix != QNI_PREFIX_NEVER;
        return QN_OK;
    }
    if (strcmp(type, "Replace") == 0 && strcmp(text_of(o, "content"), " ") == 0 &&
        strcmp(text_of(json_object_get(o, "pattern"), "String"), mark) == 0)
        return QN_OK;
    if (strcmp(type, "Strip") == 0 && strcmp(text_of(o, "content"), " ") == 0 &&
        json_integer_value(json_object_get(o, "start")) <= 1 && json_integer_value(json_object_get(o, "stop")) == 0) {
        t->strip = json_integer_value(json_object_get(o, "start")) == 1;
        return QN_OK;
    }
    return unsupported(err, "a decoder (or its settings)", type);
}

/* added: object from content to the entry of added_tokens. */
static qn_status collect_added(json_t *added, const json_t *list, qn_err *err)
{
    if (list != NULL && !json_is_null(list) && !json_is_array(list))
        return QN_FAIL(err, QN_EFORMAT, "tokenizer.json: added_tokens is not a list");
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *o = json_array_get(list, i);
        const json_t *content = json_object_get(o, "content");
        const char *text = json_string_value(content);
        if (text == NULL || *text == '\0' || strlen(text) != json_string_length(content) ||
            !json_is_integer(json_object_get(o, "id")))
            return QN_FAIL(err, QN_EFORMAT, "tokenizer.json: entry %zu of added_tokens has no id and content", i);
        if (flag(o, "lstrip", false) || flag(o, "rstrip", false) || flag(o, "single_word", false))
            return QN_FAIL(err, QN_EUNSUPPORTED,
                           "tokenizer.json: added token '%.64s' has lstrip, rstrip or single_word; that is not supported", text);
        if (json_object_get(added, text) != NULL)
            return QN_FAIL(err, QN_EFORMAT, "tokenizer.json: added token '%.64s' is there twice", text);
        if (json_object_set(added, text, o) != 0) return QN_FAIL(err, QN_ENOMEM, "no memory for the added tokens");
    }
    return QN_OK;
}

static qn_status check_id(json_int_t id, json_int_t limit, const char *text, qn_err *err)
{
    if (id >= 0 && id < limit) return QN_OK;
    return QN_FAIL(err, QN_EFORMAT,
                   "tokenizer.json: token '%.64s' has the id %" JSON_INTEGER_FORMAT
                   ", which is negative or far beyond the number of tokens",
                   text, id);
}

static qn_status read_vocab(qn_tokenizer *t, json_t *vocab, json_t *added, qn_err *err)
{
    const json_int_t limit = 4 * (json_int_t)(json_object_size(vocab) + json_object_size(added)) + 65536;
    const char *key;
    json_t *v;
    qn_status st = QN_OK;
    char *raw = NULL;
    size_t raw_cap = 0;
    json_object_foreach(vocab, key, v)
    {
        const size_t n = strlen(key);
        const json_t *twin = json_object_get(added, key);
        const json_int_t id = json_integer_value(v);
        if (!json_is_integer(v)) st = QN_FAIL(err, QN_EFORMAT, "tokenizer.json: the id of token '%.64s' is not an integer", key);
        if (st == QN_OK) st = check_id(id, limit, key, err);
        if (st == QN_OK && twin != NULL && json_integer_value(json_object_get(twin, "id")) != id)
            st = QN_FAIL(err, QN_EFORMAT,
                         "tokenizer.json: token '%.64s' has one id in the vocabulary and another in added_tokens", key);
        if (st == QN_OK && n > raw_cap) {
            char *more = qn_realloc(raw, n, 2);
            if (more == NULL) st = QN_FAIL(err, QN_ENOMEM, "no memory for a token of %zu bytes", n);
            if (more != NULL) raw = more, raw_cap = 2 * n;
        }
        if (st != QN_OK) break;
        if (twin != NULL) continue; /* comes with the added tokens */
        const int64_t bytes = t->byte_level && n > 0 ? qni_from_alphabet(raw, key, n) : -1;
        if (!t->byte_level)
            st = qni_tokenizer_add(t, id, key, n, 0, err);
        else if (bytes >= 0)
            st = qni_tokenizer_add(t, id, raw, (size_t)bytes, 0, err);
        else
            st = qni_table_set(&t->table, id, key, n, 0, err); /* outside the byte alphabet: no text leads to it */
        if (st != QN_OK) break;
    }
    qn_free(raw);
    json_object_foreach(added, key, v)
    {
        const json_int_t id = json_integer_value(json_object_get(v, "id"));
        if (st == QN_OK) st = check_id(id, limit, key, err);
        if (st == QN_OK)
            st = qni_tokenizer_add(t, id, key, strlen(key), QNI_TOKEN_ADDED | (flag(v, "special", false) ? QNI_TOKEN_SPECIAL : 0),
                                   err);
    }
    if (st == QN_OK && t->table.count == 0) st = QN_FAIL(err, QN_EFORMAT, "tokenizer.json: the vocabulary is empty");
    return st;
}

/* The id of one side of a merge. */
static qn_status merge_side(int32_t *id, const qn_tokenizer *t, const char *text, size_t n, size_t at, qn_err *err)
{
    char small[256], *raw = small;
    if (!t->byte_level) {
        *id = qni_table_find(&t->table, text, n);
    } else {
        if (n > sizeof(small)) raw = qn_malloc(n, 1);
        if (raw == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a merge of %zu bytes", n);
        const int64_t bytes = qni_from_alphabet(raw, text, n);
        *id = bytes < 0 ? -1 : qni_table_find(&t->table, raw, (size_t)bytes);
        if (raw != small) qn_free(raw);
    }
    if (*id >= 0) return QN_OK;
    return QN_FAIL(err, QN_EFORMAT, "tokenizer.json: merge %zu names '%.*s', which is not in the vocabulary", at,
                   (int)(n < 64 ? n : 64), text);
}

static qn_status read_merges(qn_tokenizer *t, const json_t *merges, qn_err *err)
{
    qn_status st = QN_OK;
    if (!json_is_array(merges) || json_array_size(merges) >= INT32_MAX)
        return QN_FAIL(err, QN_EFORMAT, "tokenizer.json: model.merges is not a list");
    for (size_t i = 0; i < json_array_size(merges) && st == QN_OK; i++) {
        const json_t *m = json_array_get(merges, i), *a = json_array_get(m, 0), *b = json_array_get(m, 1);
        const char *l, *r;
        size_t ln, rn;
        int32_t left = -1, right = -1;
        if (json_is_string(m)) {
            l = json_string_value(m);
            const char *blank = memchr(l, ' ', json_string_length(m));
            if (blank == NULL)
                return QN_FAIL(err, QN_EFORMAT, "tokenizer.json: merge %zu ('%.64s') has no blank between its two tokens", i, l);
            ln = (size_t)(blank - l);
            r = blank + 1;
            rn = json_string_length(m) - ln - 1;
        } else if (json_array_size(m) == 2 && json_is_string(a) && json_is_string(b)) {
            l = json_string_value(a);
            ln = json_string_length(a);
            r = json_string_value(b);
            rn = json_string_length(b);
        } else {
            return QN_FAIL(err, QN_EFORMAT, "tokenizer.json: merge %zu is neither a string nor a list of two strings", i);
        }
        st = merge_side(&left, t, l, ln, i, err);
        if (st == QN_OK) st = merge_side(&right, t, r, rn, i, err);
        if (st == QN_OK) st = qni_tokenizer_merge(t, left, right, (int32_t)i, err);
    }
    return st;
}

static qn_status check_model(const json_t *model, qn_err *err)
{
    const char *type = text_of(model, "type");
    if (!json_is_object(model)) return QN_FAIL(err, QN_EFORMAT, "tokenizer.json: there is no model in it");
    if (*type != '\0' && strcmp(type, "BPE") != 0) return unsupported(err, "a model", type);
    if (json_number_value(json_object_get(model, "dropout")) != 0.0)
        return QN_FAIL(err, QN_EUNSUPPORTED, "tokenizer.json: a model with dropout is not supported");
    if (*text_of(model, "continuing_subword_prefix") != '\0' || *text_of(model, "end_of_word_suffix") != '\0')
        return QN_FAIL(err, QN_EUNSUPPORTED,
                       "tokenizer.json: continuing_subword_prefix and end_of_word_suffix are not supported");
    if (!json_is_object(json_object_get(model, "vocab")))
        return QN_FAIL(err, QN_EFORMAT, "tokenizer.json: model.vocab is not an object");
    return QN_OK;
}

static qni_tok_kind kind_of(const qn_tokenizer *t)
{
    if (t->byte_level)
        return t->merges.used == 0 && t->table.count == 256 && t->splits == 0 && !t->nfc && !t->prefix_space ? QNI_TOK_BYTES
                                                                                                             : QNI_TOK_BYTE_LEVEL;
    if (t->byte_fallback) return QNI_TOK_BYTE_FALLBACK;
    return t->merges.used == 0 && t->mark == NULL ? QNI_TOK_CHARS : QNI_TOK_BPE;
}

static qn_status read_all(qn_tokenizer *t, const json_t *root, json_t *added, qn_err *err)
{
    json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    qn_status st = check_model(model, err);
    if (st == QN_OK) st = read_normalizer(t, json_object_get(root, "normalizer"), 0, err);
    if (st == QN_OK) st = read_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), 0, err);
    if (st == QN_OK) st = read_decoder(t, json_object_get(root, "decoder"), 0, err);
    if (st == QN_OK && t->byte_level && t->mark != NULL)
        st = QN_FAIL(err, QN_EUNSUPPORTED, "tokenizer.json: ByteLevel together with a replaced blank is not supported");
    if (st == QN_OK && t->prefix != QNI_PREFIX_NEVER && !t->prefix_space && t->mark == NULL)
        st = QN_FAIL(err, QN_EUNSUPPORTED, "tokenizer.json: a Prepend without a Replace of the blank is not supported");
    if (st == QN_OK) st = collect_added(added, json_object_get(root, "added_tokens"), err);
    if (st == QN_OK) st = read_vocab(t, vocab, added, err);
    if (st != QN_OK) return st;
    t->byte_fallback = !t->byte_level && flag(model, "byte_fallback", false);
    t->fuse_unk = flag(model, "fuse_unk", false);
    t->ignore_merges = flag(model, "ignore_merges", false);
    const char *unk = text_of(model, "unk_token");
    if (*unk != '\0') t->unk = qni_table_find(&t->table, unk, strlen(unk));
    st = read_merges(t, json_object_get(model, "merges"), err);
    t->kind = kind_of(t);
    return st == QN_OK ? qni_tokenizer_seal(t, err) : st;
}

qn_status qn_tokenizer_open_json(qn_tokenizer **out, const char *text, size_t bytes, qn_err *err)
{
    json_error_t why;
    *out = NULL;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &why);
    if (root == NULL)
        return QN_FAIL(err, QN_EFORMAT, "not a tokenizer.json: line %d, column %d: %s", why.line, why.column, why.text);
    json_t *added = json_object();
    qn_tokenizer *t = qni_tokenizer_new(QNI_TOK_BPE);
    qn_status st = QN_OK;
    if (t != NULL) t->json = qn_malloc(bytes + 1, 1);
    if (t == NULL || added == NULL || t->json == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for a tokenizer");
    } else {
        memcpy(t->json, text, bytes);
        t->json[bytes] = '\0';
        t->json_bytes = bytes;
        st = read_all(t, root, added, err);
    }
    json_decref(added);
    json_decref(root);
    if (st == QN_OK)
        *out = t;
    else
        qn_tokenizer_close(t);
    return st;
}

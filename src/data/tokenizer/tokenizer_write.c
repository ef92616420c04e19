/* Writes a tokenizer.json that Hugging Face's tokenizers loads and that encodes alike. A tokenizer read from one gives back its
 * text.
 *
 *   bytes      BPE without merges over the byte alphabet, ByteLevel without splitting
 *   characters BPE without merges, no pre-tokenizer; decoder Fuse
 *   byte-level BPE, ByteLevel with GPT-2's pattern
 *   llama2.c   BPE with byte fallback, blanks as U+2581. Tokens of equal score, which llama2.c joins leftmost first, get distinct
 * ranks here (lower id first), and ids 0, 1, 2 are named <unk>, <s>, </s>: a text that spells these names encodes to them. */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "data/text/text.h"
#include "tokenizer_internal.h"

static const char *const llama_names[] = {"<unk>", "<s>", "</s>"};

static bool renamed(const qn_tokenizer *t, int32_t id)
{
    return t->kind == QNI_TOK_LLAMA2C && id < 3;
}

/* The token as the file spells it: into *out (grown to *cap), NUL-terminated; its length. */
static qn_status spell(char **out, size_t *cap, size_t *n, const qn_tokenizer *t, int32_t id, qn_err *err)
{
    const qni_token *k = &t->table.token[id];
    const char *p = renamed(t, id) ? llama_names[id] : qni_table_bytes(&t->table, id);
    const size_t bytes = renamed(t, id) ? strlen(p) : k->bytes;
    const bool plain = renamed(t, id) || (k->flags & QNI_TOKEN_ADDED);
    if (*cap < 4 * bytes + 1) {
        char *more = qn_realloc(*out, bytes + 1, 4);
        if (more == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for writing the tokenizer");
        *out = more;
        *cap = 4 * bytes + 4;
    }
    char *to = *out;
    for (size_t i = 0; i < bytes; i++) {
        if (!plain && t->byte_level) {
            to += qn_utf8_put(to, qni_byte_to_char((uint8_t)p[i]));
        } else if (!plain && t->kind == QNI_TOK_LLAMA2C && p[i] == ' ') {
            to += qn_utf8_put(to, 0x2581);
        } else {
            *to++ = p[i];
        }
    }
    *to = '\0';
    *n = (size_t)(to - *out);
    if (qn_utf8_check(*out, *n) >= 0)
        return QN_FAIL(err, QN_EFORMAT, "token %" PRId32 " is not UTF-8; a tokenizer.json cannot hold it", id);
    return QN_OK;
}

static qn_status write_vocab(json_t *vocab, json_t *added, const qn_tokenizer *t, qn_err *err)
{
    char *text = NULL;
    size_t cap = 0, n;
    qn_status st = QN_OK;
    for (int32_t id = 0; id < t->table.count && st == QN_OK; id++) {
        const uint32_t flags = t->table.token[id].flags;
        if (flags == 0) continue;
        st = spell(&text, &cap, &n, t, id, err);
        if (st != QN_OK) break;
        if (json_object_get(vocab, text) != NULL)
            st = QN_FAIL(err, QN_EFORMAT, "token %" PRId32 " ('%.64s') has a twin; a tokenizer.json cannot hold both", id, text);
        else if (json_object_set_new(vocab, text, json_integer(id)) != 0)
            st = QN_FAIL(err, QN_ENOMEM, "no memory for writing the tokenizer");
        if (st != QN_OK || (!(flags & QNI_TOKEN_ADDED) && !renamed(t, id))) continue;
        json_t *o = json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (int)id, "content", text, "single_word", 0, "lstrip",
                              0, "rstrip", 0, "normalized", 0, "special", renamed(t, id) || (flags & QNI_TOKEN_SPECIAL) != 0);
        if (json_array_append_new(added, o) != 0) st = QN_FAIL(err, QN_ENOMEM, "no memory for writing the tokenizer");
    }
    qn_free(text);
    return st;
}

static int by_rank(const void *x, const void *y)
{
    const qni_merge *a = x, *b = y;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    if (a->result != b->result) return a->result < b->result ? -1 : 1;
    return (a->left > b->left) - (a->left < b->left);
}

static qn_status write_merges(json_t *list, const qn_tokenizer *t, qn_err *err)
{
    qn_status st = QN_OK;
    size_t n = 0, left_cap = 0, right_cap = 0, ln, rn;
    char *left = NULL, *right = NULL;
    if (t->merges.used == 0) return QN_OK;
    qni_merge *m = qn_malloc(t->merges.used, sizeof(*m));
    if (m == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for writing the tokenizer");
    for (size_t i = 0; i < t->merges.slots; i++)
        if (t->merges.slot[i].result >= 0) m[n++] = t->merges.slot[i];
    qsort(m, n, sizeof(*m), by_rank);
    for (size_t i = 0; i < n && st == QN_OK; i++) {
        if (renamed(t, m[i].left) || renamed(t, m[i].right) || renamed(t, m[i].result)) continue;
        st = spell(&left, &left_cap, &ln, t, m[i].left, err);
        if (st == QN_OK) st = spell(&right, &right_cap, &rn, t, m[i].right, err);
        if (st == QN_OK && json_array_append_new(list, json_sprintf("%s %s", left, right)) != 0)
            st = QN_FAIL(err, QN_ENOMEM, "no memory for writing the tokenizer");
    }
    qn_free(left);
    qn_free(right);
    qn_free(m);
    return st;
}

static json_t *byte_level(bool use_regex)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex",
                     (int)use_regex);
}

/* Normalizer, pre-tokenizer, post-processor, decoder. */
static void write_components(json_t *root, const qn_tokenizer *t)
{
    const char *mark = "\xe2\x96\x81";
    json_t *normalizer = json_null(), *pre = json_null(), *post = json_null(), *decoder;
    if (t->byte_level) {
        pre = byte_level(t->splits > 0);
        decoder = byte_level(true);
    } else if (t->kind == QNI_TOK_LLAMA2C) {
        normalizer = json_pack("{s:s, s:[{s:s, s:s}, {s:s, s:{s:s}, s:s}]}", "type", "Sequence", "normalizers", "type", "Prepend",
                               "prepend", mark, "type", "Replace", "pattern", "String", " ", "content", mark);
        post = json_pack(
            "{s:s, s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}], s:[{s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}, {s:{s:s, s:i}}],"
            " s:{s:{s:s, s:[i], s:[s]}}}",
            "type", "TemplateProcessing", "single", "SpecialToken", "id", "<s>", "type_id", 0, "Sequence", "id", "A", "type_id",
            0, "pair", "SpecialToken", "id", "<s>", "type_id", 0, "Sequence", "id", "A", "type_id", 0, "SpecialToken", "id",
            "<s>", "type_id", 1, "Sequence", "id", "B", "type_id", 1, "special_tokens", "<s>", "id", "<s>", "ids", 1, "tokens",
            "<s>");
        decoder = json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}, {s:s, s:s, s:i, s:i}]}", "type", "Sequence", "decoders",
                            "type", "Replace", "pattern", "String", mark, "content", " ", "type", "ByteFallback", "type", "Fuse",
                            "type", "Strip", "content", " ", "start", 1, "stop", 0);
    } else {
        decoder = json_pack("{s:s}", "type", "Fuse");
    }
    json_object_set_new(root, "normalizer", normalizer);
    json_object_set_new(root, "pre_tokenizer", pre);
    json_object_set_new(root, "post_processor", post);
    json_object_set_new(root, "decoder", decoder);
}

static json_t *model_head(const qn_tokenizer *t)
{
    const bool llama = t->kind == QNI_TOK_LLAMA2C;
    return json_pack("{s:s, s:n, s:s?, s:n, s:n, s:b, s:b, s:b}", "type", "BPE", "dropout", "unk_token", llama ? "<unk>" : NULL,
                     "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", (int)llama, "byte_fallback",
                     (int)t->byte_fallback, "ignore_merges", 0);
}

/* A copy in the library's own heap. */
static qn_status hand_over(char **out, size_t *bytes, const char *text, size_t n, qn_err *err)
{
    *out = qn_malloc(n + 1, 1);
    if (*out == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a tokenizer of %zu bytes", n);
    memcpy(*out, text, n);
    (*out)[n] = '\0';
    *bytes = n;
    return QN_OK;
}

qn_status qn_tokenizer_json(char **out, size_t *bytes, const qn_tokenizer *t, qn_err *err)
{
    *out = NULL;
    *bytes = 0;
    if (t->json != NULL) return hand_over(out, bytes, t->json, t->json_bytes, err);
    json_t *root = json_pack("{s:s, s:n, s:n}", "version", "1.0", "truncation", "padding");
    json_t *added = json_array(), *vocab = json_object(), *merges = json_array(), *model = model_head(t);
    qn_status st = QN_OK;
    char *text = NULL;
    if (root == NULL || added == NULL || vocab == NULL || merges == NULL || model == NULL)
        st = QN_FAIL(err, QN_ENOMEM, "no memory for writing the tokenizer");
    if (st == QN_OK) st = write_vocab(vocab, added, t, err);
    if (st == QN_OK) st = write_merges(merges, t, err);
    if (st == QN_OK) {
        json_object_set(root, "added_tokens", added);
        write_components(root, t);
        json_object_set(model, "vocab", vocab);
        json_object_set(model, "merges", merges);
        json_object_set(root, "model", model);
        text = json_dumps(root, JSON_INDENT(2));
        st = text == NULL ? QN_FAIL(err, QN_ENOMEM, "no memory for writing the tokenizer")
                          : hand_over(out, bytes, text, strlen(text), err);
    }
    json_decref(root);
    json_decref(added);
    json_decref(vocab);
    json_decref(merges);
    json_decref(model);
    free(text); /* jansson's, not ours */
    return st;
}

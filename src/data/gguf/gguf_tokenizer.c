/* The tokenizer of a GGUF file, by way of the formats that are read anyway: "gpt2" as a tokenizer.json (its tokens are written in
 * the byte alphabet there as well), "llama" as llama2.c's list of pieces and scores. */
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "data/tokenizer/tokenizer_internal.h"
#include "gguf.h"

#define TOKENS "tokenizer.ggml.tokens"
#define SCORES "tokenizer.ggml.scores"
#define TYPES  "tokenizer.ggml.token_type"
#define MERGES "tokenizer.ggml.merges"

enum { CONTROL = 3, USER_DEFINED = 4, FIRST_BYTE = 3, LONGEST = 1024 };

static const char llama3_pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
                                     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

static bool is_text(const qn_gguf_text *t, const char *text)
{
    return t->bytes == strlen(text) && memcmp(t->at, text, t->bytes) == 0;
}

/* --- gpt2 */

/* How text is split, by the name that the file gives it; NULL: not supported. */
static json_t *splitting(const qn_gguf_text *pre, bool *whole_words)
{
    *whole_words = false;
    if (is_text(pre, "gpt-2") || is_text(pre, "default"))
        return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1);
    if (!is_text(pre, "llama-bpe") && !is_text(pre, "llama3") && !is_text(pre, "llama-v3")) return NULL;
    *whole_words = true;
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b, s:b}]}", "type", "Sequence", "pretokenizers", "type",
                     "Split", "pattern", "Regex", llama3_pattern, "behavior", "Isolated", "invert", 0, "type", "ByteLevel",
                     "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 0);
}

static qn_status fill_vocab(json_t *vocab, json_t *added, qn_gguf *f, int64_t n, qn_err *err)
{
    for (int64_t i = 0; i < n; i++) {
        qn_gguf_text t;
        char key[LONGEST + 1];
        int64_t type = 1;
        if (!qn_gguf_array_text(&t, f, TOKENS, i) || t.bytes > LONGEST || memchr(t.at, '\0', t.bytes) != NULL)
            return QN_FAIL(err, QN_EFORMAT, TOKENS ": token %" PRId64 " is no text of at most %d bytes", i, LONGEST);
        memcpy(key, t.at, t.bytes);
        key[t.bytes] = '\0';
        (void)qn_gguf_array_integer(&type, f, TYPES, i);
        if (json_object_get(vocab, key) != NULL)
            return QN_FAIL(err, QN_EFORMAT, TOKENS ": token %" PRId64 " ('%.64s') is there twice", i, key);
        if (json_object_set_new(vocab, key, json_integer(i)) != 0)
            return QN_FAIL(err, QN_EFORMAT, TOKENS ": token %" PRId64 " is not UTF-8", i);
        if (type != CONTROL && type != USER_DEFINED) continue;
        json_t *o = json_pack("{s:I, s:s, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)i, "content", key, "single_word", 0,
                              "lstrip", 0, "rstrip", 0, "normalized", 0, "special", type == CONTROL);
        if (json_array_append_new(added, o) != 0) return QN_FAIL(err, QN_ENOMEM, "no memory for a tokenizer");
    }
    return QN_OK;
}

static qn_status fill_merges(json_t *list, qn_gguf *f, qn_err *err)
{
    const int64_t n = qn_gguf_array(f, MERGES);
    for (int64_t i = 0; i < n; i++) {
        qn_gguf_text t;
        if (!qn_gguf_array_text(&t, f, MERGES, i)) return QN_FAIL(err, QN_EFORMAT, MERGES " is no list of texts");
        json_t *s = json_stringn(t.at, t.bytes);
        if (s == NULL) return QN_FAIL(err, QN_EFORMAT, MERGES ": merge %" PRId64 " is not UTF-8", i);
        if (json_array_append_new(list, s) != 0) return QN_FAIL(err, QN_ENOMEM, "no memory for a tokenizer");
    }
    return QN_OK;
}

static qn_status open_gpt2(qn_tokenizer **out, qn_gguf *f, int64_t n, qn_err *err)
{
    qn_gguf_text pre = {.at = "default", .bytes = 7};
    bool whole_words;
    char *text = NULL;
    (void)qn_gguf_text_of(&pre, f, "tokenizer.ggml.pre");
    json_t *split = splitting(&pre, &whole_words);
    if (split == NULL)
        return QN_FAIL(err, QN_EUNSUPPORTED, "tokenizer.ggml.pre is '%.*s'; gpt-2, default and llama-bpe are supported",
                       (int)(pre.bytes < 64 ? pre.bytes : 64), pre.at);
    json_t *vocab = json_object(), *added = json_array(), *merges = json_array(), *root = NULL;
    qn_status st =
        vocab != NULL && added != NULL && merges != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "no memory for a tokenizer");
    if (st == QN_OK) st = fill_vocab(vocab, added, f, n, err);
    if (st == QN_OK) st = fill_merges(merges, f, err);
    if (st == QN_OK) {
        root = json_pack(
            "{s:s, s:n, s:n, s:O, s:n, s:O, s:n, s:{s:s, s:b, s:b, s:b}, s:{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:O, s:O}}",
            "version", "1.0", "truncation", "padding", "added_tokens", added, "normalizer", "pre_tokenizer", split,
            "post_processor", "decoder", "type", "ByteLevel", "add_prefix_space", 1, "trim_offsets", 1, "use_regex", 1, "model",
            "type", "BPE", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
            "byte_fallback", 0, "ignore_merges", whole_words, "vocab", vocab, "merges", merges);
        const size_t bytes = root != NULL ? json_dumpb(root, NULL, 0, JSON_COMPACT) : 0;
        text = bytes > 0 ? qn_malloc(bytes + 1, 1) : NULL;
        if (text == NULL) {
            st = QN_FAIL(err, QN_ENOMEM, "no memory for a tokenizer");
        } else {
            json_dumpb(root, text, bytes, JSON_COMPACT);
            text[bytes] = '\0';
            st = qn_tokenizer_open_json(out, text, bytes, err);
        }
    }
    qn_free(text);
    json_decref(root);
    json_decref(merges);
    json_decref(added);
    json_decref(vocab);
    json_decref(split);
    return st;
}

/* --- llama */
static void put_u32(char *to, uint32_t x)
{
    for (int i = 0; i < 4; i++) to[i] = (char)(x >> 8 * i & 255);
}

/* A piece with its blanks as blanks. */
static size_t put_piece(char *to, const qn_gguf_text *t)
{
    size_t n = 0;
    for (size_t i = 0; i < t->bytes; n++) {
        const bool blank = t->bytes - i >= 3 && memcmp(t->at + i, "\xE2\x96\x81", 3) == 0;
        to[n] = blank ? ' ' : t->at[i];
        i += blank ? 3 : 1;
    }
    return n;
}

/* What llama2.c's list takes for granted. */
static qn_status check_llama(qn_gguf *f, int64_t n, qn_err *err)
{
    static const struct {
        const char *key;
        int64_t id;
    } wanted[] = {{"tokenizer.ggml.unknown_token_id", 0},
                  {"tokenizer.ggml.bos_token_id", 1},
                  {"tokenizer.ggml.eos_token_id", 2},
                  {"tokenizer.ggml.add_space_prefix", 1}};
    for (size_t i = 0; i < 4; i++) {
        int64_t id = wanted[i].id;
        (void)qn_gguf_integer(&id, f, wanted[i].key);
        if (id != wanted[i].id)
            return QN_FAIL(err, QN_EUNSUPPORTED, "%s is %" PRId64 "; %" PRId64 " is supported", wanted[i].key, id, wanted[i].id);
    }
    for (int64_t b = 0; b < 256 && n >= FIRST_BYTE + 256; b++) {
        qn_gguf_text t;
        char name[8] = {'<', '0', 'x', "0123456789ABCDEF"[b >> 4], "0123456789ABCDEF"[b & 15], '>'};
        if (!qn_gguf_array_text(&t, f, TOKENS, FIRST_BYTE + b) || !is_text(&t, name))
            return QN_FAIL(err, QN_EUNSUPPORTED, TOKENS ": token %" PRId64 " is not %s; the bytes are wanted there",
                           FIRST_BYTE + b, name);
    }
    if (qn_gguf_array(f, SCORES) != n)
        return QN_FAIL(err, QN_EFORMAT, SCORES " has %" PRId64 " entries; one for each of %" PRId64 " tokens is wanted",
                       qn_gguf_array(f, SCORES), n);
    return QN_OK;
}

static qn_status open_llama(qn_tokenizer **out, qn_gguf *f, int64_t n, qn_err *err)
{
    size_t cap = 4, used = 4;
    qn_status st = check_llama(f, n, err);
    for (int64_t i = 0; st == QN_OK && i < n; i++) {
        qn_gguf_text t;
        if (!qn_gguf_array_text(&t, f, TOKENS, i) || t.bytes > LONGEST)
            st = QN_FAIL(err, QN_EFORMAT, TOKENS ": token %" PRId64 " is no text of at most %d bytes", i, LONGEST);
        else if (!qn_add_size(&cap, cap, t.bytes + 8))
            st = QN_FAIL(err, QN_ERANGE, TOKENS " is too large");
    }
    if (st != QN_OK) return st;
    char *blob = qn_malloc(cap, 1);
    if (blob == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %" PRId64 " tokens", n);
    put_u32(blob, LONGEST);
    for (int64_t i = 0; i < n; i++) {
        qn_gguf_text t = {.at = "", .bytes = 0};
        double score = 0;
        uint32_t bits;
        (void)qn_gguf_array_text(&t, f, TOKENS, i);
        (void)qn_gguf_array_real(&score, f, SCORES, i);
        const float narrow = (float)score;
        memcpy(&bits, &narrow, sizeof(bits));
        put_u32(blob + used, bits);
        const size_t bytes = put_piece(blob + used + 8, &t);
        put_u32(blob + used + 4, (uint32_t)bytes);
        used += 8 + bytes;
    }
    st = qn_tokenizer_open_llama2c(out, blob, used, (int32_t)n, err);
    qn_free(blob);
    return st;
}

/* BOS or EOS as the file has it, where its name did not tell. */
static void adopt(int32_t *id, const qn_tokenizer *t, const qn_gguf *f, const char *key)
{
    int64_t given;
    if (*id < 0 && qn_gguf_integer(&given, f, key) && given >= 0 && given < qn_tokenizer_vocab(t)) *id = (int32_t)given;
}

qn_status qn_gguf_tokenizer(qn_tokenizer **out, qn_gguf *f, qn_err *err)
{
    qn_gguf_text model;
    const int64_t n = qn_gguf_array(f, TOKENS);
    *out = NULL;
    if (!qn_gguf_text_of(&model, f, "tokenizer.ggml.model") || n < 0)
        return QN_FAIL(err, QN_ENOENT, "the file has no tokenizer: tokenizer.ggml.model and " TOKENS " are wanted");
    if (n < 1 || n > QNI_MAX_ID)
        return QN_FAIL(err, QN_EFORMAT, TOKENS " has %" PRId64 " entries; 1 to %d are wanted", n, QNI_MAX_ID);
    qn_status st;
    if (is_text(&model, "gpt2"))
        st = open_gpt2(out, f, n, err);
    else if (is_text(&model, "llama"))
        st = open_llama(out, f, n, err);
    else
        return QN_FAIL(err, QN_EUNSUPPORTED, "tokenizer.ggml.model is '%.*s'; llama and gpt2 are supported",
                       (int)(model.bytes < 64 ? model.bytes : 64), model.at);
    if (st != QN_OK) return st;
    adopt(&(*out)->bos, *out, f, "tokenizer.ggml.bos_token_id");
    adopt(&(*out)->eos, *out, f, "tokenizer.ggml.eos_token_id");
    return QN_OK;
}

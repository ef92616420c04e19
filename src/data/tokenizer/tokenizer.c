/* Opening (bytes, characters, by path), sealing and closing a tokenizer. Encoding and decoding are in tokenizer_run.c. */
#include "tokenizer_internal.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/io.h"
#include "data/text/text.h"

enum { MAX_FILE = 256 << 20 };

qn_tokenizer *qni_tokenizer_new(qni_tok_kind kind)
{
    qn_tokenizer *t = qn_calloc(1, sizeof(*t));
    if (t == NULL) return NULL;
    t->kind = kind;
    t->bos = t->eos = t->unk = -1;
    for (int i = 0; i < 256; i++) t->byte_id[i] = -1;
    return t;
}

void qn_tokenizer_close(qn_tokenizer *t)
{
    if (t == NULL) return;
    qni_table_fini(&t->table);
    qni_merges_fini(&t->merges);
    for (int32_t i = 0; i < t->splits; i++) qni_split_close(t->split[i]);
    qn_free(t->added);
    qn_free(t->json);
    qn_free(t);
}

qn_status qni_tokenizer_add(qn_tokenizer *t, int64_t id, const char *bytes, size_t n, uint32_t flags, qn_err *err)
{
    int32_t twin;
    qn_status st = qni_table_set(&t->table, id, bytes, n, flags, err);
    if (st == QN_OK) st = qni_table_index(&t->table, (int32_t)id, &twin, err);
    if (st == QN_OK && twin >= 0)
        st = QN_FAIL(err, QN_EFORMAT, "token '%.*s' has two ids: %" PRId32 " and %" PRId64, (int)(n < 64 ? n : 64), bytes, twin,
                     id);
    return st;
}

qn_status qni_tokenizer_merge(qn_tokenizer *t, int32_t left, int32_t right, int32_t rank, qn_err *err)
{
    const qni_table *v = &t->table;
    const size_t a = v->token[left].bytes, b = v->token[right].bytes;
    const char *l = qni_table_bytes(v, left), *r = qni_table_bytes(v, right);
    char small[256], *joined = a + b <= sizeof(small) ? small : qn_malloc(a + b, 1);
    bool twin = false;
    if (joined == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a merge of %zu bytes", a + b);
    memcpy(joined, l, a);
    memcpy(joined + a, r, b);
    const int32_t result = qni_table_find(v, joined, a + b);
    if (joined != small) qn_free(joined);
    const int la = (int)(a < 64 ? a : 64), lb = (int)(b < 64 ? b : 64);
    if (result < 0)
        return QN_FAIL(err, QN_EFORMAT, "merge %" PRId32 " ('%.*s', '%.*s') gives a token that is not in the vocabulary", rank,
                       la, l, lb, r);
    qn_status st = qni_merges_add(&t->merges, (qni_merge){left, right, rank, result}, &twin, err);
    if (st == QN_OK && twin)
        st = QN_FAIL(err, QN_EFORMAT, "merge %" PRId32 " ('%.*s', '%.*s') is there twice", rank, la, l, lb, r);
    return st;
}

int64_t qni_from_alphabet(char *out, const char *text, size_t n)
{
    int64_t used = 0;
    for (size_t at = 0; at < n;) {
        const int32_t byte = qni_char_to_byte(qn_utf8_next(text, n, &at));
        if (byte < 0) return -1;
        out[used++] = (char)byte;
    }
    return used;
}

typedef struct added_key {
    unsigned char first;
    uint32_t bytes;
    int32_t id;
} added_key;

static int by_first_then_longest(const void *x, const void *y)
{
    const added_key *a = x, *b = y;
    if (a->first != b->first) return a->first < b->first ? -1 : 1;
    if (a->bytes != b->bytes) return a->bytes > b->bytes ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

static qn_status seal_added(qn_tokenizer *t, qn_err *err)
{
    int32_t n = 0;
    for (int32_t id = 0; id < t->table.count; id++)
        n += (t->table.token[id].flags & QNI_TOKEN_ADDED) && t->table.token[id].bytes > 0;
    if (n == 0) return QN_OK;
    added_key *key = qn_malloc((size_t)n, sizeof(*key));
    t->added = qn_malloc((size_t)n, sizeof(*t->added));
    if (key == NULL || t->added == NULL) {
        qn_free(key);
        return QN_FAIL(err, QN_ENOMEM, "no memory for %" PRId32 " added tokens", n);
    }
    n = 0;
    for (int32_t id = 0; id < t->table.count; id++) {
        const qni_token *k = &t->table.token[id];
        if ((k->flags & QNI_TOKEN_ADDED) && k->bytes > 0)
            key[n++] = (added_key){.first = (unsigned char)*qni_table_bytes(&t->table, id), .bytes = k->bytes, .id = id};
    }
    qsort(key, (size_t)n, sizeof(*key), by_first_then_longest);
    for (int32_t i = 0; i < n; i++) {
        t->added[i] = key[i].id;
        t->added_from[key[i].first + 1]++;
    }
    for (int i = 0; i < 256; i++) t->added_from[i + 1] += t->added_from[i];
    qn_free(key);
    return QN_OK;
}

/* The first of these names that is an added token, or -1. */
static int32_t first_added(const qn_tokenizer *t, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const int32_t id = qni_table_find(&t->table, names[i], strlen(names[i]));
        if (id >= 0 && (t->table.token[id].flags & QNI_TOKEN_ADDED)) return id;
    }
    return -1;
}

/* True when no token has a mark behind something else: then no merge can cross the place before a mark. */
static bool marks_only_lead(const qn_tokenizer *t)
{
    const size_t m = strlen(t->mark);
    for (int32_t id = 0; id < t->table.count; id++) {
        const qni_token *k = &t->table.token[id];
        const char *p = qni_table_bytes(&t->table, id);
        size_t i = 0;
        if (k->flags & QNI_TOKEN_ADDED) continue;
        while (k->bytes - i >= m && memcmp(p + i, t->mark, m) == 0) i += m;
        for (; i + m <= k->bytes; i++)
            if (memcmp(p + i, t->mark, m) == 0) return false;
    }
    return true;
}

qn_status qni_tokenizer_seal(qn_tokenizer *t, qn_err *err)
{
    static const char *const bos[] = {"<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "<|endoftext|>"};
    static const char *const eos[] = {"</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "<|eot_id|>", "<|im_end|>"};
    if (t->bos < 0) t->bos = first_added(t, bos, QN_COUNT(bos));
    if (t->eos < 0) t->eos = first_added(t, eos, QN_COUNT(eos));
    for (int b = 0; b < 256; b++) {
        char name[8] = {(char)b};
        if (t->byte_level) {
            t->byte_id[b] = qni_table_find(&t->table, name, 1);
        } else if (t->byte_fallback) {
            static const char hex[] = "0123456789ABCDEF";
            memcpy(name, "<0x00>", 7);
            name[3] = hex[b >> 4];
            name[4] = hex[b & 15];
            t->byte_id[b] = qni_table_find(&t->table, name, 6);
            if (t->byte_id[b] >= 0) t->table.token[t->byte_id[b]].flags |= QNI_TOKEN_BYTE;
        }
    }
    if (t->mark != NULL)
        t->cut_at_mark = !t->ignore_merges && qni_table_find(&t->table, t->mark, strlen(t->mark)) >= 0 && marks_only_lead(t);
    return seal_added(t, err);
}

qn_status qn_tokenizer_open_bytes(qn_tokenizer **out, qn_err *err)
{
    qn_tokenizer *t = qni_tokenizer_new(QNI_TOK_BYTES);
    *out = NULL;
    if (t == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a tokenizer");
    t->byte_level = true;
    qn_status st = QN_OK;
    for (int b = 0; b < 256 && st == QN_OK; b++) {
        const char byte = (char)b;
        st = qni_tokenizer_add(t, b, &byte, 1, 0, err);
    }
    if (st == QN_OK) st = qni_tokenizer_seal(t, err);
    if (st == QN_OK)
        *out = t;
    else
        qn_tokenizer_close(t);
    return st;
}

qn_status qn_tokenizer_open_chars(qn_tokenizer **out, const char *text, size_t bytes, qn_err *err)
{
    const int64_t bad = qn_utf8_check(text, bytes);
    *out = NULL;
    if (bad >= 0)
        return QN_FAIL(err, QN_EFORMAT, "the text is not UTF-8: byte 0x%02x at offset %" PRId64,
                       (unsigned)(unsigned char)text[bad], bad);
    if (bytes == 0) return QN_FAIL(err, QN_ERANGE, "a character tokenizer needs a text that is not empty");
    const char *nul = memchr(text, '\0', bytes);
    if (nul != NULL) return QN_FAIL(err, QN_EFORMAT, "the text holds a NUL character at offset %zu", (size_t)(nul - text));
    qn_tokenizer *t = qni_tokenizer_new(QNI_TOK_CHARS);
    uint8_t *seen = qn_calloc(0x110000 / 8, 1);
    qn_status st = QN_OK;
    if (t == NULL || seen == NULL) st = QN_FAIL(err, QN_ENOMEM, "no memory for a tokenizer");
    for (size_t at = 0; at < bytes && st == QN_OK;) {
        const uint32_t code = qn_utf8_next(text, bytes, &at);
        seen[code >> 3] |= (uint8_t)(1u << (code & 7));
    }
    int64_t id = 0;
    for (uint32_t code = 0; code < 0x110000 && st == QN_OK; code++) {
        char c[4];
        if (code % 8 == 0 && seen[code >> 3] == 0)
            code += 7; /* none of these eight */
        else if (seen[code >> 3] >> (code & 7) & 1)
            st = qni_tokenizer_add(t, id++, c, (size_t)qn_utf8_put(c, code), 0, err);
    }
    if (st == QN_OK) st = qni_tokenizer_seal(t, err);
    qn_free(seen);
    if (st == QN_OK)
        *out = t;
    else
        qn_tokenizer_close(t);
    return st;
}

/* A pair of files of a directory, if both are there. */
static qn_status open_pair(qn_tokenizer **out, bool *found, const char *dir, const char *vocab_name, const char *merges_name,
                           qn_err *err)
{
    char vocab_path[PATH_MAX], merges_path[PATH_MAX];
    char *vocab = NULL, *merges = NULL;
    size_t vocab_bytes, merges_bytes;
    qn_status st;
    *found = false;
    QN_TRY(st, qn_path_join(vocab_path, sizeof(vocab_path), dir, vocab_name, err), out);
    QN_TRY(st, qn_path_join(merges_path, sizeof(merges_path), dir, merges_name, err), out);
    if (qn_path_exists(vocab_path) != 1 || qn_path_exists(merges_path) != 1) return QN_OK;
    *found = true;
    QN_TRY(st, qn_file_read(&vocab, &vocab_bytes, vocab_path, MAX_FILE, err), out);
    QN_TRY(st, qn_file_read(&merges, &merges_bytes, merges_path, MAX_FILE, err), out);
    st = qni_tokenizer_open_gpt2(out, vocab, vocab_bytes, merges, merges_bytes, err);
out:
    qn_free(vocab);
    qn_free(merges);
    return st;
}

static qn_status open_directory(qn_tokenizer **out, const char *dir, qn_err *err)
{
    char path[PATH_MAX];
    bool found;
    qn_status st = qn_path_join(path, sizeof(path), dir, "tokenizer.json", err);
    if (st != QN_OK) return st;
    if (qn_path_exists(path) == 1) return qn_tokenizer_open(out, path, err);
    st = open_pair(out, &found, dir, "encoder.json", "vocab.bpe", err);
    if (st != QN_OK || found) return st;
    st = open_pair(out, &found, dir, "vocab.json", "merges.txt", err);
    if (st != QN_OK || found) return st;
    return QN_FAIL(err, QN_ENOENT, "%s holds no tokenizer: neither tokenizer.json nor encoder.json with vocab.bpe", dir);
}

qn_status qn_tokenizer_open(qn_tokenizer **out, const char *path, qn_err *err)
{
    char *data = NULL;
    size_t bytes, at = 0;
    *out = NULL;
    if (qn_path_exists(path) == 2) return open_directory(out, path, err);
    qn_status st = qn_file_read(&data, &bytes, path, MAX_FILE, err);
    if (st != QN_OK) return st;
    while (at < bytes && strchr(" \t\r\n", data[at]) != NULL && data[at] != '\0') at++;
    qn_err why = {.code = QN_OK};
    const int32_t entries = at < bytes && data[at] == '{' ? -1 : qni_llama2c_entries(data, bytes);
    if (at < bytes && data[at] == '{')
        st = qn_tokenizer_open_json(out, data, bytes, &why);
    else if (entries >= 0)
        st = qn_tokenizer_open_llama2c(out, data, bytes, entries, &why);
    else
        st = QN_FAIL(&why, QN_EFORMAT, "neither a tokenizer.json nor a complete llama2.c tokenizer file");
    qn_free(data);
    return st == QN_OK ? QN_OK : QN_FAIL(err, st, "%s: %s", path, why.text);
}

int32_t qn_tokenizer_vocab(const qn_tokenizer *t)
{
    return t->table.count;
}

int32_t qn_tokenizer_bos(const qn_tokenizer *t)
{
    return t->bos;
}

int32_t qn_tokenizer_eos(const qn_tokenizer *t)
{
    return t->eos;
}

const char *qn_tokenizer_kind(const qn_tokenizer *t)
{
    static const char *const name[QNI_TOK_KINDS] = {"characters", "bytes",   "byte-level BPE", "BPE with byte fallback",
                                                    "BPE",        "llama2.c"};
    return name[t->kind];
}

/* GPT-2's own two files: encoder.json (token to id, in the byte alphabet) and vocab.bpe (a version line, then a merge a line). */
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "core/alloc.h"
#include "tokenizer_internal.h"

static const char end_of_text[] = "<|endoftext|>";

static qn_status read_entries(qn_tokenizer *t, json_t *vocab, qn_err *err)
{
    const char *key;
    json_t *v;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return QN_FAIL(err, QN_EFORMAT, "encoder.json is not an object of tokens and ids");
    json_object_foreach(vocab, key, v)
    {
        const size_t n = strlen(key);
        const json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= (json_int_t)json_object_size(vocab))
            return QN_FAIL(err, QN_EFORMAT, "encoder.json: the id of '%.64s' is not a number from 0 to %zu", key,
                           json_object_size(vocab) - 1);
        char *raw = qn_malloc(n + 1, 1);
        if (raw == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a token of %zu bytes", n);
        const int64_t bytes = qni_from_alphabet(raw, key, n);
        qn_status st;
        if (strcmp(key, end_of_text) == 0)
            st = qni_tokenizer_add(t, id, key, n, QNI_TOKEN_ADDED | QNI_TOKEN_SPECIAL, err);
        else if (bytes <= 0)
            st = QN_FAIL(err, QN_EFORMAT, "encoder.json: token '%.64s' is not written in GPT-2's byte alphabet", key);
        else
            st = qni_tokenizer_add(t, id, raw, (size_t)bytes, 0, err);
        qn_free(raw);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

static int32_t side(const qn_tokenizer *t, const char *text, size_t n)
{
    char raw[1024];
    if (n == 0 || n > sizeof(raw)) return -1;
    const int64_t bytes = qni_from_alphabet(raw, text, n);
    return bytes <= 0 ? -1 : qni_table_find(&t->table, raw, (size_t)bytes);
}

static qn_status read_lines(qn_tokenizer *t, const char *text, size_t bytes, qn_err *err)
{
    const char *end = text + bytes;
    int32_t rank = 0;
    for (int64_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        if (stop == NULL) stop = end;
        size_t n = (size_t)(stop - text);
        if (n > 0 && text[n - 1] == '\r') n--;
        const char *blank = memchr(text, ' ', n);
        if (n > 0 && !(line == 1 && n >= 8 && memcmp(text, "#version", 8) == 0)) {
            if (blank == NULL)
                return QN_FAIL(err, QN_EFORMAT, "vocab.bpe: line %" PRId64 " has no blank between two tokens", line);
            const int32_t left = side(t, text, (size_t)(blank - text)),
                          right = side(t, blank + 1, n - (size_t)(blank - text) - 1);
            if (left < 0 || right < 0)
                return QN_FAIL(err, QN_EFORMAT,
                               "vocab.bpe: line %" PRId64 " ('%.*s') names a token that encoder.json does not have", line,
                               (int)(n < 64 ? n : 64), text);
            const qn_status st = qni_tokenizer_merge(t, left, right, rank++, err);
            if (st != QN_OK) return st;
        }
        text = stop == end ? end : stop + 1;
    }
    return QN_OK;
}

qn_status qni_tokenizer_open_gpt2(qn_tokenizer **out, const char *vocab, size_t vocab_bytes, const char *merges,
                                  size_t merges_bytes, qn_err *err)
{
    json_error_t why;
    *out = NULL;
    json_t *root = json_loadb(vocab, vocab_bytes, JSON_REJECT_DUPLICATES, &why);
    if (root == NULL) return QN_FAIL(err, QN_EFORMAT, "encoder.json: line %d, column %d: %s", why.line, why.column, why.text);
    qn_tokenizer *t = qni_tokenizer_new(QNI_TOK_BYTE_LEVEL);
    qn_status st = t == NULL ? QN_FAIL(err, QN_ENOMEM, "no memory for a tokenizer") : QN_OK;
    if (st == QN_OK) {
        t->byte_level = true;
        st = read_entries(t, root, err);
    }
    json_decref(root);
    if (st == QN_OK) st = read_lines(t, merges, merges_bytes, err);
    if (st == QN_OK) st = qni_split_open(&t->split[0], qni_gpt2_pattern, strlen(qni_gpt2_pattern), true, err);
    if (st == QN_OK) {
        t->splits = 1;
        st = qni_tokenizer_seal(t, err);
    }
    if (st == QN_OK)
        *out = t;
    else
        qn_tokenizer_close(t);
    return st;
}

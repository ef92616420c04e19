/* llama2.c's tokenizer file: int32 longest token, then for each token f32 score, int32 length, bytes; blanks are blanks.
 *
 * llama2.c joins, again and again, the adjacent pair whose joined text is the token of the best score, the leftmost of equals.
 * That is BPE with a merge for every way to cut a token into two tokens, ranked by the token's score. Ids 0, 1, 2 are unknown,
 * BOS, EOS; byte b without a token is id b + 3. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/cursor.h"
#include "tokenizer_internal.h"

enum { MAX_TOKEN = 1024, FIRST_BYTE = 3 };

typedef struct scored {
    float score;
    int32_t id;
} scored;

int32_t qni_llama2c_entries(const void *data, size_t bytes)
{
    qn_cursor c = qn_cursor_of(bytes > 0 ? data : "", bytes);
    int32_t n = 0;
    (void)qn_cursor_u32(&c);
    while (!c.failed && qn_cursor_left(&c) > 0 && n < QNI_MAX_ID) {
        (void)qn_cursor_f32(&c);
        const uint32_t length = qn_cursor_u32(&c);
        if (length > MAX_TOKEN || qn_cursor_take(&c, length) == NULL) return -1;
        n++;
    }
    return c.failed || n == 0 || qn_cursor_left(&c) > 0 ? -1 : n;
}

static qn_status read_tokens(qn_tokenizer *t, scored *s, const void *data, size_t bytes, int32_t vocab, qn_err *err)
{
    qn_cursor c = qn_cursor_of(bytes > 0 ? data : "", bytes);
    const uint32_t longest = qn_cursor_u32(&c);
    if (longest > MAX_TOKEN)
        return QN_FAIL(err, QN_EFORMAT, "llama2.c tokenizer: a longest token of %" PRIu32 " bytes; at most %d are accepted",
                       longest, MAX_TOKEN);
    for (int32_t id = 0; id < vocab; id++) {
        int32_t twin;
        const float score = qn_cursor_f32(&c);
        const uint32_t length = qn_cursor_u32(&c);
        const char *text = length > MAX_TOKEN ? NULL : qn_cursor_take(&c, length);
        if (text == NULL)
            return QN_FAIL(err, QN_EFORMAT, "llama2.c tokenizer: the file of %zu bytes ends inside token %" PRId32 " of %" PRId32,
                           bytes, id, vocab);
        if (isnan(score))
            return QN_FAIL(err, QN_EFORMAT, "llama2.c tokenizer: the score of token %" PRId32 " is not a number", id);
        if (memchr(text, '\0', length) != NULL)
            return QN_FAIL(err, QN_EFORMAT, "llama2.c tokenizer: token %" PRId32 " holds a NUL byte", id);
        qn_status st = qni_table_set(&t->table, id, text, length, 0, err);
        if (st == QN_OK) st = qni_table_index(&t->table, id, &twin, err); /* of twins the first counts */
        if (st != QN_OK) return st;
        s[id] = (scored){.score = score, .id = id};
    }
    if (qn_cursor_left(&c) > 0)
        return QN_FAIL(err, QN_EFORMAT, "llama2.c tokenizer: %zu bytes are left behind the %" PRId32 " tokens of the model",
                       qn_cursor_left(&c), vocab);
    return QN_OK;
}

static int best_first(const void *x, const void *y)
{
    const scored *a = x, *b = y;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

/* All cuts of every token; tokens of one score share a rank. s is sorted. */
static qn_status make_merges(qn_tokenizer *t, const scored *s, int32_t vocab, qn_err *err)
{
    int32_t rank = -1;
    for (int32_t i = 0; i < vocab && s[i].score > -1e10f; i++) {
        const qni_token *k = &t->table.token[s[i].id];
        const char *p = qni_table_bytes(&t->table, s[i].id);
        if (i == 0 || s[i].score != s[i - 1].score) rank++;
        if (qni_table_find(&t->table, p, k->bytes) != s[i].id) continue; /* a later twin */
        for (uint32_t cut = 1; cut < k->bytes; cut++) {
            bool twin;
            const int32_t left = qni_table_find(&t->table, p, cut),
                          right = left < 0 ? -1 : qni_table_find(&t->table, p + cut, k->bytes - cut);
            if (right < 0) continue;
            const qn_status st = qni_merges_add(&t->merges, (qni_merge){left, right, rank, s[i].id}, &twin, err);
            if (st != QN_OK) return st;
        }
    }
    return QN_OK;
}

qn_status qn_tokenizer_open_llama2c(qn_tokenizer **out, const void *data, size_t bytes, int32_t vocab, qn_err *err)
{
    *out = NULL;
    if (vocab < FIRST_BYTE || vocab > QNI_MAX_ID || (size_t)vocab > bytes / 8)
        return QN_FAIL(err, QN_EFORMAT, "llama2.c tokenizer: %" PRId32 " tokens cannot be in a file of %zu bytes", vocab, bytes);
    qn_tokenizer *t = qni_tokenizer_new(QNI_TOK_LLAMA2C);
    scored *s = qn_malloc((size_t)vocab, sizeof(*s));
    qn_status st = t == NULL || s == NULL ? QN_FAIL(err, QN_ENOMEM, "no memory for a tokenizer")
                                          : read_tokens(t, s, data, bytes, vocab, err);
    if (st == QN_OK) {
        qsort(s, (size_t)vocab, sizeof(*s), best_first);
        st = make_merges(t, s, vocab, err);
    }
    qn_free(s);
    if (st == QN_OK) {
        t->unk = 0;
        t->bos = 1;
        t->eos = 2;
        t->mark = " ";
        t->prefix = QNI_PREFIX_ALWAYS;
        t->strip = true;
        st = qni_tokenizer_seal(t, err);
        t->byte_fallback = vocab >= FIRST_BYTE + 256;
        for (int32_t b = 0; b < 256 && t->byte_fallback; b++) {
            char name[8] = {'<', '0', 'x', "0123456789ABCDEF"[b >> 4], "0123456789ABCDEF"[b & 15], '>'};
            const int32_t id = FIRST_BYTE + b;
            t->byte_id[b] = id;
            if (t->table.token[id].bytes == 6 && memcmp(qni_table_bytes(&t->table, id), name, 6) == 0)
                t->table.token[id].flags |= QNI_TOKEN_BYTE;
        }
    }
    if (st == QN_OK)
        *out = t;
    else
        qn_tokenizer_close(t);
    return st;
}

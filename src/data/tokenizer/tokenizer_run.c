/* Encoding and decoding. A tokenizer is read only here; all scratch belongs to the call. */
#include <inttypes.h>
#include <string.h>
#include <utf8proc.h>

#include "bpe.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "data/text/text.h"
#include "tokenizer_internal.h"

typedef struct encoder {
    const qn_tokenizer *t;
    qni_bpe bpe;
    int32_t *id; /* the answer */
    int64_t count, cap;
    bool after_unk; /* the last symbol of this word was unknown */
} encoder;

/* One splitter's output goes to the next one. */
typedef struct splitting {
    encoder *e;
    int32_t next;
} splitting;

static qn_status emit(encoder *e, int32_t id, qn_err *err)
{
    if (e->count == e->cap) {
        const int64_t cap = e->cap == 0 ? 1024 : e->cap * 2;
        int32_t *more = qn_realloc(e->id, (size_t)cap, sizeof(*more));
        if (more == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %" PRId64 " tokens", cap);
        e->id = more;
        e->cap = cap;
    }
    e->id[e->count++] = id;
    return QN_OK;
}

static qn_status push_unknown(encoder *e, const char *c, size_t n, qn_err *err)
{
    const qn_tokenizer *t = e->t;
    bool all = t->byte_fallback;
    for (size_t i = 0; i < n && all; i++) all = t->byte_id[(unsigned char)c[i]] >= 0;
    qn_status st = QN_OK;
    if (all) {
        for (size_t i = 0; i < n && st == QN_OK; i++) st = qni_bpe_push(&e->bpe, t->byte_id[(unsigned char)c[i]], err);
        e->after_unk = false;
        return st;
    }
    if (t->unk < 0) {
        size_t at = 0;
        return QN_FAIL(err, QN_EFORMAT, "the tokenizer has no token for the character '%.*s' (U+%04" PRIX32 ")", (int)n, c,
                       qn_utf8_next(c, n, &at));
    }
    if (!(t->fuse_unk && e->after_unk)) st = qni_bpe_push(&e->bpe, t->unk, err);
    e->after_unk = true;
    return st;
}

/* Loads the word's symbols. */
static qn_status push_symbols(encoder *e, const char *word, size_t bytes, qn_err *err)
{
    const qn_tokenizer *t = e->t;
    qn_status st = QN_OK;
    qni_bpe_clear(&e->bpe);
    e->after_unk = false;
    for (size_t at = 0; at < bytes && st == QN_OK;) {
        if (t->byte_level) {
            const int32_t id = t->byte_id[(unsigned char)word[at]];
            if (id < 0)
                return QN_FAIL(err, QN_EFORMAT, "the tokenizer has no token for the byte 0x%02x",
                               (unsigned)(unsigned char)word[at]);
            at++;
            st = qni_bpe_push(&e->bpe, id, err);
            continue;
        }
        const size_t from = at;
        (void)qn_utf8_next(word, bytes, &at);
        const int32_t id = qni_table_find(&t->table, word + from, at - from);
        if (id < 0) {
            st = push_unknown(e, word + from, at - from, err);
        } else {
            st = qni_bpe_push(&e->bpe, id, err);
            e->after_unk = false;
        }
    }
    return st;
}

static qn_status encode_word(encoder *e, const char *word, size_t bytes, qn_err *err)
{
    const qn_tokenizer *t = e->t;
    if (t->ignore_merges) {
        const int32_t whole = qni_table_find(&t->table, word, bytes);
        if (whole >= 0) return emit(e, whole, err);
    }
    qn_status st = push_symbols(e, word, bytes, err);
    if (st == QN_OK && t->merges.used > 0) st = qni_bpe_run(&e->bpe, &t->merges, err);
    for (int32_t i = 0; i < e->bpe.count && st == QN_OK; i++)
        if (e->bpe.symbol[i].id >= 0) st = emit(e, e->bpe.symbol[i].id, err);
    return st;
}

/* Text without pattern splitting, cut before each mark that follows something else (all of them when asked for). */
static qn_status encode_marked(encoder *e, const char *text, size_t bytes, qn_err *err)
{
    const qn_tokenizer *t = e->t;
    const size_t m = strlen(t->mark);
    size_t from = 0;
    qn_status st = QN_OK;
    bool after_mark = true;
    for (size_t at = 0; at < bytes && st == QN_OK;) {
        const bool mark = bytes - at >= m && memcmp(text + at, t->mark, m) == 0;
        if (mark && at > from && (!after_mark || t->cut_each_mark)) {
            st = encode_word(e, text + from, at - from, err);
            from = at;
        }
        after_mark = mark;
        if (mark)
            at += m;
        else
            (void)qn_utf8_next(text, bytes, &at);
    }
    if (st == QN_OK && from < bytes) st = encode_word(e, text + from, bytes - from, err);
    return st;
}

static qn_status encode_piece(void *ctx, const char *piece, size_t bytes, qn_err *err)
{
    const splitting *s = ctx;
    const qn_tokenizer *t = s->e->t;
    splitting inner = {.e = s->e, .next = s->next + 1};
    if (s->next < t->splits) return qni_split_run(t->split[s->next], piece, bytes, encode_piece, &inner, err);
    return t->mark != NULL && (t->cut_at_mark || t->cut_each_mark) ? encode_marked(s->e, piece, bytes, err)
                                                                   : encode_word(s->e, piece, bytes, err);
}

/* *out is text in NFC, allocated, or NULL when text is in it already for being ASCII. */
static qn_status to_nfc(char **out, size_t *out_bytes, const char *text, size_t bytes, qn_err *err)
{
    const utf8proc_option_t how = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
    size_t i = 0;
    *out = NULL;
    while (i < bytes && (unsigned char)text[i] < 0x80) i++;
    if (i == bytes) return QN_OK;
    const utf8proc_ssize_t codes = utf8proc_decompose((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, NULL, 0, how);
    utf8proc_int32_t *buf = codes < 0 ? NULL : qn_malloc((size_t)codes + 1, sizeof(*buf));
    if (buf == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for normalising %zu bytes of text", bytes);
    (void)utf8proc_decompose((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, buf, codes, how);
    const utf8proc_ssize_t n = utf8proc_reencode(buf, codes, how);
    if (n < 0) {
        qn_free(buf);
        return QN_FAIL(err, QN_EFORMAT, "the text cannot be normalised: %s", utf8proc_errmsg(n));
    }
    *out = (char *)buf;
    *out_bytes = (size_t)n;
    return QN_OK;
}

/* *out: text with a mark or blank before it where that is asked for and blanks replaced by the mark, or NULL when nothing
 * changes. */
static qn_status mark_blanks(char **out, size_t *out_bytes, const qn_tokenizer *t, const char *text, size_t bytes, bool first,
                             qn_err *err)
{
    const char *mark = t->byte_level ? " " : t->mark;
    const size_t m = mark == NULL ? 0 : strlen(mark);
    size_t blanks = 0, cap, used = 0;
    *out = NULL;
    if (mark == NULL || bytes == 0 || (t->byte_level && !t->prefix_space)) return QN_OK;
    for (size_t i = 0; i < bytes; i++) blanks += text[i] == ' ';
    if (!qn_mul_size(&cap, blanks, m) || !qn_add_size(&cap, cap, bytes + m))
        return QN_FAIL(err, QN_ERANGE, "a text of %zu bytes is too long", bytes);
    char *p = *out = qn_malloc(cap, 1);
    if (p == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for %zu bytes of text", cap);
    bool prefix = t->prefix == QNI_PREFIX_ALWAYS || (t->prefix == QNI_PREFIX_FIRST && first);
    if (t->prefix_once && (text[0] == ' ' || (bytes >= m && memcmp(text, mark, m) == 0))) prefix = false;
    if (prefix) {
        memcpy(p, mark, m);
        used = m;
    }
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == ' ') {
            memcpy(p + used, mark, m);
            used += m;
        } else {
            p[used++] = text[i];
        }
    }
    *out_bytes = used;
    return QN_OK;
}

/* Text between two added tokens. first: it starts where the whole text starts. */
static qn_status encode_segment(encoder *e, const char *text, size_t bytes, bool first, qn_err *err)
{
    char *nfc = NULL, *marked = NULL;
    qn_status st = QN_OK;
    splitting s = {.e = e};
    if (e->t->nfc) QN_TRY(st, to_nfc(&nfc, &bytes, text, bytes, err), out);
    if (nfc != NULL) text = nfc;
    QN_TRY(st, mark_blanks(&marked, &bytes, e->t, text, bytes, first, err), out);
    if (marked != NULL) text = marked;
    st = bytes == 0 ? QN_OK : encode_piece(&s, text, bytes, err);
out:
    qn_free(nfc);
    qn_free(marked);
    return st;
}

/* The longest added token that text starts with, or -1. */
static int32_t added_at(const qn_tokenizer *t, const char *text, size_t bytes)
{
    const unsigned char c = (unsigned char)text[0];
    for (int32_t i = t->added_from[c]; i < t->added_from[c + 1]; i++) {
        const qni_token *k = &t->table.token[t->added[i]];
        if (k->bytes <= bytes && memcmp(qni_table_bytes(&t->table, t->added[i]), text, k->bytes) == 0) return t->added[i];
    }
    return -1;
}

qn_status qn_tokenizer_encode(int32_t **out, int64_t *count, const qn_tokenizer *t, const char *text, size_t bytes, qn_err *err)
{
    encoder e = {.t = t};
    qn_status st = QN_OK;
    size_t from = 0;
    *out = NULL;
    *count = 0;
    const int64_t bad = t->kind == QNI_TOK_BYTES ? -1 : qn_utf8_check(text, bytes);
    if (bad >= 0)
        return QN_FAIL(err, QN_EFORMAT, "the text is not UTF-8: byte 0x%02x at offset %" PRId64,
                       (unsigned)(unsigned char)text[bad], bad);
    for (size_t at = 0; t->added != NULL && at < bytes && st == QN_OK;) {
        const int32_t id = added_at(t, text + at, bytes - at);
        if (id < 0) {
            at++;
            continue;
        }
        if (at > from) st = encode_segment(&e, text + from, at - from, from == 0, err);
        if (st == QN_OK) st = emit(&e, id, err);
        from = at += t->table.token[id].bytes;
    }
    if (st == QN_OK && from < bytes) st = encode_segment(&e, text + from, bytes - from, from == 0, err);
    if (st == QN_OK && e.id == NULL) { /* no tokens: still something to free */
        e.id = qn_malloc(1, sizeof(*e.id));
        if (e.id == NULL) st = QN_FAIL(err, QN_ENOMEM, "no memory for tokens");
    }
    qni_bpe_fini(&e.bpe);
    if (st == QN_OK) {
        *out = e.id;
        *count = e.count;
    } else {
        qn_free(e.id);
    }
    return st;
}

/* Bytes of one token, at most its own length; to may be NULL to count. */
static size_t token_text(char *to, const qn_tokenizer *t, int32_t id)
{
    const qni_token *k = &t->table.token[id];
    const char *p = qni_table_bytes(&t->table, id);
    const size_t m = t->mark == NULL || (k->flags & QNI_TOKEN_ADDED) ? 0 : strlen(t->mark);
    size_t used = 0;
    if (k->flags & QNI_TOKEN_BYTE) {
        const char *hex = "0123456789ABCDEF";
        if (to != NULL) *to = (char)((strchr(hex, p[3]) - hex) << 4 | (strchr(hex, p[4]) - hex));
        return 1;
    }
    for (size_t i = 0; i < k->bytes;) {
        const bool blank = m > 0 && k->bytes - i >= m && memcmp(p + i, t->mark, m) == 0;
        if (to != NULL) to[used] = blank ? ' ' : p[i];
        used++;
        i += blank ? m : 1;
    }
    return used;
}

enum { TEXT_BEGINS, AFTER_BOS, IN_TEXT }; /* states of qn_tokenizer_next */

static bool has_id(const qn_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->table.count && t->table.token[id].flags != 0;
}

int64_t qn_tokenizer_next(char *out, const qn_tokenizer *t, int32_t id, int *state)
{
    if (!has_id(t, id)) return -1;
    if (id == t->bos || id == t->eos) {
        *state = id == t->bos ? AFTER_BOS : IN_TEXT;
        return 0;
    }
    const bool after_bos = *state == AFTER_BOS || (*state == TEXT_BEGINS && t->bos < 0);
    size_t n = token_text(out, t, id);
    if (t->strip && after_bos && n > 0 && *out == ' ' && !(t->table.token[id].flags & QNI_TOKEN_ADDED))
        memmove(out, out + 1, --n);
    *state = IN_TEXT;
    return (int64_t)n;
}

size_t qn_tokenizer_longest(const qn_tokenizer *t)
{
    size_t most = 1;
    for (int32_t id = 0; id < t->table.count; id++)
        if (has_id(t, id) && token_text(NULL, t, id) > most) most = token_text(NULL, t, id);
    return most;
}

qn_status qn_tokenizer_decode(char **out, size_t *bytes, const qn_tokenizer *t, const int32_t *ids, int64_t count, qn_err *err)
{
    size_t cap = 1, used = 0;
    *out = NULL;
    *bytes = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!has_id(t, ids[i]))
            return QN_FAIL(err, QN_ERANGE,
                           "token %" PRId64 " is %" PRId32 "; the vocabulary has no such entry (it ends before %" PRId32 ")", i,
                           ids[i], t->table.count);
        if (!qn_add_size(&cap, cap, token_text(NULL, t, ids[i])))
            return QN_FAIL(err, QN_ERANGE, "the text of %" PRId64 " tokens is too long", count);
    }
    char *p = qn_malloc(cap, 1);
    if (p == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for the text of %" PRId64 " tokens", count);
    int state = TEXT_BEGINS;
    for (int64_t i = 0; i < count; i++) used += (size_t)qn_tokenizer_next(p + used, t, ids[i], &state);
    p[used] = '\0';
    *out = p;
    *bytes = used;
    return QN_OK;
}

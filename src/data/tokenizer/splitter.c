/* Splitting. A pattern comes from a file, so its length, nesting and the steps of a match are bounded. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "splitter.h"

#include <pcre2.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"

enum { MAX_PATTERN = 4096, MATCH_STEPS = 20000000, NEST = 100, HEAP_KIB = 65536 };

const char qni_gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Unicode White_Space, which is what \s means to those who publish patterns; PCRE2's own \s also takes U+180E. */
static const char white[] = "\\t-\\r\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

struct qni_split {
    pcre2_general_context *memory;
    pcre2_match_context *limits;
    pcre2_code *code;
    bool keep_gaps;
};

static void *pcre_malloc(size_t bytes, void *ctx)
{
    (void)ctx;
    return qn_malloc(bytes, 1);
}

static void pcre_free(void *p, void *ctx)
{
    (void)ctx;
    qn_free(p);
}

/* Writes the pattern with \s and \S spelled out (\S inside a class stays); out has room for it. Returns the length. */
static size_t spell_white(char *out, const char *p, size_t n)
{
    size_t used = 0;
    bool inside = false;
    for (size_t i = 0; i < n; i++) {
        const bool escape = p[i] == '\\' && i + 1 < n;
        const char next = escape ? p[i + 1] : '\0';
        if (next == 's' || (next == 'S' && !inside)) {
            const char *open = inside ? "" : next == 's' ? "[" : "[^";
            memcpy(out + used, open, strlen(open));
            used += strlen(open);
            memcpy(out + used, white, sizeof(white) - 1);
            used += sizeof(white) - 1;
            if (!inside) out[used++] = ']';
            i++;
            continue;
        }
        if (!escape && p[i] == '[') inside = true;
        if (!escape && p[i] == ']') inside = false;
        out[used++] = p[i];
        if (escape) out[used++] = p[++i];
    }
    return used;
}

static qn_status compile(qni_split *s, const char *pattern, size_t bytes, qn_err *err)
{
    int code = 0;
    PCRE2_SIZE where = 0;
    char *spelled = qn_malloc(bytes + 1, sizeof(white) + 3);
    pcre2_compile_context *cc = pcre2_compile_context_create(s->memory);
    qn_status st = QN_OK;
    if (spelled == NULL || cc == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for a splitting pattern");
        goto out;
    }
    pcre2_set_parens_nest_limit(cc, NEST);
    s->code = pcre2_compile((PCRE2_SPTR)spelled, spell_white(spelled, pattern, bytes),
                            PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &where, cc);
    if (s->code == NULL && code == PCRE2_ERROR_HEAP_FAILED) {
        st = QN_FAIL(err, QN_ENOMEM, "no memory for a splitting pattern");
        goto out;
    }
    if (s->code == NULL) {
        PCRE2_UCHAR why[128] = {0};
        pcre2_get_error_message(code, why, sizeof(why));
        st = QN_FAIL(err, QN_EFORMAT, "the splitting pattern '%.*s' is not usable: %s", (int)(bytes < 200 ? bytes : 200), pattern,
                     (const char *)why);
        goto out;
    }
    (void)pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE); /* where there is no JIT, pcre2_match interprets */
out:
    pcre2_compile_context_free(cc);
    qn_free(spelled);
    return st;
}

qn_status qni_split_open(qni_split **out, const char *pattern, size_t bytes, bool keep_gaps, qn_err *err)
{
    *out = NULL;
    if (bytes > MAX_PATTERN)
        return QN_FAIL(err, QN_EFORMAT, "a splitting pattern has %zu bytes; at most %d are accepted", bytes, MAX_PATTERN);
    qni_split *s = qn_calloc(1, sizeof(*s));
    if (s == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for a splitting pattern");
    s->keep_gaps = keep_gaps;
    s->memory = pcre2_general_context_create(pcre_malloc, pcre_free, NULL);
    s->limits = s->memory == NULL ? NULL : pcre2_match_context_create(s->memory);
    if (s->limits == NULL) {
        qni_split_close(s);
        return QN_FAIL(err, QN_ENOMEM, "no memory for a splitting pattern");
    }
    pcre2_set_match_limit(s->limits, MATCH_STEPS);
    pcre2_set_heap_limit(s->limits, HEAP_KIB);
    const qn_status st = compile(s, pattern, bytes, err);
    if (st == QN_OK)
        *out = s;
    else
        qni_split_close(s);
    return st;
}

void qni_split_close(qni_split *s)
{
    if (s == NULL) return;
    pcre2_code_free(s->code);
    pcre2_match_context_free(s->limits);
    pcre2_general_context_free(s->memory);
    qn_free(s);
}

qn_status qni_split_run(const qni_split *s, const char *text, size_t bytes, qni_piece_fn *fn, void *ctx, qn_err *err)
{
    qn_status st = QN_OK;
    size_t from = 0, done = 0; /* where to look next; end of the last piece */
    pcre2_match_data *match = pcre2_match_data_create(1, s->memory);
    if (match == NULL) return QN_FAIL(err, QN_ENOMEM, "no memory for splitting text");
    while (from < bytes && st == QN_OK) {
        const int r = pcre2_match(s->code, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK, match, s->limits);
        if (r == PCRE2_ERROR_NOMATCH) break;
        if (r < 0) {
            PCRE2_UCHAR why[128] = {0};
            pcre2_get_error_message(r, why, sizeof(why));
            st = QN_FAIL(err, r == PCRE2_ERROR_NOMEMORY ? QN_ENOMEM : QN_ERANGE,
                         "the tokenizer's splitting pattern fails on this text near byte %zu: %s", from, (const char *)why);
            break;
        }
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(match);
        if (v[1] <= v[0] || v[0] < done) { /* an empty match (or one moved by \K): go on behind the next character */
            if (v[0] > from) from = v[0];
            for (from++; from < bytes && ((unsigned char)text[from] & 0xc0) == 0x80;) from++;
            continue;
        }
        if (v[0] > done && s->keep_gaps) st = fn(ctx, text + done, v[0] - done, err);
        if (st == QN_OK) st = fn(ctx, text + v[0], v[1] - v[0], err);
        from = done = v[1];
    }
    if (st == QN_OK && done < bytes && s->keep_gaps) st = fn(ctx, text + done, bytes - done, err);
    pcre2_match_data_free(match);
    return st;
}

static bool printable(uint32_t c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

/* The bytes without a printable character, in order: 0..32, 127..160, 173. */
uint32_t qni_byte_to_char(uint8_t byte)
{
    if (printable(byte)) return byte;
    return 0x100 + (byte <= 0x20 ? byte : byte <= 0xa0 ? byte - 0x7fu + 33 : 67);
}

int32_t qni_char_to_byte(uint32_t code)
{
    if (code < 0x100) return printable(code) ? (int32_t)code : -1;
    const uint32_t n = code - 0x100;
    if (n < 33) return (int32_t)n;
    if (n < 67) return (int32_t)(n - 33 + 0x7f);
    return n == 67 ? 0xad : -1;
}

uint8_t qni_alphabet_byte(int32_t n)
{
    if (n < 94) return (uint8_t)(0x21 + n);
    if (n < 106) return (uint8_t)(0xa1 + n - 94);
    if (n < 188) return (uint8_t)(0xae + n - 106);
    return (uint8_t)qni_char_to_byte(0x100 + (uint32_t)(n - 188));
}

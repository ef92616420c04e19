/* Growable text. */
#include "page.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "data/text/text.h"

static bool room_for(qni_page *p, size_t more)
{
    if (p->failed) return false;
    if (more >= (size_t)1 << 40) {
        p->failed = true;
        return false;
    }
    const size_t want = p->used + more + 1;
    if (want <= p->cap) return true;
    size_t cap = p->cap < 4096 ? 4096 : p->cap;
    while (cap < want) cap *= 2;
    char *grown = qn_realloc(p->text, cap, 1);
    if (grown == NULL) {
        p->failed = true;
        return false;
    }
    p->text = grown;
    p->cap = cap;
    return true;
}

void qni_page_bytes(qni_page *p, const char *text, size_t bytes)
{
    if (!room_for(p, bytes)) return;
    memcpy(p->text + p->used, text, bytes);
    p->used += bytes;
    p->text[p->used] = '\0';
}

void qni_page_add(qni_page *p, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0 || !room_for(p, (size_t)n)) {
        p->failed = true;
        return;
    }
    va_start(args, fmt);
    vsnprintf(p->text + p->used, (size_t)n + 1, fmt, args);
    va_end(args);
    p->used += (size_t)n;
}

static void html_run(qni_page *p, const char *text, size_t bytes)
{
    size_t from = 0;
    for (size_t i = 0; i < bytes; i++) {
        const unsigned char c = (unsigned char)text[i];
        const char *as = c == '&'                                            ? "&amp;"
                         : c == '<'                                          ? "&lt;"
                         : c == '>'                                          ? "&gt;"
                         : c == '"'                                          ? "&quot;"
                         : c == '\''                                         ? "&#39;"
                         : (c < 0x20 && c != '\n' && c != '\t') || c == 0x7F ? "\xEF\xBF\xBD"
                                                                             : NULL;
        if (as == NULL) continue;
        qni_page_bytes(p, text + from, i - from);
        qni_page_bytes(p, as, strlen(as));
        from = i + 1;
    }
    qni_page_bytes(p, text + from, bytes - from);
}

void qni_page_html(qni_page *p, const char *text)
{
    size_t bytes = strlen(text);
    while (bytes > 0) {
        const int64_t bad = qn_utf8_check(text, bytes);
        const size_t good = bad < 0 ? bytes : (size_t)bad;
        html_run(p, text, good);
        if (bad < 0) break;
        qni_page_bytes(p, "\xEF\xBF\xBD", 3);
        text += good + 1;
        bytes -= good + 1;
    }
}

void qni_page_number(qni_page *p, double x)
{
    if (isfinite(x))
        qni_page_add(p, "%.17g", x);
    else
        qni_page_add(p, "null");
}

void qni_page_count(qni_page *p, long long n)
{
    char digits[32];
    const int len = snprintf(digits, sizeof(digits), "%lld", n);
    for (int i = 0; i < len; i++) {
        if (i > (n < 0) && (len - i) % 3 == 0) qni_page_bytes(p, ",", 1);
        qni_page_bytes(p, digits + i, 1);
    }
}

qn_status qni_page_done(char **out, qni_page *p, qn_err *err)
{
    qni_page_add(p, "%s", ""); /* an empty page is a text, too */
    if (p->failed) {
        qni_page_fini(p);
        return QN_FAIL(err, QN_ENOMEM, "text of a report");
    }
    *out = p->text;
    *p = (qni_page){.text = NULL};
    return QN_OK;
}

void qni_page_fini(qni_page *p)
{
    qn_free(p->text);
    *p = (qni_page){.text = NULL};
}

/* Lines, words and numbers of schedule files; strict, bounded, with line and column in every complaint. */
#include "text_scan.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

qni_scan qni_scan_of(const char *text, size_t bytes)
{
    return (qni_scan){.next = text, .end = text + bytes, .start = text, .at = text, .stop = text};
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

bool qni_scan_line(qni_scan *s)
{
    while (s->next < s->end) {
        const char *newline = memchr(s->next, '\n', (size_t)(s->end - s->next));
        s->start = s->at = s->next;
        s->stop = newline != NULL ? newline : s->end;
        s->next = newline != NULL ? newline + 1 : s->end;
        s->line++;
        for (const char *c = s->start; c < s->stop; c++) {
            if (*c != '#' || (c > s->start && c[-1] >= '0' && c[-1] <= '9')) continue; /* 5#3 is chunk 3 of stage 5 */
            s->stop = c;
        }
        while (s->at < s->stop && is_blank(*s->at)) s->at++;
        if (s->at < s->stop) return true;
    }
    s->start = s->at = s->stop = s->end;
    return false;
}

bool qni_scan_word(qni_scan *s, qni_word *w)
{
    while (s->at < s->stop && is_blank(*s->at)) s->at++;
    const char *from = s->at;
    while (s->at < s->stop && !is_blank(*s->at)) s->at++;
    *w = (qni_word){from, (size_t)(s->at - from)};
    return w->length > 0;
}

bool qni_word_is(qni_word w, const char *text)
{
    return w.length == strlen(text) && memcmp(w.at, text, w.length) == 0;
}

bool qni_word_int(int64_t *out, qni_word w, int64_t low, int64_t high)
{
    const bool minus = w.length > 0 && w.at[0] == '-';
    int64_t n = 0;
    if (w.length == (size_t)minus) return false;
    for (size_t i = minus; i < w.length; i++) {
        if (w.at[i] < '0' || w.at[i] > '9') return false;
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, w.at[i] - '0', &n)) return false;
    }
    if (minus) n = -n;
    if (n < low || n > high) return false;
    *out = n;
    return true;
}

bool qni_word_place(int32_t *stage, int32_t *item, qni_word w)
{
    const char *dot = w.length > 0 ? memchr(w.at, '.', w.length) : NULL;
    if (dot == NULL && w.length > 0) dot = memchr(w.at, '#', w.length);
    const size_t head = dot != NULL ? (size_t)(dot - w.at) : w.length;
    int64_t s, i = QN_NONE;
    if (!qni_word_int(&s, (qni_word){w.at, head}, 0, INT32_MAX)) return false;
    if (dot != NULL && !qni_word_int(&i, (qni_word){dot + 1, w.length - head - 1}, 0, INT32_MAX)) return false;
    *stage = (int32_t)s;
    *item = (int32_t)i;
    return true;
}

int32_t qni_word_find(qni_word w, const char *(*name)(int32_t), int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        if (qni_word_is(w, name(i))) return i;
    }
    return QN_NONE;
}

const char *qni_word_show(char buf[40], qni_word w)
{
    size_t n = 0;
    for (; n < w.length && n < 32; n++) buf[n] = w.at[n] >= ' ' && w.at[n] < 127 ? w.at[n] : '?';
    memcpy(buf + n, w.length > 32 ? "..." : "", w.length > 32 ? 4 : 1);
    return buf;
}

qn_status qni_scan_fail(qn_err *err, const qni_scan *s, qni_word w, const char *file, int line, const char *fmt, ...)
{
    char text[QN_ERR_TEXT / 2];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return qn_fail(err, QN_EFORMAT, file, line, "line %d, column %ld: %s", s->line, (long)(w.at - s->start) + 1, text);
}

qn_status qni_scan_line_end(qni_scan *s, qn_err *err)
{
    qni_word w;
    char show[40];
    if (!qni_scan_word(s, &w)) return QN_OK;
    return QNI_SCAN_FAIL(err, s, w, "'%s' is too much on this line", qni_word_show(show, w));
}

qn_status qni_scan_numbers(qni_scan *s, int64_t *out, int32_t count, int64_t low, int64_t high, const char *what, qn_err *err)
{
    for (int32_t i = 0; i < count; i++) {
        qni_word w;
        char show[40];
        qni_scan_word(s, &w);
        if (!qni_word_int(&out[i], w, low, high))
            return QNI_SCAN_FAIL(err, s, w, "'%s' found, a number from %lld to %lld wanted (%s)", qni_word_show(show, w),
                                 (long long)low, (long long)high, what);
    }
    return qni_scan_line_end(s, err);
}

qn_status qni_scan_grid_number(qni_scan *s, int32_t *out, int32_t most, const char *what, qn_err *err)
{
    int64_t n = 1;
    const qn_status st = qni_scan_numbers(s, &n, 1, 1, most, what, err);
    if (st == QN_OK) *out = (int32_t)n;
    return st;
}

qn_status qni_scan_head(qni_scan *s, const char *form, qni_sizes *out, qn_err *err)
{
    static const char *const key[] = {"workers", "stages", "items"};
    const int64_t most[] = {QN_MAX_WORKERS, QNI_MAX_STAGES, QNI_MAX_TASKS};
    int64_t n[3], version;
    qni_word w = {s->at, 0};
    char show[40];
    qn_status st = QN_OK;
    if (qni_scan_line(s)) qni_scan_word(s, &w);
    if (!qni_word_is(w, form))
        return QNI_SCAN_FAIL(err, s, w, "'%s' found, '%s 1' wanted as the first line", qni_word_show(show, w), form);
    QN_TRY(st, qni_scan_numbers(s, &version, 1, 1, 1, "version of the form", err), out);
    for (int32_t i = 0; i < 3; i++) {
        w = (qni_word){s->end, 0};
        if (qni_scan_line(s)) qni_scan_word(s, &w);
        if (!qni_word_is(w, key[i]))
            return QNI_SCAN_FAIL(err, s, w, "'%s' found, '%s N' wanted here", qni_word_show(show, w), key[i]);
        QN_TRY(st, qni_scan_numbers(s, &n[i], 1, 1, most[i], key[i], err), out);
    }
    *out = (qni_sizes){(int32_t)n[0], (int32_t)n[1], (int32_t)n[2]};
out:
    return st;
}

qn_status qni_scan_vocabulary(qni_scan *s, int32_t *sides, int32_t *vocab, int32_t stages, qn_err *err)
{
    int64_t n[2];
    const qn_status st = qni_scan_numbers(s, n, 2, 1, stages, "vocabulary SHARDS ALGORITHM, fewer shards than stages", err);
    if (st != QN_OK) return st;
    *sides = (int32_t)n[0];
    *vocab = (int32_t)n[1];
    return QN_OK;
}

qn_status qni_scan_cursor(qni_scan *s, int32_t *turn, int32_t *round, int32_t workers, qn_err *err)
{
    int64_t n[2];
    const qni_word w = {s->at, 0};
    const qn_status st = qni_scan_numbers(s, n, 2, 0, QNI_MAX_TASKS, "cursor TURN ROUND", err);
    if (st != QN_OK) return st;
    if (n[0] >= workers)
        return QNI_SCAN_FAIL(err, s, w, "cursor %lld: there are %d workers, so 0 to %d are possible", (long long)n[0], workers,
                             workers - 1);
    *turn = (int32_t)n[0];
    *round = (int32_t)n[1];
    return QN_OK;
}

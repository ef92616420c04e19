/* --sizes: bytes of a stage's values as a user writes them; see schedule_costs.h. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/bytes_text.h"
#include "schedule_costs.h"

enum { MOST_STAGES = 65536 };
static const int64_t MOST_BYTES = 2000000000000000;

static const char *const size_name[QNI_SIZES] = {"act", "stash", "wstash", "weights", "grads"};

/* "act=1M,stash=4M" up to a ';' or the end; bytes -1: not said. */
static qn_status read_row(int64_t bytes[QNI_SIZES], const char **at, const char *text, qn_err *err)
{
    const char *s = *at;
    for (int k = 0; k < QNI_SIZES; k++) bytes[k] = -1;
    for (;; s++) {
        const size_t len = strcspn(s, "=,;");
        int k = 0;
        bool fits = true;
        int64_t x = 0;
        while (k < QNI_SIZES && (strlen(size_name[k]) != len || strncmp(s, size_name[k], len) != 0)) k++;
        const char *rest = k < QNI_SIZES && s[len] == '=' ? qn_bytes_read(&x, &fits, s + len + 1) : NULL;
        if (rest == NULL || strchr(",;", *rest) == NULL || !fits || x > MOST_BYTES)
            return QN_FAIL(err, QN_EINVAL,
                           "--sizes %.80s: '%.40s' found; act, stash, wstash, weights or grads with a number of bytes was "
                           "wanted, as in act=1M,stash=12M,weights=4M",
                           text, s);
        bytes[k] = x;
        s = rest;
        if (*s != ',') break;
    }
    *at = s;
    return QN_OK;
}

static qn_status set_rows(qni_costs *c, const int64_t bytes[QNI_SIZES], int32_t first, int32_t last, int32_t rows, qn_err *err)
{
    for (int k = 0; k < QNI_SIZES; k++) {
        if (bytes[k] < 0) continue;
        if (c->size[k] == NULL) c->size[k] = qn_calloc((size_t)rows, sizeof(int64_t));
        if (c->size[k] == NULL) return QN_FAIL(err, QN_ENOMEM, "sizes of %d stages", rows);
        for (int32_t i = first; i <= last; i++) c->size[k][i] = bytes[k];
    }
    return QN_OK;
}

/* "3:" or "0-3:" in front of a row; stage `from` is wanted. Returns the row, NULL: something else is there. */
static const char *read_range(long *last, const char *s, long from)
{
    char *end;
    const long first = strtol(s, &end, 10);
    const bool digits = end != s;
    *last = first;
    if (digits && *end == '-') *last = strtol(end + 1, &end, 10);
    return digits && *end == ':' && first == from && *last >= first && *last < MOST_STAGES ? end + 1 : NULL;
}

/* How many stages the text speaks of. */
static qn_status count_stages(int32_t *rows, const char *text, qn_err *err)
{
    long last = -1;
    for (const char *s = text; *s != '\0';) {
        const char *row = read_range(&last, s, last + 1);
        if (row == NULL)
            return QN_FAIL(err, QN_EINVAL,
                           "--sizes %.80s: '%.40s' found; stage %d was wanted, as in %d:weights=8M or %d-%d:weights=8M", text, s,
                           *rows, *rows, *rows, *rows + 3);
        *rows = (int32_t)last + 1;
        s = row + strcspn(row, ";");
        if (*s == ';') s++;
    }
    return QN_OK;
}

/* Times that hold for all stages become those of each of so many. */
static qn_status cost_each(qni_costs *c, int32_t rows, const char *text, qn_err *err)
{
    if (c->stages == rows) return QN_OK;
    if (c->stages > 0) return QN_FAIL(err, QN_EINVAL, "--sizes %.80s: of %d stages; the costs are of %d", text, rows, c->stages);
    if (c->tick[QN_OP_F] < 0)
        return QN_FAIL(err, QN_EINVAL, "--sizes %.80s: sizes of each stage need times too, as in --cost F=1,B=2", text);
    c->stage = qn_calloc((size_t)rows, sizeof *c->stage);
    if (c->stage == NULL) return QN_FAIL(err, QN_ENOMEM, "costs of %d stages", rows);
    for (int32_t i = 0; i < rows; i++) memcpy(c->stage[i], c->tick, sizeof c->tick);
    c->stages = rows;
    return QN_OK;
}

qn_status qni_costs_sizes(qni_costs *c, const char *text, qn_err *err)
{
    int64_t bytes[QNI_SIZES];
    int32_t rows = 0;
    qn_status st = QN_OK;
    if (text == NULL || *text == '\0') return QN_OK;
    if (strchr(text, ':') == NULL) {
        const char *s = text;
        rows = c->stages > 0 ? c->stages : 1;
        st = read_row(bytes, &s, text, err);
        if (st == QN_OK && *s != '\0')
            st = QN_FAIL(err, QN_EINVAL, "--sizes %.80s: ';' stands between stages, as in 0:weights=8M;1:weights=20M", text);
        return st == QN_OK ? set_rows(c, bytes, 0, rows - 1, rows, err) : st;
    }
    st = count_stages(&rows, text, err);
    if (st == QN_OK) st = cost_each(c, rows, text, err);
    long from = 0, last = -1;
    for (const char *s = text; st == QN_OK && *s != '\0'; from = last + 1) {
        s = read_range(&last, s, from);
        st = read_row(bytes, &s, text, err);
        if (st == QN_OK) st = set_rows(c, bytes, (int32_t)from, (int32_t)last, rows, err);
        if (*s == ';') s++;
    }
    return st;
}

/* See schedule_costs.h. Times are read as millionths; ticks are as coarse as the decimals written allow. */
#include "schedule_costs.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/io.h"
#include "cost_file.h"

enum { DECIMALS = 6 };
static const int64_t MOST_TICKS = 1000000000; /* times the most tasks of a step still fits into 64 bits */

static const struct {
    const char *name;
    qn_op op;
} named[] = {{"F", QN_OP_F},  {"B", QN_OP_B},  {"W", QN_OP_W},   {"R", QN_OP_R},  {"BW", QN_OP_BW},
             {"S", QN_OP_VS}, {"T", QN_OP_VT}, {"VI", QN_OP_VI}, {"VJ", QN_OP_VJ}};

/* A number without sign or exponent, in millionths. */
static const char *read_number(int64_t *micro, const char *s)
{
    int64_t whole = 0, part = 0;
    int places = 0, digits = 0;
    for (; *s >= '0' && *s <= '9'; s++, digits++) {
        whole = whole * 10 + (*s - '0');
        if (whole > MOST_TICKS) return NULL;
    }
    if (*s == '.') {
        for (s++; *s >= '0' && *s <= '9'; s++, digits++) {
            if (places == DECIMALS && *s != '0') return NULL;
            if (places == DECIMALS) continue;
            part = part * 10 + (*s - '0');
            places++;
        }
    }
    if (digits == 0) return NULL;
    for (; places < DECIMALS; places++) part *= 10;
    *micro = whole * 1000000 + part;
    return s;
}

/* "F=1,B=2" up to a ';' or the end. */
static qn_status read_row(int64_t micro[QN_OPS], const char **at, const char *text, qn_err *err)
{
    const char *s = *at;
    for (int op = 0; op < QN_OPS; op++) micro[op] = -1;
    for (;;) {
        const size_t len = strcspn(s, "=,;"), names = QN_COUNT(named);
        size_t which = 0;
        while (which < names && (strlen(named[which].name) != len || strncmp(s, named[which].name, len) != 0)) which++;
        if (which == names || s[len] != '=')
            return QN_FAIL(
                err, QN_EINVAL,
                "--cost %.80s: '%.40s' found; NAME=TIME with F, B, W, BW, R, S, T, VI or VJ was wanted, as in F=1,B=2, or "
                "a file",
                text, s);
        int64_t *to = &micro[named[which].op];
        if (*to >= 0) return QN_FAIL(err, QN_EINVAL, "--cost %.80s: %s is given twice", text, named[which].name);
        const char *rest = read_number(to, s + len + 1);
        if (rest == NULL || (*rest != ',' && *rest != ';' && *rest != '\0'))
            return QN_FAIL(err, QN_EINVAL, "--cost %.80s: the time of %s is a plain number with at most %d decimals, up to 1e9",
                           text, named[which].name, DECIMALS);
        s = rest;
        if (*s != ',') break;
        s++;
    }
    if (micro[QN_OP_F] < 0 || micro[QN_OP_B] < 0)
        return QN_FAIL(err, QN_EINVAL, "--cost %.80s: both F and B are needed, as in F=1,B=2", text);
    *at = s;
    return QN_OK;
}

/* "0:F=3,B=6;1-3:F=1,B=2": every stage from 0 on, once, ascending. */
static qn_status read_stages(qni_cost_rows *r, const char *text, qn_err *err)
{
    const char *s = text;
    while (*s != '\0') {
        char *end;
        long first = strtol(s, &end, 10), last = first;
        const bool digits = end != s;
        if (digits && *end == '-') last = strtol(end + 1, &end, 10);
        if (!digits || *end != ':' || first != r->rows || last < first || last >= 65536)
            return QN_FAIL(err, QN_EINVAL, "--cost %.80s: '%.40s' found; stage %d was wanted, as in %d:F=1,B=2 or %d-%d:F=1,B=2",
                           text, s, r->rows, r->rows, r->rows, r->rows + 3);
        s = end + 1;
        int64_t micro[QN_OPS];
        qn_status st = read_row(micro, &s, text, err);
        for (long k = first; st == QN_OK && k <= last; k++) st = qni_cost_rows_add(r, micro, err);
        if (st != QN_OK) return st;
        if (*s == ';') s++;
    }
    return QN_OK;
}

static qn_status read_text(qni_cost_rows *r, const char *text, qn_err *err)
{
    if (strchr(text, ':') != NULL && strchr(text, '=') != NULL) {
        r->per_stage = true;
        return read_stages(r, text, err);
    }
    const char *s = text;
    int64_t micro[QN_OPS];
    qn_status st = read_row(micro, &s, text, err);
    if (st == QN_OK && *s != '\0')
        st = QN_FAIL(err, QN_EINVAL, "--cost %.80s: ';' stands between stages, as in 0:F=1,B=2;1:F=1,B=2", text);
    return st == QN_OK ? qni_cost_rows_add(r, micro, err) : st;
}

/* The number of decimals without which no time would be whole, half a backward included where it is not split. */
static int decimals_of(const qni_cost_rows *r, double latency)
{
    int64_t tick = 1000000;
    int decimals = 0;
    for (; decimals < DECIMALS; decimals++, tick /= 10) {
        bool whole = fabs(latency * 1e6 / (double)tick - nearbyint(latency * 1e6 / (double)tick)) <= 1e-9 * fmax(1, latency);
        for (int32_t i = 0; i < r->rows && whole; i++) {
            for (int op = 0; op < QN_OPS; op++) whole = whole && (r->micro[i][op] < 0 || r->micro[i][op] % tick == 0);
            if (r->micro[i][QN_OP_W] < 0 && r->micro[i][QN_OP_B] >= 0) whole = whole && r->micro[i][QN_OP_B] % (2 * tick) == 0;
        }
        if (whole) break;
    }
    return decimals;
}

/* Measured times lose what is too fine for their length. */
static int coarser(int decimals, const qni_cost_rows *r)
{
    int64_t longest = 0, divide = 1;
    for (int32_t i = 0; i < r->rows; i++)
        for (int op = 0; op < QN_OPS; op++) longest = qn_max64(longest, r->micro[i][op]);
    for (int i = decimals; i < DECIMALS; i++) divide *= 10;
    for (; decimals > 0 && longest / divide > MOST_TICKS / 2; decimals--) divide *= 10;
    return decimals;
}

static void complete_row(int64_t tick[QN_OPS])
{
    if (tick[QN_OP_W] < 0) {
        const int64_t whole = tick[QN_OP_BW] >= 0 ? tick[QN_OP_BW] : tick[QN_OP_B];
        tick[QN_OP_BW] = whole;
        tick[QN_OP_W] = whole / 2;
        tick[QN_OP_B] = whole - tick[QN_OP_W];
    }
    if (tick[QN_OP_BW] < 0) tick[QN_OP_BW] = tick[QN_OP_B] + tick[QN_OP_W];
    if (tick[QN_OP_R] < 0) tick[QN_OP_R] = tick[QN_OP_F];
}

static qn_status to_ticks(qni_costs *out, const qni_cost_rows *r, double latency, const char *name, bool measured, qn_err *err)
{
    const int decimals = measured ? coarser(decimals_of(r, latency), r) : decimals_of(r, latency);
    int64_t divide = 1;
    for (int i = decimals; i < DECIMALS; i++) divide *= 10;
    out->scale = 1e6 / (double)divide;
    if (latency < 0 || latency * out->scale > (double)MOST_TICKS)
        return QN_FAIL(err, QN_ERANGE, "--latency %g is %g ticks; 0 to %lld are possible", latency, latency * out->scale,
                       (long long)MOST_TICKS);
    out->latency = (int64_t)nearbyint(latency * out->scale);
    if (r->rows == 0) return QN_OK;
    out->stage = qn_calloc((size_t)r->rows, sizeof *out->stage);
    if (out->stage == NULL) return QN_FAIL(err, QN_ENOMEM, "costs of %d stages", r->rows);
    int64_t sum[QN_OPS] = {0};
    for (int32_t i = 0; i < r->rows; i++) {
        for (int op = 0; op < QN_OPS; op++) {
            const int64_t micro = r->micro[i][op];
            if (micro / divide > MOST_TICKS)
                return QN_FAIL(err, QN_ERANGE,
                               "--cost %.80s: with these decimals the largest time is %lld ticks; at most %lld are possible",
                               name, (long long)(micro / divide), (long long)MOST_TICKS);
            out->stage[i][op] = micro >= 0 ? (micro + divide / 2) / divide : -1;
        }
        complete_row(out->stage[i]);
        for (int op = QN_OP_F; op <= QN_OP_R; op++) sum[op] += out->stage[i][op];
    }
    for (int op = QN_OP_F; op <= QN_OP_R; op++) out->tick[op] = (sum[op] + r->rows / 2) / r->rows;
    for (int32_t i = 0; i < r->rows; i++) /* of a vocabulary shard, whichever stage it was said with */
        for (int op = QN_OP_VI; op <= QN_OP_VJ; op++) out->tick[op] = qn_max64(out->tick[op], out->stage[i][op]);
    if (r->rows > 1 || r->per_stage) {
        out->stages = r->rows;
    } else {
        qn_free(out->stage);
        out->stage = NULL;
    }
    return QN_OK;
}

static qn_status find_source(char path[QNI_COST_PATH], const char *text, const char *from, qn_err *err)
{
    path[0] = '\0';
    if (text != NULL && from != NULL)
        return QN_FAIL(err, QN_EINVAL, "--cost and --cost-from both say what tasks cost; choose one");
    if (from == NULL) {
        if (text != NULL && strchr(text, '=') == NULL && qn_path_exists(text) == 1) snprintf(path, QNI_COST_PATH, "%s", text);
        return QN_OK;
    }
    const int there = qn_path_exists(from);
    if (there == 0)
        return QN_FAIL(err, QN_ENOENT, "--cost-from %s does not exist; a run's directory, a trace or a profile was wanted", from);
    if (there == 1) {
        if (strlen(from) >= QNI_COST_PATH) return QN_FAIL(err, QN_ERANGE, "the path --cost-from %.80s is too long", from);
        snprintf(path, QNI_COST_PATH, "%s", from);
        return QN_OK;
    }
    qn_status st = qn_path_join(path, QNI_COST_PATH, from, "profile.json", err);
    if (st == QN_OK && qn_path_exists(path) != 1) st = qn_path_join(path, QNI_COST_PATH, from, "trace.json", err);
    if (st == QN_OK && qn_path_exists(path) != 1)
        st = QN_FAIL(err, QN_ENOENT, "--cost-from %s has neither profile.json nor trace.json; a finished run was wanted", from);
    return st;
}

qn_status qni_costs_parse(qni_costs *out, const char *text, const char *from, double latency, qn_err *err)
{
    qni_cost_rows r = {.latency = -1};
    char path[QNI_COST_PATH];
    *out = (qni_costs){.scale = 1};
    for (int op = 0; op < QN_OPS; op++) out->tick[op] = -1;
    qn_status st;
    QN_TRY(st, find_source(path, text, from, err), out);
    if (path[0] != '\0')
        QN_TRY(st, qni_cost_file_read(&r, path, err), out);
    else if (text != NULL)
        QN_TRY(st, read_text(&r, text, err), out);
    QN_TRY(st,
           to_ticks(out, &r,
                    latency >= 0     ? latency
                    : r.latency >= 0 ? r.latency
                                     : 0,
                    path[0] != '\0' ? path : text, path[0] != '\0', err),
           out);
    snprintf(out->unit, sizeof out->unit, "%s", r.unit);
    for (int k = 0; k < QNI_SIZES; k++) {
        out->size[k] = r.size[k];
        r.size[k] = NULL;
    }
out:
    qni_cost_rows_fini(&r);
    if (st != QN_OK) qni_costs_fini(out);
    return st;
}

void qni_costs_fini(qni_costs *c)
{
    qn_free(c->stage);
    for (int k = 0; k < QNI_SIZES; k++) qn_free(c->size[k]);
    *c = (qni_costs){.scale = 1};
}

/* A number with K, M or G behind it. */
static const char *read_bytes(double *out, const char *s)
{
    char *end;
    if ((*s < '0' || *s > '9') && *s != '.') return NULL;
    double x = strtod(s, &end);
    const char *letter = *end == '\0' ? NULL : strchr("KMG", *end);
    if (letter != NULL) {
        x *= *end == 'K' ? 1024.0 : *end == 'M' ? 1048576.0 : 1073741824.0;
        end++;
    }
    if (!(x >= 0 && x < 4e18)) return NULL;
    *out = x;
    return end;
}

qn_status qni_costs_spread(int64_t (**cost)[QN_OPS], int64_t *size[QNI_SIZES], const qni_costs *c, int32_t stages, int32_t fine,
                           qn_err *err)
{
    const int32_t units = c->stages > 0 ? c->stages : fine, each = units / stages;
    *cost = NULL;
    for (int k = 0; k < QNI_SIZES; k++) size[k] = NULL;
    if (each < 1 || units % stages != 0)
        return QN_FAIL(err, QN_EINVAL, "costs of %d stages, but the schedule has %d: a multiple of %d was wanted", units, stages,
                       stages);
    int64_t(*table)[QN_OPS] = qn_calloc((size_t)stages, sizeof *table);
    bool room = table != NULL;
    for (int k = 0; k < QNI_SIZES && room; k++) {
        if (c->size[k] == NULL) continue;
        size[k] = qn_calloc((size_t)stages, sizeof(int64_t));
        room = size[k] != NULL;
    }
    if (!room) {
        qn_free(table);
        for (int k = 0; k < QNI_SIZES; k++) {
            qn_free(size[k]);
            size[k] = NULL;
        }
        return QN_FAIL(err, QN_ENOMEM, "costs of %d stages", stages);
    }
    for (int32_t s = 0; s < stages; s++) {
        for (int32_t u = s * each; u < (s + 1) * each; u++) {
            for (int op = 0; op < QN_OPS; op++) table[s][op] += qn_max64(c->stages > 0 ? c->stage[u][op] : c->tick[op], 0);
            for (int k = 0; k < QNI_SIZES; k++) {
                if (size[k] == NULL) continue;
                const int64_t bytes = c->size[k][c->stages > 0 ? u : 0];
                size[k][s] =
                    k == QNI_SIZE_ACT && u > s * each ? size[k][s] : size[k][s] + bytes; /* the input of its first part */
            }
        }
    }
    *cost = table;
    return QN_OK;
}

qn_status qni_memory_parse(double *out, const char *text, qn_err *err)
{
    *out = 0;
    if (text == NULL) return QN_OK;
    const char *rest = read_bytes(out, text);
    if (rest == NULL || *rest != '\0' || !(*out > 0))
        return QN_FAIL(
            err, QN_EINVAL,
            "--memory %.40s: a number above 0 was wanted: bytes of a worker where sizes are known (2G), else micro-batches (2.5)",
            text);
    return QN_OK;
}

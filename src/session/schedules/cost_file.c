/* See cost_file.h. */
#include "cost_file.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/compiler.h"
#include "core/io.h"
#include "measured.h"
#include "session/report/page.h"

enum { MOST_STAGES = 65536, MOST_BYTES = 1 << 30 };

/* S, T, VI and VJ are of a vocabulary shard, whichever stage they are said with. */
static const struct {
    const char *name, *task; /* task: in a trace; NULL: a size */
    int op;                  /* or -1 - index of a size */
} field[] = {{"F", "F", QN_OP_F},    {"B", "B", QN_OP_B},   {"W", "W", QN_OP_W},   {"BW", "BW", QN_OP_BW}, {"R", "R", QN_OP_R},
             {"VI", "VI", QN_OP_VI}, {"S", "VS", QN_OP_VS}, {"T", "VT", QN_OP_VT}, {"VJ", "VJ", QN_OP_VJ}, {"act", NULL, -1},
             {"stash", NULL, -2},    {"wstash", NULL, -3},  {"weights", NULL, -4}, {"grads", NULL, -5}};

void qni_cost_rows_fini(qni_cost_rows *r)
{
    qn_free(r->micro);
    for (int k = 0; k < QNI_SIZES; k++) qn_free(r->size[k]);
    *r = (qni_cost_rows){.latency = -1};
}

qn_status qni_cost_rows_add(qni_cost_rows *r, const int64_t micro[QN_OPS], qn_err *err)
{
    if (r->rows == MOST_STAGES) return QN_FAIL(err, QN_EINVAL, "costs of more than %d stages", MOST_STAGES);
    if (r->rows == r->cap) {
        const int32_t cap = r->cap > 0 ? 2 * r->cap : 16;
        int64_t(*more)[QN_OPS] = qn_calloc((size_t)cap, sizeof *more);
        if (more == NULL) return QN_FAIL(err, QN_ENOMEM, "costs of %d stages", cap);
        if (r->rows > 0) memcpy(more, r->micro, (size_t)r->rows * sizeof *more);
        qn_free(r->micro);
        r->micro = more;
        r->cap = cap;
    }
    memcpy(r->micro[r->rows++], micro, sizeof r->micro[0]);
    return QN_OK;
}

/* Sets one field of row i; sizes have room for all MOST_STAGES rows only once they occur. */
static qn_status set_field(qni_cost_rows *r, int32_t i, size_t f, double x, qn_err *err)
{
    if (!(x >= 0) || x > (field[f].op >= 0 ? 1e9 : 2e15))
        return QN_FAIL(err, QN_EFORMAT, "stage %d: %s is %g, which is out of range", i, field[f].name, x);
    if (field[f].op >= 0) {
        r->micro[i][field[f].op] = llround(x * 1e6);
        return QN_OK;
    }
    int64_t **size = &r->size[-1 - field[f].op];
    if (*size == NULL) *size = qn_calloc(MOST_STAGES, sizeof **size);
    if (*size == NULL) return QN_FAIL(err, QN_ENOMEM, "sizes of stages");
    (*size)[i] = (int64_t)x;
    return QN_OK;
}

static qn_status add_object(qni_cost_rows *r, const json_t *one, qn_err *err)
{
    int64_t none[QN_OPS];
    for (int op = 0; op < QN_OPS; op++) none[op] = -1;
    if (!json_is_object(one)) return QN_FAIL(err, QN_EFORMAT, "stage %d is no object with F, B and W", r->rows);
    qn_status st = qni_cost_rows_add(r, none, err);
    for (size_t f = 0; f < QN_COUNT(field) && st == QN_OK; f++) {
        const json_t *x = json_object_get(one, field[f].name);
        if (x == NULL) continue;
        if (!json_is_number(x)) return QN_FAIL(err, QN_EFORMAT, "stage %d: %s is no number", r->rows - 1, field[f].name);
        st = set_field(r, r->rows - 1, f, json_number_value(x), err);
    }
    const int64_t *m = st == QN_OK ? r->micro[r->rows - 1] : none;
    if (st == QN_OK && (m[QN_OP_F] < 0 || (m[QN_OP_B] < 0 && m[QN_OP_BW] < 0)))
        st = QN_FAIL(err, QN_EFORMAT, "stage %d lacks a time of F or B", r->rows - 1);
    return st;
}

static qn_status read_profile(qni_cost_rows *r, const json_t *all, qn_err *err)
{
    const json_t *stages = json_object_get(all, "stages"), *latency = json_object_get(all, "latency"),
                 *unit = json_object_get(all, "unit");
    if (!json_is_array(stages) || json_array_size(stages) == 0)
        return QN_FAIL(err, QN_EFORMAT, "no list \"stages\" of costs; {\"stages\": [{\"F\": 1, \"B\": 2}, ...]} was wanted");
    if (json_is_number(latency)) r->latency = json_number_value(latency);
    if (json_is_string(unit)) snprintf(r->unit, sizeof r->unit, "%.7s", json_string_value(unit));
    for (size_t i = 0; i < json_array_size(stages); i++) {
        const qn_status st = add_object(r, json_array_get(stages, i), err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

/* ---- a trace: events "F 2.0" with durations in microseconds, and one that says what they mean (chrome_trace.c) */

typedef struct scale {
    double us_per_unit;
    int32_t depth; /* stages of a column; those of all columns are samples of one */
} scale;

typedef struct sample {
    int32_t stage, op;
    int64_t micro;
} sample;

static int by_task(const void *pa, const void *pb)
{
    const sample *a = pa, *b = pb;
    if (a->stage != b->stage) return a->stage < b->stage ? -1 : 1;
    if (a->op != b->op) return a->op < b->op ? -1 : 1;
    return (a->micro > b->micro) - (a->micro < b->micro);
}

static bool sample_of(sample *s, const json_t *event, const scale *x)
{
    const char *name = json_string_value(json_object_get(event, "name"));
    const json_t *dur = json_object_get(event, "dur");
    if (name == NULL || !json_is_number(dur)) return false;
    for (size_t f = 0; f < QN_COUNT(field); f++) {
        const size_t len = field[f].task != NULL ? strlen(field[f].task) : 0;
        int item, read = 0;
        if (len == 0 || strncmp(name, field[f].task, len) != 0 || name[len] != ' ') continue;
        if (sscanf(name + len, " %d.%d%n", &s->stage, &item, &read) != 2 || name[len + (size_t)read] != '\0') return false;
        s->op = field[f].op;
        const double micro = json_number_value(dur) / x->us_per_unit * 1e6;
        if (s->stage < 0 || s->stage >= MOST_STAGES || !(micro >= 0 && micro < 1e15)) return false;
        s->stage = s->op >= QN_OP_VI && s->op <= QN_OP_VJ ? 0 : s->stage % x->depth;
        s->micro = llround(micro);
        return true;
    }
    return false;
}

/* Sorted samples become one row per stage: the median of each (stage, operation). */
static qn_status rows_of(qni_cost_rows *r, sample *s, size_t n, qn_err *err)
{
    int64_t none[QN_OPS];
    for (int op = 0; op < QN_OPS; op++) none[op] = -1;
    qsort(s, n, sizeof *s, by_task);
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && s[end].stage == s[i].stage && s[end].op == s[i].op) end++;
        while (r->rows <= s[i].stage) {
            const qn_status st = qni_cost_rows_add(r, none, err);
            if (st != QN_OK) return st;
        }
        r->micro[s[i].stage][s[i].op] = s[i + (end - i) / 2].micro;
        i = end;
    }
    for (int32_t k = 0; k < r->rows; k++)
        if (r->micro[k][QN_OP_F] < 0 || (r->micro[k][QN_OP_B] < 0 && r->micro[k][QN_OP_BW] < 0))
            return QN_FAIL(err, QN_EFORMAT, "stage %d has no forward or no backward in the trace", k);
    return QN_OK;
}

/* The event "costs": unit, latency and depth. Without one times are those of a run, in milliseconds. */
static void read_scale(qni_cost_rows *r, scale *x, const json_t *all)
{
    *x = (scale){1000, MOST_STAGES};
    snprintf(r->unit, sizeof r->unit, "ms");
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *event = json_array_get(all, i), *args = json_object_get(event, "args");
        const char *name = json_string_value(json_object_get(event, "name")),
                   *unit = json_string_value(json_object_get(args, "unit"));
        const double us = json_number_value(json_object_get(args, "us_per_unit")),
                     latency = json_number_value(json_object_get(args, "latency"));
        const json_int_t depth = json_integer_value(json_object_get(args, "depth"));
        if (name == NULL || strcmp(name, "costs") != 0 || unit == NULL) continue;
        if (us > 0 && us < 1e12) x->us_per_unit = us;
        if (depth > 0 && depth < MOST_STAGES) x->depth = (int32_t)depth;
        if (latency >= 0) r->latency = latency;
        snprintf(r->unit, sizeof r->unit, "%.7s", unit);
        return;
    }
}

static qn_status read_trace(qni_cost_rows *r, const json_t *all, qn_err *err)
{
    const size_t events = json_array_size(all);
    size_t n = 0;
    scale x;
    sample *s = qn_calloc(events + 1, sizeof *s);
    if (s == NULL) return QN_FAIL(err, QN_ENOMEM, "trace of %zu events", events);
    read_scale(r, &x, all);
    for (size_t i = 0; i < events; i++) n += sample_of(&s[n], json_array_get(all, i), &x);
    const qn_status st =
        n > 0 ? rows_of(r, s, n, err) : QN_FAIL(err, QN_EFORMAT, "the trace has no tasks (events like \"F 2.0\")");
    qn_free(s);
    return st;
}

/* ---- lines: CSV with a header, or JSON objects that name their stage */

static qn_status read_csv(qni_cost_rows *r, char *text, qn_err *err)
{
    size_t column[16], columns = 0;
    char *lines, *cells, *line = strtok_r(text, "\r\n", &lines);
    for (char *name = line != NULL ? strtok_r(line, ", ", &cells) : NULL; name != NULL; name = strtok_r(NULL, ", ", &cells)) {
        size_t f = 0;
        while (f < QN_COUNT(field) && strcmp(field[f].name, name) != 0) f++;
        if ((f == QN_COUNT(field) && strcmp(name, "stage") != 0) || columns == QN_COUNT(column))
            return QN_FAIL(err, QN_EFORMAT,
                           "line 1: column '%.40s'; stage, F, B, W, BW, R, VI, S, T, VJ, act, stash, wstash, weights, "
                           "grads were wanted",
                           name);
        column[columns++] = f;
    }
    for (int number = 2; (line = strtok_r(NULL, "\r\n", &lines)) != NULL; number++) {
        json_t *one = json_object();
        size_t c = 0;
        qn_status st = one != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "costs");
        for (char *cell = strtok_r(line, ", ", &cells); cell != NULL && st == QN_OK; cell = strtok_r(NULL, ", ", &cells), c++) {
            char *end;
            const double x = strtod(cell, &end);
            if (c >= columns || *end != '\0' || (column[c] == QN_COUNT(field) && x != r->rows))
                st = QN_FAIL(err, QN_EFORMAT, "line %d: '%.40s' in column %zu; a number for stage %d was wanted", number, cell,
                             c + 1, r->rows);
            else if (column[c] < QN_COUNT(field) && json_object_set_new(one, field[column[c]].name, json_real(x)) != 0)
                st = QN_FAIL(err, QN_ENOMEM, "costs");
        }
        if (st == QN_OK) st = add_object(r, one, err);
        json_decref(one);
        if (st != QN_OK) return st;
    }
    return r->rows > 0 ? QN_OK : QN_FAIL(err, QN_EFORMAT, "no line of costs behind the header");
}

static qn_status read_json_lines(qni_cost_rows *r, char *text, qn_err *err)
{
    char *lines;
    int number = 0;
    for (char *line = strtok_r(text, "\r\n", &lines); line != NULL; line = strtok_r(NULL, "\r\n", &lines)) {
        number++;
        json_t *one = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
        const json_t *stage = json_object_get(one, "stage");
        qn_status st = QN_OK;
        if (one == NULL)
            st = QN_FAIL(err, QN_EFORMAT, "line %d is no JSON object", number);
        else if (json_is_integer(stage) && json_object_get(one, "F") != NULL && json_integer_value(stage) != r->rows)
            st = QN_FAIL(err, QN_EFORMAT, "line %d is of stage %lld; stage %d was wanted", number,
                         (long long)json_integer_value(stage), r->rows);
        else if (json_is_integer(stage) && json_object_get(one, "F") != NULL)
            st = add_object(r, one, err);
        json_decref(one);
        if (st != QN_OK) return st;
    }
    snprintf(r->unit, sizeof r->unit, "ms");
    return r->rows > 0 ? QN_OK : QN_FAIL(err, QN_EFORMAT, "no line has \"stage\" and \"F\"");
}

static qn_status read_any(qni_cost_rows *r, char *text, size_t bytes, qn_err *err)
{
    json_error_t where;
    const char *first = text + strspn(text, " \t\r\n");
    if (*first != '{' && *first != '[') return read_csv(r, text, err);
    json_t *all = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    if (all == NULL && *first == '{' && strchr(first, '\n') != NULL) return read_json_lines(r, text, err);
    if (all == NULL) return QN_FAIL(err, QN_EFORMAT, "line %d, column %d: %s", where.line, where.column, where.text);
    qn_status st;
    if (json_is_array(all))
        st = read_trace(r, all, err);
    else if (json_object_get(all, "stage") != NULL && json_object_get(all, "stages") == NULL)
        st = read_json_lines(r, text, err);
    else
        st = read_profile(r, all, err);
    json_decref(all);
    return st;
}

qn_status qni_cost_file_read(qni_cost_rows *out, const char *path, qn_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    char why[QN_ERR_TEXT];
    *out = (qni_cost_rows){.latency = -1, .per_stage = true};
    qn_status st = qn_file_read(&text, &bytes, path, MOST_BYTES, err);
    if (st != QN_OK) return st;
    st = read_any(out, text, bytes, err);
    qn_free(text);
    if (st == QN_OK || err == NULL) return st;
    snprintf(why, sizeof why, "%s", err->text);
    return QN_FAIL(err, st, "%.200s: %.700s", path, why);
}

/* ---- profiles */

/* Times of the chain: the mean over columns, and over vocabulary shards, of what each takes. */
static void fold_costs(qni_cost_rows *rows, const int64_t *cost, const qn_plan *p)
{
    const qn_grid g = qn_plan_grid(p);
    const int32_t chain = qn_depth(g);
    for (int32_t s = 0; s < chain; s++) {
        for (int op = QN_OP_F; op <= QN_OP_VJ; op++) {
            int64_t sum = 0, count = 0;
            const bool shard = op > QN_OP_R;
            for (int32_t t = 0; t < p->tasks && (s == 0 || !shard); t++) {
                if (p->task[t].op != op || (!shard && qn_chain_stage(g, p->task[t].stage) != s)) continue;
                sum += cost[t];
                count++;
            }
            if (count > 0) rows->micro[s][op] = (sum + count / 2) / count;
        }
    }
}

qn_status qni_profile_of(qni_cost_rows *rows, const qn_trace *traces, int32_t n, qn_err *err)
{
    static const int cls[3] = {QN_V_ACT, QN_V_STASH, QN_V_WSTASH};
    const qn_plan *p = traces[0].plan;
    const int32_t stages = qn_depth(qn_plan_grid(p)); /* of the chain */
    int64_t latency;
    int64_t *cost = qn_calloc((size_t)p->tasks + 1, sizeof *cost), none[QN_OPS];
    qn_status st;
    *rows = (qni_cost_rows){.latency = -1, .per_stage = true, .unit = "ms"};
    if (cost == NULL) return QN_FAIL(err, QN_ENOMEM, "profile of %d tasks", p->tasks);
    for (int op = 0; op < QN_OPS; op++) none[op] = -1;
    QN_TRY(st, qni_measured_costs(cost, traces, n, err), out);
    for (int32_t s = 0; s < stages; s++) QN_TRY(st, qni_cost_rows_add(rows, none, err), out);
    fold_costs(rows, cost, p);
    QN_TRY(st, qni_measured_latency(&latency, traces, n, err), out);
    rows->latency = (double)latency * 1e-6;
    for (int k = 0; k <= QNI_SIZE_WSTASH; k++) {
        rows->size[k] = qn_calloc((size_t)stages, sizeof(int64_t));
        if (rows->size[k] == NULL) {
            st = QN_FAIL(err, QN_ENOMEM, "profile of %d stages", stages);
            goto out;
        }
        for (int32_t v = 0; v < p->values; v++)
            if (p->value[v].cls == cls[k] && p->value[v].stage >= 0 && p->value[v].stage < stages)
                rows->size[k][p->value[v].stage] = p->value[v].bytes;
    }
out:
    qn_free(cost);
    if (st != QN_OK) qni_cost_rows_fini(rows);
    return st;
}

qn_status qni_profile_write(const char *path, const qn_trace *traces, int32_t n, const int64_t *weights, const int64_t *grads,
                            qn_err *err)
{
    qni_cost_rows r;
    qni_page page = {.text = NULL};
    char *text = NULL;
    qn_status st = qni_profile_of(&r, traces, n, err);
    if (st != QN_OK) return st;
    const int64_t *size[QNI_SIZES] = {r.size[QNI_SIZE_ACT], r.size[QNI_SIZE_STASH], r.size[QNI_SIZE_WSTASH], weights, grads};
    qni_page_add(&page, "{\"unit\": \"ms\", \"latency\": %.6f, \"stages\": [\n", r.latency);
    for (int32_t s = 0; s < r.rows; s++) {
        qni_page_add(&page, "%s{\"stage\": %d", s > 0 ? ",\n" : "", s);
        for (size_t f = 0; f < QN_COUNT(field); f++) {
            const int op = field[f].op;
            if (op >= 0 && r.micro[s][op] >= 0)
                qni_page_add(&page, ", \"%s\": %.6f", field[f].name, (double)r.micro[s][op] * 1e-6);
            if (op < 0 && size[-1 - op] != NULL)
                qni_page_add(&page, ", \"%s\": %lld", field[f].name, (long long)size[-1 - op][s]);
        }
        qni_page_add(&page, "}");
    }
    qni_page_add(&page, "\n]}\n");
    QN_TRY(st, qni_page_done(&text, &page, err), out);
    st = qn_file_write(path, text, strlen(text), err);
out:
    qni_page_fini(&page);
    qni_cost_rows_fini(&r);
    qn_free(text);
    return st;
}

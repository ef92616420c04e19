/* quern bench --compare FILE: what got slower since.
 *
 * A line of results is known again by its texts and sizes; where several lines are alike (the same kernel in two types), the n-th
 * of the new run is held against the n-th of the old. A figure is worse when it differs for the worse by more than the spreads of
 * both lines together, and by more than 5 % where they say less or nothing. Ceilings are compared, too, and named apart: there
 * the machine is slower, not Quern. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench_common.h"
#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"
#include "core/io.h"

enum { MOST_BYTES = 64 << 20, NAME = 512 };
static const double LEAST = 0.05;

typedef struct results {
    json_t **line;
    int32_t lines, room;
} results;

typedef struct comparison {
    const qn_bench_options *opt;
    qn_line_fn *line;
    void *ctx;
    results old, now;
    bool full; /* no memory for a line */
} comparison;

static void drop(results *r)
{
    for (int32_t i = 0; i < r->lines; i++) json_decref(r->line[i]);
    qn_free(r->line);
}

/* Takes the line. */
static bool keep(results *r, json_t *line)
{
    if (r->lines == r->room) {
        const int32_t room = r->room > 0 ? 2 * r->room : 64;
        json_t **more = qn_realloc(r->line, (size_t)room, sizeof(*more));
        if (more == NULL) {
            json_decref(line);
            return false;
        }
        r->line = more;
        r->room = room;
    }
    r->line[r->lines++] = line;
    return true;
}

static qn_status read_old(results *r, const char *path, qn_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    qn_status st = qn_file_read(&text, &bytes, path, MOST_BYTES, err);
    int number = 0;
    for (char *at = text, *end; st == QN_OK && at != NULL && *at != '\0'; at = end) {
        end = strchr(at, '\n');
        const size_t n = end != NULL ? (size_t)(end - at) : strlen(at);
        end = end != NULL ? end + 1 : at + n;
        number++;
        if (n == 0 || *at != '{') continue;
        json_t *line = json_loadb(at, n, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(line)) {
            json_decref(line);
            st = QN_FAIL(err, QN_EFORMAT, "%s: line %d is no JSON object; the output of quern bench --json is wanted", path,
                         number);
        } else if (!keep(r, line)) {
            st = QN_FAIL(err, QN_ENOMEM, "no memory for the lines of %s", path);
        }
    }
    if (st == QN_OK && r->lines == 0)
        st = QN_FAIL(err, QN_EFORMAT, "%s holds no results; the output of quern bench --json is wanted", path);
    qn_free(text);
    return st;
}

/* --- what a line is about */

static bool is_size(const char *key)
{
    static const char *const sizes[] = {"parameters", "workers", "micro_batches", "threads", "batch", "context"};
    for (size_t i = 0; i < QN_COUNT(sizes); i++)
        if (strcmp(key, sizes[i]) == 0) return true;
    return false;
}

static void name_of(char out[NAME], const json_t *line)
{
    size_t used = 0;
    const char *key;
    json_t *value;
    out[0] = '\0';
    json_object_foreach((json_t *)line, key, value)
    {
        int n = 0;
        if (used >= NAME) return;
        if (json_is_string(value))
            n = snprintf(out + used, NAME - used, "%s%s %s", used > 0 ? ", " : "", key, json_string_value(value));
        else if (json_is_number(value) && is_size(key))
            n = snprintf(out + used, NAME - used, "%s%s %g", used > 0 ? ", " : "", key, json_number_value(value));
        used += n > 0 ? (size_t)n : 0;
    }
}

/* The line of r of that name that comes after `skip` others of the same name. */
static const json_t *find(const results *r, const char *name, int32_t skip)
{
    char other[NAME];
    for (int32_t i = 0; i < r->lines; i++) {
        name_of(other, r->line[i]);
        if (strcmp(other, name) == 0 && skip-- == 0) return r->line[i];
    }
    return NULL;
}

static int32_t earlier(const results *r, int32_t at, const char *name)
{
    char other[NAME];
    int32_t n = 0;
    for (int32_t i = 0; i < at; i++) {
        name_of(other, r->line[i]);
        n += strcmp(other, name) == 0;
    }
    return n;
}

/* --- figures */

/* 1: more is better, -1: less is better, 0: not a figure of speed. machine: it says what the machine can do. */
static int direction(const json_t *line, const char *key, bool *machine)
{
    static const char *const more[] = {"gflops",
                                       "gbs",
                                       "share",
                                       "ratio",
                                       "tokens_per_s",
                                       "times_batch_1",
                                       "speedup_over_one_worker",
                                       "gemm_gflops",
                                       "product_gflops",
                                       "copy_gbs",
                                       "read_gb_per_s",
                                       "ceiling",
                                       "ceiling_tokens_per_s"};
    static const char *const less[] = {"us",
                                       "ms",
                                       "step_ms",
                                       "measured_ms",
                                       "measured_over_simulated",
                                       "measured_over_replayed",
                                       "task_ns",
                                       "cost_share",
                                       "traced_task_ns",
                                       "peak_bytes",
                                       "sum"};
    *machine = json_object_get(line, "memory") != NULL || json_object_get(line, "disk") != NULL;
    for (size_t i = 0; i < QN_COUNT(more); i++)
        if (strcmp(key, more[i]) == 0) {
            *machine |= i >= 7;
            return strcmp(key, "ceiling") == 0 && json_object_get(line, "us") != NULL ? -1 : 1;
        }
    for (size_t i = 0; i < QN_COUNT(less); i++)
        if (strcmp(key, less[i]) == 0) return -1;
    return 0;
}

static double number(const json_t *line, const char *key)
{
    const json_t *v = json_object_get(line, key);
    return json_is_number(v) ? json_number_value(v) : 0;
}

static int32_t compare_lines(const comparison *c, const char *name, const json_t *old, const json_t *now)
{
    const double allowed = fmax(LEAST, number(old, "spread") + number(now, "spread"));
    const char *key;
    json_t *value;
    int32_t slower = 0;
    json_object_foreach((json_t *)now, key, value)
    {
        bool machine;
        const int better = direction(now, key, &machine);
        const double before = number(old, key), after = json_is_number(value) ? json_number_value(value) : 0;
        if (better == 0 || !(before > 0) || !(after > 0)) continue;
        const double change = after / before - 1;
        if (better * change >= -allowed) continue;
        qni_line l = qni_line_begin(c->opt->json);
        qni_line_text(&l, machine ? "slower_machine" : "slower", name);
        qni_line_text(&l, "figure", key);
        qni_line_number(&l, "old", before);
        qni_line_number(&l, "new", after);
        qni_line_number(&l, "change", change);
        qni_line_number(&l, "allowed", allowed);
        qni_line_end(&l, c->line, c->ctx);
        slower += !machine;
    }
    return slower;
}

static void compare_all(const comparison *c)
{
    char name[NAME];
    int32_t compared = 0, slower = 0;
    for (int32_t i = 0; i < c->now.lines; i++) {
        name_of(name, c->now.line[i]);
        const json_t *old = find(&c->old, name, earlier(&c->now, i, name));
        if (old == NULL) continue;
        slower += compare_lines(c, name, old, c->now.line[i]);
        compared++;
    }
    qni_line l = qni_line_begin(c->opt->json);
    qni_line_text(&l, "compared", "lines with those of the earlier run");
    qni_line_number(&l, "alike", compared);
    qni_line_number(&l, "only_now", c->now.lines - compared);
    qni_line_number(&l, "slower_figures", slower);
    qni_line_end(&l, c->line, c->ctx);
}

/* --- the run */

/* A line of the benchmark, which always speaks JSON here: kept, and shown as asked. */
static void take(void *ctx, const char *text)
{
    comparison *c = ctx;
    json_t *line = json_loads(text, 0, NULL), *value;
    const char *key;
    if (c->opt->json || line == NULL) {
        c->line(c->ctx, text);
    } else {
        qni_line l = qni_line_begin(0);
        json_object_foreach(line, key, value)
        {
            if (json_is_string(value))
                qni_line_text(&l, key, json_string_value(value));
            else
                qni_line_number(&l, key, json_is_number(value) ? json_number_value(value) : NAN);
        }
        qni_line_end(&l, c->line, c->ctx);
    }
    if (line != NULL && !keep(&c->now, line)) c->full = true;
}

qn_status qn_bench_compare(qn_bench_fn *bench, const qn_bench_options *opt, qn_line_fn *line, void *ctx, qn_err *err)
{
    comparison c = {.opt = opt, .line = line, .ctx = ctx};
    qn_bench_options run = *opt;
    run.json = 1;
    qn_status st = read_old(&c.old, opt->compare, err);
    if (st == QN_OK) st = bench(&run, take, &c, err);
    if (st == QN_OK && c.full) st = QN_FAIL(err, QN_ENOMEM, "no memory for the lines of this run");
    if (st == QN_OK) compare_all(&c);
    drop(&c.old);
    drop(&c.now);
    return st;
}

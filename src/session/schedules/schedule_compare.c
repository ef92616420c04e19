/* quern schedule compare: a table of schedules sorted by time, a page of pictures, JSON. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"
#include "schedule_subject.h"

/* Chunks that a schedule gets in a comparison with v per worker (0: each its usual number), as near to v as it can do. */
static int64_t chunks_of(const char *name, int64_t v)
{
    const qn_generator *g = qn_generator_find(name);
    if (g == NULL) return 0;
    if (v == 0 || g->usual_chunks == 1) return g->usual_chunks;
    if (v < g->min_chunks) return g->min_chunks;
    return g->max_chunks > 0 && v > g->max_chunks ? g->max_chunks : v;
}

/* The smallest number that both divide, so that tasks of either are made of whole parts; beyond reason the larger of the two. */
static int32_t common(int32_t a, int32_t b)
{
    enum { MOST = 96 };
    int32_t x = a;
    while (b > 0 && x % b != 0 && x <= MOST) x += a;
    return x <= MOST ? x : qn_max32(a, b);
}

/* Of a step: alone, or the steady one of many. */
static double time_of(const qni_subject *s)
{
    if (s->steps == NULL) return (double)s->sum->makespan;
    const qni_steps x = qni_steps_summary(s->steps, s->plan);
    return x.steady_steps > 0 ? (double)x.steady.share / s->plan->workers / x.steady_steps
                              : (double)s->sum->makespan / s->plan->steps;
}

static double bubble_of(const qni_subject *s)
{
    if (s->steps == NULL) return s->sum->bubble;
    const qni_steps x = qni_steps_summary(s->steps, s->plan);
    return x.steady.share > 0 ? (double)(x.steady.share - x.steady.busy) / (double)x.steady.share : s->sum->bubble;
}

/* Those that are out come last. */
static int by_makespan(const void *a, const void *b)
{
    const qni_subject *x = a, *y = b;
    const int out = (x->refused[0] != '\0') - (y->refused[0] != '\0');
    if (out != 0) return out;
    const double a_time = out == 0 && x->refused[0] == '\0' ? time_of(x) : 0, b_time = a_time > 0 ? time_of(y) : 0;
    if (a_time < b_time || a_time > b_time) return a_time < b_time ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Times are those of the finest chunk, so that all rows speak of the same model. */
static void people_table(qni_page *p, const qni_subject *s, int32_t n, int32_t finest, const qni_costs *c)
{
    char text[32];
    qni_page_add(p, "%-20s %7s %12s %10s %16s %9s\n", "schedule", "chunks", c->unit[0] ? "time (ms)" : "time", "idle",
                 "memory/worker", "messages");
    for (int32_t i = 0; i < n; i++) {
        if (s[i].refused[0] != '\0') continue;
        qni_page_add(p, "%-20s %7d %12.10g %8.2f %% %16s %9d\n", s[i].name, s[i].chunks, time_of(&s[i]) / c->scale,
                     bubble_of(&s[i]) * 100, qni_memory_text(text, qni_subject_memory(&s[i], NULL), s[i].in_bytes),
                     s[i].messages);
    }
    for (int32_t i = 0; i < n; i++)
        if (s[i].refused[0] != '\0') qni_page_add(p, "out: %s\n", s[i].refused);
    if (n > 0 && s[0].refused[0] == '\0' && s[0].steps != NULL)
        qni_page_add(p, "time and idle: of a steady step among %d\n", s[0].plan->steps);
    if (n > 0 && s[0].refused[0] == '\0')
        qni_page_add(p, "memory: the most of any worker, %s\n", s[0].in_bytes ? "bytes of arena" : "micro-batches held at once");
    if (finest > 1 && c->stages == 0)
        qni_page_add(
            p, "times are those of one of %d parts of a worker; a schedule with fewer chunks has tasks that cover more of them\n",
            finest);
}

static void json_table(qni_page *p, const qni_subject *s, int32_t n, double scale)
{
    for (int32_t i = 0; i < n; i++) {
        if (s[i].refused[0] == '\0') {
            qni_json_subject(p, &s[i], scale);
        } else {
            qni_page_add(p, "{");
            qni_json_name(p, "schedule", s[i].name);
            qni_page_add(p, ", ");
            qni_json_name(p, "refused", s[i].refused);
        }
        qni_page_add(p, "}\n");
    }
}

static void html_row(qni_page *p, const qni_subject *s, double scale, double best)
{
    char text[32];
    int64_t part[QN_IDLE_PARTS] = {0};
    const double whole = (double)s->sum->makespan * s->plan->workers;
    for (int32_t w = 0; w < s->plan->workers; w++)
        for (int k = 0; k < QN_IDLE_PARTS; k++) part[k] += s->idle[w][k];
    qni_page_add(p, "<tr><td>");
    qni_page_html(p, s->name);
    qni_page_add(p, "</td><td>%d</td><td>%.8g</td><td>%.3f</td><td>%.2f %%</td>", s->chunks, time_of(s) / scale,
                 time_of(s) / best, bubble_of(s) * 100);
    for (int k = 0; k < QN_IDLE_PARTS; k++) qni_page_add(p, "<td>%.2f</td>", whole > 0 ? 100 * (double)part[k] / whole : 0);
    qni_page_add(p, "<td>%s</td><td>%d</td></tr>\n", qni_memory_text(text, qni_subject_memory(s, NULL), s->in_bytes),
                 s->messages);
}

/* Wide enough for the worker with the most tasks; the page scrolls. */
static int32_t page_width(const qn_trace *const *traces, int32_t n)
{
    enum { USUAL = 1200, WIDEST = 6000, TASK = 9 };
    int32_t most = 0;
    for (int32_t i = 0; i < n; i++)
        for (int32_t w = 0; w < traces[i]->plan->workers; w++) most = qn_max32(most, traces[i]->plan->lane[w][QN_LANE_COMP][1]);
    return qn_min32(WIDEST, qn_max32(USUAL, (int32_t)qn_min64((int64_t)most * TASK, WIDEST)));
}

static qn_status write_html(const char *path, const qni_subject *s, int32_t n, const qn_schedule_options *opt, const qni_costs *c,
                            qn_err *err)
{
    qni_page p = {.text = NULL};
    char *text = NULL, *svg = NULL;
    qn_status st = QN_OK;
    int32_t fit = 0;
    const qn_trace **traces = qn_calloc((size_t)n + 1, sizeof(*traces));
    const char **titles = qn_calloc((size_t)n + 1, sizeof(*titles));
    if (traces == NULL || titles == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "%d pictures", n);
        goto out;
    }
    for (; fit < n && s[fit].refused[0] == '\0'; fit++) {
        traces[fit] = &s[fit].trace;
        titles[fit] = s[fit].name;
    }
    qni_page_add(&p,
                 "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>Pipeline schedules</title>\n<style>"
                 "body{font-family:system-ui,sans-serif;color:#1d2733;max-width:1220px;margin:24px auto;padding:0 12px}"
                 "table{border-collapse:collapse;font-size:14px}td,th{padding:4px 10px;text-align:right;border-bottom:1px solid "
                 "#e3e8ee}td:first-child,th:first-child{text-align:left}th{color:#5b6775;font-weight:600}"
                 ".box{overflow-x:auto}p{color:#3c4754;max-width:80ch}td{font-variant-numeric:tabular-nums}"
                 "@media(prefers-color-scheme:dark){:root{color-scheme:dark}body{background:#151513;color:#efece4}"
                 "td,th{border-color:#34322e}th,p{color:#a5a096}svg>rect:first-of-type{fill:none}"
                 "svg .t,svg .w,svg .l{fill:#efece4}svg .s,svg .a{fill:#a5a096}"
                 "svg rect[fill='#eef1f5']{fill:#34322e;stroke:none}}</style></head><body>\n<h1>Pipeline schedules</h1>\n<p>");
    qni_page_add(&p, "%" PRId64 " workers, %" PRId64 " micro-batches", opt->workers, opt->micro_batches);
    if (opt->cost != NULL || opt->cost_from != NULL) {
        qni_page_add(&p, ", costs ");
        qni_page_html(&p, opt->cost != NULL ? opt->cost : opt->cost_from);
    }
    if (opt->memory != NULL) {
        qni_page_add(&p, ", memory of a worker at most ");
        qni_page_html(&p, opt->memory);
    }
    qni_page_add(
        &p,
        ". Sorted by the time of a %sstep. Idle time in percent of all workers' time, then by cause: before a worker's "
        "first task, behind its last, between forward and backward, in between, for room, for messages and copies.</p>\n",
        fit > 0 && s[0].steps != NULL ? "steady " : "");
    qni_page_add(
        &p,
        "<div class='box'><table><tr><th>schedule</th><th>chunks</th><th>time%s%s%s</th><th>of the "
        "best</th><th>idle</th><th>fill</th><th>drain</th><th>switch</th><th>internal</th><th>memory</th><th>transfer</th>"
        "<th>%s</th><th>messages</th></tr>\n",
        c->unit[0] ? " (" : "", c->unit, c->unit[0] ? ")" : "",
        fit > 0 && s[0].in_bytes ? "bytes a worker" : "micro-batches held");
    for (int32_t i = 0; i < fit; i++) html_row(&p, &s[i], c->scale, time_of(&s[0]));
    qni_page_add(&p, "</table></div>\n");
    for (int32_t i = fit; i < n; i++) {
        qni_page_add(&p, "<p>Left out: ");
        qni_page_html(&p, s[i].refused);
        qni_page_add(&p, "</p>\n");
    }
    if (fit > 0) {
        QN_TRY(st, qn_trace_svg_wide(&svg, traces, titles, fit, page_width(traces, fit), err), out);
        qni_page_add(&p, "<div class='box'>\n");
        qni_page_bytes(&p, svg, strlen(svg));
        qni_page_add(&p, "</div>\n");
    }
    qni_page_add(&p, "</body></html>\n");
    QN_TRY(st, qni_page_done(&text, &p, err), out);
    st = qn_file_write(path, text, strlen(text), err);
out:
    qni_page_fini(&p);
    qn_free(text);
    qn_free(svg);
    qn_free(traces);
    qn_free(titles);
    return st;
}

/* One schedule of the comparison. What nobody asked for by name and cannot be is out of it, with the reason. */
static qn_status add_subject(qni_subject *s, const char *name, bool named, int32_t finest, const qn_schedule_options *opt,
                             const qni_costs *costs, double limit, qn_err *err)
{
    qn_status st = qni_subject_open(s, name, chunks_of(name, opt->chunks), opt, costs, (int32_t)opt->workers * finest, err);
    if (st == QN_OK) st = qni_subject_simulate(s, opt, costs, err);
    const bool simulated = st == QN_OK;
    if (st == QN_OK) st = qni_subject_fits(s, limit, err);
    if ((st != QN_EINVAL && st != QN_ERANGE && st != QN_ESCHEDULE) || (named && !simulated) || err == NULL) return st;
    const bool says = strstr(err->text, name) != NULL;
    snprintf(s->refused, sizeof s->refused, "%s%s%.900s", says ? "" : name, says ? "" : ": ", err->text);
    *err = (qn_err){.code = QN_OK};
    return QN_OK;
}

/* Nothing fits: says the smallest limit that something would fit in. */
static qn_status check_any(const qni_subject *s, int32_t n, const char *limit, qn_err *err)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++) {
        if (s[i].refused[0] == '\0') return QN_OK;
        if (s[i].memory != NULL && (best < 0 || qni_subject_memory(&s[i], NULL) < qni_subject_memory(&s[best], NULL))) best = i;
    }
    if (best < 0) return n > 0 ? QN_FAIL(err, QN_EINVAL, "%.900s", s[0].refused) : QN_OK;
    return QN_FAIL(err, QN_EINVAL, "no schedule fits in --memory %s; the smallest limit that would do is %.15g %s, with %s",
                   limit, qni_subject_memory(&s[best], NULL), s[best].in_bytes ? "bytes" : "micro-batches", s[best].name);
}

qn_status qn_schedule_compare(char **out, const qn_schedule_options *opt, bool json, qn_err *err)
{
    qni_page p = {.text = NULL};
    qni_costs costs = {.scale = 1};
    double limit = 0;
    qn_status st;
    int32_t n = 0, finest = 1, all = 0;
    const qn_generator *list = qn_generator_list();
    while (list[all].name != NULL) all++;
    const bool named = opt->names.count > 0;
    const int32_t most = named ? opt->names.count : all;
    qni_subject *s = qn_calloc((size_t)most, sizeof(*s));
    if (s == NULL) return QN_FAIL(err, QN_ENOMEM, "%d schedules", most);
    QN_TRY(st, qni_steps_check(opt, err), out);
    QN_TRY(st, qni_costs_take(&costs, opt, err), out);
    QN_TRY(st, qni_memory_parse(&limit, opt->memory, err), out);
    for (int32_t i = 0; i < most; i++) {
        const int32_t most_workers = named ? 0 : list[i].max_workers;
        if (most_workers > 0 && opt->workers > most_workers) continue; /* it will be out; its cut concerns nobody */
        const int64_t chunks = chunks_of(named ? opt->names.item[i] : list[i].name, opt->chunks);
        finest = common(finest, (int32_t)chunks);
    }
    for (int32_t i = 0; i < most; i++) {
        qni_subject *one = &s[n++]; /* also a half-open one is closed below */
        QN_TRY(st, add_subject(one, named ? opt->names.item[i] : list[i].name, named, finest, opt, &costs, limit, err), out);
    }
    QN_TRY(st, check_any(s, n, opt->memory, err), out);
    qsort(s, (size_t)n, sizeof(*s), by_makespan);
    int32_t fit = 0;
    while (fit < n && s[fit].refused[0] == '\0') fit++;
    if (json)
        json_table(&p, s, n, costs.scale);
    else
        people_table(&p, s, n, finest, &costs);
    if (opt->svg != NULL) QN_TRY(st, qni_subject_pictures(s, fit, opt->svg, NULL, costs.scale, err), out);
    if (opt->html != NULL) QN_TRY(st, write_html(opt->html, s, n, opt, &costs, err), out);
    st = qni_page_done(out, &p, err);
out:
    for (int32_t i = 0; i < n; i++) qni_subject_close(&s[i]);
    qn_free(s);
    qni_costs_fini(&costs);
    qni_page_fini(&p);
    return st;
}

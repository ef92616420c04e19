/* quern/schedule.h: list, show, check, simulate and compare schedules.
 *
 *   a name or a file -> subject (an order, or a plan from a file) -> plan -> trace -> numbers, pictures
 *
 * Times are integers inside (ticks); texts show them in the user's unit again. */
#include "quern/schedule.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/io.h"
#include "page.h"
#include "report.h"
#include "schedule/gen/gen.h"
#include "schedule/trace.h"
#include "schedule_file.h"

/* One schedule, ready to be simulated, and what came out. */
typedef struct subject {
    const char *name;
    const qn_generator *generator; /* NULL: from a file */
    qni_schedule from;
    qn_plan *plan;
    int32_t chunks;
    int32_t stretch; /* compare: a task covers this many of the finest chunks */
    qn_trace trace;
    qn_trace_summary *sum;
} subject;

static void subject_fini(subject *s)
{
    if (s->plan != s->from.plan) qn_plan_close(s->plan);
    qni_schedule_fini(&s->from);
    qn_free(s->trace.time);
    qn_free(s->sum);
}

/* The order of a generator, made for these costs where they are said, or the file's order or plan. finest: chunks that a cost is
 * of; a schedule with fewer has tasks that take longer. */
static qn_status open_subject(subject *s, const char *name, int64_t chunks, const qn_schedule_options *opt,
                              const qni_costs *costs, int32_t finest, qn_err *err)
{
    *s = (subject){.name = name, .generator = qn_generator_find(name), .stretch = 1};
    if (s->generator == NULL && qn_path_exists(name) == 1) {
        const qn_status st = qni_schedule_read(&s->from, name, err);
        if (st != QN_OK) return st;
        const int32_t stages = s->from.plan != NULL ? s->from.plan->stages : s->from.order->stages;
        const int32_t workers = s->from.plan != NULL ? s->from.plan->workers : s->from.order->workers;
        s->chunks = (stages + workers - 1) / workers;
        return QN_OK;
    }
    s->from.form = QN_FORM_ORDER;
    s->chunks = (int32_t)(chunks > 0 ? chunks : s->generator != NULL ? s->generator->usual_chunks : 1);
    qn_pattern pattern = {.workers = (int32_t)opt->workers,
                          .items = (int32_t)opt->micro_batches,
                          .chunks = s->chunks,
                          .cost = {[QN_OP_F] = 1, [QN_OP_B] = 1, [QN_OP_W] = 1, [QN_OP_BW] = 2, [QN_OP_R] = 1}};
    for (int op = 0; op < QN_OPS; op++)
        if (costs->tick[op] > 0) pattern.cost[op] = costs->tick[op] * (finest > s->chunks ? finest / s->chunks : 1);
    pattern.cost[QN_OP_SEND] = costs->latency;
    return qn_generate(&s->from.order, name, &pattern, err);
}

/* Gives the tasks their times: the user's, else the file's own, else one tick, and two for a whole backward. */
static void set_costs(subject *s, const qni_costs *c)
{
    static const int64_t usual[QN_OPS] = {[QN_OP_F] = 1, [QN_OP_B] = 1, [QN_OP_W] = 1, [QN_OP_BW] = 2, [QN_OP_R] = 1};
    qn_order *o = s->from.order;
    qn_plan *p = s->from.plan;
    const int64_t scale = (int64_t)c->scale;
    for (int op = 0; o != NULL && op < QN_OPS; op++) {
        const int64_t own = (o->cost[op] >= 0 ? o->cost[op] : usual[op]) * scale;
        o->cost[op] = (c->tick[op] >= 0 ? c->tick[op] : own) * s->stretch;
    }
    for (int32_t i = 0; p != NULL && i < p->tasks; i++) {
        qn_task *t = &p->task[i];
        t->cost = c->tick[t->op] >= 0 ? c->tick[t->op] : t->cost * scale;
    }
}

static qn_status make_plan(subject *s, const qn_schedule_options *opt, qn_err *err)
{
    if (s->from.plan != NULL) {
        s->plan = s->from.plan;
        return qn_plan_validate(s->plan, err);
    }
    const qn_lowering how = {.recompute = opt != NULL ? (qn_recompute)opt->recompute : QN_RECOMPUTE_NONE,
                             .depth = opt != NULL ? (int32_t)opt->depth : 0,
                             .tied_owner = QN_NONE,
                             .tied_replica = QN_NONE};
    return qn_lower(&s->plan, s->from.order, &how, err);
}

static qn_status simulate(subject *s, const qn_schedule_options *opt, const qni_costs *costs, qn_err *err)
{
    qn_status st;
    if (costs != NULL) set_costs(s, costs);
    QN_TRY(st, make_plan(s, opt, err), out);
    s->trace.time = qn_calloc((size_t)s->plan->tasks + 1, sizeof(*s->trace.time));
    s->sum = qn_malloc(1, sizeof(*s->sum));
    if (s->trace.time == NULL || s->sum == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "a trace of %d tasks", s->plan->tasks);
        goto out;
    }
    const qn_sim_options how = {.latency = costs != NULL ? costs->latency : 0};
    QN_TRY(st, qn_simulate(&s->trace, s->plan, &how, err), out);
    qn_trace_summarize(s->sum, &s->trace);
out:
    return st;
}

static void json_name(qni_page *p, const char *name, const char *value)
{
    qni_page_add(p, "\"%s\": \"", name);
    for (; *value != '\0'; value++) {
        const unsigned char c = (unsigned char)*value;
        if (c == '"' || c == '\\')
            qni_page_add(p, "\\%c", c);
        else if (c < 0x20)
            qni_page_add(p, "\\u%04x", c);
        else
            qni_page_bytes(p, value, 1);
    }
    qni_page_add(p, "\"");
}

static void json_array(qni_page *p, const char *name, const int64_t *value, int32_t count, double scale)
{
    qni_page_add(p, ", \"%s\": [", name);
    for (int32_t i = 0; i < count; i++) {
        if (i > 0) qni_page_add(p, ", ");
        qni_page_number(p, (double)value[i] / scale);
    }
    qni_page_add(p, "]");
}

static void json_result(qni_page *p, const subject *s, double scale)
{
    const qn_plan *plan = s->plan;
    qni_page_add(p, "{");
    json_name(p, "schedule", s->name);
    qni_page_add(p, ", \"workers\": %d, \"stages\": %d, \"micro_batches\": %d, \"makespan\": ", plan->workers, plan->stages,
                 plan->items);
    qni_page_number(p, (double)s->sum->makespan / scale);
    qni_page_add(p, ", \"bubble\": ");
    qni_page_number(p, s->sum->bubble);
    json_array(p, "idle_makespan", s->sum->idle_makespan, plan->workers, scale);
    json_array(p, "idle_span", s->sum->idle_span, plan->workers, scale);
    json_array(p, "peak", s->sum->peak, plan->workers, 1);
    qni_page_add(p, "}\n");
}

static qn_status write_pictures(const subject *s, int32_t n, const char *svg, const char *trace, double scale, qn_err *err)
{
    qn_status st = QN_OK;
    char *text = NULL;
    const qn_trace **traces = qn_calloc((size_t)n, sizeof(*traces));
    const char **titles = qn_calloc((size_t)n, sizeof(*titles));
    if (traces == NULL || titles == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "%d pictures", n);
        goto out;
    }
    for (int32_t i = 0; i < n; i++) {
        traces[i] = &s[i].trace;
        titles[i] = s[i].name;
    }
    if (svg != NULL) {
        QN_TRY(st, qn_trace_svg(&text, traces, titles, n, err), out);
        QN_TRY(st, qn_file_write(svg, text, strlen(text), err), out);
    }
    if (trace != NULL) st = qn_trace_write_chrome(trace, &s->trace, scale, err);
out:
    qn_free(text);
    qn_free(traces);
    qn_free(titles);
    return st;
}

qn_status qn_schedule_list(char **out, bool json, qn_err *err)
{
    qni_page p = {.text = NULL};
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        if (json) {
            qni_page_add(&p, "{");
            json_name(&p, "name", g->name);
            qni_page_add(&p, ", ");
            json_name(&p, "bubble", g->bubble);
            qni_page_add(&p, ", ");
            json_name(&p, "memory", g->memory);
            qni_page_add(&p, ", ");
            json_name(&p, "paper", g->paper);
            qni_page_add(&p, "}\n");
        } else {
            qni_page_add(&p, "%-14s bubble %-18s stashes of worker r: %s\n%-14s %s\n", g->name, g->bubble, g->memory, "",
                         g->paper);
        }
    }
    if (!json) qni_page_add(&p, "P workers, M micro-batches, v chunks (stages) per worker, r the worker's number\n");
    return qni_page_done(out, &p, err);
}

/* The drawing as comment lines, so that the whole output is a schedule file. */
static void add_comment(qni_page *p, const char *text)
{
    while (*text != '\0') {
        const size_t line = strcspn(text, "\n");
        qni_page_add(p, "# %.*s\n", (int)line, text);
        text += line + (text[line] == '\n');
    }
}

qn_status qn_schedule_show(char **out, const qn_schedule_options *opt, int32_t columns, qn_err *err)
{
    subject s = {.name = NULL};
    qni_costs costs;
    qni_page p = {.text = NULL};
    char *order = NULL, *drawing = NULL;
    qn_status st;
    QN_TRY(st, qni_costs_parse(&costs, opt->cost, opt->latency, err), out);
    QN_TRY(st, open_subject(&s, opt->schedule, opt->chunks, opt, &costs, 1, err), out);
    st = s.from.plan != NULL ? qn_plan_write(&order, s.from.plan, err) : qn_order_write(&order, s.from.order, err);
    if (st != QN_OK) goto out;
    QN_TRY(st, simulate(&s, opt, &costs, err), out);
    QN_TRY(st, qn_trace_ascii(&drawing, &s.trace, columns > 4 ? columns - 2 : columns, err), out);
    qni_page_bytes(&p, order, strlen(order));
    add_comment(&p, drawing);
    if (opt->svg != NULL || opt->trace != NULL) QN_TRY(st, write_pictures(&s, 1, opt->svg, opt->trace, costs.scale, err), out);
    st = qni_page_done(out, &p, err);
out:
    subject_fini(&s);
    qni_page_fini(&p);
    qn_free(order);
    qn_free(drawing);
    return st;
}

static int64_t largest(const int64_t *x, int32_t n)
{
    int64_t most = 0;
    for (int32_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    return most;
}

qn_status qn_schedule_check(char **out, const char *path, bool json, qn_err *err)
{
    subject s = {.name = path, .stretch = 1};
    qni_page p = {.text = NULL};
    char why[QN_ERR_TEXT];
    qn_status st;
    QN_TRY(st, qni_schedule_read(&s.from, path, err), out);
    st = simulate(&s, NULL, NULL, err);
    if (st == QN_ESCHEDULE && err != NULL) {
        snprintf(why, sizeof(why), "%s", err->text);
        st = QN_FAIL(err, QN_ESCHEDULE, "%s is not valid: %.900s", path, why);
    }
    if (st != QN_OK) goto out;
    const qn_plan *plan = s.plan;
    if (json) {
        qni_page_add(&p, "{");
        json_name(&p, "valid", qni_schedule_form_name(s.from.form));
        qni_page_add(&p, ", \"workers\": %d, \"stages\": %d, \"micro_batches\": %d, \"tasks\": %d", plan->workers, plan->stages,
                     plan->items, plan->tasks);
        json_array(&p, "peak", s.sum->peak, plan->workers, 1);
        json_array(&p, "arena_bytes", plan->arena_bytes, plan->workers, 1);
        qni_page_add(&p, "}\n");
    } else {
        qni_page_add(&p,
                     "%s: a valid %s\n%d workers, %d stages, %d micro-batches, %d tasks with messages\npeak: %" PRId64
                     " stashes at once, %" PRId64 " bytes of arena (the most of any worker)\n",
                     path, qni_schedule_form_name(s.from.form), plan->workers, plan->stages, plan->items, plan->tasks,
                     largest(s.sum->peak, plan->workers), largest(plan->arena_bytes, plan->workers));
    }
    st = qni_page_done(out, &p, err);
out:
    subject_fini(&s);
    qni_page_fini(&p);
    return st;
}

static void people_result(qni_page *p, const subject *s, double scale)
{
    const qn_plan *plan = s->plan;
    qni_page_add(p,
                 "%s: %d workers, %d stages, %d micro-batches\nmakespan  %.10g\nbubble    %.2f %%\n\nworker   idle of makespan   "
                 "idle in its span   peak "
                 "stashes\n",
                 s->name, plan->workers, plan->stages, plan->items, (double)s->sum->makespan / scale, s->sum->bubble * 100);
    for (int32_t w = 0; w < plan->workers; w++)
        qni_page_add(p, "%6d %18.10g %18.10g %14" PRId64 "\n", w, (double)s->sum->idle_makespan[w] / scale,
                     (double)s->sum->idle_span[w] / scale, s->sum->peak[w]);
}

qn_status qn_schedule_simulate(char **out, const qn_schedule_options *opt, bool json, qn_err *err)
{
    subject s = {.name = NULL};
    qni_costs costs;
    qni_page p = {.text = NULL};
    qn_status st;
    QN_TRY(st, qni_costs_parse(&costs, opt->cost, opt->latency, err), out);
    QN_TRY(st, open_subject(&s, opt->schedule, opt->chunks, opt, &costs, 1, err), out);
    QN_TRY(st, simulate(&s, opt, &costs, err), out);
    if (json)
        json_result(&p, &s, costs.scale);
    else
        people_result(&p, &s, costs.scale);
    if (opt->svg != NULL || opt->trace != NULL) QN_TRY(st, write_pictures(&s, 1, opt->svg, opt->trace, costs.scale, err), out);
    st = qni_page_done(out, &p, err);
out:
    subject_fini(&s);
    qni_page_fini(&p);
    return st;
}

/* Chunks that a schedule gets in a comparison with v per worker (0: each its usual number), as near to v as it can do. */
static int64_t chunks_of(const char *name, int64_t v)
{
    const qn_generator *g = qn_generator_find(name);
    if (g == NULL) return 0;
    if (v == 0 || g->usual_chunks == 1) return g->usual_chunks;
    if (v < g->min_chunks) return g->min_chunks;
    return g->max_chunks > 0 && v > g->max_chunks ? g->max_chunks : v;
}

static int by_makespan(const void *a, const void *b)
{
    const subject *x = a, *y = b;
    if (x->sum->makespan != y->sum->makespan) return x->sum->makespan < y->sum->makespan ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The table; times are those of the finest chunk, so that all rows speak of the same model. */
static void compare_table(qni_page *p, const subject *s, int32_t n, int32_t finest, double scale)
{
    qni_page_add(p, "%-20s %7s %12s %9s   %s\n", "schedule", "chunks", "makespan", "bubble", "most stashes of a worker");
    for (int32_t i = 0; i < n; i++) {
        const double stages = (double)largest(s[i].sum->peak, s[i].plan->workers) * s[i].stretch / finest;
        qni_page_add(p, "%-20s %7d %12.10g %7.2f %%   %.4g of a worker's layers\n", s[i].name, s[i].chunks,
                     (double)s[i].sum->makespan / scale, s[i].sum->bubble * 100, stages);
    }
    if (finest > 1)
        qni_page_add(
            p, "times are those of one of a worker's %d chunks; a schedule with fewer chunks has tasks that cover more of them\n",
            finest);
}

static qn_status simulate_all(subject *s, int32_t n, int32_t finest, const qn_schedule_options *opt, const qni_costs *costs,
                              qn_err *err)
{
    for (int32_t i = 0; i < n; i++) {
        if (s[i].generator != NULL) {
            if (finest % s[i].chunks != 0)
                return QN_FAIL(err, QN_EINVAL,
                               "%s has %d chunks per worker, which do not divide the %d of another schedule; set --chunks",
                               s[i].name, s[i].chunks, finest);
            s[i].stretch = finest / s[i].chunks;
        }
        const qn_status st = simulate(&s[i], opt, costs, err);
        if (st != QN_OK) return st;
    }
    return QN_OK;
}

qn_status qn_schedule_compare(char **out, const qn_schedule_options *opt, bool json, qn_err *err)
{
    qni_page p = {.text = NULL};
    qni_costs costs;
    qn_status st;
    int32_t n = 0, finest = 1, all = 0;
    const qn_generator *list = qn_generator_list();
    while (list[all].name != NULL) all++;
    const int32_t most = opt->names.count > 0 ? opt->names.count : all;
    subject *s = qn_calloc((size_t)most, sizeof(*s));
    if (s == NULL) return QN_FAIL(err, QN_ENOMEM, "%d schedules", most);
    QN_TRY(st, qni_costs_parse(&costs, opt->cost, opt->latency, err), out);
    for (int32_t i = 0; i < most; i++) {
        const int64_t chunks = chunks_of(opt->names.count > 0 ? opt->names.item[i] : list[i].name, opt->chunks);
        if (chunks > finest) finest = (int32_t)chunks;
    }
    for (int32_t i = 0; i < most; i++) {
        const char *name = opt->names.count > 0 ? opt->names.item[i] : list[i].name;
        if (opt->names.count == 0 && list[i].min_items * opt->workers > opt->micro_batches) continue; /* nobody asked for it */
        subject *one = &s[n++]; /* also a half-open one is closed below */
        QN_TRY(st, open_subject(one, name, chunks_of(name, opt->chunks), opt, &costs, finest, err), out);
    }
    QN_TRY(st, simulate_all(s, n, finest, opt, &costs, err), out);
    qsort(s, (size_t)n, sizeof(*s), by_makespan);
    if (json)
        for (int32_t i = 0; i < n; i++) json_result(&p, &s[i], costs.scale);
    else
        compare_table(&p, s, n, finest, costs.scale);
    if (opt->svg != NULL) QN_TRY(st, write_pictures(s, n, opt->svg, NULL, costs.scale, err), out);
    st = qni_page_done(out, &p, err);
out:
    for (int32_t i = 0; i < n; i++) subject_fini(&s[i]);
    qn_free(s);
    qni_page_fini(&p);
    return st;
}

/* quern/schedule.h: list, show, check and simulate schedules. compare: schedule_compare.c; search: schedule_search.c.
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
#include "schedule_subject.h"

qn_status qn_schedule_list(char **out, bool json, qn_err *err)
{
    qni_page p = {.text = NULL};
    for (const qn_generator *g = qn_generator_list(); g->name != NULL; g++) {
        if (json) {
            qni_page_add(&p, "{");
            qni_json_name(&p, "name", g->name);
            qni_page_add(&p, ", ");
            qni_json_name(&p, "bubble", g->bubble);
            qni_page_add(&p, ", ");
            qni_json_name(&p, "memory", g->memory);
            qni_page_add(&p, ", ");
            qni_json_name(&p, "paper", g->paper);
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

/* Flags that the one schedule asked for has no use for. */
static qn_status check_flags(const qn_schedule_options *opt, qn_err *err)
{
    const qn_generator *g = qn_generator_find(opt->schedule);
    const bool pieces = g != NULL && (g->host_state || g->max_workers == 1);
    if (opt->pieces > 0 && !pieces)
        return QN_FAIL(err, QN_EINVAL, "--pieces %" PRId64 ": roundpipe and superpipe are made of pieces; %s takes --chunks",
                       opt->pieces, opt->schedule);
    if (opt->group > 0 && (g == NULL || (g->generate != qn_gen_interleaved && g->generate != qn_gen_roundpipe)))
        return QN_FAIL(err, QN_EINVAL, "--group %" PRId64 " is for interleaved and roundpipe; %s has no groups of micro-batches",
                       opt->group, opt->schedule);
    if (opt->pairs != 0 && g != NULL && g->generate != qn_gen_dualpipe && g->generate != qn_gen_dualpipev)
        return QN_FAIL(err, QN_EINVAL, "--pairs opaque: dualpipe and dualpipev have pairs; %s has none", opt->schedule);
    return qni_steps_check(opt, err);
}

qn_status qn_schedule_show(char **out, const qn_schedule_options *opt, int32_t columns, qn_err *err)
{
    qni_subject s = {.fine = 0};
    qni_costs costs = {.scale = 1};
    qni_page p = {.text = NULL};
    char *order = NULL, *drawing = NULL;
    qn_status st;
    QN_TRY(st, check_flags(opt, err), out);
    QN_TRY(st, qni_costs_take(&costs, opt, err), out);
    QN_TRY(st, qni_subject_open(&s, opt->schedule, opt->chunks, opt, &costs, 0, err), out);
    st = s.from.plan != NULL ? qn_plan_write(&order, s.from.plan, err) : qn_order_write(&order, s.from.order, err);
    if (st != QN_OK) goto out;
    QN_TRY(st, qni_subject_simulate(&s, opt, &costs, err), out);
    QN_TRY(st, qn_trace_ascii(&drawing, &s.trace, columns > 4 ? columns - 2 : columns, err), out);
    qni_page_bytes(&p, order, strlen(order));
    add_comment(&p, drawing);
    if (opt->svg != NULL || opt->trace != NULL)
        QN_TRY(st, qni_subject_pictures(&s, 1, opt->svg, opt->trace, costs.scale, err), out);
    st = qni_page_done(out, &p, err);
out:
    qni_subject_close(&s);
    qni_costs_fini(&costs);
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

/* A file alone says its own sizes and limits; flags and names are lowered as simulate does. */
static qn_status open_checked(qni_subject *s, qni_costs *costs, const qn_schedule_options *opt, qn_err *err)
{
    const bool devices = opt->device_memory > 0 || opt->link != NULL || opt->window != NULL;
    if (qn_generator_find(opt->schedule) == NULL && !devices && opt->sizes == NULL) {
        const qn_status st = qni_schedule_read(&s->from, opt->schedule, err);
        return st == QN_OK ? qni_subject_simulate(s, NULL, NULL, err) : st;
    }
    qn_status st = check_flags(opt, err);
    if (st == QN_OK) st = qni_costs_take(costs, opt, err);
    if (st == QN_OK) st = qni_subject_open(s, opt->schedule, opt->chunks, opt, costs, 0, err);
    return st == QN_OK ? qni_subject_simulate(s, opt, costs, err) : st;
}

qn_status qn_schedule_check(char **out, const qn_schedule_options *opt, bool json, qn_err *err)
{
    const char *path = opt->schedule;
    qni_subject s = {.fine = 0};
    qni_costs costs = {.scale = 1};
    qni_page p = {.text = NULL};
    char why[QN_ERR_TEXT];
    int64_t *live = NULL;
    qn_status st = open_checked(&s, &costs, opt, err);
    if (st == QN_ESCHEDULE && err != NULL) {
        snprintf(why, sizeof(why), "%s", err->text);
        st = QN_FAIL(err, QN_ESCHEDULE, "%s is not valid: %.900s", path, why);
    }
    if (st != QN_OK) goto out;
    const qn_plan *plan = s.plan;
    if (json) {
        qni_page_add(&p, "{");
        qni_json_name(&p, "valid", qni_schedule_form_name(s.from.form));
        qni_page_add(&p, ", \"workers\": %d, \"stages\": %d, \"micro_batches\": %d, \"tasks\": %d", plan->workers, plan->stages,
                     plan->items, plan->tasks);
        qni_json_array(&p, "peak", s.sum->peak, plan->workers, 1);
        qni_json_array(&p, "arena_bytes", plan->arena_bytes, plan->workers, 1);
        live = qn_calloc((size_t)plan->workers, sizeof(*live));
        st = live != NULL ? qn_plan_live_bytes(live, plan, err) : QN_FAIL(err, QN_ENOMEM, "memory of %d workers", plan->workers);
        if (st != QN_OK) goto out;
        qni_json_array(&p, "live_bytes", live, plan->workers, 1);
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
    qn_free(live);
    qni_subject_close(&s);
    qni_costs_fini(&costs);
    qni_page_fini(&p);
    return st;
}

static void people_copies(qni_page *p, const qni_subject *s, const qni_costs *c)
{
    char up[32], down[32];
    qni_copies all = {0};
    for (int32_t w = 0; w < s->plan->workers; w++) {
        all.bytes_up += s->copies[w].bytes_up;
        all.bytes_down += s->copies[w].bytes_down;
        all.busy_up = s->copies[w].busy_up > all.busy_up ? s->copies[w].busy_up : all.busy_up;
        all.busy_down = s->copies[w].busy_down > all.busy_down ? s->copies[w].busy_down : all.busy_down;
    }
    qni_page_add(p, "copies    %s bytes up, %s down; busiest lanes %.10g and %.10g; the last ends at %.10g\n",
                 qni_memory_text(up, (double)all.bytes_up, true), qni_memory_text(down, (double)all.bytes_down, true),
                 (double)all.busy_up / c->scale, (double)all.busy_down / c->scale, (double)s->copies_end / c->scale);
    qni_page_add(p, "window    %d\n", s->window);
}

static void people_result(qni_page *p, const qni_subject *s, const qni_costs *c)
{
    const qn_plan *plan = s->plan;
    char text[32];
    qni_page_add(p, "%s: %d worker%s, %d stage%s", s->name, plan->workers, plan->workers == 1 ? "" : "s",
                 plan->stages - plan->sides, plan->stages - plan->sides == 1 ? "" : "s");
    if (plan->sides > 0) qni_page_add(p, ", %d vocabulary shard%s", plan->sides, plan->sides == 1 ? "" : "s");
    qni_page_add(p, ", %d micro-batch%s, %d message%s\n", plan->items, plan->items == 1 ? "" : "es", s->messages,
                 s->messages == 1 ? "" : "s");
    qni_page_add(p, "makespan  %.10g%s%s\nbubble    %.2f %%\n", (double)s->sum->makespan / c->scale, c->unit[0] ? " " : "",
                 c->unit, s->sum->bubble * 100);
    qni_page_add(p, "exposed   %.10g  (shorter by this if %s took no time)\n", (double)s->exposed / c->scale,
                 s->copies != NULL ? "copies" : "messages");
    if (s->copies != NULL) people_copies(p, s, c);
    qni_page_add(p, "\n");
    qni_page_add(p,
                 "        idle of      of these                                          blocked on            idle in"
                 "     peak   %s\nworker  makespan         fill      drain     switch   internal     memory   transfer   its "
                 "span  stashes  %10s\n",
                 s->in_bytes ? "   arena" : "  memory", s->in_bytes ? "bytes" : "micro-b.");
    for (int32_t w = 0; w < plan->workers; w++) {
        qni_page_add(p, "%6d %9.6g ", w, (double)s->sum->idle_makespan[w] / c->scale);
        for (int k = 0; k < QN_IDLE_PARTS; k++) qni_page_add(p, "%s%10.6g", k > 0 ? " " : "  ", (double)s->idle[w][k] / c->scale);
        qni_page_add(p, " %10.6g %8" PRId64 "  %10s\n", (double)s->sum->idle_span[w] / c->scale, s->sum->peak[w],
                     qni_memory_text(text, s->memory[w], s->in_bytes));
    }
    if (s->steps != NULL) qni_steps_people(p, s->steps, plan, c->scale);
}

/* What the path is made of, and its tasks. A message is on it when its way took time. */
static qn_status add_path(qni_page *p, const qni_subject *s, const qni_costs *c, bool json, bool all, qn_err *err)
{
    int32_t *path = NULL, n = 0;
    char name[64];
    int64_t compute = 0;
    bool first = true;
    const qn_status st = qn_trace_critical(&path, &n, &s->trace, c->latency, err);
    if (st != QN_OK) return st;
    if (json) qni_page_add(p, ", \"critical_path\": [");
    if (!json && all) qni_page_add(p, "\ncritical path: task, start, end\n");
    for (int32_t i = 0; i < n; i++) {
        const qn_span_time x = s->trace.time[path[i]];
        const int64_t before = i > 0 ? s->trace.time[path[i - 1]].end : 0;
        if (x.end == before) continue;
        if (s->plan->task[path[i]].lane == QN_LANE_COMP) compute += x.end - x.start;
        qn_task_text(name, sizeof name, s->plan, path[i]);
        if (json) {
            qni_page_add(p, "%s{", first ? "" : ", ");
            qni_json_name(p, "task", name);
            qni_page_add(p, ", \"start\": ");
            qni_page_number(p, (double)before / c->scale);
            qni_page_add(p, ", \"end\": ");
            qni_page_number(p, (double)x.end / c->scale);
            qni_page_add(p, "}");
        } else if (all) {
            qni_page_add(p, "  %-24s %10.10g %10.10g\n", name, (double)before / c->scale, (double)x.end / c->scale);
        }
        first = false;
    }
    if (json)
        qni_page_add(p, "]");
    else if (!all && s->sum->makespan > 0)
        qni_page_add(p, "\ncritical path: %.1f %% compute, the rest transfer (--critical lists its tasks)\n",
                     100.0 * (double)compute / (double)s->sum->makespan);
    qn_free(path);
    return QN_OK;
}

qn_status qn_schedule_simulate(char **out, const qn_schedule_options *opt, bool json, qn_err *err)
{
    qni_subject s = {.fine = 0};
    qni_costs costs = {.scale = 1};
    qni_page p = {.text = NULL};
    double limit;
    qn_status st;
    QN_TRY(st, check_flags(opt, err), out);
    QN_TRY(st, qni_costs_take(&costs, opt, err), out);
    QN_TRY(st, qni_memory_parse(&limit, opt->memory, err), out);
    QN_TRY(st, qni_subject_open(&s, opt->schedule, opt->chunks, opt, &costs, 0, err), out);
    QN_TRY(st, qni_subject_simulate(&s, opt, &costs, err), out);
    QN_TRY(st, qni_subject_fits(&s, limit, err), out);
    if (json)
        qni_json_subject(&p, &s, costs.scale);
    else
        people_result(&p, &s, &costs);
    QN_TRY(st, add_path(&p, &s, &costs, json, opt->critical, err), out);
    if (json) qni_page_add(&p, "}\n");
    if (opt->svg != NULL || opt->trace != NULL)
        QN_TRY(st, qni_subject_pictures(&s, 1, opt->svg, opt->trace, costs.scale, err), out);
    st = qni_page_done(out, &p, err);
out:
    qni_subject_close(&s);
    qni_costs_fini(&costs);
    qni_page_fini(&p);
    return st;
}

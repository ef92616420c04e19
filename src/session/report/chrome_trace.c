/* trace.json: a JSON array of events as Chrome's tracing and Perfetto read it.
 *
 *   pid: worker    tid: lane    ts, dur: microseconds    names like "F 2.0" (operation, stage, item)
 *
 * An event "costs" of kind M, which viewers pass over, has the unit, the latency and the stages of a column for --cost-from. */
#include <string.h>

#include "core/alloc.h"
#include "core/io.h"
#include "session/schedules/measured.h"
#include "page.h"
#include "report.h"

static const char *const op_names[QN_OPS] = {
#define NAME(op, text) [op] = text,
    QN_OP_LIST(NAME)
#undef NAME
};

static const char *const class_names[QN_VALUE_CLASSES] = {
#define NAME(cls, text) [cls] = text,
    QN_VALUE_LIST(NAME)
#undef NAME
};

static const char *const lane_names[QN_LANES] = {[QN_LANE_COMP] = "compute", [QN_LANE_SEND] = "send", [QN_LANE_RECV] = "receive",
                                                 [QN_LANE_UP] = "up",        [QN_LANE_DOWN] = "down", [QN_LANE_HOST] = "host"};

static void event_name(qni_page *p, const qn_plan *plan, const qn_task *t)
{
    qni_page_add(p, "%s", op_names[t->op]);
    if (t->channel != QN_NONE) qni_page_add(p, " %s", class_names[plan->channel[t->channel].cls]);
    if (t->op == QN_OP_LOAD || t->op == QN_OP_OFFLOAD)
        qni_page_add(p, " %s", class_names[plan->value[plan->ref[t->in.first]].cls]);
    if (t->stage != QN_NONE) qni_page_add(p, " %d", t->stage);
    if (t->stage != QN_NONE && t->item != QN_NONE) qni_page_add(p, ".%d", t->item);
}

static void names(qni_page *p, const qn_plan *plan)
{
    for (int32_t w = 0; w < plan->workers; w++) {
        qni_page_add(p, "{\"name\": \"process_name\", \"ph\": \"M\", \"pid\": %d, \"args\": {\"name\": \"worker %d\"}},\n", w, w);
        for (int lane = 0; lane < QN_LANES; lane++)
            if (plan->lane[w][lane][1] > 0)
                qni_page_add(
                    p, "{\"name\": \"thread_name\", \"ph\": \"M\", \"pid\": %d, \"tid\": %d, \"args\": {\"name\": \"%s\"}},\n", w,
                    lane, lane_names[lane]);
    }
}

static void costs_event(qni_page *p, const qn_plan *plan, const qni_trace_scale *x)
{
    qni_page_add(
        p, "{\"name\": \"costs\", \"ph\": \"M\", \"pid\": 0, \"args\": {\"unit\": \"%s\", \"us_per_unit\": %.17g, \"latency\": ",
        x->unit, x->us_per_unit);
    qni_page_number(p, x->latency);
    qni_page_add(p, ", \"depth\": %d}},\n", qn_depth(qn_plan_grid(plan)));
}

qn_status qn_trace_write_chrome(const char *path, const qn_trace *t, double ticks_per_us, qn_err *err)
{
    int64_t latency;
    const qn_status st = qni_measured_latency(&latency, t, 1, err);
    const qni_trace_scale ms = {ticks_per_us, "ms", 1000, (double)latency / ticks_per_us / 1000};
    return st == QN_OK ? qni_trace_write_scaled(path, t, &ms, err) : st;
}

qn_status qni_trace_write_scaled(const char *path, const qn_trace *t, const qni_trace_scale *scale, qn_err *err)
{
    const qn_plan *plan = t->plan;
    const double per = scale->ticks_per_us;
    int decimals = 3; /* as many as make every tick whole */
    for (double tick = per / 1000; decimals < 9 && tick > 1.0000001; tick /= 10) decimals++;
    qni_page p = {.text = NULL};
    char *text = NULL;
    qn_status st;
    qni_page_add(&p, "[\n");
    names(&p, plan);
    costs_event(&p, plan, scale);
    for (int32_t i = 0; i < plan->tasks; i++) {
        const qn_task *task = &plan->task[i];
        const qn_span_time *s = &t->time[i];
        if (s->end < s->start) continue;
        qni_page_add(&p, "{\"name\": \"");
        event_name(&p, plan, task);
        qni_page_add(&p, "\", \"cat\": \"%s\", \"ph\": \"X\", \"pid\": %d, \"tid\": %d, \"ts\": %.*f, \"dur\": %.*f},\n",
                     op_names[task->op], task->worker, task->lane, decimals, (double)s->start / per, decimals,
                     (double)(s->end - s->start) / per);
    }
    if (!p.failed && p.used > 2) p.used -= 2; /* the comma and line break after the last event */
    qni_page_add(&p, "\n]\n");
    QN_TRY(st, qni_page_done(&text, &p, err), out);
    st = qn_file_write(path, text, strlen(text), err);
out:
    qni_page_fini(&p);
    qn_free(text);
    return st;
}

/* Why workers stand still, and what a step's length hangs on: a trace read against its plan's graph. Definitions: trace.h.
 *
 * A gap ends where a compute task starts. Three moments cut it: all the task needs is computed; it would have arrived had there
 * been room all along (in arenas and channels), behind the other messages and copies of its lanes; nothing holds the task any
 * more but its own lane.
 *
 *   previous end        computed             arrived             released     start
 *        | switch/internal |      transfer      |      memory      | internal |
 */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"
#include "schedule/trace.h"

typedef struct causes {
    const qn_trace *t;
    int64_t latency;
    int32_t *writer;   /* [values]: the task, or QN_NONE */
    int64_t *released; /* [tasks]: when the last thing outside its lane that it waited for was complete */
    int64_t *arrived;  /* [tasks]: messages and copies: when they would be complete had there been room; others: when what they
                          need would be there */
    qni_graph g;
} causes;

static void close_causes(causes *c)
{
    qn_free(c->writer);
    qn_free(c->released);
    qn_free(c->arrived);
    qni_graph_close(&c->g);
}

static bool is_message(int32_t op)
{
    return op == QN_OP_SEND || op == QN_OP_RECV;
}

/* Does task t wait for from because of what it writes for t? Otherwise it is for the room that from leaves. */
static bool for_data(const causes *c, int32_t t, int32_t from)
{
    const qn_plan *p = c->t->plan;
    const qn_span in = p->task[t].in, acc = p->task[t].acc;
    for (int32_t i = 0; i < in.count; i++)
        if (c->writer[p->ref[in.first + i]] == from) return true;
    for (int32_t i = 0; i < acc.count; i++)
        if (c->writer[p->ref[acc.first + i]] == from) return true;
    return false;
}

/* One cause of t, complete at `at`; with room all along it would have been so when it is computed, or arrived. */
static void consider(const causes *c, int64_t *released, int64_t *arrived, int32_t from, int64_t at, int64_t way)
{
    const int32_t lane = c->t->plan->task[from].lane;
    const bool works = lane == QN_LANE_COMP || lane == QN_LANE_HOST;
    *released = qn_max64(*released, at);
    *arrived = qn_max64(*arrived, (works ? c->t->time[from].end : c->arrived[from]) + way);
}

static void causes_of(const causes *c, int64_t *released, int64_t *arrived, int32_t t)
{
    const qn_plan *p = c->t->plan;
    const qn_task *x = &p->task[t];
    const qn_span_time *time = c->t->time;
    const int32_t peer = x->op == QN_OP_RECV && c->g.node[t] == t ? c->g.peer[t] : QN_NONE;
    if (x->lane != QN_LANE_COMP && qni_lane_index(p, t) > 0) consider(c, released, arrived, t - 1, time[t - 1].end, 0);
    if (peer != QN_NONE) consider(c, released, arrived, peer, time[peer].end + c->latency, c->latency);
    if (c->g.frees[t] != QN_NONE) *released = qn_max64(*released, time[c->g.frees[t]].end);
    for (int32_t i = 0; i < x->wait.count; i++) {
        const int32_t from = p->ref[x->wait.first + i];
        if (for_data(c, t, from) || p->task[from].lane == QN_LANE_HOST)
            consider(c, released, arrived, from, time[from].end, 0);
        else
            *released = qn_max64(*released, time[from].end);
    }
}

static qn_status open_causes(causes *c, const qn_trace *trace, int64_t latency, qn_err *err)
{
    const qn_plan *p = trace->plan;
    *c = (causes){.t = trace, .latency = latency};
    qn_status st = qni_graph_open(&c->g, p, 0, 0, err);
    if (st != QN_OK) return st;
    QN_TRY(st, qni_graph_live(&c->g, err), out);
    c->writer = qn_malloc((size_t)p->values, sizeof *c->writer);
    c->released = qn_malloc((size_t)p->tasks, sizeof *c->released);
    c->arrived = qn_calloc((size_t)p->tasks, sizeof *c->arrived);
    if (c->writer == NULL || c->released == NULL || c->arrived == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "causes of %d tasks", p->tasks);
        goto out;
    }
    for (int32_t v = 0; v < p->values; v++) c->writer[v] = QN_NONE;
    for (int32_t i = 0; i < p->tasks; i++)
        for (int32_t k = 0; k < p->task[i].out.count; k++) c->writer[p->ref[p->task[i].out.first + k]] = i;
    for (int32_t i = 0; i < c->g.ordered; i++) {
        int64_t released = 0, arrived = 0;
        for (int32_t t = c->g.order[i]; t != QN_NONE; t = c->g.also[t]) causes_of(c, &released, &arrived, t);
        for (int32_t t = c->g.order[i]; t != QN_NONE; t = c->g.also[t]) {
            const bool works = p->task[t].lane == QN_LANE_COMP || p->task[t].lane == QN_LANE_HOST;
            c->released[t] = released;
            c->arrived[t] = arrived + (works ? 0 : qn_max64(trace->time[t].end - trace->time[t].start, 0));
        }
    }
out:
    if (st != QN_OK) close_causes(c);
    return st;
}

/* When a value was computed. Values pass few hands: a message, a copy; weights are there from the start, or when the host has
 * made them. */
static int64_t computed_at(const causes *c, int32_t value, int depth)
{
    enum { HANDS = 8 };
    const qn_plan *p = c->t->plan;
    const int32_t from = c->writer[value];
    int64_t at = 0;
    if (from == QN_NONE || depth > HANDS) return 0;
    const qn_task *x = &p->task[from];
    if ((x->lane == QN_LANE_COMP || x->lane == QN_LANE_HOST) && !is_message(x->op)) return c->t->time[from].end;
    const bool message = x->op == QN_OP_RECV && c->g.peer[from] != QN_NONE;
    const qn_span in = message ? p->task[c->g.peer[from]].in : x->in;
    for (int32_t i = 0; i < in.count; i++) at = qn_max64(at, computed_at(c, p->ref[in.first + i], depth + 1));
    for (int32_t i = 0; i < x->wait.count; i++) {
        const int32_t host = p->ref[x->wait.first + i];
        if (p->task[host].lane == QN_LANE_HOST) at = qn_max64(at, c->t->time[host].end);
    }
    return at;
}

static int64_t within(int64_t x, int64_t low, int64_t high)
{
    return qn_min64(qn_max64(x, low), high);
}

/* The gap [from, time[t].start) behind a task of kind before. */
static void split_gap(int64_t part[QN_IDLE_PARTS], const causes *c, int32_t t, int64_t from, int32_t before)
{
    const qn_plan *p = c->t->plan;
    const int64_t start = c->t->time[t].start;
    const int32_t op = p->task[t].op;
    int64_t computed = 0;
    for (int32_t i = 0; i < p->task[t].in.count; i++)
        computed = qn_max64(computed, computed_at(c, p->ref[p->task[t].in.first + i], 0));
    const bool turn = before == QN_OP_F && (op == QN_OP_B || op == QN_OP_BW || op == QN_OP_R);
    const int64_t released = within(c->released[t], from, start);
    computed = within(computed, from, released);
    const int64_t arrived = within(c->arrived[t], computed, released);
    part[turn ? QN_IDLE_SWITCH : QN_IDLE_INTERNAL] += computed - from;
    part[QN_IDLE_TRANSFER] += arrived - computed;
    part[QN_IDLE_MEMORY] += released - arrived;
    part[QN_IDLE_INTERNAL] += start - released;
}

static bool counts(const qn_trace *t, int32_t task)
{
    return qni_is_work(t->plan->task[task].op) && t->time[task].end > t->time[task].start;
}

static int64_t last_end(const qn_trace *t)
{
    int64_t end = 0;
    for (int32_t i = 0; i < t->plan->tasks; i++)
        if (counts(t, i)) end = qn_max64(end, t->time[i].end);
    return end;
}

/* Worker w's time, to the makespan, step by step. step: [plan->steps], added to. */
static void split_worker(qn_step_share *step, const causes *c, int32_t w, int64_t makespan)
{
    const qn_plan *p = c->t->plan;
    const int32_t first = p->lane[w][QN_LANE_COMP][0], count = p->lane[w][QN_LANE_COMP][1];
    int64_t end = 0;
    int32_t before = QN_NONE, at = 0;
    for (int32_t i = first; i < first + count; i++) {
        const qn_span_time x = c->t->time[i];
        if (!counts(c->t, i)) continue;
        at = qn_max32(at, p->task[i].step);
        if (before == QN_NONE)
            step[at].part[QN_IDLE_FILL] += x.start;
        else
            split_gap(step[at].part, c, i, end, before);
        step[at].busy += x.end - x.start;
        step[at].share += x.end - end;
        before = p->task[i].op;
        end = x.end;
    }
    step[p->steps - 1].part[QN_IDLE_DRAIN] += makespan - end;
    step[p->steps - 1].share += makespan - end;
}

qn_status qn_trace_split_steps(qn_step_share *step, const qn_trace *t, int64_t latency, qn_err *err)
{
    causes c;
    const qn_status st = open_causes(&c, t, latency, err);
    if (st != QN_OK) return st;
    memset(step, 0, (size_t)t->plan->steps * sizeof *step);
    const int64_t makespan = last_end(t);
    for (int32_t w = 0; w < t->plan->workers; w++) split_worker(step, &c, w, makespan);
    close_causes(&c);
    return QN_OK;
}

qn_status qn_trace_split_idle(int64_t (*part)[QN_IDLE_PARTS], const qn_trace *t, int64_t latency, qn_err *err)
{
    const qn_plan *p = t->plan;
    causes c;
    qn_status st = open_causes(&c, t, latency, err);
    if (st != QN_OK) return st;
    qn_step_share *step = qn_calloc((size_t)p->steps, sizeof *step);
    if (step == NULL) st = QN_FAIL(err, QN_ENOMEM, "shares of %d steps", p->steps);
    const int64_t makespan = last_end(t);
    for (int32_t w = 0; w < p->workers && st == QN_OK; w++) {
        memset(step, 0, (size_t)p->steps * sizeof *step);
        memset(part[w], 0, sizeof part[w]);
        split_worker(step, &c, w, makespan);
        for (int32_t i = 0; i < p->steps; i++)
            for (int k = 0; k < QN_IDLE_PARTS; k++) part[w][k] += step[i].part[k];
    }
    qn_free(step);
    close_causes(&c);
    return st;
}

/* ---- critical path */

/* The predecessor of t whose end is later than latest, the latest such; t's own node is none. */
static void bind(const causes *c, int32_t *best, int64_t *latest, int32_t node, int32_t from, int64_t at)
{
    if (from == QN_NONE || c->g.node[from] == node || at <= *latest) return;
    *best = from;
    *latest = at;
}

/* What a task waited for longest, with those it runs jointly with: the one before it in its lane first, then data, then room. */
static int32_t binding(const causes *c, int32_t task)
{
    const qn_plan *p = c->t->plan;
    const qn_span_time *time = c->t->time;
    const int32_t node = c->g.node[task];
    int32_t best = QN_NONE;
    int64_t latest = 0;
    for (int32_t t = node; t != QN_NONE; t = c->g.also[t]) {
        const qn_task *x = &p->task[t];
        if (qni_lane_index(p, t) > 0) bind(c, &best, &latest, node, t - 1, time[t - 1].end);
        const int32_t peer = x->op == QN_OP_RECV ? c->g.peer[t] : QN_NONE;
        if (peer != QN_NONE) bind(c, &best, &latest, node, peer, time[peer].end + c->latency);
        for (int32_t i = 0; i < x->wait.count; i++) {
            const int32_t from = p->ref[x->wait.first + i];
            bind(c, &best, &latest, node, from, time[from].end);
        }
        const int32_t frees = c->g.frees[t];
        if (frees != QN_NONE) bind(c, &best, &latest, node, frees, time[frees].end);
    }
    return best;
}

qn_status qn_trace_critical(int32_t **path, int32_t *count, const qn_trace *t, int64_t latency, qn_err *err)
{
    const qn_plan *p = t->plan;
    causes c;
    int32_t at = QN_NONE, n = 0;
    qn_status st = open_causes(&c, t, latency, err);
    if (st != QN_OK) return st;
    int32_t *list = qn_malloc((size_t)p->tasks + 1, sizeof *list);
    if (list == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "path through %d tasks", p->tasks);
        goto out;
    }
    for (int32_t i = 0; i < p->tasks; i++)
        if (counts(t, i) && (at == QN_NONE || t->time[i].end > t->time[at].end)) at = i;
    for (; at != QN_NONE && n < p->tasks; at = binding(&c, at)) list[n++] = at;
    for (int32_t i = 0; i < n / 2; i++) {
        const int32_t swap = list[i];
        list[i] = list[n - 1 - i];
        list[n - 1 - i] = swap;
    }
    *path = list;
    *count = n;
out:
    close_causes(&c);
    return st;
}

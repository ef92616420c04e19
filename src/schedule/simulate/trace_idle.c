/* Why workers stand still, and what a step's length hangs on: a trace read against its plan's graph. Definitions: trace.h.
 *
 * A gap ends where a compute task starts. Three moments cut it: all the task needs is computed; it would have arrived had it
 * left at once; nothing holds the task any more but its own lane.
 *
 *   previous end        computed             arrived             released     start
 *        | switch/internal |      transfer      | memory/transfer  | internal |
 *
 * The time between arrival and release is blamed on memory when a slot that had to become free (in the arena or in a channel)
 * lies on the chain of causes behind it, later than the arrival. */
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
    int64_t *memory;   /* [tasks]: the latest moment on that chain at which a slot became free; -1: none */
    qni_graph g;
} causes;

static void close_causes(causes *c)
{
    qn_free(c->writer);
    qn_free(c->released);
    qn_free(c->memory);
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

/* One cause of t: complete at `at`; the later one counts, of two at once the one that is not for memory. */
static void consider(const causes *c, int64_t *released, int64_t *memory, int32_t from, int64_t at, bool room)
{
    const int64_t slot = room ? at : c->t->plan->task[from].lane != QN_LANE_COMP ? c->memory[from] : -1;
    if (at < *released || (at == *released && slot >= *memory)) return;
    *released = at;
    *memory = slot;
}

static void causes_of(const causes *c, int64_t *released, int64_t *memory, int32_t t)
{
    const qn_plan *p = c->t->plan;
    const qn_task *x = &p->task[t];
    const qn_span_time *time = c->t->time;
    if (x->lane != QN_LANE_COMP && qni_lane_index(p, t) > 0) consider(c, released, memory, t - 1, time[t - 1].end, false);
    if (x->op == QN_OP_RECV && c->g.peer[t] != QN_NONE && c->g.node[t] == t)
        consider(c, released, memory, c->g.peer[t], time[c->g.peer[t]].end + c->latency, false);
    if (c->g.frees[t] != QN_NONE) consider(c, released, memory, c->g.frees[t], time[c->g.frees[t]].end, true);
    for (int32_t i = 0; i < x->wait.count; i++) {
        const int32_t from = p->ref[x->wait.first + i];
        consider(c, released, memory, from, time[from].end, !for_data(c, t, from));
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
    c->memory = qn_malloc((size_t)p->tasks, sizeof *c->memory);
    if (c->writer == NULL || c->released == NULL || c->memory == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "causes of %d tasks", p->tasks);
        goto out;
    }
    for (int32_t v = 0; v < p->values; v++) c->writer[v] = QN_NONE;
    for (int32_t i = 0; i < p->tasks; i++)
        for (int32_t k = 0; k < p->task[i].out.count; k++) c->writer[p->ref[p->task[i].out.first + k]] = i;
    for (int32_t i = 0; i < c->g.ordered; i++) {
        int64_t released = 0, memory = -1;
        for (int32_t t = c->g.order[i]; t != QN_NONE; t = c->g.also[t]) causes_of(c, &released, &memory, t);
        for (int32_t t = c->g.order[i]; t != QN_NONE; t = c->g.also[t]) {
            c->released[t] = released;
            c->memory[t] = memory;
        }
    }
out:
    if (st != QN_OK) close_causes(c);
    return st;
}

/* When a value was computed, and when it would be here had it left at once. Values pass few hands: a message, a copy. */
static void ready_value(const causes *c, int32_t value, int depth, int64_t *computed, int64_t *arrived)
{
    enum { HANDS = 8 };
    const qn_plan *p = c->t->plan;
    const int32_t from = c->writer[value];
    *computed = *arrived = 0;
    if (from == QN_NONE || depth > HANDS) return;
    const qn_task *x = &p->task[from];
    const qn_span_time s = c->t->time[from];
    if ((x->lane == QN_LANE_COMP || x->lane == QN_LANE_HOST) && !is_message(x->op)) {
        *computed = *arrived = s.end;
        return;
    }
    const bool message = x->op == QN_OP_RECV && c->g.peer[from] != QN_NONE;
    const qn_span in = message ? p->task[c->g.peer[from]].in : x->in;
    for (int32_t i = 0; i < in.count; i++) {
        int64_t made, here;
        ready_value(c, p->ref[in.first + i], depth + 1, &made, &here);
        *computed = qn_max64(*computed, made);
        *arrived = qn_max64(*arrived, here);
    }
    *arrived += message ? c->latency : qn_max64(s.end - s.start, 0);
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
    int64_t computed = 0, arrived = 0;
    for (int32_t i = 0; i < p->task[t].in.count; i++) {
        int64_t made, here;
        ready_value(c, p->ref[p->task[t].in.first + i], 0, &made, &here);
        computed = qn_max64(computed, made);
        arrived = qn_max64(arrived, here);
    }
    const bool turn = before == QN_OP_F && (op == QN_OP_B || op == QN_OP_BW || op == QN_OP_R);
    const bool room = c->memory[t] > arrived;
    computed = within(computed, from, start);
    arrived = within(arrived, computed, start);
    const int64_t released = within(c->released[t], arrived, start);
    part[turn ? QN_IDLE_SWITCH : QN_IDLE_INTERNAL] += computed - from;
    part[QN_IDLE_TRANSFER] += arrived - computed;
    part[room ? QN_IDLE_MEMORY : QN_IDLE_TRANSFER] += released - arrived;
    part[QN_IDLE_INTERNAL] += start - released;
}

static bool counts(const qn_trace *t, int32_t task)
{
    return qni_is_work(t->plan->task[task].op) && t->time[task].end > t->time[task].start;
}

qn_status qn_trace_split_idle(int64_t (*part)[QN_IDLE_PARTS], const qn_trace *t, int64_t latency, qn_err *err)
{
    const qn_plan *p = t->plan;
    causes c;
    int64_t makespan = 0;
    const qn_status st = open_causes(&c, t, latency, err);
    if (st != QN_OK) return st;
    for (int32_t i = 0; i < p->tasks; i++)
        if (counts(t, i)) makespan = qn_max64(makespan, t->time[i].end);
    for (int32_t w = 0; w < p->workers; w++) {
        const int32_t first = p->lane[w][QN_LANE_COMP][0], count = p->lane[w][QN_LANE_COMP][1];
        int64_t end = 0;
        int32_t before = QN_NONE;
        memset(part[w], 0, sizeof part[w]);
        for (int32_t i = first; i < first + count; i++) {
            if (!counts(t, i)) continue;
            if (before == QN_NONE)
                part[w][QN_IDLE_FILL] = t->time[i].start;
            else
                split_gap(part[w], &c, i, end, before);
            before = p->task[i].op;
            end = t->time[i].end;
        }
        part[w][QN_IDLE_DRAIN] = makespan - end;
    }
    close_causes(&c);
    return QN_OK;
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

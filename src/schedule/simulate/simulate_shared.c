/* The simulator for fewer cores than what wants them. Everything else is as in plan_simulate.c: as soon as possible, integer
 * ticks.
 *
 *   shared   comp tasks of workers that have one core and run at the same time each get an equal part of it
 *   lanes    copies and the host's tasks want a core, too, any of all: when more lanes are busy than there are cores, all of them
 *            slow down in proportion
 *
 * Events in order of time: at each one tasks end, others start, and the shares change. Inferred: real systems give cores away in
 * slices, which comes to the same where tasks are long against a slice. */
#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"
#include "schedule/trace.h"

typedef struct shared {
    const qn_plan *p;
    int32_t cores;
    bool lanes;                 /* one pool of cores, for all but messages */
    int32_t *next_first, *next; /* successors of each task, as compressed rows */
    int32_t *missing;           /* [tasks]: predecessors that are not done */
    int32_t *active, actives;   /* tasks that run, no more than lanes */
    int64_t *left;              /* [tasks]: ticks of a core of its own that it still needs */
    int32_t *load;              /* [cores]: comp tasks that run */
    int32_t *ready, readies;    /* [tasks] */
} shared;

static void shared_close(shared *s)
{
    qn_free(s->next_first);
    qn_free(s->next);
    qn_free(s->missing);
    qn_free(s->active);
    qn_free(s->left);
    qn_free(s->load);
    qn_free(s->ready);
}

/* Predecessors of a task besides its waits: the one before it in its lane, a RECV's SEND, the RECV that frees a SEND's slot. */
static int32_t near(int32_t out[3], const qni_graph *g, int32_t t)
{
    int32_t n = 0;
    if (qni_lane_index(g->plan, t) > 0) out[n++] = t - 1;
    if (g->plan->task[t].op == QN_OP_RECV && g->peer[t] != QN_NONE) out[n++] = g->peer[t];
    if (g->frees[t] != QN_NONE) out[n++] = g->frees[t];
    return n;
}

static qn_status list_successors(shared *s, const qni_graph *g, qn_err *err)
{
    const qn_plan *p = s->p;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t t = 0; t < p->tasks; t++) {
            int32_t before[3];
            const int32_t n = near(before, g, t), waits = p->task[t].wait.count;
            for (int32_t i = 0; i < n + waits; i++) {
                const int32_t from = i < n ? before[i] : p->ref[p->task[t].wait.first + i - n];
                if (pass == 0) {
                    s->next_first[from + 2]++;
                    s->missing[t]++;
                } else {
                    s->next[s->next_first[from + 1]++] = t;
                }
            }
        }
        if (pass == 1) break;
        for (int32_t t = 0; t < p->tasks; t++) s->next_first[t + 2] += s->next_first[t + 1];
        s->next = qn_malloc((size_t)s->next_first[p->tasks + 1] + 1, sizeof(*s->next));
        if (s->next == NULL) return QN_FAIL(err, QN_ENOMEM, "graph of %d tasks", p->tasks);
    }
    return QN_OK;
}

static qn_status shared_open(shared *s, const qni_graph *g, const int64_t *cost, int32_t cores, bool lanes, qn_err *err)
{
    const qn_plan *p = g->plan;
    const size_t n = (size_t)p->tasks + 2;
    *s = (shared){.p = p, .cores = cores, .lanes = lanes};
    s->next_first = qn_calloc(n, sizeof(*s->next_first));
    s->missing = qn_calloc(n, sizeof(*s->missing));
    s->active = qn_calloc((size_t)p->workers * QN_LANES + 1, sizeof(*s->active));
    s->left = qn_calloc(n, sizeof(*s->left));
    s->load = qn_calloc((size_t)cores, sizeof(*s->load));
    s->ready = qn_calloc(n, sizeof(*s->ready));
    if (s->next_first == NULL || s->missing == NULL || s->active == NULL || s->left == NULL || s->load == NULL ||
        s->ready == NULL)
        return QN_FAIL(err, QN_ENOMEM, "simulation of %d tasks", p->tasks);
    for (int32_t t = 0; t < p->tasks; t++) {
        if (g->node[t] != t || g->also[t] != QN_NONE)
            return QN_FAIL(
                err, QN_EUNSUPPORTED,
                "shared cores with tasks that meet (tensor shards, messages larger than their channel): not simulated");
        s->left[t] = qn_max64(cost != NULL ? cost[t] : p->task[t].cost, 0);
    }
    return list_successors(s, g, err);
}

static int32_t core_of(const shared *s, int32_t task)
{
    return s->lanes ? 0 : s->p->task[task].worker % s->cores;
}

static bool needs_core(const shared *s, int32_t task)
{
    const int32_t lane = s->p->task[task].lane;
    return lane == QN_LANE_COMP || (s->lanes && lane != QN_LANE_SEND && lane != QN_LANE_RECV);
}

static void is_done(shared *s, int32_t task)
{
    for (int32_t i = s->next_first[task]; i < s->next_first[task + 1]; i++)
        if (--s->missing[s->next[i]] == 0) s->ready[s->readies++] = s->next[i];
}

/* Starts what is ready; what takes no time ends at once and may make more ready. */
static void start_ready(shared *s, qn_span_time *time, int64_t now)
{
    while (s->readies > 0) {
        const int32_t t = s->ready[--s->readies];
        time[t] = (qn_span_time){now, now};
        if (s->left[t] == 0) {
            is_done(s, t);
            continue;
        }
        s->active[s->actives++] = t;
        if (needs_core(s, t)) s->load[core_of(s, t)]++;
    }
}

/* So much time for so much of a core of its own: as many times as much as there are busy ones to a core. And back, rounded so
 * that what ends in that time is through. */
static int64_t time_of(const shared *s, int32_t task, int64_t left)
{
    const int64_t busy = needs_core(s, task) ? s->load[core_of(s, task)] : 1, cores = s->lanes ? s->cores : 1;
    return busy <= cores ? left : (left * busy + cores - 1) / cores;
}

static int64_t done_in(const shared *s, int32_t task, int64_t time)
{
    const int64_t busy = needs_core(s, task) ? s->load[core_of(s, task)] : 1, cores = s->lanes ? s->cores : 1;
    return busy <= cores ? time : time * cores / busy;
}

/* To the next end. Returns how long that takes. */
static int64_t advance(shared *s, qn_span_time *time, int64_t now)
{
    int64_t step = INT64_MAX;
    for (int32_t i = 0; i < s->actives; i++) step = qn_min64(step, time_of(s, s->active[i], s->left[s->active[i]]));
    for (int32_t i = 0; i < s->actives; i++) {
        const int32_t t = s->active[i];
        s->left[t] -= qn_min64(done_in(s, t, step), s->left[t]); /* at least one task is through */
        time[t].end = now + step;
    }
    int32_t kept = 0;
    for (int32_t i = 0; i < s->actives; i++) {
        const int32_t t = s->active[i];
        if (s->left[t] > 0) {
            s->active[kept++] = t;
            continue;
        }
        if (needs_core(s, t)) s->load[core_of(s, t)]--;
        is_done(s, t);
    }
    s->actives = kept;
    return step;
}

static qn_status simulate(qn_trace *out, const qn_plan *plan, const int64_t *cost, int32_t cores, bool lanes, qn_err *err)
{
    qni_graph g;
    shared s = {.p = plan};
    if (cores < 1) return QN_FAIL(err, QN_EINVAL, "%d cores; at least 1 is needed", cores);
    qn_status st = qni_graph_open(&g, plan, 0, 0, err);
    if (st != QN_OK) return st;
    QN_TRY(st, qni_graph_live(&g, err), out);
    QN_TRY(st, shared_open(&s, &g, cost, cores, lanes, err), out);
    for (int32_t t = 0; t < plan->tasks; t++) out->time[t] = (qn_span_time){0, -1};
    for (int32_t t = 0; t < plan->tasks; t++)
        if (s.missing[t] == 0) s.ready[s.readies++] = t;
    int64_t now = 0;
    for (start_ready(&s, out->time, now); s.actives > 0; start_ready(&s, out->time, now)) now += advance(&s, out->time, now);
    out->plan = plan;
out:
    shared_close(&s);
    qni_graph_close(&g);
    return st;
}

qn_status qn_simulate_shared(qn_trace *out, const qn_plan *plan, const int64_t *cost, int32_t cores, qn_err *err)
{
    return simulate(out, plan, cost, cores, false, err);
}

qn_status qn_simulate_lanes(qn_trace *out, const qn_plan *plan, const int64_t *cost, int32_t cores, qn_err *err)
{
    return simulate(out, plan, cost, cores, true, err);
}

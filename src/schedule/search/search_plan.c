/* Search on the lists of any plan: what tasks need is read from the plan's values and messages, so that every kind of task that
 * lowering knows can move. */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"
#include "search_lists.h"

typedef struct reader {
    const qn_plan *p;
    const qn_search_plan *how;
    qni_graph g;
    int32_t *writer; /* [values] */
    int32_t *number; /* [plan tasks]: among the lists' tasks, or QN_NONE */
    int32_t *task;   /* [lists' tasks]: in the plan */
    int64_t *limit;  /* [workers] */
    int32_t tasks;
} reader;

static void reader_close(reader *r)
{
    qni_graph_close(&r->g);
    qn_free(r->writer);
    qn_free(r->number);
    qn_free(r->task);
    qn_free(r->limit);
}

static qn_status reader_open(reader *r, const qn_plan *p, const qn_search_plan *how, qn_err *err)
{
    *r = (reader){.p = p, .how = how};
    const qn_status st = qni_graph_open(&r->g, p, 0, 0, err);
    if (st != QN_OK) return st;
    r->writer = qn_malloc((size_t)p->values + 1, sizeof *r->writer);
    r->number = qn_malloc((size_t)p->tasks + 1, sizeof *r->number);
    r->task = qn_malloc((size_t)p->tasks + 1, sizeof *r->task);
    r->limit = qn_calloc((size_t)p->workers, sizeof *r->limit);
    if (r->writer == NULL || r->number == NULL || r->task == NULL || r->limit == NULL)
        return QN_FAIL(err, QN_ENOMEM, "search among %d tasks", p->tasks);
    for (int32_t v = 0; v < p->values; v++) r->writer[v] = QN_NONE;
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *x = &p->task[t];
        for (int32_t i = 0; i < x->out.count; i++) r->writer[p->ref[x->out.first + i]] = t;
        r->number[t] = QN_NONE;
    }
    for (int32_t w = 0; w < p->workers; w++) {
        const int32_t first = p->lane[w][QN_LANE_COMP][0], count = p->lane[w][QN_LANE_COMP][1];
        for (int32_t t = first; t < first + count; t++) {
            if (!qni_is_work(p->task[t].op)) continue;
            r->number[t] = r->tasks;
            r->task[r->tasks++] = t;
        }
    }
    return QN_OK;
}

/* The edge from the compute task that a value comes from, over as many messages as lie between. */
static void add_need(qni_lists *l, const reader *r, int32_t to, int32_t value)
{
    int64_t lag = 0;
    int32_t from = r->writer[value];
    while (from != QN_NONE && r->p->task[from].op == QN_OP_RECV && r->g.peer[from] != QN_NONE) {
        const qn_span in = r->p->task[r->g.peer[from]].in;
        from = in.count > 0 ? r->writer[r->p->ref[in.first]] : QN_NONE;
        lag += r->how->latency;
    }
    if (from != QN_NONE && r->number[from] != QN_NONE) qni_lists_edge(l, r->number[from], to, lag);
}

/* An R stands behind the F of its worker, though it may not read anything of it. */
static void add_forwards(qni_lists *l, const reader *r)
{
    const qn_plan *p = r->p;
    int32_t *forward = qn_malloc((size_t)p->stages * (size_t)p->items + 1, sizeof *forward);
    if (forward == NULL) l->failed = true;
    for (int32_t i = 0; i < r->tasks && forward != NULL; i++) {
        const qn_task *x = &p->task[r->task[i]];
        int32_t *f = &forward[(size_t)x->stage * (size_t)p->items + (size_t)x->item];
        if (x->op == QN_OP_F) *f = i;
        if (x->op == QN_OP_R && x->worker == p->worker_of[x->stage]) qni_lists_edge(l, *f, i, 0);
    }
    qn_free(forward);
}

/* Bytes: a value of the arena is held from the first compute task that touches it to the last. */
static void hold_values(qni_lists *l, const reader *r)
{
    const qn_plan *p = r->p;
    int32_t *first = qn_malloc((size_t)p->values + 1, sizeof *first), *last = qn_malloc((size_t)p->values + 1, sizeof *last);
    if (first == NULL || last == NULL) {
        l->failed = true;
        goto out;
    }
    for (int32_t v = 0; v < p->values; v++) first[v] = last[v] = QN_NONE;
    for (int32_t i = 0; i < r->tasks; i++) {
        const qn_task *x = &p->task[r->task[i]];
        const qn_span span[] = {x->in, x->out};
        for (int k = 0; k < 2; k++) {
            for (int32_t j = 0; j < span[k].count; j++) {
                const int32_t v = p->ref[span[k].first + j];
                if (first[v] == QN_NONE) first[v] = i;
                last[v] = i;
            }
        }
    }
    for (int32_t v = 0; v < p->values; v++) {
        if (first[v] == QN_NONE || p->value[v].offset == QN_NONE) continue;
        l->up[first[v]] += p->value[v].bytes;
        l->down[last[v]] += p->value[v].bytes;
    }
out:
    qn_free(first);
    qn_free(last);
}

static void hold_stashes(qni_lists *l, const reader *r)
{
    for (int32_t i = 0; i < r->tasks; i++) {
        const int32_t held = qni_task_stashes(r->p, r->task[i]);
        l->up[i] = held > 0 ? held : 0;
        l->down[i] = held < 0 ? -held : 0;
    }
}

static qn_status open_lists(qni_lists *l, reader *r, qn_err *err)
{
    const qn_plan *p = r->p;
    qn_status st = qni_lists_open(l, p->workers, r->tasks, err);
    if (st != QN_OK) return st;
    for (int32_t i = 0; i < r->tasks; i++) {
        const qn_task *x = &p->task[r->task[i]];
        l->worker[i] = x->worker;
        l->group[i] = x->stage * QN_OPS + x->op;
        l->adds[i] = x->acc.count > 0 ? p->ref[x->acc.first] : QN_NONE;
        l->cost[i] = x->cost;
        l->seq[i] = i;
        l->first[x->worker + 1]++;
        for (int32_t j = 0; j < x->in.count; j++) add_need(l, r, i, p->ref[x->in.first + j]);
    }
    for (int32_t w = 0; w < p->workers; w++) l->first[w + 1] += l->first[w];
    add_forwards(l, r);
    if (r->how->bytes)
        hold_values(l, r);
    else
        hold_stashes(l, r);
    st = qni_lists_done(l, err);
    if (st != QN_OK || r->how->limit == NULL) return st;
    for (int32_t w = 0; w < p->workers; w++)
        r->limit[w] = r->how->limit[w] - (r->how->bytes ? p->arena_bytes[w] - qni_lists_peak(l, w) : 0);
    l->limit = r->limit;
    return QN_OK;
}

qn_status qn_search_improve_plan(qn_order **out, int64_t *makespan, const qn_plan *plan, const qn_search_plan *how, uint64_t seed,
                                 int64_t rounds, const qn_search_progress *progress, qn_err *err)
{
    reader r = {.p = plan};
    qni_lists l = {.workers = 0};
    qn_order *o = NULL;
    qn_status st;
    *out = NULL;
    if (plan->shards > 1) return QN_FAIL(err, QN_EUNSUPPORTED, "search of a plan with %d shards of a stage", plan->shards);
    QN_TRY(st, reader_open(&r, plan, how, err), out);
    QN_TRY(st, open_lists(&l, &r, err), out);
    QN_TRY(st, qni_lists_improve(&l, makespan, seed, rounds, progress, err), out);
    QN_TRY(st, qn_plan_order(&o, plan, err), out);
    for (int32_t w = 0; w < plan->workers; w++) {
        for (int32_t i = l.first[w]; i < l.first[w + 1]; i++) {
            const qn_task *x = &plan->task[r.task[l.seq[i]]];
            o->task[w][i - l.first[w]] = (qn_order_task){.op = x->op, .stage = x->stage, .item = x->item};
        }
    }
    *out = o;
    o = NULL;
out:
    qn_order_close(o);
    qni_lists_close(&l);
    reader_close(&r);
    return st;
}

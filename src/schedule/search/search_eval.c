/* See search_eval.h. */
#include "search_eval.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"

qn_status qni_eval_open(qni_eval *e, const qn_order *like, const qn_search_model *model, qn_err *err)
{
    static const int32_t op[QNI_SEARCH_KINDS] = {QN_OP_F, QN_OP_B, QN_OP_W};
    *e = (qni_eval){
        .model = model, .workers = like->workers, .stages = like->stages, .items = like->items, .worker_of = like->worker_of};
    if (like->columns != 1 || like->sides != 0 || like->backward_of != NULL)
        return QN_FAIL(err, QN_EUNSUPPORTED, "search of an order with columns, side stages or a backward elsewhere");
    if ((int64_t)e->stages * e->items > INT32_MAX / 16)
        return QN_FAIL(err, QN_EUNSUPPORTED, "search of an order of %d stages and %d micro-batches", e->stages, e->items);
    e->cells = e->stages * e->items;
    e->tasks = QNI_SEARCH_KINDS * e->cells;
    const size_t n = (size_t)e->tasks;
    e->cost = qn_malloc((size_t)QNI_SEARCH_KINDS * (size_t)e->stages, sizeof *e->cost);
    e->first = qn_calloc((size_t)e->workers + 1, sizeof *e->first);
    e->seq = qn_malloc(n, sizeof *e->seq);
    e->pos = qn_malloc(n, sizeof *e->pos);
    if (e->cost == NULL || e->first == NULL || e->seq == NULL || e->pos == NULL) {
        qni_eval_close(e);
        return QN_FAIL(err, QN_ENOMEM, "search among %d tasks", e->tasks);
    }
    for (int32_t k = 0; k < QNI_SEARCH_KINDS; k++)
        for (int32_t s = 0; s < e->stages; s++) e->cost[k * e->stages + s] = model->cost[s][op[k]];
    for (int32_t s = 0; s < e->stages; s++) e->first[e->worker_of[s] + 1] += QNI_SEARCH_KINDS * e->items;
    for (int32_t w = 0; w < e->workers; w++) e->first[w + 1] += e->first[w];
    return QN_OK;
}

void qni_eval_close(qni_eval *e)
{
    qn_free(e->cost);
    qn_free(e->first);
    qn_free(e->seq);
    qn_free(e->pos);
    *e = (qni_eval){.workers = 0};
}

qn_status qni_eval_load(qni_eval *e, const qn_order *order, qn_err *err)
{
    static const int32_t kind_of[] = {
        [QN_OP_F] = QNI_SEARCH_F, [QN_OP_B] = QNI_SEARCH_B, [QN_OP_W] = QNI_SEARCH_W, [QN_OP_BW] = QNI_SEARCH_B};
    for (int32_t w = 0; w < e->workers; w++) {
        int32_t at = e->first[w];
        for (int32_t i = 0; i < order->count[w]; i++) {
            const qn_order_task t = order->task[w][i];
            if (t.op < QN_OP_F || t.op > QN_OP_BW) return QN_FAIL(err, QN_EUNSUPPORTED, "search of an order with recomputation");
            const int32_t parts = t.op == QN_OP_BW ? 2 : 1;
            for (int32_t k = 0; k < parts && at < e->first[w + 1]; k++)
                e->seq[at++] = (kind_of[t.op] + k) * e->cells + t.stage * e->items + t.item;
            if (e->worker_of[t.stage] != w) at = e->first[w + 1] + 1;
        }
        if (at != e->first[w + 1])
            return QN_FAIL(err, QN_ESCHEDULE, "worker %d has tasks of %d; an order with F, B and W (or BW) of each was wanted", w,
                           order->count[w]);
    }
    for (int32_t i = 0; i < e->tasks; i++) e->pos[e->seq[i]] = i;
    return QN_OK;
}

qn_status qni_eval_order(qn_order **out, const qni_eval *e, qn_err *err)
{
    static const qn_op op[QNI_SEARCH_KINDS] = {QN_OP_F, QN_OP_B, QN_OP_W};
    qn_order *o = NULL;
    qn_status st = qn_order_open(&o, e->workers, e->stages, e->items, err);
    if (st != QN_OK) return st;
    memcpy(o->worker_of, e->worker_of, (size_t)e->stages * sizeof *o->worker_of);
    for (int32_t w = 0; w < e->workers; w++) {
        for (int32_t i = e->first[w]; i < e->first[w + 1]; i++) {
            const int32_t t = e->seq[i];
            qn_order_push(o, w, op[qni_task_kind(e, t)], qni_task_stage(e, t), t % e->items);
        }
    }
    st = qn_order_done(o, err);
    if (st == QN_OK)
        *out = o;
    else
        qn_order_close(o);
    return st;
}

/* ---- judging any order */

/* As the evaluator, for orders that have BW: what a fused backward sends leaves at its end. */
static qn_status judge_lists(int64_t *makespan, const qn_order *o, const qn_search_model *m, int64_t *end, int32_t *at,
                             int64_t *clock, qn_err *err)
{
    const size_t cells = (size_t)o->stages * (size_t)o->items;
    bool moved = true;
    int64_t left = 0;
    *makespan = 0;
    for (int32_t w = 0; w < o->workers; w++) left += o->count[w];
    for (size_t i = 0; i < 2 * cells; i++) end[i] = -1;
    while (left > 0 && moved) {
        moved = false;
        for (int32_t w = 0; w < o->workers; w++) {
            for (; at[w] < o->count[w]; at[w]++, left--, moved = true) {
                const qn_order_task t = o->task[w][at[w]];
                const bool f = t.op == QN_OP_F, b = t.op == QN_OP_B || t.op == QN_OP_BW;
                const int32_t from = f ? t.stage - 1 : b ? t.stage + 1 : QN_NONE;
                const size_t cell = (size_t)t.stage * (size_t)o->items + (size_t)t.item;
                int64_t start = clock[w];
                if (from >= 0 && from < o->stages) {
                    const int64_t in = end[(f ? 0 : cells) + (size_t)from * (size_t)o->items + (size_t)t.item];
                    if (in < 0) break;
                    start = qn_max64(start, in + (o->worker_of[from] != w ? m->latency : 0));
                }
                clock[w] = start + m->cost[t.stage][t.op];
                if (clock[w] > start) *makespan = qn_max64(*makespan, clock[w]);
                if (f) end[cell] = clock[w];
                if (b) end[cells + cell] = clock[w];
            }
        }
    }
    return left == 0 ? QN_OK : QN_FAIL(err, QN_ESCHEDULE, "an order whose tasks wait for each other");
}

qn_status qn_search_judge(int64_t *makespan, int64_t *peak, const qn_order *o, const qn_search_model *m, qn_err *err)
{
    if (o->columns != 1 || o->sides != 0 || o->backward_of != NULL)
        return QN_FAIL(err, QN_EUNSUPPORTED, "search of an order with columns, side stages or a backward elsewhere");
    int64_t *end = qn_malloc(2 * (size_t)o->stages * (size_t)o->items, sizeof *end);
    int32_t *at = qn_calloc((size_t)o->workers, sizeof *at);
    int64_t *clock = qn_calloc((size_t)o->workers, sizeof *clock);
    qn_status st = end == NULL || at == NULL || clock == NULL ? QN_FAIL(err, QN_ENOMEM, "search of %d stages", o->stages)
                                                              : judge_lists(makespan, o, m, end, at, clock, err);
    for (int32_t w = 0; w < o->workers && st == QN_OK && peak != NULL; w++) {
        int64_t held = 0;
        peak[w] = 0;
        for (int32_t i = 0; i < o->count[w]; i++) {
            const qn_order_task t = o->task[w][i];
            if (t.op == QN_OP_F) held += m->hold[t.stage];
            if (t.op == QN_OP_B) held += m->pending[t.stage] - m->hold[t.stage];
            if (t.op == QN_OP_W) held -= m->pending[t.stage];
            peak[w] = qn_max64(peak[w], held);
            if (t.op == QN_OP_BW) held -= m->hold[t.stage];
        }
    }
    qn_free(end);
    qn_free(at);
    qn_free(clock);
    return st;
}

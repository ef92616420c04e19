/* See search_eval.h. */
#include "search_eval.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule_internal.h"

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
    e->start = qn_malloc(n, sizeof *e->start);
    e->ring = qn_malloc(n, sizeof *e->ring);
    e->waiting = qn_calloc(n, sizeof *e->waiting);
    if (e->cost == NULL || e->first == NULL || e->seq == NULL || e->pos == NULL || e->start == NULL || e->ring == NULL ||
        e->waiting == NULL) {
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
    qn_free(e->start);
    qn_free(e->ring);
    qn_free(e->waiting);
    qn_free(e->changed);
    qn_free(e->was);
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

/* The earliest start of a task by its inputs and the one before it in its list. */
static int64_t ready(const qni_eval *e, int32_t t)
{
    const int32_t kind = qni_task_kind(e, t), s = qni_task_stage(e, t), w = e->worker_of[s], at = e->pos[t];
    int64_t from = 0;
    if (at > e->first[w]) {
        const int32_t before = e->seq[at - 1];
        from = e->start[before] + qni_task_cost(e, before);
    }
    if (kind == QNI_SEARCH_F) {
        if (s == 0) return from;
        const int32_t in = t - e->items;
        return qn_max64(from, e->start[in] + e->cost[s - 1] + (e->worker_of[s - 1] != w ? e->model->latency : 0));
    }
    const int32_t own = t - e->cells;
    from = qn_max64(from, e->start[own] + qni_task_cost(e, own));
    if (kind == QNI_SEARCH_W || s + 1 == e->stages) return from;
    return qn_max64(from, e->start[t + e->items] + e->cost[QNI_SEARCH_B * e->stages + s + 1] +
                              (e->worker_of[s + 1] != w ? e->model->latency : 0));
}

static void look_at(qni_eval *e, int32_t t)
{
    if (e->waiting[t]) return;
    e->waiting[t] = true;
    int32_t at = e->head + e->waiters++;
    if (at >= e->tasks) at -= e->tasks;
    e->ring[at] = t;
}

static void look_behind(qni_eval *e, int32_t t)
{
    const int32_t kind = qni_task_kind(e, t), s = qni_task_stage(e, t), at = e->pos[t];
    if (at + 1 < e->first[e->worker_of[s] + 1]) look_at(e, e->seq[at + 1]);
    if (kind == QNI_SEARCH_F && s + 1 < e->stages) look_at(e, t + e->items);
    if (kind == QNI_SEARCH_B && s > 0) look_at(e, t - e->items);
    if (kind != QNI_SEARCH_W) look_at(e, t + e->cells);
}

/* One pass in an order in which all inputs come first: per worker as far as its list goes. */
bool qni_eval_times(qni_eval *e)
{
    int32_t placed = 0;
    for (int32_t t = 0; t < e->tasks; t++) e->start[t] = -1;
    e->head = e->waiters = 0;
    memset(e->waiting, 0, (size_t)e->tasks * sizeof *e->waiting);
    for (int32_t w = 0; w < e->workers; w++)
        if (e->first[w] < e->first[w + 1]) look_at(e, e->seq[e->first[w]]);
    while (e->waiters > 0) {
        const int32_t t = e->ring[e->head];
        if (++e->head == e->tasks) e->head = 0;
        e->waiters--;
        e->waiting[t] = false;
        const int32_t kind = qni_task_kind(e, t), s = qni_task_stage(e, t), at = e->pos[t];
        const bool lane = at == e->first[e->worker_of[s]] || e->start[e->seq[at - 1]] >= 0;
        const bool own = kind == QNI_SEARCH_F || e->start[t - e->cells] >= 0;
        const bool in = kind == QNI_SEARCH_F   ? s == 0 || e->start[t - e->items] >= 0
                        : kind == QNI_SEARCH_B ? s + 1 == e->stages || e->start[t + e->items] >= 0
                                               : true;
        if (!lane || !own || !in || e->start[t] >= 0) continue;
        e->start[t] = ready(e, t);
        placed++;
        look_behind(e, t);
    }
    return placed == e->tasks;
}

/* The last task of a worker that takes time: others extend nothing. QN_NONE: there is none. */
static int32_t last_task(const qni_eval *e, int32_t w)
{
    for (int32_t i = e->first[w + 1]; i-- > e->first[w];)
        if (qni_task_cost(e, e->seq[i]) > 0) return e->seq[i];
    return QN_NONE;
}

int64_t qni_eval_makespan(const qni_eval *e)
{
    int64_t end = 0;
    for (int32_t w = 0; w < e->workers; w++) {
        const int32_t last = last_task(e, w);
        if (last != QN_NONE) end = qn_max64(end, e->start[last] + qni_task_cost(e, last));
    }
    return end;
}

int64_t qni_eval_ends(const qni_eval *e)
{
    int64_t sum = 0;
    for (int32_t w = 0; w < e->workers; w++) {
        const int32_t last = last_task(e, w);
        if (last != QN_NONE) sum += e->start[last] + qni_task_cost(e, last);
    }
    return sum;
}

static void rotate(qni_eval *e, int32_t from, int32_t to)
{
    const int32_t t = e->seq[from], step = to > from ? 1 : -1;
    for (int32_t i = from; i != to; i += step) {
        e->seq[i] = e->seq[i + step];
        e->pos[e->seq[i]] = i;
    }
    e->seq[to] = t;
    e->pos[t] = to;
}

/* May t pass over x? Not over what it needs or what needs it, nor over its own kind of the same stage. */
static bool may_pass(const qni_eval *e, int32_t t, int32_t x)
{
    const int32_t st = qni_task_stage(e, t), sx = qni_task_stage(e, x);
    if (st != sx) return true;
    return qni_task_kind(e, t) != qni_task_kind(e, x) && t % e->items != x % e->items;
}

bool qni_eval_fits(const qni_eval *e, int32_t w)
{
    const qn_search_model *m = e->model;
    int64_t held = 0;
    if (m->limit == NULL) return true;
    for (int32_t i = e->first[w]; i < e->first[w + 1]; i++) {
        const int32_t t = e->seq[i], kind = qni_task_kind(e, t), s = qni_task_stage(e, t);
        held += kind == QNI_SEARCH_F ? m->hold[s] : kind == QNI_SEARCH_B ? m->pending[s] - m->hold[s] : -m->pending[s];
        if (held > m->limit[w]) return false;
    }
    return true;
}

static bool note(qni_eval *e, int32_t t)
{
    if (e->changes == e->changes_cap) {
        const int32_t cap = e->changes_cap > 0 ? 2 * e->changes_cap : 1024;
        int32_t *changed = qn_malloc((size_t)cap, sizeof *changed);
        int64_t *was = qn_malloc((size_t)cap, sizeof *was);
        if (changed == NULL || was == NULL) {
            qn_free(changed);
            qn_free(was);
            return false;
        }
        if (e->changes > 0) {
            memcpy(changed, e->changed, (size_t)e->changes * sizeof *changed);
            memcpy(was, e->was, (size_t)e->changes * sizeof *was);
        }
        qn_free(e->changed);
        qn_free(e->was);
        e->changed = changed;
        e->was = was;
        e->changes_cap = cap;
    }
    e->changed[e->changes] = t;
    e->was[e->changes++] = e->start[t];
    return true;
}

/* Re-computes until nothing changes. False: beyond the bound, on a circle, or out of memory for the journal. */
static bool settle(qni_eval *e, int64_t bound)
{
    int64_t looks = 0;
    while (e->waiters > 0) {
        const int32_t t = e->ring[e->head];
        if (++e->head == e->tasks) e->head = 0;
        e->waiters--;
        e->waiting[t] = false;
        const int64_t at = ready(e, t);
        if (at == e->start[t]) continue;
        const int64_t cost = qni_task_cost(e, t);
        if ((cost > 0 && at + cost > bound) || ++looks > 8 * (int64_t)e->tasks || !note(e, t)) return false;
        e->start[t] = at;
        look_behind(e, t);
    }
    return true;
}

void qni_eval_undo(qni_eval *e, int32_t from, int32_t to)
{
    rotate(e, to, from);
    while (e->changes > 0) {
        e->changes--;
        e->start[e->changed[e->changes]] = e->was[e->changes];
    }
}

bool qni_eval_move(qni_eval *e, int32_t from, int32_t to, int64_t bound)
{
    const int32_t t = e->seq[from], step = to > from ? 1 : -1, w = e->worker_of[qni_task_stage(e, t)];
    if (from == to) return false;
    for (int32_t i = from + step; i != to + step; i += step)
        if (!may_pass(e, t, e->seq[i])) return false;
    rotate(e, from, to);
    e->changes = 0;
    if (!qni_eval_fits(e, w)) {
        rotate(e, to, from);
        return false;
    }
    const int32_t low = qn_min32(from, to), high = qn_min32(qn_max32(from, to) + 1, e->first[w + 1] - 1);
    e->head = 0;
    for (int32_t i = low; i <= high; i++) look_at(e, e->seq[i]);
    if (settle(e, bound)) return true;
    for (; e->waiters > 0; e->waiters--) {
        e->waiting[e->ring[e->head]] = false;
        if (++e->head == e->tasks) e->head = 0;
    }
    qni_eval_undo(e, from, to);
    return false;
}

int32_t qni_eval_path(const qni_eval *e, int32_t *path)
{
    int32_t n = 0, t = QN_NONE;
    int64_t end = -1;
    for (int32_t w = 0; w < e->workers; w++) {
        const int32_t last = last_task(e, w);
        if (last == QN_NONE || e->start[last] + qni_task_cost(e, last) <= end) continue;
        end = e->start[last] + qni_task_cost(e, last);
        t = last;
    }
    while (t != QN_NONE && n < e->tasks) {
        path[n++] = t;
        const int32_t kind = qni_task_kind(e, t), s = qni_task_stage(e, t), w = e->worker_of[s], at = e->pos[t];
        const int64_t start = e->start[t];
        const int32_t before = at > e->first[w] ? e->seq[at - 1] : QN_NONE, own = kind == QNI_SEARCH_F ? QN_NONE : t - e->cells;
        const int32_t in = kind == QNI_SEARCH_F && s > 0               ? t - e->items
                           : kind == QNI_SEARCH_B && s + 1 < e->stages ? t + e->items
                                                                       : QN_NONE;
        if (start == 0)
            t = QN_NONE;
        else if (before != QN_NONE && e->start[before] + qni_task_cost(e, before) == start)
            t = before;
        else if (own != QN_NONE && e->start[own] + qni_task_cost(e, own) == start)
            t = own;
        else
            t = in;
    }
    return n;
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

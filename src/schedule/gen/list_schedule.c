/* See list_schedule.h. */
#include "schedule/gen/list_schedule.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/compiler.h"

static int64_t or_one(int64_t x)
{
    return x > 0 ? x : 1;
}

static qn_status open_tables(qni_list *l, qn_err *err)
{
    const size_t S = (size_t)l->stages, P = (size_t)l->workers, cells = S * (size_t)l->items;
    bool room = true;
    for (int32_t k = 0; k < QNI_KINDS; k++) room = (l->count[k] = qn_malloc(S, sizeof(int32_t))) != NULL && room;
    for (int32_t k = 0; k < 2; k++) room = (l->end[k] = qn_malloc(cells, sizeof(int64_t))) != NULL && room;
    int64_t **const wide[] = {&l->clock, &l->held, &l->bubble, &l->first};
    for (size_t i = 0; i < QN_COUNT(wide); i++) room = (*wide[i] = qn_malloc(P, sizeof(int64_t))) != NULL && room;
    int32_t **const narrow[] = {&l->length, &l->queued, &l->pushed};
    for (size_t i = 0; i < QN_COUNT(narrow); i++) room = (*narrow[i] = qn_malloc(P, sizeof(int32_t))) != NULL && room;
    l->task = qn_malloc(P * (size_t)l->per_worker, sizeof *l->task);
    l->queue = qn_malloc(P * (size_t)(l->per_worker / QNI_KINDS), sizeof *l->queue);
    if (!room || l->task == NULL || l->queue == NULL)
        return QN_FAIL(err, QN_ENOMEM, "lists of %d stages and %d micro-batches", l->stages, l->items);
    qni_list_reset(l);
    return QN_OK;
}

qn_status qni_list_open(qni_list *l, const qn_order *o, const qn_pattern *pat, int32_t items, int64_t limit, qn_err *err)
{
    const int64_t held = or_one(pat->stash_size), pending = pat->pending_size > 0 ? pat->pending_size : held;
    *l = (qni_list){.workers = o->workers,
                    .stages = o->stages,
                    .items = items,
                    .worker_of = o->worker_of,
                    .cost = {or_one(pat->cost[QN_OP_F]), or_one(pat->cost[QN_OP_B]), or_one(pat->cost[QN_OP_W])},
                    .link = qn_max64(pat->cost[QN_OP_SEND], 0),
                    .holds = {held, pending - held, -pending},
                    .limit = limit * held,
                    .per_worker = QNI_KINDS * items * (o->stages / o->workers)};
    qn_status st = open_tables(l, err);
    if (st != QN_OK) qni_list_close(l);
    return st;
}

void qni_list_close(qni_list *l)
{
    for (int32_t k = 0; k < QNI_KINDS; k++) qn_free(l->count[k]);
    int64_t *const wide[] = {l->end[0], l->end[1], l->clock, l->held, l->bubble, l->first};
    for (size_t i = 0; i < QN_COUNT(wide); i++) qn_free(wide[i]);
    int32_t *const narrow[] = {l->length, l->queued, l->pushed, l->task, l->queue};
    for (size_t i = 0; i < QN_COUNT(narrow); i++) qn_free(narrow[i]);
    *l = (qni_list){.workers = 0};
}

void qni_list_reset(qni_list *l)
{
    const size_t S = (size_t)l->stages, P = (size_t)l->workers, cells = S * (size_t)l->items;
    for (int32_t k = 0; k < QNI_KINDS; k++) memset(l->count[k], 0, S * sizeof(int32_t));
    for (int32_t k = 0; k < 2; k++) memset(l->end[k], 0xff, cells * sizeof(int64_t));
    int64_t *const wide[] = {l->clock, l->held, l->bubble, l->first};
    for (size_t i = 0; i < QN_COUNT(wide); i++) memset(wide[i], 0, P * sizeof(int64_t));
    int32_t *const narrow[] = {l->length, l->queued, l->pushed};
    for (size_t i = 0; i < QN_COUNT(narrow); i++) memset(narrow[i], 0, P * sizeof(int32_t));
    l->largest = 0;
    l->failed = false;
}

int32_t qni_list_pending(const qni_list *l, int32_t worker)
{
    return l->pushed[worker] - l->queued[worker];
}

int64_t qni_list_ready(const qni_list *l, int32_t kind, int32_t stage)
{
    const int32_t from = kind == QNI_F ? stage - 1 : stage + 1;
    if (from < 0 || from >= l->stages) return 0;
    const int64_t end = l->end[kind][(size_t)from * (size_t)l->items + (size_t)l->count[kind][stage]];
    if (end < 0) return -1;
    return end + (l->worker_of[from] == l->worker_of[stage] ? 0 : l->link);
}

void qni_list_put(qni_list *l, int32_t kind, int32_t stage)
{
    const int32_t w = l->worker_of[stage], item = l->count[kind][stage];
    const int64_t ready = kind == QNI_W || item >= l->items ? 0 : qni_list_ready(l, kind, stage);
    const bool own = kind == QNI_F || item < l->count[kind - 1][stage]; /* F before B before W */
    if (l->failed || item >= l->items || ready < 0 || !own || l->held[w] + l->holds[kind] > l->limit) {
        l->failed = true;
        return;
    }
    const int64_t start = qn_max64(l->clock[w], ready);
    if (l->length[w] == 0)
        l->first[w] = start;
    else
        l->bubble[w] += start - l->clock[w];
    l->largest = qn_max64(l->largest, l->bubble[w]);
    l->clock[w] = start + l->cost[kind];
    l->held[w] += l->holds[kind];
    if (kind != QNI_W) l->end[kind][(size_t)stage * (size_t)l->items + (size_t)item] = l->clock[w];
    if (kind == QNI_B) l->queue[(size_t)w * (size_t)(l->per_worker / QNI_KINDS) + (size_t)l->pushed[w]++] = stage;
    l->task[(size_t)w * (size_t)l->per_worker + (size_t)l->length[w]++] = stage * QNI_KINDS + kind;
    l->count[kind][stage]++;
}

void qni_list_put_w(qni_list *l, int32_t worker)
{
    if (l->failed || qni_list_pending(l, worker) == 0) {
        l->failed = true;
        return;
    }
    const size_t base = (size_t)worker * (size_t)(l->per_worker / QNI_KINDS);
    qni_list_put(l, QNI_W, l->queue[base + (size_t)l->queued[worker]++]);
}

void qni_list_make_room(qni_list *l, int32_t kind, int32_t worker)
{
    while (!l->failed && l->held[worker] + l->holds[kind] > l->limit) qni_list_put_w(l, worker);
}

void qni_list_fill(qni_list *l, int32_t worker, int64_t until)
{
    while (!l->failed && qni_list_pending(l, worker) > 0 && l->clock[worker] + l->cost[QNI_W] <= until) qni_list_put_w(l, worker);
}

int64_t qni_list_span(const qni_list *l)
{
    int64_t span = 0;
    for (int32_t w = 0; w < l->workers; w++) span = qn_max64(span, l->clock[w] - l->first[w]);
    return span;
}

void qni_list_emit(qn_order *o, const qni_list *l)
{
    static const qn_op op[] = {QN_OP_F, QN_OP_B, QN_OP_W};
    for (int32_t k = 0; k < QNI_KINDS; k++) memset(l->count[k], 0, (size_t)l->stages * sizeof(int32_t));
    for (int32_t w = 0; w < l->workers; w++) {
        for (int32_t i = 0; i < l->length[w]; i++) {
            const int32_t x = l->task[(size_t)w * (size_t)l->per_worker + (size_t)i], stage = x / QNI_KINDS, kind = x % QNI_KINDS,
                          item = l->count[kind][stage]++;
            if (item < o->items) qn_order_push(o, w, op[kind], stage, item);
        }
    }
}

/* Adds the tasks of vocabulary shards to an order at the times at which its tasks would run. A task is put in front of tasks that
 * run later than what it waits for, and what waits for it runs later still: all edges point forward in time, so the order stays
 * free of deadlock. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/gen/vocab_parts.h"

typedef struct timed { /* when the tasks of an order run */
    const qn_order *o;
    const qn_pattern *pat;
    int32_t chain, n;
    int64_t **start, **end;   /* [workers][count] */
    int64_t *f, *b, *vs, *vt; /* [stages * items] ends of F and of B or BW; [items] last end of VS, VT; -1: open */
    int32_t *vs_left, *vt_left, *head;
} timed;

static int64_t cost_of(const qn_pattern *pat, int32_t op)
{
    return op == QN_OP_VI || op == QN_OP_VJ ? pat->cost[op] : qn_max64(pat->cost[op], 1);
}

static size_t cell(const timed *t, int32_t stage, int32_t item)
{
    return (size_t)stage * (size_t)t->o->items + (size_t)item;
}

/* When a task has its inputs, message time included where it is one; -1: not known yet. */
static int64_t ready(const timed *t, const qn_order_task *x)
{
    const int32_t m = x->item, last = t->chain - 1;
    const int64_t link = t->pat->cost[QN_OP_SEND];
    int64_t at = 0;
    switch (x->op) {
    case QN_OP_F:
        if (x->stage == 0) return 0;
        at = t->f[cell(t, x->stage - 1, m)];
        return at < 0 ? -1 : at + (t->o->worker_of[x->stage] == t->o->worker_of[x->stage - 1] ? 0 : link);
    case QN_OP_B:
    case QN_OP_BW:
        if (x->stage < last) {
            at = t->b[cell(t, x->stage + 1, m)];
            return at < 0 ? -1 : at + (t->o->worker_of[x->stage] == t->o->worker_of[x->stage + 1] ? 0 : link);
        }
        if (t->n == 0) return t->f[cell(t, last, m)];
        if ((t->o->vocab == 1 ? t->vt_left : t->vs_left)[m] > 0) return -1;
        return (t->o->vocab == 1 ? t->vt : t->vs)[m] + link;
    case QN_OP_VS:
        at = t->f[cell(t, last, m)];
        return at < 0 ? -1 : at + link;
    case QN_OP_VT:
        return t->vs_left[m] > 0 ? -1 : t->vs[m] + link;
    default:
        return 0;
    }
}

static void note_end(timed *t, const qn_order_task *x, int64_t end)
{
    const int32_t m = x->item;
    if (x->op == QN_OP_F) t->f[cell(t, x->stage, m)] = end;
    if (x->op == QN_OP_B || x->op == QN_OP_BW) t->b[cell(t, x->stage, m)] = end;
    if (x->op == QN_OP_VS && t->vs_left[m]-- > 0) t->vs[m] = qn_max64(t->vs[m], end);
    if (x->op == QN_OP_VT && t->vt_left[m]-- > 0) t->vt[m] = qn_max64(t->vt[m], end);
}

static void timed_close(timed *t)
{
    for (int32_t w = 0; w < t->o->workers; w++) {
        if (t->start != NULL) qn_free(t->start[w]);
        if (t->end != NULL) qn_free(t->end[w]);
    }
    int64_t *const wide[] = {t->f, t->b, t->vs, t->vt};
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) qn_free(wide[i]);
    qn_free(t->start);
    qn_free(t->end);
    qn_free(t->vs_left);
    qn_free(t->vt_left);
    qn_free(t->head);
}

static bool timed_room(timed *t)
{
    const qn_order *o = t->o;
    const size_t W = (size_t)o->workers, M = (size_t)o->items, cells = (size_t)o->stages * M;
    t->start = qn_calloc(W, sizeof *t->start);
    t->end = qn_calloc(W, sizeof *t->end);
    t->head = qn_calloc(W, sizeof *t->head);
    t->f = qn_malloc(cells, sizeof *t->f);
    t->b = qn_malloc(cells, sizeof *t->b);
    t->vs = qn_calloc(M, sizeof *t->vs);
    t->vt = qn_calloc(M, sizeof *t->vt);
    t->vs_left = qn_malloc(M, sizeof *t->vs_left);
    t->vt_left = qn_malloc(M, sizeof *t->vt_left);
    bool room = t->start != NULL && t->end != NULL && t->head != NULL && t->f != NULL && t->b != NULL && t->vs != NULL &&
                t->vt != NULL && t->vs_left != NULL && t->vt_left != NULL;
    for (int32_t w = 0; room && w < o->workers; w++) {
        t->start[w] = qn_malloc((size_t)o->count[w], sizeof **t->start);
        t->end[w] = qn_malloc((size_t)o->count[w], sizeof **t->end);
        room = t->start[w] != NULL && t->end[w] != NULL;
    }
    if (!room) return false;
    memset(t->f, 0xff, cells * sizeof *t->f);
    memset(t->b, 0xff, cells * sizeof *t->b);
    for (size_t m = 0; m < M; m++) t->vs_left[m] = t->vt_left[m] = t->n;
    return true;
}

static qn_status timed_open(timed *t, const qn_order *o, const qn_pattern *pat, qn_err *err)
{
    *t = (timed){.o = o, .pat = pat, .chain = o->stages - o->sides, .n = o->sides};
    if (!timed_room(t)) {
        timed_close(t);
        return QN_FAIL(err, QN_ENOMEM, "times of %d workers and %d micro-batches", o->workers, o->items);
    }
    for (bool moved = true; moved;) {
        moved = false;
        for (int32_t w = 0; w < o->workers; w++) {
            for (; t->head[w] < o->count[w]; t->head[w]++, moved = true) {
                const int32_t i = t->head[w];
                const qn_order_task *x = &o->task[w][i];
                const int64_t at = ready(t, x);
                if (at < 0) break;
                t->start[w][i] = qn_max64(at, i > 0 ? t->end[w][i - 1] : 0);
                t->end[w][i] = t->start[w][i] + cost_of(pat, x->op);
                note_end(t, x, t->end[w][i]);
            }
        }
    }
    return QN_OK;
}

/* ---- a new order with tasks put in between */

typedef struct added { /* in front of task `before` of its worker; rank: among those at one place */
    int32_t worker, before, rank, op, stage, item;
} added;

typedef struct adder {
    const timed *t;
    added *list;
    int32_t count;
} adder;

static int by_place(const void *pa, const void *pb)
{
    const added *a = pa, *b = pb;
    if (a->worker != b->worker) return a->worker < b->worker ? -1 : 1;
    if (a->before != b->before) return a->before < b->before ? -1 : 1;
    return (a->rank > b->rank) - (a->rank < b->rank);
}

/* The first task of a worker that starts at that time or later; with running, that ends later. */
static int32_t place_at(const timed *t, int32_t w, int64_t at, bool running)
{
    int32_t i = 0;
    while (i < t->o->count[w] && (running ? t->end[w][i] <= at : t->start[w][i] < at)) i++;
    return i;
}

/* That op of an item for all shards. */
static void add_all(adder *a, const qn_order *o, qn_op op, int32_t m, int64_t at, bool running)
{
    const int32_t chain = o->stages - o->sides;
    for (int32_t k = 0; k < o->sides; k++) {
        const int32_t w = o->worker_of[chain + k];
        a->list[a->count] = (added){w, place_at(a->t, w, at, running), a->count, op, chain + k, m};
        a->count++;
    }
}

static void emit(qn_order *o, const adder *a)
{
    int32_t next = 0;
    if (a->count > 0) qsort(a->list, (size_t)a->count, sizeof *a->list, by_place);
    for (int32_t w = 0; w < o->workers; w++) {
        for (int32_t i = 0; i <= a->t->o->count[w]; i++) {
            for (; next < a->count && a->list[next].worker == w && a->list[next].before == i; next++)
                qn_order_push(o, w, (qn_op)a->list[next].op, a->list[next].stage, a->list[next].item);
            if (i == a->t->o->count[w]) break;
            const qn_order_task *x = &a->t->o->task[w][i];
            qn_order_push(o, w, (qn_op)x->op, x->stage, x->item);
        }
    }
}

/* An order for the chain of base with the pattern's shards, and a list with room for two tasks per shard and item. */
static qn_status open_both(qn_order **out, adder *a, const timed *t, int32_t sides, qn_err *err)
{
    const qn_order *base = t->o;
    const qn_status st = qn_order_open(out, base->workers, t->chain + sides, base->items, err);
    if (st != QN_OK) return st;
    qn_order *o = *out;
    o->sides = sides;
    o->vocab = t->pat->vocab;
    for (int32_t s = 0; s < t->chain; s++) o->worker_of[s] = base->worker_of[s];
    for (int32_t k = 0; k < sides; k++) o->worker_of[t->chain + k] = k % base->workers;
    *a = (adder){.t = t, .list = qn_malloc(2 * (size_t)sides * (size_t)base->items, sizeof *a->list)};
    return a->list != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "tasks of %d vocabulary shards", sides);
}

static qn_status finish(qn_order **out, qn_order *o, adder *a, timed *t, qn_status st, qn_err *err)
{
    if (st == QN_OK) emit(o, a);
    if (st == QN_OK) st = qn_order_done(o, err);
    qn_free(a->list);
    timed_close(t);
    if (st != QN_OK) {
        qn_order_close(o);
        return st;
    }
    *out = o;
    return QN_OK;
}

qn_status qni_vocab_add_passes(qn_order **out, const qn_order *chain, const qn_pattern *pat, qn_err *err)
{
    timed t;
    adder a = {0};
    qn_order *o = NULL;
    qn_status st = timed_open(&t, chain, pat, err);
    if (st != QN_OK) return st;
    st = open_both(&o, &a, &t, pat->sides > 0 ? pat->sides : pat->workers, err);
    const int32_t last = t.chain - 1, w = chain->worker_of[last];
    for (int32_t m = 0; st == QN_OK && m < chain->items; m++) {
        int64_t backward = INT64_MAX;
        for (int32_t i = 0; i < chain->count[w]; i++) {
            const qn_order_task *x = &chain->task[w][i];
            if (x->stage == last && x->item == m && (x->op == QN_OP_B || x->op == QN_OP_BW)) backward = t.start[w][i];
        }
        const int64_t done = t.f[cell(&t, last, m)];
        const int64_t next = m + 1 < chain->items ? t.f[cell(&t, last, m + 1)] : backward;
        add_all(&a, o, QN_OP_VS, m, done, false);
        add_all(&a, o, QN_OP_VT, m, qn_min64(next, backward), false);
    }
    return finish(out, o, &a, &t, st, err);
}

qn_status qni_vocab_add_inputs(qn_order **out, const qn_order *base, const qn_pattern *pat, qn_err *err)
{
    timed t;
    adder a = {0};
    qn_order *o = NULL;
    qn_status st = timed_open(&t, base, pat, err);
    if (st != QN_OK) return st;
    st = open_both(&o, &a, &t, base->sides, err);
    const int64_t f = qn_max64(pat->cost[QN_OP_F], 1);
    for (int32_t m = 0; st == QN_OK && m < base->items; m++) {
        /* at or before the forward of the item before starts; that ends f later */
        add_all(&a, o, QN_OP_VI, m, m == 0 ? 0 : t.f[cell(&t, 0, m - 1)] - f, true);
        add_all(&a, o, QN_OP_VJ, m, t.b[cell(&t, 0, m)] + f, false);
    }
    return finish(out, o, &a, &t, st, err);
}

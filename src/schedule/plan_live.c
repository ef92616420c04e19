/* How many bytes of a plan's arenas can be in use at once: what they would need if slots left no holes.
 *
 * Whatever the timing, a worker's comp lane runs in order, and lanes and waits say what else is over by then. So memory is
 * followed along the comp lane: what a comp task writes is there from its start and what it drops goes at its end; what comes in
 * (RECV, LOAD) is there from when it may begin, that is when the last comp task it waits for is over; what goes out (SEND,
 * OFFLOAD) is there until a comp task waits for that, or to the end of the step. Bytes that pass from one value to another
 * meanwhile are counted once. */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule_internal.h"

typedef struct mark { /* from here to the next mark so many values hold the bytes */
    int64_t at;
    int32_t holders;
} mark;

typedef struct account {
    const qn_plan *p;
    const int32_t (*clock)[QN_LANES];
    bool *alive; /* [values] */
    int32_t w;
    int32_t begun[QN_LANES], over[QN_LANES]; /* tasks of each lane whose values have come, and gone */
    mark *mark;                              /* ascending; behind the last one nobody holds anything */
    int32_t marks, cap;
    int64_t live, most;
    bool failed;
} account;

/* Index of a mark at this byte, made if there is none; QN_NONE: no memory. */
static int32_t mark_at(account *a, int64_t at)
{
    int32_t low = 0, high = a->marks;
    while (low < high) {
        const int32_t mid = low + (high - low) / 2;
        if (a->mark[mid].at < at)
            low = mid + 1;
        else
            high = mid;
    }
    if (low < a->marks && a->mark[low].at == at) return low;
    if (!qni_grow(&a->mark, &a->cap, a->marks + 1, sizeof *a->mark)) return QN_NONE;
    memmove(a->mark + low + 1, a->mark + low, (size_t)(a->marks - low) * sizeof *a->mark);
    a->mark[low] = (mark){at, low > 0 ? a->mark[low - 1].holders : 0};
    a->marks++;
    return low;
}

static void drop_mark(account *a, int32_t i)
{
    if (a->mark[i].holders != (i > 0 ? a->mark[i - 1].holders : 0)) return;
    a->marks--;
    memmove(a->mark + i, a->mark + i + 1, (size_t)(a->marks - i) * sizeof *a->mark);
}

/* One holder more (by 1) or fewer (by -1) of a value's bytes. */
static void hold(account *a, const qn_value *v, int32_t by)
{
    if (v->bytes == 0 || a->failed) return;
    int32_t first = mark_at(a, v->offset);
    const int32_t end = first != QN_NONE ? mark_at(a, v->offset + v->bytes) : QN_NONE;
    if (end == QN_NONE) {
        a->failed = true;
        return;
    }
    for (int32_t i = first; i < end; i++) {
        const bool before = a->mark[i].holders > 0;
        a->mark[i].holders += by;
        a->live += (a->mark[i + 1].at - a->mark[i].at) * ((a->mark[i].holders > 0) - before);
    }
    drop_mark(a, end);
    drop_mark(a, first);
    a->most = qn_max64(a->most, a->live);
}

static void come(account *a, qn_span span)
{
    for (int32_t i = 0; i < span.count; i++) {
        const int32_t v = a->p->ref[span.first + i];
        const qn_value *x = &a->p->value[v];
        if (x->offset == QN_NONE || x->worker != a->w || a->alive[v]) continue;
        a->alive[v] = true;
        hold(a, x, 1);
    }
}

static void go(account *a, int32_t task)
{
    const qn_span span = a->p->task[task].free;
    for (int32_t i = 0; i < span.count; i++) {
        const int32_t v = a->p->ref[span.first + i];
        if (!a->alive[v] || a->p->value[v].worker != a->w) continue;
        a->alive[v] = false;
        hold(a, &a->p->value[v], -1);
    }
}

/* What the worker's other lanes have dropped before a comp task that waits so far. */
static void settle(account *a, const int32_t clock[QN_LANES])
{
    for (int32_t l = 0; l < QN_LANES; l++) {
        if (l == QN_LANE_COMP) continue;
        for (; a->over[l] <= clock[l]; a->over[l]++) go(a, a->p->lane[a->w][l][0] + a->over[l]);
    }
}

/* What comes in once so many comp tasks are over. */
static void post(account *a, int32_t done)
{
    for (int32_t l = 0; l < QN_LANES; l++) {
        const int32_t first = a->p->lane[a->w][l][0], count = a->p->lane[a->w][l][1];
        if (l == QN_LANE_COMP) continue;
        for (; a->begun[l] < count && a->clock[first + a->begun[l]][QN_LANE_COMP] < done; a->begun[l]++) {
            come(a, a->p->task[first + a->begun[l]].out);
        }
    }
}

static int64_t follow(account *a)
{
    const qn_plan *p = a->p;
    const int32_t first = p->lane[a->w][QN_LANE_COMP][0], count = p->lane[a->w][QN_LANE_COMP][1];
    post(a, 0);
    for (int32_t i = 0; i < count; i++) {
        const int32_t t = first + i;
        settle(a, a->clock[t]);
        come(a, p->task[t].out);
        come(a, p->task[t].acc);
        if (qn_joint_last(p, t) == t)
            for (int32_t j = qn_joint_first(p, t); j <= t; j++) go(a, j);
        post(a, i + 1);
    }
    return a->most;
}

qn_status qn_plan_live_bytes(int64_t *live, const qn_plan *p, qn_err *err)
{
    qni_graph g = {0};
    int32_t(*clock)[QN_LANES] = NULL;
    bool *alive = qn_calloc((size_t)p->values, sizeof *alive);
    qn_status st = alive != NULL ? QN_OK : QN_FAIL(err, QN_ENOMEM, "memory of %d values", p->values);
    if (st == QN_OK) st = qni_graph_open(&g, p, 0, 0, err);
    if (st == QN_OK) st = qni_graph_live(&g, err);
    if (st == QN_OK) st = qni_clocks(&clock, &g, err);
    for (int32_t w = 0; w < p->workers && st == QN_OK; w++) {
        account a = {.p = p, .clock = (const int32_t(*)[QN_LANES])clock, .alive = alive, .w = w};
        live[w] = follow(&a);
        if (a.failed) st = QN_FAIL(err, QN_ENOMEM, "memory of %d values", p->values);
        qn_free(a.mark);
    }
    qn_free(clock);
    qni_graph_close(&g);
    qn_free(alive);
    return st;
}

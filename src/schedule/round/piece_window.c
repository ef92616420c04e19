/* See piece_window.h. */
#include "piece_window.h"

#include "core/alloc.h"
#include "core/checked.h"

int64_t qn_window_visits(const qn_window *w)
{
    return w->training ? 2 * (int64_t)w->pieces : (int64_t)w->pieces * w->passes;
}

static qn_status check(const qn_window *w, qn_err *err)
{
    if (w->pieces < 1 || w->passes < 1 || (w->training && w->passes != 1))
        return QN_FAIL(err, QN_EINVAL,
                       "a window over %d pieces in %d passes: at least 1 of each is needed, exactly 1 pass in training",
                       w->pieces, w->passes);
    if (qn_window_visits(w) > INT32_MAX / 2)
        return QN_FAIL(err, QN_EINVAL, "a window over %d pieces in %d passes: too many visits", w->pieces, w->passes);
    if (w->resident < 1 || w->group < 1 || w->group > w->resident)
        return QN_FAIL(err, QN_EINVAL,
                       "a window of %d resident pieces, %d replaced at a time: k of at least 1 and k' from 1 to k are possible",
                       w->resident, w->group);
    return QN_OK;
}

/* The pieces of a window in the order of their visits. */
static int32_t piece_of(const qn_window *w, int32_t visit)
{
    if (w->training && visit >= w->pieces) return 2 * w->pieces - 1 - visit;
    return visit % w->pieces;
}

/* The window's state while visits go by. */
typedef struct walker {
    const qn_window *w;
    qn_window_visit *visit;
    int32_t k, visits, next, batch;  /* pieces held; of visits; the next visit without a place; transfers so far */
    int32_t *free_slot, frees, took; /* [visits + k]: slots as they get free; those taken again */
} walker;

static void load(walker *x, int32_t after)
{
    qn_window_visit *v = &x->visit[x->next++];
    v->load = true;
    v->after = after;
    v->batch = x->batch;
    v->slot = x->free_slot[x->took++];
}

/* Visits first to i are done: their gradients go down, and as many loads may start as there are pieces to come. A piece that
 * nobody replaces stays. */
static void replace(walker *x, int32_t first, int32_t i)
{
    const qn_window *w = x->w;
    const int32_t turn = w->training ? w->pieces : x->visits, before = x->next;
    for (int32_t q = first; q <= i; q++) {
        if (x->visit[q].backward) x->visit[q].flush = i;
        if (x->next >= (q < turn ? turn : x->visits)) continue;
        x->visit[q].last = true;
        x->free_slot[x->frees++] = x->visit[q].slot;
        load(x, i);
    }
    if (x->next > before) x->batch++;
}

/* Where the backward begins: the last k pieces of the forward are there, the last one first. */
static void turn_round(walker *x)
{
    const int32_t n = x->w->pieces;
    for (int32_t j = 0; j < x->k; j++) x->visit[n + j].slot = x->visit[n - 1 - j].slot;
    x->next = n + x->k;
}

/* All pieces fit: each is loaded once. */
static void keep_all(walker *x)
{
    for (int32_t i = x->w->pieces; i < x->visits; i++) {
        x->visit[i].slot = x->visit[i].piece;
        if (x->visit[i].backward)
            x->visit[i].flush = qn_min32(i + x->w->group - 1 - (i - x->w->pieces) % x->w->group, x->visits - 1);
    }
}

qn_status qn_window_plan(qn_window_visit *visit, const qn_window *w, qn_err *err)
{
    qn_status st = check(w, err);
    if (st != QN_OK) return st;
    walker x = {.w = w, .visit = visit, .k = qn_min32(w->resident, w->pieces), .visits = (int32_t)qn_window_visits(w)};
    x.free_slot = qn_malloc((size_t)x.visits + (size_t)x.k, sizeof *x.free_slot);
    if (x.free_slot == NULL) return QN_FAIL(err, QN_ENOMEM, "window over %d visits", x.visits);
    for (int32_t i = 0; i < x.visits; i++)
        visit[i] = (qn_window_visit){
            .piece = piece_of(w, i), .backward = w->training && i >= w->pieces, .after = -1, .batch = -1, .flush = -1};
    for (int32_t s = 0; s < x.k; s++) x.free_slot[x.frees++] = s;
    for (; x.next < x.k; x.batch += (x.next % w->group == 0)) load(&x, -1);
    x.batch += x.next % w->group != 0;
    int32_t first = 0;
    for (int32_t i = 0; i < x.visits && x.k < w->pieces; i++) {
        if (w->training && i == w->pieces) turn_round(&x);
        if (i - first + 1 < w->group && (i + 1) % w->pieces != 0) continue;
        replace(&x, first, i);
        first = i + 1;
    }
    if (x.k == w->pieces) keep_all(&x);
    for (int32_t i = qn_max32(0, x.visits - x.k); i < x.visits; i++) visit[i].last = true;
    qn_free(x.free_slot);
    return QN_OK;
}

int64_t qn_window_loaded(const qn_window_visit *visit, int64_t visits, const int64_t *weight)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < visits; i++) sum += visit[i].load ? weight[visit[i].piece] : 0;
    return sum;
}

int64_t qn_window_bytes(const int64_t *weight, int32_t pieces, int32_t resident)
{
    int64_t sum = 0, most = 0;
    for (int32_t i = 0; i < pieces; i++) {
        sum += weight[i];
        if (i >= resident) sum -= weight[i - resident];
        most = qn_max64(most, sum);
    }
    return most;
}

/* ---- time */

typedef struct clocks {
    int64_t *end, *loaded, *down; /* [visits]: computed; its weights there; its gradient down */
    int64_t up_lane, down_lane;
} clocks;

/* The transfer that visit i's load belongs to. Returns the visit after it. */
static int32_t transfer(clocks *t, const qn_window_visit *v, int32_t visits, int32_t i, const qn_window_costs *c)
{
    const int32_t first = i, after = v[i].after, batch = v[i].batch;
    int64_t at = t->up_lane;
    if (after >= 0) at = qn_max64(at, qn_max64(t->end[after], t->down[after]));
    for (; i < visits && v[i].load && v[i].batch == batch; i++) {
        at += c->up[v[i].piece] + (c->batched && i > first ? 0 : c->latency);
        t->loaded[i] = at;
    }
    for (int32_t q = first; c->batched && q < i; q++) t->loaded[q] = at;
    t->up_lane = at;
    return i;
}

qn_status qn_window_makespan(int64_t *makespan, int64_t *end, const qn_window *w, const qn_window_visit *visit,
                             const qn_window_costs *c, qn_err *err)
{
    const int32_t visits = (int32_t)qn_window_visits(w);
    clocks t = {.end = qn_calloc(3 * (size_t)visits, sizeof *t.end)};
    if (t.end == NULL) return QN_FAIL(err, QN_ENOMEM, "times of %d visits", visits);
    t.loaded = t.end + visits;
    t.down = t.loaded + visits;
    int64_t clock = 0;
    int32_t next = 0; /* load */
    for (int32_t i = 0; i < visits; i++) {
        while (next <= i && next < visits) next = visit[next].load ? transfer(&t, visit, visits, next, c) : next + 1;
        const int64_t *cost = visit[i].backward ? c->backward : c->forward;
        clock = qn_max64(clock, t.loaded[i]) + cost[visit[i].piece];
        t.end[i] = clock;
        for (int32_t q = i; c->down != NULL && q >= 0 && visit[q].backward && visit[i].flush == i && visit[q].flush == i; q--) {
            t.down_lane = qn_max64(t.down_lane, clock) + c->down[visit[q].piece];
            t.down[i] = t.down_lane;
        }
        if (end != NULL) end[i] = clock;
    }
    *makespan = qn_max64(clock, t.down_lane);
    qn_free(t.end);
    return QN_OK;
}

/* ---- which k and k' */

static int64_t extreme(const int64_t *x, int32_t n, bool largest)
{
    int64_t best = x[0];
    for (int32_t i = 1; i < n; i++) best = largest ? qn_max64(best, x[i]) : qn_min64(best, x[i]);
    return best;
}

qn_status qn_window_choose(qn_window *w, const qn_window_costs *c, const int64_t *weight, int64_t room, qn_err *err)
{
    const int32_t n = w->pieces;
    if (n < 1) return QN_FAIL(err, QN_EINVAL, "a window over %d pieces: at least 1 is needed", n);
    const int64_t most = extreme(c->up, n, true), least = qn_max64(extreme(c->up, n, false), 1);
    int64_t compute = extreme(c->forward, n, false);
    if (w->training) compute = qn_min64(compute, extreme(c->backward, n, false));
    compute = qn_max64(compute, 1);
    const int64_t group = qn_max64(1, (20 * c->latency + least - 1) / least), ahead = (most + compute - 1) / compute + 1;
    w->group = (int32_t)qn_min64(group, n);
    w->resident = (int32_t)qn_min64(w->group + qn_min64(ahead, n), n);
    while (w->resident > 0 && qn_window_bytes(weight, n, w->resident) > room) w->resident--;
    if (w->resident == 0)
        return QN_FAIL(err, QN_EINVAL, "no piece fits in %lld bytes: the largest of %d needs %lld", (long long)room, n,
                       (long long)extreme(weight, n, true));
    if (w->resident < n) w->group = qn_max32(1, qn_min32(w->group, w->resident - 1));
    return QN_OK;
}

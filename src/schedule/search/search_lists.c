/* See search_lists.h. */
#include "search_lists.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/schedule_internal.h"

qn_status qni_lists_open(qni_lists *l, int32_t workers, int32_t tasks, qn_err *err)
{
    const size_t n = (size_t)tasks;
    *l = (qni_lists){.workers = workers, .tasks = tasks};
    int32_t **const narrow[] = {&l->worker, &l->group, &l->adds, &l->seq, &l->pos, &l->ring};
    int64_t **const wide[] = {&l->cost, &l->up, &l->down, &l->start};
    bool room = true;
    for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++)
        room = (*narrow[i] = qn_calloc(n + 1, sizeof(int32_t))) != NULL && room;
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++)
        room = (*wide[i] = qn_calloc(n + 1, sizeof(int64_t))) != NULL && room;
    l->first = qn_calloc((size_t)workers + 1, sizeof *l->first);
    l->waiting = qn_calloc(n + 1, sizeof *l->waiting);
    if (room && l->first != NULL && l->waiting != NULL) return QN_OK;
    qni_lists_close(l);
    return QN_FAIL(err, QN_ENOMEM, "search among %d tasks", tasks);
}

void qni_lists_close(qni_lists *l)
{
    int32_t *const narrow[] = {l->worker, l->group, l->adds, l->seq,  l->pos,    l->ring,
                               l->first,  l->in,    l->out,  l->next, l->changed};
    int64_t *const wide[] = {l->cost, l->up, l->down, l->start, l->was};
    for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++) qn_free(narrow[i]);
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) qn_free(wide[i]);
    qn_free(l->edge);
    qn_free(l->waiting);
    *l = (qni_lists){.workers = 0};
}

void qni_lists_edge(qni_lists *l, int32_t from, int32_t to, int64_t lag)
{
    if (l->failed || !qni_grow(&l->edge, &l->edge_cap, l->edges + 1, sizeof *l->edge)) {
        l->failed = true;
        return;
    }
    l->edge[l->edges++] = (qni_edge){from, to, lag};
}

/* Edges by `to`, in the order in which they were added; then the lists of those that leave. */
qn_status qni_lists_done(qni_lists *l, qn_err *err)
{
    const size_t n = (size_t)l->tasks;
    qni_edge *sorted = qn_malloc((size_t)l->edges + 1, sizeof *sorted);
    l->in = qn_calloc(n + 2, sizeof *l->in);
    l->out = qn_calloc(n + 2, sizeof *l->out);
    l->next = qn_calloc((size_t)l->edges + 1, sizeof *l->next);
    if (l->failed || sorted == NULL || l->in == NULL || l->out == NULL || l->next == NULL) {
        qn_free(sorted);
        return QN_FAIL(err, QN_ENOMEM, "search among %d tasks", l->tasks);
    }
    for (int32_t i = 0; i < l->edges; i++) {
        l->in[l->edge[i].to + 2]++;
        l->out[l->edge[i].from + 2]++;
    }
    for (int32_t t = 0; t < l->tasks; t++) {
        l->in[t + 2] += l->in[t + 1];
        l->out[t + 2] += l->out[t + 1];
    }
    for (int32_t i = 0; i < l->edges; i++) sorted[l->in[l->edge[i].to + 1]++] = l->edge[i];
    qn_free(l->edge);
    l->edge = sorted;
    for (int32_t i = 0; i < l->edges; i++) l->next[l->out[sorted[i].from + 1]++] = i;
    for (int32_t i = 0; i < l->tasks; i++) l->pos[l->seq[i]] = i;
    return QN_OK;
}

void qni_lists_set(qni_lists *l, const int32_t *seq)
{
    memcpy(l->seq, seq, (size_t)l->tasks * sizeof *l->seq);
    for (int32_t i = 0; i < l->tasks; i++) l->pos[l->seq[i]] = i;
}

static int64_t end_of(const qni_lists *l, int32_t t)
{
    return l->start[t] + l->cost[t];
}

/* The task before t in its list, or QN_NONE. */
static int32_t before(const qni_lists *l, int32_t t)
{
    return l->pos[t] > l->first[l->worker[t]] ? l->seq[l->pos[t] - 1] : QN_NONE;
}

/* The earliest start of a task by its inputs and the one before it in its list. */
static int64_t ready(const qni_lists *l, int32_t t)
{
    const int32_t b = before(l, t);
    int64_t from = b != QN_NONE ? end_of(l, b) : 0;
    for (int32_t i = l->in[t]; i < l->in[t + 1]; i++) from = qn_max64(from, end_of(l, l->edge[i].from) + l->edge[i].lag);
    return from;
}

static void look_at(qni_lists *l, int32_t t)
{
    if (l->waiting[t]) return;
    l->waiting[t] = true;
    int32_t at = l->head + l->waiters++;
    if (at >= l->tasks) at -= l->tasks;
    l->ring[at] = t;
}

static int32_t look_next(qni_lists *l)
{
    const int32_t t = l->ring[l->head];
    if (++l->head == l->tasks) l->head = 0;
    l->waiters--;
    l->waiting[t] = false;
    return t;
}

static void look_behind(qni_lists *l, int32_t t)
{
    const int32_t at = l->pos[t];
    if (at + 1 < l->first[l->worker[t] + 1]) look_at(l, l->seq[at + 1]);
    for (int32_t i = l->out[t]; i < l->out[t + 1]; i++) look_at(l, l->edge[l->next[i]].to);
}

/* One pass in an order in which all inputs come first: per worker as far as its list goes. */
bool qni_lists_times(qni_lists *l)
{
    int32_t placed = 0;
    for (int32_t t = 0; t < l->tasks; t++) l->start[t] = -1;
    l->head = l->waiters = 0;
    memset(l->waiting, 0, (size_t)l->tasks * sizeof *l->waiting);
    for (int32_t w = 0; w < l->workers; w++)
        if (l->first[w] < l->first[w + 1]) look_at(l, l->seq[l->first[w]]);
    while (l->waiters > 0) {
        const int32_t t = look_next(l), b = before(l, t);
        bool all = l->start[t] < 0 && (b == QN_NONE || l->start[b] >= 0);
        for (int32_t i = l->in[t]; i < l->in[t + 1] && all; i++) all = l->start[l->edge[i].from] >= 0;
        if (!all) continue;
        l->start[t] = ready(l, t);
        placed++;
        look_behind(l, t);
    }
    return placed == l->tasks;
}

/* The last task of a worker that takes time: others extend nothing. QN_NONE: there is none. */
static int32_t last_task(const qni_lists *l, int32_t w)
{
    for (int32_t i = l->first[w + 1]; i-- > l->first[w];)
        if (l->cost[l->seq[i]] > 0) return l->seq[i];
    return QN_NONE;
}

int64_t qni_lists_makespan(const qni_lists *l)
{
    int64_t end = 0;
    for (int32_t w = 0; w < l->workers; w++) {
        const int32_t last = last_task(l, w);
        if (last != QN_NONE) end = qn_max64(end, end_of(l, last));
    }
    return end;
}

int64_t qni_lists_ends(const qni_lists *l)
{
    int64_t sum = 0;
    for (int32_t w = 0; w < l->workers; w++) {
        const int32_t last = last_task(l, w);
        if (last != QN_NONE) sum += end_of(l, last);
    }
    return sum;
}

int64_t qni_lists_peak(const qni_lists *l, int32_t w)
{
    int64_t held = 0, most = 0;
    for (int32_t i = l->first[w]; i < l->first[w + 1]; i++) {
        held += l->up[l->seq[i]];
        most = qn_max64(most, held);
        held -= l->down[l->seq[i]];
    }
    return most;
}

bool qni_lists_fit(const qni_lists *l, int32_t w)
{
    return l->limit == NULL || qni_lists_peak(l, w) <= l->limit[w];
}

static void rotate(qni_lists *l, int32_t from, int32_t to)
{
    const int32_t t = l->seq[from], step = to > from ? 1 : -1;
    for (int32_t i = from; i != to; i += step) {
        l->seq[i] = l->seq[i + step];
        l->pos[l->seq[i]] = i;
    }
    l->seq[to] = t;
    l->pos[t] = to;
}

static bool needs(const qni_lists *l, int32_t t, int32_t x)
{
    for (int32_t i = l->in[t]; i < l->in[t + 1]; i++)
        if (l->edge[i].from == x) return true;
    return false;
}

/* May t pass over x? Not over what it needs or what needs it, nor over its own kind. */
static bool may_pass(const qni_lists *l, int32_t t, int32_t x)
{
    if (l->group[t] == l->group[x] || (l->adds[t] >= 0 && l->adds[t] == l->adds[x])) return false;
    return !needs(l, t, x) && !needs(l, x, t);
}

static bool note(qni_lists *l, int32_t t)
{
    if (l->changes == l->changes_cap) {
        int32_t cap = l->changes_cap;
        const int32_t want = l->changes_cap > 0 ? 2 * l->changes_cap : 1024;
        if (!qni_grow(&l->changed, &cap, want, sizeof *l->changed)) return false;
        if (!qni_grow(&l->was, &l->changes_cap, want, sizeof *l->was)) return false;
    }
    l->changed[l->changes] = t;
    l->was[l->changes++] = l->start[t];
    return true;
}

/* Re-computes until nothing changes. False: beyond the bound, on a circle, or out of memory for the journal. */
static bool settle(qni_lists *l, int64_t bound)
{
    int64_t looks = 0;
    while (l->waiters > 0) {
        const int32_t t = look_next(l);
        const int64_t at = ready(l, t);
        if (at == l->start[t]) continue;
        if ((l->cost[t] > 0 && at + l->cost[t] > bound) || ++looks > 8 * (int64_t)l->tasks || !note(l, t)) return false;
        l->start[t] = at;
        look_behind(l, t);
    }
    return true;
}

void qni_lists_undo(qni_lists *l, int32_t from, int32_t to)
{
    rotate(l, to, from);
    while (l->changes > 0) {
        l->changes--;
        l->start[l->changed[l->changes]] = l->was[l->changes];
    }
}

bool qni_lists_move(qni_lists *l, int32_t from, int32_t to, int64_t bound)
{
    const int32_t t = l->seq[from], step = to > from ? 1 : -1, w = l->worker[t];
    if (from == to) return false;
    for (int32_t i = from + step; i != to + step; i += step)
        if (!may_pass(l, t, l->seq[i])) return false;
    rotate(l, from, to);
    l->changes = 0;
    if (!qni_lists_fit(l, w)) {
        rotate(l, to, from);
        return false;
    }
    const int32_t low = qn_min32(from, to), high = qn_min32(qn_max32(from, to) + 1, l->first[w + 1] - 1);
    l->head = 0;
    for (int32_t i = low; i <= high; i++) look_at(l, l->seq[i]);
    if (settle(l, bound)) return true;
    while (l->waiters > 0) (void)look_next(l);
    qni_lists_undo(l, from, to);
    return false;
}

/* What t waited for longest: the task before it in its list if that ends at its start, else an input. */
static int32_t waited_for(const qni_lists *l, int32_t t)
{
    const int32_t b = before(l, t);
    if (l->start[t] == 0) return QN_NONE;
    if (b != QN_NONE && end_of(l, b) == l->start[t]) return b;
    for (int32_t i = l->in[t]; i < l->in[t + 1]; i++)
        if (end_of(l, l->edge[i].from) + l->edge[i].lag == l->start[t]) return l->edge[i].from;
    return QN_NONE;
}

int32_t qni_lists_path(const qni_lists *l, int32_t *path)
{
    int32_t n = 0, t = QN_NONE;
    int64_t end = -1;
    for (int32_t w = 0; w < l->workers; w++) {
        const int32_t last = last_task(l, w);
        if (last == QN_NONE || end_of(l, last) <= end) continue;
        end = end_of(l, last);
        t = last;
    }
    for (; t != QN_NONE && n < l->tasks; t = waited_for(l, t)) path[n++] = t;
    return n;
}

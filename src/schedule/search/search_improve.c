/* Local search on an order: threshold accepting (worse steps are taken while the threshold, which shrinks to nothing, allows)
 * over moves of one task within its worker's list. Two thirds of the moves are at the critical path: only they can make the step
 * shorter; the others loosen what stands beside it. Of two orders with one makespan the one whose workers end earlier is better.
 */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/rng.h"
#include "search_eval.h"
#include "search_lists.h"

typedef struct improver {
    qni_lists *l;
    qn_rng rng;
    int32_t *path, length; /* the critical path of the present lists; length 0: not known */
    int32_t *best;         /* [tasks]: seq of the best lists so far */
    int64_t now, now_ends, shortest, shortest_ends;
    bool free_tasks; /* some take no time: circles of them do not show in the times */
} improver;

/* A move at a random block of the critical path: neighbours on one worker's list that follow each other without a gap. */
static bool pick_critical(improver *v, int32_t *from, int32_t *to)
{
    const qni_lists *l = v->l;
    if (v->length == 0) v->length = qni_lists_path(l, v->path);
    const int32_t k = (int32_t)qn_rng_below(&v->rng, (uint64_t)v->length);
    int32_t low = l->pos[v->path[k]], high = low;
    for (int32_t i = k; i + 1 < v->length && l->pos[v->path[i + 1]] == low - 1; i++) low--; /* the path goes back in time */
    for (int32_t i = k; i > 0 && l->pos[v->path[i - 1]] == high + 1; i--) high++;
    if (low == high) return false;
    const int32_t inner = low + (int32_t)qn_rng_below(&v->rng, (uint64_t)(high - low + 1));
    switch (qn_rng_below(&v->rng, 4)) {
    case 0: /* the first two */
        *from = low + 1;
        *to = low;
        break;
    case 1: /* the last two */
        *from = high - 1;
        *to = high;
        break;
    case 2:
        *from = inner;
        *to = low;
        break;
    default:
        *from = inner;
        *to = high;
    }
    return *from != *to;
}

static bool pick_any(improver *v, int32_t *from, int32_t *to)
{
    enum { FAR = 12 };
    const qni_lists *l = v->l;
    *from = (int32_t)qn_rng_below(&v->rng, (uint64_t)l->tasks);
    const int32_t w = l->worker[l->seq[*from]];
    const int32_t way = (int32_t)qn_rng_below(&v->rng, 2 * FAR + 1) - FAR;
    *to = qn_max32(l->first[w], qn_min32(*from + way, l->first[w + 1] - 1));
    return *from != *to;
}

static void restore_best(improver *v)
{
    qni_lists_set(v->l, v->best);
    (void)qni_lists_times(v->l);
    v->now = v->shortest;
    v->now_ends = v->shortest_ends;
    v->length = 0;
}

static void keep_best(improver *v)
{
    if (v->now > v->shortest || (v->now == v->shortest && v->now_ends >= v->shortest_ends)) return;
    if (v->free_tasks && !qni_lists_times(v->l)) {
        restore_best(v);
        return;
    }
    v->shortest = v->now;
    v->shortest_ends = v->now_ends;
    memcpy(v->best, v->l->seq, (size_t)v->l->tasks * sizeof *v->best);
}

static void one_round(improver *v, int64_t threshold)
{
    int32_t from = 0, to = 0;
    const bool critical = qn_rng_below(&v->rng, 3) != 0;
    if (!(critical ? pick_critical(v, &from, &to) : pick_any(v, &from, &to))) return;
    const int64_t slack = threshold > 0 ? (int64_t)qn_rng_below(&v->rng, (uint64_t)threshold + 1) : 0;
    if (!qni_lists_move(v->l, from, to, v->now + slack)) return;
    const int64_t makespan = qni_lists_makespan(v->l), ends = qni_lists_ends(v->l);
    if (makespan > v->now + slack || (makespan == v->now && ends > v->now_ends + slack * v->l->workers)) {
        qni_lists_undo(v->l, from, to);
        return;
    }
    v->now = makespan;
    v->now_ends = ends;
    v->length = 0;
    keep_best(v);
}

/* Several descents from the best lists; each begins with a lower threshold. */
static void descend(improver *v, int64_t rounds, const qn_search_progress *progress)
{
    enum { DESCENTS = 4, LOOK = 256 };
    int64_t widest = 0;
    for (int32_t i = 0; i < v->l->tasks; i++) {
        widest = qn_max64(widest, v->l->cost[i]);
        v->free_tasks = v->free_tasks || v->l->cost[i] == 0;
    }
    for (int64_t i = 0; i < rounds; i++) {
        const int64_t part = rounds / DESCENTS + 1, done = i % part, descent = i / part;
        if (i > 0 && done == 0) restore_best(v);
        const int64_t threshold = (int64_t)((double)(widest >> descent) * (1.0 - (double)done / ((double)part * 0.9)));
        one_round(v, threshold > 0 ? threshold : 0);
        if (i % LOOK != 0 || progress == NULL) continue;
        if (progress->fn != NULL) progress->fn(progress->ctx, i, rounds, v->shortest);
        if (progress->stop != NULL && progress->stop(progress->ctx)) return;
    }
}

qn_status qni_lists_improve(qni_lists *l, int64_t *makespan, uint64_t seed, int64_t rounds, const qn_search_progress *progress,
                            qn_err *err)
{
    const size_t n = (size_t)l->tasks;
    qn_status st = QN_OK;
    improver v = {.l = l, .rng = qn_rng_of((qn_rng_key){.seed = seed, .op = 1})};
    if (!qni_lists_times(l)) return QN_FAIL(err, QN_ESCHEDULE, "an order whose tasks wait for each other");
    for (int32_t w = 0; w < l->workers; w++)
        if (!qni_lists_fit(l, w)) return QN_FAIL(err, QN_ESCHEDULE, "an order beyond the memory of worker %d", w);
    v.path = qn_malloc(n + 1, sizeof *v.path);
    v.best = qn_malloc(n + 1, sizeof *v.best);
    if (v.path == NULL || v.best == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "search among %d tasks", l->tasks);
        goto out;
    }
    v.now = v.shortest = qni_lists_makespan(l);
    v.now_ends = v.shortest_ends = qni_lists_ends(l);
    memcpy(v.best, l->seq, n * sizeof *v.best);
    if (l->tasks > 0 && v.now > 0) descend(&v, rounds, progress);
    restore_best(&v);
    *makespan = v.shortest;
out:
    qn_free(v.path);
    qn_free(v.best);
    return st;
}

/* ---- an order of F, B and W */

/* What a task needs: its own F or B, and its stage's neighbour. */
static void add_needs(qni_lists *l, const qni_eval *e, int32_t t)
{
    const int32_t kind = qni_task_kind(e, t), s = qni_task_stage(e, t), w = e->worker_of[s];
    const int32_t from = kind == QNI_SEARCH_F ? s - 1 : kind == QNI_SEARCH_B ? s + 1 : QN_NONE;
    if (kind != QNI_SEARCH_F) qni_lists_edge(l, t - e->cells, t, 0);
    if (from < 0 || from >= e->stages) return;
    qni_lists_edge(l, t + (from - s) * e->items, t, e->worker_of[from] != w ? e->model->latency : 0);
}

static qn_status open_order(qni_lists *l, const qni_eval *e, qn_err *err)
{
    const qn_search_model *m = e->model;
    const qn_status st = qni_lists_open(l, e->workers, e->tasks, err);
    if (st != QN_OK) return st;
    l->limit = m->limit;
    memcpy(l->first, e->first, ((size_t)e->workers + 1) * sizeof *l->first);
    memcpy(l->seq, e->seq, (size_t)e->tasks * sizeof *l->seq);
    for (int32_t t = 0; t < e->tasks; t++) {
        const int32_t kind = qni_task_kind(e, t), s = qni_task_stage(e, t);
        l->worker[t] = e->worker_of[s];
        l->group[t] = kind * e->stages + s;
        l->adds[t] = QN_NONE;
        l->cost[t] = qni_task_cost(e, t);
        if (kind == QNI_SEARCH_F) l->up[t] = m->hold[s];
        if (kind == QNI_SEARCH_B) l->up[t] = qn_max64(m->pending[s] - m->hold[s], 0);
        if (kind == QNI_SEARCH_B) l->down[t] = qn_max64(m->hold[s] - m->pending[s], 0);
        if (kind == QNI_SEARCH_W) l->down[t] = m->pending[s];
        add_needs(l, e, t);
    }
    return qni_lists_done(l, err);
}

qn_status qn_search_improve(qn_order **out, int64_t *makespan, const qn_order *start, const qn_search_model *model, uint64_t seed,
                            int64_t rounds, const qn_search_progress *progress, qn_err *err)
{
    qni_eval e = {.workers = 0};
    qni_lists l = {.workers = 0};
    qn_status st;
    QN_TRY(st, qni_eval_open(&e, start, model, err), out);
    QN_TRY(st, qni_eval_load(&e, start, err), out);
    QN_TRY(st, open_order(&l, &e, err), out);
    QN_TRY(st, qni_lists_improve(&l, makespan, seed, rounds, progress, err), out);
    memcpy(e.seq, l.seq, (size_t)e.tasks * sizeof *e.seq);
    for (int32_t i = 0; i < e.tasks; i++) e.pos[e.seq[i]] = i;
    st = qni_eval_order(out, &e, err);
out:
    qni_lists_close(&l);
    qni_eval_close(&e);
    return st;
}

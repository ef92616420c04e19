/* Local search on an order: threshold accepting (worse steps are taken while the threshold, which shrinks to nothing, allows)
 * over moves of one task within its worker's list. Two thirds of the moves are at the critical path: only they can make the step
 * shorter; the others loosen what stands beside it. Of two orders with one makespan the one whose workers end earlier is better.
 */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/rng.h"
#include "search_eval.h"

typedef struct improver {
    qni_eval e;
    qn_rng rng;
    int32_t *path, length; /* the critical path of the present lists; length 0: not known */
    int32_t *best;         /* [tasks]: seq of the best lists so far */
    int64_t now, now_ends, shortest, shortest_ends;
    bool free_tasks; /* some take no time: circles of them do not show in the times */
} improver;

static qn_status open_improver(improver *v, const qn_order *start, const qn_search_model *model, uint64_t seed, qn_err *err)
{
    *v = (improver){.rng = qn_rng_of((qn_rng_key){.seed = seed, .op = 1})};
    qn_status st = qni_eval_open(&v->e, start, model, err);
    if (st != QN_OK) return st;
    v->path = qn_malloc((size_t)v->e.tasks, sizeof *v->path);
    v->best = qn_malloc((size_t)v->e.tasks, sizeof *v->best);
    if (v->path == NULL || v->best == NULL) return QN_FAIL(err, QN_ENOMEM, "search among %d tasks", v->e.tasks);
    st = qni_eval_load(&v->e, start, err);
    if (st != QN_OK) return st;
    if (!qni_eval_times(&v->e)) return QN_FAIL(err, QN_ESCHEDULE, "an order whose tasks wait for each other");
    for (int32_t w = 0; w < v->e.workers; w++)
        if (!qni_eval_fits(&v->e, w)) return QN_FAIL(err, QN_ESCHEDULE, "an order beyond the memory of worker %d", w);
    return QN_OK;
}

/* A move at a random block of the critical path: neighbours on one worker's list that follow each other without a gap. */
static bool pick_critical(improver *v, int32_t *from, int32_t *to)
{
    const qni_eval *e = &v->e;
    if (v->length == 0) v->length = qni_eval_path(e, v->path);
    const int32_t k = (int32_t)qn_rng_below(&v->rng, (uint64_t)v->length);
    int32_t low = e->pos[v->path[k]], high = low;
    for (int32_t i = k; i + 1 < v->length && e->pos[v->path[i + 1]] == low - 1; i++) low--; /* the path goes back in time */
    for (int32_t i = k; i > 0 && e->pos[v->path[i - 1]] == high + 1; i--) high++;
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
    const qni_eval *e = &v->e;
    *from = (int32_t)qn_rng_below(&v->rng, (uint64_t)e->tasks);
    const int32_t w = e->worker_of[qni_task_stage(e, e->seq[*from])];
    const int32_t way = (int32_t)qn_rng_below(&v->rng, 2 * FAR + 1) - FAR;
    *to = qn_max32(e->first[w], qn_min32(*from + way, e->first[w + 1] - 1));
    return *from != *to;
}

static void restore_best(improver *v)
{
    memcpy(v->e.seq, v->best, (size_t)v->e.tasks * sizeof *v->best);
    for (int32_t i = 0; i < v->e.tasks; i++) v->e.pos[v->e.seq[i]] = i;
    (void)qni_eval_times(&v->e);
    v->now = v->shortest;
    v->now_ends = v->shortest_ends;
    v->length = 0;
}

static void keep_best(improver *v)
{
    if (v->now > v->shortest || (v->now == v->shortest && v->now_ends >= v->shortest_ends)) return;
    if (v->free_tasks && !qni_eval_times(&v->e)) {
        restore_best(v);
        return;
    }
    v->shortest = v->now;
    v->shortest_ends = v->now_ends;
    memcpy(v->best, v->e.seq, (size_t)v->e.tasks * sizeof *v->best);
}

static void one_round(improver *v, int64_t threshold)
{
    int32_t from = 0, to = 0;
    const bool critical = qn_rng_below(&v->rng, 3) != 0;
    if (!(critical ? pick_critical(v, &from, &to) : pick_any(v, &from, &to))) return;
    const int64_t slack = threshold > 0 ? (int64_t)qn_rng_below(&v->rng, (uint64_t)threshold + 1) : 0;
    if (!qni_eval_move(&v->e, from, to, v->now + slack)) return;
    const int64_t makespan = qni_eval_makespan(&v->e), ends = qni_eval_ends(&v->e);
    if (makespan > v->now + slack || (makespan == v->now && ends > v->now_ends + slack * v->e.workers)) {
        qni_eval_undo(&v->e, from, to);
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
    for (int32_t i = 0; i < QNI_SEARCH_KINDS * v->e.stages; i++) {
        widest = qn_max64(widest, v->e.cost[i]);
        v->free_tasks = v->free_tasks || v->e.cost[i] == 0;
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

qn_status qn_search_improve(qn_order **out, int64_t *makespan, const qn_order *start, const qn_search_model *model, uint64_t seed,
                            int64_t rounds, const qn_search_progress *progress, qn_err *err)
{
    improver v;
    qn_status st;
    QN_TRY(st, open_improver(&v, start, model, seed, err), out);
    v.now = v.shortest = qni_eval_makespan(&v.e);
    v.now_ends = v.shortest_ends = qni_eval_ends(&v.e);
    memcpy(v.best, v.e.seq, (size_t)v.e.tasks * sizeof *v.best);
    descend(&v, rounds, progress);
    restore_best(&v);
    *makespan = v.shortest;
    st = qni_eval_order(out, &v.e, err);
out:
    qn_free(v.path);
    qn_free(v.best);
    qni_eval_close(&v.e);
    return st;
}

/* Orders by a greedy rule with numbers, and hill climbing on the numbers.
 *
 * The rule: of all workers the one whose next task starts earliest goes on. A worker's next task is the one with the smallest
 * start + patience of its kind: a backward is taken at once, a forward or a weight gradient gives way to a backward that comes
 * within its patience. A stage has at most `cap` items between F and B. Memory: an item's F is taken only if what its worker
 * still has to hold for its oldest unfinished item stays free, so that this one can always go on (the banker's rule, for one
 * customer).
 */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/rng.h"
#include "search_eval.h"

typedef struct rule {
    int32_t *cap;       /* [stages] */
    int64_t *wait_f;    /* [workers]: patience before an F */
    int64_t *wait_w;    /* [workers]: before a W */
    int32_t *deep_last; /* [workers]: of two F at once the earlier stage first */
} rule;

typedef struct builder {
    qni_eval *e; /* lists go here */
    qn_rng rng;
    rule now, best;
    int32_t *next[QNI_SEARCH_KINDS]; /* [stages]: items whose task is on the list */
    int64_t *end[2];                 /* [cells]: of F, of B */
    int64_t *clock, *held;           /* [workers] */
    int64_t *last;                   /* [workers]: end of the last task that takes time */
    int32_t *length;                 /* [workers] */
    int32_t *queue, *queued, *taken; /* [cells]; [workers]: stages of pending W, oldest first */
    int32_t *mine, *mine_first;      /* stages of a worker: mine[mine_first[w] ..] */
    int64_t *start;                  /* [workers]: of the choice below */
    int32_t *choice;                 /* [workers]: kind * stages + stage, or QN_NONE */
} builder;

static bool open_rule(rule *r, const qni_eval *e)
{
    r->cap = qn_malloc((size_t)e->stages, sizeof *r->cap);
    r->wait_f = qn_malloc((size_t)e->workers, sizeof *r->wait_f);
    r->wait_w = qn_malloc((size_t)e->workers, sizeof *r->wait_w);
    r->deep_last = qn_malloc((size_t)e->workers, sizeof *r->deep_last);
    return r->cap != NULL && r->wait_f != NULL && r->wait_w != NULL && r->deep_last != NULL;
}

static void close_rule(rule *r)
{
    qn_free(r->cap);
    qn_free(r->wait_f);
    qn_free(r->wait_w);
    qn_free(r->deep_last);
}

static void copy_rule(rule *to, const rule *from, const qni_eval *e)
{
    memcpy(to->cap, from->cap, (size_t)e->stages * sizeof *to->cap);
    memcpy(to->wait_f, from->wait_f, (size_t)e->workers * sizeof *to->wait_f);
    memcpy(to->wait_w, from->wait_w, (size_t)e->workers * sizeof *to->wait_w);
    memcpy(to->deep_last, from->deep_last, (size_t)e->workers * sizeof *to->deep_last);
}

static void close_builder(builder *b)
{
    close_rule(&b->now);
    close_rule(&b->best);
    for (int k = 0; k < QNI_SEARCH_KINDS; k++) qn_free(b->next[k]);
    qn_free(b->end[0]);
    qn_free(b->end[1]);
    int64_t *const wide[] = {b->clock, b->held, b->start, b->last};
    for (size_t i = 0; i < 4; i++) qn_free(wide[i]);
    int32_t *const narrow[] = {b->length, b->queue, b->queued, b->taken, b->mine, b->mine_first, b->choice};
    for (size_t i = 0; i < 7; i++) qn_free(narrow[i]);
}

static qn_status open_builder(builder *b, qni_eval *e, uint64_t seed, qn_err *err)
{
    const size_t S = (size_t)e->stages, P = (size_t)e->workers;
    *b = (builder){.e = e, .rng = qn_rng_of((qn_rng_key){.seed = seed, .op = 2})};
    bool room = open_rule(&b->now, e);
    room = open_rule(&b->best, e) && room;
    for (int k = 0; k < QNI_SEARCH_KINDS; k++) room = (b->next[k] = qn_malloc(S, sizeof(int32_t))) != NULL && room;
    for (int k = 0; k < 2; k++) room = (b->end[k] = qn_malloc((size_t)e->cells, sizeof(int64_t))) != NULL && room;
    int64_t **const wide[] = {&b->clock, &b->held, &b->start, &b->last};
    for (size_t i = 0; i < 4; i++) room = (*wide[i] = qn_malloc(P, sizeof(int64_t))) != NULL && room;
    int32_t **const narrow[] = {&b->length, &b->queued, &b->taken, &b->choice};
    for (size_t i = 0; i < 4; i++) room = (*narrow[i] = qn_malloc(P, sizeof(int32_t))) != NULL && room;
    b->queue = qn_malloc((size_t)e->cells, sizeof(int32_t));
    b->mine = qn_malloc(S, sizeof(int32_t));
    b->mine_first = qn_calloc(P + 1, sizeof(int32_t));
    if (!room || b->queue == NULL || b->mine == NULL || b->mine_first == NULL)
        return QN_FAIL(err, QN_ENOMEM, "search among %d tasks", e->tasks);
    int32_t n = 0;
    for (int32_t w = 0; w < e->workers; w++) {
        for (int32_t s = 0; s < e->stages; s++)
            if (e->worker_of[s] == w) b->mine[n++] = s;
        b->mine_first[w + 1] = n;
    }
    return QN_OK;
}

/* What worker w must keep free for its oldest unfinished item if F of (stage, item) is taken now. */
static int64_t reserve(const builder *b, int32_t w, int32_t stage)
{
    const qni_eval *e = b->e;
    int32_t oldest = INT32_MAX;
    int64_t sum = 0;
    for (int32_t k = b->mine_first[w]; k < b->mine_first[w + 1]; k++)
        oldest = qn_min32(oldest, b->next[QNI_SEARCH_F][b->mine[k]]);
    for (int32_t k = b->mine_first[w]; k < b->mine_first[w + 1]; k++) {
        const int32_t s = b->mine[k];
        if (b->next[QNI_SEARCH_F][s] <= oldest && s != stage) sum += e->model->hold[s];
    }
    return sum;
}

/* When a task could start, or -1. */
static int64_t start_of(const builder *b, int32_t kind, int32_t s)
{
    const qni_eval *e = b->e;
    const int32_t w = e->worker_of[s], item = b->next[kind][s];
    if (item >= e->items) return -1;
    const size_t cell = (size_t)s * (size_t)e->items + (size_t)item;
    const int32_t from = kind == QNI_SEARCH_F ? s - 1 : s + 1;
    int64_t start = b->clock[w];
    if (kind == QNI_SEARCH_B && item >= b->next[QNI_SEARCH_F][s]) return -1;
    if (from >= 0 && from < e->stages) {
        const int64_t in = b->end[kind][(size_t)from * (size_t)e->items + (size_t)item];
        if (in < 0) return -1;
        start = qn_max64(start, in + (e->worker_of[from] != w ? e->model->latency : 0));
    }
    if (kind == QNI_SEARCH_B) start = qn_max64(start, b->end[QNI_SEARCH_F][cell]);
    const int64_t more = kind == QNI_SEARCH_F ? e->model->hold[s] : e->model->pending[s] - e->model->hold[s];
    const int64_t kept = kind == QNI_SEARCH_F ? reserve(b, w, s) : 0;
    if (e->model->limit != NULL && more > 0 && b->held[w] + more + kept > e->model->limit[w]) return -1;
    if (kind == QNI_SEARCH_F && item - b->next[QNI_SEARCH_B][s] >= b->now.cap[s]) return -1;
    return start;
}

static void choose(builder *b, int32_t w)
{
    const qni_eval *e = b->e;
    int64_t least = INT64_MAX;
    b->choice[w] = QN_NONE;
    for (int32_t kind = QNI_SEARCH_B; kind >= QNI_SEARCH_F; kind--) {
        const int32_t n = b->mine_first[w + 1] - b->mine_first[w];
        for (int32_t i = 0; i < n; i++) {
            const bool deep = kind == QNI_SEARCH_B || !b->now.deep_last[w];
            const int32_t s = b->mine[deep ? b->mine_first[w + 1] - 1 - i : b->mine_first[w] + i];
            const int64_t start = start_of(b, kind, s);
            if (start < 0) continue;
            const int64_t key = start + (kind == QNI_SEARCH_F ? b->now.wait_f[w] : 0);
            if (key >= least) continue;
            least = key;
            b->choice[w] = kind * e->stages + s;
            b->start[w] = start;
        }
    }
    if (b->queued[w] == b->taken[w] || b->clock[w] + b->now.wait_w[w] >= least) return;
    const int32_t s = b->queue[e->first[w] / QNI_SEARCH_KINDS + b->taken[w]];
    b->choice[w] = QNI_SEARCH_W * e->stages + s;
    b->start[w] = b->clock[w];
}

static void put(builder *b, int32_t w)
{
    qni_eval *e = b->e;
    const int32_t kind = b->choice[w] / e->stages, s = b->choice[w] % e->stages, item = b->next[kind][s]++;
    const size_t cell = (size_t)s * (size_t)e->items + (size_t)item;
    const qn_search_model *m = e->model;
    b->clock[w] = b->start[w] + e->cost[kind * e->stages + s];
    if (b->clock[w] > b->start[w]) b->last[w] = b->clock[w];
    e->seq[e->first[w] + b->length[w]++] = kind * e->cells + s * e->items + item;
    b->held[w] += kind == QNI_SEARCH_F ? m->hold[s] : kind == QNI_SEARCH_B ? m->pending[s] - m->hold[s] : -m->pending[s];
    if (kind != QNI_SEARCH_W) b->end[kind][cell] = b->clock[w];
    if (kind == QNI_SEARCH_B) b->queue[e->first[w] / QNI_SEARCH_KINDS + b->queued[w]++] = s;
    if (kind == QNI_SEARCH_W) b->taken[w]++;
    choose(b, w);
    if (kind == QNI_SEARCH_F && s + 1 < e->stages) choose(b, e->worker_of[s + 1]);
    if (kind == QNI_SEARCH_B && s > 0) choose(b, e->worker_of[s - 1]);
}

/* The lists of the present rule into e->seq; false when they get stuck. */
static bool build(builder *b)
{
    const qni_eval *e = b->e;
    for (int k = 0; k < QNI_SEARCH_KINDS; k++) memset(b->next[k], 0, (size_t)e->stages * sizeof(int32_t));
    for (int k = 0; k < 2; k++) memset(b->end[k], 0xff, (size_t)e->cells * sizeof(int64_t));
    for (int32_t w = 0; w < e->workers; w++)
        b->clock[w] = b->held[w] = b->last[w] = b->length[w] = b->queued[w] = b->taken[w] = 0;
    for (int32_t w = 0; w < e->workers; w++) choose(b, w);
    for (int32_t i = 0; i < e->tasks; i++) {
        int32_t first = QN_NONE;
        for (int32_t w = 0; w < e->workers; w++)
            if (b->choice[w] != QN_NONE && (first == QN_NONE || b->start[w] < b->start[first])) first = w;
        if (first == QN_NONE) return false;
        put(b, first);
    }
    return true;
}

static int64_t makespan_of(const builder *b, int64_t *ends)
{
    int64_t most = 0;
    *ends = 0;
    for (int32_t w = 0; w < b->e->workers; w++) {
        most = qn_max64(most, b->last[w]);
        *ends += b->last[w];
    }
    return most;
}

/* The k-th of the plain rules: no caps, patience of nothing, half or a whole task. */
static void plain_rule(builder *b, int32_t k)
{
    const qni_eval *e = b->e;
    for (int32_t s = 0; s < e->stages; s++) b->now.cap[s] = k % 6 >= 3 ? qn_min32(e->items, e->stages - s) : e->items;
    for (int32_t w = 0; w < e->workers; w++) {
        const int32_t s = b->mine_first[w] < b->mine_first[w + 1] ? b->mine[b->mine_first[w]] : 0;
        b->now.wait_f[w] = e->cost[QNI_SEARCH_F * e->stages + s] * (k / 6 % 3) / 2;
        b->now.wait_w[w] = e->cost[QNI_SEARCH_W * e->stages + s] * (k % 3) / 2;
        b->now.deep_last[w] = k / 18 % 2;
    }
}
enum { PLAIN_RULES = 36 };

/* Changes one number of the rule, for one stage or worker or for all alike. */
static void change_rule(builder *b)
{
    const qni_eval *e = b->e;
    const bool all = qn_rng_below(&b->rng, 4) == 0;
    const uint64_t what = qn_rng_below(&b->rng, 8);
    const int32_t stage = (int32_t)qn_rng_below(&b->rng, (uint64_t)e->stages), one = e->worker_of[stage];
    if (what < 4) {
        const int32_t by = (int32_t)qn_rng_below(&b->rng, 2) == 0 ? -1 : 1;
        const int32_t most = qn_min32(e->items, 2 * e->stages + 1);
        for (int32_t s = 0; s < e->stages; s++)
            if (all || s == stage) b->now.cap[s] = qn_max32(1, qn_min32(b->now.cap[s], most) + by);
        return;
    }
    const int64_t quarter = (int64_t)qn_rng_below(&b->rng, 6);
    for (int32_t w = 0; w < e->workers; w++) {
        if (!all && w != one) continue;
        if (what == 4) b->now.deep_last[w] ^= 1;
        if (what == 5) b->now.wait_f[w] = e->cost[QNI_SEARCH_F * e->stages + stage] * quarter / 4;
        if (what > 5) b->now.wait_w[w] = e->cost[QNI_SEARCH_W * e->stages + stage] * quarter / 4;
    }
}

static bool climb(builder *b, int64_t rounds, int64_t *shortest, const qn_search_progress *progress)
{
    bool any = false;
    int64_t best_ends = INT64_MAX;
    *shortest = INT64_MAX;
    for (int64_t i = 0; i < PLAIN_RULES + rounds; i++) {
        if (i < PLAIN_RULES) {
            plain_rule(b, (int32_t)i);
        } else {
            if (!any) return false;
            copy_rule(&b->now, &b->best, b->e);
            const uint64_t changes = 1 + qn_rng_below(&b->rng, 3);
            for (uint64_t k = 0; k < changes; k++) change_rule(b);
        }
        int64_t ends;
        if (build(b)) {
            const int64_t makespan = makespan_of(b, &ends);
            if (makespan < *shortest || (makespan == *shortest && ends <= best_ends)) {
                *shortest = makespan;
                best_ends = ends;
                any = true;
                copy_rule(&b->best, &b->now, b->e);
            }
        }
        if (progress == NULL || i % 16 != 0) continue;
        if (progress->fn != NULL) progress->fn(progress->ctx, i, PLAIN_RULES + rounds, *shortest);
        if (progress->stop != NULL && progress->stop(progress->ctx)) break;
    }
    copy_rule(&b->now, &b->best, b->e);
    return any && build(b);
}

qn_status qn_search_build(qn_order **out, int64_t *makespan, const qn_order *like, const qn_search_model *model, uint64_t seed,
                          int64_t rounds, const qn_search_progress *progress, qn_err *err)
{
    qni_eval e;
    builder b = {.e = &e};
    *out = NULL;
    qn_status st = qni_eval_open(&e, like, model, err);
    if (st != QN_OK) return st;
    QN_TRY(st, open_builder(&b, &e, seed, err), out);
    if (climb(&b, rounds, makespan, progress)) {
        for (int32_t i = 0; i < e.tasks; i++) e.pos[e.seq[i]] = i;
        st = qni_eval_order(out, &e, err);
    }
out:
    close_builder(&b);
    qni_eval_close(&e);
    return st;
}

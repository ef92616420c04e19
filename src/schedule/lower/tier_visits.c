/* Which weights are in a worker's arena when: visits, and the window over them.
 *
 * Two tasks of one piece and direction belong to one visit when all that stands between them is of their two micro-batches: so a
 * run of pieces that each micro-batch passes through together (a RoundPipe stage) is one visit, while a chain walked piece by
 * piece is one visit a piece. Visits that overlap are one.
 *
 * The window holds what the next k visits with other pieces need. Behind a visit whose pieces are not among them, the place is
 * given to what is missing, replace (k') visits at a time, or at once where the next visit would otherwise have to wait for its
 * own pieces. On a chain walked forward and back this is Superpipeline's window: 2n - k loads a step (papers: Superpipeline,
 * reconstructed; RoundPipe's prefetch of the next stage is k = 2). */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "lower_tiers.h"

void qni_tour_close(qni_tour *t)
{
    qn_free(t->group);
    qn_free(t->visit);
    qn_free(t->stay);
    *t = (qni_tour){0};
}

/* Are the groups between i and j all of i's or j's micro-batch? */
static bool joined(const qni_group *g, int32_t i, int32_t j)
{
    for (int32_t k = j - 1; k > i; k--)
        if (g[k].item != g[i].item && g[k].item != g[j].item) return false;
    return true;
}

static qn_status find_visits(qni_tour *t, int32_t stages, qn_err *err)
{
    const int32_t n = t->groups;
    int32_t *last = qn_malloc((size_t)stages * 2, sizeof *last), *reach = qn_malloc((size_t)n, sizeof *reach);
    t->visit = qn_calloc((size_t)n, sizeof *t->visit);
    if (last == NULL || reach == NULL || t->visit == NULL) {
        qn_free(last);
        qn_free(reach);
        return QN_FAIL(err, QN_ENOMEM, "visits of %d tasks", n);
    }
    memset(last, 0xff, (size_t)stages * 2 * sizeof *last);
    for (int32_t i = 0; i < n; i++) {
        int32_t *before = &last[t->group[i].stage * 2 + (t->group[i].op != QN_OP_F)];
        reach[i] = i;
        if (*before != QN_NONE && joined(t->group, *before, i)) reach[*before] = i;
        *before = i;
    }
    for (int32_t i = 0; i < n;) {
        qni_visit *v = &t->visit[t->visits];
        *v = (qni_visit){i, i};
        for (; i <= v->last; i++) {
            v->last = qn_max32(v->last, reach[i]);
            t->group[i].visit = t->visits;
        }
        t->visits++;
    }
    qn_free(last);
    qn_free(reach);
    return QN_OK;
}

/* Marks the pieces of the next k visits from v on that are not the same over again. wanted: [stages], cleared here. Returns how
 * many pieces. */
static int32_t want(bool *wanted, const qni_tour *t, int32_t v, int32_t k, int32_t stages)
{
    int32_t pieces = 0;
    memset(wanted, 0, (size_t)stages * sizeof *wanted);
    for (int32_t sets = 0; v < t->visits && sets <= k; v++) {
        bool fresh = false;
        for (int32_t g = t->visit[v].first; g <= t->visit[v].last; g++) fresh = fresh || !wanted[t->group[g].stage];
        if (fresh && ++sets > k) break;
        for (int32_t g = t->visit[v].first; g <= t->visit[v].last; g++) {
            pieces += !wanted[t->group[g].stage];
            wanted[t->group[g].stage] = true;
        }
    }
    return pieces;
}

typedef struct window_state {
    bool *wanted;  /* [stages] */
    int32_t *here; /* [stages]: its stay, QN_NONE */
} window_state;

/* Exchanges: what is not wanted any more goes behind visit `after`, what is missing comes, in the order of its use. */
static bool exchange(qni_tour *t, window_state *s, int32_t stages, int32_t after)
{
    for (int32_t p = 0; p < stages; p++) {
        if (s->here[p] == QN_NONE || s->wanted[p]) continue;
        s->here[p] = QN_NONE;
    }
    for (int32_t v = after + 1; v < t->visits; v++) {
        for (int32_t g = t->visit[v].first; g <= t->visit[v].last; g++) {
            const int32_t p = t->group[g].stage;
            if (!s->wanted[p] || s->here[p] != QN_NONE) continue;
            if (!qni_grow(&t->stay, &t->stay_cap, t->stays + 1, sizeof *t->stay)) return false;
            t->stay[t->stays] = (qni_stay){.stage = p, .after = after, .use = v, .value = QN_NONE, .last = QN_NONE};
            s->here[p] = t->stays++;
        }
    }
    return true;
}

static bool all_here(const qni_tour *t, const window_state *s, int32_t v)
{
    for (int32_t g = t->visit[v].first; g <= t->visit[v].last; g++)
        if (s->here[t->group[g].stage] == QN_NONE) return false;
    return true;
}

static qn_status find_stays(qni_tour *t, int32_t stages, const qn_tiers *how, qn_err *err)
{
    window_state s = {.wanted = qn_calloc((size_t)stages, sizeof(bool)), .here = qn_malloc((size_t)stages, sizeof(int32_t))};
    bool room = s.wanted != NULL && s.here != NULL;
    int32_t done = 0;
    if (room) memset(s.here, 0xff, (size_t)stages * sizeof *s.here);
    for (int32_t v = -1; room && v < t->visits; v++) {
        for (int32_t g = v < 0 ? 1 : t->visit[v].first; v >= 0 && g <= t->visit[v].last; g++)
            t->group[g].stay = s.here[t->group[g].stage];
        if (v + 1 >= t->visits) break;
        const int32_t pieces = want(s.wanted, t, v + 1, how->window, stages);
        bool over = v >= 0;
        for (int32_t g = v < 0 ? 0 : t->visit[v].first; over && g <= t->visit[v].last; g++) over = !s.wanted[t->group[g].stage];
        done += over;
        if (v >= 0 && done < how->replace && all_here(t, &s, v + 1)) continue;
        room = exchange(t, &s, stages, v);
        done = 0;
        if (v < 0 && how->keep && want(s.wanted, t, 0, t->visits, stages) == pieces)
            for (int32_t i = 0; i < t->stays; i++) t->stay[i].forever = true;
    }
    qn_free(s.wanted);
    qn_free(s.here);
    return room ? QN_OK : QN_FAIL(err, QN_ENOMEM, "window over %d visits", t->visits);
}

qn_status qni_tour_open(qni_tour *t, const qn_order *o, int32_t w, bool forward_only, const qn_tiers *how, qn_err *err)
{
    *t = (qni_tour){.group = qn_calloc((size_t)o->count[w], sizeof *t->group)};
    if (t->group == NULL) return QN_FAIL(err, QN_ENOMEM, "visits of %d tasks", o->count[w]);
    for (int32_t i = 0; i < o->count[w]; i++) {
        const qn_order_task *x = &o->task[w][i];
        if (x->op == QN_OP_R || (forward_only && x->op != QN_OP_F)) continue; /* R comes right before its backward */
        t->group[t->groups++] = (qni_group){.op = x->op, .stage = x->stage, .item = x->item};
    }
    qn_status st = find_visits(t, o->stages, err);
    if (st == QN_OK) st = find_stays(t, o->stages, how, err);
    return st;
}

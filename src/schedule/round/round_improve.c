/* RoundPipe's cuts (round_pipe.h) improved for steps that stand alone: the partitioner's cut is the start of a descent on the
 * simulated time of one round. Not in the paper: its partitioner minimises the longest stage, which is right where steps follow
 * one another without end, but leaves a worker idle where few stages share few workers. */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "round_pipe.h"

typedef struct improver {
    const qn_round_layers *in;
    int64_t half;  /* bytes of one stage; INT64_MAX: not limited */
    int64_t *cost; /* [3][layers] */
    int32_t *list; /* [2][layers]: the cut that is tried */
} improver;

/* Is no stage of several layers beyond half of the limit? */
static bool fits(const improver *m, const qn_round_cut *cut)
{
    const qn_round_layers *in = m->in;
    for (int32_t pass = 0; pass < 2; pass++) {
        const int64_t *bytes = pass == 0 ? in->forward_bytes : in->backward_bytes;
        const int32_t *list = pass == 0 ? cut->forward : cut->backward,
                      n = pass == 0 ? cut->forward_stages : cut->backward_stages;
        int32_t layer = pass == 0 ? 0 : in->layers;
        for (int32_t s = 0; s < n && bytes != NULL; s++) {
            int64_t size = 0;
            for (int32_t i = 0; i < list[s]; i++) size += bytes[pass == 0 ? layer++ : --layer];
            if (list[s] > 1 && size > m->half) return false;
        }
    }
    return true;
}

static qn_status time_of(int64_t *makespan, const improver *m, const qn_round_cut *cut, qn_err *err)
{
    *makespan = INT64_MAX;
    return fits(m, cut) ? qn_round_cut_time(makespan, cut, m->in, m->cost, err) : QN_OK;
}

static void copy(qn_round_cut *to, const qn_round_cut *from)
{
    to->forward_stages = from->forward_stages;
    to->backward_stages = from->backward_stages;
    memcpy(to->forward, from->forward, (size_t)from->forward_stages * sizeof(int32_t));
    memcpy(to->backward, from->backward, (size_t)from->backward_stages * sizeof(int32_t));
}

/* n layers from stage i to its neighbour; an empty stage goes. */
static bool shift(int32_t *list, int32_t *stages, int32_t i, int32_t to, int32_t n)
{
    if (i < 0 || to < 0 || i >= *stages || to >= *stages || list[i] < n) return false;
    list[i] -= n;
    list[to] += n;
    if (list[i] > 0) return true;
    memmove(&list[i], &list[i + 1], (size_t)(*stages - i - 1) * sizeof *list);
    --*stages;
    return true;
}

/* Stage i becomes one of n layers and one of the rest. */
static bool split(int32_t *list, int32_t *stages, int32_t i, int32_t n)
{
    if (list[i] <= n) return false;
    memmove(&list[i + 1], &list[i], (size_t)(*stages - i) * sizeof *list);
    list[i] = n;
    list[i + 1] -= n;
    ++*stages;
    return true;
}

/* The k-th neighbour of a cut: false past the last one; *legal: it is a cut. The fused stage (backward 0) keeps its last layer;
 * a layer that it gives or takes is one of both directions. */
static bool neighbour(qn_round_cut *x, int32_t k, bool *legal)
{
    const int32_t Sf = x->forward_stages, Sb = x->backward_stages;
    *legal = false;
    if (k < 2 * Sf) { /* forward: one layer to the stage after, or before */
        *legal = shift(x->forward, &x->forward_stages, k / 2, k / 2 + (k % 2 == 0 ? 1 : -1), 1);
        return true;
    }
    k -= 2 * Sf;
    if (k < 2 * (Sb - 1)) { /* backward, but for the fused stage */
        const int32_t i = 1 + k / 2, to = i + (k % 2 == 0 ? 1 : -1);
        *legal = to > 0 && shift(x->backward, &x->backward_stages, i, to, 1);
        return true;
    }
    k -= 2 * (Sb - 1);
    if (k < 2) { /* the fused stage takes a layer, or gives one */
        if (Sf == 0 || Sb < 2) return true;
        if (k == 0) {
            *legal = shift(x->backward, &x->backward_stages, 1, 0, 1);
            if (--x->forward[Sf - 1] == 0) x->forward_stages--;
        }
        if (k == 1 && x->backward[0] > 1) {
            x->backward[0]--;
            x->backward[1]++;
            x->forward[Sf - 1]++;
            *legal = true;
        }
        return true;
    }
    k -= 2;
    for (int32_t pass = 0; pass < 2; pass++) { /* a stage in two */
        int32_t *list = pass == 0 ? x->forward : x->backward, *stages = pass == 0 ? &x->forward_stages : &x->backward_stages;
        for (int32_t i = pass; i < *stages; k -= list[i] - 1, i++) {
            if (k >= list[i] - 1) continue;
            *legal = split(list, stages, i, k + 1);
            return true;
        }
    }
    return false;
}

qn_status qn_round_improve(qn_round_cut *cut, const qn_round_layers *in, qn_err *err)
{
    const size_t L = (size_t)in->layers;
    improver m = {.in = in, .half = in->limit > 0 ? in->limit / 2 : INT64_MAX};
    int64_t best = 0;
    qn_status st = QN_OK;
    m.cost = qn_malloc(3 * L, sizeof *m.cost);
    m.list = qn_malloc(2 * L, sizeof *m.list);
    qn_round_cut x = {.forward = m.list, .backward = m.list + L};
    if (m.cost == NULL || m.list == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "cuts of %d layers", in->layers);
        goto out;
    }
    QN_TRY(st, time_of(&best, &m, cut, err), out);
    for (int32_t k = 0;; k++) {
        bool legal;
        int64_t t;
        copy(&x, cut);
        if (!neighbour(&x, k, &legal)) break;
        if (!legal) continue;
        QN_TRY(st, time_of(&t, &m, &x, err), out);
        if (t >= best) continue;
        best = t;
        copy(cut, &x);
        k = -1; /* from the start */
    }
out:
    qn_free(m.cost);
    qn_free(m.list);
    return st;
}

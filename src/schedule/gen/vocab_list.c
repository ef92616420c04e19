/* 1F1B with vocabulary shards by list scheduling, for costs that the published slots are not made for: whenever a worker is free
 * it takes the task that can start first; of those that start together BW, then VT, VS, F. Worker r holds at most P - r +
 * barriers micro-batches. All tasks of a kind go in item order, so the first item that is not through can always go on. */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/gen/vocab_parts.h"

enum { FORWARD, BACKWARD, SCORES, GRADIENTS, KINDS };

typedef struct lists {
    qn_order *o;
    const qn_pattern *pat;
    int32_t P, M, chain;
    int64_t cost[KINDS], link;
    int64_t *end[KINDS];  /* [stages * M] of F and BW, [P * M] of a worker's VS and VT; -1: not on a list */
    int32_t *done[KINDS]; /* [P] */
    int64_t *clock;       /* [P] */
} lists;

static int64_t *end_of(const lists *l, int32_t kind, int32_t r, int32_t m)
{
    return &l->end[kind][(size_t)r * (size_t)l->M + (size_t)m];
}

/* When the output of a kind on worker `from` is on worker r; -1: not yet known. */
static int64_t there(const lists *l, int32_t kind, int32_t from, int32_t r, int32_t m)
{
    const int64_t end = *end_of(l, kind, from, m);
    return end < 0 ? -1 : end + (from == r ? 0 : l->link);
}

static bool has_shard(const lists *l, int32_t r)
{
    return r < l->o->sides; /* shard k is on worker k mod P */
}

static int64_t all_there(const lists *l, int32_t kind, int32_t r, int32_t m)
{
    int64_t latest = 0;
    for (int32_t from = 0; from < l->P; from++) {
        if (!has_shard(l, from)) continue;
        const int64_t at = there(l, kind, from, r, m);
        if (at < 0) return -1;
        latest = qn_max64(latest, at);
    }
    return latest;
}

/* When the next task of a kind on worker r has its inputs; -1: not yet known or none left. */
static int64_t ready(const lists *l, int32_t kind, int32_t r)
{
    const int32_t m = l->done[kind][r], barriers = l->pat->vocab == 1 ? 2 : 1;
    if (m >= l->M || (kind >= SCORES && !has_shard(l, r))) return -1;
    switch (kind) {
    case FORWARD:
        if (m - l->done[BACKWARD][r] >= l->P - r + barriers) return -1;
        return r == 0 ? 0 : there(l, FORWARD, r - 1, r, m);
    case BACKWARD:
        if (r < l->P - 1) return there(l, BACKWARD, r + 1, r, m);
        return all_there(l, l->pat->vocab == 1 ? GRADIENTS : SCORES, r, m);
    case SCORES:
        return there(l, FORWARD, l->P - 1, r, m);
    default:
        return m < l->done[SCORES][r] ? all_there(l, SCORES, r, m) : -1;
    }
}

static void put(lists *l, int32_t kind, int32_t r, int64_t start)
{
    static const qn_op op[] = {QN_OP_F, QN_OP_BW, QN_OP_VS, QN_OP_VT};
    const int32_t m = l->done[kind][r]++;
    int64_t spent = l->cost[kind];
    if (kind < SCORES) {
        qn_order_push(l->o, r, op[kind], r, m);
    } else {
        spent = 0;
        for (int32_t k = r; k < l->o->sides; k += l->P, spent += l->cost[kind]) qn_order_push(l->o, r, op[kind], l->chain + k, m);
    }
    l->clock[r] = start + spent;
    *end_of(l, kind, r, m) = l->clock[r];
}

/* The task that starts first of all; false when none is left. */
static bool step(lists *l)
{
    static const int32_t rank[] = {BACKWARD, GRADIENTS, SCORES, FORWARD};
    int64_t soonest = INT64_MAX;
    int32_t worker = 0, kind = 0;
    for (int32_t r = 0; r < l->P; r++) {
        for (int32_t i = 0; i < KINDS; i++) {
            const int64_t at = ready(l, rank[i], r);
            if (at < 0 || qn_max64(at, l->clock[r]) >= soonest) continue;
            soonest = qn_max64(at, l->clock[r]);
            worker = r;
            kind = rank[i];
        }
    }
    if (soonest == INT64_MAX) return false;
    put(l, kind, worker, soonest);
    return true;
}

qn_status qni_vocab_list(qn_order *o, const qn_pattern *pat, qn_err *err)
{
    const size_t P = (size_t)pat->workers, M = (size_t)pat->items;
    lists l = {
        .o = o, .pat = pat, .P = pat->workers, .M = pat->items, .chain = o->stages - o->sides, .link = pat->cost[QN_OP_SEND]};
    static const qn_op op[] = {QN_OP_F, QN_OP_BW, QN_OP_VS, QN_OP_VT};
    bool room = (l.clock = qn_calloc(P, sizeof *l.clock)) != NULL;
    for (int32_t k = 0; k < KINDS; k++) {
        l.cost[k] = qn_max64(pat->cost[op[k]], 1);
        room = (l.end[k] = qn_malloc(P * M, sizeof *l.end[k])) != NULL && room;
        room = (l.done[k] = qn_calloc(P, sizeof *l.done[k])) != NULL && room;
        if (l.end[k] != NULL) memset(l.end[k], 0xff, P * M * sizeof *l.end[k]);
    }
    while (room && step(&l)) continue;
    for (int32_t k = 0; k < KINDS; k++) {
        qn_free(l.end[k]);
        qn_free(l.done[k]);
    }
    qn_free(l.clock);
    return room ? QN_OK : QN_FAIL(err, QN_ENOMEM, "lists of %d workers and %d micro-batches", pat->workers, pat->items);
}

/* The adaptive V search of Qi et al. 2024, arXiv:2405.15362 (v_auto_schedule): the best block within a memory limit.
 * RECONSTRUCTED from a description of the published program.
 *
 * Candidates: on worker 0 F of chunk 0 in slot 0, the other three passes in any slots modulo six; from worker to worker F of
 * chunk 0 and B of chunk 1 move by delta, of which at most two values are used, the first no smaller than the second, and the
 * other two passes by one slot backwards. Each is built for at least 2P items, squeezed and reordered, and trimmed; of those that
 * fit the shortest is taken: in slots where all passes take one time, as published, and else by the time that its lists take with
 * the pattern's costs (the published program knows slots alone). */
#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/gen/gen.h"
#include "schedule/gen/gen_parts.h"
#include "schedule/gen/v_rows.h"

enum { INTERVAL = 6 };

typedef struct candidate {
    int32_t slot[3];          /* of F1, B1, B0 on worker 0, 1 to 5 */
    int32_t delta[2], change; /* workers before `change` move by delta[0], the others by delta[1] */
} candidate;

/* The first slot behind `after` at a place of the interval. */
static int32_t behind(int32_t after, int32_t place)
{
    const int32_t step = ((place - after - 1) % INTERVAL + INTERVAL) % INTERVAL;
    return after + 1 + step;
}

/* False where two passes of a worker meet. */
static bool block_of(qni_block *b, const candidate *c, int32_t P)
{
    const int32_t last = P - 1;
    b[0].f0 = 0;
    for (int32_t i = 1; i < P; i++) b[i].f0 = b[i - 1].f0 + c->delta[i > c->change];
    b[last].f1 = behind(b[last].f0, c->slot[0] - last);
    for (int32_t i = last - 1; i >= 0; i--) b[i].f1 = b[i + 1].f1 + 1;
    b[0].b1 = behind(b[0].f1, c->slot[1]);
    for (int32_t i = 1; i < P; i++) b[i].b1 = b[0].b1 + b[i].f0;
    b[last].b0 = behind(b[last].b1, c->slot[2] - last);
    for (int32_t i = last - 1; i >= 0; i--) b[i].b0 = b[i + 1].b0 + 1;
    for (int32_t i = 0; i < P; i++) {
        const int32_t at[] = {b[i].f0, b[i].f1, b[i].b1, b[i].b0};
        int32_t seen = 0;
        for (int32_t k = 0; k < 4; k++) {
            if (seen >> at[k] % INTERVAL & 1) return false;
            seen |= 1 << at[k] % INTERVAL;
        }
    }
    return true;
}

/* The next candidate in order; false behind the last. */
static bool advance(candidate *c, int32_t P)
{
    int32_t *const digit[] = {&c->change, &c->delta[1], &c->delta[0], &c->slot[2], &c->slot[1], &c->slot[0]};
    for (int32_t k = 0; k < 6; k++) {
        const int32_t most = k == 0 ? P - 1 : INTERVAL - 1;
        if (++*digit[k] <= most) return true;
        *digit[k] = k == 0 ? P > 1 : 1;
    }
    return false;
}

/* Twice the same block: one delta with every change, or a change behind the last worker. */
static bool wanted(const candidate *c, int32_t P)
{
    if (c->delta[0] < c->delta[1]) return false;
    return c->delta[0] != c->delta[1] || c->change == (P > 1);
}

/* Do all passes take one time, and messages none? */
static bool in_slots(const qn_pattern *pat)
{
    if (pat == NULL) return true;
    const int64_t f = qn_max64(pat->cost[QN_OP_F], 1);
    return qn_max64(pat->cost[QN_OP_B], 1) == f && qn_max64(pat->cost[QN_OP_W], 1) == f && pat->cost[QN_OP_SEND] == 0;
}

/* What every worker does at least. */
static int64_t busy(const qn_pattern *pat, int32_t M)
{
    if (in_slots(pat)) return INTERVAL * (int64_t)M;
    const int64_t one = qn_max64(pat->cost[QN_OP_F], 1) + qn_max64(pat->cost[QN_OP_B], 1) + qn_max64(pat->cost[QN_OP_W], 1);
    return 2 * one * M;
}

/* The shortest that fits; *least: the smallest peak of any candidate. False where none fits. */
static bool search(qni_v_rows *r, qni_block *b, candidate *best, int32_t P, int32_t M, const qn_pattern *pat, int32_t limit,
                   int32_t *least)
{
    candidate c = {.slot = {1, 1, 1}, .delta = {1, 1}, .change = P > 1};
    const int64_t enough = busy(pat, M);
    const bool slots = in_slots(pat);
    int64_t shortest = INT64_MAX;
    *least = INT32_MAX;
    do {
        if (!wanted(&c, P) || !block_of(b, &c, P)) continue;
        const bool fits = qni_v_rows_build(r, b, M, limit);
        *least = qn_min32(*least, qni_v_rows_peak(r));
        const int64_t time = !fits ? INT64_MAX : slots ? qni_v_rows_span(r) : qni_v_rows_time(r, pat);
        if (time >= shortest) continue;
        shortest = time;
        *best = c;
    } while (shortest > enough && advance(&c, P));
    return shortest < INT64_MAX;
}

qn_status qni_gen_v_search(qn_order *o, int32_t items, const qn_pattern *pat, int32_t limit, qn_err *err)
{
    const int32_t P = o->workers;
    int32_t least = 0;
    candidate best = {.change = 0};
    qni_v_rows *r = NULL;
    qn_status st = QN_OK;
    qni_block *b = qn_malloc((size_t)P, sizeof *b);
    if (b == NULL) return QN_FAIL(err, QN_ENOMEM, "slots of %d workers", P);
    QN_TRY(st, qni_v_rows_open(&r, P, qn_max32(items, 2 * P), err), out);
    if (!search(r, b, &best, P, items, pat, limit, &least)) {
        st = QN_FAIL(err, QN_EINVAL, "a V of %d workers with a memory of %d stashes: nothing fits; %d would do", P, limit, least);
        goto out;
    }
    block_of(b, &best, P);
    qni_gen_place_v(o);
    if (qni_v_rows_build(r, b, items, limit)) qni_v_rows_emit(o, r);
    st = qn_order_done(o, err);
out:
    qni_v_rows_close(r);
    qn_free(b);
    return st;
}

/* Pattern: workers P, items M (any), two chunks; stage s on worker s or 2P - 1 - s; limit: stashes of a stage that a worker may
 * hold, 0: 2P, as 1F1B; costs of F, B, W and SEND. */
qn_status qn_gen_v_adaptive(qn_order *o, const qn_pattern *pat, qn_err *err)
{
    const int32_t most = 2 * pat->workers;
    return qni_gen_v_search(o, pat->items, pat, pat->limit > 0 ? qn_min32(pat->limit, most) : most, err);
}

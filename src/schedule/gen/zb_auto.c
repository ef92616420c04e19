/* ZB-1p and ZB-2p: the automatic scheduler of Qi et al. 2024, arXiv:2401.10241, section 3.1, with the memory of 1F1B (1p: P
 * stashes) or twice that (2p). Reconstructed from a description of the published program.
 *
 * Lists grow in rounds: first as many F as memory and the first B allow, then one F and one B per stage and round; W fill what is
 * idle. Three yes-or-no settings, all eight are tried, the shortest longest span wins (the first of equals). */
#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/gen/gen.h"
#include "schedule/gen/list_schedule.h"

typedef struct settings {
    bool gap;      /* warm-up: an F more even if it delays the first B a little */
    bool prefer_b; /* leave out an F that the next stage is not waiting for */
    bool greedy;   /* a W into every gap, even one shorter than a W, of a worker that has waited the most */
} settings;

/* One F on all stages, then those that fit before the first B. extra: [stages], scratch. */
static void warm_up(qni_list *l, const settings *set, int32_t *extra)
{
    const int32_t last = l->stages - 1, M = l->items;
    for (int32_t s = 0; s <= last; s++) {
        qni_list_put(l, QNI_F, s);
        extra[s] = 0;
    }
    int64_t first_b = l->clock[last] + l->cost[QNI_B]; /* its end on the stage behind */
    for (int32_t s = last - 1; s >= 0; s--) {
        int64_t held = l->held[s], clock = l->clock[s];
        const int64_t arrives = first_b + l->link;
        while (1 + extra[s] < M && held + l->holds[QNI_F] <= l->limit &&
               (set->gap ? clock < arrives : clock + l->cost[QNI_F] <= arrives)) {
            held += l->holds[QNI_F];
            clock += l->cost[QNI_F];
            extra[s]++;
        }
        first_b = qn_max64(clock, arrives) + l->cost[QNI_B];
    }
    for (int32_t s = 1; s <= last; s++) {
        while (extra[s] > 0 && extra[s] >= extra[s - 1] && 1 + extra[s] < M) extra[s]--;
    }
    for (int32_t s = 0; s <= last; s++) {
        for (int32_t k = 0; k < extra[s]; k++) qni_list_put(l, QNI_F, s);
    }
    for (int32_t s = last; s >= 0; s--) qni_list_put(l, QNI_B, s);
}

/* May stage s leave out its F of this round? Two ahead of the next stage, and that one's next F and B end before this F would. */
static bool can_skip(const qni_list *l, int32_t s)
{
    if (s == l->stages - 1 || l->count[QNI_F][s] < l->count[QNI_F][s + 1] + 2) return false;
    const int64_t next = l->clock[s + 1] + l->cost[QNI_F] + l->cost[QNI_B] + l->link;
    if (l->clock[s] >= next) return true;
    int64_t held = l->held[s] + l->holds[QNI_F], cost = l->cost[QNI_F];
    while (held > l->limit) {
        held += l->holds[QNI_W];
        cost += l->cost[QNI_W];
    }
    return l->clock[s] + cost > next && next - l->clock[s] <= l->largest - l->bubble[s];
}

/* W before the next F or B of a stage: as many as fit, and one that does not fit where the gap is too large to leave. */
static void fill_gap(qni_list *l, int32_t kind, int32_t s, const settings *set)
{
    const int64_t ready = qni_list_ready(l, kind, s);
    qni_list_fill(l, s, ready);
    const int64_t gap = ready - l->clock[s];
    if (gap > 0 && qni_list_pending(l, s) > 0 && (gap > l->largest - l->bubble[s] || set->greedy)) qni_list_put_w(l, s);
}

static void round_of_f(qni_list *l, const settings *set, int32_t *wanted)
{
    for (int32_t s = 0; s < l->stages; s++) wanted[s] = l->count[QNI_F][s] < l->items && !(set->prefer_b && can_skip(l, s));
    for (int32_t s = l->stages - 2; s >= 0; s--) wanted[s] = wanted[s] && wanted[s + 1];
    for (int32_t s = 0; s < l->stages; s++) {
        if (!wanted[s]) continue;
        qni_list_make_room(l, QNI_F, s);
        fill_gap(l, QNI_F, s, set);
        qni_list_put(l, QNI_F, s);
    }
}

static void round_of_b(qni_list *l, const settings *set)
{
    for (int32_t s = l->stages - 1; s >= 0; s--) {
        qni_list_make_room(l, QNI_B, s);
        fill_gap(l, QNI_B, s, set);
        while (s == 0 && !l->failed && l->count[QNI_F][s] >= l->items && qni_list_pending(l, s) > 0) qni_list_put_w(l, s);
        qni_list_put(l, QNI_B, s);
    }
}

static void build(qni_list *l, const settings *set, int32_t *scratch)
{
    qni_list_reset(l);
    warm_up(l, set, scratch);
    for (int32_t i = 1; i < l->items && !l->failed; i++) {
        round_of_f(l, set, scratch);
        round_of_b(l, set);
    }
    for (int32_t s = 0; s < l->stages; s++) {
        while (!l->failed && qni_list_pending(l, s) > 0) qni_list_put_w(l, s);
    }
}

static settings settings_of(int32_t k)
{
    return (settings){.gap = (k & 1) != 0, .prefer_b = (k & 2) != 0, .greedy = (k & 4) != 0};
}

/* Pattern: workers P, items M (any), one stage per worker; costs of F, B, W and of a message (SEND), memory after F and after B.
 */
static qn_status search(qn_order *o, const qn_pattern *pat, int64_t limit, qn_err *err)
{
    qni_list l;
    int32_t best = QN_NONE;
    int64_t shortest = INT64_MAX;
    qn_status st = qni_list_open(&l, o, pat, pat->items, limit, err);
    if (st != QN_OK) return st;
    int32_t *scratch = qn_malloc((size_t)o->stages, sizeof *scratch);
    if (scratch == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "%d stages", o->stages);
        goto out;
    }
    for (int32_t k = 0; k < 8; k++) {
        const settings set = settings_of(k);
        build(&l, &set, scratch);
        if (l.failed || qni_list_span(&l) >= shortest) continue;
        shortest = qni_list_span(&l);
        best = k;
    }
    if (best == QN_NONE) {
        st = QN_FAIL(err, QN_EINVAL,
                     "no order of %d workers and %d micro-batches fits: what is left between B and W (%lld) should not be more "
                     "than what F leaves (%lld)",
                     pat->workers, pat->items, (long long)pat->pending_size, (long long)pat->stash_size);
        goto out;
    }
    const settings set = settings_of(best);
    build(&l, &set, scratch);
    qni_list_emit(o, &l);
    st = qn_order_done(o, err);
out:
    qn_free(scratch);
    qni_list_close(&l);
    return st;
}

qn_status qn_gen_zb_1p(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    return search(order, pat, pat->workers, err);
}

qn_status qn_gen_zb_2p(qn_order *order, const qn_pattern *pat, qn_err *err)
{
    return search(order, pat, 2 * (int64_t)pat->workers, err);
}

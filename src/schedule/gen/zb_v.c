/* ZB-V, Qi et al. 2024 (arXiv:2405.15362, after arXiv:2401.10241): zero bubble at the memory of 1F1B by a V placement. List
 * construction, reconstructed from a description of the published program.
 *
 * Chunk 0 goes down the workers, chunk 1 comes back up; backwards retrace it. Per round one B, then one F on each worker, of the
 * chunk whose input is there; W fill what is idle. Two settings say whether a W may go into a gap shorter than itself, before an
 * F and before a B of chunk 0; each is repeated with the bubbles of the last attempt as allowance as long as the largest shrinks.
 */
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/gen/gen.h"
#include "schedule/gen/gen_parts.h"
#include "schedule/gen/list_schedule.h"

typedef struct attempt {
    qni_list l;
    bool fill_f, fill_b;
    int64_t *allowed, most_allowed; /* [workers]: bubbles of the last attempt; -1: none before */
} attempt;

static int32_t stage_of(const qni_list *l, int32_t chunk, int32_t worker)
{
    return chunk == 0 ? worker : l->stages - 1 - worker;
}

static int32_t done(const qni_list *l, int32_t kind, int32_t chunk, int32_t worker)
{
    return l->count[kind][stage_of(l, chunk, worker)];
}

static void put(qni_list *l, int32_t kind, int32_t chunk, int32_t worker)
{
    qni_list_put(l, kind, stage_of(l, chunk, worker));
}

static void warm_up(qni_list *l)
{
    const int32_t P = l->workers, M = l->items;
    for (int32_t w = 0; w < P; w++) put(l, QNI_F, 0, w);
    for (int32_t w = P - 1; w >= 0 && !l->failed; w--) {
        const int64_t turn = qni_list_ready(l, QNI_F, stage_of(l, 1, w));
        while (w < P - 1 && !l->failed && l->held[w] + l->holds[QNI_F] * (2 + 2 * w) <= l->limit &&
               l->clock[w] + l->cost[QNI_F] <= turn && done(l, QNI_F, 0, w) < M) {
            for (int32_t j = 0; j <= w; j++) put(l, QNI_F, 0, j);
        }
        put(l, QNI_F, 1, w);
    }
    int32_t chunk = 0;
    for (int32_t w = 1; w < P && !l->failed; w++) {
        while (!l->failed && (done(l, QNI_F, 0, w) + done(l, QNI_F, 1, w) < done(l, QNI_F, 0, w - 1) + done(l, QNI_F, 1, w - 1) ||
                              (done(l, QNI_F, 1, w) <= done(l, QNI_F, 1, w - 1) && done(l, QNI_F, 1, w - 1) < M))) {
            for (int32_t j = P - 1; j >= w; j--) {
                if (done(l, QNI_F, chunk, j) < M) put(l, QNI_F, chunk, j);
            }
            chunk = 1 - chunk;
        }
    }
}

/* Room, then W into the gap before a task; `may` says whether one goes into a gap that is shorter than itself. */
static void fill_gap(attempt *a, int32_t kind, int32_t chunk, int32_t w, bool may)
{
    qni_list *l = &a->l;
    const int64_t ready = qni_list_ready(l, kind, stage_of(l, chunk, w));
    qni_list_fill(l, w, ready);
    const int64_t most = qn_max64(l->largest, a->most_allowed - a->allowed[w]);
    if (may && qni_list_pending(l, w) > 0 && ready - l->clock[w] > most - l->bubble[w]) qni_list_put_w(l, w);
}

/* The chunk whose B comes next: 1 goes first; then 0, if its input is there or chunk 1 is through. */
static int32_t next_b(const qni_list *l, int32_t w)
{
    if (done(l, QNI_B, 1, w) <= done(l, QNI_B, 0, w)) return 1;
    if (done(l, QNI_B, 1, w) >= l->items) return 0;
    return qni_list_ready(l, QNI_B, stage_of(l, 0, w)) >= 0 ? 0 : 1;
}

static void round_of_b(attempt *a, int32_t *chunk)
{
    qni_list *l = &a->l;
    for (int32_t w = 0; w < l->workers; w++) qni_list_make_room(l, QNI_B, w);
    for (int32_t w = 0; w < l->workers; w++) chunk[w] = next_b(l, w);
    for (int32_t pass = 0; pass < 2; pass++) { /* chunk 1 downwards, then chunk 0 upwards */
        for (int32_t k = 0; k < l->workers && !l->failed; k++) {
            const int32_t w = pass == 0 ? k : l->workers - 1 - k, c = 1 - pass;
            if (chunk[w] != c) continue;
            fill_gap(a, QNI_B, c, w, c == 1 || a->fill_b);
            put(l, QNI_B, c, w);
        }
    }
}

static void round_of_f(attempt *a)
{
    qni_list *l = &a->l;
    for (int32_t w = 0; w < l->workers && !l->failed; w++) {
        const int32_t f0 = done(l, QNI_F, 0, w), f1 = done(l, QNI_F, 1, w);
        if (f1 >= l->items) continue;
        int32_t c = QN_NONE;
        if (f1 < f0 && qni_list_ready(l, QNI_F, stage_of(l, 1, w)) >= 0)
            c = 1;
        else if (f0 < l->items && (f1 >= f0 || qni_list_ready(l, QNI_F, stage_of(l, 0, w)) >= 0))
            c = 0;
        if (c == QN_NONE) continue;
        qni_list_make_room(l, QNI_F, w);
        fill_gap(a, QNI_F, c, w, a->fill_f);
        put(l, QNI_F, c, w);
    }
}

static void build(attempt *a, int32_t *scratch)
{
    qni_list *l = &a->l;
    qni_list_reset(l);
    warm_up(l);
    for (int32_t i = 0; i < 2 * l->items && !l->failed; i++) {
        round_of_b(a, scratch);
        round_of_f(a);
    }
    for (int32_t w = 0; w < l->workers; w++) {
        while (!l->failed && qni_list_pending(l, w) > 0) qni_list_put_w(l, w);
    }
}

/* Keeps the shorter of two attempts: best takes over the task lists of l. */
static void keep(qni_list *best, int64_t *shortest, qni_list *l)
{
    if (l->failed || qni_list_span(l) >= *shortest) return;
    *shortest = qni_list_span(l);
    const qni_list old = *best;
    *best = *l;
    *l = old;
}

/* One pair of settings, repeated while the largest bubble shrinks. */
static void refine(attempt *a, qni_list *best, int64_t *shortest, int32_t *scratch)
{
    int64_t last = INT64_MAX;
    a->most_allowed = -1;
    for (int32_t w = 0; w < a->l.workers; w++) a->allowed[w] = -1;
    for (;;) {
        build(a, scratch);
        if (a->l.failed || a->l.largest >= last) return;
        last = a->most_allowed = a->l.largest;
        memcpy(a->allowed, a->l.bubble, (size_t)a->l.workers * sizeof *a->allowed);
        keep(best, shortest, &a->l);
    }
}

/* Pattern: workers P, items M (any), two chunks; stage s on worker s or 2P - 1 - s; costs of F, B, W of one stage and of a
 * message (SEND). Built for at least 2P - 1 items; what is too many is dropped. At most 2P stashes of a stage on a worker. */
qn_status qn_gen_zb_v(qn_order *o, const qn_pattern *pat, qn_err *err)
{
    const int32_t items = qn_max32(pat->items, 2 * pat->workers - 1);
    attempt a = {.allowed = NULL};
    qni_list best = {.workers = 0};
    int64_t shortest = INT64_MAX;
    int32_t *scratch = NULL;
    qn_status st = QN_OK;
    qni_gen_place_v(o);
    QN_TRY(st, qni_list_open(&a.l, o, pat, items, 2 * (int64_t)pat->workers, err), out);
    QN_TRY(st, qni_list_open(&best, o, pat, items, 2 * (int64_t)pat->workers, err), out);
    a.allowed = qn_malloc((size_t)pat->workers, sizeof *a.allowed);
    scratch = qn_malloc((size_t)pat->workers, sizeof *scratch);
    if (a.allowed == NULL || scratch == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "%d workers", pat->workers);
        goto out;
    }
    for (int32_t k = 0; k < 4; k++) {
        a.fill_f = (k & 1) == 0;
        a.fill_b = (k & 2) == 0;
        refine(&a, &best, &shortest, scratch);
    }
    if (shortest == INT64_MAX) {
        st = QN_FAIL(err, QN_EINVAL,
                     "no V order of %d workers fits: what is left between B and W should not be more than what F leaves",
                     pat->workers);
        goto out;
    }
    qni_list_emit(o, &best);
    st = qn_order_done(o, err);
out:
    qn_free(scratch);
    qn_free(a.allowed);
    qni_list_close(&best);
    qni_list_close(&a.l);
    return st;
}

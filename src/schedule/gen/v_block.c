/* See v_block.h. Reconstructed from a description of the published program.
 *
 * A table says which pass each worker runs in each slot; all passes take one slot. The table is a valid schedule at any time: a
 * pass stands after those it needs, so that reading the workers' rows from left to right gives orders that can run.
 *
 *   fill      the block of item k, 6 k slots later; each idle slot takes the oldest W that waits
 *   squeeze   every pass as early as its predecessors allow, in the same order
 *   reorder   the passes before a worker's first B and after its last F of chunk 0 move to the earliest free slot behind their
 *             inputs, an F only while the largest memory of all workers is not exceeded; once as they are, once with the W of the
 *             end taken out, which then fill the free slots again
 *
 * The passes between stay as the block has them: their pattern is what keeps unequal costs from adding up. */
#include "schedule/gen/v_block.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/gen/gen_parts.h"

enum { KINDS = 6, INTERVAL = 6, NOTHING = -1 };
static const qn_op op_of[KINDS] = {QN_OP_F, QN_OP_F, QN_OP_B, QN_OP_B, QN_OP_W, QN_OP_W};
enum { F0, F1, B1, B0, W1, W0 };

typedef struct qni_v_table {
    int32_t P, M;
    int64_t slots;
    int32_t *pass;  /* [P][slots]: item * KINDS + kind, or NOTHING */
    int32_t *end;   /* [P][M * KINDS]: slot after the pass; 0: not in the table */
    int32_t *held;  /* [P][slots]: stashes during a slot */
    int32_t *late;  /* [2 * M]: W that wait, scratch */
    int32_t most;   /* of held */
    int64_t *limit; /* [2 * P], scratch */
    int32_t *clock; /* [P], scratch */
} table;

static int32_t *row(const table *t, int32_t w)
{
    return t->pass + (size_t)w * (size_t)t->slots;
}

static int32_t *end_of(const table *t, int32_t w, int32_t pass)
{
    return &t->end[(size_t)w * KINDS * (size_t)t->M + (size_t)pass];
}

static void set(table *t, int32_t w, int64_t slot, int32_t pass)
{
    row(t, w)[slot] = pass;
    if (pass != NOTHING) *end_of(t, w, pass) = (int32_t)slot + 1;
}

/* The slot in which a pass could run: behind its inputs and the same pass of the item before. */
static int32_t earliest(const table *t, int32_t w, int32_t pass)
{
    const int32_t kind = pass % KINDS, last = t->P - 1;
    int32_t from = w, needs = pass;
    if (kind == F0 || kind == B1)
        from = w - 1;
    else if (kind == F1 || kind == B0)
        from = w + 1;
    if (from < 0 || from > last || kind >= W1) { /* of this worker: the turn of the V, the loss, W's own B */
        from = w;
        needs = kind == F0 ? NOTHING : kind == W1 || kind == W0 ? pass - 2 : pass - 1;
    }
    const int32_t input = needs == NOTHING ? 0 : *end_of(t, from, needs);
    return pass >= KINDS ? qn_max32(input, *end_of(t, w, pass - KINDS)) : input;
}

/* W of a worker's B from a slot on, oldest first, into its idle slots. Those already in the table stay. */
static void place_w(table *t, int32_t w, int64_t from)
{
    int32_t first = 0, waiting = 0;
    int32_t *r = row(t, w);
    for (int64_t s = 0; s < t->slots; s++) {
        if (r[s] == NOTHING) {
            if (first < waiting && s >= from) set(t, w, s, t->late[first++]);
            continue;
        }
        const int32_t kind = r[s] % KINDS;
        if ((kind == B1 || kind == B0) && *end_of(t, w, r[s] + 2) == 0) t->late[waiting++] = r[s] + 2;
    }
}

static void fill(table *t, const qni_block *block)
{
    for (int32_t w = 0; w < t->P; w++) {
        const qni_block b = block[w];
        for (int32_t k = 0; k < t->M; k++) {
            const int64_t shift = (int64_t)INTERVAL * k;
            set(t, w, b.f0 + shift, k * KINDS + F0);
            set(t, w, b.f1 + shift, k * KINDS + F1);
            set(t, w, b.b1 + shift, k * KINDS + B1);
            set(t, w, b.b0 + shift, k * KINDS + B0);
        }
        place_w(t, w, 0);
    }
}

static void squeeze(table *t, int32_t *clock)
{
    memset(clock, 0, (size_t)t->P * sizeof *clock);
    for (int64_t s = 0; s < t->slots; s++) {
        for (int32_t w = 0; w < t->P; w++) {
            const int32_t pass = row(t, w)[s];
            if (pass == NOTHING) continue;
            const int32_t to = qn_max32(clock[w], earliest(t, w, pass));
            set(t, w, s, NOTHING);
            set(t, w, to, pass);
            clock[w] = to + 1;
        }
    }
}

static void count_held(table *t)
{
    t->most = 0;
    for (int32_t w = 0; w < t->P; w++) {
        int32_t live = 0;
        int32_t *held = t->held + (size_t)w * (size_t)t->slots;
        for (int64_t s = 0; s < t->slots; s++) {
            const int32_t kind = row(t, w)[s] == NOTHING ? B1 : row(t, w)[s] % KINDS;
            live += kind == F0 || kind == F1;
            held[s] = live;
            t->most = qn_max32(t->most, live);
            live -= kind == W1 || kind == W0;
        }
    }
}

/* Moves the pass in slot s of a worker to the earliest free one not before `from` and before `until`. */
static void move_ahead(table *t, int32_t w, int64_t s, int64_t from, int64_t until)
{
    int32_t *r = row(t, w), *held = t->held + (size_t)w * (size_t)t->slots;
    const int32_t pass = r[s], kind = pass % KINDS;
    const bool adds = kind == F0 || kind == F1;
    int64_t to = s;
    for (int64_t u = s - 1; u >= qn_max64(from, earliest(t, w, pass)); u--) {
        if (adds && held[u] >= t->most) break;
        if (r[u] == NOTHING && u < until) to = u;
    }
    if (to == s) return;
    r[s] = NOTHING;
    set(t, w, to, pass);
    for (int64_t u = to; adds && u < s; u++) held[u]++;
}

/* Slot of the first B or the last F of chunk 0. */
static int64_t slot_of(const table *t, int32_t w, bool first_b)
{
    if (first_b) return qn_min32(*end_of(t, w, B1), *end_of(t, w, B0)) - 1;
    return *end_of(t, w, (t->M - 1) * KINDS + F0) - 1;
}

/* One sweep from left to right over the end, and over the beginning if asked for; early: later F fill what is idle there.
 * limit: [2 P], scratch. */
static void reorder(table *t, bool beginning, bool early, int64_t *limit)
{
    for (int32_t w = 0; w < t->P; w++) {
        limit[2 * w] = beginning ? slot_of(t, w, true) : 0;
        limit[2 * w + 1] = slot_of(t, w, false);
    }
    for (int64_t s = 0; s < t->slots; s++) {
        for (int32_t w = 0; w < t->P; w++) {
            if (row(t, w)[s] == NOTHING) continue;
            if (s < limit[2 * w])
                move_ahead(t, w, s, 0, s);
            else if (s > limit[2 * w + 1])
                move_ahead(t, w, s, limit[2 * w + 1], s);
            else if (early && row(t, w)[s] % KINDS <= F1)
                move_ahead(t, w, s, 0, limit[2 * w]);
        }
    }
}

/* Takes the W after the last F of chunk 0 out. */
static void drop_w(table *t)
{
    for (int32_t w = 0; w < t->P; w++) {
        int32_t *r = row(t, w);
        for (int64_t s = slot_of(t, w, false) + 1; s < t->slots; s++) {
            if (r[s] == NOTHING || r[s] % KINDS < W1) continue;
            *end_of(t, w, r[s]) = 0;
            r[s] = NOTHING;
        }
    }
}

void qni_v_close(qni_v_table *t)
{
    if (t == NULL) return;
    qn_free(t->pass);
    qn_free(t->end);
    qn_free(t->held);
    qn_free(t->late);
    qn_free(t->limit);
    qn_free(t->clock);
    qn_free(t);
}

qn_status qni_v_open(qni_v_table **out, int32_t workers, int32_t items, int32_t longest, qn_err *err)
{
    const size_t P = (size_t)workers, M = (size_t)items;
    table *t = qn_calloc(1, sizeof *t);
    if (t == NULL) return QN_FAIL(err, QN_ENOMEM, "slots of %d workers", workers);
    *t = (table){.P = workers, .M = items, .slots = 8 * (int64_t)items + longest + 8};
    t->pass = qn_malloc(P * (size_t)t->slots, sizeof *t->pass);
    t->held = qn_malloc(P * (size_t)t->slots, sizeof *t->held);
    t->end = qn_malloc(P * M * KINDS, sizeof *t->end);
    t->late = qn_malloc(2 * M, sizeof *t->late);
    t->limit = qn_malloc(2 * P, sizeof *t->limit);
    t->clock = qn_malloc(P, sizeof *t->clock);
    if (t->pass == NULL || t->held == NULL || t->end == NULL || t->late == NULL || t->limit == NULL || t->clock == NULL) {
        qni_v_close(t);
        return QN_FAIL(err, QN_ENOMEM, "slots of %d workers and %d micro-batches", workers, items);
    }
    *out = t;
    return QN_OK;
}

void qni_v_build(qni_v_table *t, const qni_block *block, int32_t limit, bool early)
{
    memset(t->pass, 0xff, (size_t)t->P * (size_t)t->slots * sizeof *t->pass);
    memset(t->end, 0, (size_t)t->P * (size_t)t->M * KINDS * sizeof *t->end);
    fill(t, block);
    squeeze(t, t->clock);
    count_held(t);
    t->most = qn_max32(t->most, limit);
    reorder(t, true, early, t->limit);
    drop_w(t);
    reorder(t, false, false, t->limit);
    for (int32_t w = 0; w < t->P; w++) place_w(t, w, slot_of(t, w, false) + 1);
    squeeze(t, t->clock); /* no change of order: what span says is what the order takes */
    count_held(t);
}

int32_t qni_v_peak(const qni_v_table *t)
{
    return t->most;
}

int64_t qni_v_span(const qni_v_table *t)
{
    int64_t longest = 0;
    for (int32_t w = 0; w < t->P; w++) {
        int64_t first = 0, last = t->slots - 1;
        while (first < last && row(t, w)[first] == NOTHING) first++;
        while (last > first && row(t, w)[last] == NOTHING) last--;
        longest = qn_max64(longest, last - first + 1);
    }
    return longest;
}

void qni_v_emit(qn_order *o, const qni_v_table *t)
{
    for (int32_t w = 0; w < t->P; w++) {
        for (int64_t s = 0; s < t->slots; s++) {
            const int32_t pass = row(t, w)[s], kind = pass % KINDS;
            if (pass == NOTHING || pass / KINDS >= o->items) continue;
            const bool down = kind == F0 || kind == B0 || kind == W0;
            qn_order_push(o, w, op_of[kind], down ? w : o->stages - 1 - w, pass / KINDS);
        }
    }
}

qn_status qni_gen_v_block(qn_order *o, const qn_pattern *pat, qni_block_fn *block, qn_err *err)
{
    qni_v_table *t = NULL;
    int32_t longest = 0;
    qn_status st = QN_OK;
    qni_block *b = qn_malloc((size_t)pat->workers, sizeof *b);
    if (b == NULL) return QN_FAIL(err, QN_ENOMEM, "slots of %d workers", pat->workers);
    for (int32_t i = 0; i < pat->workers; i++) {
        b[i] = block(i, pat->workers);
        longest = qn_max32(longest, b[i].b0);
    }
    QN_TRY(st, qni_v_open(&t, pat->workers, pat->items, longest, err), out);
    qni_gen_place_v(o);
    qni_v_build(t, b, 0, false);
    qni_v_emit(o, t);
    st = qn_order_done(o, err);
out:
    qni_v_close(t);
    qn_free(b);
    return st;
}

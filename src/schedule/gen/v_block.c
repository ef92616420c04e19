/* See v_block.h. Reconstructed from a description of the published program.
 *
 * A table says which pass each worker runs in each slot; all passes take one slot. The table is a valid schedule at any time: a
 * pass stands after those it needs, so that reading the workers' rows from left to right gives orders that can run.
 *
 *   fill      the block of item k, 6 k slots later; each idle slot takes the oldest W that waits
 *   reorder   the passes before worker 0's first B of chunk 0 and after its last F of chunk 0 move to the earliest free slot
 *             behind their inputs that keeps their worker within the largest memory of all workers
 *   squeeze   every pass as early as its predecessors allow, in the same order
 *   reorder   the end once more with all W taken out, which then fill the idle slots again
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

typedef struct table {
    int32_t P, M;
    int64_t slots;
    int32_t *pass;  /* [P][slots]: item * KINDS + kind, or NOTHING */
    int32_t *end;   /* [P][M * KINDS]: slot after the pass; 0: not in the table */
    int32_t *late;  /* [2 * M]: W that wait, scratch */
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

/* W of a worker's B, oldest first, into its idle slots. */
static void place_w(table *t, int32_t w)
{
    int32_t first = 0, waiting = 0;
    int32_t *r = row(t, w);
    for (int64_t s = 0; s < t->slots; s++) {
        if (r[s] == NOTHING) {
            if (first < waiting) set(t, w, s, t->late[first++]);
            continue;
        }
        const int32_t kind = r[s] % KINDS;
        if (kind == B1 || kind == B0) t->late[waiting++] = r[s] + 2;
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
        place_w(t, w);
    }
}

static void squeeze(table *t)
{
    int32_t *clock = t->clock;
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

/* Stashes at once on a worker; W that are not in the table take its idle slots. */
static int32_t peak_of(const table *t, int32_t w)
{
    int32_t live = 0, most = 0, waiting = 0;
    for (int64_t s = 0; s < t->slots; s++) {
        const int32_t pass = row(t, w)[s], kind = pass % KINDS;
        if (pass == NOTHING && waiting > 0) {
            waiting--;
            live--;
        }
        if (pass == NOTHING) continue;
        live += (kind == F0 || kind == F1) - (kind == W1 || kind == W0);
        waiting += (kind == B1 || kind == B0) && *end_of(t, w, pass + 2) == 0;
        most = qn_max32(most, live);
    }
    return most;
}

static int32_t largest_peak(const table *t)
{
    int32_t most = 0;
    for (int32_t w = 0; w < t->P; w++) most = qn_max32(most, peak_of(t, w));
    return most;
}

/* Moves the pass in slot s of a worker to the earliest free one behind its inputs that keeps the worker within `most`. */
static void move_ahead(table *t, int32_t w, int64_t s, int32_t most)
{
    int32_t *r = row(t, w);
    const int32_t pass = r[s];
    for (int64_t to = earliest(t, w, pass); to < s; to++) {
        if (r[to] != NOTHING) continue;
        r[s] = NOTHING;
        set(t, w, to, pass);
        if (peak_of(t, w) <= most) return;
        r[to] = NOTHING;
        set(t, w, s, pass);
    }
}

/* One sweep from left to right. The steady phase reaches from worker 0's first B of chunk 0 to its last F of chunk 0. */
static void reorder(table *t, bool beginning)
{
    const int32_t most = largest_peak(t);
    const int64_t begin = *end_of(t, 0, B0) - 1, finish = *end_of(t, 0, (t->M - 1) * KINDS + F0) - 1;
    for (int64_t s = 0; s < t->slots; s++) {
        for (int32_t w = 0; w < t->P; w++) {
            const bool behind = s > finish || (s == finish && w > 0);
            if (row(t, w)[s] != NOTHING && (behind || (beginning && s < begin))) move_ahead(t, w, s, most);
        }
    }
}

static void drop_w(table *t)
{
    for (int32_t w = 0; w < t->P; w++) {
        int32_t *r = row(t, w);
        for (int64_t s = 0; s < t->slots; s++) {
            if (r[s] == NOTHING || r[s] % KINDS < W1) continue;
            *end_of(t, w, r[s]) = 0;
            r[s] = NOTHING;
        }
    }
}

static void close_table(table *t)
{
    if (t == NULL) return;
    qn_free(t->pass);
    qn_free(t->end);
    qn_free(t->late);
    qn_free(t->clock);
    qn_free(t);
}

static qn_status open_table(table **out, int32_t workers, int32_t items, int32_t longest, qn_err *err)
{
    const size_t P = (size_t)workers, M = (size_t)items;
    table *t = qn_calloc(1, sizeof *t);
    if (t == NULL) return QN_FAIL(err, QN_ENOMEM, "slots of %d workers", workers);
    *t = (table){.P = workers, .M = items, .slots = 8 * (int64_t)items + longest + 8};
    t->pass = qn_malloc(P * (size_t)t->slots, sizeof *t->pass);
    t->end = qn_malloc(P * M * KINDS, sizeof *t->end);
    t->late = qn_malloc(2 * M, sizeof *t->late);
    t->clock = qn_malloc(P, sizeof *t->clock);
    if (t->pass == NULL || t->end == NULL || t->late == NULL || t->clock == NULL) {
        close_table(t);
        return QN_FAIL(err, QN_ENOMEM, "slots of %d workers and %d micro-batches", workers, items);
    }
    *out = t;
    return QN_OK;
}

static void build(table *t, const qni_block *block)
{
    memset(t->pass, 0xff, (size_t)t->P * (size_t)t->slots * sizeof *t->pass);
    memset(t->end, 0, (size_t)t->P * (size_t)t->M * KINDS * sizeof *t->end);
    fill(t, block);
    reorder(t, true);
    squeeze(t);
    drop_w(t);
    reorder(t, false);
    for (int32_t w = 0; w < t->P; w++) place_w(t, w);
}

static void emit(qn_order *o, const table *t)
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
    table *t = NULL;
    int32_t longest = 0;
    qn_status st = QN_OK;
    qni_block *b = qn_malloc((size_t)pat->workers, sizeof *b);
    if (b == NULL) return QN_FAIL(err, QN_ENOMEM, "slots of %d workers", pat->workers);
    for (int32_t i = 0; i < pat->workers; i++) {
        b[i] = block(i, pat->workers);
        longest = qn_max32(longest, b[i].b0);
    }
    QN_TRY(st, open_table(&t, pat->workers, pat->items, longest, err), out);
    qni_gen_place_v(o);
    build(t, b);
    emit(o, t);
    st = qn_order_done(o, err);
out:
    close_table(t);
    qn_free(b);
    return st;
}

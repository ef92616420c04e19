/* See v_rows.h. Reconstructed from the published program (v_auto_schedule of arXiv:2405.15362) and its closed form.
 *
 * A row says which kind of pass a worker runs in each slot; the n-th pass of a kind is that of item n. All passes take one slot.
 *
 *   repeat     the block, six slots later for each item; W in the first place of the interval that is free behind its B
 *   squeeze    every pass as early as its worker and its input allow, in the same order
 *   warm up    what stands before a worker's first B of chunk 0 is laid out anew: F of chunk 0; both F in turn; then B, W and one
 *              F in turn, with half of the memory for each chunk
 *   trim       items that were only there to have a steady phase go
 *   cool down  the last B are laid out as tightly as their chain allows, every other slot; W fill what is left
 *   fill       from left to right, each idle slot takes the next pass of any kind that can run there without more memory
 *
 * A step that finds the slot it wants taken, or an input missing, gives the block up: other candidates do better. */
#include "schedule/gen/v_rows.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/gen/gen_parts.h"

enum { F0, F1, B1, B0, W1, W0, KINDS, INTERVAL = 6, NOTHING = -1 };
static const qn_op op_of[KINDS] = {QN_OP_F, QN_OP_F, QN_OP_B, QN_OP_B, QN_OP_W, QN_OP_W};

struct qni_v_rows {
    int32_t P, room; /* workers; items that there is room for */
    int32_t M;       /* items in the rows */
    int64_t slots, len;
    int8_t *kind, *other; /* [P][slots]; other: what squeezing writes to */
    int32_t *at;          /* [P][room][KINDS]: slot of a pass, or NOTHING */
    int32_t *done;        /* [P][KINDS]: passes counted so far */
    int32_t *clock;       /* [P] */
    int64_t *end;         /* [P][room][KINDS]: of a pass in time; then [P]: of a worker */
    int32_t peak;
};

static int8_t *row(const qni_v_rows *r, int32_t w)
{
    return r->kind + (size_t)w * (size_t)r->slots;
}

static int32_t *at(const qni_v_rows *r, int32_t w, int32_t item, int32_t kind)
{
    return &r->at[((size_t)w * (size_t)r->room + (size_t)item) * KINDS + (size_t)kind];
}

static int32_t *done(const qni_v_rows *r, int32_t w, int32_t kind)
{
    return &r->done[w * KINDS + kind];
}

static int32_t adds(int32_t kind)
{
    return (kind == F0 || kind == F1) - (kind == W1 || kind == W0);
}

/* Slot of a pass's input: NOTHING if it is not there yet, -2 if there is none to wait for. */
static int32_t input(const qni_v_rows *r, int32_t w, int32_t item, int32_t kind)
{
    if (kind >= W1) return *at(r, w, item, kind - 2);
    const int32_t from = kind % 2 == 0 ? w - 1 : w + 1;
    if (from >= 0 && from < r->P) return *at(r, from, item, kind);
    return kind == F0 ? -2 : *at(r, w, item, kind - 1);
}

static void forget(qni_v_rows *r)
{
    memset(r->at, 0xff, (size_t)r->P * (size_t)r->room * KINDS * sizeof *r->at);
    memset(r->done, 0, (size_t)r->P * KINDS * sizeof *r->done);
}

static bool put(qni_v_rows *r, int32_t w, int64_t slot, int32_t kind)
{
    if (slot < 0 || slot >= r->slots || row(r, w)[slot] != NOTHING) return false;
    row(r, w)[slot] = (int8_t)kind;
    r->len = qn_max64(r->len, slot + 1);
    return true;
}

static bool repeat(qni_v_rows *r, const qni_block *block)
{
    r->M = r->room;
    r->len = 0;
    memset(r->kind, 0xff, (size_t)r->P * (size_t)r->slots);
    for (int32_t w = 0; w < r->P; w++) {
        int32_t start[KINDS] = {block[w].f0, block[w].f1, block[w].b1, block[w].b0};
        uint32_t taken = 0;
        for (int32_t k = F0; k < W1; k++) taken |= 1U << start[k] % INTERVAL;
        for (int32_t k = W1; k < KINDS; k++) {
            start[k] = start[k - 2] + 1;
            while ((taken >> start[k] % INTERVAL & 1U) != 0) start[k]++;
            taken |= 1U << start[k] % INTERVAL;
        }
        for (int32_t i = 0; i < r->M; i++) {
            for (int32_t k = 0; k < KINDS; k++) {
                if (!put(r, w, start[k] + (int64_t)INTERVAL * i, k)) return false;
            }
        }
    }
    return true;
}

static int32_t peak_of(const qni_v_rows *r, int32_t w)
{
    int32_t live = 0, most = 0;
    for (int64_t s = 0; s < r->len; s++) {
        if (row(r, w)[s] == NOTHING) continue;
        live += adds(row(r, w)[s]);
        most = qn_max32(most, live);
    }
    return most;
}

static int32_t peak(const qni_v_rows *r)
{
    int32_t most = 0;
    for (int32_t w = 0; w < r->P; w++) most = qn_max32(most, peak_of(r, w));
    return most;
}

/* One pass of squeeze. False where its input is not there. */
static bool advance(qni_v_rows *r, int32_t w, int32_t kind, int64_t *len)
{
    const int32_t item = (*done(r, w, kind))++;
    if (item >= r->M) return false;
    const int32_t in = input(r, w, item, kind), to = qn_max32(in + 1, r->clock[w]);
    if (in == NOTHING || to >= r->slots) return false;
    r->other[(size_t)w * (size_t)r->slots + (size_t)to] = (int8_t)kind;
    *at(r, w, item, kind) = to;
    r->clock[w] = to + 1;
    *len = qn_max64(*len, to + 1);
    return true;
}

/* Slot by slot; in each the passes that go down the workers from the first, then those that come up from the last. */
static bool squeeze(qni_v_rows *r)
{
    int64_t len = 0;
    forget(r);
    memset(r->clock, 0, (size_t)r->P * sizeof *r->clock);
    memset(r->other, 0xff, (size_t)r->P * (size_t)r->slots);
    for (int64_t s = 0; s < r->len; s++) {
        for (int32_t k = 0; k < 2 * r->P; k++) {
            const bool up = k >= r->P;
            const int32_t w = up ? 2 * r->P - 1 - k : k, kind = row(r, w)[s];
            if (kind != NOTHING && (kind % 2 != 0) == up && !advance(r, w, kind, &len)) return false;
        }
    }
    int8_t *old = r->kind;
    r->kind = r->other;
    r->other = old;
    r->len = len;
    return true;
}

/* Takes a worker's passes before its first B of chunk 0 out and counts them. */
static void take_front(qni_v_rows *r, int32_t w, int32_t *count)
{
    int8_t *x = row(r, w);
    for (int64_t s = 0; s < r->len && x[s] != B0; s++) {
        if (x[s] != NOTHING) count[x[s]]++;
        x[s] = NOTHING;
    }
}

static bool warm_up(qni_v_rows *r)
{
    const int32_t most = qn_min32(peak(r), 2 * r->P);
    for (int32_t w = 0; w < r->P; w++) {
        int32_t left[KINDS] = {0};
        take_front(r, w, left);
        int32_t f1 = qn_min32(qn_min32(w + 1, most / 2), r->M), f0 = qn_min32(most - f1, r->M);
        f0 = qn_min32(f0, left[F0]);
        f1 = qn_min32(f1, left[F1]);
        left[F0] -= f0;
        left[F1] -= f1;
        int64_t s = w;
        for (int32_t k = 0; k < 2 * (r->P - 1 - w); k++, s++) {
            if (f0-- > 0 && !put(r, w, s, F0)) return false;
        }
        for (int32_t k = 0; k <= w; k++, s += 2) {
            if (f0-- > 0 && !put(r, w, s, F0)) return false;
            if (f1-- > 0 && !put(r, w, s + 1, F1)) return false;
        }
        for (; left[F0] > 0 || left[F1] > 0 || left[B1] > 0 || left[W1] > 0; s += 3) {
            const int32_t f = left[F1] > 0 ? F1 : F0;
            if (left[B1]-- > 0 && !put(r, w, s, B1)) return false;
            if (left[W1]-- > 0 && !put(r, w, s + 1, W1)) return false;
            if (left[f]-- > 0 && !put(r, w, s + 2, f)) return false;
        }
    }
    return squeeze(r);
}

/* Drops the items from `items` on. Where all that are left fit into the memory, W from the front of a worker that holds less than
 * the others wait for its end: F do not wait for them then. */
static bool trim(qni_v_rows *r, int32_t items, int32_t limit)
{
    forget(r);
    for (int32_t w = 0; w < r->P; w++) {
        for (int64_t s = 0; s < r->len; s++) {
            const int32_t kind = row(r, w)[s];
            if (kind != NOTHING && (*done(r, w, kind))++ >= items) row(r, w)[s] = NOTHING;
        }
    }
    r->M = items;
    const int64_t len = r->len;
    const int32_t most = qn_min32(2 * r->P, peak(r));
    for (int32_t w = 0; w < r->P && items <= r->P && 2 * items <= limit; w++) {
        int32_t later = most - peak_of(r, w);
        int64_t end = len;
        for (int64_t s = 0; s < len && later > 0; s++) {
            const int32_t kind = row(r, w)[s];
            if (kind < W1) continue;
            row(r, w)[s] = NOTHING;
            if (!put(r, w, end++, kind)) return false;
            later--;
        }
    }
    return squeeze(r);
}

/* Takes the last B of a worker out, as many as `want` says, and the W that belong to them; taken: how many of each kind. */
static void take_end(qni_v_rows *r, int32_t w, const int32_t *want, int32_t most, int32_t *taken)
{
    int8_t *x = row(r, w);
    for (int64_t s = r->len; s-- > 0;) {
        const int32_t kind = x[s];
        if ((kind != B1 && kind != B0) || taken[kind] >= want[kind]) continue;
        x[s] = NOTHING;
        taken[kind]++;
    }
    for (int64_t s = r->len; s-- > 0;) {
        if (taken[W1] >= taken[B1] && taken[W0] >= taken[B0] && taken[W1] + taken[W0] >= most) break;
        const int32_t kind = x[s];
        if (kind < W1) continue;
        x[s] = NOTHING;
        taken[kind]++;
    }
}

/* W that wait, those of chunk 1 first, into what is idle behind a worker's last W. */
static bool fill_w(qni_v_rows *r, int32_t w)
{
    int8_t *x = row(r, w);
    int64_t last = r->len;
    while (last > 0 && x[last - 1] < W1) last--;
    int32_t waiting[2] = {0};
    for (int64_t s = 0; s < r->slots; s++) {
        if (x[s] == B1 || x[s] == B0) waiting[x[s] - B1]++;
        if (x[s] >= W1) waiting[x[s] - W1]--;
        if (x[s] != NOTHING || s < last) continue;
        const int32_t kind = waiting[0] > 0 ? W1 : W0;
        if (waiting[kind - W1] > 0 && put(r, w, s, kind)) waiting[kind - W1]--;
    }
    return waiting[0] == 0 && waiting[1] == 0;
}

static bool cool_down(qni_v_rows *r)
{
    const int32_t most = peak(r);
    int64_t start = r->len - 1; /* the last F of worker 0: of chunk 1 */
    while (start >= 0 && row(r, 0)[start] != F1) start--;
    for (int32_t w = 0; w < r->P; w++) {
        int32_t want[KINDS] = {0}, taken[KINDS] = {0};
        want[B0] = qn_min32((most + 1) / 2, r->M);
        want[B1] = qn_min32(qn_min32(most - want[B0], r->M), w + 1);
        take_end(r, w, want, most, taken);
        for (int32_t k = 0; k < taken[B0]; k++) {
            if (!put(r, w, start - w + 2 * r->P - 2 * k, B0)) return false;
        }
        for (int32_t k = 0; k < taken[B1]; k++) {
            if (!put(r, w, start + 1 + w - 2 * k, B1)) return false;
        }
    }
    for (int32_t w = 0; w < r->P; w++) {
        if (!fill_w(r, w)) return false;
    }
    return squeeze(r);
}

/* A pass for an idle slot: of each kind the next one, the nearest first; NOTHING if none can run there. `live` stashes are held
 * before the slot, `most` may be. */
static int64_t find_for(const qni_v_rows *r, int32_t w, int64_t slot, int32_t live, int32_t most)
{
    const int8_t *x = row(r, w);
    uint32_t seen = 0;
    int32_t top = live;
    for (int64_t s = slot + 1; s < r->len && seen != (1U << KINDS) - 1; s++) {
        const int32_t kind = x[s], before = top;
        if (kind == NOTHING) continue;
        live += adds(kind);
        top = qn_max32(top, live);
        if ((seen >> kind & 1U) != 0) continue;
        seen |= 1U << kind;
        if (adds(kind) > 0 && before >= most) continue;
        const int32_t in = input(r, w, *done(r, w, kind), kind);
        if (in != NOTHING && in < slot) return s;
    }
    return NOTHING;
}

static void fill(qni_v_rows *r)
{
    const int32_t most = peak(r);
    forget(r);
    memset(r->clock, 0, (size_t)r->P * sizeof *r->clock); /* stashes held */
    for (int64_t s = 0; s < r->len; s++) {
        for (int32_t w = 0; w < r->P; w++) {
            int8_t *x = row(r, w);
            if (x[s] == NOTHING) {
                const int64_t from = find_for(r, w, s, r->clock[w], most);
                if (from == NOTHING) continue;
                x[s] = x[from];
                x[from] = NOTHING;
            }
            *at(r, w, (*done(r, w, x[s]))++, x[s]) = (int32_t)s;
            r->clock[w] += adds(x[s]);
        }
    }
}

/* W take the turns of their B. */
static void name_w(qni_v_rows *r, int32_t w)
{
    int8_t *x = row(r, w);
    int64_t b = 0;
    for (int64_t s = 0; s < r->len; s++) {
        if (x[s] < W1) continue;
        while (x[b] != B1 && x[b] != B0) b++;
        x[s] = (int8_t)(x[b++] + 2);
    }
}

void qni_v_rows_close(qni_v_rows *r)
{
    if (r == NULL) return;
    qn_free(r->kind);
    qn_free(r->other);
    qn_free(r->at);
    qn_free(r->done);
    qn_free(r->clock);
    qn_free(r->end);
    qn_free(r);
}

qn_status qni_v_rows_open(qni_v_rows **out, int32_t workers, int32_t items, qn_err *err)
{
    const size_t P = (size_t)workers;
    qni_v_rows *r = qn_calloc(1, sizeof *r);
    if (r == NULL) return QN_FAIL(err, QN_ENOMEM, "slots of %d workers", workers);
    *r = (qni_v_rows){.P = workers, .room = items, .slots = 8 * (int64_t)items + 16 * (int64_t)workers + 32};
    r->kind = qn_malloc(P, (size_t)r->slots);
    r->other = qn_malloc(P, (size_t)r->slots);
    r->at = qn_malloc(P * (size_t)items * KINDS, sizeof *r->at);
    r->done = qn_malloc(P * KINDS, sizeof *r->done);
    r->clock = qn_malloc(P, sizeof *r->clock);
    r->end = qn_malloc(P * ((size_t)items * KINDS + 1), sizeof *r->end);
    if (r->end == NULL || r->kind == NULL || r->other == NULL || r->at == NULL || r->done == NULL || r->clock == NULL) {
        qni_v_rows_close(r);
        return QN_FAIL(err, QN_ENOMEM, "slots of %d workers and %d micro-batches", workers, items);
    }
    *out = r;
    return QN_OK;
}

bool qni_v_rows_build(qni_v_rows *r, const qni_block *block, int32_t items, int32_t limit)
{
    r->peak = INT32_MAX;
    if (!repeat(r, block)) return false;
    r->peak = peak(r);
    if (r->peak > 2 * r->P || (items == r->room && r->peak > limit) || !squeeze(r) || !warm_up(r)) return false;
    if (items < r->room && !trim(r, items, limit)) return false;
    r->peak = peak(r);
    if (r->peak > limit || !cool_down(r)) return false;
    fill(r);
    for (int32_t w = 0; w < r->P; w++) name_w(r, w);
    if (!squeeze(r)) return false; /* no change of order: what span says is what the order takes */
    r->peak = peak(r);
    for (int32_t k = 0; k < r->P * KINDS; k++) {
        if (r->done[k] != items) return false;
    }
    return r->peak <= limit;
}

int32_t qni_v_rows_peak(const qni_v_rows *r)
{
    return r->peak;
}

int64_t qni_v_rows_span(const qni_v_rows *r)
{
    int64_t longest = 0;
    for (int32_t w = 0; w < r->P; w++) {
        int64_t first = 0, last = r->len - 1;
        while (first < last && row(r, w)[first] == NOTHING) first++;
        while (last > first && row(r, w)[last] == NOTHING) last--;
        longest = qn_max64(longest, last - first + 1);
    }
    return longest;
}

/* When a pass's input is there. The passes of earlier slots have their ends. */
static int64_t arrival(const qni_v_rows *r, int32_t w, int32_t item, int32_t kind, int64_t link)
{
    int32_t from = w, needs = kind - 2;
    if (kind < W1) {
        from = kind % 2 == 0 ? w - 1 : w + 1;
        needs = kind;
        if (from < 0 || from >= r->P) { /* the turns of the V */
            if (kind == F0) return 0;
            from = w;
            needs = kind - 1;
        }
    }
    return r->end[((size_t)from * (size_t)r->room + (size_t)item) * KINDS + (size_t)needs] + (from == w ? 0 : link);
}

static int64_t or_one(int64_t x)
{
    return x > 0 ? x : 1;
}

int64_t qni_v_rows_time(qni_v_rows *r, const qn_pattern *pat)
{
    const int64_t f = or_one(pat->cost[QN_OP_F]), b = or_one(pat->cost[QN_OP_B]), w_cost = or_one(pat->cost[QN_OP_W]);
    const int64_t cost[KINDS] = {f, f, b, b, w_cost, w_cost};
    int64_t last = 0;
    int64_t *clock = r->end + (size_t)r->P * (size_t)r->room * KINDS; /* [P] */
    memset(r->done, 0, (size_t)r->P * KINDS * sizeof *r->done);
    memset(clock, 0, (size_t)r->P * sizeof *clock);
    for (int64_t s = 0; s < r->len; s++) {
        for (int32_t w = 0; w < r->P; w++) {
            const int32_t kind = row(r, w)[s];
            if (kind == NOTHING) continue;
            const int32_t item = (*done(r, w, kind))++;
            clock[w] = qn_max64(clock[w], arrival(r, w, item, kind, pat->cost[QN_OP_SEND])) + cost[kind];
            r->end[((size_t)w * (size_t)r->room + (size_t)item) * KINDS + (size_t)kind] = clock[w];
            last = qn_max64(last, clock[w]);
        }
    }
    return last;
}

void qni_v_rows_emit(qn_order *o, const qni_v_rows *r)
{
    for (int32_t w = 0; w < r->P; w++) {
        int32_t next[KINDS] = {0};
        for (int64_t s = 0; s < r->len; s++) {
            const int32_t kind = row(r, w)[s];
            if (kind == NOTHING || next[kind] == o->items) continue;
            const bool down = kind == F0 || kind == B0 || kind == W0;
            qn_order_push(o, w, op_of[kind], down ? w : o->stages - 1 - w, next[kind]++);
        }
    }
}

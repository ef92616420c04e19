/* Lowering, pass slots: every value's offset in its worker's arena, as an interval colouring of lifetimes.
 *
 * Time is counted per worker in half steps of its comp lane: comp task q is at 2q + 1, what SENDs and RECVs do between two comp
 * tasks at even numbers. written by comp task q      from 2q + 1 received                    from 2 * (comp tasks complete when
 * it arrives), but no later than when the reader of the channel's message before it starts, so that a message is never kept
 * waiting for memory while the one before it is worked on dropped by comp task q      until 2q + 2 dropped by a SEND until 2 *
 * (comp tasks complete when it has left) + 1, and LAG comp tasks after its writer, so that a worker need not wait for a message
 * to leave before it goes on Two values share bytes only if one ends at or before the start of the other. All these edges point
 * forward in the simulated order, so that the plan stays live; each becomes a wait of the new value's writer for the task that
 * dropped the old one. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "lower.h"
#include "schedule/trace.h"

enum { LAG = 4 };

typedef struct interval {
    int64_t from, until;
    int32_t value, writer, dropper;
} interval;

typedef struct segment { /* free bytes and who dropped them */
    int64_t at, bytes, since;
    int32_t lane, index;
} segment;

typedef struct arena_state {
    segment *free;
    int32_t frees, cap;
    int64_t top;
    bool failed;
} arena_state;

/* The largest power of two up to a cache line that divides the size: sizes that are multiples of 64 get offsets that are. */
static int64_t alignment(int64_t bytes)
{
    return qn_min64(bytes & -bytes, 64);
}

static void put_free(arena_state *a, segment s)
{
    if (s.bytes == 0) return;
    if (a->frees == INT32_MAX || !qni_grow(&a->free, &a->cap, a->frees + 1, sizeof *a->free)) {
        a->failed = true;
        return;
    }
    a->free[a->frees++] = s; /* oldest first */
}

static void drop_free(arena_state *a, int32_t i)
{
    for (; i + 1 < a->frees; i++) a->free[i] = a->free[i + 1];
    a->frees--;
}

static int by_place(const void *pa, const void *pb)
{
    const segment *a = pa, *b = pb;
    return (a->at > b->at) - (a->at < b->at);
}

static int by_age(const void *pa, const void *pb)
{
    const segment *a = pa, *b = pb;
    if (a->since != b->since) return a->since < b->since ? -1 : 1;
    return by_place(pa, pb);
}

/* Takes [at, at + bytes) out of the free list, which is sorted by place; the writer waits for whoever dropped those bytes. */
static void carve(arena_state *a, int64_t at, int64_t bytes, int32_t need[QN_LANES])
{
    const int64_t end = at + bytes;
    const int32_t n = a->frees;
    for (int32_t i = 0; i < n; i++) {
        segment s = a->free[i];
        const int64_t stop = s.at + s.bytes;
        if (stop <= at || s.at >= end) continue;
        need[s.lane] = qn_max32(need[s.lane], s.index);
        segment left = s, right = s;
        left.bytes = qn_max64(at - s.at, 0);
        right.at = qn_min64(end, stop);
        right.bytes = stop - right.at;
        a->free[i].bytes = 0;
        put_free(a, left);
        put_free(a, right);
    }
    int32_t kept = 0;
    for (int32_t i = 0; i < a->frees; i++) {
        if (a->free[i].bytes > 0) a->free[kept++] = a->free[i];
    }
    a->frees = kept;
    if (a->frees > 1) qsort(a->free, (size_t)a->frees, sizeof *a->free, by_age);
}

/* The smallest run of neighbouring free segments that holds the bytes; else the end of the arena grows, from the last run if it
 * touches the end. */
static int64_t find_run(arena_state *a, int64_t bytes)
{
    const int64_t align = alignment(bytes);
    int64_t best = -1, best_room = INT64_MAX;
    int64_t last_at = a->top;
    if (a->frees > 1) qsort(a->free, (size_t)a->frees, sizeof *a->free, by_place);
    for (int32_t i = 0; i < a->frees;) {
        const int64_t at = a->free[i].at;
        int64_t end = at;
        while (i < a->frees && a->free[i].at == end) end += a->free[i++].bytes;
        const int64_t aligned = (at + align - 1) & -align;
        if (end - aligned >= bytes && end - aligned < best_room) {
            best = aligned;
            best_room = end - aligned;
        }
        if (end == a->top) last_at = at;
    }
    return best >= 0 ? best : (last_at + align - 1) & -align;
}

/* need: what the writer must wait for, index per lane. Returns the offset. */
static int64_t place_value(arena_state *a, int64_t bytes, int32_t need[QN_LANES])
{
    if (bytes == 0) return 0;
    for (int32_t i = 0; i < a->frees; i++) { /* the usual case: a slot of this very size, the one that has been free longest */
        const segment s = a->free[i];
        if (s.bytes != bytes || s.at % alignment(bytes) != 0) continue;
        need[s.lane] = qn_max32(need[s.lane], s.index);
        drop_free(a, i);
        return s.at;
    }
    const int64_t at = find_run(a, bytes);
    carve(a, at, bytes, need);
    a->top = qn_max64(a->top, at + bytes);
    return at;
}

/* Comp tasks of the worker complete before time at (or_at: or then). Ends ascend along the lane. */
static int64_t comp_complete(const qn_plan *p, const qn_span_time *time, int32_t w, int64_t at, bool or_at)
{
    int32_t low = 0, high = p->lane[w][QN_LANE_COMP][1];
    const int32_t first = p->lane[w][QN_LANE_COMP][0];
    while (low < high) {
        const int32_t mid = low + (high - low) / 2;
        const int64_t end = time[first + mid].end;
        if (end < at || (or_at && end == at))
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool in_arena(const qn_plan *p, int32_t v)
{
    const int32_t cls = p->value[v].cls;
    return cls == QN_V_ACT || cls == QN_V_GRAD || cls == QN_V_STASH || cls == QN_V_WSTASH || cls == QN_V_TGRAD ||
           cls == QN_V_VIN || cls == QN_V_VDX || cls == QN_V_VSTAT || cls == QN_V_RSTASH;
}

/* Fills writer and dropper of every value's interval, and reader[v]: lane index of the first comp task that reads it. */
static void find_users(interval *life, int32_t *reader, const qn_plan *p)
{
    for (int32_t v = 0; v < p->values; v++) {
        life[v] = (interval){.value = v, .writer = QN_NONE, .dropper = QN_NONE};
        reader[v] = INT32_MAX;
    }
    for (int32_t t = 0; t < p->tasks; t++) {
        const qn_task *task = &p->task[t];
        for (int32_t i = 0; i < task->out.count; i++) life[p->ref[task->out.first + i]].writer = t;
        for (int32_t i = 0; i < task->free.count; i++) life[p->ref[task->free.first + i]].dropper = t;
        for (int32_t i = 0; i < task->in.count && task->lane == QN_LANE_COMP; i++) {
            int32_t *r = &reader[p->ref[task->in.first + i]];
            *r = qn_min32(*r, qni_lane_index(p, t));
        }
    }
}

/* last_reader: [channels], the first reader of the channel's message before, carried along RECVs in lane order. */
static void set_interval(interval *x, const qn_plan *p, const qn_span_time *time, const int32_t *reader, int32_t *last_reader)
{
    const int32_t w = p->value[x->value].worker;
    const qn_task *writer = &p->task[x->writer];
    const bool received = writer->lane == QN_LANE_RECV;
    x->from = 2 * (int64_t)qni_lane_index(p, x->writer) + 1;
    if (received) {
        x->from = 2 * comp_complete(p, time, w, time[x->writer].end, false);
        x->from = qn_min64(x->from, 2 * (int64_t)qn_min32(last_reader[writer->channel], reader[x->value]));
        last_reader[writer->channel] = reader[x->value];
    }
    if (p->task[x->dropper].lane == QN_LANE_COMP) {
        x->until = 2 * (int64_t)qni_lane_index(p, qn_joint_last(p, x->dropper)) + 2;
    } else {
        x->until = 2 * comp_complete(p, time, w, time[x->dropper].end, true) + 1;
        if (!received) x->until = qn_max64(x->until, x->from + 2 * LAG);
    }
}

static int by_slot_start(const void *pa, const void *pb)
{
    const qni_slot *const *a = pa, *const *b = pb;
    if ((*a)->from != (*b)->from) return (*a)->from < (*b)->from ? -1 : 1;
    return (*a > *b) - (*a < *b);
}

static int by_slot_end(const void *pa, const void *pb)
{
    const qni_slot *const *a = pa, *const *b = pb;
    if ((*a)->until != (*b)->until) return (*a)->until < (*b)->until ? -1 : 1;
    return (*a > *b) - (*a < *b);
}

static qn_status colour_slots(qni_slot *slot, int32_t n, int64_t *top, qn_err *err)
{
    arena_state a = {0};
    int32_t ended = 0;
    qni_slot **start = qn_malloc((size_t)n, sizeof(qni_slot *)), **end = qn_malloc((size_t)n, sizeof(qni_slot *));
    if (start == NULL || end == NULL) a.failed = true;
    for (int32_t i = 0; i < n && !a.failed; i++) start[i] = end[i] = &slot[i];
    if (!a.failed && n > 0) qsort(start, (size_t)n, sizeof *start, by_slot_start);
    if (!a.failed && n > 0) qsort(end, (size_t)n, sizeof *end, by_slot_end);
    for (int32_t i = 0; i < n && !a.failed; i++) {
        for (; ended < n && end[ended]->until <= start[i]->from; ended++) {
            const qni_slot *e = end[ended];
            put_free(&a, (segment){e->offset, e->bytes, e->until, e->drop_lane, e->drop_index});
        }
        memset(start[i]->need, 0xff, sizeof start[i]->need); /* QN_NONE */
        start[i]->offset = place_value(&a, start[i]->bytes, start[i]->need);
    }
    *top = a.top;
    qn_free(a.free);
    qn_free(start);
    qn_free(end);
    return a.failed ? QN_FAIL(err, QN_ENOMEM, "slots of %d values", n) : QN_OK;
}

qn_status qni_colour_best(qni_slot *slot, int32_t n, int64_t *top, qn_err *err)
{
    enum { MOST = 2048 }; /* slots, for what takes n * n steps */
    int64_t other = 0;
    qn_status st = colour_slots(slot, n, top, err);
    if (st == QN_OK && n <= MOST) st = qni_colour_largest(slot, n, &other, err);
    if (st != QN_OK || n > MOST) return st;
    if (other >= *top) return colour_slots(slot, n, top, err);
    *top = other;
    return QN_OK;
}

static int by_value(const void *pa, const void *pb)
{
    const interval *a = pa, *b = pb;
    return (a->value > b->value) - (a->value < b->value);
}

/* Colours one worker's n intervals. slot: room for them. */
static qn_status colour(qn_plan *p, interval *life, qni_slot *slot, int32_t n, int32_t (*extra)[QN_LANES], qn_err *err)
{
    qsort(life, (size_t)n, sizeof *life, by_value);
    for (int32_t i = 0; i < n; i++) {
        const int32_t last = qn_joint_last(p, life[i].dropper);
        slot[i] = (qni_slot){.from = life[i].from,
                             .until = life[i].until,
                             .bytes = p->value[life[i].value].bytes,
                             .drop_lane = p->task[last].lane,
                             .drop_index = qni_lane_index(p, last)};
    }
    const qn_status st = qni_colour_best(slot, n, &p->arena_bytes[p->value[life[0].value].worker], err);
    for (int32_t i = 0; i < n && st == QN_OK; i++) {
        int32_t *need = extra[life[i].writer];
        p->value[life[i].value].offset = slot[i].offset;
        for (int32_t l = 0; l < QN_LANES; l++) need[l] = qn_max32(need[l], slot[i].need[l]);
    }
    return st;
}

static int by_worker(const void *pa, const void *pb)
{
    const interval *a = pa, *b = pb;
    return (a->writer > b->writer) - (a->writer < b->writer); /* tasks are grouped by worker */
}

qn_status qni_lower_slots(qn_plan *p, const qn_span_time *time, qn_err *err)
{
    qn_status st = QN_OK;
    interval *life = qn_malloc((size_t)p->values, sizeof *life);
    qni_slot *slot = qn_malloc((size_t)p->values, sizeof *slot);
    int32_t *reader = qn_malloc((size_t)p->values, sizeof *reader),
            *last_reader = qn_calloc((size_t)p->channels, sizeof *last_reader);
    int32_t(*extra)[QN_LANES] = qn_malloc((size_t)p->tasks, sizeof *extra);
    int32_t n = 0;
    if (life == NULL || slot == NULL || reader == NULL || last_reader == NULL || extra == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "slots of %d values", p->values);
        goto out;
    }
    for (int32_t t = 0; t < p->tasks; t++) memset(extra[t], 0xff, sizeof extra[t]); /* QN_NONE */
    find_users(life, reader, p);
    for (int32_t v = 0; v < p->values; v++) {
        if (in_arena(p, v) && life[v].writer != QN_NONE && life[v].dropper != QN_NONE) life[n++] = life[v];
    }
    qsort(life, (size_t)n, sizeof *life, by_worker); /* also puts RECVs in lane order */
    for (int32_t i = 0; i < n; i++) set_interval(&life[i], p, time, reader, last_reader);
    for (int32_t i = 0; i < n;) {
        const int32_t first = i, w = p->value[life[i].value].worker;
        while (i < n && p->value[life[i].value].worker == w) i++;
        QN_TRY(st, colour(p, life + first, slot, i - first, extra, err), out);
    }
    QN_TRY(st, qni_plan_finish(p, (const int32_t(*)[QN_LANES])extra, err), out);
out:
    qn_free(extra);
    qn_free(last_reader);
    qn_free(reader);
    qn_free(slot);
    qn_free(life);
    return st;
}

/* Offsets for the slots of one arena, the largest first: each at the lowest place that is free for all of its life. Where few
 * large slots follow one another among small ones (weights among activations) this leaves no holes between them, as going by
 * their starts does. While holes are left, the slot that reaches the top is put before all others, and all are placed again. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "lower.h"

enum { MOST_ROUNDS = 32, MOST_WORK = 1 << 24 };

static int by_size(const void *pa, const void *pb)
{
    const qni_slot *const *a = pa, *const *b = pb;
    if ((*a)->bytes != (*b)->bytes) return (*a)->bytes > (*b)->bytes ? -1 : 1;
    if ((*a)->from != (*b)->from) return (*a)->from < (*b)->from ? -1 : 1;
    return (*a > *b) - (*a < *b);
}

static bool share_time(const qni_slot *a, const qni_slot *b)
{
    return a->from < b->until && b->from < a->until;
}

/* The lowest place among those that are placed, which are sorted by theirs. */
static int64_t lowest(const qni_slot *s, qni_slot *const *placed, int32_t n)
{
    const int64_t align = qn_min64(s->bytes & -s->bytes, 64);
    int64_t at = 0;
    for (int32_t i = 0; i < n; i++) {
        if (!share_time(s, placed[i])) continue;
        if (at + s->bytes <= placed[i]->offset) break;
        at = qn_max64(at, (placed[i]->offset + placed[i]->bytes + align - 1) & -align);
    }
    return at;
}

/* Places all of them in this order; returns what they take, and who reaches that. placed: sorted by offset. */
static int64_t place_all(qni_slot *const *order, int32_t n, qni_slot **placed, int32_t *highest)
{
    int64_t top = 0;
    for (int32_t i = 0; i < n; i++) {
        qni_slot *s = order[i];
        s->offset = lowest(s, placed, i);
        if (s->offset + s->bytes > top) *highest = i;
        top = qn_max64(top, s->offset + s->bytes);
        int32_t k = i;
        for (; k > 0 && placed[k - 1]->offset > s->offset; k--) placed[k] = placed[k - 1];
        placed[k] = s;
    }
    return top;
}

/* The most bytes at one time: no way to place them takes less. */
static int64_t least_possible(qni_slot *const *order, int32_t n)
{
    int64_t most = 0;
    for (int32_t i = 0; i < n; i++) { /* the most is reached where one begins */
        int64_t bytes = 0;
        for (int32_t j = 0; j < n; j++)
            if (order[j]->from <= order[i]->from && order[i]->from < order[j]->until) bytes += order[j]->bytes;
        most = qn_max64(most, bytes);
    }
    return most;
}

static void to_front(qni_slot **order, int32_t at)
{
    qni_slot *s = order[at];
    memmove(order + 1, order, (size_t)at * sizeof *order);
    order[0] = s;
}

/* The writer waits for all who had one of its bytes before. */
static void set_need(qni_slot *s, qni_slot *const *placed, int32_t n)
{
    for (int32_t i = 0; i < n && placed[i]->offset < s->offset + s->bytes; i++) {
        const qni_slot *p = placed[i];
        if (p->until > s->from || p->offset + p->bytes <= s->offset) continue;
        s->need[p->drop_lane] = qn_max32(s->need[p->drop_lane], p->drop_index);
    }
}

qn_status qni_colour_largest(qni_slot *slot, int32_t n, int64_t *top, qn_err *err)
{
    qni_slot **order = qn_malloc((size_t)n, sizeof(qni_slot *)), **placed = qn_malloc((size_t)n, sizeof(qni_slot *)),
             **best = qn_malloc((size_t)n, sizeof(qni_slot *));
    qn_status st =
        n > 0 && (order == NULL || placed == NULL || best == NULL) ? QN_FAIL(err, QN_ENOMEM, "slots of %d values", n) : QN_OK;
    int32_t count = 0, highest = 0;
    *top = 0;
    for (int32_t i = 0; i < n && st == QN_OK; i++) {
        slot[i].offset = 0;
        memset(slot[i].need, 0xff, sizeof slot[i].need); /* QN_NONE */
        if (slot[i].bytes > 0) order[count++] = &slot[i];
    }
    if (count > 0) {
        qsort(order, (size_t)count, sizeof *order, by_size);
        const int64_t least = least_possible(order, count);
        *top = INT64_MAX;
        for (int64_t round = 0; round < MOST_ROUNDS && round * count * count <= MOST_WORK && *top > least; round++) {
            const int64_t takes = place_all(order, count, placed, &highest);
            if (takes < *top) memcpy(best, order, (size_t)count * sizeof(qni_slot *));
            *top = qn_min64(*top, takes);
            to_front(order, highest);
        }
        place_all(best, count, placed, &highest);
        for (int32_t i = 0; i < count; i++) set_need(placed[i], placed, count);
    }
    qn_free(order);
    qn_free(placed);
    qn_free(best);
    return st;
}

/* Offsets for the slots of one arena, the largest first: each at the lowest place that is free for all of its life. Where few
 * large slots follow one another among small ones (weights among activations) this leaves no holes between them, as going by
 * their starts does. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "lower.h"

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

/* The writer waits for all who had one of its bytes before. */
static void set_need(qni_slot *s, qni_slot *const *placed, int32_t n)
{
    memset(s->need, 0xff, sizeof s->need); /* QN_NONE */
    for (int32_t i = 0; i < n && placed[i]->offset < s->offset + s->bytes; i++) {
        const qni_slot *p = placed[i];
        if (p->until > s->from || p->offset + p->bytes <= s->offset) continue;
        s->need[p->drop_lane] = qn_max32(s->need[p->drop_lane], p->drop_index);
    }
}

qn_status qni_colour_largest(qni_slot *slot, int32_t n, int64_t *top, qn_err *err)
{
    qni_slot **order = qn_malloc((size_t)n, sizeof(qni_slot *)), **placed = qn_malloc((size_t)n, sizeof(qni_slot *));
    int32_t count = 0;
    *top = 0;
    if ((order == NULL || placed == NULL) && n > 0) {
        qn_free(order);
        qn_free(placed);
        return QN_FAIL(err, QN_ENOMEM, "slots of %d values", n);
    }
    for (int32_t i = 0; i < n; i++) order[i] = &slot[i];
    if (n > 0) qsort(order, (size_t)n, sizeof *order, by_size);
    for (int32_t i = 0; i < n; i++) {
        qni_slot *s = order[i];
        s->offset = 0;
        memset(s->need, 0xff, sizeof s->need);
        if (s->bytes == 0) continue; /* and all behind it */
        s->offset = lowest(s, placed, count);
        *top = qn_max64(*top, s->offset + s->bytes);
        int32_t k = count++;
        for (; k > 0 && placed[k - 1]->offset > s->offset; k--) placed[k] = placed[k - 1];
        placed[k] = s;
    }
    for (int32_t i = 0; i < count; i++) set_need(placed[i], placed, count);
    qn_free(order);
    qn_free(placed);
    return QN_OK;
}

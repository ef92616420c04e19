#include "row_sums.h"

#include <string.h>

#include "core/checked.h"
#include "core/compiler.h"

void qn_row_sums_lay(qn_row_sums *s, qn_arena *a, int64_t rows, int64_t width, int64_t ids, size_t element)
{
    *s = (qn_row_sums){.width = width, .rows = rows, .most = qn_min64(rows, ids), .element = element};
    s->sum = qn_arena_push(a, (size_t)(s->most * width), element, QN_CACHE_LINE);
    s->place = qn_arena_push(a, (size_t)rows, sizeof(*s->place), QN_CACHE_LINE);
    s->id = qn_arena_push(a, (size_t)s->most, sizeof(*s->id), QN_CACHE_LINE);
    s->found = qn_arena_push(a, (size_t)ids, sizeof(*s->found), QN_CACHE_LINE);
    s->count = qn_arena_push(a, 1, sizeof(*s->count), QN_CACHE_LINE);
}

const int32_t *qn_row_sums_find(qn_row_sums *s, const int32_t *id, int64_t n)
{
    const size_t row = (size_t)s->width * s->element;
    for (int64_t i = 0; i < n; i++) {
        int32_t *place = &s->place[id[i]];
        if (*place == 0) {
            QN_ASSERT(*s->count < s->most);
            memset(s->sum + (size_t)*s->count * row, 0, row);
            s->id[*s->count] = id[i];
            *place = ++*s->count;
        }
        s->found[i] = *place - 1;
    }
    return s->found;
}

void qn_row_sums_fold(qn_row_sums *s, const qn_kernels *k, const qn_exec *ex, void *table)
{
    k->range_scatter(ex, table, s->id, 0, s->rows, s->sum, *s->count, s->width);
    for (int32_t i = 0; i < *s->count; i++) s->place[s->id[i]] = 0;
    *s->count = 0;
}

/* Longest processing time first: tensors into chunks of about equal size (RoundPipe's parameter transfers; Graham 1969). */
#include <stdlib.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "schedule/ir.h"

typedef struct sized {
    int64_t bytes;
    int32_t index;
} sized;

static int larger_first(const void *pa, const void *pb)
{
    const sized *a = pa, *b = pb;
    if (a->bytes != b->bytes) return a->bytes > b->bytes ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

qn_status qn_lpt_chunks(int32_t *chunk_of, const int64_t *bytes, int32_t n, int32_t chunks, qn_err *err)
{
    sized *tensor = qn_malloc((size_t)n, sizeof *tensor), *load = qn_malloc((size_t)chunks, sizeof *load);
    int32_t *rank = qn_malloc((size_t)chunks, sizeof *rank);
    qn_status st = QN_OK;
    if (tensor == NULL || load == NULL || rank == NULL) {
        st = QN_FAIL(err, QN_ENOMEM, "%d chunks", chunks);
        goto out;
    }
    for (int32_t i = 0; i < n; i++) tensor[i] = (sized){bytes[i], i};
    for (int32_t c = 0; c < chunks; c++) load[c] = (sized){0, c};
    if (n > 1) qsort(tensor, (size_t)n, sizeof *tensor, larger_first);
    for (int32_t i = 0; i < n; i++) {
        int32_t least = 0;
        for (int32_t c = 1; c < chunks; c++)
            if (load[c].bytes < load[least].bytes) least = c;
        load[least].bytes += tensor[i].bytes;
        chunk_of[tensor[i].index] = least;
    }
    qsort(load, (size_t)chunks, sizeof *load, larger_first);
    for (int32_t c = 0; c < chunks; c++) rank[load[c].index] = chunks - 1 - c;
    for (int32_t i = 0; i < n; i++) chunk_of[i] = rank[chunk_of[i]];
out:
    qn_free(tensor);
    qn_free(load);
    qn_free(rank);
    return st;
}

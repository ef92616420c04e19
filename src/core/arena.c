/* Arenas: a bump pointer over one block. Invariant: used <= cap, and a failed push changes nothing but `failed`. */
#include "arena.h"

#include <stdint.h>

#include "alloc.h"
#include "checked.h"
#include "compiler.h"

qn_status qn_arena_open(qn_arena *a, size_t bytes, qn_err *err)
{
    *a = (qn_arena){.cap = bytes};
    a->base = qn_alloc_pages(bytes);
    if (a->base == NULL) return QN_FAIL(err, QN_ENOMEM, "an arena of %zu bytes does not fit into memory", bytes);
    a->owned = true;
    return QN_OK;
}

void qn_arena_close(qn_arena *a)
{
    if (a->owned) qn_free_pages(a->base, a->cap);
    *a = (qn_arena){0};
}

void *qn_arena_push(qn_arena *a, size_t count, size_t size, size_t align)
{
    QN_ASSERT(align > 0 && (align & (align - 1)) == 0);
    QN_ASSERT(a->base == NULL || (uintptr_t)a->base % align == 0);
    /* Offsets, not addresses, are aligned, so that probe and real arena use the same number of bytes. */
    size_t bytes, begin, end;
    if (a->failed || a->sealed || !qn_mul_size(&bytes, count, size) || !qn_align_size(&begin, a->used, align) ||
        !qn_add_size(&end, begin, bytes) || end > a->cap) {
        a->failed = true;
        return NULL;
    }
    a->used = end;
    if (a->peak < end) a->peak = end;
    return a->base == NULL ? NULL : a->base + begin;
}

void qn_arena_seal(qn_arena *a)
{
    a->sealed = true;
}

void qn_arena_release(qn_arena *a, size_t mark)
{
    QN_ASSERT(mark <= a->used);
    a->used = mark;
}

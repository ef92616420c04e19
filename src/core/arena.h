/* Arenas: memory by lifetime (model, step, scratch). Layout code runs twice: first on a measuring arena, so that the need is
 * known before start, then on one with memory. A failed push sticks, so layout code has one check at its end. */
#ifndef QN_CORE_ARENA_H
#define QN_CORE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

#include "quern/status.h"

typedef struct qn_arena {
    char *base; /* NULL: measures, hands out no memory */
    size_t cap, used, peak;
    bool failed; /* a push did not fit; sticks until reset */
    bool sealed; /* pushes fail: start is over */
    bool owned;  /* base came from qn_arena_open */
} qn_arena;

/* An arena that measures only. */
#define QN_ARENA_PROBE ((qn_arena){.base = NULL, .cap = (size_t)-1})

/* Takes bytes of zeroed pages. Errors: QN_ENOMEM. */
qn_status qn_arena_open(qn_arena *a, size_t bytes, qn_err *err) QN_MUST_USE;
void qn_arena_close(qn_arena *a);

/* count * size bytes aligned to align (a power of two); NULL on a probe and after a failure. Not zeroed after a release. */
void *qn_arena_push(qn_arena *a, size_t count, size_t size, size_t align);
void qn_arena_seal(qn_arena *a);

/* Stack discipline for scratch: everything pushed after mark is gone after release. */
static inline size_t qn_arena_mark(const qn_arena *a)
{
    return a->used;
}
void qn_arena_release(qn_arena *a, size_t mark);

#endif

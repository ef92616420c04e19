/* The heap, and the two test instruments that sit on it: fault counters and the no-allocation guard.
 *
 * One word says whether any instrument is on, so an allocation costs one relaxed load when none is:
 *
 *   watch:  bits 0..15  one bit per armed fault kind
 *           bits 16..   number of threads inside the no-allocation guard */
#include "alloc.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checked.h"
#include "compiler.h"

enum { WATCH_GUARD = 1 << 16 };
static const size_t LARGE_PAGE = (size_t)2 << 20;

static _Atomic uint32_t watch;
static _Atomic long fault_left[QN_FAULT_KINDS]; /* events until the one that fails; 0: not armed */
static QN_THREAD_LOCAL int guard_depth;
static QN_THREAD_LOCAL long guard_violations;

void qni_fault_arm(qn_fault kind, long n)
{
    QN_ASSERT((unsigned)kind < QN_FAULT_KINDS && n >= 0);
    atomic_store(&fault_left[kind], n);
    if (n > 0)
        atomic_fetch_or(&watch, 1u << kind);
    else
        atomic_fetch_and(&watch, ~(1u << kind));
}

int qni_fault_hit(qn_fault kind)
{
    if (QN_LIKELY((atomic_load_explicit(&watch, memory_order_relaxed) >> kind & 1u) == 0)) return 0;
    long left = atomic_load(&fault_left[kind]);
    while (left > 0 && !atomic_compare_exchange_weak(&fault_left[kind], &left, left - 1)) {}
    if (left == 1) atomic_fetch_and(&watch, ~(1u << kind));
    return left == 1;
}

void qni_no_alloc_begin(void)
{
    if (guard_depth++ == 0) guard_violations = 0;
    atomic_fetch_add(&watch, WATCH_GUARD);
}

long qni_no_alloc_end(void)
{
    QN_ASSERT(guard_depth > 0);
    guard_depth--;
    atomic_fetch_sub(&watch, WATCH_GUARD);
    return guard_violations;
}

/* True when this allocation must fail. */
static bool refused(void)
{
    if (QN_LIKELY(atomic_load_explicit(&watch, memory_order_relaxed) == 0)) return false;
    if (guard_depth > 0) guard_violations++;
    return qni_fault_hit(QN_FAULT_ALLOC) != 0;
}

void *qn_malloc(size_t count, size_t size)
{
    size_t bytes;
    if (!qn_mul_size(&bytes, count, size) || refused()) return NULL;
    return malloc(bytes > 0 ? bytes : 1);
}

void *qn_calloc(size_t count, size_t size)
{
    size_t bytes;
    if (!qn_mul_size(&bytes, count, size) || refused()) return NULL;
    return calloc(bytes > 0 ? bytes : 1, 1);
}

void *qn_realloc(void *p, size_t count, size_t size)
{
    size_t bytes;
    if (!qn_mul_size(&bytes, count, size) || refused()) return NULL;
    return realloc(p, bytes > 0 ? bytes : 1);
}

char *qn_strdup(const char *s)
{
    const size_t bytes = strlen(s) + 1;
    char *copy = qn_malloc(bytes, 1);
    if (copy != NULL) memcpy(copy, s, bytes);
    return copy;
}

void qn_free(void *p)
{
    free(p);
}

/* What is really mapped for a request; false on overflow. */
static bool mapped_bytes(size_t *out, size_t bytes)
{
    const long page = sysconf(_SC_PAGESIZE);
    return qn_align_size(out, bytes > 0 ? bytes : 1, page > 0 ? (size_t)page : 4096);
}

void *qn_alloc_pages(size_t bytes)
{
    size_t want, room;
    if (refused() || !mapped_bytes(&want, bytes)) return NULL;
    if (want < LARGE_PAGE) {
        void *p = mmap(NULL, want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    if (!qn_add_size(&room, want, LARGE_PAGE)) return NULL;
    char *p = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    const size_t head = (LARGE_PAGE - (uintptr_t)p % LARGE_PAGE) % LARGE_PAGE; /* trim to a large page's border */
    if (head > 0) munmap(p, head);
    if (LARGE_PAGE - head > 0) munmap(p + head + want, LARGE_PAGE - head);
    (void)madvise(p + head, want, MADV_HUGEPAGE); /* a system without large pages is no error */
    return p + head;
}

void qn_free_pages(void *p, size_t bytes)
{
    size_t want;
    if (p != NULL && mapped_bytes(&want, bytes)) munmap(p, want);
}

/* Counts the heap allocations of ALL code in a test program: ours, oneDNN's, the C library's callers. For "the hot path allocates
 * nothing".
 *
 * Use: a test executable includes "support/malloc_guard.c" in exactly one of its sources. That replaces the allocator's entry
 * points by counting ones (with a sanitizer: asks the sanitizer to tell), and dnnl_primitive_execute by one that sets the library
 * flag.
 *
 *   begin .. end         what any thread allocates is counted, except in a thread
 *   library begin .. end (may nest) that is inside a library which allocates on its own account
 *
 * Frees are not counted. Mapped memory (mmap) is not seen. */
#ifndef QN_TEST_MALLOC_GUARD_H
#define QN_TEST_MALLOC_GUARD_H

#include <stddef.h>

void qni_malloc_guard_begin(void); /* starts counting in all threads, from zero */
long qni_malloc_guard_end(void);   /* stops; allocations since begin */

void qni_malloc_library_begin(void); /* the calling thread is not counted until end */
void qni_malloc_library_end(void);

/* The first allocation counted since begin, to find who did it: its size, and the address it was called from (NULL with a
 * sanitizer; addr2line or gdb's "info symbol" names it). */
size_t qni_malloc_guard_first(void **caller);

#endif

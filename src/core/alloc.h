/* Heap and file access of the whole library, so that tests can make the n-th one fail.
 * Nothing under src/ calls malloc or fopen directly; ./dev style checks it. */
#ifndef QN_CORE_ALLOC_H
#define QN_CORE_ALLOC_H

#include <stddef.h>

/* As malloc / calloc / realloc, with count * size checked. Return NULL on failure; freed with qn_free. */
void *qn_malloc(size_t count, size_t size);
void *qn_calloc(size_t count, size_t size);
void *qn_realloc(void *p, size_t count, size_t size);
char *qn_strdup(const char *s);
void qn_free(void *p);

/* Zeroed memory aligned to a cache line, on large pages where the system gives them (madvise); first touch is left to the
 * caller's threads. Freed with qn_free_pages, which needs the same size. NULL on failure. */
void *qn_alloc_pages(size_t bytes);
void qn_free_pages(void *p, size_t bytes);

/* Test hooks. What a fault counter counts; see tests/fault. */
typedef enum qn_fault { QN_FAULT_ALLOC, QN_FAULT_IO, QN_FAULT_MESSAGE, QN_FAULT_KINDS } qn_fault;

/* Makes the n-th event of that kind (1 = the next) fail, once; 0 switches off. Process-wide, atomic. */
void qni_fault_arm(qn_fault kind, long n);
/* Counts one event; non-zero when this one must fail. I/O code calls it before each read, write, sync and rename. */
int qni_fault_hit(qn_fault kind);

/* The hot-path guard: between begin and end the calling thread may not allocate through qn_* above; a violation is counted.
 * end returns the number of violations since the outermost begin. */
void qni_no_alloc_begin(void);
long qni_no_alloc_end(void);

#endif

/* The counting allocator. The real one is glibc's, reached by its second names, so that no symbol look-up is needed on the way.
 */
#include "support/malloc_guard.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

static _Atomic int guard_on;
static _Atomic long guard_count;
static _Atomic size_t guard_first_bytes;
static void *_Atomic guard_first_caller;
static _Thread_local volatile int guard_library; /* volatile: the compiler thinks that malloc reads no variables of ours */

static void guard_note(size_t bytes, void *caller)
{
    if (atomic_load_explicit(&guard_on, memory_order_relaxed) == 0 || guard_library > 0) return;
    if (atomic_fetch_add(&guard_count, 1) == 0) {
        atomic_store(&guard_first_bytes, bytes);
        atomic_store(&guard_first_caller, caller);
    }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define GUARD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define GUARD_SANITIZER 1
#endif
#endif

#ifdef GUARD_SANITIZER
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));

static void guard_on_malloc(const volatile void *p, size_t bytes)
{
    (void)p;
    guard_note(bytes, NULL);
}

static void guard_on_free(const volatile void *p)
{
    (void)p;
}

__attribute__((constructor)) static void guard_install(void)
{
    (void)__sanitizer_install_malloc_and_free_hooks(guard_on_malloc, guard_on_free);
}
#else
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *p, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);

void *malloc(size_t bytes)
{
    guard_note(bytes, __builtin_return_address(0));
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t size)
{
    guard_note(count * size, __builtin_return_address(0));
    return __libc_calloc(count, size);
}

void *realloc(void *p, size_t bytes)
{
    guard_note(bytes, __builtin_return_address(0));
    return __libc_realloc(p, bytes);
}

void *aligned_alloc(size_t align, size_t bytes)
{
    guard_note(bytes, __builtin_return_address(0));
    return __libc_memalign(align, bytes);
}

void *memalign(size_t align, size_t bytes);
void *memalign(size_t align, size_t bytes)
{
    guard_note(bytes, __builtin_return_address(0));
    return __libc_memalign(align, bytes);
}

int posix_memalign(void **out, size_t align, size_t bytes)
{
    guard_note(bytes, __builtin_return_address(0));
    void *p = __libc_memalign(align, bytes);
    if (p == NULL) return ENOMEM;
    *out = p;
    return 0;
}
#endif

/* oneDNN's execution allocates now and then on its own account. This definition goes before the library's. */
typedef int guard_execute_fn(const void *primitive, void *stream, int args, const void *arg);
guard_execute_fn dnnl_primitive_execute;

int dnnl_primitive_execute(const void *primitive, void *stream, int args, const void *arg)
{
    static void *_Atomic real;
    void *found = atomic_load_explicit(&real, memory_order_acquire);
    qni_malloc_library_begin();
    if (found == NULL) {
        found = dlsym(RTLD_NEXT, "dnnl_primitive_execute");
        if (found == NULL) abort();
        atomic_store_explicit(&real, found, memory_order_release);
    }
    guard_execute_fn *call;
    *(void **)&call = found;
    const int status = call(primitive, stream, args, arg);
    qni_malloc_library_end();
    return status;
}

void qni_malloc_guard_begin(void)
{
    atomic_store(&guard_count, 0);
    atomic_store(&guard_first_bytes, 0);
    atomic_store(&guard_first_caller, NULL);
    atomic_store(&guard_on, 1);
}

long qni_malloc_guard_end(void)
{
    atomic_store(&guard_on, 0);
    return atomic_load(&guard_count);
}

void qni_malloc_library_begin(void)
{
    guard_library++;
}

void qni_malloc_library_end(void)
{
    guard_library--;
}

size_t qni_malloc_guard_first(void **caller)
{
    if (caller != NULL) *caller = atomic_load(&guard_first_caller);
    return atomic_load(&guard_first_bytes);
}

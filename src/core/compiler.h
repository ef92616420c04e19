/* The only place that names compiler extensions. */
#ifndef QN_CORE_COMPILER_H
#define QN_CORE_COMPILER_H

#include <stddef.h>

#if !defined(__GNUC__)
#error "Quern needs gcc or clang"
#endif

#define QN_UNUSED         __attribute__((unused))
#define QN_INLINE         static inline __attribute__((always_inline))
#define QN_NOINLINE       __attribute__((noinline))
#define QN_ALIGNED(bytes) __attribute__((aligned(bytes)))
#define QN_LIKELY(x)      __builtin_expect(!!(x), 1)
#define QN_UNLIKELY(x)    __builtin_expect(!!(x), 0)
#define QN_THREAD_LOCAL   _Thread_local
#define QN_TYPEOF(x)      __typeof__(x)
#define QN_COUNT(a)       (sizeof(a) / sizeof((a)[0]))
#define QN_CACHE_LINE     64

#if defined(__x86_64__) || defined(__i386__)
#define QN_PAUSE() __builtin_ia32_pause()
#else
#define QN_PAUSE() ((void)0)
#endif

/* Programming errors, also in release builds: prints the place and aborts. Never used on input from outside. */
#define QN_ASSERT(cond) (QN_LIKELY(cond) ? (void)0 : qni_assert_failed(#cond, __FILE__, __LINE__))
_Noreturn void qni_assert_failed(const char *cond, const char *file, int line);

#endif

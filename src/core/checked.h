/* Arithmetic that reports overflow: every size computed from a file, a wire or a flag goes through here. */
#ifndef QN_CORE_CHECKED_H
#define QN_CORE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Each returns false and leaves *out alone when the result does not fit. */
static inline bool qn_mul_size(size_t *out, size_t a, size_t b)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

static inline bool qn_add_size(size_t *out, size_t a, size_t b)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

static inline bool qn_mul_i64(int64_t *out, int64_t a, int64_t b)
{
    int64_t r;
    if (__builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

/* Rounds up to a multiple of align (a power of two). False when the result does not fit. */
static inline bool qn_align_size(size_t *out, size_t n, size_t align)
{
    size_t r;
    if (!qn_add_size(&r, n, align - 1)) return false;
    *out = r & ~(align - 1);
    return true;
}

static inline int32_t qn_min32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}
static inline int32_t qn_max32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}
static inline int64_t qn_min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t qn_max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif

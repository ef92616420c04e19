/* A bounded reader over bytes from outside: every read is checked against what remains, the first failure sticks. */
#ifndef QN_CORE_CURSOR_H
#define QN_CORE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct qn_cursor {
    const uint8_t *at, *end;
    bool failed;
} qn_cursor;

static inline qn_cursor qn_cursor_of(const void *data, size_t bytes)
{
    const uint8_t *p = data;
    return (qn_cursor){.at = p, .end = p + bytes};
}
static inline size_t qn_cursor_left(const qn_cursor *c)
{
    return (size_t)(c->end - c->at);
}

/* The next bytes in place, or NULL (and failed) when fewer remain. */
const void *qn_cursor_take(qn_cursor *c, size_t bytes);
uint32_t qn_cursor_u32(qn_cursor *c); /* little endian; 0 after a failure */
uint64_t qn_cursor_u64(qn_cursor *c);
float qn_cursor_f32(qn_cursor *c);

#endif

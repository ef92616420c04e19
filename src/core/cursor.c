/* The bounded reader. Invariant: at <= end; after a failure nothing moves and every number reads as 0. */
#include "cursor.h"

#include <string.h>

const void *qn_cursor_take(qn_cursor *c, size_t bytes)
{
    if (c->failed || bytes > qn_cursor_left(c)) {
        c->failed = true;
        return NULL;
    }
    const void *p = c->at;
    c->at += bytes;
    return p;
}

static uint64_t little_endian(qn_cursor *c, size_t bytes)
{
    const uint8_t *p = qn_cursor_take(c, bytes);
    uint64_t x = 0;
    if (p == NULL) return 0;
    for (size_t i = 0; i < bytes; i++) x |= (uint64_t)p[i] << 8 * i;
    return x;
}

uint32_t qn_cursor_u32(qn_cursor *c)
{
    return (uint32_t)little_endian(c, 4);
}

uint64_t qn_cursor_u64(qn_cursor *c)
{
    return little_endian(c, 8);
}

float qn_cursor_f32(qn_cursor *c)
{
    const uint32_t bits = qn_cursor_u32(c);
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Numbers of bytes as people write them: 4096, 64K, 64m, 64MiB, 1.5G. Powers of 1024, small and capital letters alike. */
#ifndef QN_CORE_BYTES_TEXT_H
#define QN_CORE_BYTES_TEXT_H

#include <stdbool.h>
#include <stdint.h>

/* Digits, with a fraction where a unit follows; K, M, G or T; then perhaps B or iB. Returns where it ends, NULL: no such number
 * begins here. *fits: false when it does not go into 64 bits. A fraction of a byte is cut off. */
const char *qn_bytes_read(int64_t *out, bool *fits, const char *text);

#endif

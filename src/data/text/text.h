/* Text files: read, checked, joined. */
#ifndef QN_DATA_TEXT_H
#define QN_DATA_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "quern/status.h"

/* The offset of the first byte that does not belong to valid UTF-8 (no surrogates, no overlong forms), or -1. */
int64_t qn_utf8_check(const char *text, size_t bytes);
/* Next code point at *at (advances); the text was checked. */
uint32_t qn_utf8_next(const char *text, size_t bytes, size_t *at);
/* Bytes written (1..4). */
int32_t qn_utf8_put(char out[4], uint32_t code);

/* All files, in the order given, joined by a newline when one does not end with it; *out freed with qn_free. What is not UTF-8 is
 * refused (file, offset). Errors: QN_ENOENT, QN_EFORMAT, QN_ERANGE (empty), QN_ENOMEM. */
qn_status qn_text_read(char **out, size_t *bytes, const char *const *path, int32_t paths, qn_err *err) QN_MUST_USE;

#endif

/* Text files and UTF-8. Well formed means RFC 3629: no surrogates, no overlong forms, nothing above U+10FFFF. */
#include "data/text/text.h"

#include <string.h>

#include "core/alloc.h"
#include "core/checked.h"
#include "core/io.h"

/* Length of the well-formed sequence at p, at most left bytes; 0 when there is none. */
static size_t sequence(const unsigned char *p, size_t left)
{
    size_t n;
    unsigned low = 0x80, high = 0xbf; /* bounds of the second byte */
    if (p[0] < 0x80) return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        n = 2;
    else if (p[0] >= 0xe0 && p[0] <= 0xef)
        n = 3;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4)
        n = 4;
    else
        return 0;
    if (p[0] == 0xe0) low = 0xa0;
    if (p[0] == 0xed) high = 0x9f;
    if (p[0] == 0xf0) low = 0x90;
    if (p[0] == 0xf4) high = 0x8f;
    if (left < n || p[1] < low || p[1] > high) return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    return n;
}

int64_t qn_utf8_check(const char *text, size_t bytes)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0;
    while (i < bytes) {
        uint64_t eight;
        if (bytes - i >= 8) { /* most text is ASCII */
            memcpy(&eight, p + i, 8);
            if ((eight & 0x8080808080808080u) == 0) {
                i += 8;
                continue;
            }
        }
        const size_t n = sequence(p + i, bytes - i);
        if (n == 0) return (int64_t)i;
        i += n;
    }
    return -1;
}

uint32_t qn_utf8_next(const char *text, size_t bytes, size_t *at)
{
    const unsigned char *p = (const unsigned char *)text + *at;
    const size_t n = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (n > bytes - *at) { /* unchecked text: stay inside */
        *at = bytes;
        return 0xfffd;
    }
    uint32_t code = n == 1 ? p[0] : p[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) code = code << 6 | (p[i] & 0x3fu);
    *at += n;
    return code;
}

int32_t qn_utf8_put(char out[4], uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    const int32_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int32_t i = n - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)((0xf00u >> n & 0xffu) | code);
    return n;
}

qn_status qn_text_read(char **out, size_t *bytes, const char *const *path, int32_t paths, qn_err *err)
{
    qn_status st = QN_OK;
    char *all = NULL, *one = NULL;
    size_t used = 0;
    *out = NULL;
    *bytes = 0;
    for (int32_t i = 0; i < paths; i++) {
        size_t n, cap;
        QN_TRY(st, qn_file_read(&one, &n, path[i], SIZE_MAX / 4, err), out);
        const int64_t bad = qn_utf8_check(one, n);
        if (bad >= 0) {
            st = QN_FAIL(err, QN_EFORMAT, "%s is not UTF-8 text: byte 0x%02x at offset %lld; convert it to UTF-8 first", path[i],
                         (unsigned)(unsigned char)one[bad], (long long)bad);
            goto out;
        }
        const int join = used > 0 && all[used - 1] != '\n';
        char *more = NULL;
        if (qn_add_size(&cap, used, n) && qn_add_size(&cap, cap, 2)) more = qn_realloc(all, cap, 1);
        if (more == NULL) {
            st = QN_FAIL(err, QN_ENOMEM, "no memory for the %zu bytes of %s", n, path[i]);
            goto out;
        }
        all = more;
        if (join) all[used++] = '\n';
        memcpy(all + used, one, n);
        used += n;
        all[used] = '\0';
        qn_free(one);
        one = NULL;
    }
    if (used == 0) {
        st = QN_FAIL(err, QN_ERANGE, "%s%s no text: give a file that is not empty", paths > 0 ? path[0] : "the list of files",
                     paths > 1 ? " and the files after it hold" : " holds");
        goto out;
    }
    *out = all;
    *bytes = used;
    all = NULL;
out:
    qn_free(one);
    qn_free(all);
    return st;
}

#include "device_option.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "core/bytes_text.h"

static qn_status read_link(int64_t *out, const char *text, qn_err *err)
{
    bool fits;
    const char *end = qn_bytes_read(out, &fits, text);
    if (end == NULL || !fits || (*end != '\0' && strcmp(end, "/s") != 0))
        return QN_FAIL(err, QN_EINVAL, "--link is '%s'; bytes per second were wanted, such as 2G/s or 500M/s", text);
    if (*out == 0)
        return QN_FAIL(err, QN_EINVAL,
                       "--link %s has no bandwidth, so nothing would ever arrive; give some, such as 2G/s, or leave it out for a "
                       "link as fast as memory",
                       text);
    return QN_OK;
}

static qn_status read_window(int32_t *k, int32_t *replace, const char *text, qn_err *err)
{
    char *end = NULL;
    long long a = 0, b = 1;
    if (isdigit((unsigned char)*text)) a = strtoll(text, &end, 10);
    if (end != NULL && *end == ',' && isdigit((unsigned char)end[1])) b = strtoll(end + 1, &end, 10);
    if (end == NULL || *end != '\0')
        return QN_FAIL(err, QN_EINVAL,
                       "--window is '%s'; how many pieces stay on a device and how many of them are replaced at a "
                       "time were wanted, such as 4 or 4,2",
                       text);
    if (a < 1 || b < 1 || b > a || a > 65536)
        return QN_FAIL(err, QN_EINVAL,
                       "--window %s: k from 1 to 65536 pieces stay, and k' from 1 to k of them are replaced at a time", text);
    *k = (int32_t)a;
    *replace = (int32_t)b;
    return QN_OK;
}

qn_status qni_device_read(qni_device *out, int64_t memory, const char *link, const char *window, qn_err *err)
{
    qn_status st = QN_OK;
    *out = (qni_device){.memory = memory, .replace = 1, .any = memory > 0 || link != NULL || window != NULL};
    if (link != NULL) st = read_link(&out->link_bytes_per_s, link, err);
    if (st == QN_OK && window != NULL) st = read_window(&out->window, &out->replace, window, err);
    return st;
}

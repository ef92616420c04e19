/* Status names, groups and the one place where error messages are formatted. */
#include "quern/status.h"

#include <stdarg.h>
#include <stdio.h>

static const struct {
    const char *name, *text;
    qn_loss lost;
} table[QN_STATUS_COUNT] = {
#define ROW(code, lost, text) [code] = {#code, text, QN_LOST_##lost},
    QN_STATUS_LIST(ROW)
#undef ROW
};

const char *qn_status_name(qn_status status)
{
    return (unsigned)status < QN_STATUS_COUNT ? table[status].name : "unknown status";
}

const char *qn_status_text(qn_status status)
{
    return (unsigned)status < QN_STATUS_COUNT ? table[status].text : "unknown status";
}

qn_loss qn_status_loss(qn_status status)
{
    return (unsigned)status < QN_STATUS_COUNT ? table[status].lost : QN_LOST_PROCESS;
}

qn_status qn_fail(qn_err *err, qn_status code, const char *file, int line, const char *fmt, ...)
{
    if (err == NULL) return code;
    err->code = code;
    err->file = file;
    err->line = line;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
    return code;
}

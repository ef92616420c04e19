/* Schedule files. */
#include "schedule_file.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/io.h"

const char *qni_schedule_form_name(qn_schedule_form form)
{
    return form == QN_FORM_ORDER ? "order" : form == QN_FORM_CSV ? "CSV order" : form == QN_FORM_PLAN ? "plan" : "unknown";
}

/* The message with the file's name before it. */
static qn_status in_file(qn_err *err, const char *path, qn_status st)
{
    if (err == NULL || st == QN_OK || st == QN_ENOENT) return st;
    char why[QN_ERR_TEXT];
    snprintf(why, sizeof(why), "%s", err->text);
    return QN_FAIL(err, st, "%s: %.900s", path, why);
}

qn_status qni_schedule_read(qni_schedule *out, const char *path, qn_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    *out = (qni_schedule){.form = QN_FORM_UNKNOWN};
    qn_status st = qn_file_read(&text, &bytes, path, (size_t)256 << 20, err);
    if (st != QN_OK) return st;
    out->form = qn_schedule_form_of(text, bytes);
    if (out->form == QN_FORM_UNKNOWN)
        st =
            QN_FAIL(err, QN_EFORMAT, "no schedule; a first line 'quern-order 1' or 'quern-plan 1', or PyTorch's CSV, was wanted");
    else
        st =
            out->form == QN_FORM_PLAN ? qn_plan_read(&out->plan, text, bytes, err) : qn_order_read(&out->order, text, bytes, err);
    qn_free(text);
    return in_file(err, path, st);
}

void qni_schedule_fini(qni_schedule *s)
{
    qn_order_close(s->order);
    qn_plan_close(s->plan);
    *s = (qni_schedule){.form = QN_FORM_UNKNOWN};
}

/* A schedule from a file, in any of its forms. */
#ifndef QN_SESSION_SCHEDULE_FILE_H
#define QN_SESSION_SCHEDULE_FILE_H

#include "quern/status.h"
#include "schedule/text/schedule_text.h"

typedef struct qni_schedule {
    qn_schedule_form form;
    qn_order *order; /* of an order or CSV file */
    qn_plan *plan;   /* of a plan file: finished, not yet validated */
} qni_schedule;

/* Errors: QN_ENOENT, QN_EFORMAT (file, line, column), QN_ENOMEM. fini accepts zeroes. */
qn_status qni_schedule_read(qni_schedule *out, const char *path, qn_err *err) QN_MUST_USE;
void qni_schedule_fini(qni_schedule *s);
const char *qni_schedule_form_name(qn_schedule_form form); /* "order" */

#endif

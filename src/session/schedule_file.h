/* A schedule from a file, in any of its forms, and the times of its tasks as a user writes them. */
#ifndef QN_SESSION_SCHEDULE_FILE_H
#define QN_SESSION_SCHEDULE_FILE_H

#include "quern/status.h"
#include "schedule/schedule_text.h"

typedef struct qni_schedule {
    qn_schedule_form form;
    qn_order *order; /* of an order or CSV file */
    qn_plan *plan;   /* of a plan file: finished, not yet validated */
} qni_schedule;

/* Errors: QN_ENOENT, QN_EFORMAT (file, line, column), QN_ENOMEM. fini accepts zeroes. */
qn_status qni_schedule_read(qni_schedule *out, const char *path, qn_err *err) QN_MUST_USE;
void qni_schedule_fini(qni_schedule *s);
const char *qni_schedule_form_name(qn_schedule_form form); /* "order" */

/* Times in integer ticks: what the user wrote, times scale (a power of ten that makes all of them whole). */
typedef struct qni_costs {
    int64_t tick[QN_OPS]; /* F, B, W, BW, R; -1: not said */
    int64_t latency;
    double scale;
} qni_costs;

/* text: "F=1,B=2[,W=1][,R=1]", or NULL: nothing is said and scale is that of latency. B is the whole backward, of which a
 * schedule that splits it gets half for each part; with W given B is the input gradient, and a whole backward takes both. R is
 * F's time unless given. Errors: QN_EINVAL (what was found and wanted), QN_ERANGE. */
qn_status qni_costs_parse(qni_costs *out, const char *text, double latency, qn_err *err) QN_MUST_USE;

#endif

/* Costs of tasks out of files: JSON, lines of JSON, CSV, a run's trace. Forms: schedule_costs.h. */
#ifndef QN_SESSION_COST_FILE_H
#define QN_SESSION_COST_FILE_H

#include <stdbool.h>

#include "quern/status.h"
#include "schedule/ir.h"
#include "schedule/trace.h"
#include "schedule_costs.h"

enum { QNI_COST_PATH = 4096 };

/* Times in millionths of a unit, one row per stage. */
typedef struct qni_cost_rows {
    int64_t (*micro)[QN_OPS]; /* [rows]; -1: not said */
    int64_t *size[QNI_SIZES]; /* [rows]; NULL: not said */
    int32_t rows, cap;
    bool per_stage; /* one row is one stage, not all */
    double latency; /* -1: not said */
    char unit[8];
} qni_cost_rows;

/* Errors: QN_ENOMEM, QN_EINVAL (more than 65536 stages). */
qn_status qni_cost_rows_add(qni_cost_rows *r, const int64_t micro[QN_OPS], qn_err *err) QN_MUST_USE;
void qni_cost_rows_fini(qni_cost_rows *r);

/* Errors: QN_ENOENT, QN_EIO, QN_EFORMAT (file, line or stage), QN_ENOMEM. */
qn_status qni_cost_file_read(qni_cost_rows *out, const char *path, qn_err *err) QN_MUST_USE;

/* profile.json of n traces of one plan, in the JSON form: medians in milliseconds (traces in ns), sizes of the plan's values.
 * Rows are stages of one column; copies and shards of a stage count as one, by their mean. weights, grads: [stages of a column]
 * bytes of a stage's parameters and gradients; NULL: left out. Errors: QN_EIO, QN_ENOMEM. */
qn_status qni_profile_write(const char *path, const qn_trace *traces, int32_t n, const int64_t *weights, const int64_t *grads,
                            qn_err *err) QN_MUST_USE;

/* The same as one row: [stages] of medians in ns, -1 where the plan has no such task. *rows is filled (qni_cost_rows_fini). */
qn_status qni_profile_of(qni_cost_rows *rows, const qn_trace *traces, int32_t n, qn_err *err) QN_MUST_USE;

#endif

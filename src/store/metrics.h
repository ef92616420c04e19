/* metrics.sqlite: the numbers of a run, one row a step. Readable by everyone while the run goes on (WAL). */
#ifndef QN_STORE_METRICS_H
#define QN_STORE_METRICS_H

#include <stdint.h>

#include "quern/status.h"

typedef struct qn_metrics qn_metrics;

typedef struct qn_metrics_row {
    int64_t step;
    double loss, grad_norm, lr, tokens_per_s, step_ms; /* not finite: stored as NULL */
} qn_metrics_row;

/* Opens or makes the file. Rows after step keep_to are deleted (a resumed run writes them again); -1 empties it.
 * Errors: QN_EIO (not a database, wrong schema), QN_ENOMEM. */
qn_status qn_metrics_open(qn_metrics **out, const char *path, int64_t keep_to, qn_err *err) QN_MUST_USE;
void qn_metrics_close(qn_metrics *m);
qn_status qn_metrics_step(qn_metrics *m, const qn_metrics_row *row, qn_err *err) QN_MUST_USE;
qn_status qn_metrics_eval(qn_metrics *m, int64_t step, double val_loss, qn_err *err) QN_MUST_USE;
/* Commits what is pending. */
qn_status qn_metrics_flush(qn_metrics *m, qn_err *err) QN_MUST_USE;

/* Rows in step order, at most cap; evals as rows whose loss is the validation loss. Returns the count, or -1. */
int64_t qn_metrics_read(const char *path, qn_metrics_row *rows, int64_t cap, qn_err *err);
/* The row of the last step, and how many there are: 0 leaves *row alone, -1 is a failure. */
int64_t qn_metrics_last(const char *path, qn_metrics_row *row, qn_err *err);
int64_t qn_metrics_read_evals(const char *path, int64_t *step, double *val_loss, int64_t cap, qn_err *err);

#endif

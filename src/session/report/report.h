/* report.html: a run on one self-contained page: what was trained, loss curve, step times, the pipeline drawn from the trace
 * beside the simulated one, bubble measured and predicted. */
#ifndef QN_SESSION_REPORT_H
#define QN_SESSION_REPORT_H

#include "quern/status.h"
#include "schedule/trace.h"
#include "store/metrics.h"

typedef struct qn_report_fact {
    const char *name, *value;
} qn_report_fact;

typedef struct qn_report_data {
    const char *title;          /* "gpt2, 4 layers, 128 wide, on 2 workers" */
    const qn_report_fact *fact; /* a table: model, parameters, data, schedule, memory, ... */
    int32_t facts;
    const qn_metrics_row *row; /* training steps */
    int64_t rows;
    const int64_t *eval_step;
    const double *eval_loss;
    int64_t evals;
    const qn_trace *measured, *simulated; /* of one step; simulated with the measured costs; NULL: left out */
    const char *sample;                   /* text from the model */
} qn_report_data;

qn_status qn_report_write(const char *path, const qn_report_data *d, qn_err *err) QN_MUST_USE;

/* trace.json in Chrome's format (opens in Perfetto): one process per worker, one thread per lane. ticks_per_us: 1000 for ns. */
qn_status qn_trace_write_chrome(const char *path, const qn_trace *t, double ticks_per_us, qn_err *err) QN_MUST_USE;

/* The same for times of any unit. One event, "costs", says what the schedule tools need to read the costs back exactly. */
typedef struct qni_trace_scale {
    double ticks_per_us;
    const char *unit;   /* of the costs: "ms", or "" for none (then a unit is drawn as a microsecond) */
    double us_per_unit; /* 1000 for ms */
    double latency;     /* of a message, in that unit */
} qni_trace_scale;
qn_status qni_trace_write_scaled(const char *path, const qn_trace *t, const qni_trace_scale *scale, qn_err *err) QN_MUST_USE;

#endif

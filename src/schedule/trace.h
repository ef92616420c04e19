/* A trace: a plan's tasks with start and end. The simulator and the runtime both write this, so that they can be drawn beside
 * each other. */
#ifndef QN_SCHEDULE_TRACE_H
#define QN_SCHEDULE_TRACE_H

#include "ir.h"

typedef struct qn_span_time {
    int64_t start, end; /* ticks (simulator) or ns since the step began (runtime); end < start: did not run */
} qn_span_time;

/* One step. time [plan->tasks]; compute tasks of zero duration never extend a span. */
typedef struct qn_trace {
    const qn_plan *plan; /* borrowed */
    qn_span_time *time;
    int64_t ticks_per_ms; /* pictures show milliseconds; 0: plain ticks */
} qn_trace;

typedef struct qn_trace_summary {
    int64_t makespan;                      /* last end over all workers */
    int64_t busy_total;                    /* sum of compute tasks' durations */
    double bubble;                         /* idle share of workers x makespan */
    int64_t idle_makespan[QN_MAX_WORKERS]; /* makespan - busy */
    int64_t idle_span[QN_MAX_WORKERS];     /* first start to last end, minus busy */
    int64_t peak[QN_MAX_WORKERS];          /* stashes alive at once (items x stages): from F to BW or W */
} qn_trace_summary;

/* Over the compute tasks (F, B, W, BW, R) only. */
void qn_trace_summarize(qn_trace_summary *out, const qn_trace *t);

/* --- simulator: as soon as possible, given costs; channels bounded by their depth. */
typedef struct qn_sim_options {
    int64_t latency;     /* ticks from a SEND's end to its RECV's end; SEND and RECV themselves take 0 */
    const int64_t *cost; /* [tasks], NULL: task.cost */
    int32_t depth;       /* overrides every channel's depth; 0: as planned; INT32_MAX: unlimited */
} qn_sim_options;
/* time: [plan->tasks], caller's. Errors: QN_ESCHEDULE (names the tasks that wait for each other), QN_ENOMEM. */
qn_status qn_simulate(qn_trace *out, const qn_plan *plan, const qn_sim_options *opt, qn_err *err) QN_MUST_USE;

/* Untimed execution by tokens; true when every task ran. The validator's independent judge. */
bool qn_token_game(const qn_plan *plan, int32_t depth);

/* --- pictures. svg: traces one above the other with the same ticks, on one scale; self-contained text in *out (qn_free). */
qn_status qn_trace_svg(char **out, const qn_trace *const *traces, const char *const *titles, int32_t n, qn_err *err) QN_MUST_USE;
/* For a terminal: one line per worker, at most columns wide. */
qn_status qn_trace_ascii(char **out, const qn_trace *t, int32_t columns, qn_err *err) QN_MUST_USE;

#endif

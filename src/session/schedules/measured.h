/* Costs measured from traces of real steps, for the simulator. */
#ifndef QN_SESSION_MEASURED_H
#define QN_SESSION_MEASURED_H

#include "schedule/trace.h"

/* The makespan of a trace in ns; 0 when nothing ran. */
int64_t qni_trace_makespan(const qn_trace *t);
/* The trace whose makespan is the median of n, or NULL when n is 0. */
const qn_trace *qni_trace_median(const qn_trace *traces, int32_t n);
/* cost [plan->tasks]: the median over the traces of all tasks with the same op, stage and worker (copies: and
 * as many bytes of the same class); messages cost 0, since their
 * waiting is what the simulator finds out. Errors: QN_ENOMEM. */
qn_status qni_measured_costs(int64_t *cost, const qn_trace *traces, int32_t n, qn_err *err) QN_MUST_USE;
/* What a message's way takes, in the traces' ticks: the median over receivers that were waiting before it was sent, of the time
 * from the end of its SEND to the end of its RECV; 0 where nobody waited. Errors: QN_ENOMEM. */
qn_status qni_measured_latency(int64_t *latency, const qn_trace *traces, int32_t n, qn_err *err) QN_MUST_USE;
/* Simulates the plan of the traces with measured costs into out->time (plan->tasks, caller's). */
qn_status qni_simulate_measured(qn_trace *out, const qn_trace *traces, int32_t n, qn_err *err) QN_MUST_USE;

#endif

/* Several ways to do the same training step, measured in turn and held against the simulator. Internal to src/session. */
#ifndef QN_SESSION_BENCH_RACE_H
#define QN_SESSION_BENCH_RACE_H

#include "bench_common.h"

enum { QNI_RACE_TRACES = 15 }; /* of the last steps; also the longest flight */

typedef struct qni_racer {
    qn_bench_options opt; /* without zeros */
    qni_bench_how how;
    qni_bench_run run;
    double *seconds; /* [steps], sorted by judge */
    double *stolen;  /* [steps]: of the makespan, what the worst worker's tasks took longer than their threads had a processor */
    int64_t taken;   /* steps so far, with those that are not counted */
    int32_t left_out, disturbed; /* steps that were repeated; those that stayed disturbed */
    /* By judge. */
    double step_s;                                /* median */
    double measured_ms, simulated_ms;             /* makespan of the median trace; simulated with the costs of all those steps */
    double ratio_least, ratio_middle, ratio_most; /* over the traces: measured / simulated with the costs of that step */
    double replayed; /* measured / simulated with each task as long as it was in that very step, median: the executor's own */
    double bubble_measured, bubble_simulated;
} qni_racer;

/* opt, how: copied; how->traces is chosen. Errors: those of qni_bench_open. close accepts zeroes and what failed to open. */
qn_status qni_racer_open(qni_racer *r, const qn_bench_options *opt, const qni_bench_how *how, qn_err *err) QN_MUST_USE;
void qni_racer_close(qni_racer *r);

/* opt->steps rounds in which each racer takes a step, or a flight of how.flight steps (its time shared out, the last one's
 * traces), so that a machine whose speed drifts slows all of them; the first step of each is not counted. Steps in which the
 * machine was disturbed are repeated at the end, again in turn, as many as were asked for at most: those whose `stolen` is more
 * than 0.01 above the racer's least (which is its own doing: copy lanes and tasks that wait share its cores). Flights are not
 * looked at, nor are steps with more threads than cores. Then judges all.
 *
 * Where copies between host and devices are a processor's work (no slower link) the simulator lets them take it from the tasks.
 * The costs of a step are the medians of all tasks of one kind (op, stage, worker) in it; of kinds that a step has once (the
 * optimizer, packing, copies) the medians over all traces; of bundles of gradients
 * between replicas the bytes at the best rate at which any was sent. */
qn_status qni_race(qni_racer *r, int32_t n, qn_err *err) QN_MUST_USE;

/* Steps that were repeated, and that stayed disturbed, of one racer or two (b NULL: one). */
void qni_line_steps(qni_line *l, const qni_racer *a, const qni_racer *b);
/* How far the gain of fast over slow may be off: low and high, from the quartiles of the steps of both; and their steps. */
void qni_line_gain(qni_line *l, const qni_racer *fast, const qni_racer *slow);

/* Costs of the plan's tasks in ns, as measured over the racer's traces [tasks]. Errors: QN_ENOMEM. */
qn_status qni_racer_costs(int64_t *cost, const qni_racer *r, qn_err *err) QN_MUST_USE;

#endif

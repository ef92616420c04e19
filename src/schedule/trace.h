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
    int64_t ticks_per_ms; /* pictures show milliseconds, or the unit below; 0: plain ticks */
    const char *unit;     /* NULL: "ms"; borrowed */
    int64_t *cpu; /* NULL, or [plan->tasks], the caller's: processor time in ns of each task of a comp lane, from the runtime.
                     Less than its wall time where the thread waited or had to stand back for another */
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
    bool w_overtakes;    /* a W right behind a SEND in one lane starts with it, and the lane does not wait for that SEND: what the
                            published buffer table counts (README.md). Inferred: it gives all of its rows */
} qn_sim_options;
/* time: [plan->tasks], caller's. Errors: QN_ESCHEDULE (names the tasks that wait for each other), QN_ENOMEM. */
qn_status qn_simulate(qn_trace *out, const qn_plan *plan, const qn_sim_options *opt, qn_err *err) QN_MUST_USE;

/* The same with fewer cores than workers: worker w computes on core w % cores, and comp tasks that run there at the same time get
 * equal parts of it. cost: [tasks] ticks of a core of its own, NULL: task.cost. With a core for each worker it is qn_simulate
 * without latency. Errors: QN_EINVAL (cores), QN_EUNSUPPORTED (tasks that meet: tensor shards, rendezvous), QN_ESCHEDULE,
 * QN_ENOMEM. */
qn_status qn_simulate_shared(qn_trace *out, const qn_plan *plan, const int64_t *cost, int32_t cores, qn_err *err) QN_MUST_USE;

/* The same for copies that a processor does (a link that is not slower): tasks of lanes up, down and host want a core, too, and
 * where more lanes are busy than cores all slow down in proportion. Messages cost nothing. Inferred, as above. */
qn_status qn_simulate_lanes(qn_trace *out, const qn_plan *plan, const int64_t *cost, int32_t cores, qn_err *err) QN_MUST_USE;

/* --- why workers stand still. The parts of a worker's idle time (of the makespan), which add up to it exactly:
 *   fill      before its first compute task
 *   drain     after its last one, to the end of the step
 * and of each gap between two of its compute tasks (by what the second one waits for)
 *   switch    for something not yet computed, when the first is a forward and the second a backward (or its recomputation)
 *   internal  the same between any other two; also what is spent on step tasks and by an executor
 *   transfer  for something computed that is on its way, or stands behind other messages and copies
 *   memory    for room: as long as it would not have been, had no slot of an arena or a channel been in use
 * Of RoundPipe's simulator (arXiv:2604.27085) come fill, drain, switch and internal; what is blocked is taken out of them here.
 */
typedef enum qn_idle_part {
    QN_IDLE_FILL,
    QN_IDLE_DRAIN,
    QN_IDLE_SWITCH,
    QN_IDLE_INTERNAL,
    QN_IDLE_MEMORY,
    QN_IDLE_TRANSFER,
    QN_IDLE_PARTS
} qn_idle_part;
/* part [workers]: out. latency: of a message, in the trace's ticks, as the simulator was given it; 0 for a runtime's trace.
 * Errors: QN_ESCHEDULE (the plan is not live), QN_ENOMEM. */
qn_status qn_trace_split_idle(int64_t (*part)[QN_IDLE_PARTS], const qn_trace *t, int64_t latency, qn_err *err) QN_MUST_USE;
/* The same told apart by the plan's steps. A step's share of a worker's time begins where the worker's last compute task of the
 * step before ends, and ends with its own last one; fill belongs to the first step, drain to the last. All shares together are
 * workers times makespan, and a share is what is busy and the parts. */
typedef struct qn_step_share {
    int64_t share, busy, part[QN_IDLE_PARTS]; /* summed over the workers */
} qn_step_share;
/* step: [plan->steps], out. Errors as above. */
qn_status qn_trace_split_steps(qn_step_share *step, const qn_trace *t, int64_t latency, qn_err *err) QN_MUST_USE;
/* The critical path: from the last compute task back over what each task waited for longest, given in order of time. In a
 * simulated trace each task starts when the one before it ends (a RECV: latency later), so that no task of it may get longer
 * without the step getting longer. *path is the caller's (qn_free). Errors as above. */
qn_status qn_trace_critical(int32_t **path, int32_t *count, const qn_trace *t, int64_t latency, qn_err *err) QN_MUST_USE;

/* Untimed execution by tokens; true when every task ran. The validator's independent judge. */
bool qn_token_game(const qn_plan *plan, int32_t depth);

/* --- pictures. svg: traces one above the other with the same ticks, on one scale; self-contained text in *out (qn_free). */
qn_status qn_trace_svg(char **out, const qn_trace *const *traces, const char *const *titles, int32_t n, qn_err *err) QN_MUST_USE;
/* The same with a width of its own (1200 above), for steps of many tasks. */
qn_status qn_trace_svg_wide(char **out, const qn_trace *const *traces, const char *const *titles, int32_t n, int32_t width,
                            qn_err *err) QN_MUST_USE;
/* For a terminal: one line per worker, at most columns wide. */
qn_status qn_trace_ascii(char **out, const qn_trace *t, int32_t columns, qn_err *err) QN_MUST_USE;

#endif

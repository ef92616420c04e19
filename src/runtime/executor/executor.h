/* The executor: runs any valid plan, step after step (a step here may be a flight of optimizer steps). It knows tasks, lanes,
 * values and channels, and neither models nor schedules' names.
 *
 * A lane is a resumable step: it ran a task, waits, is done, or failed. Two drivers move the same lanes:
 *
 *   threads  one thread per worker steps that worker's lanes; when none can move it sleeps on the worker's doorbell
 *   loop     one thread steps all lanes of all workers in a fixed order: a whole cluster replays from a seed
 *
 * Lanes up, down and host (tiers) have a thread each in the first, which other lanes may wait for, also those of other workers;
 * in the second they are stepped like the rest.
 *
 * Values live in one arena per worker at the offsets that the plan assigned, so the predicted memory is the real one. A failed
 * task starts a new epoch, which cancels every wait; the step returns the first failure and the executor can be closed safely.
 * After the first step nothing is allocated. The step after a failed or cancelled one starts clean. */
#ifndef QN_RUNTIME_EXECUTOR_H
#define QN_RUNTIME_EXECUTOR_H

#include "schedule/ir.h"
#include "schedule/trace.h"
#include "transport/transport.h"

typedef struct qn_executor qn_executor;

typedef struct qn_task_fns {
    /* Runs compute and step tasks (everything but SEND and RECV) on the worker's thread. QN_EAGAIN: the task waits for another
     * worker; the same call comes again when one of this worker's channels may have changed, and before any other comp task. */
    qn_status (*run)(void *ctx, qn_executor *ex, int32_t task, qn_err *err);
    /* Where a value without an offset in the arena is (STAT, TPARAM, TGRAD, PGRAD): *bytes of it. Called on the worker's thread.
     */
    void *(*home)(void *ctx, int32_t value, size_t *bytes);
    /* Bytes of a value with an offset that are really there this step (at most value.bytes); NULL: all. */
    size_t (*actual)(void *ctx, int32_t value);
    /* Bytes [at, at + bytes) of what a LOAD or OFFLOAD moves, where that is not one piece of memory; on the lane's thread, pieces
     * in order. NULL: copied between the arena and home. */
    qn_status (*copy)(void *ctx, qn_executor *ex, int32_t task, size_t at, size_t bytes, qn_err *err);
} qn_task_fns;

typedef enum qn_driver { QN_DRIVE_THREADS, QN_DRIVE_LOOP } qn_driver;

typedef struct qn_executor_desc {
    const qn_plan *plan; /* borrowed, validated */
    const qn_transport *transport;
    qn_sim_faults faults; /* for the sim transport */
    qn_driver driver;
    qn_task_fns fns;
    void *ctx;
    int32_t threads_per_worker; /* cores to leave between workers when pinning */
    bool pin;                   /* pin worker w to core w * threads_per_worker */
    /* Tiers. What LOAD and OFFLOAD move in a second, each lane for itself; 0: no limit. A copy takes the larger of the time that
     * memory needs and that which the link would; the rest is slept. The loop does not sleep. */
    int64_t link_bytes_per_s;
    const qn_executor *arenas; /* NULL, or an executor in whose arenas this one works: borrowed, closed after this one; at most
                                  one of the two may be in a step, and what a step leaves there is lost by the other's */
    uint64_t jitter;           /* not 0: a seed of random delays before the tasks of all lanes, for tests */
    int32_t spins;             /* looks at a bell before sleeping; -1: chosen (bounded when workers x threads <= cores, else 0) */
} qn_executor_desc;

/* Opens the world, the arenas and the worker threads. Worker 0 runs on the thread that calls step (pinned there, if asked, at the
 * first step). The threads driver with several workers needs a transport for threads. Errors: QN_ENOMEM, QN_EINVAL. */
qn_status qn_executor_open(qn_executor **out, const qn_executor_desc *desc, qn_err *err) QN_MUST_USE;
void qn_executor_close(qn_executor *ex); /* accepts NULL */

/* Runs the whole plan once. trace: NULL, or plan->tasks times to fill, in ns since the step began. Errors: what a task returned,
 * QN_EPEER, QN_ECANCELLED (by qn_executor_cancel), QN_EINTERNAL (a lane can never move). */
qn_status qn_executor_step(qn_executor *ex, qn_trace *trace, qn_err *err) QN_MUST_USE;
/* The next steps run tasks of the plan's optimizer steps first .. first + steps - 1 alone (all from the start on). Nothing of
 * those before first is waited for; first > 0 wants a plan with asides. */
void qn_executor_set_steps(qn_executor *ex, int32_t first, int32_t steps);
/* Makes the running step give up as soon as the running tasks end; nothing when none runs. Any thread, also a signal handler. */
void qn_executor_cancel(qn_executor *ex);

/* For fns.run: the memory of a value of the running task's worker; what fns.home says for a value without an offset. */
void *qn_executor_value(qn_executor *ex, int32_t value);
/* Bytes of it that are really there this step. */
size_t qn_executor_actual(qn_executor *ex, int32_t value);
/* For fns.run: messages inside a task, on the worker's own channels that no SEND and RECV of the plan use, as the transport has
 * them and in the epoch of the step. A slot that was got is readable until its release. */
qn_ring_result qn_executor_put_begin(qn_executor *ex, int32_t channel, void **slot);
void qn_executor_put_publish(qn_executor *ex, int32_t channel, uint64_t tag, size_t bytes);
qn_ring_result qn_executor_get(qn_executor *ex, int32_t channel, const void **slot, uint64_t *tag, size_t *bytes);
void qn_executor_release(qn_executor *ex, int32_t channel);
/* How far up a worker's arena was ever used: the end of the highest slot that a task was given since open. After one whole step
 * it is plan->arena_bytes, whatever the timing: every value of a plan comes alive in every step. */
int64_t qn_executor_high_water(const qn_executor *ex, int32_t worker);
/* The most bytes of its values that were alive at once, from the start of a task that writes them to the end of the one that
 * drops them. Depends on the timing, but never exceeds what qn_plan_live_bytes says. */
int64_t qn_executor_most_alive(const qn_executor *ex, int32_t worker);
/* Bytes of values of a class (qn_value_class) that the worker's lane (QN_LANE_UP, QN_LANE_DOWN) has moved since open. */
int64_t qn_executor_moved(const qn_executor *ex, int32_t worker, int32_t lane, int32_t cls);

#endif

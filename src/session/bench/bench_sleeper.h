/* Plans whose compute tasks sleep, so that the machine's cores and memory have no part in what is measured: the executor, the
 * schedule and, where asked for, messages that take their time. Internal to src/session.
 *
 * A task that takes d ends d after it really began: nothing is caught up. */
#ifndef QN_SESSION_BENCH_SLEEPER_H
#define QN_SESSION_BENCH_SLEEPER_H

#include "runtime/executor/executor.h"
#include "schedule/gen/gen.h"

/* Sleeps for that long, on any thread, without the kernel's timer slack. */
void qni_sleep(int64_t ns);

/* The order of a generator, lowered, without step tasks: tasks of the chain cost cost[op] / chunks ns, messages nothing. *out is
 * the caller's. Errors: those of qn_generate and qn_lower. */
qn_status qni_sleep_plan(qn_plan **out, const char *schedule, int32_t workers, int32_t chunks, int32_t items,
                         const int64_t cost[QN_OPS], qn_err *err) QN_MUST_USE;

typedef struct qni_sleeper {
    qn_executor *ex;
    const qn_plan *plan; /* borrowed */
    char nowhere[64];
} qni_sleeper;

/* Tasks take task.cost ns. link_bytes_per_s: copies of values that are not there take their time on a link of that rate; 0: no
 * copies. delay_ns: a message is there so long after it was sent, and several may be on their way. The sleeper stays where it is
 * while open. Errors: those of qn_executor_open. close accepts zeroes. */
qn_status qni_sleeper_open(qni_sleeper *s, const qn_plan *plan, int64_t link_bytes_per_s, int64_t delay_ns,
                           qn_err *err) QN_MUST_USE;
void qni_sleeper_close(qni_sleeper *s);

/* Threads that share memory, but a message arrives faults.max_delay ns after it was put: never earlier, and later by what it
 * takes to wake its receiver. Not among those that runs choose from. */
extern const qn_transport qni_delayed_transport;

#endif

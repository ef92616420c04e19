/* Inside the executor: workers and their lanes as resumable steps. Drivers (driver.c) decide who steps them when.
 *
 *   lane:  first .. next - 1 done | next in progress or waiting | .. end - 1 to come
 *
 * A lane's tasks are done in order, so "task t is done" is "t < next of its lane". Who steps a lane stores next with release;
 * waits, which may cross lanes and workers, load it with acquire. Lanes send, recv and comp are stepped by the worker's thread;
 * up, down and host by an *aside*: a worker of its own but for lanes, arena and index, which are the worker's. */
#ifndef QN_RUNTIME_LANES_H
#define QN_RUNTIME_LANES_H

#include <pthread.h>
#include <stdatomic.h>

#include "core/bell.h"
#include "executor.h"

typedef enum qni_lane_result {
    QNI_LANE_RAN,       /* a task, or a piece of a message */
    QNI_LANE_WAITS,     /* for another lane, a slot or a message */
    QNI_LANE_DONE,      /* nothing left this step */
    QNI_LANE_FAILED,    /* the worker's st and err say why */
    QNI_LANE_CANCELLED, /* by a newer epoch */
} qni_lane_result;

typedef struct qni_lane {
    int32_t first, end;
    _Atomic int32_t next;
    bool open; /* task next has begun and is not done yet */
    /* The message in progress, of task next. */
    char *memory;  /* of the value */
    size_t total;  /* bytes of the whole message */
    size_t moved;  /* of them copied */
    int64_t piece; /* number of the next one */
} qni_lane;

typedef struct qni_worker {
    qn_bell start; /* rung once per step, and once more to leave */
    qn_executor *ex;
    int32_t index;
    qni_lane lane[QN_LANES];
    char *arena;
    uint64_t exchanged;         /* messages that tasks have sent and taken themselves */
    _Atomic int64_t live, most; /* bytes alive by lifetimes, and the most ever */
    _Atomic int64_t high;       /* end of the highest slot of the arena that a task was ever given */
    bool shared;                /* asides count there, too */
    int32_t id;                 /* whose bell: worker, or workers + aside */
    uint64_t jitter;            /* state of its random delays */
    qn_status st;               /* of this step */
    qn_err err;
    bool finished; /* all lanes are at their end */
    bool pinned;
    /* For finding out that nobody can move (driver.c). */
    _Atomic bool ended;    /* this step is over for the worker */
    _Atomic uint32_t seen; /* its bell when it last found nothing to do */
    pthread_t thread;
} qni_worker;

/* A lane of its own (up, down, host). */
typedef struct qni_aside {
    qn_bell bell;    /* rung when what its tasks wait for is done */
    qni_worker self; /* status, error, sleep; its lanes and arena are not used */
    int32_t lane;
    int64_t link_ns;                 /* when the link has carried all it was given */
    int64_t moved[QN_VALUE_CLASSES]; /* bytes since open */
} qni_aside;

struct qn_executor {
    qn_executor_desc desc;
    const qn_plan *plan;
    const qn_transport *transport;
    qn_world *world;
    int32_t spins;
    int32_t first_step, end_step; /* of the plan's optimizer steps that are run; the others' tasks are passed over */
    qni_worker *worker;           /* [workers] */
    int32_t threads;              /* workers 1 .. threads have a thread */
    qni_aside *aside;             /* [asides] */
    int32_t asides, aside_threads;
    size_t aside_bytes;
    int32_t *ring_first, *ring; /* [tasks + 1]: ids whose bell the end of a task rings; NULL without asides */
    bool *alive;                /* [values]: in its lifetime now; written by the value's worker alone */
    size_t worker_bytes;        /* of the block at worker */

    uint64_t epoch;           /* of the running or last step; even. epoch + 1 cancels it */
    _Atomic uint64_t stop;    /* the largest epoch that was cancelled + 1; the running step stops when stop > epoch */
    _Atomic uint64_t running; /* epoch of the running step, 0: none */
    bool unclean;             /* the last step stopped early: rings may hold its messages */
    bool leave;               /* threads end at the next start */
    qn_trace *trace;          /* of the running step, or NULL */
    int64_t began_ns;
    qn_bell done;                        /* rung by the last thread to finish a step */
    _Atomic int32_t left;                /* threads still in the step */
    _Atomic int32_t idle;                /* workers that ended the step, or found nothing to do for long */
    _Atomic uint64_t wakes;              /* how often a worker was idle no more */
    _Atomic(qni_worker *) first_failure; /* who failed first, NULL: none */
};

/* Puts a worker at the start of a step. clean: forget lifetimes that the last step left unfinished. */
void qni_worker_reset(qni_worker *w, bool clean);
/* Steps the worker's lanes once: what can be sent, what can be received, one compute task. RAN when anything moved. */
qni_lane_result qni_worker_round(qni_worker *w);

/* Asides (aside.c). open: for each lane up, down and host that has tasks; no thread yet. round: as qni_worker_round, for its
 * lane; one piece of a copy, or one task. id_*: the bell of a worker or an aside. */
qn_status qni_asides_open(qn_executor *ex, qn_err *err) QN_MUST_USE;
void qni_asides_close(qn_executor *ex);
void qni_aside_reset(qni_aside *a);
qni_lane_result qni_aside_round(qni_aside *a);
void qni_ring_waiters(qn_executor *ex, int32_t task);
uint32_t qni_id_look(const qn_executor *ex, int32_t id);
qn_status qni_id_wait(qn_executor *ex, int32_t id, uint32_t seen, int64_t timeout_ns, qn_err *err) QN_MUST_USE;

/* Parts of lane.c that asides use, too. w: who steps the lane. */
bool qni_may_start(const qn_executor *ex, const qn_task *t);
bool qni_delays(qni_worker *w);
void qni_task_begins(qni_worker *w, int32_t task);
void qni_task_ends(qni_worker *w, qni_lane *lane);
qni_lane_result qni_run_task(qni_worker *w, qni_lane *lane);
/* Passes over tasks of optimizer steps that are not run. */
void qni_pass_over(const qn_executor *ex, qni_lane *lane);
static inline int32_t qni_next(const qni_lane *lane)
{
    return atomic_load_explicit(&lane->next, memory_order_relaxed); /* for who steps it */
}

/* Notes the worker's failure and makes everybody else give up. */
void qni_worker_failed(qni_worker *w, qn_status st);
bool qni_step_stopped(const qn_executor *ex);

/* Drivers: run one step to its end, success or not; every worker is at rest afterwards. */
qn_status qni_threads_open(qn_executor *ex, qn_err *err) QN_MUST_USE;
void qni_threads_close(qn_executor *ex);
void qni_threads_step(qn_executor *ex);
void qni_loop_step(qn_executor *ex);

#endif

/* What the files of this folder share: the builder that all plans come from, the graph that validator and simulator walk, and the
 * checks that lowering runs early. Not for other modules. */
#ifndef QN_SCHEDULE_INTERNAL_H
#define QN_SCHEDULE_INTERNAL_H

#include <stddef.h>

#include "ir.h"

struct qn_trace;
struct qn_span_time;

/* --- names */
const char *qni_op_name(int32_t op);
const char *qni_class_name(int32_t cls);
const char *qni_lane_name(int32_t lane);
/* "act 1.0 @2" */
const char *qni_value_text(char *buf, size_t cap, const qn_plan *p, int32_t value);
enum { QNI_NAME = 64 }; /* room for any task or value text */

static inline bool qni_is_compute(int32_t op)
{
    return op >= QN_OP_F && op <= QN_OP_R;
}

static inline bool qni_is_vocab(int32_t op)
{
    return op >= QN_OP_VI && op <= QN_OP_VJ;
}
/* Of the chain or of a side stage: what an order consists of. */
static inline bool qni_is_work(int32_t op)
{
    return qni_is_compute(op) || qni_is_vocab(op);
}

/* What all shards of a stage do together (qn_tasks_joint), and a number for each such set, below qni_joint_sets. */
enum { QNI_JOINT_OPS = QN_OP_R + 2 };
static inline bool qni_is_joint(int32_t op)
{
    return qni_is_compute(op) || op == QN_OP_JOIN;
}
static inline size_t qni_joint_sets(const qn_plan *p)
{
    return (size_t)p->steps * (size_t)p->stages * (size_t)p->items * QNI_JOINT_OPS;
}
static inline size_t qni_joint_set(const qn_plan *p, const qn_task *t)
{
    const qn_grid g = qn_plan_grid(p);
    const int32_t stage = t->stage - qn_shard(g, t->stage) * qn_column_stages(g), item = t->op == QN_OP_JOIN ? 0 : t->item;
    const int32_t op = t->op == QN_OP_JOIN ? QNI_JOINT_OPS - 1 : t->op;
    const size_t of_step = (size_t)t->step * (size_t)p->stages + (size_t)stage;
    return (of_step * (size_t)p->items + (size_t)item) * QNI_JOINT_OPS + (size_t)op;
}

/* --- growable text; a failed append sticks */
typedef struct qni_text {
    char *at;
    size_t used, cap;
    bool failed;
} qni_text;
void qni_text_add(qni_text *t, const char *fmt, ...) QN_PRINTF(2, 3);
/* Hands the text over; QN_ENOMEM when an append failed. */
qn_status qni_text_done(char **out, qni_text *t, qn_err *err) QN_MUST_USE;

/* --- builder: tasks, values and channels in any order; links say which task reads, writes, adds to, frees or waits for what. */
typedef enum qni_link_kind { QNI_IN, QNI_OUT, QNI_ACC, QNI_FREE, QNI_WAIT, QNI_LINK_KINDS } qni_link_kind;

typedef struct qni_link {
    int32_t task, kind, id; /* id: a value, for QNI_WAIT a task */
} qni_link;

typedef struct qni_builder {
    qn_task *task;
    int64_t *key; /* [tasks]: place in its lane; equal keys stand in the order of their making */
    qn_value *value;
    qn_channel *channel;
    qni_link *link;
    int32_t tasks, values, channels, links;
    int32_t task_cap, key_cap, value_cap, channel_cap, link_cap;
    bool failed; /* out of memory; sticks */
} qni_builder;

void qni_builder_fini(qni_builder *b);
/* Each returns the new index, 0 after a failure (whose writes go nowhere). */
int32_t qni_add_task(qni_builder *b, int32_t op, int32_t stage, int32_t item, int32_t worker, int32_t lane);
int32_t qni_add_value(qni_builder *b, int32_t cls, int32_t stage, int32_t item, int32_t worker, int64_t bytes);
int32_t qni_add_channel(qni_builder *b, qn_channel c);
void qni_add_link(qni_builder *b, int32_t task, qni_link_kind kind, int32_t id);
/* A plan of what was added, tasks sorted by worker, lane and key; neither finished nor checked. worker_of is copied; the builder
 * stays as it is. place, when not NULL: [tasks], the plan's index of each task added. Errors: QN_ENOMEM. */
qn_status qni_builder_plan(qn_plan **out, const qni_builder *b, int32_t workers, int32_t stages, int32_t items,
                           const int32_t *worker_of, int32_t *place, qn_err *err) QN_MUST_USE;

/* Grows *p to hold at least want elements of size bytes. */
bool qni_grow(void *p, int32_t *cap, int32_t want, size_t size);

/* qn_plan_finish with more to wait for: extra[task][lane] is an index in that lane of the task's worker, or QN_NONE. NULL:
 * nothing. */
qn_status qni_plan_finish(qn_plan *p, const int32_t (*extra)[QN_LANES], qn_err *err) QN_MUST_USE;

/* Stashes that a compute task makes, less those that it is the last to need: what a worker's peak counts (plan_simulate.c). */
int32_t qni_task_stashes(const qn_plan *p, int32_t task);

static inline int32_t qni_lane_index(const qn_plan *p, int32_t task)
{
    return task - p->lane[p->task[task].worker][p->task[task].lane][0];
}

/* --- checks */
/* Compute tasks of an order or a plan, by worker in lane order. */
typedef struct qni_compute {
    int32_t op, stage, item;
    int32_t worker; /* less what the cursor had gone on by */
    int32_t on;     /* as it is */
} qni_compute;
/* The worker that the cursor's start has in place of this one. */
static inline int32_t qni_unturned(int32_t worker, int32_t workers, int32_t turn, int64_t rounds)
{
    return (int32_t)((worker + workers - turn * rounds % workers) % workers);
}
/* Columns divide the stages, shards the columns, replicas the items; a column has stages besides its sides. Errors: QN_EINVAL
 * (with numbers that work), QN_ESCHEDULE (sides). */
qn_status qni_check_grid(qn_grid grid, qn_err *err) QN_MUST_USE;
/* Complete and in an order that makes sense within a worker: each F of a stage's items once; a training item has BW, or B and W,
 * once; F, R, B, W in this order; gradients added in ascending item order; the shards of a stage do the same tasks. Errors:
 * QN_ESCHEDULE, QN_EINVAL (columns), QN_ENOMEM. */
qn_status qni_check_compute(const qni_compute *task, int32_t tasks, int32_t workers, qn_grid grid, const int32_t *worker_of,
                            const int32_t *backward_of, qn_err *err) QN_MUST_USE;

/* Vocabulary shards (check_vocab.c). algorithm: its number. tasks: all of them, those of the chain by qni_check_compute, those of
 * the shards: VI, VS, VT, VJ once per item, VS before VT, gradients in ascending item order; reorders the list. reads: what they
 * and the chain's ends must read. Errors: QN_ESCHEDULE, QN_EINVAL, QN_EUNSUPPORTED, QN_ENOMEM. */
qn_status qni_check_algorithm(qn_grid grid, int32_t vocab, qn_err *err) QN_MUST_USE;
qn_status qni_check_tasks(qni_compute *task, int32_t tasks, int32_t workers, qn_grid grid, const int32_t *worker_of,
                          const int32_t *backward_of, qn_err *err) QN_MUST_USE;
qn_status qni_check_vocab_reads(const qn_plan *p, int32_t t, qn_err *err) QN_MUST_USE;

/* --- graph: who must be complete before whom. Predecessors of a task: the one before it in its lane, its waits, a RECV's SEND,
 * and for a SEND the RECV that frees its channel slot. A pair on a rendezvous channel is one node, and so are joint tasks. */
typedef struct qni_graph {
    const qn_plan *plan;
    int32_t *peer;  /* [tasks]: a SEND's RECV, a RECV's SEND, or QN_NONE */
    int32_t *frees; /* [tasks]: the RECV that must be complete before this SEND, or QN_NONE */
    int32_t *node;  /* [tasks]: itself; for a RECV on a rendezvous channel its SEND; for joint tasks the first of them */
    int32_t *also;  /* [tasks]: the next task of the same node, the node itself being the first, or QN_NONE */
    int32_t *order; /* [ordered] nodes, each after all its predecessors */
    int32_t ordered, nodes;
    bool *stuck; /* [tasks]: can never run: a RECV nobody sends to, a SEND whose slot nobody empties */
    bool *done;  /* [tasks], by node: is in order */
    bool free_recv;
} qni_graph;

/* depth overrides every channel's depth in slots; 0: as planned, INT32_MAX: unbounded. A channel holds as many whole messages as
 * its depth has room for slots of its largest message. */
enum { QNI_GRAPH_FREE_RECV = 1 }; /* receives do not wait for each other, channels are unbounded */
qn_status qni_graph_open(qni_graph *g, const qn_plan *plan, int32_t depth, int32_t flags, qn_err *err) QN_MUST_USE;
void qni_graph_close(qni_graph *g);
/* QN_ESCHEDULE with the tasks that wait for each other, unless all nodes are in order. */
qn_status qni_graph_live(const qni_graph *g, qn_err *err) QN_MUST_USE;
/* Start and end of each task as soon as possible. Of the options: latency, cost, w_overtakes. */
struct qn_sim_options;
void qni_graph_times(const qni_graph *g, struct qn_span_time *time, const struct qn_sim_options *opt);

/* Lane index of a task's wait seen from anywhere: [workers * QN_LANES] tables are indexed by this. */
static inline int32_t qni_lane_of(const qn_plan *p, int32_t t)
{
    return p->task[t].worker * QN_LANES + p->task[t].lane;
}

/* Per task and lane of its worker: the last index that is complete before the task starts, by lanes and waits alone (not by
 * messages over other workers: what a worker relies on must be visible on it). QN_NONE: nothing. *out [tasks] is freed with
 * qn_free. The graph must be live. */
qn_status qni_clocks(int32_t (**out)[QN_LANES], const qni_graph *g, qn_err *err) QN_MUST_USE;
/* Tiers (check_tiers.c). copy: the values of a LOAD or OFFLOAD. tiers: host copies are read after they are written, whatever
 * worker writes them. has: any host copy. Errors: QN_ESCHEDULE, QN_ENOMEM. */
qn_status qni_check_copy(const qn_plan *p, int32_t task, qn_err *err) QN_MUST_USE;
qn_status qni_check_tiers(const qn_plan *p, const int32_t (*clock)[QN_LANES], qn_err *err) QN_MUST_USE;
bool qni_plan_has_tiers(const qn_plan *p);
/* Pictures show copy lanes where a copy takes time. */
bool qni_shows_copies(const struct qn_trace *t);
static inline bool qni_is_copy(int32_t op)
{
    return op == QN_OP_LOAD || op == QN_OP_OFFLOAD;
}
/* Several steps (check_steps.c): what has no place in an arena is the same memory in all of them. Errors: QN_ESCHEDULE,
 * QN_ENOMEM.
 */
qn_status qni_check_steps(const qn_plan *p, const int32_t (*clock)[QN_LANES], qn_err *err) QN_MUST_USE;
/* Values outside the arenas, grouped by the memory that they are: a home of a worker, or a host copy. *out [values], freed with
 * qn_free: the number of the value's group, QN_NONE for those in an arena. Returns how many groups; -1: out of memory. */
int32_t qni_home_groups(int32_t **out, const qn_plan *p);
/* Is what task t writes final for the weights of a stage in plans with tiers: what LOADs of the next step bring up? */
bool qni_makes_loaded(const qn_plan *p, int32_t t, bool copies);
/* Memory of a live plan: values that may be alive at once share no bytes; nothing beyond the arenas; arenas within limits.
 * Errors: QN_ESCHEDULE, QN_ENOMEM. */
qn_status qni_check_memory(const qn_plan *p, const qni_graph *g, const int32_t (*clock)[QN_LANES], qn_err *err) QN_MUST_USE;

#endif

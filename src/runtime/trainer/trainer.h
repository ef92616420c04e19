/* The trainer: a model, an order, a source and an optimizer joined into steps. It binds a plan's tasks to stages and keeps the
 * homes of the state: value, gradient accumulators, first and second moment of each parameter, with exactly one owner (the worker
 * of the parameter's first use) and a replica of a tied weight where its other use lives elsewhere.
 *
 * Losses are sums over the step's tokens, folded in item order, divided once. The gradient norm is folded per parameter tensor in
 * double, in parameter order. So results do not depend on the order of work (design: idea 5). */
#ifndef QN_RUNTIME_TRAINER_H
#define QN_RUNTIME_TRAINER_H

#include <stdbool.h>

#include "data/dataset/shards.h"
#include "data/source.h"
#include "runtime/executor/executor.h"
#include "model/model.h"

typedef struct qn_hyper {
    double beta1, beta2, eps, decay;
    double clip; /* of the global gradient norm; 0: none */
} qn_hyper;

/* Post-validated steps: how a step that was taken too early is taken back. */
typedef enum qn_undo { QN_UNDO_NONE, QN_UNDO_COPY, QN_UNDO_IN_PLACE } qn_undo;
/* Tiers: workers are devices whose arena (arena_limit) holds a window of the weights; values, gradients and moments are the
 * host's, which also runs the optimizer (papers: RoundPipe, Superpipeline). Stages of the order are the pieces. */
typedef struct qn_trainer_tiers {
    int32_t window, replace;  /* k (0: as many as fit) and k' of qn_tiers */
    int32_t lag;              /* 1: the optimizer lags one step (lag.h) */
    int64_t link_bytes_per_s; /* each way and device; 0: as fast as memory */
} qn_trainer_tiers;

typedef struct qn_trainer_desc {
    const qn_model *model;      /* whole; borrowed until close. Its tensor shards are opened as the order asks */
    const qn_order *order;      /* compute tasks; its items are the micro-batches */
    const int32_t *first_layer; /* [depth + 1], depth = stages / columns of the order: stage s of a column has layers
                                   first_layer[s] .. first_layer[s + 1] - 1 of the chain. Where the order
                                   has vocabulary shards (sides) the model is cut for them; to the caller it stays whole */
    int32_t groups; /* of gradient accumulation: a power of two that divides the items and that the replicas divide; 0: as many
                       as replicas. Results are the same for all numbers of replicas that divide it */
    qn_undo post_validate; /* NONE: every worker waits for the step's decision. COPY: each steps on what it knows, and goes back
                              to a copy if that was wrong: the same bits. IN_PLACE: without the copy, up to rounding */
    bool zero1;            /* a parameter's moments live in one replica, which steps it for all */
    qn_recompute recompute;
    const uint8_t *again; /* [layers of the chain] with QN_RECOMPUTE_PART: QN_AGAIN_* of each layer; read during open alone */
    bool recompute_late;  /* when the gradient is there: a part inside backward, a whole stage's R just before it */
    qn_mode mode;
    int32_t threads;         /* per worker */
    const qn_source *source; /* batch samples of T tokens a step */
    qn_hyper hyper;
    uint64_t seed;                 /* initial values and dropout */
    const int64_t *arena_limit;    /* [workers], NULL: none */
    const qn_transport *transport; /* NULL: thread */
    qn_driver driver;
    qn_sim_faults faults;
    bool pin;
    int64_t part_bytes; /* tensor shards: slots between workers whose shards meet, at least 8 for each shard; 0: chosen */
    bool sequence;      /* tensor shards: outside of the cut products each has a slice of the rows (sequence parallelism) */
    bool whole_links;   /* tensor shards: stages send whole activations in every shard instead of a slice each */
    const qn_trainer_tiers *tiers; /* NULL: all state is resident */
    int32_t flight;                /* the most steps without a barrier between them; 0: 1 */
    bool (*stop)(void *ctx);       /* NULL, or asked by the caller's thread between tasks of a flight: see qn_trainer_flight */
    void *stop_ctx;
    uint64_t jitter; /* not 0: random delays before tasks, for tests */
} qn_trainer_desc;

typedef struct qn_trainer qn_trainer;

/* Opens stages, lowers the order to a plan, gives every parameter its initial value. Sample i of a step belongs to item
 * i / ceil(batch / items), so the last items may be short or empty. The first stage must hold the embedding and the last one the
 * head; only stages between them may be empty. Order, cuts and limits are read during the call alone. Errors: QN_ESCHEDULE,
 * QN_EINVAL, QN_ENOMEM (with the bytes needed). */
qn_status qn_trainer_open(qn_trainer **out, const qn_trainer_desc *desc, qn_err *err) QN_MUST_USE;
void qn_trainer_close(qn_trainer *t);

typedef struct qn_step_result {
    double loss;      /* mean over the step's targets */
    double grad_norm; /* before clipping */
    int64_t tokens;
    int64_t ns;
} qn_step_result;

/* One optimizer step number `step` (0-based: AdamW's bias correction uses step + 1) with the given learning rate. When the loss
 * or the norm is not finite nothing is changed and QN_ENONFINITE names the first tensor. A step that stops early (QN_ECANCELLED,
 * QN_EPEER) may leave a part of its update in the homes: go back to a checkpoint. A step without any target is QN_EINVAL. trace:
 * NULL or as qn_executor_step. */
qn_status qn_trainer_step(qn_trainer *t, int64_t step, double lr, qn_step_result *result, qn_trace *trace,
                          qn_err *err) QN_MUST_USE;
/* Steps first .. first + n - 1, lr[i] the learning rate of step first + i: the same results as n calls of qn_trainer_step, but up
 * to desc.flight steps at a time follow each other without a barrier. What makes up for it: post-validated steps, whose decision
 * travels while the next one warms up, an optimizer that lags, and loads of weights as soon as they are stepped. result: [n].
 * *done: steps taken, of which results are there. Errors: those of qn_trainer_step, of step first + *done; a step that is refused
 * ends the flight and changes nothing, and the steps before it are whole. trace: NULL, or [n], each of qn_trainer_plan, in ns
 * since the first task of its step. When desc.stop says true the flight ends behind the step that is under way (with a lagging
 * optimizer behind the run of up to desc.flight steps): QN_OK with *done below n. */
qn_status qn_trainer_flight(qn_trainer *t, int64_t first, int32_t n, const double *lr, qn_step_result *result, int32_t *done,
                            qn_trace *trace, qn_err *err) QN_MUST_USE;
/* Post-validation so far: stages stepped early, and of them taken back. */
typedef struct qn_speculated {
    int64_t steps, wrong;
} qn_speculated;
qn_speculated qn_trainer_speculated(const qn_trainer *t);
/* Makes the running step or evaluation give up (QN_ECANCELLED) as soon as the running tasks end. Any thread, also a signal
 * handler. */
void qn_trainer_cancel(qn_trainer *t);

/* Takes what the first evaluation would take, so that a device too small for it is told before training. Errors: QN_EINVAL (with
 * the smallest that would do), QN_ENOMEM. */
qn_status qn_trainer_ready_evaluation(qn_trainer *t, qn_err *err) QN_MUST_USE;
/* Mean loss over a part of a shard in windows that do not overlap, on the same workers; at most max_windows of them (0: all),
 * evenly spread. */
qn_status qn_trainer_evaluate(qn_trainer *t, const qn_tokens *tokens, qn_split_range part, int64_t max_windows, double *loss,
                              int64_t *targets, qn_err *err) QN_MUST_USE;

/* With a lagging optimizer: brings the homes to what they are after the last step. Later steps are the same to the bit. Between
 * steps only; call it before reading homes. */
void qn_trainer_settle(qn_trainer *t);
/* The most of a device's arena that was in use, and what a lane (QN_LANE_UP, QN_LANE_DOWN) has moved of a class of values. */
int64_t qn_trainer_high_water(const qn_trainer *t, int32_t worker);
int64_t qn_trainer_moved(const qn_trainer *t, int32_t worker, int32_t lane, int32_t cls);

/* Of one step; where stages go round the devices, with the cursor at its start. */
const qn_plan *qn_trainer_plan(const qn_trainer *t);
/* Of the steps that are run without a barrier, from wherever the cursor may be: its arenas are those that are there. */
const qn_plan *qn_trainer_run_plan(const qn_trainer *t);

/* Memory by kind, in bytes, over all workers. */
typedef struct qn_memory {
    int64_t params, grads, moments, packed, arenas, scratch;
    int64_t most_moments; /* of one worker */
} qn_memory;
qn_memory qn_trainer_memory(const qn_trainer *t);

/* The homes, for checkpoints. Between steps only. value, m, v: [part->count] of the mode's param type; m, v NULL when frozen.
 * With tensor shards each has a part of the parameter (part->slice) or a copy of its own. After writing values call
 * qn_trainer_refresh, which brings replicas and packed copies up to date. */
typedef struct qn_param_home {
    const qn_param *part; /* as the shard has it */
    void *value, *m, *v;
    size_t element; /* bytes */
} qn_param_home;
int32_t qn_trainer_shards(const qn_trainer *t);
qn_param_home qn_trainer_home(qn_trainer *t, int32_t param); /* shard 0's: the whole with one shard */
qn_param_home qn_trainer_shard_home(qn_trainer *t, int32_t param, int32_t shard);
void qn_trainer_refresh(qn_trainer *t);

/* A whole parameter from its parts, and into them: value, m, v [count of the whole] or NULL. put wants a refresh at the end, too.
 */
void qn_trainer_get(qn_trainer *t, int32_t param, void *value, void *m, void *v);
void qn_trainer_put(qn_trainer *t, int32_t param, const void *value, const void *m, const void *v);

#endif

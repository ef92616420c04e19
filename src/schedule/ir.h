/* The schedule IR: a schedule is data, on four levels (papers: PyTorch's action language, extended).
 *
 *   pattern   a generator's name and its numbers                                   gen.h
 *   order     per worker the compute tasks in sequence                             this file
 *   plan      all tasks on lanes, with the values they read, write and free,       this file
 *             channels, slots in arenas: what is validated, simulated and executed
 *   trace     the plan with a start and an end per task                            trace.h
 *
 * Integers only; no clock, no I/O. The executor runs any valid plan and knows no schedule's name. */
#ifndef QN_SCHEDULE_IR_H
#define QN_SCHEDULE_IR_H

#include <stdbool.h>
#include <stdint.h>

#include "core/arena.h"
#include "quern/status.h"

/* op, text name. F forward, B input gradient, W weight gradient, BW both, R recompute (makes the stash, or a part of it, again).
 * Of vocabulary shards (arXiv:2411.05288): VI looks the owned tokens up, VS makes the shard's logits and their local softmax, VT
 * its gradients once all shards' statistics are there, VJ adds the look-ups' gradients up.
 * Step tasks, once per stage or worker: PACK packs a stage's weights; NORM sums squares of the worker's gradients and its losses;
 * FOLD (worker 0) folds all workers' sums in parameter order and decides; OPT steps a stage's parameters; SUM adds the other
 * replicas' gradients of what a stage owns into its own, as a tree; TIE adds a tied weight's other uses into its owner's
 * gradient; JOIN adds up, over the shards of a stage, the gradients of which each has a part.
 * GUESS adds a worker's sums to those of the workers before it; VALIDATE holds a stage's OPT, done on such a guess, against the
 * step's decision.
 * Tiers (a device's arena and the host's memory): LOAD brings a value from its host copy into an arena, OFFLOAD takes one out;
 * PCOPY makes the optimizer's parameters of a stage those that the next step loads, GCOPY hands it the gradients (RoundPipe). */
/* clang-format off */
#define QN_OP_LIST(X)                                                                                          \
    X(QN_OP_F, "F") X(QN_OP_B, "B") X(QN_OP_W, "W") X(QN_OP_BW, "BW") X(QN_OP_R, "R")                          \
    X(QN_OP_VI, "VI") X(QN_OP_VS, "VS") X(QN_OP_VT, "VT") X(QN_OP_VJ, "VJ")                                    \
    X(QN_OP_PACK, "PACK") X(QN_OP_SUM, "SUM") X(QN_OP_JOIN, "JOIN") X(QN_OP_TIE, "TIE") X(QN_OP_NORM, "NORM") X(QN_OP_FOLD, "FOLD")   \
    X(QN_OP_OPT, "OPT") X(QN_OP_GUESS, "GUESS") X(QN_OP_VALIDATE, "VALIDATE") X(QN_OP_SEND, "SEND") X(QN_OP_RECV, "RECV")                                             \
    X(QN_OP_LOAD, "LOAD") X(QN_OP_OFFLOAD, "OFFLOAD") X(QN_OP_PCOPY, "PCOPY") X(QN_OP_GCOPY, "GCOPY")

typedef enum qn_op {
#define QN_OP_ENUM(op, text) op,
    QN_OP_LIST(QN_OP_ENUM)
#undef QN_OP_ENUM
    QN_OPS
} qn_op;
/* clang-format on */

/* Value classes. ACT: input of a stage (the output of the one before); GRAD: gradient of a stage's output; STASH: F to B;
 * WSTASH: B to W; PARAM: a stage's parameters of this step; PGRAD: its gradients; STAT: small sums (losses, squares). TPARAM,
 * TGRAD: a tied weight and its gradient on their way between owner and replica. PACKED: a stage's packed weights in an arena.
 * PART: parts of sums, of channels alone: what joint tasks exchange while they run. In plans with tiers the item of a PARAM is
 * its chunk. Of a vocabulary shard: VIN its look-ups, VDX its part of the last stage's gradient, VSTAT what its local softmax
 * needs to become the whole one. RSTASH: what R makes again beside a stash that was kept, R to B or W. */
/* clang-format off */
#define QN_VALUE_LIST(X)                                                                              \
    X(QN_V_ACT, "act") X(QN_V_GRAD, "grad") X(QN_V_STASH, "stash") X(QN_V_WSTASH, "wstash")            \
    X(QN_V_PARAM, "param") X(QN_V_PGRAD, "pgrad") X(QN_V_STAT, "stat") X(QN_V_TPARAM, "tparam") X(QN_V_TGRAD, "tgrad") \
    X(QN_V_PACKED, "packed") X(QN_V_PART, "part") X(QN_V_VIN, "vin") X(QN_V_VDX, "vdx") X(QN_V_VSTAT, "vstat") \
    X(QN_V_RSTASH, "rstash")

typedef enum qn_value_class {
#define QN_VALUE_ENUM(v, text) v,
    QN_VALUE_LIST(QN_VALUE_ENUM)
#undef QN_VALUE_ENUM
    QN_VALUE_CLASSES
} qn_value_class;
/* clang-format on */

/* UP, DOWN: copies between the host and the worker's arena. HOST: work on host memory beside the compute lane. */
typedef enum qn_lane { QN_LANE_COMP, QN_LANE_SEND, QN_LANE_RECV, QN_LANE_UP, QN_LANE_DOWN, QN_LANE_HOST, QN_LANES } qn_lane;

enum { QN_MAX_WORKERS = 1024, QN_MAX_STEPS = 65536, QN_NONE = -1 };

/* --- pattern: what a generator is asked for */
typedef struct qn_pattern {
    int32_t workers; /* P >= 1 */
    int32_t items;   /* M >= 1 micro-batches */
    int32_t chunks;  /* v >= 1 stages per worker; stages S = P * v */
    int32_t group;   /* interleaved: micro-batches per group, 0: P; roundpipe: per round, 0: all */
    int32_t limit;   /* v-adaptive: stashes of a stage that a worker may hold; 0: 2P */
    int32_t pieces;  /* roundpipe, superpipe: stages of the order; 0: P * v */
    const int32_t *forward_slot,
        *backward_slot;           /* roundpipe: [pieces] as qn_round_pieces makes them; NULL: cut for equal pieces */
    int32_t window, window_group; /* superpipe: k and k' (piece_window.h); 0: all pieces stay, 1 at a time */
    int32_t vocab, sides;         /* vocabulary parallelism by algorithm 1 or 2 (0: none), in so many shards (0: P) */
    int64_t cost[QN_OPS]; /* ticks of one task of each op (SEND: of a message), where a generator wants them; 0: 1, SEND 0 */
    const int64_t (*stage_cost)[QN_OPS]; /* [stages of the order] the same of each stage, for roundpipe's cuts; NULL: as cost */
    int64_t stash_size;                  /* what F leaves until B, in any unit; 0: 1. For generators that look at memory */
    int64_t pending_size;                /* what is left between B and W; 0: as much as stash_size */
} qn_pattern;

/* --- columns. A column is a copy of the chain, depth stages, and behind it `sides` side stages: its vocabulary shards. Stage s
 * of the plan is number s % (depth + sides) of column s / (depth + sides). A replica is `shards` neighbouring columns: its shards
 * hold parts of the same layers and run the same items. With R = columns / shards replicas the items are cut into R equal ranges,
 * in order; a replica runs its range alone. Messages go between neighbouring stages of one column. One column of everything is
 * the plain case. */
typedef struct qn_grid {
    int32_t stages, items, columns, shards;
    int32_t sides; /* of each column */
} qn_grid;

/* Stages of a column, side stages among them. */
static inline int32_t qn_column_stages(qn_grid g)
{
    return g.stages / g.columns;
}
/* Those of the chain. */
static inline int32_t qn_depth(qn_grid g)
{
    return qn_column_stages(g) - g.sides;
}
static inline int32_t qn_column(qn_grid g, int32_t stage)
{
    return stage / qn_column_stages(g);
}
/* The stage's number in its column: the part of the chain that it holds, or behind that of the side stages. */
static inline int32_t qn_chain_stage(qn_grid g, int32_t stage)
{
    return stage % qn_column_stages(g);
}
static inline int32_t qn_replicas(qn_grid g)
{
    return g.columns / g.shards;
}
static inline int32_t qn_replica(qn_grid g, int32_t stage)
{
    return qn_column(g, stage) / g.shards;
}
static inline int32_t qn_shard(qn_grid g, int32_t stage)
{
    return qn_column(g, stage) % g.shards;
}
static inline int32_t qn_stage_at(qn_grid g, int32_t column, int32_t chain_stage)
{
    return column * qn_column_stages(g) + chain_stage;
}
/* The stage that holds the same part of the same layers in the first replica. */
static inline int32_t qn_in_first_replica(qn_grid g, int32_t stage)
{
    return stage % (g.shards * qn_column_stages(g));
}
static inline bool qn_first_in_column(qn_grid g, int32_t stage)
{
    return qn_chain_stage(g, stage) == 0;
}
static inline bool qn_last_in_column(qn_grid g, int32_t stage)
{
    return qn_chain_stage(g, stage) == qn_depth(g) - 1;
}
static inline bool qn_is_side(qn_grid g, int32_t stage)
{
    return qn_chain_stage(g, stage) >= qn_depth(g);
}
/* The items of a stage are first_item .. first_item + items_each - 1. */
static inline int32_t qn_items_each(qn_grid g)
{
    return g.items / qn_replicas(g);
}
static inline int32_t qn_first_item(qn_grid g, int32_t stage)
{
    return qn_replica(g, stage) * qn_items_each(g);
}
static inline bool qn_has_item(qn_grid g, int32_t stage, int32_t item)
{
    return item / qn_items_each(g) == qn_replica(g, stage);
}

/* Of all stages that hold what `stage` holds on its worker, the one that steps the parameters of the given owner where every
 * replica steps: the owner's own, or else the first. (Several replicas on one worker share values.) */
int32_t qn_stepping_stage(qn_grid g, const int32_t *worker_of, int32_t stage, int32_t replica);

/* --- the cursor (RoundPipe, arXiv:2604.27085). A step's items go in rounds of `round` (0: all in one; the last may have fewer).
 * After each round, and so from step to step, everything goes on by `turn` workers: what worker_of and backward_of place on w is
 * on w + turn, modulo the workers. turn 0: stages stay where they are. */
static inline int32_t qn_rounds(int32_t items, int32_t round)
{
    return round > 0 && round < items ? (items - 1) / round + 1 : 1;
}
static inline int32_t qn_round_of(int32_t item, int32_t round)
{
    return round > 0 ? item / round : 0;
}
/* Where what is placed on a worker is after so many rounds. */
static inline int32_t qn_turned(int32_t worker, int32_t workers, int32_t turn, int64_t rounds)
{
    return (int32_t)((worker + turn * rounds) % workers);
}

/* --- order: compute tasks per worker */
typedef struct qn_order_task {
    int32_t op, stage, item;
    int32_t pair; /* 1: makes an overlap pair with the next one, see qn_lowering.opaque_pairs */
} qn_order_task;

typedef struct qn_order {
    int32_t workers, stages, items;
    int32_t columns, shards;      /* copies of the chain, and how many of them make a replica; 1 and 1 */
    int32_t sides, vocab;         /* the last `sides` stages of a column are vocabulary shards, by algorithm 1 or 2. 0, 0 */
    int32_t *worker_of;           /* [stages]: where a stage lives */
    int32_t *backward_of;         /* [stages], NULL: where R, B, W and BW of a stage run when that is elsewhere (RoundPipe) */
    int32_t round, turn;          /* the cursor; 0 and 0: none */
    int32_t window, window_group; /* resident stages and how many leave together (Superpipeline); 0: no window */
    int32_t *count, *cap;         /* [workers] */
    qn_order_task **task;         /* [workers][count] */
    bool failed;                  /* out of memory; sticks until done */

    /* What an order file may say besides (memory, size and cost lines); lowering takes it where its caller says nothing. NULL,
     * -1: not said. */
    int64_t *arena_limit;                            /* [workers] */
    int64_t *act_bytes, *stash_bytes, *wstash_bytes; /* [stages] */
    int64_t cost[QN_OPS];                            /* ticks of one task */
} qn_order;

/* Heap, owned by the order. open: no tasks; worker_of[s] = s % workers. Errors: QN_ERANGE, QN_ENOMEM. */
qn_status qn_order_open(qn_order **out, int32_t workers, int32_t stages, int32_t items, qn_err *err) QN_MUST_USE;
void qn_order_close(qn_order *o);
void qn_order_push(qn_order *o, int32_t worker, qn_op op, int32_t stage, int32_t item);
/* The last two tasks of the worker are an overlap pair. */
void qn_order_pair(qn_order *o, int32_t worker);
/* One check at a generator's end. Errors: QN_ENOMEM. Completeness is the validator's business. */
qn_status qn_order_done(qn_order *o, qn_err *err) QN_MUST_USE;

static inline qn_grid qn_order_grid(const qn_order *o)
{
    return (qn_grid){o->stages, o->items, o->columns, o->shards, o->sides};
}

/* The order of `replicas` copies of base, whose columns are replicas already (one, or the two of DualPipe): items of base each,
 * on workers of their own. A base worker of a copy becomes shard_workers neighbouring ones, each with shards / shard_workers
 * shards; tasks of these stand next to each other. With c columns of depth D in base, stage s of shard k of column j of copy r is
 * ((r * c + j) * shards + k) * D + s; worker w of base is (r * base->workers + w) * shard_workers onwards. *out is the caller's.
 * Errors: QN_EINVAL (numbers that do not go together), QN_ERANGE, QN_ENOMEM. */
qn_status qn_order_widen(qn_order **out, const qn_order *base, int32_t replicas, int32_t shards, int32_t shard_workers,
                         qn_err *err) QN_MUST_USE;

/* --- plan */
typedef struct qn_span {
    int32_t first, count; /* in plan->ref */
} qn_span;

typedef struct qn_task {
    int32_t op;          /* qn_op */
    int32_t stage, item; /* QN_NONE where they mean nothing */
    int32_t worker, lane;
    int32_t step;               /* of the plan's steps, from 0 */
    int32_t channel;            /* SEND, RECV: index in plan->channel; else QN_NONE */
    uint64_t tag;               /* SEND, RECV: unique in its channel within a step */
    int64_t cost;               /* ticks; the simulator's default, overridden by a cost table */
    qn_span in, out, acc, free; /* value ids read, written, added to, dropped after */
    qn_span wait; /* task ids on OTHER lanes that must be complete before this one starts: writers of what it reads, last readers
                     of the slots it writes, extra edges. Of the SAME worker, but for writers of host copies and extra edges
                     between lanes in one process. Derived by qn_plan_finish. */
} qn_task;

typedef struct qn_value {
    int32_t cls;         /* qn_value_class */
    int32_t stage, item; /* ACT, GRAD: of the stage that reads it; item QN_NONE for per-step values */
    int32_t worker;      /* whose arena holds it */
    int64_t bytes;
    int64_t offset; /* in that arena; QN_NONE for what has a home elsewhere (PARAM, PGRAD, STAT, TPARAM; TGRAD has one on the
                       replica's side and a slot on the owner's) */
    bool carried;   /* alive at the end of the step by declaration */
    bool host;      /* a host copy: no offset, carried; tasks of any worker may name it */
} qn_value;

typedef struct qn_channel {
    int32_t from, to;      /* workers */
    int32_t cls;           /* QN_V_ACT, GRAD, STAT, TPARAM, TGRAD, PART */
    int32_t edge;          /* stage that reads (ACT) or that wrote (GRAD); worker or use otherwise */
    int32_t depth;         /* slots; the channel rule says 2 */
    int64_t slot_bytes;    /* larger values travel in several slots, in order */
    int32_t slice, slices; /* its messages carry part `slice` of `slices` equal ones of a value, the rest is made whole by the
                              tasks that read it; slices 0: all of it */
} qn_channel;

/* What a message of the channel carries of a value of so many bytes: the returned number from *first on, in eights of bytes. */
static inline int64_t qn_channel_carries(const qn_channel *c, int64_t bytes, int64_t *first)
{
    *first = 0;
    if (c->slices < 2) return bytes;
    *first = bytes / 8 * c->slice / c->slices * 8;
    return (c->slice + 1 == c->slices ? bytes : bytes / 8 * (c->slice + 1) / c->slices * 8) - *first;
}

typedef struct qn_plan {
    int32_t workers, stages, items, tasks, values, channels, refs;
    int32_t columns, shards;
    int32_t sides, vocab;         /* as in the order */
    int32_t steps;                /* optimizer steps in one run: 1, or as many as qn_plan_chain was asked for */
    int32_t *worker_of;           /* [stages] */
    int32_t *backward_of;         /* [stages] or NULL, as in the order */
    int32_t round, turn;          /* the cursor: where worker_of and backward_of say is so in round 0 of step 0 */
    qn_task *task;                /* [tasks], grouped by worker, then lane, in lane order */
    int32_t (*lane)[QN_LANES][2]; /* [workers]: first task and count of each lane */
    qn_value *value;
    qn_channel *channel;
    int32_t *ref;
    int64_t *arena_bytes; /* [workers]: the sum of the slots, exact */
    int64_t *arena_limit; /* [workers]: capacity, INT64_MAX when none */
} qn_plan;

void qn_plan_close(qn_plan *p); /* accepts NULL */

/* How far the cursor goes on in a step, modulo the workers; and after how many steps it is where it was: N / gcd(N, turn). */
static inline int32_t qn_step_turn(const qn_plan *p)
{
    return (int32_t)((int64_t)p->turn * qn_rounds(p->items, p->round) % p->workers);
}
int32_t qn_cursor_period(const qn_plan *p);

static inline qn_grid qn_plan_grid(const qn_plan *p)
{
    return (qn_grid){p->stages, p->items, p->columns, p->shards, p->sides};
}

/* Joint tasks: one op of one item, or JOIN, on all shards of a stage (columns.c). The shards exchange data while they run, so all
 * members start together, and every worker runs joint sets in the same order. Members on one worker stand next to each other in
 * its lane; what they do happens when the last of them is run: their values are held, and waited for, until it ends. Are two
 * tasks members of one set? A task is joint with itself; only compute tasks and JOIN with shards > 1 are joint with others. */
bool qn_tasks_joint(const qn_plan *p, int32_t a, int32_t b);
/* The last of the members of t's set that stand next to it in its lane: t itself where it is alone. */
int32_t qn_joint_last(const qn_plan *p, int32_t t);
/* The first of them. */
int32_t qn_joint_first(const qn_plan *p, int32_t t);

/* --- lowering: order -> plan. Passes in this order: bind, recompute, messages, step tasks, slots (each in lower_*.c). */
typedef enum qn_recompute { QN_RECOMPUTE_NONE, QN_RECOMPUTE_FULL, QN_RECOMPUTE_EXCEPT_LAST, QN_RECOMPUTE_PART } qn_recompute;

/* Tiers: weights live on the host, a window of them in the worker's arena (lower_tiers.c). A piece is a stage of the order. */
typedef struct qn_tiers {
    int32_t window, replace;    /* k >= 1 visits' pieces at a time, of which k' (1 to k) are exchanged together */
    const int32_t *chunk_first; /* [stages + 1]: the weights of stage s come in chunks chunk_first[s] .. chunk_first[s + 1] - 1 */
    const int64_t *chunk_bytes; /* of all chunks; NULL: one of one byte a stage */
    const int64_t *packed_bytes; /* [stages]: PACK writes them beside the chunks; NULL: none, and no PACK */
    const int64_t *pgrad_bytes;  /* [stages]: gradients in the arena until they go down; NULL: 1 */
    int32_t lag;                 /* 1: the optimizer works on the gradients of the step before, beside this step (RoundPipe) */
    int32_t groups;              /* of items whose gradients go down by themselves, in turn, into one home; 0: 1 */
    bool keep;                   /* forward only: where all pieces fit into the window they stay from step to step */
    int64_t bytes_per_tick, latency; /* cost of a LOAD or OFFLOAD: bytes / bytes_per_tick (0: no time) + latency */
} qn_tiers;

/* Largest first into the least loaded chunk (LPT), then chunks in the order of ascending load: chunk_of[i] of each of n tensors.
 * The largest chunk is at most 4/3 - 1/(3 chunks) of the best (Graham 1969). Errors: QN_ENOMEM. */
qn_status qn_lpt_chunks(int32_t *chunk_of, const int64_t *bytes, int32_t n, int32_t chunks, qn_err *err) QN_MUST_USE;

typedef struct qn_lowering {
    const int64_t *act_bytes;    /* [stages]: input of stage s (its ACT); stage 0 has none in the arena. NULL: all 1 */
    const int64_t *stash_bytes;  /* [stages] */
    const int64_t *wstash_bytes; /* [stages] */
    const int64_t *arena_limit;  /* [workers], NULL: none */
    qn_recompute recompute; /* inserts R before the backward of an item; EXCEPT_LAST leaves out, on each stage, the item whose
                               backward comes right after its forward (or, if there is none, first) */
    const int64_t *rstash_bytes; /* [stages]: with PART, what R makes again besides a stash that lives from F on; R only where it
                                    is more than 0. NULL: nowhere */
    bool recompute_late;         /* R waits for the gradient of its stage's output; else it fills the time before */
    int32_t depth;               /* channel slots, 0: 2 */
    int64_t slot_bytes;          /* upper limit of a slot, 0: none */
    bool forward_only;           /* F only: evaluation and generation */
    bool step_tasks;             /* add PACK, TIE, NORM, FOLD, OPT and their messages; false for pure schedule questions */
    int32_t tied_owner, tied_replica; /* stages of the chain that share a weight, QN_NONE: no tied weight across stages */
    int64_t tied_bytes;               /* of that weight */
    int32_t tied_home;                /* the replica that owns it */
    const int64_t *sum_bytes;   /* [stages of a column][replicas]: gradients of the stage that the replica owns. NULL: all 1 */
    const int64_t *value_bytes; /* [stages of a column][replicas]: values of the same parameters. NULL: all 1 */
    int64_t piece_bytes;        /* upper limit of a slot between replicas, 0: 1 MiB */
    bool zero1;                 /* the owner alone steps and sends the values; else it sends the sums and every replica steps */
    int64_t stat_bytes;         /* of one worker's sums */
    bool post_validate;         /* OPT on what a worker and those before it know, VALIDATE when all is known (lower_validate.c) */
    bool ahead; /* with post_validate: what other workers need of a stepped stage leaves behind OPT, not behind VALIDATE. For
                   plans that are chained */
    int64_t part_bytes; /* slots of the channels between workers whose shards meet; 0: no such channels */
    bool joins;         /* shards have parts of some gradients: JOIN adds them up, once a step and stage */
    bool whole_links;   /* shards send all of their (equal) outputs on to the next stage; else, with part_bytes, shard k sends its
                           k-th slice and the receivers make the whole from all of theirs (scatter/gather) */
    /* Vocabulary shards, alike in all columns: the last stage's output, one shard's statistics, its part of the gradient, its
     * look-ups (also the sum of the look-ups and both gradients at the chain's ends). 0: 1. The stash of a side stage is its
     * probabilities. */
    int64_t vocab_x_bytes, vocab_stats_bytes, vocab_dx_bytes, vocab_part_bytes;
    const qn_tiers *tiers; /* NULL: weights are where their stage is */
    bool opaque_pairs; /* an overlap pair waits for the inputs of both halves and sends the outputs of both at its end, as where
                          one call runs both; else each half waits and sends for itself */
    bool one_lane; /* messages in the comp lane: RECV just before its consumer, SEND just after its producer. What naive runtimes
                      do; for questions about deadlock and buffers */
} qn_lowering;

/* Errors: QN_ESCHEDULE (an order no plan can be made of; names the tasks), QN_ENOMEM. The result is validated. */
qn_status qn_lower(qn_plan **out, const qn_order *order, const qn_lowering *how, qn_err *err) QN_MUST_USE;

/* --- a flight: the plan of so many steps of a one-step plan, with no barrier between them (chain.c). Task t of step k does what
 * task t of the one step does, where the cursor has come to (device lanes alone: the host's lane stays); value v of step k is
 * number k * (values of one step) + v. Arenas are those of one step. The result (with a cursor: as large as the largest that
 * passes by). The result is validated. place, when not NULL: [steps * tasks of one], the index of task t of step k in the result
 * at k * tasks + t. Errors: QN_EINVAL (no one-step plan; values that an arena keeps), QN_ERANGE, QN_ESCHEDULE, QN_ENOMEM. */
qn_status qn_plan_chain(qn_plan **out, const qn_plan *one, int32_t steps, int32_t *place, qn_err *err) QN_MUST_USE;

/* --- validation: complete, linear (accumulation in ascending item order), versions, live, memory, tags. The message names the
 * tasks. Errors: QN_ESCHEDULE, QN_ENOMEM. */
qn_status qn_plan_validate(const qn_plan *p, qn_err *err) QN_MUST_USE;

/* live[w]: the most bytes of worker w's values that can be alive at once, whatever the timing (plan_live.c). At most
 * p->arena_bytes[w], which differs by the holes between slots. Errors: QN_ESCHEDULE (a deadlock), QN_ENOMEM. */
qn_status qn_plan_live_bytes(int64_t *live, const qn_plan *p, qn_err *err) QN_MUST_USE;

/* Fills wait spans and lane table from tasks and values; called by lowering and by the reader. */
qn_status qn_plan_finish(qn_plan *p, qn_err *err) QN_MUST_USE;

/* The compute tasks of a plan as an order, recomputation included: lowering it again gives the same tasks. *out is the caller's.
 * Errors: QN_ENOMEM. */
qn_status qn_plan_order(qn_order **out, const qn_plan *p, qn_err *err) QN_MUST_USE;

/* The worker of a stage's R, B, W and BW. */
static inline int32_t qn_backward_worker(const int32_t *worker_of, const int32_t *backward_of, int32_t stage)
{
    return backward_of != NULL ? backward_of[stage] : worker_of[stage];
}

/* Gives the order its table, filled from worker_of. Errors: QN_ENOMEM. */
qn_status qn_order_split_backward(qn_order *o, qn_err *err) QN_MUST_USE;

/* "F 2.0 @1" in buf; for messages, text form and pictures. */
const char *qn_task_text(char *buf, size_t cap, const qn_plan *p, int32_t task);

#endif

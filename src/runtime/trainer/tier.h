/* Tiers at run time: what a plan with LOAD and OFFLOAD moves, and the stages that work on it. A device is a worker whose arena is
 * all the memory its values have: weights, packed weights, gradients, activations. Kernels' scratch and KV caches are outside.
 * Internal to src/runtime.
 *
 *   host                                        arena of a device, by stay of a piece
 *   value[param], or read(param) from a file -> [chunk 0 | chunk 1 | ..] [packed]
 *   grad[use]                                <- [use | use | ..]
 *   stage inputs, gradients of outputs      <-> slots
 *
 * A chunk is a set of whole parameters, each 64-byte aligned. Each (device, piece) has a stage of its own, bound to the arena
 * before every task.
 *
 * Forward passes read the matrices of products packed alone. Their plans have no PACK: a piece's packed weights are its last
 * chunk, packed on their way up, straight from memory or from the file, and the arena never holds a matrix twice. */
#ifndef QN_RUNTIME_TIER_H
#define QN_RUNTIME_TIER_H

#include "runtime/executor/executor.h"
#include "model/model.h"

/* Elements [first, first + count) of a parameter, for LOADs that find no value in memory. Any lane's thread. */
typedef qn_status qni_tier_read(void *ctx, int32_t param, int64_t first, int64_t count, void *to, qn_err *err);

/* A group's gradients of a piece (group: of its replica; QN_NONE where that has one) are down as a whole: called by the lane that
 * copied them. */
typedef void qni_tier_landed(void *ctx, int32_t stage, int32_t group);

typedef struct qni_part { /* a parameter of a piece, or a use's gradient */
    int32_t index;        /* parameter or use */
    int32_t chunk;        /* 0 for gradients */
    int64_t offset, bytes;
} qni_part;

typedef struct qni_tier {
    const qn_model *model;
    qn_model *const *part_model; /* [shards], NULL: one shard */
    const qn_kernels *k;
    size_t element;
    int32_t devices, stages;
    qn_grid grid;      /* of the order; replicas have pieces of their own of the same layers, and the host's weights in common */
    double *unwanted;  /* [devices * 8]: losses that another shard counts */
    qn_exec *exec;     /* [devices] */
    qn_arena *scratch; /* [devices] */
    qn_stage **stage;  /* [devices * stages], NULL where the device never runs the piece */
    void **bound;      /* [devices][params + uses], for binding */
    qni_part *part;    /* parameters of all pieces, then gradients of all pieces */
    int32_t *first_layer;                                     /* [depth + 1] */
    int32_t *first_part, *first_grad;                         /* [stages + 1] */
    int32_t *chunk_first;                                     /* [stages + 1] */
    int64_t *chunk_bytes, *packed_bytes, *pgrad_bytes, *need; /* need: act, stash, wstash of all stages */
    /* The host's side; the caller's. */
    void *const *value;       /* [params] */
    void *const *const *grad; /* [replicas][uses], NULL: forward only */
    qni_tier_landed *landed;  /* with several groups of gradients; else NULL */
    void *landed_ctx;
    qni_tier_read *read;
    void *read_ctx;
    /* Of the plan. */
    const qn_plan *plan;
    void **host; /* [values]: host copies of activations and their gradients */
    void *block;
    size_t block_bytes;
    bool *begins;  /* [tasks]: first addition to a gradient in an arena */
    bool *partial; /* [values]: host copies of sums that a later round goes on with */
    /* Packed on the way up. */
    bool direct;
    int64_t *value_bytes; /* [stages]: of its parameters, packed or not */
    void **staging;       /* [devices]: a whole parameter from a file */
    size_t staging_bytes;
} qni_tier;

typedef struct qni_tier_desc {
    const qn_model *model;
    qn_model *const *part_model; /* [shards of the order]; with one shard NULL */
    const qn_kernels *k;
    const qn_order *order;      /* its stages are the pieces */
    const int32_t *first_layer; /* [depth + 1] */
    qn_stage_limits limits;
    int32_t threads; /* per device */
    int32_t chunks;  /* the most of a piece's weights */
    bool direct;     /* forward only: weights are packed on their way up */
    bool from_file;  /* with direct: values come through read */
    bool pin;
} qni_tier_desc;

/* Errors: QN_ENOMEM, those of qn_stage_open. fini accepts zeroes and what failed to open. */
qn_status qni_tier_init(qni_tier *t, const qni_tier_desc *d, qn_err *err) QN_MUST_USE;
void qni_tier_fini(qni_tier *t);
/* Scratch that passes left behind when they were given up. */
void qni_tier_reset_scratch(qni_tier *t);

/* Lowers the order. window 0: as many pieces as fit into the limits. The rest of how is the caller's; limit: [devices] or NULL.
 * Errors: QN_EINVAL when a limit is too small, with the smallest that would do; those of qn_lower. */
typedef struct qni_tier_window {
    int32_t window, replace, lag;
    int32_t groups; /* of gradients */
    bool keep;
} qni_tier_window;
qn_status qni_tier_lower(qn_plan **out, const qni_tier *t, const qn_order *order, qn_lowering how, const qni_tier_window *w,
                         qn_err *err) QN_MUST_USE;
/* Takes the host copies of a plan's activations, also of a flight. Errors: QN_ENOMEM. */
qn_status qni_tier_attach(qni_tier *t, const qn_plan *plan, qn_err *err) QN_MUST_USE;

/* The stage of a compute or PACK task, bound to what the task's values are in the arena. A gradient that begins is cleared. */
qn_stage *qni_tier_bind(qni_tier *t, qn_executor *ex, int32_t task);
/* For fns.home and fns.copy. home: NULL for what is not an activation or its gradient. */
void *qni_tier_home(const qni_tier *t, int32_t value, size_t *bytes);
qn_status qni_tier_copy(qni_tier *t, qn_executor *ex, int32_t task, size_t at, size_t bytes, qn_err *err) QN_MUST_USE;

#endif
